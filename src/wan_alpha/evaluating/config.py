"""The schema of an evaluation: every key, its type and its range.  `conf/evaluate.yaml` holds the values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Len

from wan_alpha.schema import STRICT, BaseConfig, Count, NonNegative, Positive, Seed
from wan_alpha.training.config import DataConfig, LoggerConfig


@dataclass
class AlignConfig:
    """What to do when systems differ in size, frames per second or length."""

    __pydantic_config__ = STRICT
    how: Literal["refuse", "resample", "native"]  # native measures each as it is
    size: Annotated[list[Count], Len(2, 2)] | None  # height, width; null: the smallest of the systems
    fps: Positive | None  # null: the lowest of the systems
    num_frames: Count | None  # null: the shortest of the systems
    premultiplied: Literal["report", "convert"]  # what looks premultiplied is named, or divided by its alpha


@dataclass
class NetworksConfig:
    """Networks whose weights do not come with the project: null leaves the figure out."""

    __pydantic_config__ = STRICT
    lpips: str | None  # bundled (named lpips3), imagenet (the published metric), a path to a VGG16, or null
    fid: str | None  # vgg (bundled, named rfid_vgg), a TorchScript file (named rfid), or null
    fvd: str | None  # a TorchScript file: uint8 (N, 3, T, H, W) -> (N, D)
    clip: str | None  # a local folder with a CLIP model and its tokenizer, in transformers' layout
    reference: str | None  # a folder of RGBA clips that FVD compares with


@dataclass
class JudgeConfig:
    """A vision model behind an OpenAI-compatible endpoint; off by default."""

    __pydantic_config__ = STRICT
    endpoint: str | None  # such as http://127.0.0.1:8000/v1
    model: str  # its name at the endpoint
    key_variable: str  # name of the environment variable that holds the key
    frames: Count  # shown per video


@dataclass
class SamplingConfig:
    """How `generators` sample; null is what generate.py takes by itself."""

    __pydantic_config__ = STRICT
    num_frames: Count | None  # T = 1 + 4k
    height: Count | None  # pixels
    width: Count | None  # pixels
    num_inference_steps: Count | None  # of the sampler
    guidance_scale: NonNegative | None  # classifier-free guidance; 1: none


@dataclass
class ReportConfig:
    """The HTML report."""

    __pydantic_config__ = STRICT
    players: bool  # put the videos into the page
    height: Count  # of a video in the page, in pixels; larger ones are reduced
    worst: Count  # worst clips shown
    ab: bool  # write the blind A/B page too


@dataclass
class EvaluateConfig:
    """One evaluation."""

    __pydantic_config__ = STRICT
    task: Literal["reconstruction", "generation", "preference"]  # codecs, generated videos, or the votes of people
    out: str  # folder of tables, panels and report
    seed: Seed  # of the bootstrap, of clip windows and of generators
    device: str  # auto, cpu, cuda, cuda:1
    compare: Annotated[list[str], Len(2, 2)] | None  # two finished evaluations
    fail_on_worse: bool  # exit code 1 if the comparison finds something that got worse

    base: BaseConfig
    data: DataConfig
    split: Literal["train", "val"]  # which clips of the data set
    max_clips: Count | None
    adapters: str | None  # a directory, a run, or tiny
    codecs: dict[str, str]  # further codecs: name -> directory or run
    references: list[Literal["ceiling", "floor"]]  # what the frozen base does by itself
    nine_colours: bool  # AlphaVAE's protocol

    videos: dict[str, str]  # system -> folder
    generators: dict[str, str]  # system -> adapters to generate with, or a baseline: matting, alfie, ...
    sampling: SamplingConfig
    prompts: str | None  # bench, transpixeler, or a file
    align: AlignConfig

    networks: NetworksConfig
    judge: JudgeConfig
    vbench: str | None  # a folder: written on the first run, its results read on the next
    votes: list[str]  # task=preference: exported JSON files of the A/B page

    report: ReportConfig
    logger: LoggerConfig
