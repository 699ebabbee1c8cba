"""State that is spread over ranks: written by all of them at once, read by any number.

A sharded checkpoint is a directory `step-NNNNNNNN.ckpt`: what is no tensor, or a small one, in `rest.pt`, and every
rank's slices in safetensors files of torch.distributed.checkpoint.  Nothing in it is a pickle.  It is written under a
temporary name, in the background, and renamed when all ranks have written.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor, zeros

from wan_alpha.training.checkpoints import REST, AtomicCheckpointIO, CheckpointError, remove_checkpoint

MARK = "sharded tensor"
SHARDED_PARTS = ("state_dict", "optimizer_states", "callbacks")


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor, sharing its memory; any other tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def locals_of(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [local(tensor) for tensor in tensors]


@contextmanager
def gathered(parameters: dict[str, nn.Parameter], module: nn.Module, keep: bool) -> Iterator[None]:
    """Inside the `with` block the sharded parameters of `module` are whole, on the CPU; all ranks must enter together.

    Args:
        parameters: those that are wanted, as `StageModule.trainable` gives them.
        module: what holds them.
        keep: whether this rank needs them; the others help.
    """
    wanted = {id(p) for p in parameters.values() if isinstance(p, DTensor)}
    places = [(m, name, p) for m in module.modules() for name, p in m._parameters.items() if id(p) in wanted]
    try:
        for holder, name, p in places:
            whole = cast(DTensor, p).full_tensor().detach()
            if keep:
                holder._parameters[name] = nn.Parameter(whole.cpu(), requires_grad=False)
        yield
    finally:
        for holder, name, p in places:
            holder._parameters[name] = p


# ----- trees ------------------------------------------------------------------------------------------------------


def map_tree(tree: Any, change: Callable[[str, Any], Any], path: str = "") -> Any:
    """The same containers with every leaf replaced by `change(path, leaf)`; paths are joined by slashes."""
    if isinstance(tree, dict) and MARK not in tree:
        return {key: map_tree(value, change, f"{path}/{key}" if path else str(key)) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(map_tree(value, change, f"{path}/{n}") for n, value in enumerate(tree))
    return change(path, tree)


def split(tree: dict[str, Any]) -> tuple[dict[str, Any], dict[str, DTensor]]:
    """A checkpoint without its sharded tensors, which leave their name in their place; and these tensors."""
    tensors: dict[str, DTensor] = {}

    def take(path: str, leaf: Any) -> Any:
        if not isinstance(leaf, DTensor):
            return leaf
        tensors[path] = leaf
        return {MARK: path}

    return map_tree(tree, take), tensors


def join(rest: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The inverse of `split`."""
    return map_tree(rest, lambda _, leaf: tensors[leaf[MARK]] if isinstance(leaf, dict) else leaf)


def shard_tree(tree: dict[str, Any], mesh: DeviceMesh) -> dict[str, Any]:
    """What another strategy saved whole, cut for this one.  Every rank holds all of it, so nothing is sent."""

    def cut(path: str, leaf: Any) -> Any:
        if not torch.is_tensor(leaf) or not leaf.dim() or path.split("/")[0] not in SHARDED_PARTS:
            return leaf
        return distribute_tensor(leaf.to(mesh.device_type), mesh, [Shard(0)], src_data_rank=None)

    return map_tree(tree, cut)


# ----- reading ----------------------------------------------------------------------------------------------------


