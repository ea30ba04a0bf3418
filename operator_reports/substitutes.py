"""How operators of M4's canonical set can be written with others of it: a table, each row with a small graph before and after.

Every row is exact in real numbers or says by what it is not. ``m4c report --op-budget`` measures what each costs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
Arrays = Mapping[str, Array]

RMS_EPSILON = 1e-5
SIZE, CHANNELS = 64, 16
"""Height and width, and channels, of the images of the small graphs."""
ROWS, WIDTH = 64, 512
"""Tokens, and their width."""


@dataclass(frozen=True, slots=True)
class Substitute:
    """A rewrite. ``before`` and ``after`` are nodes in ONNX's text, from ``x`` to ``y``; ``constants`` are what they read."""

    gives: tuple[str, ...]
    """Operators that are gone: several where they only occur together, as many of the one as of the other."""
    into: tuple[str, ...]
    says: str
    before: str
    after: str
    x: Callable[[np.random.Generator], Array]
    constants: Callable[[], Arrays]


def _tokens(rng: np.random.Generator) -> Array:
    return rng.standard_normal((1, ROWS, WIDTH)).astype(np.float32)


def _image(rng: np.random.Generator) -> Array:
    return rng.standard_normal((1, CHANNELS, SIZE, SIZE)).astype(np.float32)


def _prompt(rng: np.random.Generator) -> Array:
    """Return tokens of a text that ends in the largest of them, zeros behind."""
    made = rng.integers(1, 1000, (1, ROWS))
    made[0, 40], made[0, 41:] = 1023, 0
    return np.asarray(made, np.int64)


def _floats(**values: object) -> Callable[[], Arrays]:
    return lambda: {name: np.asarray(value, np.float32) for name, value in values.items()}


def _with(shapes: Mapping[str, tuple[int, ...]], **values: object) -> Callable[[], Arrays]:
    def made() -> Arrays:
        found = {name: np.asarray(shape, np.int64) for name, shape in shapes.items()}
        return found | {name: np.asarray(value, np.float32) for name, value in values.items()}

    return made


def _argmax() -> Arrays:
    states = np.random.default_rng(1).standard_normal((ROWS, WIDTH)).astype(np.float32)
    # a token of 1024 is worth its number, an earlier one of two equal ones a 128th more: softmax leaves one row
    places = (-np.arange(ROWS) / (2 * ROWS)).astype(np.float32)[None]
    numbers = np.arange(1024, dtype=np.float32)
    return {"states": states, "numbers": numbers, "places": places, "sharp": np.asarray(4096, np.float32)}


