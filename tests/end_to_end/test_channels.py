"""Channels stay last: no image is transposed between the convolutions of a model, in floats."""

from pathlib import Path

import pytest

from m4c.assemble import open_sources
from m4c.passes import for_format
from m4c.request import Request
from m4c.targets.emit_tflite import to_tflite
from m4c.targets.profile import load_target
from tests.end_to_end.channels import check


@pytest.mark.parametrize(("name", "convolutions"), [("vae_decoder", 27), ("unet", 65)])
def test_nothing_is_transposed_between_convolutions(name: str, convolutions: int, tmp_path: Path) -> None:
    request = Request(target=load_target("cpu"), submodels=(f"img_dec/{name}",))
    _, _, (source,) = open_sources(request, "img_dec")
    model, _ = for_format("tflite").run(source.capture())
    to_tflite(model, tmp_path / "m.tflite")
    check((tmp_path / "m.tflite").read_bytes(), convolutions)
