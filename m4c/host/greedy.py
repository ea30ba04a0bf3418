"""Greedy decoding as Whisper does it, over whatever computes one step.

The start tokens come at once, then a token a step with the cache; suppressed tokens are never chosen, and decoding stops at
the end token or at the last position that the decoder knows.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from m4c.host.masks import causal_mask, positions

Array = np.ndarray
Step = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Takes ``tokens``, ``positions``, ``mask``, caches and what was heard; gives ``logits`` and the grown caches."""


def decode(
    step: Step, heard: Mapping[str, Array], past: dict[str, Array], host: Mapping[str, object]
) -> Iterator[int]:
    """Yield the chosen tokens, without the start tokens and the end token.

    ``heard`` are the cross-attention keys and values, ``past`` the empty cache, ``host`` the decoding facts of the manifest.
    """
    start, end, limit = numbers(host, "start"), numbers(host, "end")[0], numbers(host, "max_tokens")[0]
    never = numbers(host, "suppress")
    at_first = (*never, *numbers(host, "suppress_at_first"))
    timestamps = next(iter(numbers(host, "first_timestamp")), None)
    tokens, done = np.array([start], np.int64), 0
    while done + tokens.shape[1] <= limit:
        made = step(
            {
                "tokens": tokens,
                "positions": positions(tokens.shape[1], done),
                "mask": causal_mask(tokens.shape[1], done),
                **past,
                **heard,
            }
        )
        scores = made["logits"][0, -1].copy()
        scores[list(at_first if not done else never)] = -np.inf
        if timestamps is not None:
            scores[timestamps:] = -np.inf
        chosen = int(scores.argmax())
        if chosen == end:
            return
        yield chosen
        done += tokens.shape[1]
        tokens = np.array([[chosen]], np.int64)
        past = {name: made[name.replace("past", "present")] for name in past}


def numbers(host: Mapping[str, object], key: str) -> tuple[int, ...]:
    """Return a fact of the manifest as whole numbers; an absent one is none at all."""
    value = host.get(key)
    if value is None:
        return ()
    return tuple(int(v) for v in value) if isinstance(value, list | tuple) else (int(str(value)),)
