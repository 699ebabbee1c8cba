"""One VAE training step, time and peak memory: ours against the straightforward form.  `make bench`

The straightforward form does what a first implementation does: two copies of the decoder, each with stock two-branch
LoRA, diffusers' frame-by-frame passes through the cache, no checkpointing, and VGG called six times.  Both start from
the same weights, see the same batch and must agree on the loss; they run in turns in one process, in one precision.
Ours stores convolution weights channels-last, as training does, and on a GPU compiles norm and SiLU to one kernel, as
trainer=gpu does; the straightforward form leaves both as they are built.
Peak memory on a CPU is the growth of the resident set in a process of its own for each form.

What to expect, in convolutions per adapted layer: two branches cost 2 + 3 r/C (forward and input gradient of the frozen
one; forward, input and weight gradient of A), the folded form 3, for checkpointing keeps what convolutions give.  At
r/C = 1, as here and at the paper's rank in the widest-open layers, that is 5 against 3; encoder and VGG cost the same
in both, VGG most of all where the model is small.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity

from wan_alpha.losses.alpha import AlphaVAELoss
from wan_alpha.losses.edge import edge_loss
from wan_alpha.losses.reconstruction import l1
from wan_alpha.models.alpha_vae import AdapterSpec, AlphaVAE
from wan_alpha.models.lora import FoldedConvLora, lora_layers
from wan_alpha.models.norms import fuse_norms
from wan_alpha.models.streaming import FeatureCache, chunks, decode_chunks, encode_features_chunk
from wan_alpha.rendering import COLOURS, alpha_to_rgb, hard_render, rgb_to_alpha, soft_render
from wan_alpha.training.build import use_channels_last
from wan_alpha.training.flops import Flops
from wan_alpha.training.memory import LiveBytes

RESULTS = Path(__file__).parent / "results"
FORMS: dict[str, dict] = {
    "wan2.1": {
        "dim_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "temperal_downsample": [False, True, True],
        "z_dim": 16,
    },
    "wan2.2": {
        "dim_mult": [1, 2, 2],
        "num_res_blocks": 1,
        "temperal_downsample": [True, True],
        "z_dim": 48,
        "is_residual": True,
        "patch_size": 2,
        "in_channels": 12,
        "out_channels": 12,
        "scale_factor_spatial": 8,
    },
}


class TwoBranch(nn.Module):
    """LoRA as usually written: conv(x) + s B(A(x)), for causal convolutions with and without a cache."""

    def __init__(self, layer: FoldedConvLora, adapter: str) -> None:
        super().__init__()
        self.base = layer._base()
        self.a, self.b, self.scale = layer.lora_A[adapter], layer.lora_B[adapter], layer.scaling[adapter]

    def forward(self, x: Tensor, cache: Tensor | None = None) -> Tensor:
        base = self.base
        if isinstance(base, nn.Conv2d):
            lora = F.conv2d(x, self.a.weight, None, base.stride, base.padding)
            return base(x) + self.scale * self.b(lora)
        padding = list(base._padding)
        if cache is not None and padding[4] > 0:
            x = torch.cat([cache, x], dim=2)
            padding[4] -= cache.shape[2]
        x = F.pad(x, padding)
        y = F.conv3d(x, base.weight, base.bias, base.stride)
        return y + self.scale * self.b(F.conv3d(x, self.a.weight, None, base.stride))


class Straightforward(nn.Module):
    """The same model and loss, written the obvious way."""

    def __init__(self, ours: AlphaVAE, loss: AlphaVAELoss) -> None:
        super().__init__()
        self.merge, self.loss = ours.merge, loss
        self.encoder = ours.base
        self.decoders = nn.ModuleDict({name: self._decoder(ours.base, name) for name in ("rgb", "alpha")})

    @staticmethod
    def _decoder(base: AutoencoderKLWan, adapter: str) -> nn.Module:
        own = copy.deepcopy(base)
        for name, layer in lora_layers(own.decoder).items():
            parent, _, child = name.rpartition(".")
            setattr(own.decoder.get_submodule(parent), child, TwoBranch(layer, adapter))
        return own

    def encode(self, video: Tensor) -> Tensor:
        cache = FeatureCache(self.encoder.encoder)
        parts = [encode_features_chunk(self.encoder, video[:, :, f], cache) for f in chunks(video.shape[2])]
        return torch.cat(parts, dim=2)

    def forward(self, rgb: Tensor, alpha: Tensor, background: Tensor, canvas: Tensor) -> Tensor:
        features = self.encode(hard_render(rgb, alpha, background)), self.encode(alpha_to_rgb(alpha))
        cache = FeatureCache(self.merge)
        frames = zip(features[0].split(1, dim=2), features[1].split(1, dim=2), strict=True)
        z = torch.cat([self.merge.stream(a, b, cache) for a, b in frames], dim=2)
        video = {name: torch.cat(list(decode_chunks(d, z)), dim=2) for name, d in self.decoders.items()}
        rgb_hat, alpha_hat = video["rgb"], rgb_to_alpha(video["alpha"])
        mask = alpha > 0
        pairs = [
            (alpha_to_rgb(alpha_hat), alpha_to_rgb(alpha)),
            (soft_render(rgb_hat, alpha_hat, canvas), soft_render(rgb, alpha, canvas)),
            (hard_render(rgb_hat, alpha_hat, canvas, mask), hard_render(rgb, alpha, canvas, mask)),
        ]
        return sum(self._terms(pred, target) for pred, target in pairs)

    def _terms(self, pred: Tensor, target: Tensor) -> Tensor:
        perceptual = self.loss.perceptual
        vgg, layers = perceptual.vgg, perceptual.layers
        both = [x.transpose(1, 2).flatten(0, 1) for x in (pred, target)]
        seen, wanted = (vgg(x, layers, perceptual.normalise) for x in both)
        distance = torch.stack([(a - b).abs().mean() for a, b in zip(seen, wanted, strict=True)]).mean()
        return l1(pred, target).mean() + distance + edge_loss(pred, target, "sobel").mean()


def kept_mib(step: Callable[[], Tensor]) -> float:
    """MiB of all tensors that a forward pass leaves alive: what autograd and checkpoints keep for the backward pass."""
    with LiveBytes() as live:
        value = step()
    kept = live.now / 2**20
    del value
    return kept


def tera_flops(step: Callable[[], Tensor]) -> float:
    """TFLOP of one step's convolutions and matrix products, with what checkpointing computes again."""
    with Flops() as counter:
        step().backward()
    return counter.total / 1e12


