"""The command line, as a shell sees it: exit codes, stdout, stderr; no traceback for a user's mistake."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from m4c import __version__
from m4c.bundle import read_manifest
from m4c.host.wav import write_wav
from tests.bundles import Copy, update_hash
from tests.shell import Done, Shell
from tests.test_terminal import strict


def test_the_version(m4c: Shell) -> None:
    assert m4c("--version") == Done(0, f"m4c {__version__}\n", "")


@pytest.mark.parametrize("command", [[], ["export"], ["run"], ["verify"], ["report"], ["list"]])
def test_help(m4c: Shell, command: list[str]) -> None:
    done = m4c(*command, "--help")
    assert done.code == 0
    assert "Usage: m4c" in done.out


@pytest.mark.parametrize(
    "arguments",
    [
        ["frob"],
        ["export", "--frob"],
        ["export", "--quantize", "int9"],
        ["export", "--jobs", "-1"],
        ["export", "--random-weights", "x"],
        ["list", "things"],
        ["verify"],
        ["run", "bundle"],
    ],
)
def test_usage_errors_of_the_parser(m4c: Shell, arguments: list[str]) -> None:
    done = m4c(*arguments)
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "nope"], "there is no sub-model 'nope'"),
        (["export", "gen_dec/nope"], "there is no graph 'gen_dec/nope'"),
        (["export", "gen_dec", "--preset", "m5"], "there is no preset 'm5'"),
        (["export", "gen_dec", "--target", "npu"], "there is no target 'npu'"),
        (["export", "gen_dec", "--target", "none.toml"], "there is no target profile at none.toml"),
        (["export", "gen_dec", "--dynamic", "bach"], "no graph has a dimension 'bach'"),
        (["export", "gen_dec", "--weights", "none"], "there are no weights at none"),
        (["export", "--weights", "w", "--random-weights", "1"], "exclude each other"),
        (
            ["export", "projection", "--target", "edgetpu"],
            "an integer build needs calibration samples for projection/linear",
        ),
        (
            ["export", "projection", "--target", "edgetpu", "--calibration", "none"],
            "there are no calibration samples at none",
        ),
        (["export", "none.onnx"], "there is no file none.onnx"),
        (["export", "text.onnx"], "not an ONNX model"),
        (["export", "text.onnx", "gen_dec"], "an .onnx file is exported alone"),
        (["export", "text.onnx", "--dynamic", "batch"], "an .onnx file is exported alone"),
        (["export", "gen_dec", "-o", "full"], "full exists and is not a bundle"),
        (["run", "full", "--task", "T99", "--audio", "a.wav"], "m4c runs no task 'T99'"),
        (["run", "full", "--task", "T32"], "T32 needs --audio"),
        (["run", "full", "--task", "T32", "--audio", "a.wav"], "full is not a bundle"),
        (["verify", "full"], "full is not a bundle"),
        (["verify", "none"], "none is not a bundle"),
        (["report", "none"], "there is nothing to report on at none"),
        (["report", "text.onnx"], "not an ONNX model"),
        (["report", "m4-nano", "--measure"], "--measure and --figure are for m4c report zoo"),
        (["report", "scaling", "--target", "edgetpu"], "scaling is counted, not placed on a target"),
        (["report", "--figure", "a.svg"], "--measure and --figure are for m4c report zoo"),
    ],
)
def test_mistakes_end_in_a_message(
    m4c: Shell,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.onnx").write_text("text")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("text")
    done = m4c(*arguments)
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err
    assert message in done.err
    assert "  fix: " in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "text.onnx"]


def test_an_operator_that_no_fallback_may_take_is_code_3(m4c: Shell, tmp_path: Path) -> None:
    done = m4c(
        *("export", "backbone/embed", "--format", "tflite", "--dynamic", "sequence"),
        *("--fallback", "error", "-o", tmp_path / "out"),
    )
    assert done.code == 3
    assert "sequence change from call to call" in done.err
    assert not (tmp_path / "out").exists()


def test_export_verify_and_report(m4c: Shell, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = m4c("export", "gen_dec", "projection", "-o", out, "--jobs", 1)
    assert done.code == 0
    assert "projection" in done.out
    assert [graph.name for graph in read_manifest(out).graphs] == ["projection/linear", "gen_dec/head"]
    done = m4c("verify", out)
    assert done.code == 0
    assert "gen_dec/head" in done.out
    done = m4c("report", out, "--format", "md")
    assert done.code == 0
    assert "| gen_dec/head | 1 | 1 | MatMul |" in done.out
    assert "MatMul" in m4c("report", out).out


def test_json_is_all_there_is_on_stdout(m4c: Shell, tmp_path: Path, float_bundle: Path) -> None:
    done = m4c("export", "gen_dec", "-o", tmp_path / "out", "--json")
    made = strict(done.out)
    assert isinstance(made, dict)
    assert made.pop("bundle") == str(tmp_path / "out")
    assert made == strict((tmp_path / "out" / "manifest.json").read_text("utf-8"))
    commands: list[list[object]] = [["list", kind] for kind in ("presets", "submodels", "targets", "tasks")]
    commands += [["verify", float_bundle], ["report", float_bundle], ["report", "zoo"]]
    for command in commands:
        done = m4c(*command, "--json")
        assert (done.code, done.err) == (0, "")
        assert isinstance(strict(done.out), dict)
        assert done.out.endswith("}\n")
    assert strict(m4c("report", float_bundle, "--format", "json").out) == strict(
        m4c("report", float_bundle, "--json").out
    )


def test_lists_name_what_can_be_asked_for(m4c: Shell) -> None:
    assert "m4-nano" in m4c("list", "presets").out
    assert "gen_dec" in m4c("list", "submodels").out
    assert "edgetpu" in m4c("list", "targets").out
    assert "speech recognition" in m4c("list", "tasks").out


def test_one_altered_byte_is_code_2_and_wrong_numbers_are_code_5(
    m4c: Shell, float_bundle: Path, copied: Copy
) -> None:
    folder = copied(float_bundle)
    (record,) = read_manifest(folder).submodel("gen_dec").files
    content = bytearray((folder / record.path).read_bytes())
    content[1003] ^= 0x40  # the exponent of a float32
    (folder / record.path).write_bytes(content)
    done = m4c("verify", folder)
    assert (done.code, done.out) == (2, "")
    assert "graphs/gen_dec/weights.bin was altered" in done.err
    update_hash(folder, record)
    done = m4c("verify", folder, "--json")
    assert (done.code, done.out) == (5, "")
    assert "gen_dec/head differs from its test vector" in done.err


def test_a_task_whose_graphs_are_not_there(m4c: Shell, float_bundle: Path, tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", np.zeros(1600, np.float32), 16000)
    done = m4c("run", float_bundle, "--task", "T32", "--audio", tmp_path / "a.wav")
    assert (done.code, done.out) == (2, "")
    assert "the bundle has no aud_i_enc/encoder" in done.err


def test_a_task_prints_its_result_alone(
    m4c: Shell, float_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m4c.routes.transcribe.transcribe", lambda *_: "say „hello“")
    arguments = ["run", float_bundle, "--task", "T32", "--audio", "a.wav"]
    assert m4c(*arguments) == Done(0, "say „hello“\n", "")
    done = m4c(*arguments, "--json")
    assert strict(done.out) == {"task": "T32", "text": "say „hello“"}


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (RuntimeError("odd"), 70, "this is a bug of m4c; please report it"),
        (FileNotFoundError(errno.ENOENT, "No such file", "inner"), 70, "this is a bug of m4c"),
        (
            OSError(errno.ENOSPC, "No space left on device", "a.bin"),
            2,
            "error: No space left on device: a.bin\n  fix: free some space, or give -o a folder on another disk\n",
        ),
        (
            OSError("8192 requested and 2048 written"),
            2,
            "error: No space left on device: while writing\n"
            "  fix: free some space, or give -o a folder on another disk\n",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied"),
            2,
            "error: Permission denied: while writing\n  fix: give a folder that you may write to\n",
        ),
    ],
)
def test_what_nobody_expected(
    m4c: Shell, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, message: str
) -> None:
    def fail(_: Path) -> None:
        raise error

    monkeypatch.setattr("m4c.bundle.read_manifest", fail)
    done = m4c("verify", "x")
    assert (done.code, done.out) == (code, "")
    if code == 2:
        assert done.err == message


def test_a_stopped_command_is_code_130(m4c: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("m4c.bundle.read_manifest", stop)
    assert m4c("verify", "x").code == 130


def test_a_bug_has_its_traceback_on_stderr() -> None:
    program = (
        "import sys\nfrom m4c import bundle, cli\n"
        "def fail(path): raise RuntimeError('odd')\n"
        "bundle.read_manifest = fail\nsys.argv = ['m4c', 'verify', 'x']\ncli.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (70, "")
    assert "this is a bug of m4c" in done.stderr
    assert "RuntimeError: odd" in done.stderr


def test_the_script_is_installed() -> None:
    script = Path(sys.executable).parent / "m4c"
    done = subprocess.run([script, "list", "targets", "--json"], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)["targets"]) >= {"cpu", "edgetpu"}
    assert done.stderr == ""
