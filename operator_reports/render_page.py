"""A report as one HTML page that needs nothing else: no network, no other file."""

import json
from collections.abc import Mapping
from pathlib import Path

PAGE = Path(__file__).resolve().parent / "page"
"""The page without its figures: HTML, CSS and JavaScript."""


def to_html(data: Mapping[str, object]) -> str:
    """Return the page that shows ``data``, as :func:`m4c.operator_reports.page_data.page_data` makes it.

    No text of it can end the script that holds it: every ``<`` is escaped.
    """
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = {
        "/*STYLE*/": (PAGE / "page.css").read_text("utf-8"),
        "/*SCRIPT*/": "".join(
            (PAGE / name).read_text("utf-8") for name in ("page.js", "charts.js", "start.js")
        ),
        "/*DATA*/": text,
    }
    page = (PAGE / "page.html").read_text("utf-8")
    for mark, part in parts.items():
        before, _, after = page.partition(mark)
        page = before + part + after
    return page