def _im2col() -> Arrays:
    weight = np.random.default_rng(1).standard_normal((CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
    nowhere = SIZE * SIZE
    padded = np.full((SIZE + 2, SIZE + 2), nowhere, np.int64)
    padded[1:-1, 1:-1] = np.arange(nowhere).reshape(SIZE, SIZE)
    windows = [padded[i : i + SIZE, j : j + SIZE].reshape(-1) for i in range(3) for j in range(3)]
    return {
        "weight": weight,
        "matrix": weight.reshape(CHANNELS, -1),
        "windows": np.concatenate(windows),
        "zeros": np.zeros((CHANNELS, 1), np.float32),
        "flat": np.array([CHANNELS, nowhere]),
        "columns": np.array([CHANNELS * 9, nowhere]),
        "image": np.array([1, CHANNELS, SIZE, SIZE]),
    }


def _norm() -> Arrays:
    rng = np.random.default_rng(1)
    scale, bias = rng.standard_normal((2, WIDTH)).astype(np.float32)
    return {
        "scale": scale,
        "bias": bias,
        "minus": np.asarray(-1, np.float32),
        "epsilon": np.asarray(RMS_EPSILON, np.float32),
        "last": np.array([-1]),
    }


SUBSTITUTES = (
    Substitute(
        ("ArgMax",),
        ("Add", "Gather", "MatMul", "Mul", "Softmax"),
        "the row of the largest token: numbers looked up, a sharp softmax of them, and a product with all rows",
        "at = ArgMax<axis = 1, keepdims = 0>(x)\ny = Gather<axis = 0>(states, at)",
        "n = Gather<axis = 0>(numbers, x)\np = Add(n, places)\ns = Mul(p, sharp)\nw = Softmax<axis = -1>(s)\n"
        "y = MatMul(w, states)",
        _prompt,
        _argmax,
    ),
    Substitute(
        ("Cos",),
        ("Add", "Sin"),
        "sin(x + π/2)",
        "y = Cos(x)",
        "a = Add(x, quarter)\ny = Sin(a)",
        lambda rng: rng.uniform(0, 1000, (ROWS, WIDTH)).astype(np.float32),
        _floats(quarter=np.pi / 2),
    ),
    Substitute(
        ("Tanh",),
        ("Add", "Mul", "Sigmoid"),
        "2·σ(2x) − 1",
        "y = Tanh(x)",
        "a = Mul(x, two)\ns = Sigmoid(a)\nb = Mul(s, two)\ny = Add(b, minus)",
        _tokens,
        _floats(two=2, minus=-1),
    ),
    Substitute(
        ("Div", "Sqrt"),
        ("Concat", "LpNormalization", "Mul", "Slice"),
        "x / √(mean x² + ε): √(K·ε) beside the K values, the length of all made 1, times √K",
        "q = Mul(x, x)\nm = ReduceMean<keepdims = 1>(q, last)\ne = Add(m, epsilon)\nr = Sqrt(e)\ny = Div(x, r)",
        "w = Concat<axis = -1>(x, beside)\nn = LpNormalization<axis = -1, p = 2>(w)\ns = Slice(n, zero, width, last)\n"
        "y = Mul(s, root)",
        _tokens,
        lambda: {
            "last": np.array([-1]),
            "zero": np.array([0]),
            "width": np.array([WIDTH]),
            "epsilon": np.asarray(RMS_EPSILON, np.float32),
            "beside": np.full((1, ROWS, 1), np.sqrt(WIDTH * RMS_EPSILON), np.float32),
            "root": np.asarray(np.sqrt(WIDTH), np.float32),
        },
    ),
    Substitute(
        ("Resize",),
        ("Concat", "Reshape"),
        "each pixel beside itself, each row below itself",
        'y = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">(x, , twice)',
        "a = Reshape(x, apart)\nb = Concat<axis = 5>(a, a)\nc = Concat<axis = 3>(b, b)\ny = Reshape(c, large)",
        _image,
        _with(
            {"apart": (1, CHANNELS, SIZE, 1, SIZE, 1), "large": (1, CHANNELS, 2 * SIZE, 2 * SIZE)},
            twice=(1, 1, 2, 2),
        ),
    ),
    Substitute(
        ("Relu",),
        ("Mul", "Sigmoid"),
        "x·σ(1024x): off by 0.28/1024 at most",
        "y = Relu(x)",
        "a = Mul(x, steep)\ns = Sigmoid(a)\ny = Mul(x, s)",
        _tokens,
        _floats(steep=1024),
    ),
    Substitute(
        ("ReduceMean",),
        ("MatMul",),
        "a product with a column of 1/K",
        "y = ReduceMean<keepdims = 1>(x, last)",
        "y = MatMul(x, column)",
        _tokens,
        _with({"last": (-1,)}, column=np.full((WIDTH, 1), 1 / WIDTH)),
    ),
    Substitute(
        ("InstanceNormalization",),
        ("Add", "LayerNormalization", "Mul", "Reshape"),
        "a channel as a row, normalized over its values",
        "y = InstanceNormalization<epsilon = 1e-5>(x, scale, bias)",
        "r = Reshape(x, rows)\nn = LayerNormalization<axis = -1, epsilon = 1e-5>(r, ones)\ni = Reshape(n, image)\n"
        "m = Mul(i, scales)\ny = Add(m, biases)",
        _image,
        lambda: {
            "scale": np.linspace(0.5, 2, CHANNELS, dtype=np.float32),
            "bias": np.linspace(-1, 1, CHANNELS, dtype=np.float32),
            "scales": np.linspace(0.5, 2, CHANNELS, dtype=np.float32)[:, None, None],
            "biases": np.linspace(-1, 1, CHANNELS, dtype=np.float32)[:, None, None],
            "ones": np.ones(SIZE * SIZE, np.float32),
            "rows": np.array([1, CHANNELS, SIZE * SIZE]),
            "image": np.array([1, CHANNELS, SIZE, SIZE]),
        },
    ),
    Substitute(
        ("LpNormalization",),
        ("Div", "MatMul", "Mul", "Sqrt"),
        "x / √Σx², the sum as a product with a column of ones",
        "y = LpNormalization<axis = -1, p = 2>(x)",
        "q = Mul(x, x)\ns = MatMul(q, ones)\nr = Sqrt(s)\ny = Div(x, r)",
        _tokens,
        _floats(ones=np.ones((WIDTH, 1))),
    ),
    Substitute(
        ("Sigmoid",),
        ("Concat", "Mul", "Reshape", "Slice", "Softmax"),
        "the first of softmax(x, 0)",
        "y = Sigmoid(x)",
        "r = Reshape(x, column)\nz = Mul(r, nought)\nb = Concat<axis = -1>(r, z)\ns = Softmax<axis = -1>(b)\n"
        "f = Slice(s, zero, one, last)\ny = Reshape(f, back)",
        _tokens,
        _with(
            {"column": (ROWS * WIDTH, 1), "back": (1, ROWS, WIDTH), "zero": (0,), "one": (1,), "last": (-1,)},
            nought=0,
        ),
    ),
    Substitute(
        ("Slice",),
        ("Gather",),
        "the same places by their numbers",
        "y = Slice(x, start, end, last)",
        "y = Gather<axis = -1>(x, places)",
        _tokens,
        _with({"start": (0,), "end": (WIDTH // 2,), "last": (-1,), "places": tuple(range(WIDTH // 2))}),
    ),
    Substitute(
        ("Gelu",),
        ("Add", "Mul", "Sigmoid"),
        "x·σ(1.596x + 0.0714x³), the approximation by tanh: off by 5e-4 at most",
        "y = Gelu(x)",
        "q = Mul(x, x)\nc = Mul(q, cubic)\nl = Add(c, linear)\na = Mul(x, l)\ns = Sigmoid(a)\ny = Mul(x, s)",
        _tokens,
        _floats(cubic=2 * 0.044715 * np.sqrt(2 / np.pi), linear=2 * np.sqrt(2 / np.pi)),
    ),
    Substitute(
        ("Conv",),
        ("Concat", "Gather", "MatMul", "Reshape"),
        "the values under each place of the kernel gathered, a zero for those outside, and one product",
        "y = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x, weight)",
        "f = Reshape(x, flat)\nz = Concat<axis = 1>(f, zeros)\ng = Gather<axis = 1>(z, windows)\nc = Reshape(g, columns)\n"
        "m = MatMul(matrix, c)\ny = Reshape(m, image)",
        _image,
        _im2col,
    ),
    Substitute(
        ("LayerNormalization",),
        ("Add", "Div", "Mul", "ReduceMean", "Sqrt"),
        "(x − mean) / √(variance + ε), written out",
        "y = LayerNormalization<axis = -1, epsilon = 1e-5>(x, scale, bias)",
        "m = ReduceMean<keepdims = 1>(x, last)\nn = Mul(m, minus)\nd = Add(x, n)\nq = Mul(d, d)\n"
        "v = ReduceMean<keepdims = 1>(q, last)\ne = Add(v, epsilon)\nr = Sqrt(e)\nu = Div(d, r)\nt = Mul(u, scale)\n"
        "y = Add(t, bias)",
        _tokens,
        _norm,
    ),
)
"""The rarest first, as M4 has them; where two give the same, the first that can be used is."""
