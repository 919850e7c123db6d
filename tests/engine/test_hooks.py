"""Postprocess: what makes two hooks the same, and what becomes visible of what one builds."""

from __future__ import annotations

import asyncio
import functools
import gzip
import importlib
import io
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import nanocache
from nanocache import Artifact, Decompress, PostprocessFailed, Unpack, UnsafeArchive, cache
from nanocache.artifact.hooks import identify
from tests.servers.origin import Origin

BODY = b"some text\n" * 100
Fetch = Callable[..., Path]

BOX = """
import os, time
from pathlib import Path

LOG = Path(__file__).with_name("runs")

def note():
    with LOG.open("a") as file:
        file.write(f"{os.getpid()}\\n")

def upper(src, dst):
    note()
    time.sleep(0.2)
    dst.write_bytes(src.read_bytes().upper())

def tree(src, dst):
    note()
    (dst / "deep").mkdir(parents=True)
    for n in range(20):
        time.sleep(0.01)
        (dst / "deep" / str(n)).write_bytes(src.read_bytes())

def fail(src, dst):
    note()
    dst.write_text("half")
    while len(list(LOG.parent.glob("asking*"))) < int(os.environ.get("ASKING", 0)):
        time.sleep(0.01)
    time.sleep(0.5)
    raise KeyError("no column\\nof that name")

def never(src, dst):
    raise AssertionError("it was built already")
"""


