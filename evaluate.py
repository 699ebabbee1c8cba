"""Evaluate: `python evaluate.py task=reconstruction|generation out=DIR [KEY=VALUE ...]`.  See conf/evaluate.yaml."""

import sys

import hydra
from omegaconf import DictConfig

from wan_alpha.command import run_command, validated
from wan_alpha.evaluating.config import EvaluateConfig
from wan_alpha.evaluating.entry import plain_arguments


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    config, tree = validated(cfg, EvaluateConfig)
    from wan_alpha.evaluating.run import evaluate  # after the check: a typo should not wait for the imports

    evaluate(config, tree)


if __name__ == "__main__":
    sys.argv[1:] = plain_arguments(sys.argv[1:])
    run_command(main, EvaluateConfig)
