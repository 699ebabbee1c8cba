"""Every figure of the reports: how it is headed, which way is better, and what exactly it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Better = Literal["up", "down", "none"]
ARROWS = {"up": "↑", "down": "↓", "none": ""}


@dataclass(frozen=True)
class Figure:
    """One column of a table.

    Attributes:
        heading: for people.
        better: "up": higher is better; "down": lower is; "none": neither, it describes.
        digits: behind the point.
        definition: what is measured, in one sentence.
    """

    heading: str
    better: Better
    digits: int
    definition: str


PICTURES = {
    "alpha": "alpha as a grey picture",
    "soft": "the soft render on one colour of the colour set",
    "hard": "the hard render on the same colour, both sides cut with the true alpha > 0",
    "nine": "soft renders on nine solid colours (AlphaVAE's protocol), averaged over the colours",
}

METRICS = {
    "psnr": Figure("PSNR", "up", 2, "peak signal-to-noise ratio of a whole clip in dB, at most 100"),
    "ssim": Figure("SSIM", "up", 4, "structural similarity, Gaussian window of 11 px and sigma 1.5, mean over frames"),
    "lpips": Figure("LPIPS", "down", 4, "LPIPS 0.1 with ImageNet's VGG16, mean over frames"),
    "lpips3": Figure(
        "LPIPS3", "down", 4, "the first three of LPIPS' five levels with the bundled VGG16; not comparable with papers"
    ),
    "rfid": Figure("rFID", "down", 2, "Fréchet distance of true and reconstructed frames in the given network's eyes"),
    "rfid_vgg": Figure(
        "rFID-VGG", "down", 3,
        "Fréchet distance of frames over mean-pooled relu3_3 of the bundled VGG16; NOT the Inception FID of papers",
    ),
    "sad_k": Figure("SAD /10³", "down", 3, "sum of absolute differences per frame, divided by 1000"),
    "mad_e3": Figure("MAD ×10³", "down", 2, "mean absolute difference, times 1000"),
    "mse_e3": Figure("MSE ×10³", "down", 2, "mean squared difference, times 1000"),
    "grad_k": Figure("Grad /10³", "down", 3, "squared difference of Gaussian gradients (sigma 1.4), summed, / 1000"),
    "conn_k": Figure("Conn /10³", "down", 3, "connectivity error (step 0.1, theta 0.15, 4-connected), summed, / 1000"),
    "dtssd_e2": Figure("dtSSD ×10²", "down", 2, "root mean squared difference of temporal differences, times 100"),
    "messddt_e3": Figure(
        "MESSDdt ×10³", "down", 3, "mean change of the squared error along the true clip's optical flow, times 1000"
    ),
    "temporal_flickering": Figure(
        "temporal flickering", "up", 4,
        "VBench: (255 - mean absolute difference of consecutive frames) / 255, on grey where there is alpha",
    ),
    "motion_smoothness": Figure(
        "motion smoothness", "up", 4,
        "like VBench's, with optical flow in place of a network: (255 - mean absolute difference of each frame and the "
        "one interpolated between its neighbours) / 255, weighted by alpha",
    ),
    "flow_difference": Figure(
        "RGB/alpha flow difference, px", "down", 3,
        "TransPixeler's measure: mean distance in px of the Farneback flows of colour and of alpha",
    ),
    "edge_width": Figure(
        "alpha edge width, px", "none", 2, "median width in px of the ramp through alpha = 0.5; 1 is a hard step"
    ),
    "translucent_share": Figure(
        "translucent share", "none", 3,
        "share of the visible (alpha > 0.05) that is translucent (< 0.95) and not the seam between opaque and empty",
    ),
    "translucency_error": Figure(
        "translucency error", "down", 3,
        "how far the translucent share lies outside of the range that the prompt's tag expects",
    ),
    "background_leak": Figure(
        "background leak ×10³", "down", 3, "mean alpha, times 1000, where nothing visible (> 0.05) is near"
    ),
    "alpha_floor": Figure(
        "alpha floor ×10³", "down", 3, "mean alpha, times 1000, of the emptiest tenth of each frame: a veil over all"
    ),
    "alpha_flicker": Figure(
        "alpha flicker ×10³", "down", 2,
        "mean absolute change of alpha along the optical flow, times 1000, over what is visible",
    ),
    "edge_agreement": Figure(
        "RGB/alpha edge agreement", "up", 3,
        "1: the colours show no edge near alpha's boundary that alpha has not; towards 0: a rim of something else",
    ),
    "clip_score": Figure("CLIP score", "up", 2, "100 x cosine of CLIP's text and frame embeddings, mean over frames"),
    "fvd": Figure("FVD", "down", 1, "Fréchet distance of videos to the reference clips in the given network's eyes"),
    "judge_alignment": Figure("judge: text alignment", "up", 2, "1 to 5, by the vision model that was named"),
    "judge_naturalness": Figure("judge: naturalness", "up", 2, "1 to 5, by the vision model that was named"),
}  # fmt: skip


def figure(name: str) -> Figure:
    """The figure called `metric` or `picture/metric`; an unknown one (from elsewhere, such as VBench) as it is."""
    picture, _, metric = name.rpartition("/")
    if metric not in METRICS:
        if name.startswith("vbench_"):
            words = name.removeprefix("vbench_").replace("_", " ")
            return Figure(f"VBench {words}", "up", 4, f"{words}, as VBench measured it on the composites")
        return Figure(name, "none", 4, "")
    found = METRICS[metric]
    if not picture:
        return found
    return Figure(f"{picture} {found.heading}", found.better, found.digits, f"{PICTURES[picture]}: {found.definition}")


def show(name: str, value: float) -> str:
    """A value in the figure's digits; a failed one by its name."""
    if value != value:
        return "NaN"
    return f"{value:.{figure(name).digits}f}"
