"""The average of the weights, in closed form."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wan_alpha.stages.stage import StageModule
from wan_alpha.training.ema import AdapterEMA


class OneNumber(StageModule):
    """A frozen weight and a trained one."""

    def __init__(self) -> None:
        super().__init__(lambda parameters: None)  # type: ignore[arg-type,return-value]
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    @property
    def base(self) -> Any:
        raise NotImplementedError

    def trainable(self) -> dict[str, nn.Parameter]:
        return {"weight": self.weight}

    def export(self, directory: Path, dtype: torch.dtype) -> None:
        raise NotImplementedError


def follow(ema: AdapterEMA, module: OneNumber, values: list[float], first_step: int = 1) -> None:
    for step, value in enumerate(values, first_step):
        module.weight.data.fill_(value)
        trainer: Any = SimpleNamespace(global_step=step)
        ema.on_train_batch_end(trainer, module)
        ema.on_train_batch_end(trainer, module)  # a further batch of the same step counts once


def started(decay: float) -> tuple[AdapterEMA, OneNumber]:
    ema, module = AdapterEMA(decay), OneNumber()
    ema.on_fit_start(SimpleNamespace(), module)  # type: ignore[arg-type]
    return ema, module


def test_it_is_the_recursion_with_a_warm_start() -> None:
    ema, module = started(0.5)
    values = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0]
    follow(ema, module, values)
    expected = 0.0
    for n, value in enumerate(values, 1):
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
    assert ema.average["weight"].item() == pytest.approx(expected, rel=1e-12)
    assert ema.average.keys() == {"weight"}


def test_a_decay_of_zero_is_the_weights_themselves() -> None:
    ema, module = started(0.0)
    follow(ema, module, [3.0, 7.0])
    assert ema.average["weight"].item() == 7.0


def test_it_goes_on_where_it_was() -> None:
    whole, module = started(0.9)
    follow(whole, module, [1.0, 2.0, 3.0, 4.0])
    first, module = started(0.9)
    follow(first, module, [1.0, 2.0])
    second = AdapterEMA(0.9)
    state: dict[str, Any] = {"average": {"weight": first.average["weight"].clone()}, "updates": first.updates}
    assert first.state_dict().keys() == state.keys()
    second.load_state_dict(state)
    second.on_fit_start(SimpleNamespace(), module)  # type: ignore[arg-type]
    follow(second, module, [3.0, 4.0], first_step=3)
    assert torch.equal(second.average["weight"], whole.average["weight"])


def test_validation_sees_the_average_and_training_its_own() -> None:
    ema, module = started(0.5)
    follow(ema, module, [4.0, 8.0])
    average: Tensor = ema.average["weight"].clone()
    assert not torch.equal(average, module.weight)
    ema.on_validation_start(SimpleNamespace(), module)  # type: ignore[arg-type]
    assert torch.equal(module.weight.data, average)
    ema.on_validation_end(SimpleNamespace(), module)  # type: ignore[arg-type]
    assert module.weight.item() == 8.0
    with pytest.raises(KeyError), ema.swapped_in(module):
        raise KeyError
    assert module.weight.item() == 8.0
    assert torch.equal(ema.average["weight"], average)