@pytest.fixture
def url(origin: Origin) -> str:
    return origin.add("/data/corpus.txt", BODY)


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Hooks in a module of their own, as `spawn`ed processes can import them, and a log of their runs."""
    folder = tmp_path / "box"
    folder.mkdir()
    (folder / "hookbox.py").write_text(BOX)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", f"{os.environ['PYTHONPATH']}{os.pathsep}{folder}")
    monkeypatch.delitem(sys.modules, "hookbox", raising=False)
    return importlib.import_module("hookbox")


def runs(box: ModuleType) -> int:
    return len(box.LOG.read_text().splitlines()) if box.LOG.exists() else 0


def left(base: Path) -> list[Path]:
    """What lies in the private folders."""
    inner = [path for name in ("partials-v1", "trash-v1") for path in (base / name).glob("*")]
    return [path for path in inner if path.name not in ("CACHEDIR.TAG", ".gitignore", "swept")]


def products(base: Path) -> list[Path]:
    return list((base / "products-v1").glob("*/*/*"))


def copied(src: Path, dst: Path) -> None:
    dst.write_bytes(src.read_bytes())


# --- what makes two hooks the same ------------------------------------------------------------------------------------


class Table:
    def build(self, src: Path, dst: Path) -> None:
        dst.write_bytes(src.read_bytes())


class Slotted:
    __slots__ = ()

    def __call__(self, src: Path, dst: Path) -> None:
        dst.write_bytes(src.read_bytes())


def closing(n: int) -> Callable[[Path, Path], None]:
    def build(src: Path, dst: Path) -> None:
        dst.write_bytes(src.read_bytes()[:n])

    return build


def defaulting(value: Any) -> Callable[..., None]:
    def build(src: Path, dst: Path, value: Any = value) -> None:
        dst.write_text(str(value))

    return build


def unreadable() -> Any:
    space: dict[str, Any] = {"__name__": "nowhere"}
    exec("def build(src, dst):\n    dst.write_bytes(src.read_bytes())\n", space)
    return space["build"]


NAMELESS: list[tuple[str, Callable[[], Any]]] = [
    ("a lambda", lambda: lambda src, dst: dst.write_bytes(src.read_bytes())),
    ("a closure", lambda: closing(3)),
    ("a bound method", lambda: Table().build),
    ("a partial", lambda: functools.partial(closing(3))),
    ("an object without a key", Slotted),
    ("an object without a key", lambda: os.link),  # of C, and takes no attribute
    ("a function whose source can't be read", unreadable),
    ("a function with a default", lambda: defaulting([1])),
]


@pytest.mark.parametrize(("what", "make"), NAMELESS)
def test_a_hook_that_cannot_be_told_apart_is_refused_with_the_line_that_cures_it(
    fetch: Fetch, base: Path, origin: Origin, url: str, what: str, make: Callable[[], Any]
) -> None:
    hook = make()
    with pytest.raises(ValueError, match=what) as refused:
        fetch(url, postprocess=hook)
    assert not list(base.iterdir())
    assert not origin.requests()

    cure = str(refused.value).rsplit(": ", 1)[1]
    space = {"hook": hook, "functools": functools}
    exec(cure, space)
    product = fetch(url, postprocess=space["hook"])
    assert product.read_bytes()
    assert fetch(url, postprocess=space["hook"]) == product


@pytest.mark.parametrize("key", [b"v1", 1, "", ("v1",)])
def test_a_key_is_a_str(key: object) -> None:
    hook = functools.partial(copied)
    hook.key = key  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="must be a non-empty str"):
        identify(hook)


@pytest.mark.parametrize("name", ["a/b", "..", "", "a\n", b"x"])
def test_a_hooks_name_is_a_file_name(name: object) -> None:
    hook = functools.partial(copied)
    hook.key, hook.name = "v1", name  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="filename must"):
        identify(hook)


def test_a_function_is_its_name_its_source_and_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    keys = {}
    texts = {
        "one": "def build(src, dst):\n    pass\n",
        "same": "\n\nimport os\n\ndef build(src, dst):\n    pass\n\nother = 1\n",
        "edited": "def build(src, dst):\n    pass  # better\n",
        "renamed": "def build2(src, dst):\n    pass\nbuild = build2\n",
        "version": "def build(src, dst):\n    pass\nbuild.version = 2\n",
        "key": "def build(src, dst):\n    pass\nbuild.key = 'k'\n",
        "name": "def build(src, dst):\n    pass\nbuild.name = 'n'\n",
        "default": "def build(src, dst, n=N):\n    pass\n".replace("N", "1"),
    }
    for module, text in texts.items():
        (tmp_path / f"hooks_{module}.py").write_text(text)
        keys[module] = identify(importlib.import_module(f"hooks_{module}").build).key
    assert keys["one"] == keys["same"] == keys["name"]  # whatever the module is called
    assert len(set(keys.values())) == len(texts) - 2
    assert all(len(key) == 16 and set(key) <= set("0123456789abcdef") for key in keys.values())


EDITED = "def before():\n    pass\n\ndef build(src, dst):\n    dst.write_text('TEXT' + src.read_text())\n"


@pytest.fixture
def edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, Callable[[str], object]]:
    """A module with a hook, and what writes another text over its file."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "edited_hooks", raising=False)
    file = tmp_path / "edited_hooks.py"
    file.write_text(EDITED)
    return importlib.import_module("edited_hooks"), file.write_text


def test_a_hook_that_got_new_code_by_a_reload_builds_anew(
    fetch: Fetch, base: Path, url: str, edited: tuple[ModuleType, Callable[[str], object]]
) -> None:
    module, write = edited
    build = module.build
    assert fetch(url, postprocess=build).read_text().startswith("TEXT")
    write(EDITED.replace("TEXT", "EDITED"))
    build.__code__ = importlib.reload(module).build.__code__  # as %autoreload does it
    assert fetch(url, postprocess=build).read_text().startswith("EDITED")


def test_a_hook_whose_file_was_edited_after_it_was_loaded_is_refused(
    fetch: Fetch, base: Path, url: str, edited: tuple[ModuleType, Callable[[str], object]]
) -> None:
    module, write = edited
    write(EDITED.replace("TEXT", "EDITED"))
    with pytest.raises(ValueError, match=r"edited after it was loaded.*hook\.key = "):
        fetch(url, postprocess=module.build)
    write("syntax error (")
    with pytest.raises(ValueError, match=r"hook\.key = "):
        fetch(url, postprocess=module.build)
    module.build.key = "v1"
    assert fetch(url, postprocess=module.build).read_text().startswith("TEXT")
    assert not list(base.glob("products-v1/*/*/*EDITED*"))


