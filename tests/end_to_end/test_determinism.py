"""Equal exports give equal bytes wherever they run: hash seed, threads, processes, language, time zone, umask, folder."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from m4c.hashing import sha256

PROGRAM = """
import os, sys
from m4c.cli import main
os.umask(int(sys.argv[1], 8))
for options in sys.argv[2:]:
    sys.argv = ["m4c", "export", *options.split()]
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            raise
"""

EXPORTS = (
    "imu_enc --format tflite --quantize int8 --calibration random -o int8",
    "projection gen_dec --quantize int4 --group-size 16 -o int4",
)


class Machine(NamedTuple):
    """What differs from one machine to another."""

    folder: str
    hash_seed: str
    threads: str
    jobs: str
    language: str
    time_zone: str
    umask: str


MACHINES = (
    Machine("a", "0", "1", "1", "C", "UTC", "022"),
    Machine("b/deeper", "1", "2", "1", "C.UTF-8", "Asia/Kathmandu", "077"),
    Machine("with a blank", "42", "3", "2", "tr_TR.UTF-8", "America/St_Johns", "002"),
    Machine("ü", "4294967295", "4", "1", "de_DE.ISO-8859-1", "Pacific/Kiritimati", "000"),
    Machine("e", "random", "2", "1", "ar_EG.UTF-8", "Etc/GMT+12", "027"),
)


def contents(machine: Machine, place: Path) -> dict[str, str]:
    """Export as on ``machine``, below ``place``, and return the SHA-256 of every file of the bundles."""
    folder = place / machine.folder
    folder.mkdir(parents=True)
    environment = {
        **os.environ,
        "PYTHONHASHSEED": machine.hash_seed,
        "OMP_NUM_THREADS": machine.threads,
        "LC_ALL": machine.language,
        "TZ": machine.time_zone,
    }
    exports = [f"{options} --jobs {machine.jobs}" for options in EXPORTS]
    command = [sys.executable, "-c", PROGRAM, machine.umask, *exports]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {file.stat().st_mode & 0o777 for file in folder.rglob("*.json")} == {
        0o666 & ~int(machine.umask, 8)
    }
    return {p.relative_to(folder).as_posix(): sha256(p) for p in folder.rglob("*") if p.is_file()}


def test_five_machines_make_the_same_bytes(tmp_path: Path) -> None:
    first, *others = [contents(machine, tmp_path) for machine in MACHINES]
    assert {Path(name).suffix for name in first} >= {".bin", ".json", ".onnx", ".safetensors", ".tflite"}
    for machine, made in zip(MACHINES[1:], others, strict=True):
        assert made.keys() == first.keys()
        assert [name for name in first if made[name] != first[name]] == [], machine
