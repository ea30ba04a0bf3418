"""The command line as a shell sees it, run in the process of the test."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from m4c import cli


@dataclass(frozen=True)
class Done:
    """What a command left."""

    code: object
    out: str
    err: str


Shell = Callable[..., Done]


@pytest.fixture
def m4c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    """Return a function that runs the command line in this process."""

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["m4c", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return Done(ended.value.code, captured.out, captured.err)

    return run
