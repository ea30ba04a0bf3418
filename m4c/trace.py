"""Every value that a source or an artifact computes, by its name in the model: what finds the first node that differs.

The two meet by names. A captured value keeps its name through all passes, and both emitters write it into their files.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from m4c.capture import SOURCE, capture, inner_name, translate
from m4c.eager import as_torch
from m4c.layouts import restored
from m4c.models.graph import Graph
from m4c.repeat import is_deep, stamped_names
from m4c.segments import compute_in_float

Array = np.ndarray
Recorder = Callable[[str, Array], None]


class _Stored:
    """A weight in the program's environment: read for one node, not kept."""

    def __init__(self, tensor: ir.TensorProtocol) -> None:
        self.tensor = tensor


class _Interpreter(torch.fx.Interpreter):
    """Runs an exported program, reading each weight where it is used, and tells every tensor it makes."""

    def __init__(self, module: torch.nn.Module, names: Mapping[str, str], recorder: Recorder) -> None:
        super().__init__(module)
        self._names, self._recorder = names, recorder

    def fetch_args_kwargs_from_env(self, n: torch.fx.Node) -> tuple[Any, Any]:
        """Return the arguments of a node with stored weights read."""
        arguments, keywords = super().fetch_args_kwargs_from_env(n)
        return torch.fx.node.map_aggregate((arguments, keywords), _read)

    def run_node(self, n: torch.fx.Node) -> Any:
        """Run a node and tell its value."""
        value = super().run_node(n)
        if n.op == "call_function" and isinstance(value, torch.Tensor):
            self._recorder(self._names[n.name], value.numpy())
        return value


def _read(value: Any) -> Any:
    """Read a stored weight; anything else stays as it is."""
    return as_torch(value.tensor) if isinstance(value, _Stored) else value


def trace(
    graph: Graph,
    weights: Mapping[str, ir.TensorProtocol],
    inputs: Mapping[str, Array],
    dynamic: frozenset[str],
    recorder: Recorder,
) -> None:
    """Run the program that ``graph`` is captured from, and tell ``recorder`` each value under its name in the model.

    The program is the decomposed one: before decomposition a name may stand for another value.
    """
    made = translate(graph, dynamic)
    program = made.exported_program
    assert program is not None
    signature = program.graph_signature
    constants = {**dict(program.named_buffers()), **program.constants}
    feeds = iter([torch.from_numpy(np.ascontiguousarray(inputs[port.name])) for port in graph.inputs])
    arguments: list[Any] = []
    for spec in signature.input_specs:
        key = str(spec.target or "").removeprefix(SOURCE)
        if spec.target is None:
            arguments.append(next(feeds))
        elif key in weights:
            arguments.append(_Stored(weights[key]))
        else:
            arguments.append(constants[str(spec.target)])
    names = stamped_names(made.model, capture(graph, dynamic)) if is_deep(graph) else _names(program, graph)
    with torch.no_grad():
        _Interpreter(program.graph_module, names, recorder).run(*arguments)


def _names(program: torch.export.ExportedProgram, graph: Graph) -> dict[str, str]:
    """Return, for each value of a program that is captured whole, its name in the model."""
    names = {node.name: inner_name(node.name, graph) for node in program.graph.nodes}
    outputs = program.graph_signature.user_outputs
    for output, port in reversed(list(zip(outputs, graph.outputs, strict=True))):
        names[str(output)] = port.name  # returned twice: the first port has the value, the others are copies
    return names


def onnx_values(path: Path, inputs: Mapping[str, Array], recorder: Recorder) -> None:
    """Run an ONNX file with every tensor of its main graph as an output; external data stays where it is.

    Activations are not rounded, as in :func:`m4c.segments.run_in_segments`.
    """
    import onnxruntime

    model = ir.load(path)
    compute_in_float(model.graph)
    returned = set(model.graph.outputs)
    for node in model.graph:
        for made in node.outputs:
            if (
                made.name
                and made not in returned
                and not isinstance(made.type, ir.SequenceType | ir.OptionalType)
            ):
                model.graph.outputs.append(
                    made
                )  # one without a type gets it from ONNX Runtime's own inference
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    session: Any = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs() if output.type.startswith("tensor(")]
    for name, value in zip(names, session.run(names, dict(inputs)), strict=True):
        recorder(name, value)


def tflite_values(
    path: Path, inputs: Mapping[str, Array], recorder: Recorder, signature: str | None = None
) -> None:
    """Run a TFLite file keeping every tensor; integers are told as the floats that they stand for, in the model's layout.

    Outputs come last, by their names in the signature, whatever their tensors are called.
    """
    from m4c.runners import TfliteRunner, from_stored

    runner = TfliteRunner(path, keep_all=True, signature=signature)
    returned = runner.run(inputs)
    for detail, value in runner.tensors():
        recorder(*restored(detail["name"], from_stored(value, detail)))
    for name, value in returned.items():
        recorder(name, value)
