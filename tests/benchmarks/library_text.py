"""English prose that every machine has: what the Python standard library says of itself, split for training and measuring.

The language reference in ``pydoc_data.topics`` and the docstrings of the modules. Topics quote each other, so a part is held
out by whole topics, and every paragraph elsewhere that shares eight words in a row with it is left out.
"""

import ast
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

SPLIT, HELD_OUT, VALIDATION = 8, 1, 3  # topic i belongs to the part i % SPLIT
SHARED_WORDS = 8  # as many words in a row are a quotation
SHORTEST_DOCSTRING = 120  # characters; shorter ones are formulas, not prose
TOPIC_REPEATS = 2  # a topic is drawn twice as often as a docstring: held-out text is of its kind


@dataclass(frozen=True)
class Corpus:
    """Documents by what they serve."""

    train: list[str]
    validation: str
    held_out: str


def docstrings(root: Path) -> Iterator[str]:
    """Yield the docstrings of the library at ``root``, in the order of its files."""
    for path in sorted(root.rglob("*.py")):
        if {"test", "tests", "site-packages", "lib2to3", "pydoc_data"} & set(path.relative_to(root).parts):
            continue  # lib2to3's tests are in broken Python on purpose
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node) or ""
                if len(text) >= SHORTEST_DOCSTRING:
                    yield text


def runs(text: str) -> set[tuple[str, ...]]:
    """Return every run of ``SHARED_WORDS`` words in ``text``."""
    words = text.split()
    return {tuple(words[i : i + SHARED_WORDS]) for i in range(len(words) - SHARED_WORDS + 1)}


def without(texts: Iterable[str], kept_away: set[tuple[str, ...]]) -> list[str]:
    """Return ``texts`` without the paragraphs that have a run in ``kept_away`` or were met before."""
    met: set[str] = set()
    kept = []
    for text in texts:
        paragraphs = []
        for paragraph in text.split("\n\n"):
            words = " ".join(paragraph.split())
            if words not in met and kept_away.isdisjoint(runs(words)):
                paragraphs.append(paragraph)
            if words.count(" ") >= SHARED_WORDS:  # short ones, such as headings, may come again
                met.add(words)
        kept.append("\n\n".join(paragraphs).strip())
    return [text for text in kept if text]


def corpus() -> Corpus:
    """Return the text of this Python, split by whole topics."""
    parts: list[list[str]] = [[] for _ in range(SPLIT)]
    for i, name in enumerate(sorted(topics)):
        parts[i % SPLIT].append(topics[name])
    held_out = "\n\n".join(without(parts[HELD_OUT], set()))
    away = runs(held_out)
    validation = "\n\n".join(without(parts[VALIDATION], away))
    away |= runs(validation)
    rest = [text for i, part in enumerate(parts) if i not in (HELD_OUT, VALIDATION) for text in part]
    library = docstrings(Path(sysconfig.get_path("stdlib")))
    return Corpus(without(rest, away) * TOPIC_REPEATS + without(library, away), validation, held_out)


def held_out_topics() -> list[str]:
    """Return the names of the topics that are held out."""
    return sorted(topics)[HELD_OUT::SPLIT]
