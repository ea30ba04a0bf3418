"""A bundle is what its recipe makes, byte for byte, or it is said which file is not."""

import json
import re
from pathlib import Path

import pytest

from m4c.adapters.given import Adapters, Given
from m4c.bundle import MANIFEST, read_manifest
from m4c.errors import NumbersError, UsageError
from m4c.hashing import sha256
from m4c.models import shipped
from m4c.progress import Silent
from m4c.rebuild import Beside, as_request, rebuild
from m4c.recipe import stated
from m4c.request import Request
from m4c.scheme import Scheme
from m4c.targets.profile import load_target
from tests.bundles import Copy, edit_manifest

CPU = load_target("cpu")


def test_a_bundle_is_what_its_recipe_makes(int8_bundle: Path) -> None:
    manifest = read_manifest(int8_bundle)
    count = len([path for path in int8_bundle.rglob("*") if path.is_file()])
    assert rebuild(manifest, int8_bundle, Beside(), Silent()) == count


def test_another_seed_is_found_out(int8_bundle: Path, copied: Copy) -> None:
    bundle = copied(int8_bundle)
    edit_manifest(bundle, '"seed": 0', '"seed": 1')
    with pytest.raises(NumbersError, match=r"files are not what the recipe makes\n") as error:
        rebuild(read_manifest(bundle), bundle, Beside(), Silent())
    assert "graphs/projection/" in str(error.value)


def test_other_versions_are_told(int8_bundle: Path, copied: Copy) -> None:
    bundle = copied(int8_bundle)
    edit_manifest(bundle, '"seed": 0', '"seed": 1')
    version = read_manifest(bundle).tools["torch"]
    edit_manifest(bundle, f'"torch": "{version}"', '"torch": "1.0"')
    with pytest.raises(NumbersError, match=re.escape(f"with torch {version}")):
        rebuild(read_manifest(bundle), bundle, Beside(), Silent())


REQUESTS = [
    Request(CPU, weights=shipped.WEIGHTS),
    Request(CPU),
    Request(
        CPU, ("backbone/decoder",), preset="m4", seed=3, dynamic=frozenset({"batch"}), sizes=(("past", 511),)
    ),
    Request(
        CPU,
        ("backbone",),
        scheme=Scheme(4, 32, keep=(("lm_head.*", "int8"),)),
        precision="int4",
        context_length=64,
    ),
    Request(CPU, ("projection",), calibration="random", precision="int8", observer="mse", min_sqnr=20.0),
]


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_request_comes_back_from_its_manifest(request_: Request) -> None:
    written = json.loads(json.dumps(stated(request_)))
    assert as_request(written, Beside()) == request_


def test_what_was_given_is_asked_for(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter" / "adapter_config.json"
    adapter.parent.mkdir()
    adapter.write_text("{}")
    given = Adapters((Given("one", str(adapter.parent)),), "separate", rank_limit=8)
    whole = Request(
        CPU,
        ("backbone",),
        format="tflite",
        weights=tmp_path,
        calibration=str(tmp_path),
        adapters=given,
    )
    written = json.loads(json.dumps(stated(whole)))
    assert str(tmp_path) not in json.dumps(written)
    with pytest.raises(
        UsageError, match="made from weights and adapters and calibration that it does not hold"
    ):
        as_request(written, Beside())
    beside = Beside(tmp_path, str(tmp_path), None, (f"one={adapter.parent}",))
    assert as_request(written, beside) == whole


def test_every_file_of_a_bundle_is_compared(int8_bundle: Path, copied: Copy) -> None:
    bundle = copied(int8_bundle)
    (vector,) = bundle.glob("vectors/*")
    before = sha256(vector)
    vector.write_bytes(vector.read_bytes()[:-1] + b"\0")
    assert sha256(vector) != before
    with pytest.raises(NumbersError, match="1 of"):
        rebuild(read_manifest(bundle), bundle, Beside(), Silent())
    assert (bundle / MANIFEST).is_file()
