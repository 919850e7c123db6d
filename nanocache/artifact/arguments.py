"""Arguments of a wrong type: refused before any I/O, in words that say what was meant.

Not the checks of URLs, digests, names and headers, which stand beside what they check. Invariant: what these functions
raise is a ValueError that names the argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, TypeVar

__all__ = ["callback", "flag", "hook", "number", "option", "patterns", "progress", "several", "text", "whole"]


C = TypeVar("C")


def flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")
    return value


def option(name: str, value: object) -> bool | None:
    """A flag that None leaves to the environment."""
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{name} must be True, False, or None for the environment's, got {value!r}")
    return value


def callback(name: str, value: C) -> C:
    if not callable(value):
        raise ValueError(f"{name} must be a function of one argument, got {value!r}")
    return value


def number(name: str, value: object, unit: str) -> float:
    if isinstance(value, timedelta):
        raise ValueError(f"{name} must be a number of {unit}, got a timedelta: give its total_seconds()")
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:  # also turns nan away
        raise ValueError(f"{name} must be a number of {unit}, at least 0, got {value!r}")
    return value


def whole(name: str, value: object, unit: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be a whole number of {unit}, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    return value


def several(name: str, values: object) -> Iterable[Any]:
    """What is to be a list of URLs, and is not just one."""
    if isinstance(values, str):
        raise ValueError(f"{name} must be a list of URLs, not one str: put it in brackets, [url]")
    if isinstance(values, bytes) or not isinstance(values, Iterable):
        raise ValueError(f"{name} must be a list of URLs, got {type(values).__name__}")
    return values


def text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} must be a str that is not empty, got {value!r}")
    return value


def patterns(name: str, values: object) -> tuple[str, ...]:
    """One pattern, or several."""
    given = (values,) if isinstance(values, str) else values
    if not isinstance(given, Iterable) or isinstance(given, bytes):
        raise ValueError(f"{name} must be a pattern or a list of them, got {type(values).__name__}")
    found = tuple(given)
    for pattern in found:
        if not isinstance(pattern, str) or not pattern:
            raise ValueError(f"{name} must hold patterns like '*.json', got {pattern!r}")
    return found


def hook(value: Any, name: str = "postprocess", takes: str = "(src, dst)") -> Callable[..., Any]:
    """What is to be called. Its identity is `hooks.identify`'s to tell."""
    label = getattr(value, "__qualname__", None) or type(value).__qualname__
    if isinstance(value, type) and not isinstance(getattr(value, "key", None), str):
        raise ValueError(f"{name} must be a function {takes}, got the class {label}: write {label}()")
    if not callable(value):
        raise ValueError(f"{name} must be a function {takes}, got {label}")
    return value  # type: ignore[no-any-return]


def progress(value: object) -> Any:
    if value is not None and not isinstance(value, bool) and not callable(value):
        raise ValueError(f"progress must be True, False, None, or a function that is given a Progress, got {value!r}")
    return value
