"""Who may import whom, which private modules of others are used and why, and what a quick command must not load."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("passes", "targets", "operator_reports")

LAYERS = (
    "allocator errors hashing json_file sound_onnx onnx_file record record_schema progress quiet numerics precisions cache "
    "layouts model runs scopes skeleton slots tasks host",
    "ahead journal origins weights weight_file blockwise rounding scheme rewrite samples parallel runners segments sweep "
    "bundle manifest_schema static_cache grid half",
    "pipeline quant qdq scales observers reach host_part",
    "models selection checkpoints match stamping repeat capture eager trace source calibration layerwise weight_plan",
    "passes targets",
    "operator_reports",
    "read_back read_back_tflite float_products float_graphs request matrix plan staging recipe disk store resources "
    "memory_limit scaling kernels held_out verify unrounded artifact genai build assemble compile rebuild cluster "
    "adapters selftest routes terminal",
    "options reporting gating adapting exporting cli",
)
"""The rooms of m4c from the lowest layer to the highest: a module imports from its own layer and those below."""

PRIVATE = {
    "os._exit": "the only way to end a process from a thread beside the main one",
    "torch.onnx._internal": "the exporter makes its list of functions anew at each call, for 0.4 s",
    "torch.utils._python_dispatch": "modes that see every operator have no public name yet",
    "torch._subclasses": "fake tensors have no public name yet",
}
"""Private modules of others that are used, and why."""

HEAVY = ("torch", "transformers", "diffusers")


@cache
def modules() -> dict[str, Path]:
    """Return every module of m4c by its full name; the linked rooms once, under m4c."""
    folders = {"m4c": ROOT / "m4c", **{f"m4c.{room}": ROOT / room for room in ROOMS}}
    found = {}
    for prefix, folder in folders.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            if prefix == "m4c" and parts[0] in ROOMS:
                continue
            found[".".join((prefix, *parts)).removesuffix(".__init__")] = path
    return found


def imports(path: Path) -> Iterator[str]:
    """Yield the full name of all that a file imports, also inside functions; names from a package as ``package.name``."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(name: str) -> str:
    """Return the part of a full name by which layers are told: the first after m4c."""
    return name.split(".")[1]


def own(path: Path) -> set[str]:
    """Return the modules of m4c that a file imports."""
    found = set()
    for name in imports(path):
        if name.startswith("m4c.") and name != "m4c.__version__":
            found.add(name if name in modules() else name.rpartition(".")[0])
    return found


def rank(name: str) -> int:
    """Return the layer of a module."""
    return next(i for i, layer in enumerate(LAYERS) if room(name) in layer.split())


def test_every_module_has_one_layer() -> None:
    listed = [name for layer in LAYERS for name in layer.split()]
    assert len(listed) == len(set(listed))
    assert set(listed) == {room(name) for name in modules() if name != "m4c"}


def test_modules_import_from_their_own_layer_and_below() -> None:
    wrong = [
        f"{name} imports {other}"
        for name, path in modules().items()
        if name != "m4c"
        for other in own(path)
        if rank(other) > rank(name)
    ]
    assert wrong == []


def test_passes_targets_and_models_do_not_know_each_other() -> None:
    apart = {
        "passes": {"targets", "models"},
        "targets": {"passes", "models"},
        "models": {"passes", "targets"},
    }
    wrong = [
        f"{name} imports {other}"
        for name, path in modules().items()
        if name != "m4c"
        for other in own(path)
        if room(other) in apart.get(room(name), ())
    ]
    assert wrong == []


def test_passes_never_import_each_other() -> None:
    in_room = {name: path for name, path in modules().items() if name.startswith("m4c.passes.")}
    concrete = {name for name, path in in_room.items() if "(Pass)" in path.read_text("utf-8")}
    assert len(concrete) >= 6
    wrong = [f"{name} imports {other}" for name in in_room for other in own(in_room[name]) & concrete]
    assert wrong == []


def test_there_are_no_circles() -> None:
    graph = {name: own(path) - {name} for name, path in modules().items()}
    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name in done:
            return
        for other in graph[name]:
            # A package is there before its members: naming it from within is no circle.
            if not name.startswith(f"{other}."):
                walk(other, (*trail, name))
        done.add(name)

    for name in graph:
        walk(name, ())


def is_private(dotted: str) -> bool:
    """Return whether a part of a name is private to its owner."""
    return any(part.startswith("_") and not part.startswith("__") for part in dotted.split("."))


def dotted_uses(path: Path) -> Iterator[str]:
    """Yield what a file imports, and chains of attributes that begin with an imported module."""
    tree = ast.parse(path.read_text("utf-8"))
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {alias.asname or alias.name.split(".")[0]: alias.name for alias in node.names}
    yield from imports(path)
    for node in ast.walk(tree):
        chain = []
        inner: ast.expr | ast.AST = node
        while isinstance(inner, ast.Attribute):
            chain.append(inner.attr)
            inner = inner.value
        if chain and isinstance(inner, ast.Name) and inner.id in known:
            yield ".".join((known[inner.id], *reversed(chain)))


def test_private_parts_of_others_are_listed_with_a_reason() -> None:
    used: set[str] = set()
    for path in modules().values():
        used |= {name for name in dotted_uses(path) if is_private(name)}
    unlisted = {name for name in used if not any(name.startswith(allowed) for allowed in PRIVATE)}
    assert unlisted == set()
    unused = {allowed for allowed in PRIVATE if not any(name.startswith(allowed) for name in used)}
    assert unused == set()


def loaded(folder: Path, *arguments: object) -> tuple[int, set[str]]:
    """Run a command in a process of its own; return its exit code and the heavy packages that it loaded."""
    program = (
        "import atexit, sys\nfrom m4c.cli import main\n"
        f"sys.argv = ['m4c', *{[str(a) for a in arguments]!r}]\n"
        f"atexit.register(lambda: print('LOADED', *({set(HEAVY)!r} & set(sys.modules))))\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=folder
    )
    line = done.stdout.splitlines()[-1]
    assert line.startswith("LOADED")
    return done.returncode, set(line.split()[1:])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["export", "--help"], 0),
        (["list", "submodels"], 0),
        (["list", "targets"], 0),
        (["verify", "float"], 0),
        (["verify", "int8"], 0),
        (["report", "float"], 0),
        (["report", "int8", "--target", "edgetpu"], 0),
        (["report", "float", "--target", "qualcomm-htp"], 0),
        (["explain", "int8", "linear"], 0),
        (["gate", "int8", "--target", "edgetpu", "--min-coverage", "100"], 0),
        (["gate", "float", "--target", "qualcomm-htp", "--min-coverage", "1"], 0),
        (["diff", "int8", "float"], 0),
        (["report", "zoo"], 0),
        (["report", "scaling"], 0),
        (["run", "float", "--task", "T32", "--audio", "none.wav"], 2),
    ],
)
def test_quick_commands_load_no_torch(
    float_bundle: Path, int8_bundle: Path, arguments: list[str], code: int
) -> None:
    folders = {"float": float_bundle, "int8": int8_bundle}
    given = [folders.get(a, a) for a in arguments]
    assert loaded(ROOT, *given) == (code, set())


def test_the_guard_sees_what_is_loaded(tmp_path: Path) -> None:
    assert loaded(tmp_path, "export", "gen_dec", "--preset", "none")[1] >= {"torch"}
