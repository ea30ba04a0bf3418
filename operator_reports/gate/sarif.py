"""The outcome of a gate as SARIF 2.1.0, as code scanning reads it.

A finding is at the file that was judged, or of a preset at its baseline, for scanners show nothing without a file; the graph
and the module are its logical location.
"""

import hashlib
from typing import Any

from m4c import __version__
from m4c.operator_reports.gate.finding import Finding, Outcome
from m4c.operator_reports.gate.limits import RULES

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def to_sarif(outcome: Outcome, file: str) -> dict[str, Any]:
    """Return the log as a plain object; ``file`` is the path, from the repository's root, that findings are shown at."""
    driver = {
        "name": "m4c",
        "semanticVersion": __version__,
        "rules": [
            {
                "id": rule,
                "shortDescription": {"text": text},
                "help": {"text": f"{text}; see docs/gate.md"},
                "defaultConfiguration": {"level": "error"},
            }
            for rule, text in RULES.items()
        ],
    }
    results = [_result(one, outcome, file) for one in outcome.findings]
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _result(one: Finding, outcome: Outcome, file: str) -> dict[str, Any]:
    place = f"{one.where or 'all graphs'} on {outcome.figures.target}"
    made: dict[str, Any] = {
        "ruleId": one.rule,
        "ruleIndex": list(RULES).index(one.rule),
        "level": "error" if one.waiver is None else "note",
        "message": {"text": f"{one.message}; at {place}; fix: {one.fix}"},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": file},
                    "region": {"startLine": 1},
                },
                "logicalLocations": [_logical(one, outcome)],
            }
        ],
        "partialFingerprints": {"m4c/v1": _fingerprint(one, outcome)},
    }
    if one.waiver is not None:
        said = f"{one.waiver.owner}: {one.waiver.reason}, until {one.waiver.expires}"
        made["suppressions"] = [{"kind": "external", "status": "accepted", "justification": said}]
    return made


def _logical(one: Finding, outcome: Outcome) -> dict[str, str]:
    """Return the module of a finding, below its graph."""
    if one.place is None:
        name = one.graph or outcome.figures.subject
        return {"name": name, "fullyQualifiedName": f"{outcome.figures.target}/{name}", "kind": "module"}
    name = f"{outcome.figures.target}/{one.place.graph}/{one.place.where}"
    return {"name": one.place.where, "fullyQualifiedName": name, "kind": "module"}


def _fingerprint(one: Finding, outcome: Outcome) -> str:
    """Return what tells a finding from others from run to run: no numbers, no node indices."""
    where = one.place.where if one.place else ""
    parts = (outcome.figures.subject, outcome.figures.target, one.rule, one.graph, one.operator, where)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
