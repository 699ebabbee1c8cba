"""What was made of what, by content: data -> VAE adapters -> latents -> DoRA -> evaluation.

Every product names itself and what it was made of in a `lineage.json` of its folder.  With Weights & Biases on, the
same pieces are artifacts there, whose names follow from their content: a run that uses what another has made means the
same artifact, whoever logs it first.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

log = logging.getLogger(__name__)

FILE = "lineage.json"
PATIENCE_SECONDS = 600.0
"""For the server of Weights & Biases; adapters of hundreds of megabytes are uploaded in this time."""
Kind = Literal["data", "vae-adapters", "latents", "dit-adapters", "base", "evaluation"]


@dataclass(frozen=True)
class Piece:
    """One thing of the chain.

    Attributes:
        kind: what it is.
        digest: sha256 of its content.
        files: what Weights & Biases keeps of it; nothing but the digest of what is large.
    """

    kind: Kind
    digest: str
    files: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.digest[:12]}"


def folder_piece(kind: Kind, folder: str | Path, keep: bool = True) -> Piece:
    """The weights and descriptions of a folder, wherever it lies.

    Args:
        keep: whether its files go to Weights & Biases, too.
    """
    root = Path(folder)
    files = sorted(p for p in root.rglob("*") if p.suffix in (".safetensors", ".json") and p.name != FILE)
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as content:
            digest.update(f"{file.relative_to(root)} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return Piece(kind, digest.hexdigest(), tuple(files) if keep else ())


def file_piece(kind: Kind, file: str | Path) -> Piece:
    """A single file of weights, by its content; only the digest of it is kept."""
    with open(file, "rb") as content:
        return Piece(kind, hashlib.file_digest(content, "sha256").hexdigest())


def write_lineage(folder: str | Path, made: Sequence[Piece], used: Sequence[Piece]) -> None:
    """`lineage.json`: names and digests of what lies here and of what it was made of."""
    target = Path(folder) / FILE
    partial = target.with_name(f"{FILE}.tmp")
    partial.write_text(json.dumps(described(made, used), indent=2) + "\n")
    os.replace(partial, target)


def described(made: Sequence[Piece], used: Sequence[Piece]) -> dict[str, list[dict[str, str]]]:
    """Both lists as plain containers."""

    def plain(pieces: Iterable[Piece]) -> list[dict[str, str]]:
        return [{"kind": p.kind, "name": p.name, "sha256": p.digest} for p in pieces]

    return {"made": plain(made), "used": plain(used)}


def artifact(piece: Piece) -> Any:
    """A piece as a W&B artifact: equal content gives equal artifacts."""
    import wandb

    made = wandb.Artifact(piece.name, type=piece.kind, metadata={"sha256": piece.digest})
    for file in piece.files:
        made.add_file(str(file), name=file.name)
    with made.new_file("sha256.txt") as note:
        note.write(f"{piece.digest}\n")
    return made


def log_lineage(run: Any, made: Sequence[Piece], used: Sequence[Piece], offline: bool) -> None:
    """Log what a run made, and that it used the rest.

    Args:
        run: of wandb.
        offline: using an artifact needs the server; offline the chain stands in the run's configuration by digests, and
            what was made is uploaded by `wandb sync`.
    """
    run.config.update({"lineage": described(made, used)}, allow_val_change=True)

    def log_pieces() -> None:
        for piece in made:
            run.log_artifact(artifact(piece))
        for piece in () if offline else used:
            run.use_artifact(artifact(piece))  # waits for the server

    told = _patiently(log_pieces)
    if told is not None:
        log.warning("Weights & Biases did not take the artifacts (%s); %s has what was made of what", told, FILE)


def _patiently(action: Callable[[], None]) -> str | None:
    """Do it; what went wrong in a sentence, or None.  Finished work must not wait for a dead server."""
    problems: list[str] = []

    def attempt() -> None:
        try:
            action()
        except Exception as error:
            problems.append(f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    if thread.is_alive():
        return f"no answer in {PATIENCE_SECONDS:g} seconds"
    return problems[0] if problems else None
