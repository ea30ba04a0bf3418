"""The command line as a user runs it: a process of its own."""

import subprocess
import sys


def m4c(*arguments: str) -> str:
    """Run the command line, which must succeed, and return its stdout."""
    done = subprocess.run(
        [sys.executable, "-c", "from m4c.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
