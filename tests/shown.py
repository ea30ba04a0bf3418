"""What the pages show: their blocks, and the commands in them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
INLINE = re.compile(r"`m4c ([a-z][^`]*)`")


@dataclass(frozen=True)
class Shown:
    """A command and the comment behind it."""

    command: str
    comment: str = ""


def blocks(page: Path, *languages: str) -> Iterator[str]:
    """Yield the code blocks of a page in these languages."""
    text = page.read_text("utf-8")
    for block in re.findall(rf"```(?:{'|'.join(languages)})\n(.*?)```", text, re.DOTALL):
        yield block.replace("\\\n", " ")


def in_shell(page: Path) -> Iterator[Shown]:
    """Yield every single command of the shell blocks of a page, m4c's and others, in order."""
    for block in blocks(page, "sh"):
        for line in block.splitlines():
            whole, _, comment = line.partition(" #")
            for command in re.split(r"&&|;|\|", whole):
                yield Shown(" ".join(command.split()), comment.strip())


def in_workflow(page: Path) -> Iterator[Shown]:
    """Yield m4c's commands in the workflows of a page: what is folded behind ``run: >``."""
    for block in blocks(page, "yaml"):
        for folded in re.findall(r"run: >\n((?: {10,}.*\n)+)", block):
            yield Shown(" ".join(folded.split()))


def in_text(page: Path) -> Iterator[Shown]:
    """Yield m4c's commands in the text and the tables of a page."""
    outside = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    for words in INLINE.findall(outside):
        yield Shown(f"m4c {words}")
