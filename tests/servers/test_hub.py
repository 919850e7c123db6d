"""The stand-in for a Hub, judged by the Hub's own client."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.hub import LARGE, HubServer
from tests.servers.origin import content

pytest.importorskip("huggingface_hub", reason="the Hub's own client is not installed")

FILES = {
    "config.json": b"{}",
    "weights/model.safetensors": content(LARGE + 5, "model"),
    "weights/vocab.txt": b"a\nb\n",
}
CLIENT = """
import sys
from huggingface_hub import hf_hub_download, snapshot_download
kind, revision = sys.argv[1], sys.argv[2] or None
print(hf_hub_download("owner/name", "weights/model.safetensors", repo_type=kind, revision=revision))
print(snapshot_download("owner/name", repo_type=kind, revision=revision))
"""


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_the_hubs_own_client_downloads_from_it(kind: str, tmp_path: Path) -> None:
    with HubServer() as hub:
        commit = hub.commit("owner/name", FILES, kind=f"{kind}s")
        variables = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
        command = [sys.executable, "-c", CLIENT, kind, ""]
        done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        file, folder = map(Path, done.stdout.split())
        assert file.read_bytes() == FILES["weights/model.safetensors"]
        assert folder.name == commit
        assert {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == FILES
