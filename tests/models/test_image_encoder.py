"""CLIP's features of a first frame: those of diffusers, the same in training and in the pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import WanImageToVideoPipeline
from PIL import Image
from small_dit_base import CLIP_TOKENS, write_complete_base, write_image_transformer

from wan_alpha import AlphaWanPipeline
from wan_alpha.models.base import BaseError
from wan_alpha.models.dit import load_transformer
from wan_alpha.models.folded_text import fold_text
from wan_alpha.models.image_encoder import ImageEncoder, first_pictures, wants_features
from wan_alpha.models.text import TextEncoder
from wan_alpha.pipeline.image_to_video import condition


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_complete_base(tmp_path_factory.mktemp("clip"), adapters=True)
    return write_image_transformer(root, clip=True)


@pytest.fixture(scope="module")
def pipe(base: Path) -> AlphaWanPipeline:
    made = AlphaWanPipeline.from_pretrained(base, base)
    made.set_progress_bar_config(disable=True)
    return made


def picture(alpha: bool = True) -> Image.Image:
    pixels = torch.randint(0, 256, (32, 32, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy()) if alpha else Image.fromarray(pixels[..., :3].contiguous().numpy())


def test_features_are_those_of_diffusers(pipe: AlphaWanPipeline) -> None:
    theirs = WanImageToVideoPipeline(
        pipe.tokenizer, pipe.text_encoder, pipe.vae.alpha_vae.base, pipe.scheduler, pipe.image_processor,
        pipe.image_encoder, pipe.transformer,
    )  # fmt: skip
    ours = ImageEncoder(pipe.image_processor, pipe.image_encoder)
    found = ours([picture(alpha=False)])
    assert found.shape == (1, CLIP_TOKENS, 8)
    with torch.no_grad():
        torch.testing.assert_close(found, theirs.encode_image(picture(alpha=False)))
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    torch.testing.assert_close(ours([clear]), ours([Image.new("RGB", (32, 32), "white")]))


def test_the_pipeline_sees_what_training_sees(base: Path, pipe: AlphaWanPipeline) -> None:
    pixels = torch.frombuffer(bytearray(picture().tobytes()), dtype=torch.uint8).view(32, 32, 4).permute(2, 0, 1) / 255
    rgb = (pixels[:3] * 2 - 1)[None, :, None].repeat(1, 1, 5, 1, 1)
    alpha = pixels[3:][None, :, None].repeat(1, 1, 5, 1, 1)
    assert first_pictures(rgb, alpha)[0].tobytes() == picture().tobytes()
    given = condition(pipe, picture(), 5, 32, 32)
    assert given is not None
    assert given.image_embeds is not None
    torch.testing.assert_close(given.image_embeds, ImageEncoder.from_pretrained(base)(first_pictures(rgb, alpha)))


def test_features_have_a_part_in_the_video(pipe: AlphaWanPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def video() -> torch.Tensor:
        size = {"num_frames": 5, "height": 32, "width": 32, "num_inference_steps": 2, "guidance_scale": 2.0}
        return pipe("disc1", image=picture(), output_type="latent", **size)

    seen = video()
    assert seen.isfinite().all()
    monkeypatch.setattr(ImageEncoder, "forward", lambda self, pictures: torch.zeros(1, CLIP_TOKENS, 8))
    assert (video() - seen).abs().max() > 1e-4


def test_folded_padding_leaves_the_features_alone(base: Path) -> None:
    """As `test_folded_padding_changes_nothing`, for a transformer that finds CLIP's tokens before the text."""
    text, transformer = TextEncoder.from_pretrained(base), load_transformer(base)
    z, t, image = torch.randn(2, 16, 2, 4, 4), torch.tensor([100.0, 900.0]), torch.randn(2, CLIP_TOKENS, 8)
    with torch.no_grad():
        full, short = text(["a red parrot", ""], pad_to=512), text(["a red parrot", ""])
        expected = transformer(z, t, full.embeddings, image, return_dict=False)[0]
        without = transformer(z, t, full.embeddings, 0 * image, return_dict=False)[0]
        fold_text(transformer).weigh(short)
        found = transformer(z, t, short.embeddings, image, return_dict=False)[0]
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
    assert (without - expected).abs().max() > 1e-4  # otherwise this could not fail


def test_which_bases_want_them(base: Path, wan22: Path, tmp_path: Path) -> None:
    assert wants_features(base)
    assert not wants_features(wan22)  # a VAE alone
    assert not wants_features(write_image_transformer(write_complete_base(tmp_path)))
    with pytest.raises(BaseError, match="also wants CLIP features"):
        ImageEncoder.from_pretrained(tmp_path)
