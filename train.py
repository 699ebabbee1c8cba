"""Train: `python train.py stage=vae|dit|base [KEY=VALUE ...]`.  See conf/ for every key."""

import sys

import hydra
from omegaconf import DictConfig

from wan_alpha.command import run_command
from wan_alpha.training.config import RunConfig
from wan_alpha.training.entry import INTERRUPTED, checked, plain_arguments
from wan_alpha.training.objective import objective


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float | None:
    config, tree = checked(cfg)
    if config.plan:
        from wan_alpha.training.plan_report import print_plan

        print_plan(config)
        return None
    from wan_alpha.training.run import train  # after the check: a typo should not wait for the imports

    train(config, tree)
    return objective(config)


if __name__ == "__main__":
    sys.argv[1:] = plain_arguments(sys.argv[1:])
    run_command(main, RunConfig, INTERRUPTED)
