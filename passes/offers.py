"""What was offered in place of norms: finding it, and putting it there."""

import onnx_ir as ir

from m4c.quant import INSTEAD
from m4c.rewrite import bypass


def offers(model: ir.Model) -> list[tuple[ir.Value, ir.Value]]:
    """Return each norm and what was offered for it; after this nothing is marked as an offer any more."""
    values = {str(o.name): o for node in model.graph for o in node.outputs}
    return [
        (values[v.metadata_props.pop(INSTEAD)], v) for v in values.values() if INSTEAD in v.metadata_props
    ]


def made_by(value: ir.Value, index: int) -> ir.Value:
    """Return operand ``index`` of what makes ``value``."""
    node = value.producer()
    operand = node.inputs[index] if node is not None else None
    assert operand is not None
    return operand


def squared(offer: ir.Value) -> ir.Value:
    """Return the clipped square of the length."""
    return made_by(made_by(made_by(offer, 1), 0), 0)


def take(kept: ir.Value, offer: ir.Value) -> None:
    """Let ``offer`` have the readers and the name of ``kept``; an integer RSQRT gives its largest number for 0, so no Clip."""
    name, node, clip = kept.name, kept.producer(), squared(offer).producer()
    assert node is not None
    assert node.graph is not None
    assert clip is not None
    kept.replace_all_uses_with(offer, replace_graph_outputs=True)
    node.graph.remove(node, safe=True)
    offer.name = name
    assert clip.inputs[0] is not None
    bypass(clip, clip.inputs[0])
