"""Alfie's idea on a Wan base: alpha from the base's own attention, without training (arXiv 2408.14826).

    1. The prompt asks for a plain ground, so that there is something to cut from.
    2. While the base samples, the share of its cross-attention on the prompt's words, less that on the words for the
       ground, is averaged and smoothed along its self-attention: a coarse map of the subject.
    3. GrabCut on every frame makes a mask of it, a band around the mask is unknown, and closed-form matting fills it.

Differences to the paper: all words of the user's prompt count, not its nouns, and those for the ground count against
them (by themselves they often point at the ground on the tiny base); closed-form matting (pymatting) stands in for
ViTMatte, whose weights do not come with the project; frames are cut one by one, so alpha may flicker.
"""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wan_alpha.baselines.attention_maps import AttentionMaps, record
from wan_alpha.baselines.interface import UnknownSystemError
from wan_alpha.baselines.matting import PROMPT, Alpha, unmix
from wan_alpha.baselines.wan_sampler import WanSampler, to_pictures
from wan_alpha.data.resize import Frames
from wan_alpha.models.base import temporal_stride
from wan_alpha.models.sampling import VelocityModel

BAND = 1 / 24
"""Half the width of the unknown band, of the shorter side."""


class AlfieGenerator:
    """`Generator`: see the module.

    Args:
        sampler: the base; its attention is recorded from now on.
        prompt: how the prompt is worded, with {prompt} at its start.
        until: noise level below which attention is recorded; above it there is no shape yet.
    """

    def __init__(self, sampler: WanSampler, prompt: str = PROMPT, until: float = 0.8) -> None:
        if not prompt.startswith("{prompt}"):
            raise UnknownSystemError(f"alfie: the wording {prompt!r} must begin with {{prompt}}")
        self.sampler, self.prompt, self.until = sampler, prompt, until
        self.maps = record(sampler.transformer)
        self.fps = sampler.fps

    @torch.no_grad()
    def generate(self, prompt: str, seed: int) -> Frames:
        """See `Generator.generate`."""
        frames, subject = self.frames_and_map(prompt, seed)
        return unmix(frames, cut(frames, subject))

    @torch.no_grad()
    def frames_and_map(self, prompt: str, seed: int) -> tuple[Frames, Alpha]:
        """The opaque video, uint8 (T, H, W, 3), and the subject's map (T, H, W) in [0, 1]."""
        self.maps.clear()
        self.maps.words = self.words(prompt)
        model = self.sampler.velocity_model(self.prompt.format(prompt=prompt))
        z = self.sampler.sample(partial(_recorded, model, self.maps, self.until), seed)
        frames = to_pictures(self.sampler.codec.decode(z)[0])
        return frames, self.subject(frames.shape[:3], (z.shape[2], z.shape[3], z.shape[4]))

    def words(self, prompt: str) -> Tensor:
        """1 for the tokens of the user's own words, -1 for those of the wording behind them, (512,)."""
        limit = self.sampler.text.max_tokens
        worded = self.sampler.text.tokenizer(self.prompt.format(prompt=prompt)).input_ids
        own = max(_common(worded, self.sampler.text.tokenizer(prompt).input_ids), 1)
        words = torch.zeros(limit)
        words[: min(len(worded) - 1, limit)] = -1  # without the token that ends a text
        words[:own] = 1
        return words

    def subject(self, size: tuple[int, int, int], latent: tuple[int, int, int]) -> Alpha:
        """The recorded map at the size of the frames; in each latent frame 0 at its 5th, 1 at its 95th percentile.

        Levels differ between latent frames, the first above all, which stands for one frame and not for four.
        """
        p_t, p_h, p_w = self.sampler.transformer.config["patch_size"]
        tokens = (latent[0] // p_t, latent[1] // p_h, latent[2] // p_w)
        coarse = self.maps.smoothed[0].view(tokens).float().cpu().numpy()
        low, high = np.percentile(coarse, (5, 95), axis=(1, 2), keepdims=True)
        coarse = np.clip((coarse - low) / np.maximum(high - low, 1e-12), 0, 1)
        stride, last = temporal_stride(self.sampler.codec.vae) * p_t, len(coarse) - 1
        frames = [coarse[min((t + stride - 1) // stride, last)] for t in range(size[0])]
        grown = [cv2.resize(f, (size[2], size[1]), interpolation=cv2.INTER_LINEAR) for f in frames]
        return np.stack(grown).astype(np.float32)


def _recorded(model: VelocityModel, maps: AttentionMaps, until: float, z: Tensor, t: Tensor, prompted: bool) -> Tensor:
    maps.active = prompted and float(t[0]) <= until
    try:
        return model(z, t, prompted)
    finally:
        maps.active = False


def _common(first: list[int], second: list[int]) -> int:
    """With how many equal tokens two lists begin."""
    same = [a == b for a, b in zip(first, second, strict=False)]
    return same.index(False) if False in same else len(same)


def cut(frames: Frames, subject: Alpha) -> Alpha:
    """A matte from pictures uint8 (T, H, W, 3) and a coarse map (T, H, W) in [0, 1]."""
    return np.stack([_matte(f, trimap(f, m)) for f, m in zip(frames, subject, strict=True)]).astype(np.float32)


def trimap(frame: NDArray[np.uint8], subject: Alpha) -> Alpha:
    """1 inside, 0 outside, 0.5 in a band around GrabCut's mask; (H, W)."""
    marks = np.full(subject.shape, cv2.GC_BGD, np.uint8)
    marks[subject > 0.1], marks[subject > 0.5], marks[subject > 0.9] = cv2.GC_PR_BGD, cv2.GC_PR_FGD, cv2.GC_FGD
    if subject.max() > 0.9 and subject.min() <= 0.5:  # else there is nothing to tell apart
        cv2.setRNGSeed(0)
        picture = np.ascontiguousarray(frame[..., ::-1])
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(picture, marks, None, *models, 5, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    inside = np.isin(marks, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    half = max(1, round(BAND * min(subject.shape)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * half + 1, 2 * half + 1))
    sure, maybe = cv2.erode(inside, kernel), cv2.dilate(inside, kernel)
    return np.where(sure == 1, 1.0, np.where(maybe == 0, 0.0, 0.5)).astype(np.float32)


def _matte(frame: NDArray[np.uint8], known: Alpha) -> Alpha:
    """Closed-form matting of the unknown band."""
    if not (known == 0.5).any() or not (known == 0).any() or not (known == 1).any():
        return known
    threads = torch.get_num_threads()
    try:
        import numba
        from pymatting.alpha.estimate_alpha_cf import estimate_alpha_cf
    except ImportError as error:
        raise UnknownSystemError(f"alfie needs pymatting ({error}): pip install 'wan-alpha[data]'") from error
    numba.set_num_threads(1)
    found = estimate_alpha_cf(frame.astype(np.float64) / 255, known.astype(np.float64))
    torch.set_num_threads(threads)  # numba's kernels change OpenMP's number for the whole process
    return np.clip(found, 0, 1)
