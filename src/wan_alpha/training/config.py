"""The schema of a run: every key, its type and its range.  `conf/` holds the values.

Plain dataclasses, checked by pydantic after Hydra has composed the tree: unknown keys, wrong types and values out of
range are refused before anything is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Len, MinLen
from pydantic import Field

from wan_alpha.data.captions import CaptionStyle
from wan_alpha.schema import STRICT, BaseConfig, Count, Natural, NonNegative, Positive, Share

Zoom = Annotated[float, Ge(1)]


@dataclass
class SourceConfig:
    """One of several sets that are mixed."""

    __pydantic_config__ = STRICT
    root: str  # as data.root
    weight: Positive = 1.0  # samples from it, relative to the other sets' weights


@dataclass
class BucketConfig:
    """One shape of batches; clips go where aspect ratio, number of frames and size fit best."""

    __pydantic_config__ = STRICT
    num_frames: Count  # T = 1 + 4k
    size: Annotated[list[Count], Len(2, 2)]  # height, width in pixels


@dataclass
class DataConfig:
    """Clips and how a batch is cut from them."""

    __pydantic_config__ = STRICT
    kind: Literal[
        "shards", "clips", "latents"
    ]  # webdataset tars, a folder of RGBA clips, or what data_prep.encode wrote
    root: str | None  # a folder, or for shards also a URL (https://, s3://); null when `sources` says where
    sources: Annotated[list[SourceConfig], MinLen(1)] | None  # several sets, mixed
    num_frames: Count  # T = 1 + 4k
    size: Annotated[list[Count], Len(2, 2)]  # height, width in pixels
    buckets: Annotated[list[BucketConfig], MinLen(1)] | None  # shapes of training batches in place of num_frames, size
    batch_size: Count  # per device
    global_batch: Count | None  # of all devices together, in place of batch_size; null: as many as these make
    frame_stride: Count | Annotated[list[Count], Len(2, 2)]  # take every so-manyth frame; a range draws per sample
    zoom: Annotated[list[Zoom], Len(2, 2)]  # range of the random crop: 2 shows half of the picture's sides
    stills: Literal["smooth", "integer", "static"]  # how a single picture becomes a clip
    colours: Literal["sample", "batch"]  # background colours: one per sample, or one for the whole batch
    flip: bool  # mirror every second sample
    only: list[str]  # captions of the clips to train on; empty: all
    exclude: list[str]  # captions of clips that training must not see
    num_workers: Natural  # processes per device that read ahead; 0: the training process reads
    max_corrupt_share: Share  # of samples that may fail before the run stops
    val_share: Share  # of a `clips` folder that is held out
    premultiplied: Literal["ask", "yes", "no"]  # colours of a `clips` folder: make them straight, or not
    captions: CaptionStyle  # what a sample's text is composed of
    val_clips: Count | None  # validate on the first N held-out clips; null takes all
    val_batch_size: Count  # per device, at validation
    cache_dir: str  # where bytes from URLs are kept
    cache_gb: Positive  # more than this in cache_dir is removed, what was used longest ago first
    fetch: Literal["clips", "shards"]  # from URLs: the bytes of a clip when it is needed, or whole shards


@dataclass
class TrainerConfig:
    """Devices, precision and rhythm; handed to Lightning's Trainer."""

    __pydantic_config__ = STRICT
    accelerator: Literal["auto", "cpu", "gpu", "cuda"]  # what to compute on; auto takes a GPU if there is one
    devices: int | str | list[int]  # per machine: how many, which ([0, 2]), or auto
    num_nodes: Count  # machines
    strategy: str  # auto for one device, ddp for several, fsdp for models that one device does not hold
    context_ranks: Count  # with fsdp and stage=dit: so many devices divide the tokens of a clip
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"]  # auto: bf16 where the device is built for it
    max_steps: Count  # optimiser steps of the run
    accumulate_grad_batches: Count  # batches per optimiser step; multiplies the global batch
    gradient_clip_val: NonNegative  # largest norm of the gradient; 0: not clipped
    log_every_n_steps: Count  # a line on the terminal and a row of metrics.csv; one of the last step, too
    val_every_n_steps: Natural  # and after the last step; 0: no validation
    checkpoint_every_n_steps: Count  # what an interruption loses at most
    keep_checkpoints: Count  # the newest so many; older ones are deleted
    activation_checkpointing: bool  # keep little, compute the rest again in the backward pass
    channels_last: bool  # memory format of convolution weights
    fuse_norms: bool  # of a VAE: norm and SiLU compiled to one kernel
    deterministic: bool  # only algorithms that give the same bits every time
    threads: Natural  # CPU threads; 0 leaves torch's choice
    heartbeat_s: Positive  # of several processes: one that gives no sign of life for so many seconds is lost
    timeout_s: Positive  # of several processes: when none gets on for so many seconds, the run ends


