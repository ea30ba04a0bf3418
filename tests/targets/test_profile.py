"""Target profiles are read strictly."""

from pathlib import Path

import pytest

from m4c.errors import ProfileError
from m4c.precisions import PRECISIONS
from m4c.targets.profile import FALLBACKS, FORMATS, load_target, names

GOOD = """
name = "here"
summary = "a test"
format = "onnx"
precision = "float32"
static_shapes = false
fallback = "error"
source = "nowhere"
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


def test_the_fallback_target_itself_never_falls_back() -> None:
    cpu = load_target("cpu")
    assert (cpu.static_shapes, cpu.fallback) == (False, "error")


def test_a_profile_of_the_user(tmp_path: Path) -> None:
    target = load_target(write(tmp_path, GOOD))
    assert (target.name, target.format, target.static_shapes) == ("here", "onnx", False)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'name = "here"',
            'name = "here"\nspeed = 3',
            "unknown key 'speed'\n  at:  .*here.toml\n  fix: known are: name, ",
        ),
        ('name = "here"\n', "", "misses name"),
        ("false", '"no"', "static_shapes is 'no', of the wrong type"),
        ("false", "0", "static_shapes is 0, of the wrong type"),
        ('"onnx"', "true", "format is True, of the wrong type"),
        ('"onnx"', '"onix"', "format is 'onix'\n  at:  here\n  fix: known are: onnx, tflite"),
        ('"float32"', '"float23"', "precision is 'float23'"),
        ('"error"', '"gpu"', "fallback is 'gpu'\n  at:  here\n  fix: known are: cpu, error"),
        ('name = "here"', "name = here", "not TOML: "),
    ],
)
def test_mistakes_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(ProfileError, match=message) as caught:
        load_target(write(tmp_path, GOOD.replace(old, new, 1)))
    assert caught.value.fix


def test_unknown_names_and_paths(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"no target 'npu'\n  fix: known are: cpu, edgetpu"):
        load_target("npu")
    with pytest.raises(ProfileError, match=r"no target profile at .*none.toml\n  fix: "):
        load_target(str(tmp_path / "none.toml"))
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ProfileError, match="not a text file"):
        load_target(str(tmp_path / "bytes.toml"))
