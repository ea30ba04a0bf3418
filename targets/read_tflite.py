"""A TFLite file as graphs to judge: the file is mapped, structure is read, weights are left where they are."""

import mmap
import re
import struct
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from m4c.errors import UsageError
from m4c.targets.view import Graph, Mapped, Node, Quantization, Tensor

IDENTIFIER = b"TFL3"
"""Bytes 4 to 8 of every TFLite file."""

FIX = "give a .tflite file"
OFFSET_SET = 1
"""Buffers with a larger offset have their data at that place of the file."""

DTYPE_OF = {
    "float32": "<f4",
    "float16": "<f2",
    "float64": "<f8",
    "int8": "i1",
    "uint8": "u1",
    "int16": "<i2",
    "uint16": "<u2",
    "int32": "<i4",
    "uint32": "<u4",
    "int64": "<i8",
    "uint64": "<u8",
    "bool": "?",
}
"""How numpy reads the dtypes whose values are whole bytes."""

SCALES = 1 << 16
"""No more scales of a tensor are read: there are not so many channels."""


def is_tflite(path: Path) -> bool:
    """Return whether a file is TFLite, by its content.

    Raises:
        UsageError: if it is unreadable.
    """
    try:
        with path.open("rb") as file:
            return file.read(8)[4:] == IDENTIFIER
    except OSError as error:
        raise UsageError(
            f"cannot read the graph: {error.strerror}", where=str(path), fix="give an .onnx or .tflite file"
        ) from error