@dataclass
class OptimConfig:
    """AdamW with linear warm-up, constant rate and linear decay over the last part; EMA of what is trained."""

    __pydantic_config__ = STRICT
    lr: Positive  # learning rate between warm-up and decay
    betas: Annotated[list[Share], Len(2, 2)]  # of AdamW
    weight_decay: NonNegative  # of AdamW, decoupled
    warmup_steps: Natural  # the rate rises linearly from zero over so many steps
    decay_share: Share  # the last part of the schedule, over which the rate falls linearly to zero
    schedule_steps: Count | None  # what the schedule is laid out for; null: trainer.max_steps
    ema_decay: Share  # of the exponential moving average of what is trained; 0: none


@dataclass
class MergeConfig:
    """The feature merge block."""

    __pydantic_config__ = STRICT
    init: Literal["base", "random"]  # start exactly at the base's RGB latent, or the paper's random start
    residual_blocks: Count  # of the merge block, with an attention layer between each two


@dataclass
class LoraConfig:
    """The two decoder adapters."""

    __pydantic_config__ = STRICT
    rank: Count  # of the low-rank update of every convolution of the decoder
    alpha: Positive  # the update is scaled by alpha / rank


@dataclass
class AlphaVAEConfig:
    """stage=vae: what is added to the base."""

    __pydantic_config__ = STRICT
    kind: Literal["alpha_vae"]
    merge: MergeConfig
    lora: LoraConfig
    init_from: str | None  # adapters to start from: an exported directory, a run, or tiny; null: fresh ones


@dataclass
class LatentOffsetConfig:
    """stage=vae model=layerdiffuse: a baseline, see `baselines.latent_offset`."""

    __pydantic_config__ = STRICT
    kind: Literal["latent_offset"]
    width: Count  # channels of both networks at their finest level
    identity_weight: NonNegative  # how strongly the base must still decode the latent to the padded picture
    init_from: str | None  # a run or an exported directory of the same model; null: fresh


@dataclass
class FourChannelConfig:
    """stage=vae model=alphavae: a baseline, see `baselines.four_channel`."""

    __pydantic_config__ = STRICT
    kind: Literal["four_channel"]
    kl_weight: NonNegative  # of the divergence to the frozen base's latent
    init_from: str | None  # a run or an exported directory of the same model; null: fresh


@dataclass
class BaseVAEConfig:
    """stage=base: a small Wan VAE trained from scratch; `architecture` goes to diffusers' AutoencoderKLWan."""

    __pydantic_config__ = STRICT
    kind: Literal["base_vae"]
    architecture: dict[str, Any]  # arguments of diffusers' AutoencoderKLWan
    init_from: str | None  # a run of stage=base to continue from, or a path to a VAE
    kl_weight: NonNegative  # of the divergence to a standard normal distribution


@dataclass
class DiTAdapterConfig:
    """What is trained of the transformer."""

    __pydantic_config__ = STRICT
    # full: every weight, and the text encoder's; paired: a baseline, TransPixeler's tokens for alpha
    kind: Literal["dora", "lora", "full", "paired"]
    rank: Count  # of the low-rank update of every adapted linear
    alpha: Positive  # the update is scaled by alpha / rank
    rgb_sees_alpha: bool = True  # kind=paired: false leaves the RGB half exactly as the base makes it


@dataclass
class TimestepsConfig:
    """The distribution of the noise level t in (0, 1), and how much each counts."""

    __pydantic_config__ = STRICT
    kind: Literal["uniform", "logit_normal"]
    shift: Positive | None  # t -> s t / (1 + (s - 1) t); null: as in the base's scheduler
    mean: float  # of logit_normal
    std: Positive  # of logit_normal
    weighting: Literal["none", "bell"]
    range: Annotated[list[Share], Len(2, 2)] | None  # only t from low to high; null: all that model.expert samples


@dataclass
class FreshDiTConfig:
    """A small transformer and text encoder from scratch (adapter.kind=full)."""

    __pydantic_config__ = STRICT
    transformer: dict[str, Any]  # to diffusers' WanTransformer3DModel; channels follow from VAE and text encoder
    text_encoder: dict[str, Any]  # to transformers' UMT5Config; the vocabulary follows from the tokenizer
    flow_shift: Positive  # of the scheduler that ships with it


@dataclass
class SamplesConfig:
    """What a validation generates."""

    __pydantic_config__ = STRICT
    prompts: list[str]  # empty: nothing
    seed: Natural  # of the first prompt; the next has the next
    steps: Count  # of the sampler
    guidance: NonNegative  # classifier-free guidance; 1: none


@dataclass
class FrozenConfig:
    """How the frozen transformer and text encoder are kept."""

    __pydantic_config__ = STRICT
    dtype: Literal["float32", "bfloat16"]
    quantise: Literal["none", "fp8", "nf4"]  # of the transformer, on a GPU: torchao or bitsandbytes
    compile: bool  # the transformer's blocks, on a GPU
    text_on_cpu: bool  # for stored embeddings: the text encoder only makes the empty prompt and those of samples


