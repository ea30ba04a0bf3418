"""The rules of a gate by name, and the limits that a user may set."""

from dataclasses import dataclass, fields

RULES = {
    "unsupported": "no operator stays off the target that did not before",
    "conversion": "every graph has a form in a format of the target",
    "graphs": "the graphs are those of the baseline",
    "coverage-nodes": "the share of nodes on the target",
    "coverage-macs": "the share of multiply-accumulates on the target",
    "coverage-bytes": "the share of bytes read and written on the target",
    "partitions": "the partitions of a graph on the target",
    "operator-types": "the operator types of all graphs",
    "new-operators": "operator types that the baseline has nowhere",
    "size": "the bytes of all artifacts, or of all parameters where there are none",
    "error": "the largest error against the source, relative to the largest output",
    "sqnr": "the signal-to-noise ratio against the source",
}
"""Each rule's name and what it holds, in the order of a report: causes before what follows from them."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a user allows; None is no limit."""

    min_coverage: float | None = None
    """Percent of the nodes of every graph."""
    min_coverage_macs: float | None = None
    min_coverage_bytes: float | None = None
    max_op_types: int | None = None
    """Of all graphs of a format together."""
    max_partitions: int | None = None
    """Of every graph."""
    max_size: int | None = None
    """Bytes of all together."""
    max_error: float | None = None
    """Of every graph, relative."""
    min_sqnr: float | None = None
    """Of every graph, in dB."""
    max_new_operators: int | None = None
    """Operator types beyond those of the baseline; none where nothing is said."""

    @property
    def given(self) -> tuple[str, ...]:
        """The names of the options that are set."""
        return tuple(
            f"--{one.name.replace('_', '-')}" for one in fields(self) if getattr(self, one.name) is not None
        )
