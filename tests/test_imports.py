"""Who may import whom: arrows that point one way, so that a module can be read and tested without what is above it.

Read from the source, so that an import inside a function counts as one at the top does.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import nanocache

NANOCACHE = Path(nanocache.__file__).parent
NANODIST = NANOCACHE.parent / "nanodist"

# A room may import from those named behind it, and from its own; without circles, and never from the face.
FACE = {"calls", "cli"}  # may import whatever they need
GROUND = "errors callers config cancel progress room scope sizes events"
# What stands on another part of it.
ABOVE_GROUND = {
    "progress": {"callers", "config"},
    "config": {"sizes"},
    "cancel": {"scope"},
    "room": {"scope"},
    "events": {"callers", "progress", "scope"},
}
ROOMS = {
    "archives": GROUND,
    "disk": GROUND,
    "artifact": GROUND,
    "http": f"{GROUND} artifact",
    "coordination": f"{GROUND} disk",
    "store": f"{GROUND} disk coordination",
    "retention": f"{GROUND} disk coordination store",
    "sources": f"{GROUND} artifact http",
    "download": f"{GROUND} artifact disk http sources store.partials",
    "lockfile": f"{GROUND} archives artifact disk coordination",
    "engine": f"{GROUND} archives artifact disk coordination lockfile store retention sources download",
    "upkeep": f"{GROUND} artifact disk coordination lockfile store retention sources engine",
    "diagnosis": f"{GROUND} artifact disk coordination store http",
    "bundle": f"{GROUND} archives artifact disk store retention engine.room",
}
DIST_GROUND = "errors launchers rank shared_disk"
DIST_ROOMS = {
    "coordination": DIST_GROUND,
    "compute": f"{DIST_GROUND} coordination",
    "broadcast": f"{DIST_GROUND} coordination",
    "shards": f"{DIST_GROUND} coordination",
}
# What nanodist may use of nanocache beside its public names.
FROM_NANOCACHE = {"errors", "cancel", "coordination.process", "peers", "peer_products"}

# What is not in the standard library has one door; httpcore, httpx's engine, has its ground floor beside it.
DOORS: dict[str, set[str]] = {
    "httpx": {"http.exchange"},
    "httpcore": {"http.exchange", "http.backend"},
    "tqdm": {"progress"},
    "filelock": {"coordination.lock"},
    "platformdirs": {"config"},
    "botocore": {"sources.by_botocore"},
    "google": {"sources.by_google"},
    "obstore": {"sources.obstore_child"},
    "fsspec": {"sources.filesystems"},
    "shtab": {"cli.completion"},
    "model_signing": {"lockfile.signing"},
}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(NANOCACHE.parent).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path, *, deferred: bool = True) -> Iterator[tuple[str, int]]:
    """Each import of a module as (absolute dotted name, line); `deferred`: those in functions and for types, too."""
    tree = ast.parse(path.read_text())
    parents = path.relative_to(NANOCACHE.parent).parts[:-1]
    for node in ast.walk(tree) if deferred else _at_import(tree):
        if isinstance(node, ast.Import):
            yield from ((name.name, node.lineno) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = parents[: len(parents) - node.level + 1] if node.level else ()
            source = ".".join([*above, *([node.module] if node.module else [])])
            # `from .disk import files` names a module, `from .disk.files import kind` what is in one.
            for name in node.names:
                is_module = f"{source}.{name.name}" in MODULES
                yield f"{source}.{name.name}" if is_module else source, node.lineno


def _at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """What runs when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from _at_import(node)


def modules(folder: Path) -> list[Path]:
    return sorted(folder.glob("**/*.py"))


MODULES = {module_name(path) for folder in (NANOCACHE, NANODIST) for path in modules(folder)}


def own(path: Path) -> set[str]:
    """The modules of its own package that a module imports, without the package's name; its face is ""."""
    package = path.relative_to(NANOCACHE.parent).parts[0]
    names = {name for name, _ in imports(path) if name.split(".")[0] == package}
    return {name.removeprefix(package).removeprefix(".") for name in names}


def named(path: Path) -> str:
    return module_name(path)


def strangers(path: Path, rooms: dict[str, str], package: Path) -> set[str]:
    """What a module in a room imports and may not."""
    room = path.relative_to(package).parts[0]
    allowed = {room, *rooms[room].split()}
    return {name for name in own(path) if name not in allowed and name.split(".")[0] not in allowed}


def in_rooms(package: Path) -> list[Path]:
    return [path for path in modules(package) if path.parent != package and path.parent.name not in FACE]


