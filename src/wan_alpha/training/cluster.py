"""A planned step on a number of GPUs: memory of each under ddp and fsdp, seconds, days, money."""

from __future__ import annotations

from dataclasses import dataclass

from wan_alpha.training.config import RunConfig
from wan_alpha.training.hardware import GPU, GPUS
from wan_alpha.training.plan import Plan

DIVIDED = ("base VAE", "transformer", "text encoder", "adapters", "gradients", "optimiser", "average")
"""What fsdp divides among the ranks; the RGBA VAE of stage=dit, the image encoder and activations are whole on each."""
SPARE = 1.10
CONTEXT_GIB = 1.0
"""What a plan leaves for the allocator's losses (a tenth) and for CUDA's context."""


@dataclass(frozen=True)
class Estimate:
    """One way to divide a run.

    Attributes:
        strategy: ddp or fsdp.
        parts: GiB of one GPU by part.
        apart: GiB among them that are never there together, see `Plan`.
        compute, communicate: seconds of a step; by itself each.
        gathered: bytes that a GPU receives and sends in a step, each.
    """

    strategy: str
    parts: dict[str, float]
    apart: float
    compute: float
    communicate: float
    gathered: float

    @property
    def memory(self) -> float:
        return sum(self.parts.values()) - self.apart

    @property
    def seconds(self) -> tuple[float, float]:
        """A step if communication hides behind computation wholly, and not at all."""
        return max(self.compute, self.communicate), self.compute + self.communicate

    def fits(self, gpu: GPU) -> bool:
        return self.memory * SPARE + CONTEXT_GIB <= gpu.memory_gib


def gpus_of(config: RunConfig) -> int:
    """`cluster.gpus`, or what trainer.devices and trainer.num_nodes make; one where that is left to the machine."""
    if config.cluster.gpus is not None:
        return config.cluster.gpus
    devices = config.trainer.devices
    if isinstance(devices, list):
        return len(devices) * config.trainer.num_nodes
    count = int(devices) if str(devices).isdigit() else 1
    return max(count, 1) * config.trainer.num_nodes


def estimate(config: RunConfig, plan: Plan, strategy: str) -> Estimate:
    """Memory, time and traffic of one GPU.

    Args:
        plan: of one device, see `plan_run`.
        strategy: ddp, or fsdp as trainer.strategy does it: everything divided among all ranks, block by block.
    """
    gpus, accumulate = gpus_of(config), config.trainer.accumulate_grad_batches
    parts = dict(plan.parts)
    trained = parts.get("gradients", 0)
    share = (gpus - 1) / gpus
    if strategy == "fsdp" and gpus > 1:
        weights = sum(parts.get(name, 0) for name in ("base VAE", "transformer", "text encoder", "adapters"))
        for name in DIVIDED:
            if name in parts:
                parts[name] = parts[name] // gpus
        parts["gathered blocks"] = 2 * plan.unit  # one computes while the next arrives
        # Weights come for the forward and for the backward pass of every batch; gradients are summed after each.
        traffic = share * accumulate * (2 * weights + trained)
    else:
        if gpus > 1:
            parts["gradient buckets"] = trained
        traffic = 2 * share * trained  # a ring's all-reduce, once a step
    gpu = _gpu(config)
    compute = plan.flops * accumulate / (config.cluster.mfu * gpu.tflops * 1e12)
    gib = {name: size / 2**30 for name, size in parts.items()}
    # Gradients that wait for the next batch, or in the buckets of ddp, are there all the time.
    apart = min(plan.apart, parts.get("gradients", 0)) / 2**30 if accumulate == 1 else 0.0
    return Estimate(strategy, gib, apart, compute, traffic / (bandwidth(config) * 1e9), traffic)


def bandwidth(config: RunConfig) -> float:
    """10^9 bytes per second that each GPU has: the machine's own link, between machines its share of the network."""
    gpu, cluster = _gpu(config), config.cluster
    if gpus_of(config) <= cluster.gpus_per_node:
        return gpu.link_gb
    return min(gpu.link_gb, cluster.network_gbit / 8 / cluster.gpus_per_node)


def _gpu(config: RunConfig) -> GPU:
    assert config.cluster.gpu is not None
    return GPUS[config.cluster.gpu]


def days_and_cost(config: RunConfig, seconds: float) -> tuple[float, float | None]:
    """Days to trainer.max_steps, and what they cost; None without a price."""
    days = seconds * config.trainer.max_steps / 86400
    price = config.cluster.price
    return days, None if price is None else days * 24 * gpus_of(config) * price
