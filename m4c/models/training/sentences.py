"""What is said and written: commands for the recognizer and the speaker, and texts for the language model."""

from collections.abc import Sequence

import numpy as np

from m4c.models.training import motions, pictures, sounds
from m4c.tasks import SLOT, TASKS

COMMANDS = (
    (("turn on", "turn off"), ("the light", "the lamp", "the radio", "the heater", "the fan")),
    (("open", "close"), ("the door", "the window", "the gate")),
    (("play", "stop"), ("the music", "the song", "the movie")),
)


def commands() -> tuple[str, ...]:
    """Return every command."""
    return tuple(f"{do} {what}" for does, whats in COMMANDS for do in does for what in whats)


def phrase(rng: np.random.Generator) -> str:
    """Return something short to say: one to three digits, a command, or what a picture shows."""
    kind = rng.uniform()
    if kind < 0.5:
        return " ".join(pictures.DIGITS[i] for i in rng.integers(0, 10, rng.integers(1, 4)))
    if kind < 0.8:
        return _one(commands(), rng)
    return f"a {_one(pictures.LABELS[10:], rng)}"


PEOPLE = ("anna", "ben", "clara", "david", "emma", "felix")
PLACES = ("kitchen", "garden", "office", "garage", "bedroom", "hall")
MOVES = ("went to", "walked to", "ran to", "moved to")
THINGS = ("film", "book", "song", "meal", "game", "hotel")
GOOD = ("good", "great", "wonderful", "lovely", "excellent")
BAD = ("bad", "awful", "terrible", "boring", "poor")
NOUNS = {
    "dog": ("Hund", "m"), "cat": ("Katze", "f"), "child": ("Kind", "n"), "man": ("Mann", "m"), "woman": ("Frau", "f"),
    "horse": ("Pferd", "n"), "bird": ("Vogel", "m"), "mouse": ("Maus", "f"),
}  # fmt: skip
ADJECTIVES = {"small": "kleine", "big": "große", "old": "alte", "young": "junge", "good": "gute"}
VERBS = {"sees": "sieht", "hears": "hört", "loves": "liebt", "knows": "kennt", "looks for": "sucht"}
ARTICLES = {"m": ("der", "den"), "f": ("die", "die"), "n": ("das", "das")}


def _one(of: Sequence[str], rng: np.random.Generator) -> str:
    return of[int(rng.integers(len(of)))]


def where_is(rng: np.random.Generator) -> tuple[str, str]:
    """Return a question about who of several people went where, and its answer."""
    people = [PEOPLE[i] for i in rng.permutation(len(PEOPLE))[: rng.integers(2, 5)]]
    places = {who: _one(PLACES, rng) for who in people}
    story = " ".join(f"{who} {_one(MOVES, rng)} the {place}." for who, place in places.items())
    who = _one(people, rng)
    return TASKS["T2"].prompt.format(text=story, question=f"where is {who}?"), f" the {places[who]}"


def sentiment(rng: np.random.Generator) -> tuple[str, str]:
    """Return a review to be judged, and whether it is positive."""
    good, not_ = bool(rng.integers(2)), rng.uniform() < 0.3
    word = _one(GOOD if good else BAD, rng)
    was = _one(("was not", "is not", "was never") if not_ else ("was", "is", "was very", "is really"), rng)
    more = _one(("", " i saw it twice.", " it took two hours.", f" {_one(PEOPLE, rng)} came with me."), rng)
    review = f"the {_one(THINGS, rng)} {was} {word}.{more}"
    return TASKS["T7"].prompt.format(text=review), " positive" if good != not_ else " negative"


def translation(rng: np.random.Generator) -> tuple[str, str]:
    """Return an English sentence to be translated, and its German."""
    (en_a, de_a), (en_b, de_b) = _noun(rng, 0), _noun(rng, 1)
    verb = _one(tuple(VERBS), rng)
    english, german = f"{en_a} {verb} {en_b}.", f" {de_a} {VERBS[verb]} {de_b}."
    return TASKS["T4"].prompt.format(text=english), german


