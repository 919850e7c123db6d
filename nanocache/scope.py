"""What holds for all that a call does in its thread, and that its callees find without being given it.

For what passes through the caller's own code, a hook say, which takes no argument that could carry it. Invariant: it
ends with the call, however that ends. Context variables, since the interpreter itself takes them back: a `finally` of
ours is left out when Ctrl-C strikes on the way to it, and what was in scope then stayed the thread's for good.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import Generic, TypeVar

__all__ = ["Scoped"]

T = TypeVar("T")
R = TypeVar("R")


class Scoped(Generic[T]):
    """One such value, `outside` where no call has set it. What the call sets of context variables ends with it, too."""

    def __init__(self, name: str, outside: T) -> None:
        self._variable = ContextVar(name, default=outside)

    def get(self) -> T:
        return self._variable.get()

    def call(self, value: T, step: Callable[[], R]) -> R:
        """What `step` returns, or raises, with `value` in scope."""
        return copy_context().run(self._call, value, step)

    def _call(self, value: T, step: Callable[[], R]) -> R:
        self._variable.set(value)
        return step()
