"""nanochat's dataset download: the first shards and the last one, which validates, in a folder that its loader lists.

    python examples/dataset.py 8

Run it on every rank or on one, again after a kill, or with a larger number: what is there is not fetched twice.
"""

import sys

import nanocache

LAST = 1822
SHARD = "hf://datasets/karpathy/fineweb-edu-100b-shuffle/shard_{:05d}.parquet"


def download(count: int) -> list[str]:
    shards = [SHARD.format(number) for number in [*range(count), LAST]]
    return [str(path) for path in nanocache.fetch_many(shards, into=nanocache.get_base_dir() / "base_data")]


if __name__ == "__main__":
    print(*download(int(sys.argv[1])), sep="\n")
