"""Workers of a Dask cluster compile, and the bundle is the one that this machine would have made."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from distributed import LocalCluster

from m4c.cluster import fill, work
from m4c.compile import compile_bundle
from m4c.errors import CheckpointError, UsageError
from m4c.progress import Silent
from m4c.recipe import Hashes, recipe
from m4c.request import Request
from m4c.targets.profile import load_target
from tests.bundles import SMALL, digests

REQUEST = Request(target=load_target("cpu"), submodels=SMALL)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Start two workers, in threads of this process, which has loaded torch already."""
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=None
    ) as made:
        yield made.scheduler_address.replace("tcp://", "dask://")


@pytest.mark.filterwarnings("ignore")
def test_two_workers_make_the_bundle_that_one_machine_makes(
    cluster: str, float_bundle: Path, tmp_path: Path
) -> None:
    store = str(tmp_path / "store")
    assert fill(store, cluster, [REQUEST], Silent()) == len(SMALL)
    assert fill(store, cluster, [REQUEST, REQUEST], Silent()) == 0
    told: list[str] = []
    compile_bundle(REQUEST, tmp_path / "out", Silent(), 1, store, told.append)
    assert told == [f"{name}: taken from the store" for name in SMALL]
    assert digests(tmp_path / "out") == digests(float_bundle)


@pytest.mark.filterwarnings("ignore")
def test_an_error_of_a_worker_is_an_error_here(cluster: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        fill(str(tmp_path / "store"), cluster, [replace(REQUEST, weights=tmp_path)], Silent())


def test_other_versions_on_a_worker_are_refused(tmp_path: Path) -> None:
    made = {**recipe(REQUEST, "projection", Hashes()), "torch": "1.0"}
    with pytest.raises(UsageError, match="a worker has another torch"):
        work(str(tmp_path), REQUEST, "projection", made)


@pytest.mark.parametrize(
    ("executor", "said"),
    [("ray://x", "there is no executor ray://x"), ("dask://127.0.0.1:1", "there is no cluster at")],
)
def test_no_cluster(executor: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m4c.cluster.CONNECT_SECONDS", 0.5)
    with pytest.raises(UsageError, match=said):
        fill(str(tmp_path / "store"), executor, [REQUEST], Silent())
