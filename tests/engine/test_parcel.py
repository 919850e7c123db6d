"""What travels of a product, and what arrives: the same, or nothing."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache.cancel import Cancel
from nanocache.peer_products import PackReader, Parcel, ParcelRefused, Unpacking, built_path, receive_built


def make(dst: Path) -> None:
    (dst / "sub").mkdir(parents=True)
    (dst / "sub" / "a").write_bytes(b"a" * 70_000)
    (dst / "b").write_bytes(b"b")
    (dst / "none").touch()
    (dst / "link").symlink_to("sub/a")


@pytest.fixture
def product(tmp_path: Path) -> Path:
    return nanocache.build("k", make, name="kernels", base_dir=tmp_path / "there")


def parcel_of(product: Path) -> Parcel:
    return Parcel.of(product, Cancel())


def stream(product: Path, lacking: frozenset[int]) -> bytes:
    parcel = parcel_of(product)
    with PackReader(product.parent, [parcel.files[n] for n in sorted(lacking)]) as reader:
        return reader.read()


@contextmanager
def arriving(base: Path, contents: bytes) -> Iterator[tuple[Unpacking, frozenset[int]]]:
    with receive_built("k", "kernels", base) as incoming:
        lacking = incoming.begin(contents)
        incoming.expect(lacking)
        yield incoming, lacking


def visible(base: Path) -> list[Path]:
    return list(base.glob("products-v1/*/*/kernels"))


def test_what_arrives_is_what_was_sent(base: Path, product: Path) -> None:
    with arriving(base, parcel_of(product).data) as (incoming, lacking):
        data = stream(product, lacking)
        for start in range(0, len(data), 999):
            incoming.write(memoryview(data)[start : start + 999])
        assert not visible(base)
        incoming.publish()
    assert visible(base) == [built_path("k", "kernels", base)]
    assert parcel_of(visible(base)[0]) == parcel_of(product)
    assert len(data) == 70_001


@pytest.mark.parametrize("fault", ["other bytes", "too few", "too many"])
def test_other_bytes_than_were_promised_show_nothing(base: Path, product: Path, fault: str) -> None:
    with pytest.raises(ParcelRefused), arriving(base, parcel_of(product).data) as (incoming, lacking):
        data = stream(product, lacking)
        wrong = {"other bytes": bytes(len(data)), "too few": data[:-1], "too many": data + b"x"}[fault]
        incoming.write(memoryview(wrong))
        incoming.publish()
    assert not visible(base)
    assert not list(base.glob("partials-v1/p-*"))


def test_what_is_here_of_it_is_not_lacking_unless_its_bytes_differ(base: Path, product: Path) -> None:
    here = nanocache.build("k", make, name="kernels")
    (here / "b").unlink()
    (here / "sub" / "a").write_bytes(b"A" * 70_000)
    nanocache.build("other version", lambda dst: (dst.mkdir(), (dst / "b").write_bytes(b"b")), name="kernels")
    with arriving(base, parcel_of(product).data) as (incoming, lacking):
        assert [parcel_of(product).files[n].path for n in lacking] == ["kernels/sub/a"]
        incoming.write(memoryview(stream(product, lacking)))
        incoming.publish()
    assert parcel_of(here) == parcel_of(product)


def test_file_that_a_fetch_brought_is_not_lacking(base: Path, product: Path) -> None:
    nanocache.fetch((product / "sub" / "a").as_uri())
    with arriving(base, parcel_of(product).data) as (_, lacking):
        assert [parcel_of(product).files[n].path for n in lacking] == ["kernels/b"]


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"folders": ["kernels"], "files": [["../x", 1, "0" * 64, False, 0]], "links": []},
        {"folders": ["/kernels"], "files": [], "links": []},
        {"folders": ["another"], "files": [], "links": []},
        {"folders": ["kernels"], "files": [["kernels/x", -1, "0" * 64, False, 0]], "links": []},
        {"folders": ["kernels"], "files": [["kernels/x", 1]], "links": []},
        {"folders": [1], "files": [], "links": []},
    ],
)
def test_contents_that_no_product_has_are_refused(base: Path, record: Any) -> None:
    with pytest.raises(ParcelRefused), arriving(base, zlib.compress(json.dumps(record).encode())):
        pass


def test_link_that_leads_out_is_refused(base: Path) -> None:
    record = {"folders": ["kernels"], "files": [], "links": [["kernels/l", "../../../x"]]}
    with pytest.raises(ParcelRefused), arriving(base, zlib.compress(json.dumps(record).encode())) as (incoming, _):
        incoming.publish()
    assert not visible(base)


def test_file_that_is_cut_while_it_is_sent_ends_the_stream(product: Path) -> None:
    parcel = parcel_of(product)
    (product / "sub" / "a").write_bytes(b"a")
    with PackReader(product.parent, parcel.files) as reader, pytest.raises(OSError, match="cut while it was sent"):
        reader.read()


def test_single_file_travels_too(base: Path, tmp_path: Path) -> None:
    file = nanocache.build("f", lambda dst: dst.write_text("x"), name="out.txt", base_dir=tmp_path / "there")
    os.utime(file, (5, 5))
    with receive_built("f", "out.txt", base) as incoming:
        incoming.expect(incoming.begin(parcel_of(file).data))
        incoming.write(memoryview(b"x"))
        incoming.publish()
    there = built_path("f", "out.txt", base)
    assert (there.read_text(), there.stat().st_mtime) == ("x", 5)
