"""Compute in float16, and in float32 only where samples go beyond it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir

from m4c.errors import UnsupportedError
from m4c.half import LARGEST, LOWEST, SUFFIX, ends, half, half_constant, half_mask
from m4c.model import branches, module_path, operator
from m4c.passes.properties import typed
from m4c.passes.reading import is_op
from m4c.pipeline import Note, Pass, Property, Result
from m4c.reach import Ends, Reached, reach
from m4c.rewrite import MICROSOFT, Added
from m4c.sweep import Sample, checked
from m4c.weights import array, constant, is_weight, register, stored_value

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16

WIDEST_ANGLE = 8.0
"""Angles beyond this are float32: float16 would round them by more than 2^-8 = 0.004."""

TO_ANGLES = frozenset(
    [
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Neg",
        "Cast",
        "Concat",
        "Expand",
        "Gather",
        "Reshape",
        "Slice",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    ]
)
"""What positions and frequencies become angles by: it is float32 too, or the angle would have been rounded before."""

SAME_NUMBERS = frozenset({"Expand", "Gather", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
"""What hands on the numbers of its first operand."""

MASKED = {"Add": (0, 1), "Where": (1, 2), f"{MICROSOFT}::GroupQueryAttention": (10,)}
"""The places of operands that may hide scores: in front of a Softmax, or in an attention."""

ATTENTION = f"{MICROSOFT}::GroupQueryAttention"

Wide = dict[ir.Node, str]
"""Nodes that compute in float32, and why; nothing where the operator has no float16, which is no finding."""


@dataclass(frozen=True)
class Halve(Pass):
    """Make every float32 value and weight float16; inputs and outputs of the graph stay float32.

    Before: ``y = MatMul(x, w)``. After: ``y = Cast(MatMul(Cast(x), w.float16))``.

    Float32 stays what goes beyond float16 (65504) on one of ``samples``: each node that reads, makes or adds up such numbers,
    with a Cast where it meets float16. Neighbours are one island, which a miss names. So do angles of Sin and Cos beyond
    :data:`WIDEST_ANGLE`. Numbers far below that only hide scores from a Softmax become −32752 at most::

        Softmax(Add(scores, mask))  →  Softmax(Add(scores, Cast(Clip(mask, -32752))))

    ``workspace`` is a folder for weights and values of a segment of the model, free to be deleted afterwards. Weights are read
    once, in parts, for the largest number of each, and converted when they are written.
    """

    samples: Iterable[Sample] = field(repr=False, compare=False)
    workspace: Path = field(repr=False, compare=False)
    progress: Callable[[int], None] | None = field(default=None, repr=False, compare=False)

    name: ClassVar[str] = "halve"
    needs: ClassVar[tuple[Property, ...]] = (typed,)
    gives: ClassVar[tuple[Property, ...]] = (typed,)

    def call(self, model: ir.Model) -> Result:
        """Run the samples, find the islands, and halve the rest.

        Raises:
            UnsupportedError: if the graph has branches or loops.
            UsageError: without samples, and for one that does not fit the graph's inputs.
        """
        inner = branches(model.graph)
        if inner is not None:
            raise UnsupportedError(
                f"{inner.op_type} has graphs inside, and what they compute is not observed",
                where=module_path(inner),
                fix="export it with --quantize none, or write the model without branches",
            )
        graph = model.graph
        samples = checked(graph, self.samples)
        found = _Found(model, reach(model, samples, self.workspace, self.progress))
        edit = _Halving(graph, found)
        edit.run()
        changes = (Note("graph", f"{edit.count} values are float16"),) if edit.count else ()
        return Result(model, modified=bool(changes), changes=changes, misses=tuple(_islands(found.wide)))


class _Found:
    """Which nodes stay float32, and which operands are masks."""

    def __init__(self, model: ir.Model, reached: Reached) -> None:
        """Judge every node of ``model`` by what samples ``reached``."""
        self.opsets, self.reached = model.opset_imports, reached
        self.stored = {
            value: ends(value.const_value)
            for value in model.graph.initializers.values()
            if value.dtype == FLOAT and value.const_value is not None
        }
        self.masks = {(node, index) for node in model.graph for index in self._masks(node)}
        hiding = {node for node, _ in self.masks}
        self.hidden = {node.outputs[0] for node in hiding}
        self.wide: Wide = {}
        for node in model.graph:
            reason = None if _is_cast(node) and node.outputs[0].dtype != FLOAT else self._reason(node)
            if reason is not None:
                self.wide[node] = reason
        for node in [n for n in model.graph if n.op_type in ("Sin", "Cos") and n not in self.wide]:
            self._angle(node)

    def takes_half(self, node: ir.Node, index: int, output: bool = False) -> bool:
        """Return whether operand ``index`` of ``node`` may be float16: ONNX Runtime's own operators take it everywhere."""
        if node.domain not in ("", "ai.onnx"):
            return True
        schema = onnx.defs.get_schema(node.op_type, self.opsets.get("", 1), "")
        formal = schema.outputs if output else schema.inputs
        kind = formal[min(index, len(formal) - 1)].type_str
        allowed = next(
            (t.allowed_type_strs for t in schema.type_constraints if t.type_param_str == kind), [kind]
        )
        return "tensor(float16)" in allowed

    def _ends(self, value: ir.Value) -> Ends:
        found = self.stored.get(value)
        return found or self.reached.values.get(str(value.name), (0.0, 0.0))

    def _masks(self, node: ir.Node) -> list[int]:
        """Return the places of operands of ``node`` that hide scores by numbers beyond float16."""
        output = node.outputs[0]
        readers = output.consumers()
        if operator(node) != ATTENTION and (
            output.is_graph_output() or not readers or not all(is_op(r, "Softmax") for r in readers)
        ):
            return []
        places = [i for i in MASKED.get(operator(node), ()) if i < len(node.inputs)]
        return [i for i in places if (value := node.inputs[i]) is not None and self._is_mask(value)]

    def _is_mask(self, value: ir.Value) -> bool:
        """Return whether ``value`` goes below float16 and not above it, and was made to hide: it is no score."""
        low, high = self._ends(value)
        return value.dtype == FLOAT and low < -LARGEST and high <= LARGEST and self._hides(value)

    def _hides(self, value: ir.Value | None) -> bool:
        """Return whether ``value`` is given, stored or chosen from stored numbers, rather than computed."""
        maker = value.producer() if value is not None else None
        if value is None or maker is None:
            return value is not None
        if maker.op_type in SAME_NUMBERS:
            return self._hides(maker.inputs[0])
        beyond = [v for v in maker.inputs if v in self.stored and self.stored[v][0] < -LARGEST]
        return maker.op_type in ("Mul", "Where") and bool(beyond)

    def _reason(self, node: ir.Node) -> str | None:
        """Return why ``node`` is float32, None if it is not."""
        floats = [v for v in (*node.inputs, *node.outputs) if v is not None and v.dtype == FLOAT]
        if not floats:
            return None
        for index, value in enumerate(node.inputs):
            if value is None or value.dtype != FLOAT or (node, index) in self.masks:
                continue
            far = self._far(value)
            if far > LARGEST:
                return _beyond(node, f"reads {value.name}, which reaches", far)
        for value in node.outputs:
            far = self._far(value) if value.dtype == FLOAT else 0.0
            if far > LARGEST:
                return _beyond(node, "reaches", far)
        total = self.reached.sums.get(str(node.outputs[0].name), 0.0)
        if total > LARGEST:
            return _beyond(node, "adds up to", total)
        return None if self._has_half(node) else ""

    def _far(self, value: ir.Value) -> float:
        """Return the largest magnitude of ``value``; what hides scores does not count."""
        low, high = self._ends(value)
        return high if value in self.hidden else max(-low, high)

    def _has_half(self, node: ir.Node) -> bool:
        """Return whether ``node`` makes float16 of float16, or of whole numbers."""
        if _is_cast(node):
            return node.inputs[0] is None or node.inputs[0].dtype != HALF
        reads = [i for i, v in enumerate(node.inputs) if v is not None and v.dtype == FLOAT]
        return any(self.takes_half(node, i) for i in reads) and all(
            self.takes_half(node, i, output=True) for i, v in enumerate(node.outputs) if v.dtype == FLOAT
        )

    def _angle(self, node: ir.Node) -> None:
        """Keep ``node``, and what makes its angle, in float32 if that is too wide."""
        angle = node.inputs[0]
        if angle is None or angle.dtype != FLOAT or self._far(angle) <= WIDEST_ANGLE:
            return
        reason = f"{node.op_type} turns by up to {self._far(angle):.3g}, which float16 rounds too coarsely"
        waiting = [node]
        while waiting:
            one = waiting.pop()
            self.wide.setdefault(one, reason)
            makers = [v.producer() for v in one.inputs if v is not None and v.dtype == FLOAT]
            waiting += [m for m in makers if m is not None and m.op_type in TO_ANGLES and m not in self.wide]


