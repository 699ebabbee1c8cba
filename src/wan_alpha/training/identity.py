"""When are two configurations the same run?  When every key that decides what a step computes is equal."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from omegaconf import DictConfig, OmegaConf

# Keys that may change when a run is continued: none of them changes what a step computes, but for rounding.  What
# batch_size, devices and num_nodes make together, the global batch, may not change, nor may the data behind data.root
# or data.sources and their weights, the weights of the base, what precision=auto stands for, or the steps for which the
# learning rate is laid out: these are compared apart.
FREE = (
    "ckpt_path",
    "run_dir",
    "plan",
    "cluster",
    "note",
    "objective",
    "logger",
    "callbacks",
    "data.root",
    "data.sources",
    "data.cache_dir",
    "data.cache_gb",
    "data.fetch",
    "data.num_workers",
    "data.max_corrupt_share",
    "data.val_clips",
    "data.val_batch_size",
    "data.batch_size",
    "data.global_batch",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.precision",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.context_ranks",
    "trainer.fuse_norms",
    "trainer.max_steps",
    "trainer.log_every_n_steps",
    "trainer.val_every_n_steps",
    "trainer.checkpoint_every_n_steps",
    "trainer.keep_checkpoints",
    "trainer.threads",
    "trainer.heartbeat_s",
    "trainer.timeout_s",
    "optim.schedule_steps",
)
# These may change within a run, but are meant as a new one when nothing else says which run is meant.
PART_OF_THE_NAME = (
    "data.root",
    "data.sources",
    "data.batch_size",
    "data.global_batch",
    "trainer.max_steps",
    "trainer.precision",
    "optim.schedule_steps",
)
# Keys that came after checkpoints were first written, each with the value that means what runs did without it: at that
# value a key is no part of a run's identity, so that older checkpoints and directories still go on.
LATER: dict[str, Any] = {
    "data.only": [],
    "loss.weights.mse": 0.0,
    "data.global_batch": None,
    "model.expert": "transformer",
    "model.timesteps.range": None,
}


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def is_free(key: str) -> bool:
    """Whether a dotted key may change between two parts of one run."""
    return any(key == name or key.startswith(name + ".") for name in FREE)


def differing_keys(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Keys that differ between two configurations and matter to the result, as `key: before -> now`."""
    a, b = LATER | flatten(before), LATER | flatten(now)
    differing = [k for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k) and not is_free(k)]
    return [f"{k}: {a.get(k)} -> {b.get(k)}" for k in differing]


def run_id(tree: dict[str, Any]) -> str:
    """Six characters that are equal for equal runs: the name of the default run directory ends in them."""
    flat = flatten(tree)
    named = {k: v for k, v in flat.items() if not is_free(k) or k in PART_OF_THE_NAME}
    named = {k: v for k, v in named.items() if k not in LATER or v != LATER[k]}
    return hashlib.sha256(json.dumps(named, sort_keys=True, default=str).encode()).hexdigest()[:6]


def register_resolver() -> None:
    """Make `${run_id:}` available in configuration files."""

    def resolve(*, _root_: DictConfig) -> str:
        tree = OmegaConf.to_container(_root_, resolve=False)
        assert isinstance(tree, dict)
        return run_id({str(k): v for k, v in tree.items() if k != "hydra"})

    OmegaConf.register_new_resolver("run_id", resolve, replace=True)
