"""Compare the latency of two LLaMA graphs with a cache in ONNX Runtime, in turns in one process, so that the ratio is fair.

    python -m tests.benchmarks.latency OURS.onnx THEIRS.onnx [--kv-heads 4 --head-dim 64 --threads 2]

Either graph takes ``input_ids`` and ``attention_mask`` (onnxruntime-genai's interface) or ``embeds``, ``positions`` and
``mask`` (``backbone/decoder``, whose ``backbone/embed`` beside it is run and timed too). Prints the median of a prefill of 128
tokens and of a decoding step after them, their ratio, and how well the scores of the two agree.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from m4c.host.masks import causal_mask, positions

PREFILL = 128
ROUNDS = 20


class Decoder:
    """One graph, called with token ids."""

    def __init__(self, path: Path, threads: int) -> None:
        """Open ``path`` with ONNX Runtime's defaults."""
        self._session = _open(path, threads)
        self._inputs = {value.name: value for value in self._session.get_inputs()}
        self._embed = _open(path.with_name("embed.onnx"), threads) if "embeds" in self._inputs else None
        self._pasts = [n for n in self._inputs if n.startswith("past")]
        self._presents = [o.name for o in self._session.get_outputs() if o.name.startswith("present")]

    def empty(self, shape: tuple[int, ...]) -> list[np.ndarray]:
        """Return an empty cache."""
        return [np.zeros(shape, np.float32) for _ in self._pasts]

    def __call__(self, tokens: np.ndarray, cache: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return scores and the grown cache."""
        steps, past = tokens.shape[1], cache[0].shape[2]
        feeds: dict[str, np.ndarray] = dict(zip(self._pasts, cache, strict=True))
        if self._embed is None:
            feeds |= {"input_ids": tokens, "attention_mask": np.ones((1, past + steps), np.int64)}
            if "position_ids" in self._inputs:
                feeds["position_ids"] = np.arange(past, past + steps)[None]
        else:
            feeds["embeds"] = self._embed.run(None, {"tokens": tokens})[0]
            feeds |= {"positions": positions(steps, past), "mask": causal_mask(steps, past)}
        logits, *presents = self._session.run(["logits", *self._presents], feeds)
        return logits, presents


def _open(path: Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("graphs", type=Path, nargs=2)
    parser.add_argument("--kv-heads", type=int, default=4)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    decoders = [Decoder(path, args.threads) for path in args.graphs]
    tokens = np.random.default_rng(0).integers(3, 200, (1, PREFILL))
    empty = (1, args.kv_heads, 0, args.head_dim)
    first = [decoder(tokens, decoder.empty(empty)) for decoder in decoders]
    times: dict[tuple[str, int], list[float]] = {(k, i): [] for k in ("prefill", "decode") for i in (0, 1)}
    for turn in range(ROUNDS):
        for index in (0, 1) if turn % 2 else (1, 0):  # who comes second finds a warmer machine: up to 2 %
            decoder = decoders[index]
            start = time.perf_counter()
            decoder(tokens, decoder.empty(empty))
            middle = time.perf_counter()
            for _ in range(4):
                decoder(tokens[:, -1:], first[index][1])
            times["prefill", index].append(middle - start)
            times["decode", index].append((time.perf_counter() - middle) / 4)
    for kind in ("prefill", "decode"):
        ours, theirs = (1e3 * float(np.median(times[kind, i])) for i in (0, 1))
        print(f"{kind}: {ours:.1f} ms and {theirs:.1f} ms, ratio {ours / theirs:.3f}")
    a, b = (logits[0].astype(np.float64) for logits, _ in first)
    print(f"scores differ by {np.linalg.norm(a - b) / np.linalg.norm(b):.3f} of their norm")


if __name__ == "__main__":
    main()