def test_an_edit_elsewhere_in_the_file_changes_no_hook(edited: tuple[ModuleType, Callable[[str], object]]) -> None:
    module, write = edited
    write(EDITED.replace("def build", "# more\n\n\ndef build").replace("    pass", "    return 1\n"))
    key = identify(module.build).key
    assert identify(importlib.reload(module).build).key == key
    write(EDITED)
    assert identify(importlib.reload(module).build).key == key


def test_plain_defaults_are_part_of_a_function() -> None:
    values: list[Any] = [1, 2, 1.0, "1", None, True, b"1"]
    assert len({identify(defaulting(value)).key for value in values}) == len(values)
    assert identify(defaulting("a")).key == identify(defaulting("a")).key


def test_a_key_says_it_all() -> None:
    one, other = closing(1), closing(2)
    one.key = other.key = "cut-v1"  # type: ignore[attr-defined]
    assert identify(one).key == identify(other).key


def test_keys_are_pinned_because_products_lie_under_them() -> None:
    hook = functools.partial(copied)
    hook.key = "tokenize-v1"  # type: ignore[attr-defined]
    assert identify(hook).key == "fc43367f9a0a239c"
    assert Unpack().key == "nanocache.Unpack/1 {}"


def test_editing_a_hook_builds_anew_and_going_back_is_a_hit(
    fetch: Fetch, base: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    seen = []
    for text in ("one", "two", "one"):
        (tmp_path / "edited.py").write_text(f"def build(src, dst):\n    dst.write_text({text!r})\n")
        sys.modules.pop("edited", None)
        importlib.invalidate_caches()
        seen.append(fetch(url, postprocess=importlib.import_module("edited").build))
    assert [path.read_text() for path in seen] == ["one", "two", "one"]
    assert seen[0] == seen[2] != seen[1]


def test_a_version_that_is_set_later_counts(fetch: Fetch, base: Path, url: str) -> None:
    def build(src: Path, dst: Path) -> None:
        dst.write_text(str(len(products_there())))

    products_there.base = base  # type: ignore[attr-defined]
    assert fetch(url, postprocess=build).read_text() == "0"
    build.version = 2  # type: ignore[attr-defined]
    assert fetch(url, postprocess=build).read_text() == "1"
    del build.version  # type: ignore[attr-defined]
    assert fetch(url, postprocess=build).read_text() == "0"


def products_there() -> list[Path]:
    return products(products_there.base)  # type: ignore[attr-defined]


def test_a_script_and_its_spawned_workers_share_a_product(base: Path, url: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing, sys, nanocache\n"
        "def build(src, dst):\n"
        "    print('built', __name__, flush=True)\n"
        "    dst.write_bytes(src.read_bytes())\n"
        "def job(url):\n"
        "    print(__name__, nanocache.fetch(url, postprocess=build), flush=True)\n"
        "if __name__ == '__main__':\n"
        "    worker = multiprocessing.get_context('spawn').Process(target=job, args=sys.argv[1:])\n"
        "    worker.start()\n"
        "    worker.join()\n"
        "    job(sys.argv[1])\n"
    )
    out = subprocess.run([sys.executable, str(script), url], capture_output=True, text=True, timeout=60, check=True)
    built, first, second = out.stdout.splitlines()
    assert built == "built __mp_main__"
    assert first.split() == ["__mp_main__", second.split()[1]]
    assert second.startswith("__main__ ")


# --- where a product lies, and what it is called ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "product"),
    [("corpus.tar.gz", "corpus"), ("notes.txt.gz", "notes.txt"), ("table.csv", "table.csv"), ("x.ZIP", "x")],
)
def test_dst_ends_in_the_artifacts_name_without_its_packing(
    fetch: Fetch, base: Path, origin: Origin, name: str, product: str
) -> None:
    def build(src: Path, dst: Path) -> None:
        assert dst.is_absolute()
        assert not dst.exists()
        assert list(dst.parent.iterdir()) == []
        dst.write_text(f"{src.name} {dst.name}")

    path = fetch(origin.add(f"/{name}", BODY), postprocess=build)
    assert path.read_text() == f"{name} {product}"
    digest, key, last = path.relative_to(base / "products-v1").parts
    assert last == product
    assert len(digest) == 64
    assert key == identify(build).key


