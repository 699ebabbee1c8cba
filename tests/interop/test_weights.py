"""Weight files: tensors in, tensors out, and no code."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from wan_alpha.interop.weights import CheckpointError, read_weights, write_weights


class Trap:
    """Runs a harmless function of Python when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin", "w.pth", "w.pt"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_keeps_every_bit(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    shared = torch.randn(3, 5).to(dtype)
    weights = {"a": shared, "b.c": shared, "scalar": torch.tensor(2.0), "view": torch.randn(4, 4).T}
    write_weights(tmp_path / name, weights)
    read = read_weights(tmp_path / name)
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[key], tensor) and read[key].dtype == tensor.dtype for key, tensor in weights.items())
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_reads_torchs_old_format(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(3)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert read_weights(tmp_path / "old.pth")["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("new_format", [True, False])
def test_pickled_code_is_refused_and_never_runs(tmp_path: Path, new_format: bool) -> None:
    marker, file = tmp_path / "the code ran", tmp_path / "trap.bin"
    torch.save({"a": torch.ones(1), "b": Trap(marker)}, file, _use_new_zipfile_serialization=new_format)
    with pytest.raises(
        CheckpointError, match=r"trap\.bin holds more than tensors: .* run code .*mkdir\), which is refused"
    ):
        read_weights(file)
    assert not marker.exists()
    torch.load(file, weights_only=False)  # the trap is a real one
    assert marker.exists()


@pytest.mark.parametrize("content", [{"state_dict": {"a": torch.ones(1)}, "step": 3}, [torch.ones(1)], torch.ones(1)])
def test_anything_but_a_flat_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "nested.bin")
    with pytest.raises(CheckpointError, match="flat dict of tensors"):
        read_weights(tmp_path / "nested.bin")


@pytest.mark.parametrize("name", ["pointer.safetensors", "pointer.bin"])
def test_text_in_place_of_weights(tmp_path: Path, name: str) -> None:
    """What a clone without git-lfs, or a download of an error page, leaves behind."""
    for text in ("version https://git-lfs.github.com/spec/v1\noid sha256:0123\n", "<html>not found</html>"):
        (tmp_path / name).write_text(text)
        with pytest.raises(CheckpointError, match=f"{len(text)} bytes.* no weight file"):
            read_weights(tmp_path / name)


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.bin"])
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.95])
def test_truncated_file_is_named(tmp_path: Path, name: str, keep: float) -> None:
    file = tmp_path / name
    write_weights(file, {"a": torch.randn(100, 100)})
    whole = file.read_bytes()
    file.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(CheckpointError, match=rf"{name} \([\d,]+ bytes\) is damaged"):
        read_weights(file)


def test_missing_file_and_unknown_suffix(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone\.bin: no such file"):
        read_weights(tmp_path / "gone.bin")
    (tmp_path / "model.gguf").touch()
    with pytest.raises(CheckpointError, match=r"must be one of \.safetensors.* got \.gguf"):
        read_weights(tmp_path / "model.gguf")


def test_failed_write_keeps_the_file_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "w.bin"
    write_weights(file, {"a": torch.ones(1)})

    def full_disk(_: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_weights(file, {"a": torch.zeros(1)})
    monkeypatch.undo()
    assert read_weights(file)["a"].item() == 1
    assert [path.name for path in tmp_path.iterdir()] == ["w.bin"]
