"""A workspace at Weights & Biases that shows the runs of a project: quality, pictures, speed.

    python -m wan_alpha.wandb_dashboard --entity TEAM --project wan-alpha
    python -m wan_alpha.wandb_dashboard --entity TEAM --project wan-alpha --json workspace.json

The first command makes a saved view and prints its address; it needs `wandb login`.  The second writes what would be
sent, and speaks to nobody.  W&B adds its own section with the figures of processors and GPUs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

STEP = "trainer/global_step"
SECTIONS: dict[str, dict[str, list[str]]] = {
    "RGBA VAE": {
        "training loss": ["train/loss"],
        "alpha, held-out clips (PSNR)": ["val/alpha/psnr"],
        "soft render, held-out clips (PSNR)": ["val/soft/psnr"],
        "hard render, held-out clips (PSNR)": ["val/hard/psnr"],
        "soft render, held-out clips (SSIM)": ["val/soft/ssim"],
    },
    "Text to RGBA video": {
        "training loss": ["train/loss"],
        "loss, held-out clips": ["val/loss"],
        "by noise level, held-out clips": [f"val/loss_t{t}" for t in (0.1, 0.3, 0.5, 0.7, 0.9)],
    },
    "Speed": {
        "frames per second, all devices": ["train/frames_per_second"],
        "share of the device's peak (MFU)": ["train/mfu"],
        "share of the time spent waiting for data": ["train/data_wait"],
    },
}
MEDIA = {"RGBA VAE": ["panels"], "Text to RGBA video": ["samples"]}
"""Videos of the validations."""


class DashboardError(RuntimeError):
    """The workspace cannot be made."""


def build(entity: str, project: str) -> Any:
    """The workspace, not yet sent.

    Raises:
        DashboardError: wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as parts
        import wandb_workspaces.workspaces as workspaces
    except ImportError as error:
        raise DashboardError("the dashboard needs wandb-workspaces: pip install 'wan-alpha[dashboard]'") from error
    sections = []
    for name, plots in SECTIONS.items():
        panels: list[Any] = [parts.LinePlot(title=title, x=STEP, y=[*metrics]) for title, metrics in plots.items()]
        if name in MEDIA:
            panels.append(parts.MediaBrowser(media_keys=MEDIA[name]))
        sections.append(workspaces.Section(name=name, panels=panels, is_open=True))
    return workspaces.Workspace(entity=entity, project=project, name="wan-alpha", sections=sections)


def specification(workspace: Any) -> dict[str, Any]:
    """What is sent to the server, as plain containers."""
    content: dict[str, Any] = json.loads(workspace._to_model().model_dump_json(by_alias=True))
    return content


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entity", required=True, help="user or team")
    parser.add_argument("--project", required=True)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what would be sent, and stop")
    args = parser.parse_args(arguments)
    try:
        workspace = build(args.entity, args.project)
        if args.json is not None:
            args.json.write_text(json.dumps(specification(workspace), indent=2) + "\n")
            print(args.json)
            return
        print(save(workspace))
    except DashboardError as error:
        sys.exit(f"error {error}")


def save(workspace: Any) -> str:
    """Send it; returns its address.

    Raises:
        DashboardError: the server cannot be reached, or knows no such user.
    """
    try:
        workspace.save()
    except Exception as error:  # wandb-workspaces raises bare ones
        raise DashboardError(f"Weights & Biases refused, or cannot be reached: {error}; first `wandb login`") from error
    return str(workspace.url)


if __name__ == "__main__":
    main(sys.argv[1:])
