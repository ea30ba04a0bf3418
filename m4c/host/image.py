"""Images for the image encoder: resized, cropped to a square and normalized as CLIP and ImageBind learnt them."""

import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from m4c.errors import UsageError

Array = np.ndarray

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Mean and spread of CLIP's training images by channel (red, green, blue), in [0, 1]."""

MAX_PIXELS = 100_000_000
"""Larger images are refused before they are decoded: a few kilobytes can claim gigapixels."""


def prepare_image(
    source: Path | bytes | Array,
    size: int = 224,
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
) -> Array:
    """Return (1, 3, size, size), float32: shorter side to ``size`` (bicubic), centre crop, (x - mean) / std.

    ``source`` is an image file, its bytes, or an array (height, width, 3) of uint8. A photo is turned upright by
    its EXIF orientation; transparency is dropped.
    """
    image = _from_array(source) if isinstance(source, np.ndarray) else read_image(source)
    width, height = image.size
    short = min(width, height)
    width, height = int(size * width / short), int(size * height / short)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    # torchvision's CenterCrop rounds half to even; so does Python's round.
    left, top = round((width - size) / 2), round((height - size) / 2)
    pixels = np.asarray(image.crop((left, top, left + size, top + size)), np.float32) / 255
    scaled = (pixels - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None], np.float32)


def read_image(source: Path | bytes) -> Image.Image:
    """Return an image file, or its bytes, as upright RGB.

    Raises:
        UsageError: if it is unreadable, not an image, damaged, or of more than 100 million pixels.
    """
    where = str(source) if isinstance(source, Path) else "image bytes"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source if isinstance(source, Path) else BytesIO(source)) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise _too_large(where)
                return ImageOps.exif_transpose(image).convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(where) from error
    except UnidentifiedImageError as error:
        raise UsageError(
            "not an image", where=where, fix="give a PNG, JPEG or another common format"
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise UsageError(f"cannot read the image: {error}", where=where, fix="check the file") from error


def _too_large(where: str) -> UsageError:
    return UsageError(
        f"the image has more than {MAX_PIXELS:,} pixels",
        where=where,
        fix="scale it down; the encoder sees far less",
    )


def _from_array(pixels: Array) -> Image.Image:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise UsageError(
            f"not an image: {pixels.dtype}{list(pixels.shape)}", fix="give uint8 of (height, width, 3)"
        )
    return Image.fromarray(pixels)
