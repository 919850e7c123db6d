"""A dataset over tar shards, in another order in each epoch, the next shards on their way while one is read.

    python examples/shards.py https://host/train-{00000..00011}.tar        # the shell expands it

Each rank reads its share, and of that each of its DataLoader's workers its own. Samples come as (name, bytes).
"""

import sys
import tarfile
from collections.abc import Iterator

from torch.utils.data import DataLoader, IterableDataset

import nanodist

Sample = tuple[str, bytes]


class Shards(IterableDataset[Sample]):
    def __init__(self, urls: list[str], *, seed: int = 0) -> None:
        self.urls = urls
        self.seed = seed
        self.epoch = 0

    def __iter__(self) -> Iterator[Sample]:
        with nanodist.prefetch(self.urls, ahead=2, seed=self.seed, epoch=self.epoch) as shards:
            for shard in shards:
                with tarfile.open(shard) as tar:
                    for member in tar:
                        if (file := tar.extractfile(member)) is not None:
                            yield member.name, file.read()


if __name__ == "__main__":
    for name, data in DataLoader(Shards(sys.argv[1:]), batch_size=None, num_workers=2):
        print(name, len(data))
