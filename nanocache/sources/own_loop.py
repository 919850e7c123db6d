"""An event loop for the calls of one file system, in a thread that ends with them.

fsspec has one loop for all, in a thread that never ends: dead in a forked child, and a warning at each fork. Invariant:
once `close` returned, the loop is closed; its thread is waited for a second at most.
"""

from __future__ import annotations

import asyncio
import threading

__all__ = ["OwnLoop"]

LONGEST_END = 1.0  # seconds


class OwnLoop:
    """Runs from the moment that it is made."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="nanocache-loop", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self.loop.close()
            raise

    def _run(self) -> None:
        try:
            self.loop.run_forever()
            self._finish()
        finally:
            self.loop.close()

    def _finish(self) -> None:
        """Let what was cancelled, and what closes connections, end."""
        tasks = self._cancel_tasks()
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks, timeout=LONGEST_END))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())

    def _cancel_tasks(self) -> set[asyncio.Task[object]]:
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        return tasks

    def cancel(self) -> None:
        """Call off what runs on it. From any thread."""
        self._tell(self._cancel_tasks)

    def close(self) -> None:
        self._tell(self.loop.stop)
        self._thread.join(LONGEST_END)

    def _tell(self, call: object) -> None:
        try:
            self.loop.call_soon_threadsafe(call)  # type: ignore[arg-type]
        except RuntimeError:  # closed already
            pass
