"""Libraries are silent inside, and as loud as before outside."""

import logging

import pytest

from m4c.quiet import quiet


def test_levels_come_back_even_after_an_error(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("m4c.test.quiet")
    logger.setLevel(logging.INFO)
    with pytest.raises(KeyError), quiet("m4c.test.quiet"):
        _fail_loudly(logger)
    logger.info("outside")
    assert [record.message for record in caplog.records] == ["serious", "outside"]


def _fail_loudly(logger: logging.Logger) -> None:
    logger.warning("inside")
    logger.error("serious")
    raise KeyError
