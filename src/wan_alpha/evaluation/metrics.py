"""How close decoded RGBA clips are to the true ones: PSNR, SSIM and LPIPS of alpha, soft and hard renders.

All of them look at pictures in [0, 1], three channels; alpha is a grey picture. A figure is taken per clip and averaged
over clips, every clip counting the same.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from wan_alpha.evaluation.lpips import LPIPS
from wan_alpha.rendering import alpha_to_rgb, hard_render, soft_render

# A clip without any error would have an infinite PSNR, and so would every mean it enters.
PSNR_LIMIT = 100.0

# Frames compared at a time: SSIM and LPIPS hold many times the size of what they look at.
_CHUNK = 16


def psnr(pred: Tensor, target: Tensor) -> Tensor:
    """PSNR in dB over all values of one clip: two (T, 3, H, W) in [0, 1] -> (), at most `PSNR_LIMIT`."""
    return peak_signal_noise_ratio(pred, target, data_range=1.0).clamp(max=PSNR_LIMIT)


def ssim(pred: Tensor, target: Tensor) -> Tensor:
    """SSIM of every frame (Gaussian window of 11 px, sigma 1.5), averaged: two (T, 3, H, W) in [0, 1] -> ()."""

    def per_frame(a: Tensor, b: Tensor) -> Tensor:
        values = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
        assert isinstance(values, Tensor)  # a pair only when its maps are asked for
        return values

    return _over_frames(per_frame, pred, target)


class RGBAMetrics:
    """Collects figures of clips, keeps them per clip, and averages.

    Figures are called `picture/metric`: `alpha/psnr`, `soft/ssim`, `hard/lpips3`, ... Predictions are clamped to their
    range first. Both hard renders are cut with the TARGET's alpha > 0: with the prediction's own, a decoder's noise of
    one part in a million around zero would count as much as a hole in the picture.

    Args:
        lpips: the perceptual metric, or None to leave it out.
    """

    def __init__(self, lpips: LPIPS | None = None) -> None:
        self.lpips = lpips
        self.per_clip: dict[str, dict[str, float]] = {}

    @torch.no_grad()
    def update(
        self,
        pred_rgb: Tensor,
        pred_alpha: Tensor,
        rgb: Tensor,
        alpha: Tensor,
        canvas: Tensor,
        keys: Sequence[str] | None = None,
    ) -> None:
        """Measure a batch of clips.

        Args:
            pred_rgb, rgb: (B, 3, T, H, W) in [-1, 1].
            pred_alpha, alpha: (B, 1, T, H, W) in [0, 1].
            canvas: the colour both are rendered on, (B, 3) or (3,) in [-1, 1].
            keys: names of the clips; numbered when absent. A name that returns gets a number behind it.

        Raises:
            ValueError: if the shapes do not fit, or the number of keys is not B.
        """
        keys = list(keys) if keys is not None else [f"clip-{len(self.per_clip) + i:04d}" for i in range(len(rgb))]
        if len(keys) != len(rgb):
            raise ValueError(f"RGBAMetrics: {len(keys)} keys for a batch of {len(rgb)} clips")
        pred_rgb, pred_alpha = pred_rgb.to(rgb.dtype).clamp(-1, 1), pred_alpha.to(alpha.dtype).clamp(0, 1)
        mask = alpha > 0
        pictures = {
            "alpha": (alpha_to_rgb(pred_alpha), alpha_to_rgb(alpha)),
            "soft": (soft_render(pred_rgb, pred_alpha, canvas), soft_render(rgb, alpha, canvas)),
            "hard": (hard_render(pred_rgb, pred_alpha, canvas, mask), hard_render(rgb, alpha, canvas, mask)),
        }
        for index, key in enumerate(keys):
            figures: dict[str, Tensor] = {}
            for name, (pred, target) in pictures.items():
                # (3, T, H, W) -> (T, 3, H, W): every metric looks at frames
                for metric, value in self._measure(pred[index].transpose(0, 1), target[index].transpose(0, 1)).items():
                    figures[f"{name}/{metric}"] = value
            values = torch.stack(list(figures.values())).tolist()
            self.per_clip[self._free(key)] = dict(zip(figures, values, strict=True))

    def merge(self, per_clip: Mapping[str, Mapping[str, float]]) -> None:
        """Add the `per_clip` of another process. A clip both have counts once, as padded distributed loaders need."""
        for key, figures in per_clip.items():
            self.per_clip.setdefault(key, dict(figures))

    def compute(self) -> dict[str, float]:
        """Every figure, averaged over clips; empty before the first update."""
        clips = list(self.per_clip.values())
        names = clips[0] if clips else ()
        return {name: sum(clip[name] for clip in clips) / len(clips) for name in names}

    def worst(self, name: str, count: int = 3) -> list[tuple[str, float]]:
        """The clips with the worst figure `name`, worst first: (key, value)."""
        if self.per_clip and name not in (known := next(iter(self.per_clip.values()))):
            raise ValueError(f"no figure {name!r}; measured: {', '.join(known)}")
        high_is_bad = "lpips" in name
        ranked = sorted(self.per_clip, key=lambda key: self.per_clip[key][name], reverse=high_is_bad)
        return [(key, self.per_clip[key][name]) for key in ranked[:count]]

    def _measure(self, pred: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Two (T, 3, H, W) in [-1, 1] -> metric: ()."""
        pred01, target01 = (pred + 1) / 2, (target + 1) / 2
        values = {"psnr": psnr(pred01, target01), "ssim": ssim(pred01, target01)}
        if self.lpips is not None:
            values[self.lpips.name] = _over_frames(self.lpips, pred, target)
        return {name: value.double() for name, value in values.items()}

    def _free(self, key: str) -> str:
        """`key`, or `key#2`, `key#3`, ... when it is taken."""
        names: Iterable[str] = (key if n == 1 else f"{key}#{n}" for n in range(1, len(self.per_clip) + 2))
        return next(name for name in names if name not in self.per_clip)


def _over_frames(metric: Callable[[Tensor, Tensor], Tensor], pred: Tensor, target: Tensor) -> Tensor:
    """Mean over frames of a metric that gives one value per frame, a few frames at a time."""
    chunks = zip(pred.split(_CHUNK), target.split(_CHUNK), strict=True)
    return torch.cat([metric(a.contiguous(), b.contiguous()).reshape(-1) for a, b in chunks]).mean()
