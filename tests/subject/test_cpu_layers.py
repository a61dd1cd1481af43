"""A model's layers on a CPU: the same values as by the model's own operations, but for rounding."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.activations import GELUTanh, NewGELUActivation
from transformers.pytorch_utils import Conv1D

from monosem.subject import cpu_layers
from monosem.subject.cpu_layers import use_faster_layers

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
has_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here")


@pytest.fixture
def as_on_amd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_layers, "_has_faster_products", lambda: True)


@pytest.fixture
def multiplied(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes that went through oneDNN."""
    shapes: list[torch.Size] = []

    def multiply(x: Tensor, *others: Any) -> Tensor:
        shapes.append(x.shape)
        return own(x, *others)

    own = cpu_layers._multiply
    monkeypatch.setattr(cpu_layers, "_multiply", multiply)
    return shapes


def faster(layer: nn.Module) -> nn.Module:
    use_faster_layers(layer)
    return layer


def filled(layer: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return layer.requires_grad_(False)


LINEAR: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: filled(nn.Linear(24, 40)),
    "linear without bias": lambda: filled(nn.Linear(24, 40, bias=False)),
    "conv1d": lambda: filled(Conv1D(40, 24)),
}


@has_onednn
@pytest.mark.parametrize("kind", LINEAR)
@pytest.mark.parametrize("shape", [(256, 24), (4, 64, 24), (7, 41, 24)])
@pytest.mark.usefixtures("as_on_amd")
def test_a_linear_layer_is_the_product_in_float64(
    kind: str, shape: tuple[int, ...], multiplied: list[torch.Size]
) -> None:
    layer, x = LINEAR[kind](), torch.randn(shape, generator=torch.Generator().manual_seed(1))
    before, expected = x.clone(), LINEAR[kind]().double()(x.double())
    for same in (x, x.mT.contiguous().mT):  # in another layout
        with torch.no_grad():
            found = faster(layer)(same)
        assert multiplied.pop() == shape and found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5)
        assert torch.equal(same, before)


@pytest.mark.parametrize("kind", LINEAR)
@pytest.mark.usefixtures("as_on_amd")
def test_what_is_not_float32_without_gradients_is_computed_as_before(kind: str, multiplied: list[torch.Size]) -> None:
    x = torch.randn(256, 24)
    with torch.no_grad():
        for dtype in (torch.float64, torch.bfloat16):
            assert torch.equal(faster(LINEAR[kind]().to(dtype))(x.to(dtype)), LINEAR[kind]().to(dtype)(x.to(dtype)))
        assert torch.equal(faster(LINEAR[kind]())(x[:255]), LINEAR[kind]()(x[:255]))
    its, own = x.clone().requires_grad_(), x.clone().requires_grad_()
    faster(LINEAR[kind]())(its).square().sum().backward()
    LINEAR[kind]()(own).square().sum().backward()
    assert its.grad is not None and own.grad is not None and torch.equal(its.grad, own.grad)
    assert not multiplied


@pytest.mark.usefixtures("as_on_amd")
def test_subclasses_stay_what_they_are() -> None:
    class Own(nn.Linear):
        pass

    model = nn.Sequential(Own(3, 3), nn.Linear(3, 3), nn.GELU())
    use_faster_layers(model)
    assert type(model[0]) is Own and isinstance(model[1], nn.Linear) and type(model[2]) is nn.GELU
    assert list(model.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_without_faster_products_linear_layers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_layers, "_has_faster_products", lambda: False)
    assert type(faster(nn.Linear(3, 3))) is nn.Linear


@pytest.mark.parametrize("activation", [NewGELUActivation, GELUTanh])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gelu_by_the_sigmoid_is_that_by_tanh(activation: type[nn.Module], dtype: torch.dtype) -> None:
    values = torch.cat([torch.linspace(-30, 30, 4001), torch.tensor([0.0, 1e-30, -1e-30, 1e4, -1e4])]).to(dtype)
    before = values.clone()
    expected = activation()(values.double())
    with torch.no_grad():
        found = faster(activation())(values)
    assert found.dtype == dtype and torch.equal(values, before)
    limit = 4 * torch.finfo(dtype).eps
    assert ((found.double() - expected).abs() <= limit * expected.abs().clamp(min=1)).all()
    with torch.no_grad():
        extreme = faster(activation())(torch.tensor([torch.nan, torch.inf]))
    assert extreme[0].isnan() and extreme[1] == torch.inf


@pytest.mark.parametrize("activation", [NewGELUActivation, GELUTanh])
def test_the_gelu_by_the_sigmoid_has_the_gradient_of_that_by_tanh(activation: type[nn.Module]) -> None:
    values = torch.linspace(-5, 5, 201, requires_grad=True)
    gradients = [torch.autograd.grad(f(values).sum(), values)[0] for f in (faster(activation()), activation())]
    torch.testing.assert_close(*gradients)
