"""Pages are true as far as a machine can tell: commands have the options they are shown with, links lead somewhere."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from m4c.cli import app
from tests.shown import PAGES, ROOT, in_shell, in_text, in_workflow


def commands(page: Path) -> Iterator[str]:
    """Yield every m4c command that a page shows, without its first word."""
    for shown in (*in_shell(page), *in_workflow(page), *in_text(page)):
        found = re.search(r"(?:^|[\s/])m4c (\S.*)", shown.command)
        if found:
            yield found[1]


SHOWN = sorted({(page.name, line) for page in PAGES for line in commands(page)})


@pytest.mark.parametrize(("page", "line"), SHOWN, ids=[f"{page}: {line}"[:90] for page, line in SHOWN])
def test_every_option_of_a_shown_command_is_there(page: str, line: str) -> None:
    words = [word for word in shlex.split(line.replace("…", "")) if word != "..."]
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and words:
        name = words.pop(0)
        assert name in command.commands, f"{page}: there is no command {name}"
        command = command.commands[name]
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    for word in words:
        name = word.partition("=")[0]
        if re.fullmatch(r"-[a-zA-Z]|--[a-z][a-z0-9-]*", name) and name != "--help":
            assert name in known, f"{page}: m4c {line}: there is no {name}"


def test_pages_show_enough() -> None:
    assert len(SHOWN) > 60


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor and file.suffix == ".md":
            titles = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE)
            assert anchor in {_anchor(title) for title in titles}, f"{page.name}: {target}"


def test_every_page_is_reached_from_the_readme() -> None:
    shown = set(re.findall(r"\]\(docs/([a-z_]+\.md)", (ROOT / "README.md").read_text("utf-8")))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - shown <= {"constraints.md"}


def _anchor(title: str) -> str:
    """Return the anchor that GitHub makes of a title."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
