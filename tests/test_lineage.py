"""The chain data -> VAE adapters -> latents -> DoRA -> evaluation, by content."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from small_world import random_base

from wan_alpha import lineage
from wan_alpha.lineage import Piece, artifact, described, folder_piece, log_lineage, write_lineage
from wan_alpha.models.alpha_vae import AdapterSpec, AlphaVAE


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("run") / "adapters"
    AlphaVAE(random_base("wan22"), AdapterSpec(2, 2.0, "random")).save_adapters(where)
    return where


class Server:
    """Stands in for a run of wandb that reaches its server: notes what is asked of it."""

    def __init__(self) -> None:
        self.used: list[Any] = []
        self.logged: list[Any] = []
        self.config = self
        self.known: dict[str, Any] = {}

    def update(self, content: dict[str, Any], allow_val_change: bool) -> None:
        self.known |= content

    def use_artifact(self, one: Any) -> None:
        self.used.append(one)

    def log_artifact(self, one: Any) -> None:
        self.logged.append(one)


def test_what_one_run_made_is_what_the_next_one_uses(adapters: Path, tmp_path: Path) -> None:
    """Wherever the files lie: artifacts of equal names and contents are one to the server."""
    first, second = Server(), Server()
    data = Piece("data", "0" * 64)
    log_lineage(first, [folder_piece("vae-adapters", adapters)], [data], offline=False)
    copy = Path(shutil.copytree(adapters, tmp_path / "elsewhere"))
    write_lineage(copy, [], [])  # says nothing of the content
    log_lineage(second, [Piece("latents", "1" * 64)], [data, folder_piece("vae-adapters", copy)], offline=False)
    (made,), (source, used) = first.logged, second.used
    assert (used.name, used.type, used.digest) == (made.name, "vae-adapters", made.digest)
    assert (source.name, source.digest) == (first.used[0].name, first.used[0].digest)
    assert {"adapters.json", "adapters.safetensors", "sha256.txt"} == set(made.manifest.entries)
    assert second.known["lineage"]["used"][1]["name"] == used.name


def test_other_content_is_another_piece(adapters: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(adapters, tmp_path / "changed"))
    description = json.loads((changed / "adapters.json").read_text())
    (changed / "adapters.json").write_text(json.dumps(description | {"version": 2}))
    before, after = folder_piece("vae-adapters", adapters), folder_piece("vae-adapters", changed)
    assert before.name != after.name
    assert artifact(before).digest != artifact(after).digest


def test_offline_nothing_asks_the_server_and_the_chain_is_in_the_configuration(adapters: Path) -> None:
    run = Server()
    made, used = [folder_piece("vae-adapters", adapters)], [Piece("data", "0" * 64)]
    log_lineage(run, made, used, offline=True)
    assert run.used == []
    assert [one.name for one in run.logged] == [made[0].name]
    assert run.known["lineage"] == described(made, used)
    assert run.known["lineage"]["used"] == [{"kind": "data", "name": "data-000000000000", "sha256": "0" * 64}]


@pytest.mark.parametrize("failure", ["silent", "refuses"])
def test_a_dead_server_is_told_of_and_nothing_waits_for_it(
    failure: str, adapters: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lineage, "PATIENCE_SECONDS", 0.2 if failure == "silent" else 60)
    forever = threading.Event()

    class Dead(Server):
        def use_artifact(self, one: Any) -> None:
            if failure == "refuses":
                raise ConnectionError("gone")
            forever.wait()

    log_lineage(Dead(), [folder_piece("vae-adapters", adapters)], [Piece("data", "0" * 64)], offline=False)
    forever.set()
    said = {"silent": "no answer in 0.2 seconds", "refuses": "ConnectionError: gone"}[failure]
    assert said in caplog.text
    assert "lineage.json has what was made of what" in caplog.text
