"""The VGG16 trunk: its layout, its three sources of weights, and what it refuses."""

import hashlib
import io
import zipfile

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.nn import functional as F

from data_prep import vgg16 as recipe
from wan_alpha.models import assets, vgg
from wan_alpha.models.assets import asset
from wan_alpha.models.vgg import BUNDLED, TAPS, VGG16, load_vgg16


def test_the_full_trunk_has_the_layout_of_torchvision():
    state = VGG16("relu5_3").state_dict()
    convolutions = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    assert list(state) == [f"features.{i}.{part}" for i in convolutions for part in ("weight", "bias")]
    assert sum(tensor.numel() for tensor in state.values()) == 14_714_688  # published size of VGG16's convolutions


def test_taps_are_rectified_and_halve_their_size_level_by_level():
    model = VGG16("relu5_3")
    features = model(torch.rand(2, 3, 32, 48) * 2 - 1, list(TAPS))
    assert [tuple(f.shape) for f in features] == [
        (2, 64, 32, 48),
        (2, 128, 16, 24),
        (2, 256, 8, 12),
        (2, 512, 4, 6),
        (2, 512, 2, 3),
    ]
    assert all((f >= 0).all() for f in features)


def test_first_tap_is_two_rectified_convolutions_of_the_normalised_picture():
    model = load_vgg16()
    picture = torch.rand(1, 3, 8, 8) * 2 - 1
    weights = model.state_dict()
    x = (picture / 2 + 0.5 - torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).reshape(3, 1, 1)
    for index in (0, 2):
        x = F.conv2d(x, weights[f"features.{index}.weight"], weights[f"features.{index}.bias"], padding=1).relu()
    torch.testing.assert_close(model(picture, ["relu1_2"])[0], x)
    unnormalised = picture / 2 + 0.5
    for index in (0, 2):
        w, b = weights[f"features.{index}.weight"], weights[f"features.{index}.bias"]
        unnormalised = F.conv2d(unnormalised, w, b, padding=1).relu()
    torch.testing.assert_close(model(picture, ["relu1_2"], normalise=False)[0], unnormalised)


def test_taps_come_in_the_order_asked_for():
    model = load_vgg16()
    picture = torch.rand(1, 3, 8, 8)
    deep, shallow = model(picture, ["relu3_3", "relu1_2"])
    assert (deep.shape[1], shallow.shape[1]) == (256, 64)


def test_nothing_is_trained():
    model = load_vgg16()
    assert not any(parameter.requires_grad for parameter in model.parameters())
    picture = torch.rand(1, 3, 8, 8, requires_grad=True)
    model(picture, ["relu3_3"])[0].sum().backward()
    assert picture.grad.abs().sum() > 0


def test_bundled_file_says_what_it_is_and_is_small():
    path = asset(BUNDLED)
    assert path.stat().st_size < 3.6e6
    with safe_open(path, "pt") as file:
        assert "crowd counting" in file.metadata()["note"]
        assert file.get_tensor("features.14.weight").dtype == torch.float16


def test_bundled_weights_refuse_deeper_layers_and_say_what_to_do():
    with pytest.raises(ValueError, match=r"VGG16 up to relu4_3: .* has no features\.17\.weight.*weights=\"imagenet\""):
        load_vgg16("bundled", until="relu4_3")


def test_a_path_is_read_without_unpickling_code(tmp_path):
    model = VGG16("relu1_2")
    torch.save(model.state_dict(), tmp_path / "good.pth")
    loaded = load_vgg16(tmp_path / "good.pth", until="relu1_2")
    assert torch.equal(loaded.features[2].weight, model.features[2].weight)
    torch.save(model, tmp_path / "object.pth")
    with pytest.raises(Exception, match="Weights only load failed"):
        load_vgg16(tmp_path / "object.pth", until="relu1_2")


def test_wrong_use_is_named():
    with pytest.raises(ValueError, match="unknown VGG16 activation 'conv3'; known: relu1_2, "):
        VGG16("conv3")
    shallow = VGG16("relu1_2")
    with pytest.raises(ValueError, match=r"built up to features\.3, \['relu2_2'\] ask for 8"):
        shallow(torch.rand(1, 3, 8, 8), ["relu2_2"])
    with pytest.raises(ValueError, match=r"expected pictures \(N, 3, H, W\), got \(1, 3, 2, 8, 8\)"):
        shallow(torch.rand(1, 3, 2, 8, 8), ["relu1_2"])
    with pytest.raises(ValueError, match=r"need pictures of at least 4 px, got \(3, 8\)"):
        VGG16("relu3_3")(torch.rand(1, 3, 3, 8), ["relu3_3"])


def test_imagenet_without_network_says_where_to_put_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(vgg, "IMAGENET_URL", "http://127.0.0.1:9/vgg16-397923af.pth")
    with pytest.raises(OSError, match=r"cannot fetch .*copy that file to .*vgg16-397923af\.pth.*weights=\"bundled\""):
        load_vgg16("imagenet")


def test_imagenet_file_is_checked_against_its_sha256(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    path = tmp_path / "checkpoints" / "vgg16-397923af.pth"
    path.parent.mkdir()
    model = VGG16("relu1_2")
    torch.save(model.state_dict(), path)
    with pytest.raises(OSError, match=r"has sha256 .* expected 397923af8e79.*delete it"):
        load_vgg16("imagenet", until="relu1_2")
    monkeypatch.setattr(vgg, "IMAGENET_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    assert torch.equal(load_vgg16("imagenet", until="relu1_2").features[0].weight, model.features[0].weight)


def test_the_recipe_renames_and_halves_the_weights_of_the_wheel(tmp_path):
    arrays = {
        key.replace("features", "frontend"): np.random.default_rng(0).normal(size=tuple(tensor.shape)).astype("f4")
        for key, tensor in VGG16("relu3_3").state_dict().items()
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays, **{"frontend.17.weight": np.zeros(1), "backend.0.bias": np.zeros(1)})
    with zipfile.ZipFile(tmp_path / "wheel.whl", "w") as archive:
        archive.writestr(recipe.MEMBER, buffer.getvalue())
    recipe.convert(tmp_path / "wheel.whl", tmp_path / "out" / "vgg.safetensors")
    state = load_vgg16(tmp_path / "out" / "vgg.safetensors").state_dict()
    assert len(state) == len(arrays)
    expected = torch.from_numpy(arrays["frontend.14.weight"].astype("f2").astype("f4"))
    assert torch.equal(state["features.14.weight"], expected)


def test_a_missing_asset_is_named_with_what_is_there(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"asset 'vgg16/none': .*holds .*vgg16"):
        asset("vgg16/none")
    monkeypatch.setattr(assets, "ASSETS", tmp_path / "assets")
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*pip install -e"):
        asset(BUNDLED)
