"""Options of the cache through the command line, on a trained LLaMA: what is stored, what is told, what follows a prompt."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from m4c.bundle import read_manifest
from m4c.cache import pairs, real
from m4c.host.masks import causal_mask, positions
from m4c.host.text import JsonTokenizer
from m4c.numerics import sqnr
from m4c.routes.generate import Cache, generate
from m4c.runners import OnnxRunner
from m4c.selftest import selftest
from m4c.weights import Array
from tests.end_to_end.here import Done, Export, capture_once, export

__all__ = ["capture_once", "export"]

TRAINED = Path(__file__).parents[1] / "assets" / "tiny_llama"
BYTES = {"float32": 4096, "float16": 2048, "int8": 1024 + 64}
"""Of a step: keys and values of 4 layers, 2 heads of 64 each; in int8 a scale each."""


@cache
def text() -> tuple[int, ...]:
    """Return tokens that the model has not seen."""
    held = (TRAINED / "heldout.txt").read_text("utf-8")[:400]
    return tuple(JsonTokenizer(TRAINED / "tokenizer.json").tokenizer.encode(held).ids[:64])


@cache
def embedded() -> Array:
    """Return the vectors of :func:`text`, (1, 64, 256)."""
    table: Array = load_file(TRAINED / "model.safetensors")["model.embed_tokens.weight"]
    return table[list(text())][None].astype(np.float32)


def decoded(done: Done) -> tuple[Array, dict[str, Array]]:
    """Return the scores of every token of a text, called at first with eight and then one by one, and the caches at the end."""
    graph = done.graph
    runner, kept = OnnxRunner(done.out / graph.file.path, 1), Cache.of(graph)
    scores, past = [], kept.empty
    for first, last in [(0, 8), *((i, i + 1) for i in range(8, len(text())))]:
        places = {"positions": positions(last - first, first), "mask": causal_mask(last - first, first)}
        made = runner.run({"embeds": embedded()[:, first:last], **places, **past})
        scores.append(made["logits"][0])
        past = {name: made[present] for name, present in kept.next.items()}
    return np.concatenate(scores), past


def stored_as(export: Export, kind: str, dialect: str) -> tuple[Array, dict[str, Array]]:
    """Return what is decoded with caches stored as ``kind``, once they are seen to be."""
    options = ("--weights", TRAINED, "--dialect", dialect, "--cache-type", kind, "--context-length", 64)
    done = export(*options, name=kind)
    assert done.code == 0, done.err
    graph = done.graph
    assert graph.cache == kind
    scores, caches = decoded(done)
    assert {port.name for port, _ in pairs(graph.inputs, graph.outputs)} == set(caches)
    for port in graph.inputs:
        if port.name in caches:
            assert (str(caches[port.name].dtype), caches[port.name].ndim) == (port.dtype, len(port.shape))
    assert sum(values.nbytes for values in caches.values()) == len(text()) * BYTES[kind]
    selftest(read_manifest(done.out), done.out)
    return scores, caches


@pytest.mark.parametrize("dialect", ["ort", "standard"])
def test_a_text_is_decoded_with_narrow_caches(export: Export, dialect: str) -> None:
    """The caches go from call to call as they are stored; what is lost is what their rounding loses."""
    expected, plain = stored_as(export, "float32", dialect)
    for kind, least, kept in (("float16", 55, 60), ("int8", 25, 35)):
        scores, caches = stored_as(export, kind, dialect)
        assert sqnr(expected, scores) > least, kind
        for name, values in real(caches).items():
            assert sqnr(plain[name], values) > kept, (kind, name)


@pytest.mark.parametrize(
    ("dialect", "kind"), [("ort", "int8"), ("standard", "float16"), ("genai", "float16")]
)
def test_what_follows_a_prompt(export: Export, kind: str, dialect: str) -> None:
    done = export(
        *("--weights", TRAINED, "--quantize", "int4", "--dialect", dialect),
        *("--cache-type", kind, "--context-length", 40),
        graph="backbone",
    )
    assert done.code == 0, done.err
    manifest = read_manifest(done.out)
    made = generate(done.out, manifest, "If the object is not", 99)
    assert len(made.prompt) + len(made.tokens) == 40, "it stops at the last position"
    assert made.text.startswith(" specified, return the value")
    assert {graph.cache for graph in manifest.graphs} == {kind} | (
        {"float32"} if dialect != "genai" else set()
    )


def test_a_cache_that_does_not_grow_may_be_narrow(export: Export) -> None:
    sizes = ("--size", "past=39", "--size", "sequence=8")
    done = export("--weights", TRAINED, "--cache-type", "int8", *sizes, graph="backbone")
    assert done.code == 0, done.err
    made = generate(done.out, read_manifest(done.out), "If the object is not", 99)
    assert len(made.prompt) + len(made.tokens) == 40
    assert made.text.startswith(" specified, return the value")


def test_a_context_is_told_and_shortens_the_tables(export: Export) -> None:
    part, whole = (
        export("--weights", TRAINED, *options, name=str(len(options)))
        for options in (("--context-length", "33"), ())
    )
    for done, length in ((part, 33), (whole, 512)):
        places = next(port for port in done.graph.inputs if port.name == "positions")
        assert places.host["max_tokens"] == length
        assert done.graph.cache == "float32"
    for name in ("cos", "sin"):
        assert part.stored[name].shape == (33, 64)
        np.testing.assert_array_equal(part.stored[name], whole.stored[name][:33])


def test_calibration_takes_no_more_than_the_context(export: Export) -> None:
    options = ("--quantize", "int4", "--method", "gptq", "--calibration", TRAINED / "heldout.txt")
    done = export("--weights", TRAINED, *options, "--context-length", 16)
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("graph", "options", "reason"),
    [
        ("backbone", ("--context-length", "513"), "a context of 513 positions is longer than the 512"),
        ("backbone", ("--context-length", "7"), "a context of 7 positions is too short"),
        ("backbone", ("--context-length", "0"), "a context of 0 positions is too short"),
        ("backbone", ("--cache-type", "int4"), "'int4' is not one of"),
        ("backbone", ("--cache-type", "int8", "--dialect", "genai"), "hands on no scales of a cache in int8"),
        ("backbone", ("--cache-type", "int8", "--format", "tflite"), "is for ONNX, the format is tflite"),
        ("gen_dec", ("--cache-type", "int8"), "--cache-type are for backbone"),
        ("gen_dec", ("--context-length", "64"), "--context-length and --cache-type are for backbone"),
    ],
)
def test_what_cannot_be(export: Export, graph: str, options: tuple[str, ...], reason: str) -> None:
    done = export("--weights", TRAINED, *options, graph=graph)
    assert done.code == 2, done.err
    assert reason in " ".join(done.err.split())
    assert "Traceback" not in done.err
    assert not done.out.exists()


def test_an_onnx_file_has_no_such_options(export: Export, tmp_path: Path) -> None:
    path = tmp_path / "backbone.onnx"
    path.write_bytes(b"")
    done = export("--cache-type", "int8", graph=str(path))
    assert done.code == 2
    assert "are for backbone" in done.err


def test_the_genai_configuration_states_the_context(export: Export) -> None:
    done = export("--weights", TRAINED, "--dialect", "genai", "--context-length", 48, graph="backbone")
    assert done.code == 0, done.err
    held = json.loads((done.out / "genai_config.json").read_text("utf-8"))
    assert (held["model"]["context_length"], held["search"]["max_length"]) == (48, 48)
    assert done.graph.inputs[0].host["max_tokens"] == 48
