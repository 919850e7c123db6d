"""The cache in Prometheus: how often it has what is asked for, what it downloads, and what is waited for.

    pip install nanocache prometheus-client
    python examples/metrics.py --port 9400 URL...      # and meanwhile: curl http://localhost:9400/metrics

Hits are scraped from `stats()`, so that a hit stays as cheap as it is; a listener sees what is rare.
"""

import argparse
from collections.abc import Iterator

from prometheus_client import Counter, Histogram, start_http_server
from prometheus_client.core import REGISTRY, CounterMetricFamily, Metric

import nanocache
from nanocache.events import Event, Evict, Publish, Retry, Wait

BYTES = Counter("nanocache_downloaded_bytes", "Bytes that were downloaded, verified and published")
RETRIES = Counter("nanocache_retries", "Downloads that failed and were tried again")
EVICTED = Counter("nanocache_evicted_bytes", "Bytes that went to make room", ["what"])
DOWNLOAD = Histogram("nanocache_download_seconds", "From the first request to publication")
WAITED = Histogram("nanocache_wait_seconds", "Waiting for another process that downloads the same")


def measure(event: Event) -> None:
    """Called by the thread that works: it must be quick, and what it raises is the fetch's error."""
    match event:
        case Publish(size=size, seconds=seconds):
            BYTES.inc(size)
            DOWNLOAD.observe(seconds)
        case Wait(seconds=seconds):
            WAITED.observe(seconds)
        case Retry():
            RETRIES.inc()
        case Evict(what=what, size=size):
            EVICTED.labels(what).inc(size)


class Scraped:
    """What is counted all the time, read when Prometheus asks."""

    def __init__(self, cache: nanocache.Cache) -> None:
        self._cache = cache

    def collect(self) -> Iterator[Metric]:
        stats = self._cache.stats()
        yield CounterMetricFamily("nanocache_hits", "Calls that a stat answered", value=stats.hits)
        yield CounterMetricFamily("nanocache_misses", "Calls that one did not", value=stats.misses)


def watched(base_dir: str | None = None) -> nanocache.Cache:
    """A cache whose calls show in this process's metrics."""
    cache = nanocache.Cache(base_dir, on_event=measure)
    REGISTRY.register(Scraped(cache))
    return cache


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fetch URLs, and serve metrics of it meanwhile.")
    parser.add_argument("urls", metavar="URL", nargs="+")
    parser.add_argument("--port", type=int, default=9400)
    options = parser.parse_args()
    server, _ = start_http_server(options.port, addr="127.0.0.1")
    for path in watched().fetch_many(options.urls):
        print(path)
    server.shutdown()
    server.server_close()
