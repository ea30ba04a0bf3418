"""Capture and canonicalize every graph at the paper's sizes, without weights: a process for each, as a Markdown table.

python tests/benchmarks/capture_full_size.py
"""

import sys

from tests.benchmarks.measure import measure

ONE = """
import sys
from m4c.capture import capture
from m4c.models import build
from m4c.passes import canonical
from m4c.skeleton import skeleton
with skeleton():
    graphs = build(sys.argv[1].partition("/")[0], "m4").graphs
canonical().run(capture(next(g for g in graphs if g.name == sys.argv[1])))
"""


def main() -> None:
    """Print the table."""
    from m4c.models import SUBMODELS, build
    from m4c.skeleton import skeleton

    sys.stdout.write("| graph | wall | peak |\n|---|---:|---:|\n")
    for name in SUBMODELS:
        with skeleton():
            graphs = build(name, "m4-nano").graphs
        for graph in graphs:
            found = measure([sys.executable, "-c", ONE, graph.name])
            assert found.code == 0, graph.name
            sys.stdout.write(
                f"| {graph.name} | {found.seconds:.1f} s | {found.anonymous / 2**30:.2f} GiB |\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
