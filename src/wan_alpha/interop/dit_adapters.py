"""Adapters of the DiT as files hold them, and what they make of a weight.

    DoRA:  V = W + s·B·A,  W' = m·V / ||V||  per output row          LoRA:  W' = W + s·B·A
    LightX2V's further keys:  `diff` adds to a weight, `diff_b` to a bias, `diff_m` to a modulation table.

s = alpha / r; a file that does not say alpha means alpha = r.  Several files are applied one after the other: the
authors' order is the DoRA first, then the distillation LoRA.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from wan_alpha.interop.dit_naming import AdapterKey, dit_table, parse_adapter_key
from wan_alpha.interop.weights import SAFETENSORS, CheckpointError, few, read_weights

# Header entry of a ComfyUI export: its magnitudes are those of ComfyUI's formula, which divides by ||W||, not ||V||.
COMFY_MAGNITUDES = "wan_alpha.magnitude"
_PEFT_METADATA = "lora_adapter_metadata"
_IMAGE_ONLY = ("k_img", "v_img", "img_emb", "add_k_proj", "add_v_proj", "image_embedder")
_PLACES = {"diff_b": "bias", "lora_bias": "bias", "diff": "weight", "a": "weight", "b": "weight", "magnitude": "weight"}


@dataclass
class LayerUpdate:
    """What one file does to one layer: matrices and magnitude of the weight, and plain differences.

    Attributes:
        a, b: (r, in, ...) and (out, r, ...).
        magnitude: (out,), or None for a LoRA.
        scale: s = alpha / r.
        added: by parameter (`weight`, `bias`, `scale_shift_table`), what is added after everything else.
    """

    a: Tensor | None = None
    b: Tensor | None = None
    magnitude: Tensor | None = None
    scale: float = 1.0
    added: dict[str, Tensor] = field(default_factory=dict)

    def delta(self) -> Tensor | None:
        """s·B·A in float32, flattened to (out, in)."""
        if self.a is None or self.b is None:
            return None
        return self.scale * (self.b.flatten(1).float() @ self.a.flatten(1).float())


@dataclass
class DitAdapter:
    """One adapter file, by diffusers' module names.

    Attributes:
        layers: the updates.
        keys: how many keys were read.
        ignored: keys for the image prompt that a text-to-video base does not have.
    """

    layers: dict[str, LayerUpdate]
    keys: int
    ignored: list[str] = field(default_factory=list)

    @property
    def is_dora(self) -> bool:
        return any(update.magnitude is not None for update in self.layers.values())

    @property
    def ranks(self) -> set[int]:
        return {update.a.shape[0] for update in self.layers.values() if update.a is not None}


Strength = tuple[DitAdapter, float]


def read_dit_adapter(path: str | Path, base: Mapping[str, Tensor], alpha: float | None = None) -> DitAdapter:
    """Read a DoRA or LoRA file in any of its spellings: the authors', peft's, diffusers', ComfyUI's, LightX2V's.

    Args:
        path: .safetensors, or a torch file that holds tensors alone.
        base: the transformer's weights by diffusers' names; their shapes must fit.
        alpha: what the file does not say; None means alpha = r.

    Raises:
        CheckpointError: no such file, an unknown key, or a shape that does not fit the base.
    """
    metadata = read_metadata(path)
    adapter = parse_dit_adapter(read_weights(path), base, alpha or _peft_alpha(metadata), str(path))
    if metadata.get(COMFY_MAGNITUDES) == "over-base-norm":
        for module, update in adapter.layers.items():
            if update.magnitude is not None:
                update.magnitude = update.magnitude * magnitude_ratio(base[f"{module}.weight"], update)
    return adapter


def parse_dit_adapter(
    tensors: Mapping[str, Tensor], base: Mapping[str, Tensor], alpha: float | None = None, what: str = "the adapter"
) -> DitAdapter:
    """The tensors of an adapter file by layer; see `read_dit_adapter`."""
    modules = _modules(base)
    adapter = DitAdapter({}, len(tensors))
    alphas: dict[str, float] = {}
    unknown: list[str] = []
    for key, tensor in tensors.items():
        parsed = parse_adapter_key(key)
        module = modules.get(parsed.module) if parsed else None
        if parsed is None or module is None:
            (adapter.ignored if any(word in key for word in _IMAGE_ONLY) else unknown).append(key)
        elif parsed.part == "alpha":
            alphas[module] = float(tensor)
        else:
            _store(adapter.layers.setdefault(module, LayerUpdate()), module, parsed, tensor, key)
    if unknown:
        raise CheckpointError(
            f"{what} does not fit this base: no layer of it, or no known form: {few(sorted(unknown))}"
        )
    if not adapter.layers:
        raise CheckpointError(f"{what} holds no LoRA or DoRA matrices, but {few(sorted(tensors))}")
    for module, update in adapter.layers.items():
        if update.a is not None:
            update.scale = alphas.get(module, alpha or update.a.shape[0]) / update.a.shape[0]
        _check_layer(update, module, base, what)
    return adapter


def read_metadata(path: str | Path) -> dict[str, str]:
    """The text entries of a safetensors header; empty for other files and for what cannot be read."""
    if Path(path).suffix not in SAFETENSORS or not Path(path).is_file():
        return {}
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except Exception:  # the weights are read next, and say what is wrong
        return {}


@torch.no_grad()
def merge_dit_adapters(base: Mapping[str, Tensor], adapters: Iterable[Strength]) -> dict[str, Tensor]:
    """The base's weights with all adapters folded in, one after the other, in float32, then cast back.

    Args:
        base: by diffusers' names; not written to.
        adapters: with the strength of each; for a DoRA it scales the change of the weight.

    Returns:
        All weights by the same names; those that no adapter touches are the base's own tensors.
    """
    return dict(base) | dict(_merged(base, list(adapters)))


@torch.no_grad()
def merge_into(
    transformer: nn.Module, adapters: Iterable[Strength], stored: Mapping[str, Tensor] | None = None
) -> None:
    """The same in place, one weight at a time: needs no memory for a second model.

    Args:
        transformer: written to, in its own precision.
        adapters: as in `merge_dit_adapters`.
        stored: the same weights as they were before they were cast to that precision, where they are at hand.
    """
    parameters = dict(transformer.named_parameters())
    for name, tensor in _merged(stored or parameters, list(adapters)):
        parameters[name].copy_(tensor)


def _merged(base: Mapping[str, Tensor], adapters: list[Strength]) -> Iterator[tuple[str, Tensor]]:
    for module in {module for adapter, _ in adapters for module in adapter.layers}:
        for leaf in ("weight", "bias", "scale_shift_table"):
            name = f"{module}.{leaf}" if module else leaf
            if name not in base:
                continue
            value = base[name].float()
            for adapter, strength in adapters:
                if update := adapter.layers.get(module):
                    value = _updated(value, update, leaf, strength)
            yield name, value.to(base[name].dtype).contiguous()


def magnitude_ratio(weight: Tensor, update: LayerUpdate) -> Tensor:
    """||V|| / ||W|| per output row, (out,): from ComfyUI's magnitudes to DoRA's."""
    delta, flat = update.delta(), weight.flatten(1).float()
    direction = flat if delta is None else flat + delta
    return direction.norm(dim=1) / flat.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)


def _updated(value: Tensor, update: LayerUpdate, name: str, strength: float) -> Tensor:
    if name == "weight" and (delta := update.delta()) is not None:
        flat = value.flatten(1)
        direction = flat + delta * (1.0 if update.magnitude is not None else strength)
        if update.magnitude is not None:
            new = direction * (update.magnitude.float() / direction.norm(dim=1))[:, None]
            direction = new if strength == 1.0 else flat + strength * (new - flat)
        value = direction.view_as(value)
    if name in update.added:
        value = value + strength * update.added[name].float().view_as(value)
    return value


def _modules(base: Mapping[str, Tensor]) -> dict[str, str]:
    """Every module with weights, by diffusers' name and by Wan's -> diffusers' name.

    `diff_m` speaks of a block and of the head, whose modulation is a parameter of the block and of the whole model.
    """
    names = {name.rpartition(".")[0] for name in base}
    table = dit_table(names - {""}) | {name: name for name in names - {""}}
    return table | {"head": ""}


def _store(update: LayerUpdate, module: str, parsed: AdapterKey, tensor: Tensor, key: str) -> None:
    if parsed.part in ("a", "b", "magnitude"):
        if getattr(update, parsed.part) is not None:
            raise CheckpointError(f"two keys mean the same tensor ({key} is the second)")
        setattr(update, parsed.part, tensor.flatten() if parsed.part == "magnitude" else tensor)
        return
    place = "scale_shift_table" if parsed.part == "diff_m" else _PLACES[parsed.part]
    if place in update.added:
        raise CheckpointError(f"two keys mean the same tensor ({key} is the second)")
    update.added[place] = tensor


def _check_layer(update: LayerUpdate, module: str, base: Mapping[str, Tensor], what: str) -> None:
    """Both matrices are there, and every shape is the base's."""
    wrong = []
    if (update.a is None) != (update.b is None) or (update.magnitude is not None and update.a is None):
        have = [name for name in ("a", "b", "magnitude") if getattr(update, name) is not None]
        raise CheckpointError(f"{what} is incomplete at {module}: of A, B (and magnitude) it has {have}")
    if update.a is not None and update.b is not None:
        weight, a, b = base[f"{module}.weight"].flatten(1), update.a.flatten(1), update.b.flatten(1)
        if (b.shape[0], a.shape[1]) != tuple(weight.shape) or b.shape[1] != a.shape[0]:
            wrong.append(f"B·A is {tuple(b.shape)}·{tuple(a.shape)} for a weight of {tuple(weight.shape)}")
        if update.magnitude is not None and update.magnitude.shape != weight.shape[:1]:
            wrong.append(f"magnitude is {tuple(update.magnitude.shape)}, expected {tuple(weight.shape[:1])}")
    for name, tensor in update.added.items():
        target = base.get(f"{module}.{name}" if module else name)
        if target is None or target.numel() != tensor.numel():
            expected = "no such parameter" if target is None else f"expected {tuple(target.shape)}"
            wrong.append(f"the difference for {name} is {tuple(tensor.shape)}, {expected}")
    if wrong:
        raise CheckpointError(f"{what} does not fit this base at {module or 'head'}: {'; '.join(wrong)}")


def _peft_alpha(metadata: Mapping[str, str]) -> float | None:
    """`lora_alpha` of the adapter config that diffusers puts in a file's header."""
    try:
        config = json.loads(metadata.get(_PEFT_METADATA, "{}"))
    except ValueError:
        return None
    alpha = config.get("transformer.lora_alpha", config.get("lora_alpha"))
    return float(alpha) if isinstance(alpha, int | float) and alpha > 0 else None
