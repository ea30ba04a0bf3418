"""The blocks that M4 is made of, as small graphs: what compilers are asked about beside operators and sub-models."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from m4c.passes import for_format, for_integers, legalized
from m4c.passes.calibrate import Calibrate
from m4c.precisions import HALF
from m4c.targets.emit_tflite import to_tflite
from tests.integer_graphs import graph

Array = np.ndarray
STEPS, WIDTH, HEADS = 8, 32, 2
SPLIT = np.array([1, STEPS, HEADS, WIDTH // HEADS])


@dataclass(frozen=True)
class Block:
    """A graph as ONNX text, and what it stores: shapes of random weights, or values."""

    text: str
    stored: Mapping[str, tuple[int, ...] | Array]

    def model(self) -> ir.Model:
        """Return the graph with its weights."""
        rng = np.random.default_rng(0)
        held = {}
        for name, kind in self.stored.items():
            drawn = rng.normal(size=kind) / np.sqrt(kind[0]) if isinstance(kind, tuple) else kind
            held[name] = drawn if drawn.dtype == np.int64 else drawn.astype(np.float32)
        return graph(f"block {self.text}", **held)


def _attention(scores: str = "r = Mul(s, half)", past: str = "x", ports: str = "") -> str:
    """Return attention of heads over ``past``; ``scores`` makes r of the products s."""
    heads = "".join(
        f"{n}w = MatMul({source}, w{n}) {n}h = Reshape({n}w, split) {n} = Transpose<perm = [{perm}]>({n}h) "
        for n, source, perm in (("q", "x", "0,2,1,3"), ("k", past, "0,2,3,1"), ("v", past, "0,2,1,3"))
    )
    return (
        f"(float[1,{STEPS},{WIDTH}] x{ports}) => (float[1,{STEPS},{WIDTH}] y) {{ {heads} s = MatMul(q, k) {scores} "
        "p = Softmax(r) o = MatMul(p, v) t = Transpose<perm = [0,2,1,3]>(o) f = Reshape(t, flat) y = MatMul(f, wo) }"
    )


def _tokens(body: str) -> str:
    return f"(float[1,{STEPS},{WIDTH}] x) => (float[1,{STEPS},{WIDTH}] y) {{ {body} }}"


def _image(body: str, out: str = f"1,{WIDTH},8,8", within: str = "") -> str:
    return f"(float[1,{WIDTH},8,8] x) => (float[{out}] y) {within} {{ {body} }}"


SQUARE, KERNEL = (WIDTH, WIDTH), (WIDTH, WIDTH, 3, 3)
HEADED = {f"w{n}": SQUARE for n in "qkvo"} | {"split": SPLIT, "flat": np.array([1, STEPS, WIDTH])}
SCALED = HEADED | {"half": np.array(0.25)}
LAST, TINY = np.array([-1]), np.array(1e-5)
GAIN, ZEROS = np.linspace(0.5, 1.5, WIDTH), np.zeros(WIDTH)
SAME = "pads = [1,1,1,1]"
RMS = "s = Mul(x, x) m = ReduceMean(s, last) e = Add(m, tiny) r = Sqrt(e) d = Div(x, r) y = Mul(d, gain)"
GROUPS = "n = InstanceNormalization(g, one, zero) w = Reshape(n, whole) z = Mul(w, gain) b = Add(z, shift)"
GROUPED = {
    "parts": np.array([1, 4, WIDTH * 16]),
    "whole": np.array([1, WIDTH, 8, 8]),
    "one": np.ones(4),
    "zero": np.zeros(4),
    "gain": GAIN.reshape(-1, 1, 1),
    "shift": np.linspace(-1, 1, WIDTH).reshape(-1, 1, 1),
}
MASK = np.triu(np.full((1, 1, STEPS, STEPS), -10.0), 1)
ANGLE = np.outer(np.arange(STEPS), 0.5 ** np.arange(WIDTH // 2))

BLOCKS: dict[str, Block] = {
    "attention": Block(_attention(), SCALED),
    "causal attention": Block(_attention("c = Mul(s, half) r = Add(c, mask)"), SCALED | {"mask": MASK}),
    "cross attention": Block(_attention(past="z", ports=f", float[1,{STEPS},{WIDTH}] z"), SCALED),
    "MLP": Block(
        _tokens("a = MatMul(x, up) b = Gelu(a) y = MatMul(b, down)"), {"up": (32, 64), "down": (64, 32)}
    ),
    "gated MLP": Block(
        _tokens(
            "g = MatMul(x, gate) s = Sigmoid(g) a = Mul(g, s) u = MatMul(x, up) h = Mul(a, u) y = MatMul(h, down)"
        ),
        {"gate": (32, 64), "up": (32, 64), "down": (64, 32)},
    ),
    "layer norm": Block(_tokens("y = LayerNormalization(x, gain, zeros)"), {"gain": GAIN, "zeros": ZEROS}),
    "RMS norm": Block(_tokens(RMS), {"last": LAST, "tiny": TINY, "gain": GAIN}),
    "norm, MLP, residual": Block(
        _tokens(
            "n = LayerNormalization(x, gain, zeros) a = MatMul(n, up) b = Gelu(a) c = MatMul(b, down) y = Add(x, c)"
        ),
        {"gain": GAIN, "zeros": ZEROS, "up": (32, 64), "down": (64, 32)},
    ),
    "norm of clips": Block(
        "(float[3,8,32] x) => (float[3,8,32] y) { y = LayerNormalization(x, gain, zeros) }",
        {"gain": GAIN, "zeros": ZEROS},
    ),
    "group norm": Block(_image(f"g = Reshape(x, parts) {GROUPS} y = Identity(b)"), GROUPED),
    "convolution, norm, SiLU, residual": Block(
        _image(
            f"c = Conv<{SAME}>(x, k) g = Reshape(c, parts) {GROUPS} s = Sigmoid(b) a = Mul(b, s) y = Add(x, a)"
        ),
        GROUPED | {"k": KERNEL},
    ),
    "down by a stride": Block(
        _image("y = Conv<pads = [0,0,1,1], strides = [2,2]>(x, k)", f"1,{WIDTH},4,4"), {"k": KERNEL}
    ),
    "up by two": Block(
        _image(
            f'u = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">'
            f"(x, , by) y = Conv<{SAME}>(u, k)",
            f"1,{WIDTH},16,16",
            f"<float[1,{WIDTH},16,16] u>",
        ),
        {"by": np.array([1.0, 1.0, 2.0, 2.0]), "k": KERNEL},
    ),
    "unit length": Block(
        _tokens("a = MatMul(x, w) n = LpNormalization<axis = -1>(a) y = Mul(n, gain)"),
        {"w": SQUARE, "gain": GAIN},
    ),
    "rotary embedding": Block(
        _tokens(
            "a = Slice(x, 0, half, axis) b = Slice(x, half, end, axis) n = Neg(b) t = Concat<axis = -1>(n, a) "
            "u = Mul(x, cosine) v = Mul(t, sine) y = Add(u, v)"
        ).replace("Slice(x, 0,", "Slice(x, start,"),
        {
            "start": np.array([0]),
            "half": np.array([WIDTH // 2]),
            "end": np.array([WIDTH]),
            "axis": np.array([2]),
            "cosine": np.cos(np.tile(ANGLE, 2)),
            "sine": np.sin(np.tile(ANGLE, 2)),
        },
    ),
    "patches and a token": Block(
        "(float[1,3,16,16] x) => (float[1,5,32] y) { c = Conv<strides = [8,8]>(x, k) f = Reshape(c, flat) "
        "t = Transpose<perm = [0,2,1]>(f) j = Concat<axis = 1>(token, t) y = Add(j, places) }",
        {
            "k": (32, 3, 8, 8),
            "flat": np.array([1, 32, 4]),
            "token": GAIN.reshape(1, 1, -1),
            "places": np.linspace(-1, 1, 160).reshape(1, 5, 32),
        },
    ),
}
"""By name: attention, MLPs, norms, convolutions and ends of M4's sub-models."""


def written(
    block: Block, path: Path, rewrites: frozenset[str] = frozenset(), precision: str = "int8"
) -> Path:
    """Compile a block as an export does, with ranges from four random inputs: ONNX, or TFLite by its name.

    It is int8, unless ``precision`` is float16.
    """
    if precision == HALF:
        made, _ = legalized(for_format("tflite"), rewrites).run(block.model())
        to_tflite(made, path, half=True)
        return path
    model, rng = block.model(), np.random.default_rng(1)
    shapes = {str(v.name): v.shape.numpy() for v in model.graph.inputs if v.shape is not None}
    samples = [
        {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(4)
    ]
    form = path.suffix.removeprefix(".")
    made, _ = for_integers("int8", form, Calibrate(samples, path.parent), rewrites).run(model)
    if form == "tflite":
        to_tflite(made, path)
    else:
        ir.save(made, path)
    return path