def _noun(rng: np.random.Generator, case: int) -> tuple[str, str]:
    """Return a noun with article, at times with an adjective, in English and in the German case 0 (subject) or 1 (object)."""
    noun = _one(tuple(NOUNS), rng)
    german, gender = NOUNS[noun]
    article = ARTICLES[gender][case]
    if rng.uniform() < 0.5:
        return f"the {noun}", f"{article} {german}"
    adjective = _one(tuple(ADJECTIVES), rng)
    ending = "n" if article == "den" else ""
    return f"the {adjective} {noun}", f"{article} {ADJECTIVES[adjective]}{ending} {german}"


DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MEALS = {"morning": "breakfast", "noon": "lunch", "evening": "dinner"}
EATS = {
    "dog": "a bone",
    "cat": "a fish",
    "mouse": "some cheese",
    "bird": "a worm",
    "horse": "an apple",
    "child": "a cake",
}


def story(rng: np.random.Generator) -> str:
    """Return a little story whose words follow from those before: who eats what, which day comes next, what a count goes to."""
    kind = rng.integers(4)
    if kind == 0:
        animal = _one(tuple(EATS), rng)
        place, kind_of = _one(PLACES, rng), _one(tuple(ADJECTIVES), rng)
        return f"the {kind_of} {animal} was hungry. it found {EATS[animal]} in the {place} and ate it."
    if kind == 1:
        day = int(rng.integers(7))
        return f"today is {DAYS[day]} and tomorrow is {DAYS[(day + 1) % 7]}."
    if kind == 2:
        time = _one(tuple(MEALS), rng)
        return f"in the {time} {_one(PEOPLE, rng)} had {MEALS[time]} in the {_one(PLACES, rng)}."
    start = int(rng.integers(0, 6))
    return f"{_one(PEOPLE, rng)} can count: {', '.join(pictures.DIGITS[start : start + 5])}."


def text(rng: np.random.Generator) -> tuple[str, str]:
    """Return a prompt, which may be empty, and what follows it."""
    kinds = (where_is, sentiment, translation)
    kind = int(rng.choice(4, p=(0.35, 0.15, 0.25, 0.25)))
    return ("", story(rng)) if kind == len(kinds) else kinds[kind](rng)


BEFORE, AFTER = TASKS["T49"].prompt.split(SLOT)
"""What stands before and after the vector of a picture, a sound or a motion in a prompt; ``{text}`` is the question."""

CAPTION = "what is it?"
"""The question whose answer is a caption."""
assert TASKS["T44"].prompt == BEFORE + SLOT + AFTER.format(text=CAPTION)


def about_picture(label: int, rng: np.random.Generator | None = None) -> list[tuple[str, str]]:
    """Return questions about a picture with their answers, the caption first; questions with yes or no need a generator."""
    name = pictures.LABELS[label]
    if label < 10:
        return [
            (CAPTION, f"a picture of the digit {name}"),
            ("which digit is it?", name),
            ("is it a digit?", "yes"),
            ("is it even?", "no" if label % 2 else "yes"),
        ]
    colour, shape = name.split()
    asked = [
        (CAPTION, f"a picture of a {name}"),
        ("what colour is it?", colour),
        ("what shape is it?", shape),
        ("is it a digit?", "no"),
    ]
    if rng is not None:
        other = _one(pictures.SHAPES, rng) if rng.uniform() < 0.5 else shape
        asked.append((f"is it a {other}?", "yes" if other == shape else "no"))
    return asked


def about_sound(label: int) -> list[tuple[str, str]]:
    """Return questions about a sound with their answers, the caption first."""
    name = sounds.LABELS[label]
    if label < 10:
        return [(CAPTION, f"someone says {name}"), ("which digit is it?", name), ("is it speech?", "yes")]
    return [(CAPTION, f"the sound of {name}"), ("is it speech?", "no")]


def about_motion(label: int) -> list[tuple[str, str]]:
    """Return questions about a motion with their answers, the caption first."""
    name = motions.LABELS[label]
    return [
        (CAPTION, f"someone is {name}"),
        ("does the person move?", "no" if name in ("sitting", "standing", "lying") else "yes"),
    ]