def read_tflite(path: Path) -> tuple[Graph, ...]:
    """Return every sub-graph of a TFLite file.

    Raises:
        UsageError: if the file is unreadable, not TFLite, or damaged.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content[4:8] != IDENTIFIER:
                raise UsageError("not a TFLite model: bytes 4 to 8 are not TFL3", where=str(path), fix=FIX)
            return _graphs(content, path)
    except OSError as error:
        raise UsageError(f"cannot read the graph: {error.strerror}", where=str(path), fix=FIX) from error
    except ValueError as error:  # mmap: an empty file
        raise UsageError(f"not a TFLite model: {error}", where=str(path), fix=FIX) from error
    except (struct.error, IndexError, TypeError, UnicodeDecodeError) as error:  # offsets that lead nowhere
        raise UsageError(f"the TFLite model is damaged: {error}", where=str(path), fix=FIX) from error


def builtin_names() -> dict[int, str]:
    """Return the name of every builtin operator by its number."""
    return _names(schema.BuiltinOperator)


@cache
def _names(enumeration: type) -> dict[int, str]:
    """Return the names of a generated enumeration by their numbers."""
    codes = vars(enumeration).items()
    return {number: name for name, number in codes if isinstance(number, int) and not name.startswith("_")}


def _graphs(content: mmap.mmap, path: Path) -> tuple[Graph, ...]:
    model = schema.Model.GetRootAs(content, 0)
    codes = [_code(model.OperatorCodes(i)) for i in range(model.OperatorCodesLength())]
    found = []
    for index in range(model.SubgraphsLength()):
        graph = model.Subgraphs(index)
        tensors = [_tensor(model, graph.Tensors(i), path) for i in range(graph.TensorsLength())]
        nodes = tuple(_node(i, graph.Operators(i), codes, tensors) for i in range(graph.OperatorsLength()))
        name = path.stem if model.SubgraphsLength() == 1 else f"{path.stem}#{index}"
        inputs = tuple(tensors[graph.Inputs(i)] for i in range(graph.InputsLength()))
        outputs = tuple(tensors[graph.Outputs(i)] for i in range(graph.OutputsLength()))
        found.append(Graph(name, "tflite", nodes, inputs, outputs))
    return tuple(found)


def _code(code: schema.OperatorCode) -> tuple[str, int]:
    """Return name and version of an operator; old files keep its number in a byte, where 127 stands for all later ones."""
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    if number == schema.BuiltinOperator.CUSTOM:
        return (code.CustomCode() or b"CUSTOM").decode(), code.Version()
    names = builtin_names()
    if number not in names:
        raise IndexError(f"operator number {number} is unknown")
    return names[number], code.Version()


def _node(index: int, found: Any, codes: list[tuple[str, int]], tensors: list[Tensor]) -> Node:
    operator, version = codes[found.OpcodeIndex()]
    inputs = (found.Inputs(i) for i in range(found.InputsLength()))
    outputs = tuple(tensors[found.Outputs(i)] for i in range(found.OutputsLength()))
    return Node(
        index,
        operator,
        "tflite",
        version,
        tuple(tensors[i] if i >= 0 else None for i in inputs),
        outputs,
        _options(found),
        outputs[0].name if outputs else operator,
    )


def _options(found: Any) -> dict[str, Any]:
    """Return the builtin options by their names in the schema."""
    table, name = found.BuiltinOptions(), _names(schema.BuiltinOptions).get(found.BuiltinOptionsType())
    if table is None:
        table = found.BuiltinOptions2()
        name = _names(schema.BuiltinOptions2).get(found.BuiltinOptions2Type())
    if table is None or name is None or name == "NONE":
        return {}
    options = getattr(schema, f"{name}T").InitFromObj(_typed(getattr(schema, name), table))
    return {snake(key): plain(value) for key, value in vars(options).items()}


def plain(value: Any) -> Any:
    """Return an option that holds nothing of the mapped file."""
    match value:
        case bytes():
            return value.decode()
        case np.ndarray() | list():
            return tuple(int(item) for item in value)
        case _:
            return value


def _typed(kind: type, table: Any) -> Any:
    """Return ``table`` read as ``kind``."""
    made = kind()
    made.Init(table.Bytes, table.Pos)
    return made


@cache
def snake(name: str) -> str:
    """Return a name of the schema (``strideH``) as views have it (``stride_h``)."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _tensor(model: Any, found: Any, path: Path) -> Tensor:
    dtype = _names(schema.TensorType)[found.Type()].lower()
    sizes = tuple(int(found.Shape(i)) for i in range(found.ShapeLength()))
    signature = tuple(int(found.ShapeSignature(i)) for i in range(found.ShapeSignatureLength())) or sizes
    name = (found.Name() or b"").decode()
    shape = tuple(size if size >= 0 else f"?{axis}" for axis, size in enumerate(signature))
    buffer = model.Buffers(found.Buffer()) if found.Buffer() else None
    start = start_of(buffer) if buffer is not None else None
    content = None
    if start is not None and dtype in DTYPE_OF:
        content = Mapped(path, start, DTYPE_OF[dtype], sizes)
    return Tensor(name, dtype, shape, start is not None, _quantization(found.Quantization()), content)


def start_of(buffer: Any) -> int | None:
    """Return where in the file the bytes of a buffer are, None if it has none."""
    if buffer.Offset() > OFFSET_SET:
        return int(buffer.Offset())
    if buffer.DataIsNone() or not buffer.DataLength():
        return None
    table = buffer._tab  # the generated accessors copy; where a vector lies, only the table tells
    return int(table.Vector(table.Offset(4)))


def _quantization(found: Any) -> Quantization | None:
    """Return scales and zero points; blockwise scales, which are a tensor of their own, as none."""
    if found is None:
        return None
    if found.DetailsType() == schema.QuantizationDetails.BlockwiseQuantization:
        return Quantization((), ())
    count = min(found.ScaleLength(), SCALES)
    if not count:
        return None
    scales = tuple(float(x) for x in found.ScaleAsNumpy()[:count])
    points = tuple(int(x) for x in found.ZeroPointAsNumpy()[:count]) if found.ZeroPointLength() else ()
    return Quantization(scales, points, int(found.QuantizedDimension()))
