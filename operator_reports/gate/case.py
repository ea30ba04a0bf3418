"""The rules that are asked of one graph: each of a limit, if there is one, and of the baseline."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from m4c.operator_reports.gate.figures import NOT_CONVERTED, GraphFigures, Share
from m4c.operator_reports.gate.finding import UPDATE, Ledger, Place, counted, first_break, place_of
from m4c.operator_reports.gate.limits import Limits
from m4c.operator_reports.placement import NotConverted, Placement
from m4c.targets.legality import Illegal, Reason
from m4c.targets.view import Node

LARGER_ERROR = 2.0
"""How many times the baseline's error an error may be: float kernels add in another order on another processor."""

LOST_DB = 0.5
"""By how many dB the SQNR may be below the baseline's, for the same reason."""

NUMBERS = "see docs/quantization.md; m4c explain tells what a node became, and an export names the first node that differs"
"""What there is to do about an error."""


@dataclass(frozen=True, slots=True)
class Case:
    """A graph, what it was in the baseline, and where findings go."""

    name: str
    now: GraphFigures
    old: GraphFigures | None
    """None if there is no baseline, or it does not have the graph."""
    limits: Limits
    ledger: Ledger

    def converted(self, one: NotConverted) -> None:
        """Ask of a graph that has no form for the target whether it had one before, or needs one for a limit.

        One that is the host's by design needs none.
        """
        limits = self.limits
        wanted = not one.by_host and any(
            limit is not None
            for limit in (limits.min_coverage, limits.min_coverage_macs, limits.min_coverage_bytes)
        )
        if wanted or self.old is not None:
            self.ledger.ask("conversion", self.name)
        if wanted or (self.old is not None and self.old.outcome != NOT_CONVERTED):
            text = f"nothing of it runs on the target: {one.why}"
            self.ledger.add("conversion", self.name, text, one.fix)

    def placed(self, one: Placement) -> None:
        """Ask every rule of a graph that has a place on the target."""
        if self.old is not None:
            self.ledger.ask("conversion", self.name)
            if self.old.outcome == NOT_CONVERTED:
                self.ledger.better.append(f"{self.name}: there is something that the target can judge now")
            else:
                self._unsupported(one, self.old)
        place = first_break(one)
        self._share("coverage-nodes", "nodes", self.limits.min_coverage, lambda g: g.nodes, place)
        macs = self.limits.min_coverage_macs
        self._share("coverage-macs", "multiply-accumulates", macs, lambda g: g.macs, place)
        self._share("coverage-bytes", "bytes", self.limits.min_coverage_bytes, lambda g: g.bytes, place)
        self._partitions(place)
        self._error()
        self._sqnr()

    def _unsupported(self, one: Placement, old: GraphFigures) -> None:
        """Ask whether more nodes of an operator stay off the target than before, and name the first that is new."""
        self.ledger.ask("unsupported", self.name)
        refused: dict[str, list[tuple[Node, tuple[Reason, ...]]]] = {}
        for node, verdict in zip(one.graph.nodes, one.verdicts, strict=True):
            if isinstance(verdict, Illegal):
                refused.setdefault(node.operator, []).append((node, verdict.reasons))
        for operator, nodes in refused.items():
            known = Counter(old.unsupported.get(operator, {}))
            before = known.total()
            if len(nodes) <= before:
                continue
            fresh = []
            for node, reasons in nodes:
                if known[node.where]:
                    known[node.where] -= 1
                else:
                    fresh.append((node, reasons))
            place = place_of(one, *fresh[0])
            text = f"{operator} does not run on {one.target.name}: {counted(len(nodes), 'node')}, {before} in the baseline"
            self.ledger.add("unsupported", self.name, text, place.fix, place, operator)

    def _share(
        self,
        rule: str,
        words: str,
        least: float | None,
        figure: Callable[[GraphFigures], Share | None],
        place: Place | None,
    ) -> None:
        """Ask for a share that runs on the target. One that falls while no more stays off it is not worse."""
        share, was = figure(self.now), None if self.old is None else figure(self.old)
        if share is None or (least is None and was is None):
            return
        self.ledger.ask(rule, self.name)
        fix = place.fix if place else UPDATE
        text = f"{share} of the {words} run on the target"
        if least is not None and 100 * share.on < least * share.all:
            self.ledger.add(rule, self.name, f"{text}, {least:g} % are asked for", fix, place)
        elif was is not None and share.percent < was.percent and share.left > was.left:
            self.ledger.add(rule, self.name, f"{text}, {was} in the baseline", fix, place)
        elif was is not None and share.percent > was.percent:
            self.ledger.better.append(f"{self.name}: {text}, {was} in the baseline")

    def _partitions(self, place: Place | None) -> None:
        """Ask into how many partitions the graph is cut; the first ones of a graph that had none are no loss."""
        count, most = self.now.partitions or 0, self.limits.max_partitions
        was = None if self.old is None else self.old.partitions
        if most is None and was is None:
            return
        self.ledger.ask("partitions", self.name)
        fix = place.fix if place else UPDATE
        text = counted(count, "partition")
        if most is not None and count > most:
            self.ledger.add("partitions", self.name, f"{text}, {most} allowed", fix, place)
        elif was and count > was:
            self.ledger.add("partitions", self.name, f"{text}, {was} in the baseline", fix, place)
        elif was and 0 < count < was:
            self.ledger.better.append(f"{self.name}: {text}, {was} in the baseline")

    def _error(self) -> None:
        """Ask for the error that an artifact was built with."""
        error, most = self.now.error, self.limits.max_error
        was = None if self.old is None else self.old.error
        if error is None or (most is None and was is None):
            return
        self.ledger.ask("error", self.name)
        text = f"error {error:g}"
        if most is not None and error > most:
            self.ledger.add("error", self.name, f"{text}, {most:g} allowed", NUMBERS)
        elif was is not None and error > LARGER_ERROR * was:
            self.ledger.add("error", self.name, f"{text}, {was:g} in the baseline", NUMBERS)
        elif was is not None and LARGER_ERROR * error < was:
            self.ledger.better.append(f"{self.name}: {text}, {was:g} in the baseline")

    def _sqnr(self) -> None:
        """Ask for the signal-to-noise ratio that an artifact was built with."""
        found, least = self.now.sqnr_db, self.limits.min_sqnr
        was = None if self.old is None else self.old.sqnr_db
        if found is None or (least is None and was is None):
            return
        self.ledger.ask("sqnr", self.name)
        text = f"{found:g} dB"
        if least is not None and found < least:
            self.ledger.add("sqnr", self.name, f"{text}, {least:g} asked for", NUMBERS)
        elif was is not None and found < was - LOST_DB:
            self.ledger.add("sqnr", self.name, f"{text}, {was:g} in the baseline", NUMBERS)
        elif was is not None and found > was + LOST_DB:
            self.ledger.better.append(f"{self.name}: {text}, {was:g} in the baseline")
