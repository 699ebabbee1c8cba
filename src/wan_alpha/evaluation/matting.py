"""Errors of an alpha matte against the true one, as the matting field measures them (no trimap: the whole picture).

Mattes are (T, H, W) in [0, 1], float.  A figure is taken per frame (or pair of frames) and averaged over the clip; its
name says its scale, because papers differ in it.

    sad_k      sum |a - g| / 1000
    mad_e3     mean |a - g| x 1000
    mse_e3     mean (a - g)^2 x 1000
    grad_k     sum (|grad a| - |grad g|)^2 / 1000, Gaussian derivatives of sigma 1.4 (Rhemann et al. 2009)
    conn_k     sum |phi(a) - phi(g)| / 1000, step 0.1, theta 0.15 (Rhemann et al. 2009)
    dtssd_e2   sqrt(mean (da/dt - dg/dt)^2) x 100 (Erofeev et al. 2015)
    messddt_e3 mean |(a_t - g_t)^2 - (a_t+1 - g_t+1)^2 along the flow of the true clip| x 1000 (Erofeev et al. 2015)
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wan_alpha.evaluation.flow import flow, warp

Matte = npt.NDArray[np.floating]

GRAD_SIGMA = 1.4
CONN_STEPS = 10
CONN_THETA = 0.15


def matting_errors(pred: Matte, true: Matte, colour: npt.NDArray[np.uint8] | None = None) -> dict[str, float]:
    """Every figure of the module's table for one clip.

    Args:
        pred: (T, H, W) in [0, 1].
        true: (T, H, W) in [0, 1].
        colour: the true clip as grey pictures, uint8 (T, H, W), on which MESSDdt's flow is measured; the matte itself
            when absent.

    Returns:
        name -> value; dtssd_e2 and messddt_e3 are NaN for a clip of one frame.

    Raises:
        ValueError: the mattes differ in shape or are not (T, H, W).
    """
    if pred.ndim != 3 or pred.shape != true.shape:
        raise ValueError(f"expected two mattes (T, H, W) of one shape, got {pred.shape} and {true.shape}")
    pred, true = pred.astype(np.float64), true.astype(np.float64)
    difference = np.abs(pred - true)
    pairs = list(zip(pred, true, strict=True))
    return {
        "sad_k": float(difference.sum((1, 2)).mean() / 1e3),
        "mad_e3": float(difference.mean() * 1e3),
        "mse_e3": float(np.square(difference).mean() * 1e3),
        "grad_k": float(np.mean([gradient_error(a, g) for a, g in pairs])),
        "conn_k": float(np.mean([connectivity_error(a, g) for a, g in pairs])),
        "dtssd_e2": dtssd(pred, true),
        "messddt_e3": messddt(pred, true, colour),
    }


def gradient_error(pred: Matte, true: Matte) -> float:
    """sum (|grad pred| - |grad true|)^2 / 1000 of one frame (H, W); the edge pixels are repeated beyond the border."""
    return float(np.square(_gradient(pred) - _gradient(true)).sum() / 1e3)


def _gradient(matte: Matte) -> Matte:
    """Magnitude of the derivative by a separable Gaussian-derivative filter of unit energy."""
    reach = math.ceil(GRAD_SIGMA * math.sqrt(-2 * math.log(math.sqrt(2 * math.pi) * GRAD_SIGMA * 1e-2)))
    x = np.arange(-reach, reach + 1)
    bell = np.exp(-(x**2) / (2 * GRAD_SIGMA**2)) / (GRAD_SIGMA * math.sqrt(2 * math.pi))
    slope = -x * bell / GRAD_SIGMA**2
    energy = math.sqrt(np.square(bell).sum() * np.square(slope).sum())
    halves = []
    for axis in (0, 1):
        smooth = ndimage.convolve1d(matte, bell, axis=1 - axis, mode="nearest")
        halves.append(ndimage.convolve1d(smooth, slope, axis=axis, mode="nearest") / energy)
    return np.hypot(*halves)


def connectivity_error(pred: Matte, true: Matte) -> float:
    """sum |phi(pred) - phi(true)| / 1000 of one frame (H, W).

    l is, per pixel, the highest level at which it still belongs to the largest 4-connected region where both mattes are
    at least that level; phi(a) = 1 - d if d = a - l is at least theta, else 1.
    """
    level = np.full(true.shape, -1.0)
    for step in range(1, CONN_STEPS + 1):
        threshold = step / CONN_STEPS - 1e-9  # 0.3 must reach the level 0.3
        regions, count = ndimage.label((pred >= threshold) & (true >= threshold))
        sizes = np.bincount(regions.ravel(), minlength=count + 1)[1:]
        largest = regions == 1 + int(sizes.argmax()) if count else np.zeros(true.shape, bool)
        level[(level == -1) & ~largest] = (step - 1) / CONN_STEPS
    level[level == -1] = 1.0

    def phi(matte: Matte) -> Matte:
        beyond = matte - level
        return 1 - beyond * (beyond >= CONN_THETA)

    return float(np.abs(phi(pred) - phi(true)).sum() / 1e3)


def dtssd(pred: Matte, true: Matte) -> float:
    """Root of the mean squared difference of temporal differences, per pair of frames, averaged, x 100."""
    if len(true) < 2:
        return math.nan
    wrong = np.diff(pred, axis=0) - np.diff(true, axis=0)
    return float(np.sqrt(np.square(wrong).mean((1, 2))).mean() * 1e2)


def messddt(pred: Matte, true: Matte, colour: npt.NDArray[np.uint8] | None = None) -> float:
    """Mean change of the squared error along the true clip's motion, x 1000; see `matting_errors`."""
    if len(true) < 2:
        return math.nan
    seen = (true * 255).round().astype(np.uint8) if colour is None else colour
    error = np.square(pred - true)
    changes = []
    for t in range(len(true) - 1):
        there = warp(error[t + 1], flow(seen[t], seen[t + 1]))
        changes.append(np.abs(error[t] - there).mean())
    return float(np.mean(changes) * 1e3)
