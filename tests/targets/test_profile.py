"""Target profiles are read strictly: what is not known is an error that says what is."""

from pathlib import Path

import pytest

from m4c.errors import ProfileError
from m4c.precisions import PRECISIONS
from m4c.targets.profile import FALLBACKS, FORMATS, load_target, names
from m4c.targets.rules import ALGORITHMS, EVIDENCE

GOOD = """
name = "here"
summary = "a test"
format = "onnx"
precision = "float32"
fallback = "error"
source = "nowhere"

[figures]
operations_per_second = 1e12
source = "a data sheet"
evidence = "documented"

[onnx]
runtime = "a runtime"
runtime_version = 3

[onnx.partition]
algorithm = "runs"
max_partitions = 2
source = "nowhere"
evidence = "inferred"

[[onnx.rule]]
source = "a list"
evidence = "documented"
allow = ["Add", "MatMul", "com.microsoft::Gelu"]
every = ["rank_at_most(4)"]
except = ["Add"]

[[onnx.rule]]
source = "limits"
evidence = "measured"
refuses = "model"

[onnx.rule.limit]
MatMul = ["constant_inputs(1)", "dtypes(float32, float16)"]
"""


def write(folder: Path, text: str) -> str:
    path = folder / "here.toml"
    path.write_text(text, "utf-8")
    return str(path)


def test_every_profile_that_comes_with_m4c_loads() -> None:
    assert names() == tuple(sorted(path.stem for path in Path("targets").glob("*.toml")))
    for name in names():
        target = load_target(name)
        assert target.name == name
        assert target.summary
        assert target.source
        assert (target.format, target.precision, target.fallback) in {
            (f, p, b) for f in FORMATS for p in PRECISIONS for b in FALLBACKS
        }


@pytest.mark.parametrize("name", names())
def test_every_rule_has_a_source_and_evidence(name: str) -> None:
    for runtime in load_target(name).runtimes.values():
        assert runtime.partition.algorithm in ALGORITHMS
        said = [(rule.source, rule.evidence) for rule in runtime.rules]
        for source, evidence in (*said, (runtime.partition.source, runtime.partition.evidence)):
            assert len(source) > 10
            assert evidence in EVIDENCE
        limited = {operator for rule in runtime.rules for operator in rule.limit}
        assert limited <= runtime.operators, "a limit of what never runs"


def test_the_published_tables_are_whole() -> None:
    sizes = {
        (name, form): len(runtime.operators)
        for name in names()
        for form, runtime in load_target(name).runtimes.items()
    }
    assert sizes[("edgetpu", "tflite")] == 40
    assert (sizes[("ethos-u55", "tflite")], sizes[("ethos-u85", "tflite")]) == (55, 74)
    assert (sizes[("gpu", "tflite")], sizes[("nnapi", "tflite")]) == (100, 94)
    assert (sizes[("qualcomm-htp", "tflite")], sizes[("qualcomm-htp", "onnx")]) == (98, 116)
    assert (sizes[("nnapi", "onnx")], sizes[("coreml", "onnx")], sizes[("cpu", "tflite")]) == (53, 59, 172)


def test_the_fallback_target_itself_never_falls_back() -> None:
    cpu = load_target("cpu")
    assert (cpu.static_shapes, cpu.fallback) == (False, "error")


def test_a_target_is_static_where_a_dynamic_size_costs_the_model() -> None:
    assert load_target("edgetpu").static_shapes
    assert not load_target("qualcomm-htp").static_shapes


