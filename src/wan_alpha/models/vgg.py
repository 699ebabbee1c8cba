"""VGG16's convolutional trunk (Simonyan & Zisserman 2015), the eyes of the perceptual loss and of LPIPS.

Module and key names are torchvision's (`features.N.weight`), so its files load as they are, and torchvision itself is
not needed.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from wan_alpha.models.assets import asset

# Index in `features` of the last activation of each of the five resolutions.
TAPS = {"relu1_2": 3, "relu2_2": 8, "relu3_3": 15, "relu4_3": 22, "relu5_3": 29}

BUNDLED = "vgg16/vgg16_conv3_3.safetensors"
IMAGENET_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
IMAGENET_SHA256 = "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"

_POOLS = (4, 9, 16, 23)
_WIDTHS = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512)


class VGG16(nn.Module):
    """The trunk up to one activation, frozen.

    Args:
        until: name of the deepest activation that will be asked for; nothing behind it is built.
    """

    def __init__(self, until: str = "relu3_3") -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in _WIDTHS:
            if isinstance(width, str):
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
        self.features = nn.Sequential(*layers[: _tap(until) + 1])
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, pictures: Tensor, taps: Sequence[str], normalise: bool = True) -> list[Tensor]:
        """Activations of a batch of pictures.

        Args:
            pictures: (N, 3, H, W) in [-1, 1].
            taps: names out of `TAPS`, in any order.
            normalise: bring them to the mean and deviation of ImageNet, which is what the weights expect. Without it
                they go in as [0, 1].

        Returns:
            One (N, C, H / 2^k, W / 2^k) per tap, in the precision of the weights, in the order of `taps`.

        Raises:
            ValueError: for an unknown tap, one behind the end of this trunk, or pictures it cannot see.
        """
        last = max(_tap(name) for name in taps)
        if last >= len(self.features):
            raise ValueError(f"VGG16 was built up to features.{len(self.features) - 1}, {list(taps)} ask for {last}")
        if pictures.dim() != 4 or pictures.shape[1] != 3:
            raise ValueError(f"VGG16: expected pictures (N, 3, H, W), got {tuple(pictures.shape)}")
        if min(pictures.shape[-2:]) < (smallest := 2 ** sum(index < last for index in _POOLS)):
            raise ValueError(
                f"VGG16: {list(taps)} need pictures of at least {smallest} px, got {tuple(pictures.shape[-2:])}"
            )
        x = (pictures.to(self.mean.dtype) + 1) / 2
        if normalise:
            x = (x - self.mean) / self.std
        kept: dict[int, Tensor] = {}
        for index in range(last + 1):
            x = kept[index] = self.features[index](x)
        return [kept[TAPS[name]] for name in taps]


def load_vgg16(weights: str | Path = "bundled", until: str = "relu3_3") -> VGG16:
    """The trunk with weights.

    Args:
        weights: "bundled": the shipped half-precision file, which ends at relu3_3 and is ImageNet-pretrained but
            slightly fine-tuned for crowd counting (see assets/vgg16/README.md). "imagenet": torchvision's own file,
            fetched once (528 MB) and checked against its sha256. Or a path to a .safetensors or .pth file with
            torchvision's keys.
        until: name of the deepest activation that will be asked for.

    Raises:
        ValueError: if the file does not reach `until`, or is not VGG16.
        FileNotFoundError, OSError: if the file is missing, cannot be fetched or is damaged.
    """
    if weights == "bundled":
        path, advice = asset(BUNDLED), 'use weights="imagenet", or a shallower layer'
    elif weights == "imagenet":
        path, advice = _fetch_imagenet(), "the download is complete: please report this"
    else:
        path, advice = Path(weights), "expected torchvision's keys features.N.weight and features.N.bias"
    state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    model = VGG16(until)
    wanted = model.state_dict()
    if missing := [key for key in wanted if key not in state]:
        raise ValueError(f"VGG16 up to {until}: {path} has no {missing[0]} ({len(missing)} keys missing); {advice}")
    model.load_state_dict({key: state[key] for key in wanted})
    return model


def _tap(name: str) -> int:
    if name not in TAPS:
        raise ValueError(f"unknown VGG16 activation {name!r}; known: {', '.join(TAPS)}")
    return TAPS[name]


def _fetch_imagenet() -> Path:
    """torchvision's file in torch.hub's cache, downloaded when absent, its sha256 checked either way."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / IMAGENET_URL.rpartition("/")[2]
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(IMAGENET_URL, str(path), hash_prefix=IMAGENET_SHA256)
        except OSError as error:
            raise OSError(
                f"VGG16: cannot fetch {IMAGENET_URL} ({error}). Without a network, copy that file to {path}, or use "
                'the weights that are shipped: weights="bundled"'
            ) from error
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != IMAGENET_SHA256:
        raise OSError(f"VGG16: {path} has sha256 {found}, expected {IMAGENET_SHA256}: delete it and fetch it again")
    return path
