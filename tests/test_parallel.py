"""Work in processes: order, progress, errors as they were."""

import os
import subprocess
import sys
import time

import pytest

from m4c.errors import UnsupportedError, UsageError
from m4c.parallel import in_processes
from m4c.progress import Progress, Silent


class Heard:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def stage(self, graph: str, stage: str) -> None:
        self.told.append(("stage", graph, stage))

    def step(self, graph: str, done: int, total: int) -> None:
        self.told.append(("step", graph, done, total))

    def finished(self, graph: str) -> None:
        self.told.append(("finished", graph))

    def completed(self, submodel: str) -> None:
        self.told.append(("completed", submodel))


def work(item: str, progress: Progress) -> tuple[str, int, str]:
    progress.stage(item, "begin")
    progress.step(item, 1, 2)
    if item == "slow":
        time.sleep(0.3)
    progress.finished(f"{item}/graph")
    progress.completed(item)
    return item, os.getpid(), os.environ.get("OMP_NUM_THREADS", "")


def broken(item: str, progress: Progress) -> str:
    if item == "unsupported":
        raise UnsupportedError("no kernel", where=item, fix="leave it out")
    if item == "late":
        time.sleep(1)
    if item in ("foreign", "late"):
        raise KeyError(item)
    if item == "killed":
        os._exit(9)
    return item


def test_results_come_in_order_from_other_processes_and_so_does_progress() -> None:
    heard = Heard()
    made = in_processes(work, ["slow", "b", "c"], heard, jobs=2)
    assert [item for item, _, _ in made] == ["slow", "b", "c"]
    assert os.getpid() not in {pid for _, pid, _ in made}
    share = max(1, (os.cpu_count() or 1) // 2)
    assert {threads for _, _, threads in made} == {str(share)}
    for item in ("slow", "b", "c"):
        assert [t for t in heard.told if str(t[1]).partition("/")[0] == item] == [
            ("stage", item, "begin"),
            ("step", item, 1, 2),
            ("finished", f"{item}/graph"),
            ("completed", item),
        ]


@pytest.mark.parametrize(("items", "jobs"), [(["a", "b"], 1), (["a"], 2), ([], 2)])
def test_one_job_or_one_item_stays_here(items: list[str], jobs: int) -> None:
    heard = Heard()
    made = in_processes(work, items, heard, jobs)
    assert [(item, pid) for item, pid, _ in made] == [(item, os.getpid()) for item in items]
    assert [told[0] for told in heard.told] == ["stage", "step", "finished", "completed"] * len(items)


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_comes_as_it_was(jobs: int) -> None:
    with pytest.raises(UnsupportedError) as caught:
        in_processes(broken, ["good", "unsupported"], Silent(), jobs)
    error = caught.value
    assert (error.what, error.where, error.fix) == ("no kernel", "unsupported", "leave it out")
    assert error.exit_code == 3
    with pytest.raises(KeyError):
        in_processes(broken, ["foreign", "good"], Silent(), jobs)


def test_the_first_error_is_the_first_in_time() -> None:
    with pytest.raises(UnsupportedError):
        in_processes(broken, ["late", "unsupported"], Silent(), jobs=2)


def test_a_killed_process_is_said_to_be_killed() -> None:
    with pytest.raises(UsageError, match=r"a process was killed .*\n.*\n  fix: .*--jobs 1"):
        in_processes(broken, ["killed", "killed"], Silent(), jobs=2)


def test_workers_load_no_torch_before_they_know_their_share() -> None:
    program = "import sys, m4c.parallel; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
