"""A budget of operator types: what is given up in which order, that every rewrite computes the same, and the command."""

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m4c import cli
from m4c.errors import UsageError
from m4c.operator_reports import budget, render_budget
from m4c.operator_reports.budget import RUNS, nodes_of, planned, price
from m4c.operator_reports.coverage import GraphOperators
from m4c.operator_reports.substitutes import SUBSTITUTES, Substitute
from m4c.operator_reports.zoo.baseline import stored

M4 = [GraphOperators(name, counts["canonical"], "onnx") for name, counts in stored().data["m4"].items()]
TYPES = set(stored().m4("canonical"))

INEXACT = {"Relu": 0.28 / 1024, "Gelu": 5e-4, "Cos": 1e-4}
"""What these may be off by: the first two by their form, cosines of up to 1000 by float32's steps there."""


@pytest.mark.parametrize("one", SUBSTITUTES, ids=lambda one: "+".join(one.gives))
def test_a_rewrite_computes_the_same_from_the_types_that_it_names(one: Substitute) -> None:
    before, after = ([node.op_type for node in nodes_of(text)] for text in (one.before, one.after))
    assert set(one.gives) <= set(before)
    assert set(after) == set(one.into)
    assert not set(one.gives) & set(after)
    assert {*before, *after} <= TYPES
    for seed in (0, 1):
        found = price(one, seed)
        assert found.error <= INEXACT.get(one.gives[0], 2e-6)
        assert found.time > 0


def test_a_wrong_rewrite_has_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "RUNS", 1)
    (tanh,) = (one for one in SUBSTITUTES if one.gives == ("Tanh",))
    wrong = Substitute(tanh.gives, tanh.into, "σ(x)", tanh.before, "y = Sigmoid(x)", tanh.x, tanh.constants)
    assert price(wrong).error > 0.5
    assert RUNS > 1


def test_the_least_used_goes_first_and_what_belongs_together_goes_together() -> None:
    plan = planned(M4, 19)
    assert [step.substitute.gives for step in plan.steps] == [
        ("ArgMax",),
        ("Cos",),
        ("Tanh",),
        ("Div", "Sqrt"),
    ]
    assert [step.left for step in plan.steps] == [23, 22, 21, 19]
    assert (plan.types, plan.exceeded, plan.reachable) == (24, True, True)
    assert {(use.graphs, use.nodes) for use in plan.steps[-1].uses} == {(1, 65)}


def test_within_the_budget_the_next_is_told_and_nothing_is_exceeded() -> None:
    plan = planned(M4, 24)
    assert [step.substitute.gives for step in plan.steps] == [("ArgMax",)]
    assert (plan.exceeded, plan.reachable) == (False, True)


def test_too_small_a_budget_says_how_far_it_goes() -> None:
    plan = planned(M4, 1)
    assert (plan.exceeded, plan.reachable) == (True, False)
    assert {"Add", "MatMul", "Softmax", "LpNormalization"} <= set(
        plan.kept
    )  # the last, since Sqrt and Div are it
    assert f"lead to {len(plan.kept)}" in render_budget.verdict(plan)


def test_divisions_beside_square_roots_stay() -> None:
    more = GraphOperators("more", {"Div": 1}, "onnx")
    given_up = {name for step in planned([*M4, more], 1).steps for name in step.substitute.gives}
    assert not {"Div", "Sqrt"} & given_up
    assert "LpNormalization" in given_up  # which these two can be written with


@given(
    st.sets(st.sampled_from(sorted(TYPES)), max_size=8), st.integers(1, 24), st.permutations(sorted(TYPES))
)
def test_no_plan_needs_what_it_gives_up(missing: set[str], size: int, order: list[str]) -> None:
    types = TYPES - missing
    counts = {name: 1 + order.index(name) // 6 for name in types}  # in any order, some as often as others
    graphs = [GraphOperators("a", counts, "onnx")]
    plan = planned(graphs, size)
    chosen = {name: step.substitute for step in plan.steps for name in step.substitute.gives}
    assert set(plan.kept) == types - set(chosen)
    left = set(types)
    for _ in range(len(types) + 1):  # as many rounds of rewriting end it, if it ends
        left = {new for name in left for new in (chosen[name].into if name in chosen else (name,))}
    assert left <= set(plan.kept)
    assert not plan.reachable or len(plan.kept) <= size


def test_tflite_has_no_rewrites() -> None:
    with pytest.raises(UsageError, match="rewrites are known of ONNX operators alone"):
        planned([GraphOperators("a", {"ADD": 1}, "tflite")], 3)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    monkeypatch.setattr("m4c.operator_reports.subjects.operators_of", lambda *_: M4)
    monkeypatch.setattr(sys, "argv", ["m4c", "report", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_the_command_gates(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "m4", "--op-budget", "24", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["kind"], made["exceeded"], made["steps"][0]["left"]) == ("op-budget", False, 23)
    assert run(monkeypatch, "m4", "--op-budget", "22", "--format", "md") == 4
    shown = capsys.readouterr()
    assert "| Cos | 1 | 1 | 22 | sin(x + π/2) | Add Sin |" in shown.out
    assert "24 operator types are more than the budget of 22" in shown.err
    assert "give up ArgMax, Cos, as the report says" in shown.err
    assert run(monkeypatch, "m4", "--op-budget", "1") == 4
    assert "no rewrite is left" in capsys.readouterr().err
    assert run(monkeypatch, "m4", "--op-budget", "20", "--target", "edgetpu") == 2
    assert run(monkeypatch, "zoo", "--op-budget", "20") == 2
