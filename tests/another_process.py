"""Another process that holds something while a test looks."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def holding(*lines: str) -> Iterator[None]:
    """Run ``lines`` of Python in another process, which then waits; it is killed when the block ends."""
    program = "\n".join(("import time", *lines, "print('held', flush=True)", "time.sleep(60)"))
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            yield
        finally:
            other.kill()
