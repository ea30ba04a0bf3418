"""The outcome of a gate as JUnit XML: one case a graph and rule, as test dashboards read it."""

import re
from xml.etree import ElementTree

from m4c.operator_reports.gate.finding import Finding, Outcome

WHOLE = "all graphs"
FORBIDDEN = re.compile(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")
"""What XML 1.0 has no way to write."""


def to_junit(outcome: Outcome) -> str:
    """Return the document: failures with every finding of the case, waived cases as skipped."""
    found: dict[tuple[str, str], list[Finding]] = {asked: [] for asked in outcome.checked}
    for one in outcome.findings:
        found.setdefault((one.graph, one.rule), []).append(one)
    failed = sum(any(one.waiver is None for one in cases) for cases in found.values())
    skipped = sum(bool(cases) and all(one.waiver for one in cases) for cases in found.values())
    name = f"m4c gate {outcome.figures.subject} {outcome.figures.target}"
    counts = {"tests": str(len(found)), "failures": str(failed), "errors": "0", "skipped": str(skipped)}
    top = ElementTree.Element("testsuites", {"name": "m4c gate", **counts})
    suite = ElementTree.SubElement(top, "testsuite", {"name": _clean(name), **counts})
    for (graph, rule), cases in found.items():
        place = f"{outcome.figures.subject}.{outcome.figures.target}.{graph or WHOLE}"
        case = ElementTree.SubElement(suite, "testcase", {"classname": _clean(place), "name": rule})
        failures = [one for one in cases if one.waiver is None]
        if failures:
            made = ElementTree.SubElement(
                case, "failure", {"type": rule, "message": _clean(failures[0].message)}
            )
            made.text = _clean("\n".join(_text(one) for one in failures))
        elif cases:
            said = "; ".join(
                f"{one.text}: {one.waiver}, until {one.waiver.expires}" for one in cases if one.waiver
            )
            ElementTree.SubElement(case, "skipped", {"message": _clean(said)})
    ElementTree.indent(top)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(top, "unicode")}\n'


def _text(one: Finding) -> str:
    return f"{one.message}\n  at:  {one.where or WHOLE}\n  fix: {one.fix}"


def _clean(text: str) -> str:
    return FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)
