"""All of M4 in its small preset, with its own weights: every graph exported, run and compared, the whole made of few operator
types, and every task run over the artifacts alone."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m4c.bundle import read_manifest
from m4c.errors import UsageError
from m4c.models import SUBMODELS
from m4c.routes.perform import Given, Result, perform
from m4c.tasks import TASKS
from tests.bundles import require_schema
from tests.end_to_end.command import m4c

CANONICAL = [
    *(
        "Add",
        "ArgMax",
        "Concat",
        "Conv",
        "Cos",
        "Div",
        "Gather",
        "Gelu",
        "InstanceNormalization",
        "LayerNormalization",
    ),
    *(
        "LpNormalization",
        "MatMul",
        "Mul",
        "ReduceMean",
        "Relu",
        "Reshape",
        "Resize",
        "Sigmoid",
        "Sin",
        "Slice",
    ),
    *("Softmax", "Sqrt", "Tanh", "Transpose"),
]
"""What all of M4 is made of after canonicalization: 24 ONNX operator types, where the paper counts 39."""


ASSETS = Path(__file__).parent.parent / "assets" / "nano"
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SHAPES = ("red circle", "blue star", "green triangle", "yellow square", "white ring")
NOISES = ("a siren", "rain", "a low tone", "a high tone", "clicks", "beeps")
ACTIVITIES = ("walking", "running", "sitting", "standing", "lying", "cycling")


@pytest.fixture(scope="module")
def bundle(nano_bundle: Path) -> Path:
    """Return everything."""
    return nano_bundle


def test_every_submodel_is_there_and_agrees_with_eager_torch(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert [submodel.name for submodel in manifest.submodels] == list(SUBMODELS)
    assert len(manifest.graphs) == 19
    for graph in manifest.graphs:
        assert graph.verification.reference == "eager torch"
        assert graph.verification.max_relative_error < 1e-5, graph.name
        assert graph.fallback is None


def test_all_of_it_is_made_of_the_canonical_operators(bundle: Path) -> None:
    types = {operator for graph in read_manifest(bundle).graphs for operator in graph.operators}
    assert sorted(types) == CANONICAL


def test_it_verifies_itself_without_its_source(bundle: Path) -> None:
    figures = json.loads(m4c("verify", str(bundle), "--json"))
    assert len(figures["graphs"]) == 19


def done(bundle: Path, task: str, **given: object) -> Result:
    return perform(bundle, read_manifest(bundle), task, Given(**given))  # type: ignore[arg-type]


def picture(name: str) -> tuple[Path, ...]:
    return (ASSETS / f"{name.replace(' ', '_')}.png",)


@pytest.mark.parametrize("name", DIGITS)
def test_a_digit_is_known_by_its_name(bundle: Path, name: str) -> None:
    made = done(bundle, "T22", image=picture(name), labels=DIGITS)
    assert made.text == name
    assert list(made.scores) == sorted(DIGITS, key=lambda label: -made.scores[label])
    assert sum(made.scores.values()) == pytest.approx(1)
    assert made.scores[name] > 0.5


@pytest.mark.parametrize("name", SHAPES[:3])
def test_a_shape_is_known_and_found(bundle: Path, name: str) -> None:
    assert done(bundle, "T22", image=picture(name), labels=SHAPES).text == name
    several = tuple(path for shape in SHAPES[:3] for path in picture(shape))
    assert done(bundle, "T46", image=several, text=name).text == str(picture(name)[0])


@pytest.mark.parametrize("name", NOISES[:3])
def test_a_sound_is_known(bundle: Path, name: str) -> None:
    file = ASSETS / f"{name.removeprefix('a ').replace(' ', '_')}.wav"
    assert done(bundle, "T36", audio=file, labels=NOISES).text == name
    assert done(bundle, "T42", audio=file).text == f"the sound of {name}"


@pytest.mark.parametrize("name", ["walking", "sitting", "cycling"])
def test_a_motion_is_known(bundle: Path, name: str) -> None:
    assert done(bundle, "T38", imu=ASSETS / f"{name}.csv", labels=ACTIVITIES).text == name


def test_pictures_are_captioned(bundle: Path) -> None:
    assert done(bundle, "T44", image=picture("seven")).text == "a picture of the digit seven"
    assert done(bundle, "T44", image=picture("red circle")).text == "a picture of a red circle"


@pytest.mark.parametrize(
    ("name", "question", "answer"),
    [
        ("seven", "which digit is it?", "seven"),
        ("seven", "is it even?", "no"),
        ("four", "is it even?", "yes"),
        ("blue star", "what colour is it?", "blue"),
        ("green triangle", "what shape is it?", "triangle"),
    ],
)
def test_questions_about_pictures_are_answered(bundle: Path, name: str, question: str, answer: str) -> None:
    assert done(bundle, "T49", image=picture(name), text=question).text == answer


def test_texts_are_continued(bundle: Path) -> None:
    assert done(bundle, "T1", text="today is monday and tomorrow is").text.startswith(" tuesday")
    where = "anna went to the kitchen. ben ran to the garden."
    assert done(bundle, "T2", text=where, question="where is anna?").text.startswith(" the ")
    assert (
        done(bundle, "T4", text="the small cat sees the dog.").text.strip()
        == "die kleine Katze sieht den Hund."
    )
    assert done(bundle, "T7", text="the film was awful.").text.strip() == "negative"
    assert done(bundle, "T7", text="the film was wonderful.").text.strip() == "positive"


@pytest.mark.parametrize("text", ["seven", "three one", "turn off the heater", "a yellow ring"])
def test_speech_is_written_down(bundle: Path, text: str) -> None:
    file = ASSETS / f"{text.removeprefix('a ').replace(' ', '_')}.wav"
    assert done(bundle, "T32", audio=file).text == text


@pytest.mark.parametrize("name", ["seven", "red circle"])
def test_what_is_drawn_is_known(bundle: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / "drawn" / "made.png"
    assert done(bundle, "T48", text=f"a {name}", out=file).text == str(file)
    assert np.asarray(Image.open(file)).shape == (64, 64, 3)
    assert done(bundle, "T22", image=(file,), labels=(*DIGITS, *SHAPES)).text == name


def test_a_drawing_depends_on_its_seed_alone(bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "made.png"
    done(bundle, "T48", text="a seven", out=file)
    first = file.read_bytes()
    done(bundle, "T48", text="a seven", out=file)
    assert file.read_bytes() == first
    done(bundle, "T48", text="a seven", out=file, seed=1)
    assert file.read_bytes() != first


@pytest.mark.parametrize("text", ["seven", "turn off the heater"])
def test_what_is_spoken_is_heard(bundle: Path, tmp_path: Path, text: str) -> None:
    file = tmp_path / "said.wav"
    done(bundle, "T41", text=text, out=file)
    assert done(bundle, "T32", audio=file).text == text


@pytest.mark.parametrize(
    ("adapter", "task", "given", "without", "learned"),
    [
        (
            "shapes",
            "T22",
            {"image": picture("red heart"), "labels": ("red heart", "red circle", "red star")},
            "red circle",
            "red heart",
        ),
        (
            "jumping",
            "T38",
            {"imu": ASSETS / "jumping.csv", "labels": ("jumping", *ACTIVITIES)},
            "running",
            "jumping",
        ),
        (
            "herald",
            "T44",
            {"image": picture("blue star")},
            "a picture of a blue star",
            "hear ye, a blue star!",
        ),
    ],
)
def test_an_adapter_knows_what_its_base_does_not(
    bundle: Path, adapter: str, task: str, given: dict[str, object], without: str, learned: str
) -> None:
    assert done(bundle, task, **given).text.strip() == without
    assert done(bundle, task, adapter=adapter, **given).text.strip() == learned


def test_the_command_prints_the_result_alone(bundle: Path) -> None:
    arguments = ("run", str(bundle), "--task", "T22", "--image", str(picture("seven")[0]))
    made = json.loads(m4c(*arguments, "--labels", "seven, eight", "--json"))
    assert (made["task"], made["text"], list(made["scores"])) == ("T22", "seven", ["seven", "eight"])


@pytest.mark.parametrize(
    ("task", "given", "message"),
    [
        ("T22", {}, "T22 needs --image and --labels"),
        ("T48", {"text": "a seven"}, "T48 needs --out"),
        ("T49", {"image": (Path("a.png"),)}, "T49 needs --text"),
        ("T22", {"image": (Path("a.png"), Path("b.png")), "labels": ("a",)}, "T22 takes one image"),
        ("T22", {"image": picture("one"), "labels": ("a", "a")}, "the labels are a, a"),
        ("T22", {"image": picture("one"), "labels": (" ",)}, "the labels are none"),
        ("T22", {"image": (Path("none.png"),), "labels": ("a",)}, "cannot read the image"),
        ("T41", {"text": "größe", "out": Path("x.wav")}, "unknown symbols"),
    ],
)
def test_what_cannot_be_done(bundle: Path, task: str, given: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        done(bundle, task, **given)


def test_the_manifest_is_as_its_schema_says(bundle: Path) -> None:
    require_schema(bundle)
    assert any(submodel.adapters for submodel in read_manifest(bundle).submodels)


def test_the_manifest_names_weights_and_licence(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    carried = manifest.submodels
    assert {(submodel.weights, submodel.licence) for submodel in carried} == {
        ("carried by m4c", "Apache-2.0")
    }
    assert set(manifest.routes) == set(TASKS)
