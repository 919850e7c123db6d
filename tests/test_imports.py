"""Who may import whom: arrows that point one way, so that a module can be read and tested without what is above it.

Read from the source, so that an import inside a function counts as one at the top does.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import nanocache

NANOCACHE = Path(nanocache.__file__).parent
NANODIST = NANOCACHE.parent / "nanodist"

# A module of nanocache imports only from rows above its own; those of one row do not know each other.
LAYERS = [
    # words and values: nothing of ours below them
    "errors cancel config names urls identity seal pool ranges growth retry environment sockets",
    "digest files durable hooks flights answers budget network extraction",
    # what is asked; who waits; what lies in a record, behind a lock, at an address, in a stream
    "artifact aio records locks disk http frontier streams",
    "partials progress follow local tarfiles zipfiles",
    "orphans store request many work unpack",
    "refs sweep hits healing waiting crew resume",
    # what a fetch is made of
    "products accept",
    "attempts",
    "transfer",
    "engine",
    "cache",
    "api seed deposit",
    "__init__",
    "cli",
    "__main__",
]

# Families that do not know each other: how bytes come, where they lie, how an archive is read.
TRANSFER = (
    "accept answers attempts budget crew environment follow frontier growth "
    "http local network ranges resume retry sockets transfer work"
)
STORE = "disk durable files healing hits identity locks orphans products records refs seal store sweep waiting"
ARCHIVES = "extraction streams tarfiles unpack zipfiles"

# What is not in the standard library has one door; httpcore, httpx's engine, has its ground floor beside it.
DOORS: dict[str, set[str]] = {
    "httpx": {"http"},
    "httpcore": {"http", "network"},
    "tqdm": {"progress"},
    "filelock": {"locks"},
    "platformdirs": {"config"},
}


def imports(path: Path, *, deferred: bool = True) -> Iterator[tuple[str, int]]:
    """Each import of a module as (absolute dotted name, line); `deferred`: those in functions and for types, too."""
    package = path.parent.name
    nodes = list(ast.walk(tree) if deferred else _at_import(tree)) if (tree := ast.parse(path.read_text())) else []
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((name.name, node.lineno) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = f"{package}.{node.module or ''}".rstrip(".") if node.level else node.module or ""
            # `from . import files` names modules, `from .files import kind` names what is in one.
            names = [f"{source}.{name.name}" for name in node.names] if source == package else [source]
            yield from ((name, node.lineno) for name in names)


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


def own(path: Path) -> set[str]:
    """The modules of nanocache that a module of it imports; a name of the package itself is `__init__`'s."""
    dotted = (name.split(".") for name, _ in imports(path))
    named = {parts[1] if len(parts) > 1 else "__init__" for parts in dotted if parts[0] == "nanocache"}
    return {module if (NANOCACHE / f"{module}.py").exists() else "__init__" for module in named}


def level(module: str) -> int:
    rows = [n for n, row in enumerate(LAYERS) if module in row.split()]
    assert len(rows) == 1, f"{module} must stand in exactly one row of LAYERS"
    return rows[0]


def named(path: Path) -> str:
    return f"{path.parent.name}.{path.stem}"


def test_each_module_has_its_place() -> None:
    assert {path.stem for path in modules(NANOCACHE)} == set(" ".join(LAYERS).split())


@pytest.mark.parametrize("path", modules(NANOCACHE), ids=named)
def test_imports_point_one_way(path: Path) -> None:
    turned = {module for module in own(path) if level(module) >= level(path.stem)}
    assert not turned, f"{path.stem} may import only from rows above its own in LAYERS"


@pytest.mark.parametrize("family", [TRANSFER, STORE, ARCHIVES], ids=["transfer", "store", "archives"])
def test_families_do_not_know_each_other(family: str) -> None:
    others = {module for other in (TRANSFER, STORE, ARCHIVES) if other != family for module in other.split()}
    known = {(module, other) for module in family.split() for other in own(NANOCACHE / f"{module}.py") & others}
    assert not known


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


@pytest.mark.parametrize("module", ["nanodist", "nanodist.rank", "nanocache.api", "nanocache.cli"])
def test_no_torch_is_loaded_by(module: str) -> None:
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"torch", "numpy", "httpx", "httpcore", "filelock", "tqdm"} & set(loaded)
