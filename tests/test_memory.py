"""Weights never come into memory whole: the peak of a process that writes 256 MiB of them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

COUNT, SIDE = 64, 1024
"""64 weights of 4 MiB."""

SCRIPT = f"""
import resource, sys
from pathlib import Path
import numpy as np
import onnx_ir as ir
from safetensors.numpy import load_file, save_file
from m4c.checkpoints import open_checkpoint
from m4c.targets.emit_onnx import to_onnx
from m4c.weight_file import WeightFile
from m4c.weights import derive, stored_value

def peak():
    if sys.platform == "linux":  # ru_maxrss begins with the peak of the process that started this one
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

folder = Path(sys.argv[1])
found = open_checkpoint(folder)
weights = [stored_value(tensor) for tensor in found.values()]
turned = [derive(w, "t", lambda a: a.T * np.float32(2), shape=w.shape.numpy()[::-1]) for w in weights]
x = value = ir.val("x", dtype=ir.DataType.FLOAT, shape=[1, {SIDE}])
nodes = []
for index, weight in enumerate(turned):
    node = ir.node("MatMul", [value, weight])
    value = node.outputs[0]
    value.name, value.type, value.shape = f"v{{index}}", x.type, x.shape
    nodes.append(node)
graph = ir.Graph([x], [value], nodes=nodes, initializers=turned, opset_imports={{"": 20}})
before = peak()
if sys.argv[2] == "lazily":
    with WeightFile(folder / "w.bin") as file:
        to_onnx(ir.Model(graph, ir_version=10), folder / "m.onnx", file)
else:
    held = load_file(next(folder.glob("*.safetensors")))
    held = [values + 0 for values in held.values()]
print(peak() - before)
"""


def growth(folder: Path, how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), how], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_writing_holds_a_few_weights_at_a_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    one = rng.standard_normal((SIDE, SIDE)).astype(np.float32)
    save_file({f"w{i}": one + np.float32(i) for i in range(COUNT)}, tmp_path / "m.safetensors")
    total = COUNT * one.nbytes
    assert growth(tmp_path, "lazily") < total / 6
    assert (tmp_path / "w.bin").stat().st_size >= total
    assert growth(tmp_path, "whole") > total / 2  # the measure sees it
