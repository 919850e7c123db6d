"""A scheme of your own, whole: release://OWNER/REPOSITORY@TAG/ASSET is a file of a GitHub release.

    python examples/releases.py release://astral-sh/uv@0.9.0/uv-x86_64-unknown-linux-gnu.tar.gz

GitHub says the asset's SHA-256, so it is verified without anybody typing one. Ranges, resume, one download for many
processes and offline hits come with `fetch`.
"""

import json
import os
import sys
import urllib.error
import urllib.request

import nanocache

API = os.environ.get("GITHUB_API_URL", "https://api.github.com")


class Releases:
    def resolve(self, url: str) -> nanocache.Resolved:
        repository, _, rest = url.removeprefix("release://").partition("@")
        tag, _, name = rest.partition("/")
        try:
            with urllib.request.urlopen(f"{API}/repos/{repository}/releases/tags/{tag}", timeout=30) as answer:
                assets = {asset["name"]: asset for asset in json.load(answer)["assets"]}
        except urllib.error.HTTPError as e:
            raise (FileNotFoundError if e.code == 404 else ConnectionError)(f"{repository}@{tag}: {e}") from None
        if name not in assets:
            raise FileNotFoundError(f"{repository}@{tag} has no {name}, but {', '.join(assets) or 'nothing'}")
        asset = assets[name]
        sha256 = (asset.get("digest") or "").removeprefix("sha256:") or None  # older releases have none
        return nanocache.Resolved(
            asset["browser_download_url"], size=asset["size"], sha256=sha256, validator=asset["updated_at"]
        )


nanocache.register_source("release", Releases())

if __name__ == "__main__":
    for url in sys.argv[1:]:
        print(nanocache.fetch(url))
