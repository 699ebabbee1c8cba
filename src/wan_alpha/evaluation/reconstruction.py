"""How well codecs give RGBA clips back: pictures, mattes and distributions, one batch at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from wan_alpha.baselines.interface import Codec
from wan_alpha.data.dataset import Batch
from wan_alpha.evaluation.frechet import Features, Moments, frechet_distance
from wan_alpha.evaluation.lpips import LPIPS
from wan_alpha.evaluation.matting import matting_errors
from wan_alpha.evaluation.metrics import RGBAMetrics, psnr, ssim
from wan_alpha.evaluation.scores import Score, Scores
from wan_alpha.rendering import alpha_to_rgb, hard_render, soft_render

NINE_COLOURS = {
    "grey": (0.0, 0.0, 0.0),
    "black": (-1.0, -1.0, -1.0),
    "white": (1.0, 1.0, 1.0),
    "red": (1.0, -1.0, -1.0),
    "green": (-1.0, 1.0, -1.0),
    "blue": (-1.0, -1.0, 1.0),
    "yellow": (1.0, 1.0, -1.0),
    "cyan": (-1.0, 1.0, 1.0),
    "magenta": (1.0, -1.0, 1.0),
}
"""The solid backgrounds of AlphaVAE's protocol, in [-1, 1]."""

TRUTH = "truth"
Moment = tuple[str, str]  # (system or TRUTH, picture)


@dataclass
class Protocol:
    """What is measured.

    Args:
        lpips: the perceptual metric, or None.
        features: (metric name, network) of the Fréchet distance, or None.
        nine_colours: AlphaVAE's protocol too.
    """

    lpips: LPIPS | None = None
    features: tuple[str, Features] | None = None
    nine_colours: bool = True
    category: Callable[[str], str] = field(default=lambda key: "all")


class ReconstructionEvaluation:
    """Measures batches of clips with several codecs; see `save` for how it is continued.

    Args:
        codecs: name -> codec.
        protocol: what is measured.
        scores: receives the figures of every clip.
        directory: where the state of the Fréchet distances is kept between interruptions.
    """

    def __init__(self, codecs: Mapping[str, Codec], protocol: Protocol, scores: Scores, directory: Path) -> None:
        self.codecs, self.protocol, self.scores = codecs, protocol, scores
        self.state = directory / "moments.safetensors"
        self.moments: dict[Moment, Moments] = {}
        done: set[str] = set()
        if protocol.features and self.state.exists():
            done = self._load()
        elif not protocol.features:
            done = set(scores.common_clips())
        scores.keep(done)
        self.done = done

    @torch.no_grad()
    def update(self, batch: Batch, device: torch.device) -> dict[str, tuple[Tensor, Tensor]]:
        """Measure one batch; returns each codec's (rgb, alpha), clamped.  Clips that could not be read are left out."""
        rows = [i for i, problem in enumerate(batch["problem"]) if not problem]
        rgb, alpha, background, canvas = (
            batch[name][rows].to(device) for name in ("rgb", "alpha", "background", "canvas")
        )
        keys = [batch["key"][i] for i in rows]
        outputs = {}
        for name, codec in self.codecs.items():
            pred_rgb, pred_alpha = codec.reconstruct(rgb, alpha, background)
            outputs[name] = pred_rgb.clamp(-1, 1), pred_alpha.clamp(0, 1)
        found = [
            Score(name, key, self.protocol.category(key), figures)
            for name, out in outputs.items()
            for key, figures in self._figures(*out, rgb, alpha, canvas, keys).items()
        ]
        self._see(outputs, rgb, alpha, canvas)
        self.scores.add(*found)
        self.done |= set(keys)
        return outputs

    def _figures(
        self, pred_rgb: Tensor, pred_alpha: Tensor, rgb: Tensor, alpha: Tensor, canvas: Tensor, keys: list[str]
    ) -> dict[str, dict[str, float]]:
        """key -> figures of one codec."""
        metrics = RGBAMetrics(self.protocol.lpips)
        metrics.update(pred_rgb, pred_alpha, rgb, alpha, canvas, keys)
        found = {}
        for i, (key, figures) in enumerate(metrics.per_clip.items()):
            if self.protocol.nine_colours:
                clip = slice(i, i + 1)
                figures |= nine_colours(pred_rgb[clip], pred_alpha[clip], rgb[clip], alpha[clip], self.protocol.lpips)
            mattes = (pred_alpha[i, 0].cpu().numpy(), alpha[i, 0].cpu().numpy())
            figures |= {f"alpha/{n}": v for n, v in matting_errors(*mattes, grey_clip(rgb[i], alpha[i])).items()}
            found[key] = figures
        return found

    def _see(self, outputs: Mapping[str, tuple[Tensor, Tensor]], rgb: Tensor, alpha: Tensor, canvas: Tensor) -> None:
        """Show the feature network what the Fréchet distances compare."""
        if self.protocol.features is None:
            return
        for system, (out_rgb, out_alpha) in {TRUTH: (rgb, alpha), **outputs}.items():
            pictures = {
                "alpha": [alpha_to_rgb(out_alpha)],
                "soft": [soft_render(out_rgb, out_alpha, canvas)],
                "hard": [hard_render(out_rgb, out_alpha, canvas, alpha > 0)],
            }
            if self.protocol.nine_colours:
                pictures["nine"] = [
                    soft_render(out_rgb, out_alpha, torch.tensor(colour).to(rgb)) for colour in NINE_COLOURS.values()
                ]
            for picture, clips in pictures.items():
                moments = self.moments.setdefault((system, picture), Moments())
                for clip in clips:
                    for frames in clip.transpose(1, 2).flatten(0, 1).split(16):
                        moments.add(self.protocol.features[1](frames))

    def distances(self, system: str) -> dict[str, float]:
        """`picture/rfid...` of one codec over all clips so far: a figure of the set, without an interval."""
        if self.protocol.features is None:
            return {}
        return {
            f"{picture}/{self.protocol.features[0]}": frechet_distance(moments, self.moments[TRUTH, picture])
            for (name, picture), moments in self.moments.items()
            if name == system
        }

    def save(self) -> None:
        """Keep the state; clips scored after the last `save` are measured again when the evaluation is continued."""
        if self.protocol.features is None:
            return
        tensors: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        for (system, picture), m in self.moments.items():
            if m.total is not None and m.products is not None:
                tensors |= {f"{system}/{picture}/total": m.total, f"{system}/{picture}/products": m.products}
                counts[f"{system}/{picture}"] = m.count
        record = {"counts": json.dumps(counts), "done": json.dumps(sorted(self.done))}
        partial = self.state.with_name(f"{self.state.name}.tmp")
        save_file(tensors, partial, metadata=record)
        os.replace(partial, self.state)

    def _load(self) -> set[str]:
        from safetensors import safe_open

        with safe_open(self.state, "pt") as file:
            record = file.metadata()
        tensors = load_file(self.state)
        for name, count in json.loads(record["counts"]).items():
            system, _, picture = name.rpartition("/")
            self.moments[system, picture] = Moments(count, tensors[f"{name}/total"], tensors[f"{name}/products"])
        return set(json.loads(record["done"]))


