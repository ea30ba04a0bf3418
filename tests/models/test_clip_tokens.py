import numpy as np

from m4c.host.text import ByteTokenizer
from m4c.models.clip_tokens import ClipTokens


def test_published_ids() -> None:
    words = ClipTokens("merges.txt")
    assert (words.start, words.end, words.filler) == (49406, 49407, 0)
    assert ClipTokens("merges.txt", pad=None).filler == 49407


def test_port_tells_the_host_how_to_make_tokens() -> None:
    ids = {"context": 77, "start": 49406, "end": 49407, "pad": 0}
    published, small = ClipTokens("merges.txt"), ClipTokens(None, 1000, 16, pad=None)
    assert published.port.host == {"kind": "clip-bpe", "asset": "merges.txt", **ids}
    assert published.assets == ("merges.txt",)
    assert small.port.host == {"kind": "bytes", "context": 16, "start": 998, "end": 999, "pad": 999}
    assert small.assets == ()
    assert small.port.sized({"batch": 2}) == (2, 16)


def test_texts_look_like_the_hosts() -> None:
    words = ClipTokens(None, 1000, 16)
    made = words.texts(np.random.default_rng(0), 50)
    spoken = ByteTokenizer(16, words.start, words.end).encode("hello")
    assert made.dtype == spoken.dtype
    assert made.shape == (50, *spoken.shape[1:])
    assert len({int(row.argmax()) for row in made}) > 5
    for row in (*made, spoken[0]):
        end = int(row.argmax())
        assert (row[0], row[end], end > 1) == (words.start, words.end, True)
        assert not row[end + 1 :].any()
        assert row[1:end].all()