class _Halving:
    """What is done to a graph."""

    def __init__(self, graph: ir.Graph, found: _Found) -> None:
        """Start on ``graph``."""
        self.graph, self.found = graph, found
        self.narrowed: set[ir.Value] = set()
        """Values that were float32 and are float16."""
        self.forms: dict[tuple[ir.Value, str], ir.Value] = {}
        """Another form of a value: in float16, in float32, as a mask in float16."""

    @property
    def count(self) -> int:
        """How many values and weights became float16."""
        return len(self.narrowed) + sum(kind != "wide" for _, kind in self.forms)

    def run(self) -> None:
        """Narrow what nodes make, then what they read, then give back what the graph returns in float32."""
        nodes = list(self.graph)
        reads = {node: [v is not None and v.dtype == FLOAT for v in node.inputs] for node in nodes}
        for node in nodes:
            if node not in self.found.wide:
                self._narrow(node)
        for node in nodes:
            for index, value in enumerate(node.inputs):
                if value is not None and reads[node][index] and not _is_cast(node):
                    node.replace_input_with(index, self._operand(node, index, value))
        for index, value in enumerate(list(self.graph.outputs)):
            if value in self.narrowed:
                self._return(index, value)
        for value in [v for v, kind in self.forms if kind != "wide" and v.const_value is not None]:
            if not value.uses() and not value.is_graph_output():
                self.graph.initializers.pop(str(value.name), None)

    def _narrow(self, node: ir.Node) -> None:
        """Let ``node`` make float16."""
        for value in node.outputs:
            if value.dtype == FLOAT:
                value.type = ir.TensorType(HALF)
                self.narrowed.add(value)
                if _is_cast(node):
                    node.attributes["to"] = ir.AttrInt64("to", HALF)

    def _operand(self, node: ir.Node, index: int, value: ir.Value) -> ir.Value:
        """Return the form of ``value`` that ``node`` reads at ``index``."""
        if node in self.found.wide or not self.found.takes_half(node, index):
            return self._form(value, "wide") if value in self.narrowed else value
        if (node, index) in self.found.masks:
            return self._form(value, "mask")
        return value if value in self.narrowed else self._form(value, "half")

    def _form(self, value: ir.Value, kind: str) -> ir.Value:
        """Return another form of ``value``, made once."""
        if (value, kind) not in self.forms:
            stored = value.const_value is not None and not value.is_graph_input()
            self.forms[value, kind] = self._stored(value, kind) if stored else self._cast(value, kind)
        return self.forms[value, kind]

    def _stored(self, value: ir.Value, kind: str) -> ir.Value:
        """Return an initializer for what ``value`` stores; a constant stays in memory."""
        tensor = value.const_value
        assert tensor is not None
        if kind == "mask":
            made = half_mask(tensor)
        elif is_weight(value):
            made = half(tensor)
        else:
            made = ir.tensor(half_constant(array(tensor)), name=f"{value.name}{SUFFIX}")
        return register(self.graph, stored_value(made))

    def _cast(self, value: ir.Value, kind: str) -> ir.Value:
        """Return ``value`` cast, behind what makes it."""
        added = Added(self.graph, str(value.name))
        shape = value.shape
        assert shape is not None  # typed
        made = value
        if kind == "mask":
            least = constant(self.graph, "m4c.lowest", np.array(LOWEST, np.float32))
            made = added.op("Clip", [value, least], "limited", FLOAT, shape)
        to = FLOAT if kind == "wide" else HALF
        made = added.op("Cast", [made], "float32" if kind == "wide" else SUFFIX[1:], to, shape, to=to)
        added.put_behind(value)
        return made

    def _return(self, index: int, value: ir.Value) -> None:
        """Return ``value`` in float32 under its own name."""
        wide = self._form(value, "wide")
        if wide.is_graph_output():  # a graph may return a value twice
            self.graph.outputs[index] = wide
            return
        name = str(value.name)
        value.name = f"{name}{SUFFIX}"
        wide.name = name
        self.graph.outputs[index] = wide


def _is_cast(node: ir.Node) -> bool:
    return is_op(node, "Cast")


def _beyond(node: ir.Node, how: str, far: float) -> str:
    return f"{node.op_type} {how} {far:.3g}, and float16 ends at {LARGEST:g}"


def _islands(wide: Mapping[ir.Node, str]) -> list[Note]:
    """Return a note for each island of neighbours in ``wide``: by the value that its first node makes, and why that is wide."""
    notes, seen = [], set[ir.Node]()
    for first in wide:
        if first in seen or not wide[first]:
            continue
        island, waiting = set[ir.Node](), [first]
        while waiting:
            node = waiting.pop()
            if node in island or node not in wide:
                continue
            island.add(node)
            waiting += [m for v in node.inputs if v is not None and (m := v.producer()) is not None]
            waiting += [reader for output in node.outputs for reader in output.consumers()]
        seen |= island
        nodes = f"{len(island)} nodes are" if len(island) > 1 else "it is"
        notes.append(Note(str(first.outputs[0].name), f"{wide[first]}: {nodes} float32"))
    return notes
