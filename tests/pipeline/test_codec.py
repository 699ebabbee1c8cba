"""Streaming and tiling give the numbers of the whole clip; tiling needs its halo, and no more."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_world import random_vae_adapters
from torch.testing import assert_close

from wan_alpha.models.alpha_vae import AlphaVAE
from wan_alpha.pipeline.codec import RgbaCodec
from wan_alpha.pipeline.tiling import exact_halo, spans

BASES = ["wan21", "wan22"]


@pytest.fixture(params=BASES)
def vae(request: pytest.FixtureRequest, tmp_path: Path) -> AlphaVAE:
    base = request.getfixturevalue(request.param)
    return AlphaVAE.from_pretrained(base, random_vae_adapters(base, tmp_path / "adapters"))


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
