"""T1, input word prediction: a prompt to the words that follow it, over the graphs of ``backbone``.

Greedy: the prompt at once, then a token a step with the cache, until an end token, the number of tokens asked for, or the last
position that the model knows. The prompt begins with whatever tokens its tokenizer puts there, as in transformers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from m4c.adapters.contract import adapter_files
from m4c.bundle import GraphRecord, Manifest, host_folder
from m4c.cache import pairs
from m4c.errors import UsageError
from m4c.host.masks import causal_mask, positions
from m4c.host.text import JsonTokenizer
from m4c.static_cache import empty_cache, most_steps, open_decoder

Array = np.ndarray
Arrays = dict[str, Array]
Step = Callable[[Array, int, Arrays], Arrays]
"""Takes tokens (1, sequence), how many came before, and the caches; gives the outputs of the graph that holds the cache."""

BACKBONE = "backbone"
WHOLE = f"{BACKBONE}/model"
"""The graph of a bundle for onnxruntime-genai, which needs no other."""


@dataclass(frozen=True, slots=True)
class Generated:
    """What a model says after a prompt."""

    text: str
    """Without the prompt and the end."""
    tokens: tuple[int, ...]
    """The ids of ``text``."""
    prompt: tuple[int, ...]
    """The ids of the prompt."""


def generate(
    folder: Path,
    manifest: Manifest,
    prompt: str,
    max_new_tokens: int = 64,
    adapter: str | None = None,
    *,
    media: Array | None = None,
    after: str = "",
) -> Generated:
    """Return what follows ``prompt``: at most ``max_new_tokens`` tokens of the highest score, with an ``adapter`` if wanted.

    ``media`` is a vector (1, 1, width) for a step behind the prompt, and ``after`` the text behind it.

    Raises:
        UsageError: if the tokenizer is missing, the prompt has no tokens or more than the model has positions, or there is no
            such adapter.
        BundleError: if the bundle lacks a graph of the route, or its adapter does not fit.
    """
    whole = media is None and any(graph.name == WHOLE for graph in manifest.graphs)
    keeper = manifest.graph(WHOLE if whole else f"{BACKBONE}/decoder")
    host = manifest.graph(WHOLE if whole else f"{BACKBONE}/embed").inputs[0].host
    tokenizer = JsonTokenizer(host_folder(folder, BACKBONE) / str(host["asset"]))
    given = tokenizer.tokenizer.encode(prompt).ids
    slot = None if media is None else (len(given), media)
    if slot is not None:  # the token there stands for nothing: its vector is put in its place
        given = [*given, given[0], *tokenizer.tokenizer.encode(after, add_special_tokens=False).ids]
    limit = most_steps(keeper, int(host["max_tokens"]))
    _check_length(given, limit)
    step = _whole_step(folder, manifest, adapter) if whole else _two_step(folder, manifest, adapter, slot)
    chosen = decode(step, Cache.of(keeper), given, tuple(host["end"]), limit, max_new_tokens)
    tokens = tuple(chosen)
    return Generated(_continuation(tokenizer, given, tokens), tokens, tuple(given))


@dataclass(frozen=True, slots=True)
class Cache:
    """The inputs that hold a graph's cache, and which output each is of the next call."""

    empty: Arrays
    next: dict[str, str]

    @classmethod
    def of(cls, graph: GraphRecord) -> "Cache":
        """Return the cache of ``graph``, in what it is stored in."""
        caches = pairs(graph.inputs, graph.outputs)
        return cls(empty_cache(graph), {past.name: present.name for past, present in caches})


def decode(
    step: Step, cache: Cache, prompt: Sequence[int], ends: Sequence[int], limit: int, count: int
) -> Iterator[int]:
    """Yield at most ``count`` chosen tokens, without the end token; ``limit`` is the number of positions."""
    tokens, done, past = np.array([prompt], np.int64), 0, cache.empty
    for _ in range(min(count, limit - len(prompt))):
        made = step(tokens, done, past)
        chosen = int(made["logits"][0, -1].argmax())
        if chosen in ends:
            return
        yield chosen
        done += tokens.shape[1]
        tokens = np.array([[chosen]], np.int64)
        past = {name: made[present] for name, present in cache.next.items()}


def _two_step(
    folder: Path, manifest: Manifest, adapter: str | None, slot: tuple[int, Array] | None = None
) -> Step:
    """Return a step over ``backbone/embed`` and ``backbone/decoder``, which takes mask and positions.

    ``slot`` is a place in the prompt and the vector (1, 1, width) that stands there.
    """
    names = [f"{BACKBONE}/{part}" for part in ("embed", "decoder")]
    files = adapter_files(folder, manifest, names, adapter)
    embed, decoder = (open_decoder(folder, manifest.graph(name), files.get(name)) for name in names)

    def step(tokens: Array, done: int, past: Arrays) -> Arrays:
        sequence = tokens.shape[1]
        embeds = embed.run({"tokens": tokens})["embeds"]
        if slot is not None and not done:
            embeds = np.concatenate([embeds[:, : slot[0]], slot[1], embeds[:, slot[0] + 1 :]], axis=1)
        places = {"positions": positions(sequence, done), "mask": causal_mask(sequence, done)}
        return decoder.run({"embeds": embeds, **places, **past})

    return step


def _whole_step(folder: Path, manifest: Manifest, adapter: str | None) -> Step:
    """Return a step over ``backbone/model``, which takes token ids and a mask of what is no padding."""
    files = adapter_files(folder, manifest, [WHOLE], adapter)
    model = open_decoder(folder, manifest.graph(WHOLE), files.get(WHOLE))

    def step(tokens: Array, done: int, past: Arrays) -> Arrays:
        seen = np.ones((1, done + tokens.shape[1]), np.int64)
        return model.run({"input_ids": tokens, "attention_mask": seen, **past})

    return step


def _check_length(prompt: Sequence[int], limit: int) -> None:
    """Raise unless there is something to go on from, and room to go on."""
    if not prompt:
        raise UsageError("the prompt has no tokens", fix="give a text to go on from")
    if len(prompt) >= limit:
        raise UsageError(
            f"the prompt has {len(prompt)} tokens, the model knows {limit} positions",
            fix=f"give a prompt of fewer than {limit} tokens",
        )


def _continuation(tokenizer: JsonTokenizer, prompt: Sequence[int], tokens: Sequence[int]) -> str:
    """Return the text that ``tokens`` add to the prompt's: decoded alone they would lose a space in front."""
    return tokenizer.decode([*prompt, *tokens]).removeprefix(tokenizer.decode(prompt))
