"""Decoding RGBA video: memory against length, and seams and memory of tiles.

    python -m benchmarks.decoding                      # a small Wan2.1 form on a CPU
    python -m benchmarks.decoding --base-dim 96 --size 60 104 --device cuda --dtype bfloat16

Random weights.  Memory is the peak above what was there before decoding: on a CPU the resident set of a process of its
own, on a GPU what torch allocated.  `stream` hands every chunk on and forgets it, as a writer of files does; `whole` is
the pass that training uses.  A seam error is the largest difference to the untiled picture, whose range is [-1, 1].
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan

from wan_alpha.models.alpha_vae import AdapterSpec, AlphaVAE
from wan_alpha.models.whole_clip import decode_clip
from wan_alpha.pipeline.codec import RgbaCodec
from wan_alpha.pipeline.tiling import exact_halo

RESULTS = Path(__file__).parent / "results"
LENGTHS = (17, 81, 321)
WHOLE_LENGTHS = (17, 81)  # longer ones only show the same line going on


def codec(args: argparse.Namespace) -> RgbaCodec:
    torch.manual_seed(0)
    base = AutoencoderKLWan(base_dim=args.base_dim)
    vae = AlphaVAE(base.to(args.device, getattr(torch, args.dtype)), AdapterSpec(rank=4)).eval()
    with torch.no_grad():
        for name, parameter in vae.adapter_parameters().items():
            if not name.startswith("merge."):
                parameter.normal_(std=0.02)
    return RgbaCodec(vae)


def latent(args: argparse.Namespace, frames: int, rows: int, columns: int) -> torch.Tensor:
    dtype = getattr(torch, args.dtype)
    return torch.randn(1, 16, 1 + (frames - 1) // 4, rows, columns, device=args.device, dtype=dtype)


@torch.no_grad()
def peak_of(args: argparse.Namespace, way: str, frames: int) -> float:
    """MiB above the start."""
    model = codec(args)
    z = latent(args, frames, *args.size)
    list(model.stream(z[:, :, :2]))  # buffers of the libraries are not the decoder's
    before = _reset_peak(args.device)
    if way == "stream":
        for _ in model.stream(z):
            pass
    elif way == "whole":
        decode_clip(model.alpha_vae.base, z)
    else:
        model.enable_tiling(tile=args.tile, halo=args.halo)
        model.decode(z)
    return round((_peak(args.device) - before) / 2**20, 1)


def _reset_peak(device: str) -> int:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else _status("VmHWM")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


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


def in_own_process(args: argparse.Namespace, way: str, frames: int) -> float:
    command = [sys.executable, "-m", "benchmarks.decoding", "--one", way, str(frames), "--base-dim", str(args.base_dim)]
    command += [
        "--size",
        *map(str, args.size),
        "--device",
        args.device,
        "--dtype",
        args.dtype,
        "--tile",
        str(args.tile),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-dim", type=int, default=16, help="width of the VAE (Wan2.1: 96)")
    parser.add_argument("--size", type=int, nargs=2, default=[8, 8], help="latent rows and columns (480x832: 60 104)")
    parser.add_argument("--tile", type=int, default=16)
    parser.add_argument("--halo", type=int, default=4)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
    if args.one:
        print(peak_of(args, args.one[0], int(args.one[1])))
        return
    memory = {way: {str(n): in_own_process(args, way, n) for n in lengths} for way, lengths in
              (("stream", LENGTHS), ("whole", WHOLE_LENGTHS))}  # fmt: skip
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    result = {
        "base_dim": args.base_dim, "latent": args.size, "dtype": args.dtype, "device": args.device, "tile": args.tile,
        "torch": torch.__version__, "commit": commit.stdout.strip(), "peak_mib_by_frames": memory,
        "seam_error_by_halo": seams(args),
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"decoding_w{args.base_dim}_{args.dtype}_{args.device}.json").write_text(
        json.dumps(result, indent=2) + "\n"
    )
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
