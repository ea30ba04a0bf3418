"""Whether a bundle is what its own recipe makes: it is compiled again, and every byte compared."""

import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m4c.adapters.given import adapters
from m4c.bundle import MANIFEST, Manifest
from m4c.compile import compile_bundle
from m4c.errors import BundleError, NumbersError, UsageError
from m4c.hashing import sha256
from m4c.models import shipped
from m4c.progress import Progress
from m4c.recipe import files, subjects
from m4c.request import Request
from m4c.scheme import Scheme
from m4c.targets.profile import load_target


@dataclass(frozen=True)
class Beside:
    """What a recipe names and a bundle does not hold."""

    weights: Path | None = None
    calibration: str | None = None
    model: Path | None = None
    adapters: Sequence[str] = ()
    """As ``--adapter`` has them."""
    target: str | None = None


def rebuild(manifest: Manifest, folder: Path, beside: Beside, progress: Progress, jobs: int = 1) -> int:
    """Compile the bundle at ``folder`` again, from its recipe and what lies ``beside``; return how many files are equal.

    Raises:
        BundleError: if the manifest has no recipe.
        UsageError: if the recipe names something that was not given.
        NumbersError: if a file differs, is missing or is new; it names the first, and other versions of the tools.
    """
    if not manifest.recipe:
        raise BundleError("the manifest has no recipe", where=str(folder), fix="export it again")
    request = as_request(manifest.recipe, beside)
    with tempfile.TemporaryDirectory(prefix="m4c-") as workspace:
        again = Path(workspace) / "bundle"
        made = compile_bundle(request, again, progress, jobs)
        first, second = _digests(folder), _digests(again)
    differ = sorted(path for path in first.keys() | second.keys() if first.get(path) != second.get(path))
    if differ:
        others = [
            f"{tool} {version}" for tool, version in made.tools.items() if manifest.tools.get(tool) != version
        ]
        raise NumbersError(
            f"{len(differ)} of {len(first)} files are not what the recipe makes"
            + (f" with {', '.join(others)}" if others else ""),
            where=next((path for path in differ if path != MANIFEST), MANIFEST),
            fix="use the versions that the manifest names"
            if others
            else "do not use this bundle: export it again",
        )
    return len(first)


def as_request(recipe: Mapping[str, Any], beside: Beside) -> Request:
    """Return the request that a manifest's ``recipe`` is of.

    Raises:
        UsageError: if it names something that is not ``beside``, or something is that it does not name.
    """
    missing = [name for name in recipe["given"] if not getattr(beside, name)]
    if missing:
        raise UsageError(
            f"the bundle was made from {' and '.join(missing)} that it does not hold",
            fix="give "
            + " and ".join(f"--{name.removesuffix('s') if name == 'adapters' else name}" for name in missing),
        )
    options = dict(recipe["options"])
    scheme = options.pop("scheme")
    if scheme is not None:
        scheme = Scheme(**{**scheme, "keep": tuple(map(tuple, scheme["keep"]))})
    mode = options.pop("adapters")
    carried = options.pop("carried")
    request = Request(
        **{
            **options,
            "target": load_target(beside.target or options["target"]),
            "submodels": tuple(options["submodels"]),
            "dynamic": frozenset(options["dynamic"]),
            "sizes": tuple((name, size) for name, size in options["sizes"]),
            "scheme": scheme,
            "model": beside.model,
            "weights": shipped.WEIGHTS if carried else beside.weights,
            "calibration": options["calibration"] or beside.calibration,
        }
    )
    if mode is None:
        return request
    given = adapters(beside.adapters, mode["mode"], mode["pickled"], subjects(request), mode["rank_limit"])
    return dataclasses.replace(request, adapters=given)


def _digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below ``folder``, of the manifest without the versions of tools."""
    found = {
        path.relative_to(folder).as_posix(): sha256(path) for path in files(folder) if path.name != MANIFEST
    }
    held = json.loads((folder / MANIFEST).read_text("utf-8"))
    held["tools"] = {}
    return {**found, MANIFEST: json.dumps(held, sort_keys=True)}