@dataclass
class AlphaDiTConfig:
    """stage=dit: text to RGBA video."""

    __pydantic_config__ = STRICT
    kind: Literal["alpha_dit"]
    task: Literal["t2v", "i2v"]  # i2v: the first RGBA frame is given; needs an image-to-video base
    expert: Literal["transformer", "transformer_2"]  # which of the base's: Wan2.2-A14B has a second one for low noise
    adapter: DiTAdapterConfig
    vae_adapters: str | None  # of the RGBA VAE: tiny, a run or a directory; null: opaque video through the base alone
    fresh: FreshDiTConfig | None  # null: the base's own transformer
    init_from: str | None  # a run of adapter.kind=full to go on from
    timesteps: TimestepsConfig
    noise: Literal["plain", "shifted"]  # shifted: version 2, another mean away from the object
    caption_dropout: Share  # share of samples that are trained with the empty prompt
    captions: Literal["plain", "varied"]
    frozen: FrozenConfig
    fold_padding: bool  # text padding at the price of one token; exact; for small models
    variants: Natural  # encode so many samples of every clip before training; 0: encode every batch anew
    validation_timesteps: list[float]  # noise levels, 0 to 1, at which held-out clips are measured
    samples: SamplesConfig


@dataclass
class PerceptualConfig:
    """VGG16 feature distance."""

    __pydantic_config__ = STRICT
    weights: str  # bundled, imagenet, or a path
    layers: list[str]  # activations of VGG16 that are compared: relu1_2, relu2_2, relu3_3
    distance: Literal["l1", "mse"]  # between activations
    every: Count  # compare every so-manyth frame, others in the next step
    normalise: bool  # ImageNet statistics, as VGG expects; the authors' code leaves them out


@dataclass
class PriorConfig:
    """Version 2's diffusion prior: L_t2v of a frozen text-to-video transformer."""

    __pydantic_config__ = STRICT
    weight: NonNegative  # the paper's is 0.1; 0: version 1, nothing is loaded
    base: str  # a complete text-to-video base of the same latent space
    ceiling: Positive  # up to where a pushed cell's error counts
    shift: Positive  # of the noise levels
    dtype: Literal["float32", "bfloat16"]  # of the frozen transformer


@dataclass
class LossConfig:
    """L = L_alpha + L_soft + L_hard, each L1 + perceptual + edge."""

    __pydantic_config__ = STRICT
    render: Literal["none", "soft", "soft_hard"]
    hard_mask: Literal["target", "prediction"]
    edge: Literal["sobel", "central"]
    weights: dict[Literal["l1", "mse", "perceptual", "edge", "alpha", "soft", "hard", "rgb"], NonNegative]
    perceptual: PerceptualConfig
    prior: PriorConfig


@dataclass
class WandbConfig:
    """Weights & Biases."""

    __pydantic_config__ = STRICT
    mode: Literal["disabled", "offline", "online"]  # offline: kept in the run directory until you sync it
    project: str  # name of the project
    entity: str | None  # user or team; null: your default
    name: str | None  # of the run; null: the name of the run directory
    tags: list[str]  # of the run


@dataclass
class LoggerConfig:
    """metrics.csv is always written."""

    __pydantic_config__ = STRICT
    wandb: WandbConfig
    tensorboard: bool  # events for TensorBoard in the run directory


@dataclass
class CallbacksConfig:
    """What happens around the steps."""

    __pydantic_config__ = STRICT
    progress: bool  # one line per trainer.log_every_n_steps; with it train/frames_per_second and train/data_wait
    panels: bool
    panel_clips: Count  # held-out clips in a panel
    export_dtype: Literal["float32", "float16", "bfloat16"]
    lpips: str | None  # bundled (named lpips3), imagenet (the published metric) or null


@dataclass
class ClusterConfig:
    """What plan=true counts with; a run itself takes nothing from here."""

    __pydantic_config__ = STRICT
    gpu: (
        Literal["b200", "h200", "h100", "h100-pcie", "a100-80", "a100-40", "l40s", "5090", "4090", "3090"] | None
    )  # kind; null: no times and no cost
    gpus: Count | None  # how many; null: trainer.devices x trainer.num_nodes
    gpus_per_node: Count  # that reach each other by their own link
    network_gbit: Positive  # of one machine to the others, 10^9 bits per second
    mfu: Annotated[float, Gt(0), Le(1)]  # share of the GPU's peak that the step reaches
    price: Positive | None  # of a GPU for an hour, in any currency; null: no cost


@dataclass
class RunConfig:
    """One run."""

    __pydantic_config__ = STRICT
    stage: Literal["base", "vae", "dit"]  # the RGBA VAE, text to video, or a small base from scratch
    seed: Natural  # of all that is random: order, crops, colours, noise, initial weights
    run_dir: str
    ckpt_path: str | None  # auto: continue this run directory if it holds a checkpoint; a path; null: start anew
    base: BaseConfig
    data: DataConfig
    trainer: TrainerConfig
    optim: OptimConfig
    model: Annotated[
        AlphaVAEConfig | BaseVAEConfig | AlphaDiTConfig | LatentOffsetConfig | FourChannelConfig,
        Field(discriminator="kind"),
    ]
    loss: LossConfig | None
    logger: LoggerConfig
    callbacks: CallbacksConfig
    cluster: ClusterConfig
    objective: str | None = None  # a column of metrics.csv; its last value is what a sweep by Optuna gets
    plan: bool = False  # say what the run is going to need, and stop
    note: str = ""  # for experiment files: what this is for
