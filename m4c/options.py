"""Options of the command line that more than one command has, or that are many: their types, names and help texts."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from m4c.precisions import HALF


class Format(StrEnum):
    """File formats of artifacts."""

    ONNX = "onnx"
    TFLITE = "tflite"


class Precision(StrEnum):
    """Precisions of artifacts."""

    NONE = "none"
    FP16 = "fp16"
    INT8 = "int8"
    INT16X8 = "int16x8"
    INT8_WEIGHTS = "int8-weights"
    INT4 = "int4"


class Method(StrEnum):
    """Methods of rounding weights."""

    RTN = "rtn"
    HQQ = "hqq"
    GPTQ = "gptq"


class Observer(StrEnum):
    """Ways to choose the ranges of integers."""

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    TRIMMED = "trimmed"
    MSE = "mse"
    ENTROPY = "entropy"


class Dialect(StrEnum):
    """Which ONNX operators a graph may have."""

    STANDARD = "standard"
    ORT = "ort"
    GENAI = "genai"


class CacheType(StrEnum):
    """What caches are stored in."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"


class AdapterMode(StrEnum):
    """What becomes of adapters."""

    MERGE = "merge"
    SEPARATE = "separate"


class Fallback(StrEnum):
    """What becomes of a graph that the target cannot have."""

    CPU = "cpu"
    ERROR = "error"


class Evidence(StrEnum):
    """How a report knows what runs on a target."""

    TABLE = "table"
    COMPILED = "compiled"


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout instead of a table.")]

Submodels = Annotated[
    list[str] | None,
    typer.Argument(
        help="Sub-models, graphs (submodel/graph), or one .onnx file; nothing means all of the preset."
    ),
]
Tasks = Annotated[
    list[str] | None,
    typer.Option("--task", help="Only the graphs of a task's route, such as T22 (m4c list tasks)."),
]
Targets = Annotated[
    list[str],
    typer.Option(
        help="Where it runs: a name (m4c list targets) or a .toml file; of several, each has a bundle in OUT."
    ),
]
Preset = Annotated[str, typer.Option(help="m4-nano (small) or m4 (the paper's sizes).")]
Weights = Annotated[
    Path | None,
    typer.Option(
        help="A checkpoint, or a folder with one; a folder may have one folder for each sub-model. "
        "m4-nano has weights of its own."
    ),
]
RandomWeights = Annotated[
    int | None,
    typer.Option(metavar="SEED", help="Random weights from a seed, instead of those that m4c carries."),
]
FileFormat = Annotated[Format | None, typer.Option("--format", help="Instead of the target's own.")]
Quantize = Annotated[Precision | None, typer.Option(help="Instead of the target's own precision.")]
Precisions = Annotated[
    list[Precision] | None,
    typer.Option(
        "--quantize", help="Instead of the target's own precision; of several, each has a bundle in OUT."
    ),
]
RoundingMethod = Annotated[
    Method, typer.Option(help="How weights are rounded in int4 and int8-weights; gptq needs --calibration.")
]
GroupSize = Annotated[
    int | None,
    typer.Option(help="Inputs that share a scale, a power of two from 16 on; 0: a whole output channel."),
]
Asymmetric = Annotated[bool, typer.Option("--asymmetric", help="Give every group of weights a zero point.")]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN=PRECISION", help="Weights to keep in float32 or int8, such as lm_head.*=int8."
    ),
]
BitsBudget = Annotated[
    float | None,
    typer.Option(metavar="BITS", help="Average bits of a weight; 8 bits go where they help most."),
]
Operators = Annotated[
    Dialect | None,
    typer.Option(
        help="ONNX operators to use: of the standard, of ONNX Runtime, or as onnxruntime-genai loads."
    ),
]
ContextLength = Annotated[
    int | None,
    typer.Option(
        metavar="POSITIONS",
        help="The most steps of a backbone's sequence; the default is all it knows.",
    ),
]
Cache = Annotated[CacheType, typer.Option(help="What the caches of a backbone are stored in.")]
Adapter = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=PATH[:WEIGHT]", help="A LoRA adapter: a folder that PEFT saved."),
]
Adapters = Annotated[
    AdapterMode | None,
    typer.Option(help="Put adapters into the weights, or beside the artifacts, to be swapped at run time."),
]
AdapterPickle = Annotated[
    bool, typer.Option("--adapter-pickle", help="Read adapters that are saved as .bin; no code in it is run.")
]
RankLimit = Annotated[
    int | None,
    typer.Option(
        metavar="RANK",
        help="The largest rank of adapters that a TFLite base shall take later; an ONNX base takes any.",
        min=1,
    ),
]
Calibration = Annotated[
    str | None,
    typer.Option(help="Typical inputs for integers: a folder or file of samples, or the word random."),
]
Ranges = Annotated[
    Observer | None,
    typer.Option(help="How the ranges of integers are chosen; trimmed in int8, minmax in int16x8."),
]
MinSqnr = Annotated[
    float | None,
    typer.Option(
        metavar="DB", help="Signal to noise that integer artifacts must have; 10 in int8, 25 in int16x8."
    ),
]
WhatElse = Annotated[
    Fallback | None,
    typer.Option(help="For graphs that the target cannot have: build for the CPU, or an error."),
]
Dynamic = Annotated[list[str] | None, typer.Option(help="A dimension to keep dynamic, such as batch.")]
Size = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=N",
        help="A dimension as a number, such as past=511 of a cache that does not grow; TFLite has no others. "
        "sequence may be given several times: each is a signature of one file.",
    ),
]
Jobs = Annotated[int, typer.Option(help="Sub-models compiled at once; 0: one a core.", min=0)]
MaxRss = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Memory that must do, such as 1GiB; beyond it the export ends."),
]
StoreAt = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="PLACE",
        envvar="M4C_STORE",
        help="A folder, or a URL that fsspec knows: finished sub-models are taken from there, and kept there.",
    ),
]
Executor = Annotated[
    str | None,
    typer.Option(metavar="dask://HOST:PORT", help="A Dask cluster whose workers compile; needs --store."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what it will need, and write nothing.")]
Out = Annotated[Path, typer.Option("-o", "--out", help="Folder of the bundle.")]

Text = Annotated[
    str | None, typer.Option(help="A prompt, a question, or what is to be found, drawn or spoken.")
]
Question = Annotated[str | None, typer.Option(help="What is asked about the text (T2).")]
Images = Annotated[list[Path] | None, typer.Option(help="An image file; several to choose among (T46).")]
Audio = Annotated[Path | None, typer.Option(help="A WAV file.")]
Imu = Annotated[Path | None, typer.Option(help="A recording of motion, .csv or .npy.")]
Labels = Annotated[str | None, typer.Option(help="What to choose among, with commas between.")]
Result = Annotated[
    Path | None, typer.Option("-o", "--out", help="The file of a picture (PNG) or a sound (WAV).")
]


def unique(given: list[Precision] | None) -> list[Precision | None]:
    """Return the precisions that ``--quantize`` asks for, each once; None is a target's own."""
    return list(dict.fromkeys(given)) if given else [None]


def precision(quantize: Precision | None) -> str | None:
    """Return the precision that ``--quantize`` asks for, if it was given."""
    named = {Precision.NONE: "float32", Precision.FP16: HALF}
    return quantize and named.get(quantize, quantize.value)