def test_each_room_has_its_rule() -> None:
    assert {path.relative_to(NANOCACHE).parts[0] for path in in_rooms(NANOCACHE)} == set(ROOMS)
    assert {path.relative_to(NANODIST).parts[0] for path in in_rooms(NANODIST)} == set(DIST_ROOMS)


@pytest.mark.parametrize("path", in_rooms(NANOCACHE), ids=named)
def test_a_room_imports_only_what_is_below_it(path: Path) -> None:
    assert not strangers(path, ROOMS, NANOCACHE)


@pytest.mark.parametrize("path", in_rooms(NANODIST), ids=named)
def test_a_room_of_nanodist_imports_only_what_is_below_it(path: Path) -> None:
    assert not strangers(path, DIST_ROOMS, NANODIST)


def test_the_ground_stands_on_nothing() -> None:
    for module in GROUND.split():
        assert own(NANOCACHE / f"{module}.py") <= ABOVE_GROUND.get(module, set()), module


@pytest.mark.parametrize("package", [NANOCACHE, NANODIST], ids=["nanocache", "nanodist"])
def test_no_imports_run_in_a_circle(package: Path) -> None:
    graph = {module_name(path).removeprefix(f"{package.name}.") or "": own(path) for path in modules(package)}
    list(TopologicalSorter({name: below - {""} for name, below in graph.items()}).static_order())  # or CycleError


@pytest.mark.parametrize("path", modules(NANODIST), ids=named)
def test_nanodist_stands_on_the_face_of_nanocache(path: Path) -> None:
    used = {
        name.removeprefix("nanocache").removeprefix(".") for name, _ in imports(path) if name.startswith("nanocache")
    }
    assert used - {""} <= FROM_NANOCACHE


def test_the_init_of_a_room_is_empty() -> None:
    assert not [
        path for path in (*in_rooms(NANOCACHE), *in_rooms(NANODIST)) if path.name == "__init__.py" and path.read_text()
    ]


def test_what_others_use_in_a_private_module_has_no_underscore() -> None:
    """An underscore is a promise that a name can change without a look at any other file."""
    taken = [
        f"{named(path)}:{node.lineno} {alias.name}"
        for path in modules(NANOCACHE)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.endswith("__")
    ]
    assert not taken


def test_a_class_or_constant_name_stands_once() -> None:
    """In both packages: a name that is met in an import or a traceback says which thing it is."""
    homes: dict[str, list[str]] = {}
    for path in (*modules(NANOCACHE), *modules(NANODIST)):
        for name in names_of(path):
            homes.setdefault(name, []).append(named(path))
    assert not {name: where for name, where in homes.items() if len(where) > 1}


def names_of(path: Path) -> Iterator[str]:
    """The classes of a module, private ones too, and the constants that others may use."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)}
            yield from (name for name in names if name.isupper() and not name.startswith("_") and name != "T")


@pytest.mark.parametrize("path", modules(NANOCACHE), ids=named)
def test_nanocache_knows_neither_nanodist_nor_torch(path: Path) -> None:
    roots = {name.split(".")[0] for name, _ in imports(path)}
    assert not roots & {"nanodist", "torch", "numpy"}


@pytest.mark.parametrize("library", DOORS)
def test_each_library_has_one_door(library: str) -> None:
    through = {
        named(path)
        for folder in (NANOCACHE, NANODIST)
        for path in modules(folder)
        if library in {name.split(".")[0] for name, _ in imports(path)}
    }
    assert through == {f"nanocache.{door}" for door in DOORS[library]}


@pytest.mark.parametrize("path", [*modules(NANOCACHE), *modules(NANODIST)], ids=named)
def test_importing_a_module_loads_no_library(path: Path) -> None:
    """Libraries are imported by the function that needs them: a hit needs none, and they cost up to a second."""
    roots = {name.split(".")[0] for name, _ in imports(path, deferred=False)}
    assert roots <= sys.stdlib_module_names | {"nanocache", "nanodist", "__future__"}


def test_rank_never_imports_torch() -> None:
    roots = {name.split(".")[0] for name, _ in imports(NANODIST / "rank.py")}
    assert "torch" not in roots


@pytest.mark.parametrize("module", ["nanodist", "nanodist.rank", "nanocache.api", "nanocache.cli.main"])
def test_no_torch_is_loaded_by(module: str) -> None:
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"torch", "numpy", "httpx", "httpcore", "filelock", "tqdm"} & set(loaded)


def test_every_request_is_made_where_a_frozen_process_is_held_to_its_lock_file() -> None:
    makers = {
        named(path) for path in modules(NANOCACHE) if "Request.of(" in path.read_text().replace("DownloadRequest", "")
    }
    assert makers == {"nanocache.lockfile.frozen", "nanocache.engine.snapshots"}
