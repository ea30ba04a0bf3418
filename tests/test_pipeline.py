"""Pipelines: order, promises, what steps print and report, and that no step changes a model behind anyone's back."""

from dataclasses import dataclass, field
from typing import ClassVar

import onnx_ir as ir
import pytest

from m4c.errors import Bug, PassError, PipelineError, UnsupportedError
from m4c.model import fingerprint
from m4c.pipeline import Note, Pass, Pipeline, Property, Report, Result
from tests.passes.rewriting import build

tidy = Property("tidy", lambda model: [] if len(model.graph) == 2 else [f"{len(model.graph)} nodes"])
other = Property("other", lambda _: [])


def model() -> ir.Model:
    return build("g (float[4] x) => (float[4] y) { a = Relu(x) y = Relu(a) }", {}, {})


@dataclass(frozen=True)
class Tidy(Pass):
    """Changes nothing, and promises ``tidy``."""

    name: ClassVar[str] = "tidy-up"
    gives: ClassVar[tuple[Property, ...]] = (tidy,)

    def call(self, model: ir.Model) -> Result:
        """Do nothing, with a reason."""
        return Result(model, modified=False, misses=(Note("here", "nothing to do"),))


@dataclass(frozen=True)
class Rename(Pass):
    """Renames the first node."""

    to: str = "first"
    loud: bool = True
    secret: str = field(default="x", repr=False)

    name: ClassVar[str] = "rename"
    needs: ClassVar[tuple[Property, ...]] = (tidy,)

    def call(self, model: ir.Model) -> Result:
        """Rename it."""
        model.graph[0].name = self.to
        return Result(model, modified=self.loud, changes=(Note("first", f"is {self.to}"),) * self.loud)


@dataclass(frozen=True)
class Mess(Pass):
    """Breaks ``tidy``."""

    name: ClassVar[str] = "mess"
    breaks: ClassVar[tuple[Property, ...]] = (tidy,)

    def call(self, model: ir.Model) -> Result:
        """Do nothing."""
        return Result(model, modified=False)


@dataclass(frozen=True)
class Fail(Pass):
    """Raises what it is given."""

    error: Exception = field(repr=False)

    name: ClassVar[str] = "fail"

    def call(self, model: ir.Model) -> Result:
        """Raise it."""
        raise self.error


def test_an_order_that_cannot_work_is_refused_with_the_way_out() -> None:
    with pytest.raises(PipelineError) as caught:
        Pipeline((Rename(), Tidy()))
    assert str(caught.value).splitlines() == [
        "rename needs tidy, which does not hold at its place",
        "  at:  rename",
        "  fix: put tidy-up before it",
    ]
    with pytest.raises(PipelineError, match=r"at:  tidy-up \| mess \| rename\n  fix: put tidy-up before it"):
        Pipeline((Tidy(), Mess(), Rename()))
    with pytest.raises(PipelineError, match="fix: no step gives tidy: add one that does"):
        Pipeline((Mess(), Rename()))


def test_what_is_given_need_not_be_made() -> None:
    assert Pipeline((Rename(),), given=(tidy,)).run(model())
    assert str(Pipeline((), given=(tidy,)) | Rename()) == "rename"
    with pytest.raises(PipelineError):
        Pipeline((Rename(),), given=(other,))
    with pytest.raises(PipelineError):
        Pipeline((Tidy(), Mess())) | Rename()


def test_it_is_split_where_a_step_begins() -> None:
    whole = Pipeline((Tidy(), Rename(), Rename(to="second")), (other,))
    before, rest = whole.split(Rename)
    assert (before.steps, rest.steps) == (whole.steps[:1], whole.steps[1:])
    assert set(rest.given) == {other, tidy}
    made, _ = rest.run(before.run(model())[0])
    assert fingerprint(made) == fingerprint(whole.run(model())[0])
    assert before.split(Rename) == (before, Pipeline((), rest.given))


def test_it_prints_options_that_are_not_the_default() -> None:
    steps = Pipeline((Tidy(), Rename(), Rename("b"), Rename("c", loud=False, secret="y")))
    assert str(steps) == "tidy-up | rename | rename{to=b} | rename{to=c,loud=False}"


def test_the_input_is_untouched_and_steps_report() -> None:
    given = model()
    given.meta["kept"] = "yes"
    before = fingerprint(given)
    made, reports = Pipeline((Tidy(), Rename("b"))).run(given)
    assert fingerprint(given) == before != fingerprint(made)
    assert made.meta["kept"] == "yes"
    assert reports == (
        Report("tidy-up", (), (Note("here", "nothing to do"),)),
        Report("rename{to=b}", (Note("first", "is b"),), ()),
    )


def test_a_silent_change_is_a_bug() -> None:
    with pytest.raises(Bug, match=r"rename changed the model without saying so\n  at:  tidy-up \| rename"):
        Pipeline((Tidy(), Rename(loud=False))).run(model())


def test_a_foreign_exception_names_the_step() -> None:
    with pytest.raises(PassError, match="fail failed: KeyError: 'w'\n  at:  fail\n  fix: ") as caught:
        Pipeline((Fail(KeyError("w")),)).run(model())
    assert caught.value.exit_code == 70
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_error_of_ours_comes_out_as_it_is() -> None:
    error = UnsupportedError("no kernel", where="blocks.1")
    with pytest.raises(UnsupportedError) as caught:
        Pipeline((Fail(error),)).run(model())
    assert caught.value is error


def test_promises_and_needs_are_checked_on_the_model() -> None:
    longer = build("g (float[4] x) => (float[4] y) { a = Relu(x) b = Relu(a) y = Relu(b) }", {}, {})
    with pytest.raises(PassError, match=r"^tidy-up promises tidy: 3 nodes"):
        Pipeline((Tidy(),)).run(longer)
    with pytest.raises(PassError, match=r"^rename needs tidy: 3 nodes"):
        Pipeline((Rename(),), given=(tidy,)).run(longer)


def test_plain_results_of_foreign_passes_are_taken() -> None:
    @dataclass(frozen=True)
    class Foreign(Pass):
        """Returns onnx_ir's own result."""

        name: ClassVar[str] = "foreign"

        def call(self, model: ir.Model) -> ir.passes.PassResult:
            """Do nothing."""
            return ir.passes.PassResult(model, modified=False)

    assert Pipeline((Foreign(),)).run(model())[1] == (Report("foreign", (), ()),)
