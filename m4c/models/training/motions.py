"""Motion to learn from: six channels at 50 Hz of a sensor at the waist, simulated.

A body that walks lifts and lets fall the sensor once a step and sways once two steps; stairs change the rhythm and tilt the
body; who sits, stands or lies shows gravity from three sides. All of it varies from person to person.
"""

from dataclasses import dataclass

import numpy as np

Array = np.ndarray

RATE = 50.0
GRAVITY = 9.81


@dataclass(frozen=True, slots=True)
class Activity:
    """What a body does: steps a second, lift and sway of a step in m/s², turning in rad/s, and where down is."""

    steps: float
    lift: float
    sway: float
    turn: float
    down: tuple[float, float, float]
    sharp: float = 0.3
    """How much of the lift is in the second harmonic: steps downstairs are sharp."""


ACTIVITIES = {
    "walking": Activity(1.9, 2.6, 1.0, 0.55, (0.0, 1.0, 0.0)),
    "running": Activity(2.8, 8.0, 2.5, 1.4, (0.0, 1.0, 0.1)),
    "climbing stairs": Activity(1.5, 2.2, 1.1, 0.75, (0.0, 0.93, 0.37), 0.2),
    "descending stairs": Activity(1.9, 3.2, 1.2, 0.7, (0.0, 0.97, -0.22), 0.8),
    "cycling": Activity(1.4, 0.8, 0.9, 0.5, (0.0, 0.8, 0.6), 0.1),
    "sitting": Activity(0.0, 0.0, 0.0, 0.0, (0.0, 0.75, 0.66)),
    "standing": Activity(0.0, 0.0, 0.0, 0.0, (0.0, 1.0, 0.05)),
    "lying": Activity(0.0, 0.0, 0.0, 0.0, (0.0, 0.05, 1.0)),
}
LABELS = tuple(ACTIVITIES)

FURTHER = {"jumping": Activity(1.3, 14.0, 0.3, 0.2, (0.0, 1.0, 0.0), 1.2)}
"""What the encoder never felt: an adapter learns it."""


def motion(label: str, samples: int, rng: np.random.Generator) -> Array:
    """Return a recording (6, samples), float32: acceleration in m/s² and rotation in rad/s, three axes each."""
    what = (ACTIVITIES | FURTHER)[label]
    person = rng.normal(1, 0.12, 6)
    time = np.arange(samples) / RATE
    phase = 2 * np.pi * (what.steps * person[0] * time + rng.uniform()) + np.cumsum(
        rng.normal(0, 0.03, samples)
    )
    lift = np.sin(phase) + what.sharp * person[5] * np.sin(2 * phase + 0.6)
    sway = np.sin(phase / 2 + rng.uniform(0, 2 * np.pi))
    down = np.array(what.down) / np.linalg.norm(what.down)
    side, front = np.array([1.0, 0.0, 0.0]), np.cross(down, [1.0, 0.0, 0.0])
    moved = (
        down[:, None] * (GRAVITY + what.lift * person[1] * lift)
        + side[:, None] * what.sway * person[2] * sway
        + front[:, None] * 0.4 * what.lift * person[3] * np.sin(phase + 1.0)
    )
    turned = (
        np.array([[0.5], [1.0], [0.3]])
        * what.turn
        * person[4]
        * np.stack([np.sin(phase), sway, np.cos(phase)])
    )
    tilt = _rotation(rng.normal(0, 0.14, 3))
    noise = rng.normal(0, 1, (6, samples)) * np.array([[0.12]] * 3 + [[0.03]] * 3) * rng.uniform(0.5, 2)
    drift = rng.normal(0, [0.15] * 3 + [0.02] * 3)[:, None]
    return np.asarray(np.concatenate([tilt @ moved, tilt @ turned]) + noise + drift, np.float32)


def _rotation(angles: Array) -> Array:
    """Return the rotation by ``angles`` about the three axes in turn."""
    made = np.eye(3)
    for axis, angle in enumerate(angles):
        c, s = np.cos(angle), np.sin(angle)
        i, j = [k for k in range(3) if k != axis]
        one = np.eye(3)
        one[i, i], one[i, j], one[j, i], one[j, j] = c, -s, s, c
        made = one @ made
    return made
