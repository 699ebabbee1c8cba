"""Decoding RGBA video: memory against length, whole frames and tiles, and the seams of tiles.

    python -m benchmarks.decoding --base-dim 8 --size 4 4 --tile 10       # a small Wan2.1 form on a CPU
    python -m benchmarks.decoding --base-dim 96 --size 60 104 --tile 32 --dtype bfloat16 --device meta
    python -m benchmarks.decoding --base-dim 96 --size 60 104 --tile 32 --dtype bfloat16 --device cuda

Random weights.  `stream` hands every chunk on and forgets it, `decode` and `tiled` put finished frames into main
memory, as the pipeline does; `whole` is the pass that training uses, of one decoder.  Memory is the peak above what was
there before.  On the decoding device: what torch allocated on a GPU; elsewhere the bytes of all tensors that the same
operations keep alive, counted on torch's `meta` device, which computes shapes alone (the workspace of a convolution is
not in it).  On a CPU also the resident set of the process: in a process of its own for each length, after one short
decoding that loads libraries and builds caches, with one malloc arena and every block of 64 KiB and more mapped by
itself, so that what is freed goes back to the system and the peak (VmHWM, reset through /proc/self/clear_refs) is that
of the decoding and not of the allocator's habits.  A seam error is the largest difference to the untiled picture, whose
range is [-1, 1].
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from diffusers import AutoencoderKLWan

from wan_alpha.models.alpha_vae import AdapterSpec, AlphaVAE
from wan_alpha.models.whole_clip import decode_clip
from wan_alpha.pipeline import codec as codec_module
from wan_alpha.pipeline import tiling as tiling_module
from wan_alpha.pipeline.codec import RgbaCodec
from wan_alpha.pipeline.tiling import exact_halo
from wan_alpha.training.memory import LiveBytes

RESULTS = Path(__file__).parent / "results"
WHOLE = 81  # frames; longer ones only show the same line going on
GIVES_BACK = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def codec(args: argparse.Namespace) -> RgbaCodec:
    torch.manual_seed(0)
    place = "cuda" if args.device == "cuda" else "cpu"
    base = AutoencoderKLWan(base_dim=args.base_dim)
    vae = AlphaVAE(base.to(place, getattr(torch, args.dtype)), AdapterSpec(rank=4)).eval()
    with torch.no_grad():
        for name, parameter in vae.adapter_parameters().items():
            if not name.startswith("merge."):
                parameter.normal_(std=0.02)
    return RgbaCodec(vae)


def latent(args: argparse.Namespace, frames: int, rows: int, columns: int) -> torch.Tensor:
    dtype = getattr(torch, args.dtype)
    return torch.randn(1, 16, 1 + (frames - 1) // 4, rows, columns, dtype=dtype).to(
        "cuda" if args.device == "cuda" else "cpu"
    )


@contextmanager
def without_numbers() -> Iterator[None]:
    """Inside, what leaves the `meta` device for main memory is made anew there: it has a shape and nothing to copy."""

    def made_anew(x: torch.Tensor, dtype: torch.dtype | None = torch.float32) -> torch.Tensor:
        return torch.empty(x.shape, dtype=dtype or x.dtype)

    with patch.object(codec_module, "to_host", made_anew), patch.object(tiling_module, "to_host", made_anew):
        yield


@torch.no_grad()
def decode(model: RgbaCodec, z: torch.Tensor, way: str, tile: int) -> None:
    if way == "whole":
        decode_clip(model.alpha_vae.base, z)
    elif way == "stream":
        for _ in model.stream(z):
            pass
    else:
        model.tile = tile if way == "tiled" else None
        model.decode(z)
        model.tile = None


def device_peak(args: argparse.Namespace, model: RgbaCodec, way: str, frames: int) -> float:
    """MiB of tensors on the decoding device above the start."""
    z = latent(args, frames, *args.size)
    if args.device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        decode(model, z, way, args.tile)
        peak = torch.cuda.max_memory_allocated() - before
    else:
        with without_numbers(), LiveBytes("meta") as live:
            decode(model, z.to("meta"), way, args.tile)
        peak = live.peak
    return round(peak / 2**20, 2)


def resident_peak(args: argparse.Namespace, way: str, frames: int) -> float:
    """MiB of this process above the start.  Linux only."""
    model, z = codec(args), latent(args, frames, *args.size)
    decode(model, latent(args, 9, *args.size), way, args.tile)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    decode(model, z, way, args.tile)
    return round((_memory("VmHWM") - before) / 1024, 2)


def _memory(field: str) -> int:
    """KiB."""
    found = re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


def resident_in_its_own_process(args: argparse.Namespace, way: str, frames: int) -> float:
    command = [sys.executable, "-m", "benchmarks.decoding", "--base-dim", str(args.base_dim), "--size",
               *map(str, args.size), "--dtype", args.dtype, "--resident-of", way, str(frames)]  # fmt: skip
    return float(subprocess.run(command, env=os.environ | GIVES_BACK, stdout=subprocess.PIPE, check=True).stdout)


@torch.no_grad()
def seams(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The largest difference to the untiled picture, by halo."""
    model = codec(args)
    exact = exact_halo(model.alpha_vae.base)
    z = latent(args, 5, 2 * args.tile + 4, 2 * args.tile)
    whole = model.decode(z)
    rows = []
    for halo in sorted({0, 2, 4, 8, exact}):
        model.enable_tiling(args.tile, halo)
        errors = [float((tiled - plain).abs().max()) for tiled, plain in zip(model.decode(z), whole, strict=True)]
        rows.append({"halo": halo, "exact": halo >= exact, "rgb": errors[0], "alpha": errors[1]})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-dim", type=int, default=16, help="width of the VAE (Wan2.1: 96)")
    parser.add_argument("--size", type=int, nargs=2, default=[8, 8], help="latent rows and columns (480x832: 60 104)")
    parser.add_argument("--tile", type=int, default=16)
    parser.add_argument("--lengths", type=int, nargs="+", default=[17, 81, 321], help="frames")
    parser.add_argument("--device", choices=["cpu", "cuda", "meta"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--resident-of", nargs=2, metavar=("WAY", "FRAMES"), help="print one figure, for the parent")
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
    if args.resident_of:
        print(resident_peak(args, args.resident_of[0], int(args.resident_of[1])))
        return
    model = codec(args)
    error = None if args.device == "meta" else seams(args)
    short = [n for n in args.lengths if n <= WHOLE]
    ways = {"decode": args.lengths, "tiled": args.lengths, "whole": short}
    if args.device != "cuda":
        model = model.to("meta")
    memory = {way: {str(n): device_peak(args, model, way, n) for n in lengths} for way, lengths in ways.items()}
    resident = None if args.device != "cpu" else {
        way: {str(n): resident_in_its_own_process(args, way, n) for n in lengths}
        for way, lengths in (("stream", args.lengths), ("whole", short))
    }  # fmt: skip
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    result = {
        "base_dim": args.base_dim, "latent": args.size, "dtype": args.dtype, "device": args.device, "tile": args.tile,
        "torch": torch.__version__, "commit": commit.stdout.strip(), "device_peak_mib_by_frames": memory,
        "resident_peak_mib_by_frames": resident,
        "seam_error_by_halo": error,
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"decoding_w{args.base_dim}_{args.dtype}_{args.device}.json").write_text(
        json.dumps(result, indent=2) + "\n"
    )
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
