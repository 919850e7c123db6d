"""Refs and products: records that cannot be read, and products from which files were taken.

A product has no digest of its own, so what is compared is how many files and bytes it held when it was published. What
is not as it was goes, and the next fetch makes it again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from ..disk import files
from ..engine import contents
from ..retention import walk
from ..retention.alone import alone
from ..store import refs
from ..store.blobs import Store
from ..store.layout import PRODUCTS, product_lock_key
from .findings import Suspicion

__all__ = ["check_products", "check_refs"]


def check_refs(store: Store) -> Iterator[Suspicion]:
    for path in walk.ref_files(store):
        bad = partial(_is_unreadable, store, path)
        if bad():
            yield Suspicion(path, "what a URL gave cannot be read any more", bad, partial(_drop, store, path))


def _is_unreadable(store: Store, path: str) -> bool:
    return _is_bad(path, partial(refs.read, store, os.path.basename(path).removesuffix(".json")))


def _is_bad(path: str, read: Callable[[], object]) -> bool:
    """Whether `read` gives nothing of a file that stays the same: one that comes meanwhile tells nothing.

    An empty one is on its way, or was left so by a kill, and is as good as none.
    """
    before = files.stamp(path)
    return before is not None and _size(path) > 0 and read() is None and files.stamp(path) == before


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except FileNotFoundError:
        return 0


def check_products(store: Store, digests: Iterable[str]) -> Iterator[Suspicion]:
    for digest in digests:
        for entry in walk.scan(f"{walk.top(store, PRODUCTS)}/{digest}"):
            if entry.is_dir(follow_symlinks=False):
                for product in walk.scan(entry.path):
                    yield from _check_product(store, product.path)
            else:
                yield from _check_record(store, entry.path)


def _check_product(store: Store, product: str) -> Iterator[Suspicion]:
    lacks = partial(_lacks_files, store, product)
    if lacks():
        yield Suspicion(product, "files were taken out of it", lacks, partial(_drop_product, store, product))
    unknown = partial(_has_bad_record, store, product)
    if unknown():
        mend = partial(_count_again, store, product)
        yield Suspicion(contents.record_of(product), "what the product held cannot be read any more", unknown, mend)


def _lacks_files(store: Store, product: str) -> bool:
    return contents.was_purged(store, product) and os.path.lexists(product)


def _has_bad_record(store: Store, product: str) -> bool:
    return _is_bad(contents.record_of(product), partial(contents.recorded, store, product))


def _count_again(store: Store, product: str) -> bool:
    contents.remember(store, product)
    return True


def _drop_product(store: Store, product: str) -> bool:
    with alone(store, product_lock_key(os.path.relpath(product, store.base))) as mine:
        if mine and _lacks_files(store, product):
            store.set_aside(product)
            store.set_aside(contents.record_of(product))
    return mine


def _check_record(store: Store, record: str) -> Iterator[Suspicion]:
    """A record of ours whose product is gone."""
    lost = partial(_has_no_product, record)
    if lost():
        yield Suspicion(record, "the product is gone", lost, partial(_drop, store, record))


def _has_no_product(record: str) -> bool:
    hook = f"{os.path.dirname(record)}/{os.path.basename(record).partition('-')[0]}"
    products = (contents.record_of(product.path) for product in walk.scan(hook))
    return record not in products and os.path.lexists(record)


def _drop(store: Store, path: str) -> bool:
    store.set_aside(path)
    return True
