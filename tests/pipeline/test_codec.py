"""Streaming and tiling give the numbers of the whole clip; tiling needs its halo, and no more."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_world import random_base, random_vae_adapters
from torch.testing import assert_close

from benchmarks.decoding import without_numbers
from wan_alpha.models.alpha_vae import AdapterSpec, AlphaVAE
from wan_alpha.models.tiny_decoder import TinyDecoder
from wan_alpha.pipeline.codec import RgbaCodec
from wan_alpha.pipeline.loading import PreviewError
from wan_alpha.pipeline.tiling import exact_halo, spans
from wan_alpha.training.memory import LiveBytes

BASES = ["wan21", "wan22"]


@pytest.fixture(params=BASES)
def vae(request: pytest.FixtureRequest, tmp_path: Path) -> AlphaVAE:
    base = request.getfixturevalue(request.param)
    return AlphaVAE.from_pretrained(base, random_vae_adapters(base, tmp_path / "adapters"))


@pytest.mark.parametrize("way", ["decode", "tiled", "preview"])
def test_device_memory_does_not_grow_with_the_clip(way: str) -> None:
    """On the decoding device 17 frames need no more than 9, but for the latent: finished frames leave it at once.

    That device is torch's `meta` here, which computes shapes alone, so what leaves it is made anew.
    """
    codec = RgbaCodec(AlphaVAE(random_base("wan21"), AdapterSpec(rank=2))).to("meta")
    if way == "tiled":
        codec.enable_tiling(4, 1)
    if way == "preview":
        codec.use_preview(TinyDecoder(4, (8, 6, 5, 4)))
    peaks = {}
    for length in (3, 5):
        z = torch.empty(1, 4, length, 4, 8, device="meta")
        with without_numbers(), LiveBytes("meta") as live:
            rgb, alpha = codec.decode(z)
        assert (rgb.device.type, rgb.shape[2], alpha.dtype) == ("cpu", 4 * length - 3, torch.float32)
        peaks[length] = live.peak - 2 * z.nbytes  # normalised and through the post-quant convolution
    assert peaks[3] > 10_000
    assert peaks[5] <= peaks[3] + 1024


def test_a_preview_decoder_stands_in_for_both(caplog: pytest.LogCaptureFixture) -> None:
    codec = RgbaCodec(AlphaVAE(random_base("wan21"), AdapterSpec(rank=2)))
    z = torch.randn(2, 4, 3, 2, 3)
    torch.manual_seed(0)
    tiny = TinyDecoder(4, (8, 6, 5, 4), channels=4)
    codec.use_preview(tiny)
    rgb, alpha = codec.decode(z)
    pictures = torch.cat(list(tiny.stream(codec.alpha_vae.normalize(z))), dim=2)
    assert_close(rgb, 2 * pictures[:, :3] - 1)
    assert_close(alpha, pictures[:, 3:])
    assert alpha.shape == (2, 1, 9, 16, 24)
    assert caplog.text == ""
    codec.use_preview(TinyDecoder(4, (8, 6, 5, 4)))
    assert codec.decode(z)[1].min() == 1
    assert "knows colour alone" in caplog.text
    codec.use_preview(None)
    assert not torch.allclose(codec.decode(z)[0], rgb, atol=1e-2)
    for wrong in (TinyDecoder(16, (8, 6, 5, 4)), TinyDecoder(4, (8, 6, 5, 4), patch=2)):
        with pytest.raises(PreviewError, match="this base has 4 and 8: take the file made for it"):
            codec.use_preview(wrong)


@pytest.mark.parametrize("merge", [True, False])
def test_stream_is_the_whole_clip(vae: AlphaVAE, merge: bool) -> None:
    z = torch.randn(1, vae.base.config["z_dim"], 3, 4, 5)
    with torch.no_grad():
        rgb, alpha = vae.decode(z, streaming=False)
    chunks = list(RgbaCodec(vae, merge).stream(z))
    assert [chunk[0].shape[2] for chunk in chunks] == [1, 4, 4]
    assert_close(torch.cat([c[0] for c in chunks], 2), rgb.clamp(-1, 1), rtol=0, atol=1e-5)
    assert_close(torch.cat([c[1] for c in chunks], 2), alpha.clamp(0, 1), rtol=0, atol=1e-5)


def test_tiles_have_no_seams(vae: AlphaVAE) -> None:
    """Exact with the full halo; with a smaller one there is an error, so the halo is not larger than needed."""
    codec = RgbaCodec(vae)
    halo = exact_halo(vae.base)
    z = torch.randn(1, vae.base.config["z_dim"], 2, 2 * halo + 3, 5)
    whole = codec.decode(z)
    codec.enable_tiling(tile=5)
    for tiled, plain in zip(codec.decode(z), whole, strict=True):
        assert_close(tiled, plain, rtol=0, atol=2e-5)
    codec.enable_tiling(tile=5, halo=0)
    assert (codec.decode(z)[0] - whole[0]).abs().max() > 1e-3
    codec.disable_tiling()
    assert torch.equal(codec.decode(z)[0], whole[0])


def test_the_exact_halo_of_wan21() -> None:
    """6 + 7/2 + 7/4 + 8/8 latent cells, counted by hand for 2 residual blocks and 4 stages."""

    class Vae:
        config = {"dim_mult": [1, 2, 4, 4], "num_res_blocks": 2}  # noqa: RUF012

    assert exact_halo(Vae()) == 13  # type: ignore[arg-type]


def test_spans_cover_everything_once() -> None:
    for length, tile, halo in ((10, 4, 2), (4, 4, 3), (1, 8, 0), (9, 1, 20)):
        kept = [cell for span in spans(length, tile, halo) for cell in range(length)[span.keep]]
        assert kept == list(range(length))
        assert all(
            0 <= s.read.start <= s.keep.start < s.keep.stop <= s.read.stop <= length for s in spans(length, tile, halo)
        )


def test_tiles_of_no_size_are_refused(vae: AlphaVAE) -> None:
    with pytest.raises(ValueError, match="at least 1 latent cell"):
        RgbaCodec(vae).enable_tiling(0)
