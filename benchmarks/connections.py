"""How many connections do the workers of all ranks open to one origin, and how long does the data take?

    python benchmarks/connections.py [--ranks 8] [--workers 16] [--shards 2] [--size 2] [--rate 10]

`ranks` x `workers` processes, as DataLoader makes them, each with shards of its own (`size` MiB) at `rate` MB/s a
connection, by `prefetch`. The origin counts: bodies under way at once, and sockets open at once, kept ones included.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started as a script, it finds its own folder only

import nanocache

STEP = 0.02  # seconds between two writes of a body
MIB = 1 << 20


class Counting:
    """An origin that counts what is under way. Each path is another body of `size` bytes, and ranges are served."""

    def __init__(self, size: int, rate: float) -> None:
        self.size, self.rate = size, rate
        self.port = 0
        self.bodies = self.sockets = self.most_bodies = self.most_sockets = 0

    async def serve(self, started: threading.Event) -> None:
        server = await asyncio.start_server(self.connected, "127.0.0.1", 0, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await server.serve_forever()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.sockets += 1
        self.most_sockets = max(self.most_sockets, self.sockets)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await self.answer(head.decode("latin-1"), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.sockets -= 1
            writer.close()

    async def answer(self, head: str, writer: asyncio.StreamWriter) -> None:
        path = head.split()[1]
        asked = re.search(r"\r\nrange: bytes=(\d+)-(\d*)", head.lower())
        first = int(asked[1]) if asked else 0
        last = int(asked[2] or self.size - 1) if asked else self.size - 1
        status = f"206 Partial\r\nContent-Range: bytes {first}-{last}/{self.size}" if asked else "200 OK"
        length = f'Content-Length: {last + 1 - first}\r\nAccept-Ranges: bytes\r\nETag: "{path}"'
        writer.write(f"HTTP/1.1 {status}\r\n{length}\r\n\r\n".encode())
        self.bodies += 1
        self.most_bodies = max(self.most_bodies, self.bodies)
        try:
            await self.body(path, first, last + 1, writer)
        finally:
            self.bodies -= 1

    async def body(self, path: str, start: int, end: int, writer: asyncio.StreamWriter) -> None:
        block = path.encode().ljust(1024, b".") * (int(self.rate * STEP) // 1024 + 2)
        while start < end:
            count = min(int(self.rate * STEP), end - start)
            writer.write(block[start % 1024 :][:count])
            await writer.drain()
            start += count
            await asyncio.sleep(STEP)


def work(rank: int, worker: int, port: int, options: argparse.Namespace) -> None:
    urls = [f"http://127.0.0.1:{port}/{rank}-{worker}-{n}.tar" for n in range(options.shards)]
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(options.ranks)}
    for _ in nanocache.prefetch(urls):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"ranks": 8, "workers": 16, "shards": 2, "size": 2, "rate": 10}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    origin, started = Counting(options.size * MIB, options.rate * 1e6), threading.Event()
    folder = tempfile.mkdtemp()
    os.environ["NANOCACHE_DIR"] = folder
    ready, go = os.pipe()
    pids = []
    for number in range(options.ranks * options.workers):
        if not (pid := os.fork()):
            os.close(go)
            port = int(os.read(ready, 6).decode())
            work(number // options.workers, number % options.workers, port, options)
            os._exit(0)
        pids.append(pid)
    threading.Thread(target=lambda: asyncio.run(origin.serve(started)), daemon=True).start()
    started.wait()
    began = time.monotonic()
    os.write(go, f"{origin.port:06}".encode() * len(pids))
    statuses = [os.waitpid(pid, 0)[1] for pid in pids]
    took = time.monotonic() - began
    shutil.rmtree(folder)
    failed = sum(map(bool, statuses))
    print(f"{len(pids)} processes, {options.shards} shards of {options.size} MiB each: {took:.1f} s, {failed} failed")
    print(f"bodies under way at once: {origin.most_bodies}; sockets open at once: {origin.most_sockets}")


if __name__ == "__main__":
    main()
