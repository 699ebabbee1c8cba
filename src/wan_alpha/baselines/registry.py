"""From a path to a system, by what lies there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from wan_alpha.baselines.interface import Codec, Generator, Sampling, UnknownSystemError
from wan_alpha.baselines.kinds import load_trained_vae
from wan_alpha.baselines.ours import CeilingCodec, FloorCodec, RgbaVAECodec
from wan_alpha.lineage import Kind
from wan_alpha.models.adapters import AdapterError, locate_adapters
from wan_alpha.models.alpha_vae import AlphaVAE

REFERENCES: dict[str, Callable[[AlphaVAE], Codec]] = {"ceiling": CeilingCodec, "floor": FloorCodec}
REFERENCE_NOTES = {
    "ceiling": "the frozen base with two latents, one for the hard render and one for alpha",
    "floor": "the frozen base with one latent; alpha ignored, everything opaque",
}


def load_codec(base: str, path: str, device: torch.device, dtype: torch.dtype = torch.float32) -> Codec:
    """The codec whose files lie at `path` (a directory, a run, or a shipped name), on the base it was trained on.

    Raises:
        UnknownSystemError: nothing lies there.
        BaseError, AdapterError: see `load_trained_vae`.
    """
    try:
        locate_adapters(path)
    except AdapterError:
        raise UnknownSystemError(
            f"{Path(path)}: expected adapters of stage=vae, an exported directory or a run; found neither"
        ) from None
    return RgbaVAECodec(load_trained_vae(base, path, dtype).to(device))


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


Trained = dict[Path, Kind]
"""Folders of adapters, and single files, with what they are."""


@dataclass(frozen=True)
class Baseline:
    """A generator by its name.

    Attributes:
        load: (what stands behind `NAME=`, setting) -> the generator.
        trained: what stands behind `NAME=` -> what was trained for it.
    """

    load: Callable[[str, Setting], Generator]
    trained: Callable[[str], Trained] = lambda argument: {}


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


def _rgba_vae(argument: str, setting: Setting) -> Generator:
    from wan_alpha.baselines.kinds import load_latent_codec
    from wan_alpha.baselines.wan_sampler import LatentGenerator
    from wan_alpha.interop.adapter_files import find_adapters
    from wan_alpha.models.dit_adapters import load_dit_adapters, merge_dit_adapters

    files = find_adapters(argument or None)
    if files.vae is None or files.dit is None:
        raise UnknownSystemError(
            f"rgba_vae={argument}: give a run of stage=dit, rgba_vae=RUN, whose adapters/ holds the VAE and the DoRA"
        )
    sampler = setting.sampler(load_latent_codec(setting.base, files.vae))
    load_dit_adapters(sampler.transformer, files.dit)
    merge_dit_adapters(sampler.transformer)
    return LatentGenerator(sampler)


def _transpixeler(argument: str, setting: Setting) -> Generator:
    from wan_alpha.baselines.transpixeler import TransPixelerGenerator

    base, comma, weights = argument.partition(",")
    if not comma:
        raise UnknownSystemError("transpixeler: give transpixeler=COGVIDEOX_DIR,WEIGHTS_FILE")
    sampling = sampling_with("transpixeler", setting)
    return TransPixelerGenerator.load(base, weights, sampling, setting.device, setting.dtype)


def _paired_adapters(argument: str) -> Trained:
    from wan_alpha.baselines.paired_tokens import locate_paired

    return {_exported(locate_paired(argument), argument): "dit-adapters"} if argument else {}


def _transpixeler_weights(argument: str) -> Trained:
    weights = argument.partition(",")[2]
    return {Path(weights): "dit-adapters"} if Path(weights).is_file() else {}


def _adapters(argument: str) -> Trained:
    from wan_alpha.interop.adapter_files import find_adapters

    files = find_adapters(argument or None)
    vae: Trained = {} if files.vae is None else {_exported(files.vae, argument): "vae-adapters"}
    # The adapters of a run of stage=dit hold the VAE's, too, and are one thing: what that run has made.
    return vae | {_exported(f, argument): "dit-adapters" for f in (files.dit, files.dit_2, files.distill) if f}


def _exported(part: Path, given: str) -> Path:
    """The folder that a part was exported to, unless the file itself was given."""
    return part if part.is_dir() or Path(given).is_file() else part.parent


GENERATORS: dict[str, Baseline] = {
    "matting": Baseline(_matting),
    "alfie": Baseline(_alfie),
    "paired": Baseline(_paired, _paired_adapters),
    "rgba_vae": Baseline(_rgba_vae, _adapters),
    "transpixeler": Baseline(_transpixeler, _transpixeler_weights),
}


def trained_for(system: str) -> Trained:
    """What was trained for a system, be it a baseline or adapters of the project's own.

    Raises:
        AdapterError: there are no such adapters.
    """
    name, _, argument = system.partition("=")
    return GENERATORS[name].trained(argument) if name in GENERATORS else _adapters(system)


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
    return GENERATORS[name].load(argument, setting)
