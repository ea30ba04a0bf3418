"""Where the files of image models transpose: told by walking the flatbuffer."""

from collections import defaultdict
from typing import Any

from ai_edge_litert import schema_py_generated as tfl

Op = tfl.BuiltinOperator
CONVOLUTIONS = {Op.CONV_2D, Op.DEPTHWISE_CONV_2D}
PRODUCTS = {*CONVOLUTIONS, Op.FULLY_CONNECTED, Op.BATCH_MATMUL}
Edges = dict[int, list[int]]


class Walk:
    """The operators of a sub-graph by their numbers, and who comes before and after whom."""

    def __init__(self, model: bytes) -> None:
        held = tfl.ModelT.InitFromPackedBuf(model, 0)
        graph = held.subgraphs[0]
        self.operators: list[Any] = graph.operators
        self.border = {*graph.inputs, *graph.outputs}
        self.codes = [held.operatorCodes[o.opcodeIndex].builtinCode for o in self.operators]
        makers = {index: number for number, o in enumerate(self.operators) for index in o.outputs}
        self.after: Edges = defaultdict(list)
        self.before: Edges = defaultdict(list)
        for number, operator in enumerate(self.operators):
            for maker in (makers[index] for index in operator.inputs if index in makers):
                self.before[number].append(maker)
                self.after[maker].append(number)

    def transpositions(self) -> list[int]:
        """Return all of them but those of inputs and outputs of the graph."""
        return [
            number
            for number, operator in enumerate(self.operators)
            if self.codes[number] == Op.TRANSPOSE
            and not self.border & {operator.inputs[0], operator.outputs[0]}
        ]

    def nearest(self, number: int, edges: Edges) -> set[int]:
        """Return the codes of the first products on all paths from an operator."""
        found, seen, waiting = set(), {number}, list(edges[number])
        while waiting:
            other = waiting.pop()
            if self.codes[other] in PRODUCTS:
                found.add(self.codes[other])
            elif other not in seen:
                seen.add(other)
                waiting += edges[other]
        return found


def check(model: bytes, convolutions: int) -> None:
    """Assert that on no path between convolutions or linear layers anything is transposed.

    What is left stands at the border of the graph, or between a linear layer and the product of two computed values: the heads
    of attention.
    """
    walk, heads = Walk(model), {Op.BATCH_MATMUL}
    assert sum(code in CONVOLUTIONS for code in walk.codes) == convolutions
    assert walk.codes.count(Op.TRANSPOSE) - len(walk.transpositions()) <= 2
    for number in walk.transpositions():
        assert heads in (walk.nearest(number, walk.after), walk.nearest(number, walk.before))
    assert len(walk.transpositions()) == 2 * walk.codes.count(
        Op.BATCH_MATMUL
    )  # q, k, v and the result, of two each