def load_for(path: Path, mesh: DeviceMesh) -> dict[str, Any]:
    """Any checkpoint, its trained state cut over `mesh`.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    if not path.is_dir():
        return shard_tree(AtomicCheckpointIO().load_checkpoint(path), mesh)
    return _load(path, lambda m: zeros(m.size, dtype=m.properties.dtype, device_mesh=mesh, placements=[Shard(0)]))


def load_whole(path: Path) -> dict[str, Any]:
    """A sharded checkpoint with whole tensors, on the CPU, without any other process."""
    return _load(path, lambda m: torch.zeros(m.size, dtype=m.properties.dtype))


def _load(path: Path, empty: Callable[[TensorStorageMetadata], Tensor]) -> dict[str, Any]:
    rest = AtomicCheckpointIO().load_checkpoint(path / REST)
    try:
        reader = HuggingFaceStorageReader(str(path))
        stored = reader.read_metadata().state_dict_metadata
        tensors: dict[str, Any] = {name: empty(cast(TensorStorageMetadata, m)) for name, m in stored.items()}
        dcp.load(tensors, storage_reader=reader, no_dist=True)
        return join(rest, tensors)
    except Exception as error:  # of the file system, safetensors and torch
        raise CheckpointError(f"{path} is damaged: {error}") from error


# ----- writing ----------------------------------------------------------------------------------------------------


class ShardedWriter:
    """Writes checkpoints while training goes on, one at a time.  Made and called by all ranks together."""

    def __init__(self) -> None:
        self.group = dist.new_group(backend="gloo")  # its own, so that the writer never meets the training's messages
        self.rank = dist.get_rank()
        self.path: Path | None = None
        self.writing: Future[Any] | None = None
        self.failure: BaseException | None = None
        self.finished = threading.Event()  # set when the directory has its name; always, on ranks that give none

    def save(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Copy the state and start to write it; a write that is still going on is waited for.

        Raises:
            CheckpointError: that write failed, or this one cannot begin.
        """
        self.wait()
        rest, tensors = split(checkpoint)
        partial = path.with_name(path.name + ".tmp")
        if self.rank == 0:
            try:
                remove_checkpoint(partial)  # what a killed run has left: its directory, or another strategy's file
                partial.mkdir(parents=True)
                AtomicCheckpointIO().save_checkpoint(rest, partial / REST)
            except (OSError, CheckpointError) as error:  # the other ranks learn of it as of any rank's end
                remove_checkpoint(partial)
                raise error if isinstance(error, CheckpointError) else self._in_vain(path, str(error)) from error
        dist.barrier(self.group)
        self.path = path
        self.finished.clear()
        copies = {name: t.detach().to("cpu", copy=True) for name, t in tensors.items()}
        writer = HuggingFaceStorageWriter(str(partial), save_distributed=True)
        self.writing = cast("Future[Any]", dcp.async_save(copies, storage_writer=writer, process_group=self.group))
        # A future wakes those who wait for it before it calls back, hence the event.
        self.writing.add_done_callback(lambda done: self._finish(done, partial, path))

    def _finish(self, done: Future[Any], partial: Path, path: Path) -> None:
        """In the background, when all ranks have written."""
        try:
            if self.rank == 0 and done.exception() is None and self.failure is None:
                remove_checkpoint(path)
                os.replace(partial, path)
            elif self.rank == 0:
                remove_checkpoint(partial)  # what fills a disk must not stay on it
        except OSError as error:
            self.failure = error
        finally:
            self.finished.set()

    def check(self) -> None:
        """Raise CheckpointError if a write that has ended by now did not end well."""
        if self.writing is None or not self.finished.is_set():
            return
        error = self.writing.exception() or self.failure
        if error is not None:
            self.writing, self.failure = None, None
            raise self._in_vain(self.path, _reason(error))

    @staticmethod
    def _in_vain(path: Path | None, reason: str) -> CheckpointError:
        return CheckpointError(
            f"could not write {path}: {reason}. Earlier checkpoints are untouched; free some space and run the same "
            "command again"
        )

    def wait(self) -> None:
        """Until nothing is being written any more, on any rank."""
        if self.writing is None:
            return
        self.finished.wait()
        self.check()
        dist.barrier(self.group)  # rank 0 has renamed
        self.writing = None

    def close(self) -> None:
        """Let a write that is going on come to its end, whatever it is."""
        if self.writing is not None:
            self.finished.wait()


def _reason(error: BaseException) -> str:
    """What went wrong on which rank, out of torch's report of all."""
    failures = getattr(error, "failures", None)
    if not failures:
        return str(error)
    return "; ".join(f"rank {rank}: {wrapped[0]}" for rank, wrapped in sorted(failures.items()))