def build(form: str, width: int, rank: int, device: str) -> tuple[AlphaVAE, AlphaVAELoss]:
    torch.manual_seed(0)
    options = FORMS[form]
    z = options["z_dim"]
    base = AutoencoderKLWan(base_dim=width, latents_mean=[0.0] * z, latents_std=[1.0] * z, **options)
    vae = AlphaVAE(base, AdapterSpec(rank=rank, lora_alpha=rank))
    for name, parameter in vae.adapter_parameters().items():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.01)
    # The paper's perceptual loss, at the level at which training has it.
    return vae.to(device), AlphaVAELoss(perceptual={"layers": ["relu2_2"]}).to(device)


def make_steps(args: argparse.Namespace) -> dict[str, tuple[Callable[[], Tensor], nn.Module]]:
    """Both forms of the step, on one model and one batch, and what each trains."""
    device = args.device
    vae, loss = build(args.form, args.width, args.rank, device)
    plain = Straightforward(copy.deepcopy(vae), loss).to(device)
    shape = (args.batch, args.frames, args.size, args.size)
    generator = torch.Generator().manual_seed(1)
    rgb = torch.rand(shape[0], 3, *shape[1:], generator=generator).to(device) * 2 - 1
    alpha = (torch.rand(shape[0], 1, *shape[1:], generator=generator).to(device) * 2 - 0.5).clamp(0, 1)
    background = canvas = COLOURS[torch.arange(args.batch) % 8].to(device)

    use_channels_last(vae)
    if args.fuse_norms:
        fuse_norms(vae)
    autocast = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=args.precision == "bf16")

    def ours() -> Tensor:
        with autocast:
            return loss(*vae(rgb, alpha, background), rgb, alpha, canvas)[0]

    def straightforward() -> Tensor:
        with autocast:
            return plain(rgb, alpha, background, canvas)

    return {"ours": (ours, vae), "straightforward": (straightforward, plain)}


def peak_growth(name: str, args: argparse.Namespace) -> float:
    """MiB by which one step raises the resident set above what model and batch need (this process, once)."""
    forms = make_steps(args)
    before = memory_kib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts again from here
    time_step(forms[name][0], args.device)
    return (memory_kib("VmHWM") - before) / 1024


