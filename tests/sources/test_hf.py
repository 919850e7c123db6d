"""hf://: a Hub's files, verified by what the Hub says of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import nanocache
from nanocache import ChecksumMismatch, DownloadFailed, NotCached
from tests.servers.hub import LARGE, TOKEN, HubServer, git_sha1
from tests.servers.origin import content

Fetch = Callable[..., Path]

MODEL = content(LARGE + 5, "model")
NEWER = content(LARGE + 5, "newer")
FILES = {"config.json": b"{}", "model.safetensors": MODEL, "sub/vocab.txt": b"a\nb\n"}


@pytest.fixture
def hub(hub: HubServer) -> HubServer:
    hub.commit("owner/name", FILES)
    return hub


def requests(hub: HubServer) -> int:
    return len(hub.requests()) + len(hub.cdn.requests())


@pytest.mark.parametrize("path", ["config.json", "model.safetensors", "sub/vocab.txt"])
def test_a_file_of_the_hub_is_fetched_verified_and_a_hit_asks_nothing(fetch: Fetch, hub: HubServer, path: str) -> None:
    found = fetch(f"hf://owner/name/{path}")
    assert (found.name, found.read_bytes()) == (path.rpartition("/")[2], FILES[path])
    assert len(hub.requests(method="HEAD")) == 1
    before = requests(hub)
    assert fetch(f"hf://owner/name/{path}", offline=True) == found
    assert requests(hub) == before


@pytest.mark.parametrize("kind", ["datasets", "spaces"])
def test_datasets_and_spaces_have_files_as_well(fetch: Fetch, hub: HubServer, kind: str) -> None:
    commit = hub.commit("o/r", {"a b.bin": MODEL, "s.txt": b"small"}, kind=kind)
    assert fetch(f"hf://{kind}/o/r/a%20b.bin").read_bytes() == MODEL
    assert fetch(f"hf://{kind}/o/r@{commit}/s.txt").read_bytes() == b"small"


def test_revisions_with_slashes_are_understood_in_both_spellings(fetch: Fetch, hub: HubServer) -> None:
    hub.commit("owner/name", {"f.txt": b"of a request"}, branch="refs/pr/1")
    assert fetch("hf://owner/name@refs/pr/1/f.txt").read_bytes() == b"of a request"
    assert fetch("hf://owner/name@refs%2Fpr%2F1/f.txt").read_bytes() == b"of a request"


@pytest.mark.parametrize("path", ["config.json", "model.safetensors"])
def test_what_is_not_what_the_hub_says_is_refused(fetch: Fetch, hub: HubServer, path: str) -> None:
    hub.wrong[path] = b"[]" if path == "config.json" else NEWER
    with pytest.raises((ChecksumMismatch, DownloadFailed), match=r"git calls it|sha256"):
        fetch(f"hf://owner/name/{path}")
    assert nanocache.lookup(f"hf://owner/name/{path}") is None


def test_the_branch_is_asked_once_and_again_only_with_max_age(fetch: Fetch, hub: HubServer, base: Path) -> None:
    first = hub.repository("owner/name").branches["main"]
    path = fetch("hf://owner/name/model.safetensors")
    second = hub.commit("owner/name", FILES | {"model.safetensors": NEWER})
    [ref] = base.glob("refs-v1/*/*.json")
    assert json.loads(ref.read_text())["pinned"] == f"hf://owner/name@{first}/model.safetensors"
    path.unlink()
    assert fetch("hf://owner/name/model.safetensors").read_bytes() == MODEL  # still of the first commit
    assert fetch("hf://owner/name/model.safetensors", max_age=0).read_bytes() == NEWER
    [ref] = base.glob("refs-v1/*/*.json")
    assert json.loads(ref.read_text())["pinned"] == f"hf://owner/name@{second}/model.safetensors"


def test_an_unchanged_file_costs_one_question_and_no_bytes(fetch: Fetch, hub: HubServer) -> None:
    path = fetch("hf://owner/name/model.safetensors")
    before = requests(hub)
    assert fetch("hf://owner/name/model.safetensors", max_age=0) == path
    assert requests(hub) == before + 1


def test_the_token_goes_to_the_hub_alone(
    fetch: Fetch, hub: HubServer, monkeypatch: pytest.MonkeyPatch, base: Path
) -> None:
    hub.repository("owner/name").private = True
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    fetch("hf://owner/name/model.safetensors")
    fetch("hf://owner/name/config.json")
    assert {r.headers.get("authorization") for r in hub.requests()} == {f"Bearer {TOKEN}"}
    assert {r.headers.get("authorization") for r in hub.cdn.requests()} == {None}
    held = [path.read_bytes() for path in base.rglob("*") if path.is_file()]
    assert not [data for data in held if b"hunter2" in data]


def test_the_token_may_lie_in_a_file(fetch: Fetch, hub: HubServer, tmp_path: Path) -> None:
    hub.repository("owner/name").gated = True
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text(TOKEN + "\n")
    assert fetch("hf://owner/name/config.json").read_bytes() == b"{}"


@pytest.mark.parametrize(
    ("url", "said", "remedy"),
    [
        ("hf://owner/gated/f", "GatedRepo", "accept its terms at http"),
        ("hf://owner/private/f", "private", "HF_TOKEN"),
        ("hf://owner/absent/f", "no such repository", "look at http"),
        ("hf://owner/name@nope/config.json", "no revision nope", "branches"),
        ("hf://owner/name/nope.json", "no file nope.json", "tree/main"),
    ],
)
def test_a_refusal_says_what_to_click_or_set(fetch: Fetch, hub: HubServer, url: str, said: str, remedy: str) -> None:
    hub.commit("owner/gated", {"f": b""})
    hub.commit("owner/private", {"f": b""})
    hub.repository("owner/gated").gated = True
    hub.repository("owner/private").private = True
    with pytest.raises(DownloadFailed) as raised:
        fetch(url)
    assert said in str(raised.value)
    assert remedy in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_hubs_own_offline_switch_is_honoured(fetch: Fetch, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch("hf://owner/name/config.json")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = requests(hub)
    assert fetch("hf://owner/name/config.json") == path
    with pytest.raises(NotCached):
        fetch("hf://owner/name/model.safetensors")
    assert requests(hub) == before


def test_an_address_of_the_cdn_that_expires_is_replaced(
    fetch: Fetch, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOCACHE_CONNECTIONS", "3")
    big = content(24 << 20, "big")
    hub.commit("owner/name", {"big.bin": big})
    hub.seconds, hub.rate = 1.0, 4 << 20
    assert fetch("hf://owner/name/big.bin").read_bytes() == big
    assert hub.cdn.refused
    assert sum(r.sent for r in hub.cdn.requests()) <= 1.1 * len(big)


def hub_cache(tmp_path: Path, etag: str, data: bytes) -> Path:
    blob = tmp_path / "hf" / "hub" / "models--owner--name" / "blobs" / etag
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(data)
    return blob


@pytest.mark.parametrize("path", ["config.json", "model.safetensors"])
def test_what_the_hubs_client_has_here_is_taken_from_there(
    fetch: Fetch, hub: HubServer, tmp_path: Path, path: str
) -> None:
    data = FILES[path]
    hub_cache(tmp_path, git_sha1(data) if len(data) < LARGE else hashlib.sha256(data).hexdigest(), data)
    assert fetch(f"hf://owner/name/{path}").read_bytes() == data
    assert hub.gets() + hub.cdn.gets() == 0


def test_what_the_hubs_client_has_damaged_is_fetched_from_the_hub(fetch: Fetch, hub: HubServer, tmp_path: Path) -> None:
    hub_cache(tmp_path, hashlib.sha256(MODEL).hexdigest(), NEWER)
    assert fetch("hf://owner/name/model.safetensors").read_bytes() == MODEL


def test_more_than_the_hub_gives_over_http_names_the_extra(
    fetch: Fetch, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanocache.sources.hf.LARGEST_OVER_HTTP", LARGE)
    with pytest.raises(DownloadFailed, match=r"nanocache\[hf\]"):
        fetch("hf://owner/name/model.safetensors")
    assert hub.cdn.requests() == []
