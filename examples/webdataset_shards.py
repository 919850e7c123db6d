"""webdataset over shards that nanocache brings: its own reading and decoding, the next shards on their way meanwhile.

    python examples/webdataset_shards.py https://host/train-{00000..00011}.tar        # the shell expands it

`prefetch` deals the shards out to ranks and workers, so that no split_by_node or split_by_worker is needed. It is the
first stage of a pipeline, since `wds.WebDataset(urls)` makes a list of whatever it is given, in the parent process.
"""

import sys
from collections.abc import Iterator

import webdataset as wds
from torch.utils.data import DataLoader, IterableDataset

import nanodist


class Shards(IterableDataset[dict[str, str]]):
    def __init__(self, urls: list[str], *, seed: int = 0) -> None:
        self.urls = urls
        self.seed = seed
        self.epoch = 0

    def __iter__(self) -> Iterator[dict[str, str]]:
        with nanodist.prefetch(self.urls, ahead=2, seed=self.seed, epoch=self.epoch) as shards:
            for shard in shards:
                yield {"url": str(shard)}


if __name__ == "__main__":
    dataset = wds.DataPipeline(Shards(sys.argv[1:]), wds.tarfile_to_samples(), wds.to_tuple("__key__", "txt"))
    for name, data in DataLoader(dataset, batch_size=None, num_workers=2):
        print(name, len(data))