def memory_kib(field: str) -> int:
    """One figure of this process's memory, as Linux counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def peak_in_own_process(name: str) -> float:
    """`peak_growth` in a fresh process with the same arguments."""
    command = [sys.executable, "-m", "benchmarks.vae_step", *sys.argv[1:], "--only", name]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def measure(args: argparse.Namespace) -> dict:
    device = args.device
    forms = make_steps(args)
    rows: dict[str, dict] = {name: {"seconds": []} for name in forms}
    for turn in range(args.repeats + 1):
        for name, (step, module) in forms.items():
            module.zero_grad(set_to_none=True)
            seconds, row = time_step(step, device)
            if turn:  # the first turn warms up
                rows[name]["seconds"].append(seconds)
            rows[name].update(row)
    for name, (step, _) in forms.items():
        rows[name]["kept_mib"] = round(kept_mib(step), 1)
        rows[name]["tera_flops"] = round(tera_flops(step), 4)
    a, b = rows["ours"], rows["straightforward"]
    for row in (a, b):
        row["median_seconds"] = statistics.median(row["seconds"])
    ratios = {
        "time": a["median_seconds"] / b["median_seconds"],
        "flops": a["tera_flops"] / b["tera_flops"],
        "activation_memory": a["kept_mib"] / b["kept_mib"],
        "loss_difference": abs(a["loss"] - b["loss"]) / b["loss"],
    }
    if device == "cpu":
        for name, row in rows.items():
            row["peak_mib"] = round(peak_in_own_process(name), 1)
    ratios["peak_memory"] = a["peak_mib"] / b["peak_mib"]
    return {"ours": a, "straightforward": b, "ratios": ratios}


def profile(step: Callable[[], Tensor], device: str) -> str:
    """Which operations a step's time goes to, as torch's profiler has it."""
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    time_step(step, device)  # warms up
    with torch.profiler.profile(activities=kinds) as found:
        time_step(step, device)
    return found.key_averages().table(f"self_{device}_time_total", row_limit=28, max_name_column_width=70)


def time_step(step: Callable[[], Tensor], device: str) -> tuple[float, dict]:
    """Forward and backward: seconds, the loss, and on a GPU the peak."""
    synchronize = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    synchronize()
    # On a CPU that others use too, processor time is what a step costs; on a GPU it is the time that passes.
    clock = time.perf_counter if device == "cuda" else time.process_time
    start = clock()
    value = step()
    value.backward()
    synchronize()
    seconds = clock() - start
    row = {"loss": value.item()}
    if device == "cuda":
        row["peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return seconds, row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--form", choices=FORMS, default="wan2.1")
    parser.add_argument("--width", type=int, default=16, help="base_dim; 96 is Wan2.1")
    parser.add_argument("--rank", type=int, default=16, help="128 is the paper's")
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", choices=("ours", "straightforward"), help="print the peak of one form and stop")
    fusing = {"action": argparse.BooleanOptionalAction, "help": "as trainer.fuse_norms; by default on a GPU"}
    parser.add_argument("--fuse-norms", **fusing)
    parser.add_argument("--profile", action="store_true", help="also write where a step of ours spends its time")
    args = parser.parse_args()
    if args.fuse_norms is None:
        args.fuse_norms = args.device == "cuda"
    if args.only:
        print(peak_growth(args.only, args))
        return
    result = measure(args)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    machine: dict[str, str | int] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    if args.device == "cuda":
        machine["device"] = torch.cuda.get_device_name()
    report = {"settings": vars(args), "commit": commit, "machine": machine, **result}
    RESULTS.mkdir(exist_ok=True)
    unfused = "" if args.fuse_norms == (args.device == "cuda") else f"_{'' if args.fuse_norms else 'un'}fused"
    shape = f"w{args.width}_r{args.rank}_{args.batch}x{args.frames}x{args.size}"
    name = f"vae_step_{args.form}_{shape}_{args.precision}{unfused}_{args.device}"
    (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n")
    if args.profile:
        (RESULTS / f"{name}_profile.txt").write_text(profile(make_steps(args)["ours"][0], args.device))
    print(json.dumps(report["ratios"], indent=2))
    for key in ("ours", "straightforward"):
        row = report[key]
        print(
            f"{key:16s} {row['median_seconds']:.3f} s  {row['kept_mib']:.0f} MiB kept  {row['peak_mib']:.0f} MiB peak"
        )


if __name__ == "__main__":
    main()
