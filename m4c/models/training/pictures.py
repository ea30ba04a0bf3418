"""Pictures to learn from: hand-written digits, which scikit-learn carries, and coloured shapes, which are drawn here.

Digits: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, CC BY 4.0; 1797 of 8×8 pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional

Array = np.ndarray

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 200, 60),
    "blue": (60, 80, 240),
    "yellow": (240, 220, 50),
    "white": (240, 240, 240),
    "purple": (170, 60, 200),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
LABELS = (*DIGITS, *(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS))
"""All that a picture can show; the first ten are the digits."""

FURTHER = ("heart", "moon", "arrow")
"""Shapes that the encoder never saw: an adapter learns them."""

HELD_OUT = 360
"""Digits at the end of the set that are never trained on; their writers are others than those before."""

FINE = 4
"""Shapes are drawn so many times larger than wanted, and made smaller, which smooths their edges."""


@dataclass(frozen=True)
class Pictures:
    """Pictures (n, side, side, 3) uint8 and the place of each label in :data:`LABELS`."""

    pixels: Array
    labels: Array


def digits(side: int, held_out: bool) -> Pictures:
    """Return the digits, white on black, those held out or the others."""
    from sklearn.datasets import load_digits

    data = load_digits()
    part = slice(-HELD_OUT, None) if held_out else slice(None, -HELD_OUT)
    made = [_enlarged(image, side) for image in data.images[part]]
    return Pictures(np.stack(made), np.asarray(data.target[part], np.int64))


def _enlarged(image: Array, side: int) -> Array:
    """Return a digit (8, 8) of 0 to 16 as an RGB picture of ``side``."""
    grey = Image.fromarray((image * 255 / 16).astype(np.uint8))
    return np.asarray(grey.resize((side, side), Image.Resampling.BICUBIC).convert("RGB"))


def shapes(side: int, count: int, rng: np.random.Generator) -> Pictures:
    """Return ``count`` shapes of random kind, colour, place, size and turn, on dark grounds."""
    labels = rng.integers(len(DIGITS), len(LABELS), count)
    return Pictures(np.stack([shape(int(label), side, rng) for label in labels]), labels.astype(np.int64))


def shape(label: int, side: int, rng: np.random.Generator) -> Array:
    """Return one picture (side, side, 3) uint8 of a label that is a shape."""
    kind, colour = divmod(label - len(DIGITS), len(COLOURS))
    return drawn(SHAPES[kind], tuple(COLOURS)[colour], side, rng)


def drawn(kind: str, colour: str, side: int, rng: np.random.Generator) -> Array:
    """Return one picture (side, side, 3) uint8 of a shape, of those of :data:`FURTHER` too."""
    full = side * FINE
    ground = tuple(int(v) for v in rng.integers(0, 30, 3))
    image = Image.new("RGB", (full, full), ground)
    radius = full * rng.uniform(0.22, 0.42)
    x, y = full / 2 + rng.uniform(-1, 1, 2) * (full / 2 - radius)
    fill = tuple(int(np.clip(v + rng.normal(0, 12), 0, 255)) for v in COLOURS[colour])
    _draw(
        ImageDraw.Draw(image),
        kind,
        float(x),
        float(y),
        float(radius),
        float(rng.uniform(-0.25, 0.25)),
        fill,
    )
    return np.asarray(image.resize((side, side), Image.Resampling.LANCZOS))


def _draw(
    draw: ImageDraw.ImageDraw, kind: str, x: float, y: float, r: float, turn: float, fill: tuple[int, ...]
) -> None:
    """Draw a shape of radius ``r`` around (x, y), turned by ``turn`` radians."""
    match kind:
        case "circle":
            draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
        case "ring":
            draw.ellipse((x - r, y - r, x + r, y + r), outline=fill, width=max(1, round(r * 0.35)))
        case "square":
            draw.polygon(_corners(x, y, [r] * 4, turn + np.pi / 4), fill=fill)
        case "triangle":
            draw.polygon(_corners(x, y, [r] * 3, turn - np.pi / 2), fill=fill)
        case "star":
            draw.polygon(_corners(x, y, [r, r * 0.4] * 5, turn - np.pi / 2), fill=fill)
        case "cross":
            for more in (0.0, np.pi / 2):
                sides = np.array([[-r, -r * 0.3], [r, -r * 0.3], [r, r * 0.3], [-r, r * 0.3]])
                draw.polygon(_turned(x, y, sides, turn + more), fill=fill)
        case "heart":
            t = np.linspace(0, 2 * np.pi, 40)
            high = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
            draw.polygon(_turned(x, y, np.stack([np.sin(t) ** 3, -high / 16], 1) * r, turn), fill=fill)
        case "moon":
            t, back = np.linspace(0.5, 2 * np.pi - 0.5, 30), np.linspace(2 * np.pi - 0.9, 0.9, 30)
            inner = np.stack([0.26 + 0.78 * np.cos(back), 0.61 * np.sin(back)], 1)
            sides = np.concatenate([np.stack([np.cos(t), np.sin(t)], 1), inner]) * r
            draw.polygon(_turned(x, y, sides, turn), fill=fill)
        case "arrow":
            sides = np.array([[0, -1], [0.8, 0], [0.3, 0], [0.3, 1], [-0.3, 1], [-0.3, 0], [-0.8, 0]]) * r
            draw.polygon(_turned(x, y, sides, turn), fill=fill)


def _turned(x: float, y: float, points: Array, turn: float) -> list[tuple[float, float]]:
    """Return ``points`` (n, 2) around (x, y), turned by ``turn`` radians."""
    c, s = np.cos(turn), np.sin(turn)
    return [(x + c * a - s * b, y + s * a + c * b) for a, b in points]


def _corners(x: float, y: float, radii: list[float], turn: float) -> list[tuple[float, float]]:
    """Return corners at equal angles, the first at ``turn``."""
    angles = turn + np.arange(len(radii)) * 2 * np.pi / len(radii)
    return [(x + r * np.cos(a), y + r * np.sin(a)) for r, a in zip(radii, angles, strict=True)]


def varied(pixels: Tensor, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Return pictures (n, 3, side, side) in [0, 1] turned, moved, stretched and lit a little differently each."""
    n = len(pixels)

    def draw(spread: float) -> Tensor:
        return (torch.rand(n, generator=generator) * 2 - 1) * spread * strength

    turn, lean = draw(0.2), draw(0.15)
    wide, high = 1 + draw(0.15), 1 + draw(0.15)
    rows = torch.stack(
        [
            torch.stack([turn.cos() * wide, -turn.sin() + lean, draw(0.15)], 1),
            torch.stack([turn.sin(), turn.cos() * high, draw(0.15)], 1),
        ],
        1,
    )
    grid = functional.affine_grid(rows, list(pixels.shape), align_corners=False)
    moved = functional.grid_sample(pixels, grid, align_corners=False)
    light = (1 + draw(0.2))[:, None, None, None]
    grain = torch.randn(pixels.shape, generator=generator) * 0.03 * strength
    return (moved * light + grain).clamp(0, 1)
