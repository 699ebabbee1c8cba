"""What clean edges are worth on real clips: over coloured grounds, at full size and after an editor has halved it.

    python -m benchmarks.edges [--shards assets/fluent-sample] [--split val] [--side 64] [--frames 9]

The held-out clips go through the shipped RGBA VAE (encode, decode), as a generated latent would; then `Video.cleaned`
is left out, applied in part, or in full, and the result is compared with the clip itself on the eight colours of the
colour set.  `full size` composites it as it is.  `halved` scales straight colour and alpha apart, as programs do that
do not premultiply, and compares with the clip scaled the right way; `fringe` is the part of that error that the scaling
makes: the distance to the same decoded video scaled premultiplied, where alpha is between 0 and 1.  Errors are mean
absolute differences in steps of 255.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from wan_alpha import AlphaVAE
from wan_alpha.data.shards import ShardSource
from wan_alpha.pipeline.video import Video
from wan_alpha.rendering import COLOURS, soft_render

RESULTS = Path(__file__).parent / "results"
WAYS = {"as decoded": (0.0, 0), "threshold 0.02": (0.02, 0), "bleed 8": (0.0, 8), "both (default)": (0.02, 8)}


def clips(source: ShardSource, frames: int, side: int) -> list[tuple[Tensor, Tensor]]:
    """Straight rgb (1, 3, T, S, S) in [-1, 1] and alpha (1, 1, T, S, S) of each clip, scaled premultiplied."""
    found = []
    for index, clip in enumerate(source.clips):
        pixels = torch.from_numpy(source.read(index, 0, min(frames, clip.num_frames))).float() / 255
        rgba = F.interpolate(premultiplied(pixels.permute(0, 3, 1, 2)), (side, side), mode="area")
        alpha = rgba[:, 3:]
        colour = torch.where(alpha > 0, rgba[:, :3] / alpha.clamp_min(1 / 255), 0).clamp(0, 1)
        found.append(((2 * colour - 1).transpose(0, 1)[None], alpha.transpose(0, 1)[None]))
    return found


def premultiplied(rgba: Tensor) -> Tensor:
    """(T, 4, H, W) in [0, 1]."""
    return torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], dim=1)


def halved(rgb: Tensor, alpha: Tensor, straight: bool) -> tuple[Tensor, Tensor]:
    """At half the size: colour and alpha apart, or premultiplied and divided again."""
    pixels = torch.cat([(rgb + 1) / 2, alpha], dim=1)[0].transpose(0, 1)
    small = F.avg_pool2d(pixels if straight else premultiplied(pixels), 2)
    opacity = small[:, 3:]
    colour = small[:, :3] if straight else small[:, :3] / opacity.clamp_min(1e-6)
    return (2 * colour - 1).transpose(0, 1)[None], opacity.transpose(0, 1)[None]


def difference(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], where: Tensor | None = None) -> float:
    """Mean absolute difference of the composites over the colour set, in steps of 255; `where`: (1, 1, T, H, W)."""
    errors = torch.stack([(soft_render(*a, colour) - soft_render(*b, colour)).abs() for colour in COLOURS]) * 127.5
    return float(errors.mean() if where is None else errors[where.expand(errors.shape[1:]).expand_as(errors)].mean())


def measure(truth: tuple[Tensor, Tensor], decoded: Video, folder: Path) -> dict[str, float]:
    empty = truth[1] == 0
    found = decoded.rgb, decoded.alpha
    straight, right = halved(*found, True), halved(*found, False)
    edge = (right[1] > 0.02) & (right[1] < 0.98)
    return {
        "empty pixels that are not zero": float((decoded.alpha[empty] >= 0.5 / 255).float().mean()),
        "full size": difference(found, truth),
        "full size, empty pixels": difference(found, truth, empty),
        "halved": difference(straight, halved(*truth, False)),
        "fringe": difference(straight, right, edge),
        "webm KiB": decoded.save(folder / "out.webm", overwrite=True).stat().st_size / 1024,
    }


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, default=Path("assets/fluent-sample"))
    parser.add_argument("--split", default="val")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--frames", type=int, default=9, help="1 + 4k")
    args = parser.parse_args()
    vae = AlphaVAE.from_pretrained("tiny", "tiny")
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        for rgb, alpha in clips(ShardSource(args.shards, args.split), args.frames, args.side):
            colour, opacity = vae.decode(vae.encode(rgb, alpha))
            decoded = Video(colour.clamp(-1, 1), opacity.clamp(0, 1))
            for name, (threshold, bleed) in WAYS.items():
                rows[name].append(measure((rgb, alpha), decoded.cleaned(threshold, bleed), Path(folder)))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    means = {
        name: {key: round(float(np.mean([row[key] for row in found])), 4) for key in found[0]}
        for name, found in rows.items()
    }
    result = {
        "command": f"python -m benchmarks.edges --split {args.split} --side {args.side} --frames {args.frames}",
        "commit": commit.stdout.strip(), "clips": len(rows["as decoded"]), "means": means, "per_clip": rows,
    }  # fmt: skip
    (RESULTS / "edges_fluent.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(means, indent=2))


if __name__ == "__main__":
    main()
