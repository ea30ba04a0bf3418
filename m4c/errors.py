"""Every error that m4c raises on purpose: what is wrong, where, how to mend it, and the exit code it ends with."""

import errno
import re
from typing import ClassVar

FULL = "free some space, or give -o a folder on another disk"
SYSTEM_FIXES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), FULL),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "give a folder that you may write to"),
}
"""How to mend errors of the operating system that are nobody's bug: a full disk, missing rights."""

CUT_SHORT = re.compile(r"\d+ requested and \d+ written")
"""What numpy says where a file could not be written whole, without a number of the error."""


class M4CError(Exception):
    """Base of all errors a user can meet; ``str()`` is the whole message for the terminal."""

    exit_code: ClassVar[int] = 2

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        """Say ``what`` is wrong, ``where`` it was met, and the ``fix`` that would mend it."""
        self.what, self.where, self.fix = what, where, fix
        lines = [what]
        if where:
            lines.append(f"  at:  {where}")
        if fix:
            lines.append(f"  fix: {fix}")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        """Come whole out of another process."""
        return _again, (type(self), self.what, self.where, self.fix)


LIGHT = (
    "pip install m4c with all it depends on; where only the runtime extra is, m4c runs and verifies bundles "
    "whose runtime (onnxruntime or ai-edge-litert) is there"
)


def as_usage(error: BaseException) -> "UsageError | None":
    """Return what to tell the user of an error that is the machine's and nobody's bug, else None."""
    if isinstance(error, ModuleNotFoundError) and not f"{error.name}.".startswith("m4c."):
        return UsageError(f"{error.name} is not installed here", fix=LIGHT)
    if not isinstance(error, OSError):
        return None
    full = error.errno is None and CUT_SHORT.fullmatch(str(error))
    fix = FULL if full else SYSTEM_FIXES.get(error.errno or 0)
    what = "No space left on device" if full else error.strerror
    return UsageError(f"{what}: {error.filename or 'while writing'}", fix=fix) if fix else None


def _again(kind: type[M4CError], what: str, where: str, fix: str) -> M4CError:
    """Make an error anew from its parts."""
    return kind(what, where=where, fix=fix)


class UsageError(M4CError):
    """An option, a path or an input that the user gave cannot be used."""


class CheckpointError(M4CError):
    """A checkpoint is unreadable, or a tensor in it is missing, extra, wrongly shaped or not a number."""


class CaptureError(M4CError):
    """A source model could not be turned into a graph."""


class ProfileError(M4CError):
    """A target profile does not load."""


class PipelineError(M4CError):
    """A pipeline was put together in an order that cannot work."""


class BundleError(M4CError):
    """A bundle is incomplete, altered, or of a version this m4c does not read."""


class UnsupportedError(M4CError):
    """The target cannot run something, and no fallback was allowed."""

    exit_code = 3


class GateError(M4CError):
    """A coverage gate failed."""

    exit_code = 4


class NumbersError(M4CError):
    """An artifact's numbers differ from its source by more than the stated tolerance."""

    exit_code = 5


class PassError(M4CError):
    """A pass met a graph it should have been able to handle, or broke its promise."""

    exit_code = 70


class Bug(M4CError):
    """Something inside m4c is wrong; nothing the user did."""

    exit_code = 70
