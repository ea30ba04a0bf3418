"""Reports as a table, Markdown and JSON say the same numbers."""

import json

from rich.console import Console

from m4c.operator_reports.coverage import GraphOperators
from m4c.operator_reports.render import SCHEMA, to_json, to_markdown, to_table

GRAPHS = [
    GraphOperators("img_enc/encoder", {"MatMul": 4, "Softmax": 1}, "onnx"),
    GraphOperators("gen_dec/head", {"MatMul": 1}, "onnx"),
    GraphOperators("edge", {"FULLY_CONNECTED": 2, "a|b": 1}, "tflite"),
]


def test_json() -> None:
    made = to_json(GRAPHS)
    assert made["schema"] == SCHEMA == 1
    assert json.loads(json.dumps(made)) == made
    assert made["graphs"] == [
        {
            "graph": "img_enc/encoder",
            "format": "onnx",
            "nodes": 5,
            "types": 2,
            "operators": {"MatMul": 4, "Softmax": 1},
        },
        {"graph": "gen_dec/head", "format": "onnx", "nodes": 1, "types": 1, "operators": {"MatMul": 1}},
        {
            "graph": "edge",
            "format": "tflite",
            "nodes": 3,
            "types": 2,
            "operators": {"FULLY_CONNECTED": 2, "a|b": 1},
        },
    ]
    onnx, tflite = made["unions"] if isinstance(made["unions"], list) else []
    assert onnx == {
        "format": "onnx",
        "graphs": 2,
        "nodes": 6,
        "types": 2,
        "operators": {
            "MatMul": {"graphs": 2, "share": 1.0, "nodes": 5},
            "Softmax": {"graphs": 1, "share": 0.5, "nodes": 1},
        },
    }
    assert (tflite["format"], tflite["types"], tflite["graphs"]) == ("tflite", 2, 1)


def test_the_papers_figure_is_quoted_with_its_source() -> None:
    paper = to_json([])["paper"]
    assert isinstance(paper, dict)
    assert paper["types"] == 39
    assert "Figure 14" in paper["source"]
    assert "opset 14" in paper["source"]
    assert "**39** types" in to_markdown([])


def test_markdown() -> None:
    lines = to_markdown(GRAPHS).splitlines()
    assert "| img_enc/encoder | 5 | 2 | MatMul Softmax |" in lines
    assert "## 2 types of onnx" in lines
    assert "| Softmax | 1 | 50% | 1 |" in lines
    assert "| a\\|b | 1 | 100% | 1 |" in lines  # a bar would end the cell
    assert to_markdown(GRAPHS) == to_markdown(GRAPHS)


def test_the_table_has_a_row_for_each_graph_and_each_union() -> None:
    console = Console(width=120, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(to_table(GRAPHS))
    rows = [[cell.strip() for cell in line.strip("│┃ ").split("│")] for line in captured.get().splitlines()]
    assert ["img_enc/encoder", "5", "2", "MatMul Softmax"] in rows
    assert ["all (onnx)", "6", "2", "MatMul Softmax"] in rows
    assert ["all (tflite)", "3", "2", "FULLY_CONNECTED a|b"] in rows
