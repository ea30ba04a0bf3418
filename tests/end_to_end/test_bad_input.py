"""A checkpoint folder that is damaged, or lies, ends an export with the reason and a fix: exit code 2, and nothing written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from safetensors.numpy import load_file, save_file

from tests.end_to_end.here import Export, capture_once, export

__all__ = ["capture_once", "export"]

TRAINED = Path(__file__).parents[1] / "assets" / "tiny_llama"
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PARTS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
HEAD = "lm_head.weight"

Damage = Callable[[Path], object]


class Usage(NamedTuple):
    """What shutil.disk_usage returns."""

    total: int
    used: int
    free: int


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a copy of a good folder."""
    made = tmp_path / "weights"
    made.mkdir()
    for name in ("config.json", WHOLE):
        shutil.copyfile(TRAINED / name, made / name)
    return made


def shard(folder: Path) -> None:
    """Divide the weights into two files with an index."""
    held = load_file(folder / WHOLE)
    places = {name: PARTS[i % 2] for i, name in enumerate(sorted(held))}
    for part in PARTS:
        save_file({name: held[name] for name in held if places[name] == part}, folder / part)
    (folder / WHOLE).unlink()
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))


def cut(folder: Path) -> None:
    shard(folder)
    (folder / PARTS[1]).write_bytes((folder / PARTS[1]).read_bytes()[:-1000])


def lost(folder: Path) -> None:
    shard(folder)
    (folder / PARTS[1]).unlink()


def linked(folder: Path) -> None:
    shard(folder)
    (folder / PARTS[1]).rename(folder.parent / "elsewhere")
    (folder / PARTS[1]).symlink_to(folder.parent / "elsewhere")


def index(place: str) -> Damage:
    """Let the index name a file at ``place``, which is a good one."""

    def damage(folder: Path) -> None:
        shard(folder)
        shutil.copyfile(folder / PARTS[1], folder.parent / "outside.safetensors")
        held = json.loads((folder / INDEX).read_text())
        held["weight_map"][HEAD] = place.format(folder.parent)
        (folder / INDEX).write_text(json.dumps(held))

    return damage


def header(**change: object) -> Damage:
    """Change what the header says of one tensor."""

    def damage(folder: Path) -> None:
        content = (folder / WHOLE).read_bytes()
        size = int.from_bytes(content[:8], "little")
        held = json.loads(content[8 : 8 + size])
        held[HEAD].update(change)
        text = json.dumps(held).encode()
        (folder / WHOLE).write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])

    return damage


def config(**change: object) -> Damage:
    """Change keys of the configuration; None takes one away."""

    def damage(folder: Path) -> None:
        held: dict[str, Any] = {**json.loads((folder / "config.json").read_text()), **change}
        (folder / "config.json").write_text(json.dumps({k: v for k, v in held.items() if v is not None}))

    return damage


def text(content: bytes) -> Damage:
    return lambda folder: (folder / "config.json").write_bytes(content)


def rope(**values: object) -> Damage:
    return config(rope_parameters={"rope_theta": 1e4, **values})