def test_a_hooks_name_decides_what_a_product_is_called(fetch: Fetch, base: Path, url: str) -> None:
    def build(src: Path, dst: Path) -> None:
        dst.write_text("tokens")

    build.name = "tokens.npy"  # type: ignore[attr-defined]
    assert fetch(url, postprocess=build).name == "tokens.npy"
    assert fetch(url, postprocess=build, filename="other.txt").name == "tokens.npy"


def test_one_content_has_one_product_whatever_its_url(fetch: Fetch, base: Path, origin: Origin, box: Any) -> None:
    paths = {fetch(origin.add(f"/{folder}/corpus.txt", BODY), postprocess=box.upper) for folder in "abc"}
    assert len(paths) == 1
    assert runs(box) == 1


def test_a_product_is_a_hit_without_network_or_hook(fetch: Fetch, base: Path, origin: Origin, url: str) -> None:
    hook = functools.partial(copied)
    hook.key = "v1"  # type: ignore[attr-defined]
    path = fetch(url, postprocess=hook)
    origin.close()
    never = functools.partial(pytest.fail)
    never.key = "v1"  # type: ignore[attr-defined]
    assert fetch(url, postprocess=never) == path
    assert fetch(url, postprocess=never, offline=True) == path
    assert nanocache.lookup(url, postprocess=never) == path
    assert fetch(Artifact(url, postprocess=never)) == path


def test_lookup_never_runs_a_hook(base: Path, url: str, box: Any) -> None:
    nanocache.fetch(url)
    assert nanocache.lookup(url, postprocess=box.never) is None
    assert nanocache.lookup(url) is not None


def test_a_product_that_was_deleted_is_built_again(fetch: Fetch, base: Path, origin: Origin, url: str) -> None:
    path = fetch(url, postprocess=copied)
    path.unlink()
    assert fetch(url, postprocess=copied) == path
    shutil.rmtree(base / "products-v1")
    assert fetch(url, postprocess=copied).read_bytes() == BODY
    assert origin.gets() == 1


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o700, 0o2775])
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_the_base_directory_decides_a_products_modes(
    base: Path, url: str, monkeypatch: pytest.MonkeyPatch, mode: int, mask: int
) -> None:
    def build(src: Path, dst: Path) -> None:
        (dst / "deep").mkdir(parents=True)
        (dst / "deep" / "data").write_bytes(b"x")
        (dst / "run").write_bytes(b"x")
        (dst / "run").chmod(0o700)

    base.chmod(mode)
    before = os.umask(mask)
    try:
        folder, file = (nanocache.fetch(url, postprocess=hook) for hook in (build, copied))
    finally:
        os.umask(before)

    def mode_of(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    readers = mode & 0o444
    assert {mode_of(path) for path in (folder, folder / "deep", folder.parent, file.parent)} == {mode}
    for path in (file, folder / "deep" / "data"):
        assert mode_of(path) & 0o444 == readers
        assert not mode_of(path) & 0o111
    assert mode_of(folder / "run") & 0o111 == readers >> 2


# --- what becomes visible ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", ["upper", "tree"])
def test_eight_processes_build_a_product_once_and_see_it_whole(
    spawn: Callable[..., Any], base: Path, origin: Origin, url: str, box: ModuleType, hook: str
) -> None:
    code = (
        "path = nanocache.fetch(url, postprocess=getattr(hookbox, hook))\n"
        "files = [path] if path.is_file() else sorted(path.glob('deep/*'))\n"
        "print(path, len(files), {file.stat().st_size for file in files})"
    )
    group = spawn(code, 8, setup="import nanocache, hookbox", url=url, hook=hook)
    (told,) = set(group.outputs())
    assert told.endswith(f"{1 if hook == 'upper' else 20} {{{len(BODY)}}}")
    assert runs(box) == 1
    assert origin.gets() == 1
    assert not left(base)


def test_threads_and_tasks_share_one_run(base: Path, url: str, box: Any) -> None:
    async def tasks() -> list[Path]:
        return await asyncio.gather(*(nanocache.afetch(url, postprocess=box.upper) for _ in range(20)))

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(nanocache.fetch, url, postprocess=box.upper) for _ in range(8)]
        paths = {*asyncio.run(tasks()), *(future.result() for future in futures)}
    assert len(paths) == 1
    assert runs(box) == 1


