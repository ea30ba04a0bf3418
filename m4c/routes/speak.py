"""T41, text to speech, over the graphs of ``tts_dec``: letters or phonemes to a mel spectrogram, step by step, and to sound."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from m4c.bundle import Manifest
from m4c.host import facts
from m4c.host.griffin_lim import MelSettings, griffin_lim
from m4c.host.masks import HIDDEN, causal_mask, positions
from m4c.host.prepare import prepare
from m4c.routes.opened import Opened, open_graphs
from m4c.static_cache import empty_cache, most_steps
from m4c.tasks import Task

Array = np.ndarray
Arrays = dict[str, Array]


def speak(
    folder: Path, manifest: Manifest, task: Task, text: str, adapter: str | None = None
) -> tuple[Array, int]:
    """Return the sound of ``text``, mono float32, and its sample rate in Hz.

    Raises:
        UsageError: if the text has symbols that the model does not know, or too many.
        BundleError: if the bundle lacks a graph of the route.
    """
    encoder, cross, decoder, postnet = open_graphs(folder, manifest, task.graphs, adapter)
    phonemes = encoder.record.inputs[0]
    ids = prepare(phonemes.host, text, encoder.assets)
    keep = (ids != facts.whole(phonemes.host, "pad", 1)).astype(np.float32)[:, None]
    mask = np.where(keep[:, None] > 0, np.float32(0), HIDDEN)
    states = encoder.runner.run({phonemes.name: ids, "keep": keep, "mask": mask})
    heard = cross.runner.run({"states": states["states"]})
    features, real = postnet.record.inputs
    most = int(features.shape[1])
    made = np.concatenate(list(_steps(decoder, {**heard, "cross_mask": mask}, most)), axis=1)
    count = made.shape[1]
    padded = np.pad(made, [(0, 0), (0, most - count), (0, 0)])
    kept = (np.arange(most) < count).astype(np.float32)[None, None]
    mel = postnet.record.outputs[0]
    refined = postnet.runner.run({features.name: padded, real.name: kept})[mel.name][0, :count]
    form = MelSettings.of(mel.host)
    logs = refined.reshape(-1, form.bins) * facts.number(mel.host, "std", 1.0) + facts.number(
        mel.host, "mean", 0.0
    )
    return griffin_lim(logs, form), form.rate


def _steps(decoder: Opened, heard: Arrays, most: int) -> Iterator[Array]:
    """Yield the features (1, 1, features) of each step until the decoder stops, at most ``most``."""
    past = empty_cache(decoder.record)
    frames = np.zeros((1, 1, int(decoder.record.inputs[0].shape[2])), np.float32)
    for step in range(most_steps(decoder.record, most)):
        made = decoder.runner.run(
            {"frames": frames, "positions": positions(1, step), "mask": causal_mask(1, step), **past, **heard}
        )
        frames = made["features"]
        yield frames
        if made["stop"].item() > 0:
            return
        past = {name: made[name.replace("past", "present", 1)] for name in past}
