"""From a path to a system, by what lies there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from wan_alpha.baselines.four_channel import FourChannelVAE
from wan_alpha.baselines.interface import Codec, Generator, Sampling, UnknownSystemError
from wan_alpha.baselines.latent_offset import LatentOffsetVAE
from wan_alpha.baselines.ours import CeilingCodec, FloorCodec, RgbaVAECodec
from wan_alpha.models.adapters import AdapterError, adapter_kind, locate_adapters
from wan_alpha.models.alpha_vae import AlphaVAE

VAES: dict[str, type[AlphaVAE] | type[LatentOffsetVAE] | type[FourChannelVAE]] = {
    vae.kind: vae for vae in (AlphaVAE, LatentOffsetVAE, FourChannelVAE)
}
"""What stage=vae trains, by the kind that adapter files name."""

REFERENCES: dict[str, Callable[[AlphaVAE], Codec]] = {"ceiling": CeilingCodec, "floor": FloorCodec}
REFERENCE_NOTES = {
    "ceiling": "the frozen base with two latents, one for the hard render and one for alpha",
    "floor": "the frozen base with one latent; alpha ignored, everything opaque",
}


def load_codec(base: str, path: str, device: torch.device, dtype: torch.dtype = torch.float32) -> Codec:
    """The codec whose files lie at `path` (a directory, a run, or a shipped name), on the base it was trained on.

    Raises:
        UnknownSystemError: nothing that is known lies there.
    """
    try:
        locate_adapters(path)
    except AdapterError:
        raise UnknownSystemError(
            f"{Path(path)}: expected adapters of stage=vae, an exported directory or a run; found neither"
        ) from None
    kind = adapter_kind(path)
    if kind not in VAES:
        raise UnknownSystemError(f"{Path(path)}: adapters of kind {kind}; this version knows {', '.join(VAES)}")
    return RgbaVAECodec(VAES[kind].from_pretrained(base, path, dtype).to(device))


def load_reference(name: str, base: str, device: torch.device, dtype: torch.dtype = torch.float32) -> Codec:
    """What the frozen base does by itself: "ceiling" or "floor"."""
    return REFERENCES[name](AlphaVAE.from_pretrained(base, None, dtype).to(device))


# ----- generators -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """What a generator is loaded with: the base, how it samples, where it works.

    Attributes:
        asked: of `sampling`, what the user gave; a generator with a base of its own has its own values for the rest.
    """

    base: str
    sampling: Sampling
    device: torch.device
    dtype: torch.dtype = torch.float32
    asked: dict[str, Any] = field(default_factory=dict)

    def sampler(self, codec: Any = None) -> Any:
        """The plain base as a `WanSampler`, or with a codec of its own."""
        from wan_alpha.baselines.wan_sampler import WanSampler

        return WanSampler(self.base, self.sampling, self.device, self.dtype, codec)


# A generator is imported when it is asked for: codecs need none of it.
def _matting(argument: str, setting: Setting) -> Generator:
    from wan_alpha.baselines.matting import MattingGenerator, colour_key, load_matting

    return MattingGenerator(setting.sampler(), load_matting(argument) if argument else colour_key)


def _alfie(argument: str, setting: Setting) -> Generator:
    from wan_alpha.baselines.alfie import AlfieGenerator

    if argument:
        raise UnknownSystemError(f"alfie={argument}: alfie takes nothing")
    return AlfieGenerator(setting.sampler())


def _paired(argument: str, setting: Setting) -> Generator:
    from wan_alpha.baselines.paired_tokens import PairedCodec, load_paired
    from wan_alpha.baselines.wan_sampler import LatentGenerator
    from wan_alpha.models.base import load_vae

    if not argument:
        raise UnknownSystemError("paired: give the run that trained it, paired=RUN")
    sampler = setting.sampler(PairedCodec(load_vae(setting.base)))
    load_paired(sampler.transformer, argument)
    return LatentGenerator(sampler)


def _transpixeler(argument: str, setting: Setting) -> Generator:
    from wan_alpha.baselines.transpixeler import TransPixelerGenerator

    base, comma, weights = argument.partition(",")
    if not comma:
        raise UnknownSystemError("transpixeler: give transpixeler=COGVIDEOX_DIR,WEIGHTS_FILE")
    sampling = sampling_with("transpixeler", setting)
    return TransPixelerGenerator.load(base, weights, sampling, setting.device, setting.dtype)


GENERATORS: dict[str, Callable[[str, Setting], Generator]] = {
    "matting": _matting,
    "alfie": _alfie,
    "paired": _paired,
    "transpixeler": _transpixeler,
}
"""Name -> (what stands behind `name=`, setting) -> a generator."""


def sampling_with(system: str, setting: Setting) -> Sampling:
    """How a generator samples: TransPixeler's open model has a base of its own, and so published values of its own."""
    from wan_alpha.baselines.transpixeler import PUBLISHED

    own = system.partition("=")[0] == "transpixeler"
    return replace(PUBLISHED, **setting.asked) if own else setting.sampling


def is_generator(system: str) -> bool:
    """Whether `system` names a baseline, `NAME` or `NAME=ARGUMENT`; else it is adapters of the project's own."""
    return system.partition("=")[0] in GENERATORS


def load_generator(system: str, setting: Setting) -> Generator:
    """The baseline that `system` names.

    Raises:
        UnknownSystemError: there is none of that name, or its argument does not fit.
        BaseError, SizeError: see `WanSampler`.
    """
    name, _, argument = system.partition("=")
    if name not in GENERATORS:
        raise UnknownSystemError(f"{system}: no such baseline; there are {', '.join(GENERATORS)}")
    return GENERATORS[name](argument, setting)