def nine_colours(
    pred_rgb: Tensor, pred_alpha: Tensor, rgb: Tensor, alpha: Tensor, lpips: LPIPS | None = None
) -> dict[str, float]:
    """PSNR, SSIM and LPIPS of soft renders on the nine solid colours, averaged over the colours, for one clip.

    Args:
        pred_rgb, rgb: (1, 3, T, H, W) in [-1, 1].
        pred_alpha, alpha: (1, 1, T, H, W) in [0, 1].
        lpips: None leaves it out.
    """
    found: dict[str, list[float]] = {}
    for colour in NINE_COLOURS.values():
        canvas = torch.tensor(colour).to(rgb)
        a, b = (soft_render(r, m, canvas)[0].transpose(0, 1) for r, m in ((pred_rgb, pred_alpha), (rgb, alpha)))
        found.setdefault("nine/psnr", []).append(float(psnr((a + 1) / 2, (b + 1) / 2)))
        found.setdefault("nine/ssim", []).append(float(ssim((a + 1) / 2, (b + 1) / 2)))
        if lpips is not None:
            values = torch.cat([lpips(x, y) for x, y in zip(a.split(16), b.split(16), strict=True)])
            found.setdefault(f"nine/{lpips.name}", []).append(float(values.mean()))
    return {name: sum(values) / len(values) for name, values in found.items()}


def grey_clip(rgb: Tensor, alpha: Tensor) -> np.ndarray:
    """The clip on mid-grey as grey pictures, on which its motion is measured: uint8 (T, H, W)."""
    on_grey = soft_render(rgb[None], alpha[None], torch.zeros(3))[0]
    weights = torch.tensor([0.299, 0.587, 0.114]).to(rgb)[:, None, None, None]
    luma = ((on_grey * weights).sum(0) + 1) * 127.5
    return luma.round().clamp(0, 255).to(torch.uint8).cpu().numpy()
