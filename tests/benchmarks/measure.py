"""Run a command and print its wall time and the peak memory of it and its children.

    python -m tests.benchmarks.measure m4c export -o /tmp/bundle

Anonymous memory is what the processes hold; a mapped file's pages are the system's to take back, so they are not in it.
"""

import subprocess
import sys
import time
from pathlib import Path

PERIOD_SECONDS = 0.05


def anonymous_bytes(root: int) -> int:
    """Return the anonymous memory of a process and all below it, now."""
    total, waiting = 0, [root]
    while waiting:
        pid = waiting.pop()
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            waiting += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        if "RssAnon:" in status:
            total += int(status.split("RssAnon:")[1].split()[0]) * 1024
    return total


def measure(command: list[str]) -> tuple[int, float, int]:
    """Return exit code, wall time in seconds and peak anonymous memory in bytes of ``command``; its stdout is dropped."""
    start, peak = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, anonymous_bytes(process.pid))
            time.sleep(PERIOD_SECONDS)
    return process.returncode, time.perf_counter() - start, peak


if __name__ == "__main__":
    code, seconds, peak = measure(sys.argv[1:])
    sys.stdout.write(f"exit {code}, {seconds:.1f} s, {peak / 2**30:.2f} GiB\n")
    sys.exit(code)
