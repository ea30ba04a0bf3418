"""Run a command and print its wall time and the peak memory of it and its children.

    python -m tests.benchmarks.measure m4c export -o /tmp/bundle

Anonymous memory is what the processes hold. Resident memory has the pages of mapped files too, which are the system's to take
back.
"""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from m4c.memory_limit import family, resident

PERIOD_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Measured:
    """What a command took: its exit code, seconds, and peaks in bytes."""

    code: int
    seconds: float
    anonymous: int
    resident: int


def anonymous_bytes(root: int) -> int:
    """Return the anonymous memory of a process and all below it, now."""
    return sum(map(_anonymous, family(root)))


def _anonymous(process: int) -> int:
    """Return the anonymous memory of one process."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return 0
    return int(status.split("RssAnon:")[1].split()[0]) * 1024 if "RssAnon:" in status else 0


def measure(command: list[str]) -> Measured:
    """Run ``command`` and measure it; its stdout is dropped."""
    start, anonymous, most = time.perf_counter(), 0, 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            anonymous = max(anonymous, anonymous_bytes(process.pid))
            most = max(most, resident(process.pid))
            time.sleep(PERIOD_SECONDS)
    return Measured(process.returncode, time.perf_counter() - start, anonymous, most)


if __name__ == "__main__":
    found = measure(sys.argv[1:])
    sys.stdout.write(
        f"exit {found.code}, {found.seconds:.1f} s, {found.anonymous / 2**30:.2f} GiB anonymous, "
        f"{found.resident / 2**30:.2f} GiB resident\n"
    )
    sys.exit(found.code)
