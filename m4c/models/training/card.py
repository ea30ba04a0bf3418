"""Write the model card of the weights that m4c carries: what they were trained on, and how good they are.

python -m m4c.models.training.card docs/model_card.md
"""

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open

from m4c.models import SUBMODELS, shipped
from m4c.models.training import motions, pictures, sounds, speaker, speech
from m4c.models.training.common import SEED

CARD = """# m4-nano's weights

The weights that m4c carries and exports by default: M4's graphs at a few million parameters, trained on data that is free to
use, so that every route does something that can be seen and measured. They show what a compiler does to a model that has
something to lose, and are of no use for anything else.

| | |
|---|---|
| licence | {licence}, code and weights |
| format | safetensors, one file a sub-model, trained in float32, stored in float16: {bytes:.1f} MB in all |
| training | `python -m m4c.models.training`, seed {seed}; needs `pip install -e ".[training]"` and espeak-ng |
| random weights instead | `m4c export --random-weights SEED` |

## Sub-models and figures

Figures are of what was not trained on: digits of other writers, voices that no part has heard, new drawings, noises,
motions and texts. They are of the float16 weights in torch, and are in each file's own metadata too.

| sub-model | parameters | bytes | figures |
|---|---:|---:|---|
{rows}

## Data

- **Hand-written digits**, 1797 of 8×8 pixels, of which the last {held_out} are held out: Alpaydin and Kaynak, *Optical
  Recognition of Handwritten Digits*, UCI, CC BY 4.0, as scikit-learn carries them.
- **Speech** by the program espeak-ng (GPL-3.0; what it says is not), in {voices} voices of English; {held_voices} more are held
  out. `tts_dec` learns {voice} alone. m4c carries none of the program.
- **{shapes} coloured shapes** (`pictures.py`), **{noises} noises** (`sounds.py`), **{activities} activities** as six channels
  at 50 Hz (`motions.py`), and **texts** (`sentences.py`: who is where, reviews, English to German, little stories): all made by
  the scripts in m4c/models/training, Apache-2.0.

## What they can do

- `img_enc`, `aud_b_enc` and `imu_enc` with `txt_enc` choose among labels: the digits by name; {some_shapes};
  {some_noises}; {some_activities}.
- `projection` and `backbone` caption these, answer questions about them (which digit, even or not, colour, shape, speech or
  not, moving or not), and go on with texts of the kinds above. Everything in lower case.
- `aud_i_enc` writes down one to three digits, the commands of `sentences.py`, and names of coloured shapes; `tts_dec` speaks
  these, letter by letter.
- `img_dec` draws a digit or a coloured shape, 64×64.
"""


def rows() -> Iterator[str]:
    """Yield a line for each file of weights."""
    for name in SUBMODELS:
        path = shipped.folder(name) / shipped.FILE
        if not path.is_file():
            continue
        with safe_open(path, "np") as file:
            figures = json.loads(file.metadata()["figures"])
            held = (file.get_slice(key).get_shape() for key in list(file.keys()))
            count = sum(math.prod(shape) for shape in held)
        told = ", ".join(f"{key.replace('_', ' ')} {value:g}" for key, value in figures.items())
        yield f"| `{name}` | {count:,} | {path.stat().st_size:,} | {told or 'see the others'} |"


def main() -> None:
    """Write the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out
    files = [path for path in shipped.WEIGHTS.rglob("*") if path.is_file()]
    card = CARD.format(
        licence=shipped.LICENCE,
        bytes=sum(path.stat().st_size for path in files) / 1e6,
        seed=SEED,
        rows="\n".join(rows()),
        held_out=pictures.HELD_OUT,
        shapes=len(pictures.LABELS) - len(pictures.DIGITS),
        noises=len(sounds.NOISES),
        voices=len(speech.VOICES),
        held_voices=len(speech.HELD_OUT_VOICES),
        voice=speaker.VOICE,
        activities=len(motions.LABELS),
        some_shapes=", ".join(
            f"{colour} {shape}" for colour, shape in zip(pictures.COLOURS, pictures.SHAPES, strict=True)
        ),
        some_noises=", ".join(sounds.NOISES),
        some_activities=", ".join(motions.LABELS),
    )
    out.write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
