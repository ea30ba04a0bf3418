"""What a TFLite file takes and gives: read from the file itself, without loading its weights."""

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai_edge_litert import schema_py_generated as tfl

from m4c.errors import BundleError
from m4c.targets.emit_tflite.flat import SIGNATURE
from m4c.targets.read_tflite import IDENTIFIER

DTYPES = {
    tfl.TensorType.FLOAT32: "float32",
    tfl.TensorType.INT8: "int8",
    tfl.TensorType.INT16: "int16",
    tfl.TensorType.INT32: "int32",
    tfl.TensorType.BOOL: "bool",
}


@dataclass(frozen=True, slots=True)
class TensorPort:
    """An input or output of a file: ``x = (q - zero_point) * scale`` if it is quantized, else both are None."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True, slots=True)
class Ports:
    """The inputs and outputs of a file, in the order of the graph they were made from."""

    inputs: tuple[TensorPort, ...]
    outputs: tuple[TensorPort, ...]


def read_ports(path: Path, signature: str = SIGNATURE) -> Ports:
    """Return the inputs and outputs of ``signature`` in the TFLite file ``path``.

    Raises:
        BundleError: if the file is not a TFLite file or lacks the signature.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
        if held[4:8] != IDENTIFIER:
            raise BundleError("this is not a TFLite file", where=str(path), fix="export the graph again")
        model: Any = tfl.Model.GetRootAs(held, 0)
        found = {model.SignatureDefs(i).SignatureKey(): i for i in range(model.SignatureDefsLength())}
        if signature.encode() not in found:
            raise BundleError(
                f"the file has no signature {signature}",
                where=str(path),
                fix=f"it has {', '.join(sorted(key.decode() for key in found)) or 'none'}",
            )
        chosen = model.SignatureDefs(found[signature.encode()])
        graph = model.Subgraphs(chosen.SubgraphIndex())
        return Ports(
            tuple(_port(graph, chosen.Inputs(i)) for i in range(chosen.InputsLength())),
            tuple(_port(graph, chosen.Outputs(i)) for i in range(chosen.OutputsLength())),
        )


def _port(graph: Any, entry: Any) -> TensorPort:
    tensor = graph.Tensors(entry.TensorIndex())
    shape = tuple(int(tensor.Shape(i)) for i in range(tensor.ShapeLength()))
    name, dtype = entry.Name().decode(), DTYPES[tensor.Type()]
    quantization = tensor.Quantization()
    if quantization is None or not quantization.ScaleLength():
        return TensorPort(name, dtype, shape)
    return TensorPort(name, dtype, shape, float(quantization.Scale(0)), int(quantization.ZeroPoint(0)))
