"""Run by a Python that has onnxruntime-qnn, which need not have m4c: load graphs by QNN, and print who got which nodes.

Arguments: the SoC's number and the architecture of its Hexagon, then for each graph its file and the folder of its weights.
On stdout is one JSON object a graph, ``{"node name": partition, or null for the CPU}``; on stderr QNN's reasons.
"""

import json
import sys
from pathlib import Path

import onnxruntime as ort
import onnxruntime_qnn as qnn

PROVIDER = "QNNExecutionProvider"
VERBOSE = 0

CONVERT_TOO = {"offload_graph_io_quantization": "0"}
"""The conversions from and to float at the ends of a graph are the Hexagon's too; else they are the CPU's."""


def assigned(device: list[object], soc: str, hexagon: str, file: str, folder: str) -> dict[str, int | None]:
    """Return the partition of every node of a graph; the graph is compiled for the Hexagon meanwhile."""
    options = ort.SessionOptions()
    options.log_severity_level = VERBOSE
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    backend = {"backend_path": qnn.get_qnn_htp_path(), "soc_model": soc, "htp_arch": hexagon}
    options.add_provider_for_devices(device, backend | CONVERT_TOO)
    session = ort.InferenceSession(Path(file).read_bytes(), options)
    found: dict[str, int | None] = {}
    count = 0
    for part in session.get_provider_graph_assignment_info():
        taken = part.ep_name == PROVIDER
        found |= {node.name: count if taken else None for node in part.get_nodes()}
        count += taken
    return found


def main() -> None:
    """Print the assignment of every graph that is given."""
    soc, hexagon, *graphs = sys.argv[1:]
    ort.register_execution_provider_library(PROVIDER, qnn.get_library_path())
    device = [one for one in ort.get_ep_devices() if one.ep_name == PROVIDER][:1]
    for file, folder in zip(graphs[::2], graphs[1::2], strict=True):
        sys.stdout.write(json.dumps(assigned(device, soc, hexagon, file, folder)) + "\n")


if __name__ == "__main__":
    main()
