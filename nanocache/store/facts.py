"""What one stat of a base directory tells: the modes of all files in it, whose are used, and if absences may be wrong.

Read once in a process, and again before it writes there first. Not what lies in it (`layout`). Invariant: modes and
trust come from the base directory alone, so that `chmod 2775` on it is all that a shared cache needs.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from ..disk import absence, files

__all__ = ["ABSENT", "BaseFacts"]


class BaseFacts(NamedTuple):
    mode: int  # 0 if it is absent
    modes: files.Modes
    owners: frozenset[int] | None  # whose files are used: this user's, root's, the base's owner's; None: every user's
    doubtful: bool  # what looks absent there may have been made by another host

    @classmethod
    def of(cls, st: os.stat_result) -> BaseFacts:
        owners = None if st.st_mode & 0o022 else frozenset({os.geteuid(), 0, st.st_uid})
        return cls(st.st_mode, files.Modes.of(st.st_mode), owners, absence.is_doubtful(st))


ABSENT = BaseFacts(0, files.Modes.of(0o755), None, doubtful=True)
