"""Images against transformers' CLIP preparation, and the refusals."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil

from m4c.errors import UsageError
from m4c.host.image import prepare_image

Array = np.ndarray


def picture(rng: np.random.Generator, height: int, width: int) -> Array:
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]


@pytest.mark.parametrize(("height", "width"), [(224, 224), (300, 400), (640, 480), (100, 60), (224, 512)])
def test_equals_clips_own_preparation(height: int, width: int, rng: np.random.Generator) -> None:
    pixels = picture(rng, height, width)
    wanted = CLIPImageProcessorPil()(Image.fromarray(pixels), return_tensors="np")["pixel_values"]
    made = prepare_image(pixels)
    assert (made.shape, made.dtype) == ((1, 3, 224, 224), np.dtype("float32"))
    np.testing.assert_allclose(made, wanted, atol=1e-5)


def test_files_bytes_and_arrays_give_the_same(rng: np.random.Generator, tmp_path: Path) -> None:
    pixels, path = picture(rng, 50, 70), tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    wanted = prepare_image(pixels, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert wanted.shape == (1, 3, 32, 32)
    assert -1 <= wanted.min() < wanted.max() <= 1
    for source in (path, path.read_bytes()):
        np.testing.assert_array_equal(prepare_image(source, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), wanted)


def test_grey_transparent_and_turned_images(rng: np.random.Generator, tmp_path: Path) -> None:
    grey = Image.fromarray(picture(rng, 40, 40)[..., 0])
    with BytesIO() as out:
        grey.convert("RGBA").save(out, "PNG")
        assert prepare_image(out.getvalue(), 32).shape == (1, 3, 32, 32)
    turned, path = Image.fromarray(picture(rng, 40, 60)), tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn to the right
    turned.save(path, exif=exif)
    wanted = prepare_image(np.asarray(turned.transpose(Image.Transpose.ROTATE_270)), 32)
    np.testing.assert_array_equal(prepare_image(path, 32), wanted)


def claimed_png(width: int, height: int) -> bytes:
    """Return a tiny PNG whose header claims ``width`` × ``height`` pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I4s", 4, b"IDAT") + bytes(8)


@pytest.mark.parametrize("side", [10_001, 10_500, 60_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    with pytest.raises(UsageError, match="more than 100,000,000 pixels"):
        prepare_image(claimed_png(side, side))


def test_what_is_not_an_image_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no picture")
    with pytest.raises(UsageError, match="not an image") as caught:
        prepare_image(path)
    assert str(path) in str(caught.value)
    with pytest.raises(UsageError, match="cannot read the image"):
        prepare_image(tmp_path / "none.png")
    whole = BytesIO()
    Image.fromarray(picture(rng, 64, 64)).save(whole, "PNG")
    with pytest.raises(UsageError, match="cannot read the image"):
        prepare_image(whole.getvalue()[:200])
    with pytest.raises(UsageError, match=r"float64\[4, 4, 3\]"):
        prepare_image(np.zeros((4, 4, 3)))
