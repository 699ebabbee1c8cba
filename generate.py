"""Generate: `python generate.py prompt="a parrot flying" [KEY=VALUE ...]`.  See conf/generate.yaml for every key."""

import sys

import hydra
from omegaconf import DictConfig

from wan_alpha.command import run_command, validated
from wan_alpha.pipeline.arguments import plain_text
from wan_alpha.pipeline.config import GenerateConfig


@hydra.main(version_base="1.3", config_path="conf", config_name="generate")
def main(cfg: DictConfig) -> None:
    config, _ = validated(cfg, GenerateConfig)
    from wan_alpha.pipeline.generate import generate  # after the check: a typo should not wait for the imports

    generate(config)


if __name__ == "__main__":
    sys.argv[1:] = plain_text(sys.argv[1:])
    run_command(main, GenerateConfig, "finished files stay; the same command makes the others")
