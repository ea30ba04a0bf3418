"""Where torch's exporter says a node comes from: a list of scopes as text, which files keep."""

import ast

NAME_SCOPES = "pkg.torch.onnx.name_scopes"
"""The key that it is kept under."""


def module_of(scopes: str | None) -> str:
    """Return the innermost module of ``['', 'source', 'source.blocks.1', 'linear']``: ``blocks.1``; nothing without one."""
    if not scopes:
        return ""
    try:
        path = [scope for scope in ast.literal_eval(scopes)[:-1] if scope not in ("", "source")]
    except (ValueError, SyntaxError, TypeError):  # somebody else's
        return ""
    return str(path[-1]).removeprefix("source.") if path else ""
