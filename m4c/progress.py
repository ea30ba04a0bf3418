"""How a compile tells what it is doing; the command line draws it, a test may listen."""

from typing import Protocol


class Progress(Protocol):
    """A listener. ``stage`` begins a stage of one graph, ``step`` tells how much of it is done."""

    def stage(self, graph: str, stage: str) -> None:
        """Begin ``stage`` of ``graph``: capture, passes, emit, verify …"""

    def step(self, graph: str, done: int, total: int) -> None:
        """Say that ``done`` of ``total`` bytes of the stage are done, or with ``total`` 0, ``done`` samples."""

    def finished(self, graph: str) -> None:
        """Say that ``graph`` is complete."""

    def completed(self, submodel: str) -> None:
        """Say that all graphs of ``submodel`` are complete."""


class Silent:
    """Listens to nothing."""

    def stage(self, graph: str, stage: str) -> None:
        """Do nothing."""

    def step(self, graph: str, done: int, total: int) -> None:
        """Do nothing."""

    def finished(self, graph: str) -> None:
        """Do nothing."""

    def completed(self, submodel: str) -> None:
        """Do nothing."""