def test_a_failed_hook_publishes_nothing_and_runs_again(fetch: Fetch, base: Path, origin: Origin, url: str) -> None:
    trouble: list[Exception] = [KeyError("no column\nof that name"), OSError(5, "disk")]

    class Build:
        key = "v1"

        def __call__(self, src: Path, dst: Path) -> None:
            dst.mkdir()
            (dst / "half").write_text("half")
            if trouble:
                raise trouble.pop()

    for cause in (OSError, KeyError):
        with pytest.raises(PostprocessFailed, match=f"failed on corpus.txt: {cause.__name__}: ") as failed:
            fetch(url, postprocess=Build())
        assert isinstance(failed.value, RuntimeError)
        assert len(str(failed.value).splitlines()) == 1
        assert not products(base)
        assert not left(base)
        assert nanocache.lookup(url, postprocess=Build()) is None
    assert (fetch(url, postprocess=Build()) / "half").read_text() == "half"
    assert origin.gets() == 1  # the bytes were right all the time


def test_the_hooks_own_error_is_the_cause(base: Path, url: str, box: Any) -> None:
    with pytest.raises(PostprocessFailed) as failed:
        nanocache.fetch(url, postprocess=box.fail)
    assert isinstance(failed.value.__cause__, KeyError)
    assert failed.value.facts() == {
        "hook": "fail",
        "artifact": "corpus.txt",
        "reason": "KeyError: 'no column\\nof that name'",
    }


def test_everybody_who_waited_gets_the_hooks_error(base: Path, url: str, box: Any) -> None:
    def fetch() -> Exception | None:
        try:
            nanocache.fetch(url, postprocess=box.fail)
        except PostprocessFailed as e:
            return e
        return None

    with ThreadPoolExecutor(8) as pool:
        errors = [future.result() for future in [pool.submit(fetch) for _ in range(8)]]
    assert {str(error) for error in errors} == {str(errors[0])}
    assert len({id(error) for error in errors}) == 8  # one instance in two threads would mix their tracebacks
    for error in errors:
        cause = error.__cause__ if isinstance(error, PostprocessFailed) else None
        assert isinstance(cause.__cause__ if isinstance(cause, PostprocessFailed) else cause, KeyError)
    assert runs(box) == 1


def test_processes_that_waited_get_the_hooks_error(
    spawn: Callable[..., Any], base: Path, url: str, box: ModuleType
) -> None:
    code = (
        "nanocache.fetch(url)\n"
        "hookbox.LOG.with_name(f'asking{INDEX}').touch()\n"
        "try: nanocache.fetch(url, postprocess=hookbox.fail)\n"
        "except nanocache.PostprocessFailed as e: print(e.reason, '|', e)"
    )
    told = spawn(code, 8, setup="import nanocache, hookbox", env={"ASKING": "8"}, url=url).outputs()
    assert len(set(told)) == 1
    assert told[0].startswith("KeyError: ")
    assert runs(box) == 1
    assert not products(base)
    assert not left(base)


