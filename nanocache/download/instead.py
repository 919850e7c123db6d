"""What came instead of the file, as far as its first bytes tell: a pointer, a page, an error message, nothing.

Pure. A guess, which explains a verdict that a digest gave. Target: the Git LFS specification (a pointer is text below
1,024 bytes that begins with its version).
"""

from __future__ import annotations

import re

__all__ = ["LFS_POINTER", "LOOKED_AT", "PAGE_ENDINGS", "WEB_PAGE", "is_pointer", "recognise"]

LOOKED_AT = 1024  # bytes that are looked at
PAGE_ENDINGS = (".htm", ".html", ".xhtml")  # names under which a web page may be meant
DOCUMENTS = (*PAGE_ENDINGS, ".json", ".xml", ".ipynb")

WEB_PAGE = "a web page came instead of the file (a login, or a notice?)"
LFS_POINTER = (
    "a Git LFS pointer came instead of the file, which has another address (GitHub: media.githubusercontent.com; "
    "Hugging Face: /resolve/ for /raw/)"
)
ERROR_MESSAGE = "it looks like an error message of the server"

_POINTER = re.compile(rb"version https://(git-lfs|hawser)\.github\.com/spec/")
_PAGE = re.compile(rb"<!doctype html|<html[\s>]", re.IGNORECASE)
_MESSAGE = re.compile(rb'<\?xml[^>]*>\s*<error[\s>]|\{\s*"(error|errors|message|detail)"\s*:', re.IGNORECASE)


def is_pointer(head: bytes, size: int) -> bool:
    """Whether the file that begins with `head` is one that Git LFS keeps in the place of a large one."""
    return size < LOOKED_AT and _POINTER.match(head) is not None


def recognise(head: bytes, size: int, name: str) -> str:
    """What the file that begins with `head` seems to be instead of `name`; empty if nothing shows."""
    if size == 0:
        return "it is empty"
    if is_pointer(head, size):
        return LFS_POINTER
    text, ending = head.lstrip(b"\xef\xbb\xbf \t\r\n"), name.lower()  # a byte order mark may come first
    if _PAGE.match(text) and not ending.endswith(PAGE_ENDINGS):
        return WEB_PAGE
    if _MESSAGE.match(text) and not ending.endswith(DOCUMENTS):
        return ERROR_MESSAGE
    return ""
