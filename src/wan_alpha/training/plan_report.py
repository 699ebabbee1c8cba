"""A plan as people read it, with the assumptions it rests on."""

from __future__ import annotations

import diffusers
from rich.console import Console
from rich.table import Table

from wan_alpha.command import ConfigError
from wan_alpha.training.cluster import Estimate, bandwidth, days_and_cost, estimate, gpus_of
from wan_alpha.training.config import RunConfig
from wan_alpha.training.hardware import GPUS
from wan_alpha.training.plan import Plan, plan_run

APART = "never together: gradients, activations"


def print_plan(config: RunConfig) -> None:
    """Show what a run is going to need: of one device, and with `cluster.gpu` of a cluster."""
    _share_batch(config)
    diffusers.utils.logging.set_verbosity_error()  # it advises on weights that nobody loads
    plan = plan_run(config)
    console = Console()
    console.print(_memory(plan))
    accumulate = config.trainer.accumulate_grad_batches
    for line in (
        f"trained: {plan.trained / 1e6:.2f} million numbers; a step of each device: "
        f"{plan.flops * accumulate / 1e12:.4g} TFLOP (matrix products, without what checkpointing computes again)",
        *notes(config, plan),
    ):
        console.print(line, highlight=False)
    if config.cluster.gpu is None:
        console.print("cluster.gpu=NAME cluster.gpus=N: time, days and cost, too", highlight=False)
        return
    both = [estimate(config, plan, strategy) for strategy in ("ddp", "fsdp")]
    console.print(_cluster(config, both))
    for line in assumptions(config):
        console.print(f"- {line}", highlight=False)


def _share_batch(config: RunConfig) -> None:
    """Give each GPU its part of `data.global_batch`, as a run does."""
    wanted, ranks = config.data.global_batch, gpus_of(config) // config.trainer.context_ranks
    if wanted is None:
        return
    if not ranks or wanted % ranks:
        raise ConfigError(f"data.global_batch={wanted} cannot be divided evenly by {ranks} ranks")
    config.data.batch_size = wanted // ranks


def notes(config: RunConfig, plan: Plan) -> list[str]:
    """What a plan leaves out."""
    encoded = "encoding a batch" in plan.parts
    divided = config.trainer.context_ranks
    return [
        "every batch is encoded anew before the step: what that takes beyond the step's activations and working space "
        "is counted, its time and FLOPs are not; data=latents has none"
    ] * encoded + [
        f"trainer.context_ranks={divided} is not known here: each GPU is counted with whole clips, though it will have "
        f"1/{divided} of their tokens"
    ] * (divided > 1)


def _memory(plan: Plan) -> Table:
    table = Table(title="memory of each device", title_justify="left")
    table.add_column("part")
    table.add_column("GiB", justify="right")
    for name, size in plan.parts.items():
        table.add_row(name, f"{size / 2**30:.3f}")
    if plan.apart:
        table.add_row(APART, f"-{plan.apart / 2**30:.3f}")
    table.add_section()
    table.add_row("in all", f"{plan.total / 2**30:.3f}")
    return table


def _cluster(config: RunConfig, estimates: list[Estimate]) -> Table:
    """One column for each strategy."""
    gpu, gpus = GPUS[config.cluster.gpu or ""], gpus_of(config)
    t = config.trainer
    batch = gpus // t.context_ranks * config.data.batch_size * t.accumulate_grad_batches
    table = Table(title=f"{gpus} x {gpu.title}, global batch {batch}, {t.max_steps} steps", title_justify="left")
    table.add_column("")
    for e in estimates:
        table.add_column(f"trainer.strategy={e.strategy}", justify="right")
    for name in dict.fromkeys(name for e in estimates for name in e.parts):
        table.add_row(name, *(f"{e.parts[name]:.2f} GiB" if name in e.parts else "-" for e in estimates))
    if any(e.apart for e in estimates):
        table.add_row(APART, *(f"-{e.apart:.2f} GiB" for e in estimates))
    table.add_row("in all", *(f"{e.memory:.2f} GiB" for e in estimates))
    table.add_row(
        f"fits {gpu.memory_gib:g} GiB", *("yes" if e.fits(gpu) else "[bold red]no[/bold red]" for e in estimates)
    )
    table.add_section()
    table.add_row("computing a step", *(f"{e.compute:.3g} s" for e in estimates))
    table.add_row("communicating a step", *(f"{e.communicate:.3g} s" for e in estimates))
    spans = [e.seconds for e in estimates]
    table.add_row("a step", *(f"{low:.3g} to {high:.3g} s" for low, high in spans))
    known = [[days_and_cost(config, seconds) for seconds in span] for span in spans]
    table.add_row("days to the last step", *(f"{low[0]:.3g} to {high[0]:.3g}" for low, high in known))
    if config.cluster.price is not None:
        table.add_row("cost", *(f"{low[1]:,.0f} to {high[1]:,.0f}" for low, high in known))
    return table


def assumptions(config: RunConfig) -> list[str]:
    """What the figures of a cluster rest on."""
    cluster, gpu = config.cluster, GPUS[config.cluster.gpu or ""]
    where = "in one machine" if gpus_of(config) <= cluster.gpus_per_node else "between machines"
    return [
        f"computing: {cluster.mfu:.0%} (cluster.mfu) of {gpu.tflops:g} TFLOP/s, dense bf16 ({gpu.source}); assumed, "
        "and the time in which checkpointing computes again counts as unused",
        f"communicating: {bandwidth(config):g} GB/s for each GPU {where}, at full speed; from wholly hidden behind "
        "computing to not at all",
        "fits: with a tenth more for the allocator and 1 GiB for CUDA's context",
        "not counted: loading data, validations, checkpoints, restarts, encoding clips within the step",
    ]
