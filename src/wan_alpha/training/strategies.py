"""How the ranks of a run share its work: what `trainer.strategy` stands for.

`auto` and `ddp` are Lightning's.  `fsdp` is FSDP2 (`fully_shard`): every rank keeps a slice of each weight, frozen or
trained, of its gradient and of its optimiser's state, and the whole of one block only while that block runs.  With
`trainer.context_ranks` above 1, so many neighbouring ranks divide the tokens of the same clips among them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning_fabric.plugins.collectives.torch_collective import default_pg_timeout
from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning_fabric.utilities.optimizer import _optimizer_to_device
from pytorch_lightning.strategies import ModelParallelStrategy, Strategy
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from wan_alpha.command import ConfigError
from wan_alpha.models.whole_clip import CLIP_METHOD
from wan_alpha.stages.stage import StageModule
from wan_alpha.training.config import AlphaDiTConfig, AlphaVAEConfig, RunConfig, TrainerConfig
from wan_alpha.training.sharded import ShardedWriter, load_for


def build_strategy(config: RunConfig) -> Strategy | str:
    """What to give to Lightning's Trainer.

    Raises:
        ConfigError: this stage or model cannot be divided in the way that is asked for.
    """
    t = config.trainer
    if t.strategy == "fsdp":
        check_fsdp(config)
        return ShardedStrategy(t.context_ranks)
    if t.context_ranks > 1:
        raise ConfigError(f"trainer.context_ranks={t.context_ranks} needs trainer.strategy=fsdp, not {t.strategy}")
    # A single frame never meets the temporal convolutions.
    stills = any(shape.num_frames == 1 for shape in config.data.buckets or (config.data,))
    return "ddp_find_unused_parameters_true" if t.strategy == "ddp" and stills else t.strategy


def places(trainer: TrainerConfig) -> tuple[Any, int]:
    """Devices for each machine, and machines; what the configuration leaves open, torchrun has decided."""
    devices, machines = trainer.devices, trainer.num_nodes
    if TorchElasticEnvironment.detect():
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        devices = here if devices == "auto" else devices
        machines = int(os.environ["WORLD_SIZE"]) // here if machines == 1 else machines
    return devices, machines


def check_processes(trainer: Any) -> None:
    """Refuse processes that would each train by themselves, and write into one run directory.

    Raises:
        ConfigError: torchrun or srun has started another number than the trainer counts with.
    """
    if TorchElasticEnvironment.detect():
        starter, name = "torchrun", "WORLD_SIZE"
    elif SLURMEnvironment.detect():
        starter, name = "srun", "SLURM_STEP_NUM_TASKS"
    else:
        return
    wanted = trainer.num_devices * trainer.num_nodes
    started = int(os.environ.get(name, wanted))
    if started != wanted:
        raise ConfigError(
            f"{starter} has started {started} processes, but trainer.devices={trainer.num_devices} on "
            f"{trainer.num_nodes} machines are {wanted}: give trainer=ddp for several devices, with "
            f"trainer.devices as many as each machine has processes, or start one process without {starter}"
        )


def check_fsdp(config: RunConfig) -> None:
    """Which models know how to be sharded."""
    model, divided = config.model, config.trainer.context_ranks > 1
    trains = model.adapter.kind if isinstance(model, AlphaDiTConfig) else model.kind
    if not isinstance(model, AlphaVAEConfig) and trains not in ("dora", "lora"):
        raise ConfigError(
            f"trainer.strategy=fsdp shards stage=vae with model=wan_alpha, and stage=dit with adapters dora or lora; "
            f"{trains} is small enough for trainer.strategy=ddp"
        )
    if isinstance(model, AlphaDiTConfig) and model.frozen.quantise != "none":
        raise ConfigError(f"model.frozen.quantise={model.frozen.quantise} cannot be sharded: give none, or use ddp")
    if divided and not isinstance(model, AlphaDiTConfig):
        raise ConfigError(f"trainer.context_ranks divides the tokens of stage=dit; stage={config.stage} has none")


def data_share(trainer: Any) -> tuple[int, int]:
    """(which, of how many): ranks that divide one clip's tokens see the same clips and count as one."""
    together = getattr(trainer.strategy, "context_ranks", 1)
    return trainer.global_rank // together, trainer.world_size // together


def share_batch(config: RunConfig, trainer: Any) -> int:
    """Give every rank its part of `data.global_batch`, if that is given; returns the global batch.

    Raises:
        ConfigError: it cannot be divided by the number of ranks.
    """
    ranks, wanted = data_share(trainer)[1], config.data.global_batch
    if wanted is not None:
        if wanted % ranks:
            raise ConfigError(f"data.global_batch={wanted} cannot be divided evenly by {ranks} ranks")
        config.data.batch_size = wanted // ranks
    return config.data.batch_size * ranks


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, with checkpoints of trained tensors only, safe to be interrupted at any moment.

    Args:
        context_ranks: neighbouring ranks that divide each clip; Lightning calls this dimension tensor-parallel.
        timeout: of a communication.
    """

    def __init__(self, context_ranks: int = 1, timeout: timedelta | None = default_pg_timeout) -> None:
        super().__init__(timeout=timeout)
        self.context_ranks = context_ranks
        self.shards: DeviceMesh | None = None
        self.writer: ShardedWriter | None = None

    def setup_environment(self) -> None:
        ranks = self.num_nodes * self.num_processes
        if ranks % self.context_ranks:
            raise ConfigError(f"trainer.context_ranks={self.context_ranks} does not divide {ranks} ranks evenly")
        self._data_parallel_size, self._tensor_parallel_size = ranks // self.context_ranks, self.context_ranks
        super().setup_environment()
        # Weights are sharded over all ranks, whatever these share besides.
        self.shards = init_device_mesh(self.root_device.type, (ranks,), mesh_dim_names=("shards",))
        self.writer = ShardedWriter()

    def shard(self, module: StageModule) -> None:
        """Called by the module before its optimiser is made."""
        for unit in module.shard_units():
            for parameter in unit.parameters():
                if not isinstance(parameter, DTensor):  # slices know no other memory format
                    parameter.data = parameter.data.contiguous()
            # Always resharded: whoever changes weights between two steps changes the slices.
            fully_shard(unit, mesh=self.shards, reshard_after_forward=True)
            if CLIP_METHOD in unit.__dict__:
                register_fsdp_forward_method(unit, CLIP_METHOD)
        whole = [name for name, p in module.trainable().items() if not isinstance(p, DTensor)]
        if whole:
            raise ConfigError(f"trainer.strategy=fsdp leaves {whole[0]} and {len(whole) - 1} more unsharded")
        if self.context_ranks > 1:
            module.divide_tokens(self.device_mesh["tensor_parallel"].get_group())

    # ----- checkpoints: the same tree as with one rank, whose tensors may be sharded ---------------------------------

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        self.lightning_module.load_state_dict(checkpoint["state_dict"], strict=strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return optimizer.state_dict()

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(state)
            _optimizer_to_device(optimizer, self.root_device)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        assert self.writer is not None
        self.writer.save(checkpoint, Path(self.broadcast(filepath)))

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        assert self.shards is not None
        return load_for(Path(self.broadcast(checkpoint_path)), self.shards)

    def finish_checkpoint(self) -> None:
        """Wait until the last checkpoint is in its place."""
        if self.writer is not None:
            self.writer.wait()

    def check_checkpoint(self) -> None:
        """Raise what a write in the background has run into."""
        if self.writer is not None:
            self.writer.check()

    def teardown(self) -> None:
        if self.writer is not None:
            self.writer.close()
        super().teardown()