@pytest.mark.parametrize("fault", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_hook_publishes_nothing(base: Path, url: str, fault: type[BaseException]) -> None:
    class Build:
        key = "v1"

        def __call__(self, src: Path, dst: Path) -> None:
            dst.write_text("half")
            raise fault

    with pytest.raises(fault):
        nanocache.fetch(url, postprocess=Build())
    assert not products(base)
    assert not left(base)


def test_a_hook_that_builds_nothing_or_a_link_has_failed(fetch: Fetch, base: Path, url: str) -> None:
    def nothing(src: Path, dst: Path) -> None:
        pass

    def link(src: Path, dst: Path) -> None:
        dst.symlink_to(src)

    def dangling(src: Path, dst: Path) -> None:
        dst.symlink_to("nowhere")

    for hook in (nothing, link, dangling):
        with pytest.raises(PostprocessFailed, match="built no file or folder at the dst"):
            fetch(url, postprocess=hook)
    assert not products(base)


def test_errors_of_ours_pass_through_a_hook_unchanged(fetch: Fetch, base: Path, url: str) -> None:
    def build(src: Path, dst: Path) -> None:
        raise UnsafeArchive(archive=src.name, reason="it smells")

    with pytest.raises(UnsafeArchive, match="it smells"):
        fetch(url, postprocess=build)
    with pytest.raises(UnsafeArchive, match=r"refused to unpack corpus\.txt"):
        fetch(url, postprocess=Unpack())


# --- hooks that fetch -------------------------------------------------------------------------------------------------


class Joined:
    """A hook that needs another artifact, and what another hook makes of it."""

    key = "joined-v1"

    def __init__(self, other: str) -> None:
        self.other = other

    def __call__(self, src: Path, dst: Path) -> None:
        vocabulary = nanocache.fetch(self.other, postprocess=copied)
        dst.write_bytes(src.read_bytes() + vocabulary.read_bytes())


def test_a_hook_may_fetch_other_artifacts(fetch: Fetch, base: Path, origin: Origin, url: str) -> None:
    assert fetch(url, postprocess=Joined(origin.add("/vocab.txt", b"words"))).read_bytes() == BODY + b"words"


def test_a_hook_may_fetch_its_own_artifact_plain(fetch: Fetch, base: Path, url: str) -> None:
    assert fetch(url, postprocess=Joined(url)).read_bytes() == BODY + BODY


class Endless:
    """A hook that asks for what it is building."""

    key = "endless-v1"

    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self, src: Path, dst: Path) -> None:
        nanocache.fetch(self.url, postprocess=self)


def test_a_hook_that_asks_for_its_own_product_is_an_error_and_no_hang(fetch: Fetch, base: Path, url: str) -> None:
    with pytest.raises(RuntimeError, match="asked for its own product"):
        fetch(url, postprocess=Endless(url))
    assert not products(base)
    assert fetch(url).read_bytes() == BODY


def test_no_thread_is_left_by_a_hook(base: Path, url: str, box: Any) -> None:
    before = set(threading.enumerate())
    nanocache.fetch(url, postprocess=box.upper)
    assert {thread for thread in set(threading.enumerate()) - before if not thread.name.startswith("origin")} == set()


# --- ready-made hooks -------------------------------------------------------------------------------------------------


def tar_gz() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name in ("corpus/a.txt", "corpus/deep/b.txt"):
            member = tarfile.TarInfo(name)
            member.size = len(BODY)
            archive.addfile(member, io.BytesIO(BODY))
    return data.getvalue()


def zipped() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("corpus/a.txt", "corpus/deep/b.txt"):
            archive.writestr(name, BODY)
    return data.getvalue()


@pytest.mark.parametrize(("name", "make"), [("corpus-v2.tar.gz", tar_gz), ("corpus-v2.zip", zipped)])
def test_unpack_gives_the_folder_in_an_archive(
    fetch: Fetch, base: Path, origin: Origin, name: str, make: Callable[[], bytes]
) -> None:
    data = make()
    url = origin.add(f"/{name}", data)
    path = fetch(url, postprocess=Unpack())
    assert path.name == "corpus-v2"
    assert {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*.txt")} == {
        "corpus/a.txt": BODY,
        "corpus/deep/b.txt": BODY,
    }
    assert fetch(url, postprocess=Unpack()) == path
    assert fetch(url, postprocess=Unpack(members=["corpus/a.txt"])) != path
    assert fetch(url).read_bytes() == data
    assert origin.gets() == 1


def test_decompress_gives_the_file(fetch: Fetch, base: Path, origin: Origin) -> None:
    path = fetch(origin.add("/corpus.txt.gz", gzip.compress(BODY)), postprocess=Decompress())
    assert path.name == "corpus.txt"
    assert path.read_bytes() == BODY


