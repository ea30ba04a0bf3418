"""The HTML page of a report, as its user has it: in a browser, by mouse and by keyboard, in light and in dark."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ai_edge_litert import schema_py_generated as tfl

from m4c.operator_reports.across import across
from m4c.operator_reports.page_data import page_data
from m4c.operator_reports.render_page import to_html
from m4c.operator_reports.zoo.baseline import stored as counted
from m4c.progress import Silent
from m4c.targets.profile import load_target
from tests.browser import Browser, browser, missing
from tests.end_to_end.command import m4c
from tests.targets.graphs import stored

CODES, KINDS = tfl.BuiltinOperator, tfl.TensorType
TARGETS = ("coreml", "edgetpu", "nnapi")
HOSTILE = "</script><script>alert(1)</script>&amp;"

CONTRASTS = """
const pen = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const rgba = (colour) => { pen.clearRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
  return [...pen.getImageData(0, 0, 1, 1).data]; };
const light = (c) => { const [r, g, b] = c.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = (e) => { for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor);
  if (c[3] === 255) return c; } return rgba("white"); };
const found = [];
for (const e of document.querySelectorAll("h1, h2, p, th, td, small, span, li, label, button, legend, select, text, .fix")) {
  const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  if (!own || !e.checkVisibility()) continue;
  const style = getComputedStyle(e), ink = e.tagName === "text" ? style.fill : style.color;
  const [a, b] = [light(rgba(ink)), light(behind(e))].sort((x, y) => y - x);
  found.push([(a + 0.05) / (b + 0.05), e.tagName + " " + e.className + ": " + e.textContent.slice(0, 40)]);
}
return found.sort((x, y) => x[0] - y[0]).slice(0, 5).concat([[found.length, "counted"]]);
"""
"""The texts of a page with the least contrast, and how many were looked at."""


def graph(path: Path) -> Path:
    """Write a file of which the Edge TPU takes two nodes of five, and leaves two that it could run."""
    names = ["x", "relu", "tanh", HOSTILE, "logistic", "y"]
    tensors = [(name, KINDS.INT8, (1, 4), None) for name in names]
    operators = (CODES.RELU, CODES.TANH, CODES.GELU, CODES.LOGISTIC, CODES.RELU)
    return stored(path, tensors, [(o, [i], [i + 1]) for i, o in enumerate(operators)], None, ([0], [5]))


def data_of(path: Path) -> dict[str, Any]:
    targets = [load_target(name) for name in TARGETS]
    found = across(str(path), targets, Silent())
    return json.loads(json.dumps(page_data(path.name, targets, found, counted())))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = graph(tmp_path_factory.mktemp("page") / "m.tflite")
    (made := path.with_suffix(".html")).write_text(to_html(data_of(path)), "utf-8")
    return made


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if missing():
        pytest.skip(missing())
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def shown(window: Browser, page: Path) -> Iterator[Browser]:
    """Open the page anew; at the end the console must have been told nothing."""
    window.open(Path("/dev/null"))
    window.complaints()
    window.prefer("light")
    window.open(page)
    yield window
    assert window.complaints() == []


def rows(window: Browser) -> list[list[str]]:
    script = "return [...document.querySelectorAll('#rows tr')].map(r => [...r.cells].map(c => c.innerText))"
    return [list(row) for row in window.run(script)]


def count(window: Browser) -> str:
    return str(window.run("return document.getElementById('count').textContent"))


def test_the_page_shows_what_the_report_says(shown: Browser) -> None:
    assert shown.run("return document.title") == "m.tflite on 3 targets · m4c"
    assert shown.run("return document.getElementById('target').selectedOptions[0].text") == "edgetpu"
    found = rows(shown)
    assert [(row[1], row[4]) for row in found] == [
        ("RELU", "partition 1"),
        ("TANH", "partition 1"),
        ("GELU", "no"),
        ("LOGISTIC", "could, is left"),
        ("RELU", "could, is left"),
    ]
    assert "GELU is not among the 40 operators of edgetpu" in found[2][5]
    assert HOSTILE in found[2][3]
    cells = shown.run(
        "return [...document.querySelectorAll('#heat tbody tr:first-child td')].map(c => c.innerText)"
    )
    assert [cell.split()[0] for cell in cells] == ["✕–", "◐40", "◐80"]
    runs = shown.run(
        "return [...document.querySelectorAll('.strip[aria-pressed=true] rect')].map(r => r.getAttribute('width'))"
    )
    assert runs == ["2", "1", "2"]


def test_filters_and_search(shown: Browser) -> None:
    assert count(shown) == "5 of 5 nodes"
    shown.click("input[value=on]")
    assert [row[1] for row in rows(shown)] == ["GELU", "LOGISTIC", "RELU"]
    shown.click("input[value=left]")
    assert [row[1] for row in rows(shown)] == ["GELU"]
    assert count(shown) == "1 of 5 nodes"
    shown.click("button[type=reset]")
    shown.type("#search", "could relu")
    assert [row[0] for row in rows(shown)] == ["4"]
    shown.click("button[type=reset]")
    assert count(shown) == "5 of 5 nodes"
    shown.click(".bar[aria-label^=RELU]")
    assert [row[0] for row in rows(shown)] == ["0", "4"]


def test_it_works_by_keyboard(shown: Browser) -> None:
    shown.run("document.querySelector('#heat td[tabindex=\"0\"]').focus()")
    shown.press("Right", "Enter")
    assert shown.run("return document.getElementById('target').selectedOptions[0].text") == "nnapi"
    assert shown.run("return document.activeElement.getAttribute('aria-label')").startswith(
        "m on nnapi: 80 %, 2 partitions"
    )
    assert shown.run("return location.hash") == "#graph=m&target=nnapi"
    seen = []
    for _ in range(40):
        shown.press("Tab")
        seen.append(
            shown.run("const e = document.activeElement; return e.id || e.value || e.className || e.tagName")
        )
    assert {"strip", "graph", "target", "operator", "search", "on", "left", "off", "bar", "level"} <= set(
        seen
    )
    shown.run("document.querySelector('input[value=off]').focus()")
    shown.press("Space")
    assert [row[1] for row in rows(shown)] == ["RELU", "TANH", "LOGISTIC", "RELU"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(shown: Browser, scheme: str) -> None:
    shown.prefer(scheme)
    dark = shown.run("return getComputedStyle(document.body).backgroundColor")
    assert dark == {"light": "rgb(247, 248, 250)", "dark": "rgb(16, 21, 27)"}[scheme]
    *worst, (looked_at, _) = shown.run(CONTRASTS)
    assert looked_at > 60
    assert [text for ratio, text in worst if ratio < 4.5] == []


def test_growth_is_the_zoos(shown: Browser) -> None:
    label = "return document.querySelector('#growth svg').getAttribute('aria-label')"
    zoo = counted()
    for level in ("optimized", "canonical"):
        shown.run(
            f"const s = document.getElementById('level'); s.value = '{level}'; s.dispatchEvent(new Event('change'))"
        )
        assert f"{zoo.growth(level)[-1].union} after the last; M4 needs {len(zoo.m4(level))}" in shown.run(
            label
        )


def test_no_text_ends_the_script(page: Path) -> None:
    text = page.read_text("utf-8")
    assert text.count("</script>") == 2
    assert "alert(1)" in text
    held = text.partition('id="data">')[2].partition("</script>")[0]
    assert json.loads(held)["subject"] == "m.tflite"
    assert not [
        word
        for word in ("http://", "https://", "src=", "@import", "url(")
        if word in text.replace(held, "").replace("http://www.w3.org/2000/svg", "")
    ]


def test_the_command_writes_a_page(tmp_path: Path) -> None:
    made = tmp_path / "page.html"
    path = graph(tmp_path / "m.tflite")
    m4c(
        "report",
        str(path),
        *(part for name in TARGETS for part in ("--target", name)),
        "--format",
        "html",
        "-o",
        str(made),
    )
    held = made.read_text("utf-8").partition('id="data">')[2].partition("</script>")[0]
    shown, expected = json.loads(held), data_of(path)
    assert {key: shown[key] for key in ("cells", "graphs", "texts", "reasons")} == {
        key: expected[key] for key in ("cells", "graphs", "texts", "reasons")
    }
    assert shown["growth"] is None