def test_a_profile_of_the_user(tmp_path: Path) -> None:
    target = load_target(write(tmp_path, GOOD))
    assert (target.name, target.format, target.static_shapes) == ("here", "onnx", False)
    runtime = target.runtimes["onnx"]
    assert runtime.operators == {"Add", "MatMul", "com.microsoft::Gelu"}
    assert (runtime.version, runtime.partition.max_partitions) == (3, 2)
    assert [str(c) for c in runtime.rules[1].constraints("MatMul")] == [
        "constant_inputs(1)",
        "dtypes(float32, float16)",
    ]
    assert (runtime.rules[0].constraints("Add"), runtime.rules[1].refuses) == ((), "model")
    assert target.figures is not None
    assert target.figures.operations_per_second == 10**12


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'name = "here"',
            'name = "here"\nspeed = 3',
            "unknown key 'speed'\n  at:  .*here.toml\n  fix: known are: name, ",
        ),
        ('name = "here"\n', "", "misses name"),
        ('"onnx"', "true", "format is True, of the wrong type"),
        ('"onnx"', '"onix"', "format is 'onix'\n  at:  .*here.toml\n  fix: known are: onnx, tflite"),
        (
            '"onnx"',
            '"tflite"',
            r"the format is tflite, and there are no rules.*\n.*\n  fix: add a table \[tfl",
        ),
        ('"float32"', '"float23"', "precision is 'float23'"),
        ('"error"', '"gpu"', "fallback is 'gpu'\n  at:  .*here.toml\n  fix: known are: cpu, error"),
        ('name = "here"', "name = here", "not TOML: "),
        ('"Add", ', '"Adn", ', "unknown operator 'Adn'\n  at:  .*onnx: rule 1\n  fix: known are: And, Add"),
        ("except = [", 'except = ["Cos", "Cso", ', "unknown operator 'Cso'"),
        ("MatMul = [", "MatMull = [", "unknown operator 'MatMull'.*\n.*\n  fix: known are: MatMul"),
        (
            "rank_at_most(4)",
            "rank_at_mots(4)",
            r"unknown constraint 'rank_at_mots\(4\)'\n.*\n.*rank_at_most\(r",
        ),
        (
            "rank_at_most(4)",
            "rank_at_most",
            r"'rank_at_most' has 0 arguments\n.*\n  fix: write rank_at_most\(rank\)",
        ),
        ("rank_at_most(4)", "rank_at_most(4, 5)", "has 2 arguments"),
        ("rank_at_most(4)", "rank_at_most(four)", "'four' in 'rank_at_most.four.' is no whole number"),
        ("rank_at_most(4)", "dtypes", r"'dtypes' has 0 arguments\n.*\n  fix: write dtypes\(dtypes, …\)"),
        (
            'algorithm = "runs"',
            'algorithm = "walks"',
            "algorithm is 'walks'.*\n.*\n  fix: known are: epochs, runs",
        ),
        ("max_partitions = 2", "max_partitions = -2", "max_partitions is -2, of the wrong type"),
        ("max_partitions = 2", "most = 2", "unknown key 'most'.*\n  at:  .*here.toml: onnx: partition"),
        ('evidence = "measured"', 'evidence = "rumour"', "evidence is 'rumour'.*\n  at:  .*onnx: rule 2"),
        ('evidence = "measured"', "", "misses evidence\n  at:  .*rule 2"),
        ('source = "limits"', "", "misses source"),
        ('refuses = "model"', 'refuses = "all"', "refuses is 'all'"),
        ('allow = ["Add", "MatMul", "com.microsoft::Gelu"]', "", "no rule lists operators"),
        ("operations_per_second = 1e12", "flops = 1e12", "unknown key 'flops'.*\n  at:  .*figures"),
    ],
)
def test_mistakes_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(ProfileError, match=message) as caught:
        load_target(write(tmp_path, GOOD.replace(old, new, 1)))
    assert caught.value.fix
    assert "here.toml" in caught.value.where


def test_unknown_names_and_paths(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"no target 'npu'\n  fix: known are: coreml, cpu, edgetpu"):
        load_target("npu")
    with pytest.raises(ProfileError, match=r"no target profile at .*none.toml\n  fix: "):
        load_target(str(tmp_path / "none.toml"))
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ProfileError, match="not a text file"):
        load_target(str(tmp_path / "bytes.toml"))
