"""What is printed as JSON, and what is stored, is as the published schema says."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.operator_reports.schema import published
from tests.operator_reports.test_placement import CODES, chain
from tests.shell import Shell

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    made = published()
    jsonschema.Draft202012Validator.check_schema(made.schema)
    return made


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield every schema of an object with named keys."""
    if isinstance(schema, dict):
        if "required" in schema:
            yield schema
        for inner in schema.values():
            yield from objects(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from objects(inner)


def test_the_schema_in_docs_is_the_packages() -> None:
    assert (ROOT / "docs/report.schema.json").samefile(ROOT / "operator_reports/report.schema.json")


def test_no_key_passes_unknown(validator: jsonschema.Draft202012Validator) -> None:
    found = list(objects(validator.schema["$defs"]))
    assert len(found) > 10
    assert all(one.get("additionalProperties") is False for one in found)


def test_real_reports_are_valid(
    m4c: Shell,
    validator: jsonschema.Draft202012Validator,
    int8_bundle: Path,
    float_bundle: Path,
    tmp_path: Path,
) -> None:
    good = chain(tmp_path / "m.tflite", CODES.RELU, CODES.TANH)
    worse = chain(tmp_path / "n.tflite", CODES.RELU, CODES.GELU, CODES.SHAPE)
    waivers = tmp_path / "w.toml"
    waivers.write_text(
        '[[waiver]]\nrule = "unsupported"\ntarget = "gpu"\noperator = "GELU"\nowner = "a"\nreason = "b"\n'
        "expires = 9999-01-01\n[[waiver]]\n"
        'rule = "coverage-nodes"\ntarget = "gpu"\nowner = "a"\nreason = "b"\nexpires = 2020-01-01\n',
        "utf-8",
    )
    kinds = []
    for command in (
        ("report", float_bundle),
        ("report", good),
        ("report", float_bundle, "--target", "qualcomm-htp"),
        ("report", float_bundle, "--target", "edgetpu"),
        ("report", int8_bundle, "--target", "coreml"),  # it takes no TFLite: not converted
        ("report", worse, "--target", "gpu"),
        ("report", worse, "--target", "gpu", "--target", "xnnpack"),
        ("gate", worse, "--target", "gpu", "--min-coverage", 100, "--waivers", waivers),
        ("gate", int8_bundle, "--target", "edgetpu", "--min-sqnr", 200),
        ("diff", good, worse, "--target", "edgetpu"),
        ("diff", float_bundle, int8_bundle),
        ("report", "zoo"),
        ("report", "zoo", "--target", "all"),
        ("report", "scaling"),
        ("report", float_bundle, "--op-budget", 3),
    ):
        made = json.loads(m4c(*command, "--json").out)
        validator.validate(made)
        kinds.append(made["kind"])
    kinds += ["figures", "routes"]  # what is stored: below; routes: test_latency.py
    assert set(kinds) == set(validator.schema["properties"]["kind"]["enum"])
    stored = [*(ROOT / "operator_reports/baseline").glob("*.*.json")]
    assert stored
    for path in stored:
        validator.validate(json.loads(path.read_text("utf-8")))


def test_another_schema_or_a_missing_key_is_not_valid(
    m4c: Shell, validator: jsonschema.Draft202012Validator, tmp_path: Path
) -> None:
    path = chain(tmp_path / "m.tflite", CODES.RELU)
    made = json.loads(m4c("report", path, "--target", "gpu", "--json").out)
    assert validator.is_valid(made)
    assert not validator.is_valid({**made, "schema": 2})
    assert not validator.is_valid({**made, "kind": "other"})
    del made["graphs"][0]["macs"]
    assert not validator.is_valid(made)
