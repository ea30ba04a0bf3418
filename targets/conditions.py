"""Every condition that profiles may name: importing this file makes them known."""

from m4c.targets.constraints import KNOWN, Condition, Constraint, layouts, of_onnx, parse, tensors, windows

__all__ = ["KNOWN", "ROOMS", "Condition", "Constraint", "parse"]

ROOMS = (tensors, windows, layouts, of_onnx)
"""Where they are written, in the order of docs/constraints.md."""

TITLES = {
    tensors: "Tensors",
    windows: "Convolutions, pooling, linear layers",
    layouts: "Reducing, cutting, joining, resizing, reordering",
    of_onnx: "ONNX attributes and types",
}
"""What each room is called on the page."""


def page() -> str:
    """Return docs/constraints.md: every condition, by room, in the words of its function."""
    lines = [
        "# Constraints",
        "",
        "What a rule of a [profile](adding_a_target.md) may ask of an operator call. Written by m4c from the functions in",
        "`targets/constraints/`; a test holds the two together.",
    ]
    for room in ROOMS:
        lines += [
            "",
            f"## {TITLES[room]}",
            "",
            "| constraint | what it asks | where it does not hold |",
            "|---|---|---|",
        ]
        for known in KNOWN.values():
            if known.check.__module__ == room.__name__:
                lines.append(f"| `{known.form}` | {known.sentence} | {known.fix} |")
    return "\n".join(lines) + "\n"