HUGE = 1 << 60
BAD: dict[str, tuple[Damage, str]] = {
    "a truncated part": (cut, "not a readable safetensors file"),
    "a missing part": (lost, f"{PARTS[1]} is missing"),
    "a part that is a link": (linked, f"{PARTS[1]} is a link to a file outside the folder of the index"),
    "a part above": (index("../outside.safetensors"), "names a file outside its folder"),
    "a part anywhere": (index("{}/outside.safetensors"), "names a file outside its folder"),
    "a huge tensor": (header(shape=[HUGE]), "not a readable safetensors file"),
    "a huge matrix": (header(shape=[HUGE, HUGE]), "not a readable safetensors file"),
    "a huge tensor of nothing": (
        header(shape=[HUGE, 0], data_offsets=[0, 0]),
        "not a readable safetensors file",
    ),
    "eight-bit floats": (header(dtype="F8_E4M3", shape=[1024, 512]), f"{HEAD} has dtype F8_E4M3"),
    "integers": (header(dtype="I16"), f"{HEAD}: INT16 in the checkpoint"),
    "bytes": (header(dtype="U8", shape=[1024, 512]), f"{HEAD}: [1024, 512] in the checkpoint"),
    "no JSON": (text(b"{"), "config.json is not a readable JSON file"),
    "no text": (text(b"\xff\xfe\x00"), "config.json is not a readable JSON file"),
    "a list": (text(b"[]"), "config.json holds a list"),
    "no width": (config(hidden_size=None), "the configuration lacks hidden_size"),
    "no end": (config(eos_token_id=None), "the configuration lacks eos_token_id"),
    "no kind": (config(model_type=None), "model_type is None"),
    "heads that do not divide": (config(num_key_value_heads=3), "4 heads do not share 3 key-value heads"),
    "a width that does not divide": (config(hidden_size=255), "transformers refuses the configuration"),
    "no heads": (config(num_attention_heads=0), "num_attention_heads is 0"),
    "no layers": (config(num_hidden_layers=0), "num_hidden_layers is 0"),
    "more layers than there are": (config(num_hidden_layers=5), "missing from the checkpoint"),
    "endless layers": (config(num_hidden_layers=HUGE), "num_hidden_layers is"),
    "a negative width": (config(intermediate_size=-512), "intermediate_size is -512"),
    "a negative table": (config(vocab_size=-1), "vocab_size is -1"),
    "a width in words": (config(hidden_size="256"), "transformers refuses the configuration"),
    "positions for nothing": (config(max_position_embeddings=4), "a context of 4 positions is too short"),
    "no end at all": (config(eos_token_id=[]), "eos_token_id is empty"),
    "an end beyond the table": (config(eos_token_id=1024), "token 1024 begins or ends a text"),
    "an unknown turn": (rope(rope_type="longrope"), "longrope"),
    "a turn of nothing": (rope(rope_theta=0), "rope_theta is 0"),
    "a turn in words": (rope(rope_theta="x", rope_type="default"), "rope_theta"),
    "half a turn": (rope(rope_type="llama3", factor=8), "transformers refuses the configuration"),
    "no quantization": (config(quantization_config=5), "quantization_config is a int"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_folder(export: Export, folder: Path, name: str) -> None:
    damage, reason = BAD[name]
    damage(folder)
    before = sorted(folder.parent.rglob("*"))
    done = export("--weights", folder, "--quantize", "int4", graph="backbone")
    assert done.code == 2, done.err
    assert reason in done.err
    assert "\n  fix: " in done.err
    assert "Traceback" not in done.err
    assert sorted(folder.parent.rglob("*")) == before


def test_groups_that_do_not_divide(export: Export, folder: Path) -> None:
    done = export("--weights", folder, "--quantize", "int4", "--group-size", 1024)
    assert done.code == 2, done.err
    assert "a group size of 1024 does not divide the 256 inputs" in done.err
    assert "\n  fix: " in done.err
    assert [path.name for path in folder.parent.iterdir()] == ["weights"]


def test_a_disk_that_is_too_small(export: Export, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 30, 0, 1 << 20))
    done = export("--weights", folder, "--quantize", "int4", "--jobs", 1)
    assert done.code == 2, done.err
    assert "MB of disk, 1 MB are free" in done.err
    assert "\n  fix: free some" in done.err
    assert [path.name for path in folder.parent.iterdir()] == ["weights"]


def test_a_good_folder(export: Export, folder: Path) -> None:
    """What the others begin with."""
    shard(folder)
    assert export("--weights", folder, "--quantize", "int4", graph="backbone/embed").code == 0


def test_the_cache_of_the_hub_is_made_of_links(export: Export, folder: Path) -> None:
    shard(folder)
    blobs, version = (folder.parent / "models--a--b" / name for name in ("blobs", "snapshots/0123"))
    blobs.mkdir(parents=True)
    version.mkdir(parents=True)
    for path in folder.iterdir():
        path.rename(blobs / path.name.upper())
        (version / path.name).symlink_to(f"../../blobs/{path.name.upper()}")
    done = export("--weights", version, "--quantize", "int4", graph="backbone/embed")
    assert done.code == 0, done.err
