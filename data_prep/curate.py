"""Step 2: measure the clips of data set folders, and decide which are kept.

    python -m data_prep.curate root=DIR [out=DIR] [thresholds.noise.max=1] [KEY=VALUE ...]

`conf/curate.yaml` holds every key.  Writes curation.parquet, histograms.png and contact_sheet.html to `out`, and the
verdicts as curation.jsonl into each folder, where `data_prep.shard` honours them.  What is measured is cached by the
content of the clips: the same command continues an interrupted run, and other thresholds take seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from data_prep.curation.config import CurateConfig
from wan_alpha.command import plain_texts, run_command, validated

CONF = Path(__file__).resolve().parents[1] / "conf"


def curate(config: CurateConfig) -> Path:
    """Run the step and return the folder of its results.

    Raises:
        DataError: a folder holds no usable clip, or cannot be written.
    """
    from data_prep.curation.applied import write_verdicts
    from data_prep.curation.decide import decide
    from data_prep.curation.report import HISTOGRAMS, draw_histograms, print_report
    from data_prep.curation.sheet import write_sheet
    from data_prep.curation.table import write_table

    outcome = decide(config)
    write_table(outcome.rows, outcome.out)
    draw_histograms(outcome.rows, config.thresholds, outcome.out / HISTOGRAMS)
    sheet = write_sheet(outcome.rows, outcome.out, config.sheet)
    for name, root in outcome.folders.items():
        rows = [row for row in outcome.rows if row["folder"] == name]
        write_verdicts(rows, root if config.apply else outcome.out / name)
    print_report(outcome, sheet)
    return outcome.out


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="curate")
def main(cfg: DictConfig) -> None:
    """The command line."""
    config, _ = validated(cfg, CurateConfig)
    curate(config)


if __name__ == "__main__":
    sys.argv[1:] = plain_texts(sys.argv[1:], "root", "out", "ray")
    run_command(main, CurateConfig)