def test_eight_processes_unpack_once(spawn: Callable[..., Any], base: Path, origin: Origin) -> None:
    url = origin.add("/corpus.tar.gz", tar_gz())
    code = "print(sum(f.is_file() for f in nanocache.fetch(url, postprocess=nanocache.Unpack()).rglob('*')))"
    assert set(spawn(code, 8, url=url).outputs()) == {"2"}
    assert origin.gets() == 1
    assert not left(base)


def test_a_damaged_archive_publishes_nothing(fetch: Fetch, base: Path, origin: Origin) -> None:
    url = origin.add("/corpus.tar.gz", tar_gz()[:-20])
    for _ in range(2):
        with pytest.raises(UnsafeArchive, match=r"corpus\.tar\.gz"):
            fetch(url, postprocess=Unpack())
    assert not products(base)
    assert not left(base)
    assert fetch(url).exists()


# --- a product that lost files ----------------------------------------------------------------------------------------


def three_files(src: Path, dst: Path) -> None:
    (dst / "train").mkdir(parents=True)
    for n in range(3):
        (dst / "train" / f"{n}.txt").write_text("data")


def texts(product: Path) -> list[str]:
    return sorted(path.read_text() for path in product.rglob("*.txt"))


@pytest.mark.parametrize("process", ["same", "another"])
@pytest.mark.parametrize("loss", ["one file", "a folder", "cut"])
def test_a_product_from_which_files_were_purged_is_built_again(
    base: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch, process: str, loss: str
) -> None:
    url = origin.add("/w.bin", b"weights")
    product = nanocache.fetch(url, postprocess=three_files)
    if loss == "one file":
        (product / "train" / "1.txt").unlink()
    elif loss == "a folder":
        shutil.rmtree(product / "train")
    else:
        (product / "train" / "1.txt").write_text("")
    if process == "another" or loss == "cut":
        monkeypatch.setattr(cache, "_bases", {})
        monkeypatch.setattr(cache, "_spelled", {})
    assert texts(nanocache.fetch(url, postprocess=three_files)) == ["data"] * 3
    assert origin.gets() == 1


def test_what_others_write_beside_a_product_is_no_loss(base: Path, origin: Origin) -> None:
    url = origin.add("/w.bin", b"weights")
    product = nanocache.fetch(url, postprocess=three_files)
    (product / "index.cache").write_text("a loader's own")
    assert nanocache.fetch(url, postprocess=three_files) == product
    assert (product / "index.cache").exists()


def test_rehash_builds_a_product_anew_and_a_failing_hook_keeps_the_old_one(base: Path, origin: Origin) -> None:
    url, runs = origin.add("/w.bin", b"weights"), []

    def build(src: Path, dst: Path) -> None:
        runs.append(dst)
        if len(runs) == 3:
            raise ValueError("not today")
        dst.write_text(str(len(runs)))

    build.key = "build-v1"  # type: ignore[attr-defined]
    product = nanocache.fetch(url, postprocess=build)
    assert nanocache.fetch(url, postprocess=build, rehash=True).read_text() == "2"
    with pytest.raises(nanocache.PostprocessFailed):
        nanocache.fetch(url, postprocess=build, rehash=True)
    assert product.read_text() == "2"
    assert nanocache.fetch(url, postprocess=build) == product
    assert not [path for name in ("partials-v1", "trash-v1") for path in (base / name).glob("*") if path.is_dir()]


def test_processes_that_meet_a_purged_product_build_it_once(
    base: Path, origin: Origin, spawn: Callable[..., Any]
) -> None:
    url = origin.add("/w.bin", b"weights")
    setup = (
        "import nanocache, os, time\n"
        "def build(src, dst):\n"
        "    time.sleep(0.3); dst.mkdir(); (dst / 'x').write_text('x'); open(log, 'a').write('.')\n"
        "build.key = 'build-v1'"
    )
    log = str(base / "log")
    code = "print((nanocache.fetch(url, postprocess=build) / 'x').read_text())"
    assert spawn(code, setup=setup, url=url, log=log).outputs() == ["x"]
    for path in base.glob("products-v1/*/*/*/x"):
        path.unlink()
    assert spawn(code, n=4, setup=setup, url=url, log=log).outputs() == ["x"] * 4
    assert (base / "log").read_text() == ".."
