"""Linear layers by oneDNN against torch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semivss.models import linear_layers
from semivss.models.linear_layers import Linear, fast_linear, linear, train_faster

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def badly_served(monkeypatch):
    """As on a processor of AMD's."""
    monkeypatch.setattr(linear_layers, "_is_served_badly", lambda: True)


@pytest.fixture
def counted(monkeypatch) -> list[tuple[int, ...]]:
    """Shapes of the weights that went to oneDNN."""
    shapes: list[tuple[int, ...]] = []
    worth = linear_layers._is_worth_it

    def noting(x, weight, bias=None):
        if answer := worth(x, weight, bias):
            shapes.append(tuple(weight.shape))
        return answer

    monkeypatch.setattr(linear_layers, "_is_worth_it", noting)
    return shapes


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", ["rows", "columns", "many axes"])
@torch.no_grad()
def test_the_product_is_torchs_up_to_rounding(bias, layout, counted):
    torch.manual_seed(0)
    layer = nn.Linear(64, 256, bias=bias)
    x = {"rows": torch.randn(500, 64), "columns": torch.randn(64, 500).T, "many axes": torch.randn(2, 100, 3, 64).transpose(1, 2)}[layout]
    with fast_linear(CPU):
        fast = layer(x)
    assert counted == [(256, 64)]
    torch.testing.assert_close(fast, layer(x), atol=1e-5, rtol=1e-5)


def test_gradients_autocast_other_types_and_small_products_keep_torchs_own(counted):
    layer, x = nn.Linear(64, 256), torch.randn(500, 64)
    with fast_linear(CPU):
        layer(x).sum().backward()
    assert layer.weight.grad is not None
    with torch.no_grad(), fast_linear(CPU):
        layer(x[:2])
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        F.linear(x.double(), layer.weight.double())
    assert counted == []


@torch.no_grad()
def test_other_processors_and_devices_are_left_alone(monkeypatch, counted):
    layer, x = nn.Linear(64, 256), torch.randn(500, 64)
    with fast_linear(torch.device("meta")):
        layer(x)
    monkeypatch.setattr(linear_layers, "_is_served_badly", lambda: False)
    with fast_linear(CPU):
        layer(x)
    assert counted == []


@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 7)])
@pytest.mark.parametrize("outputs", [4, 11])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_torchs_up_to_rounding(shape, outputs, bias, monkeypatch):
    monkeypatch.setattr(linear_layers, "SMALLEST", 0)
    torch.manual_seed(0)
    x, weight = torch.randn(shape, requires_grad=True), torch.randn(outputs, 7, requires_grad=True)
    shift = torch.randn(outputs, requires_grad=True) if bias else None
    results = [product(x, weight, shift) for product in (linear, F.linear)]
    assert "Differentiable" in type(results[0].grad_fn).__name__
    torch.testing.assert_close(*results)
    weights = torch.randn(*shape[:-1], outputs)
    wanted = [part for part in (x, weight, shift) if part is not None]
    torch.testing.assert_close(*(torch.autograd.grad((result * weights).sum(), wanted) for result in results))


def test_columns_and_a_frozen_weight_have_gradients(monkeypatch):
    monkeypatch.setattr(linear_layers, "SMALLEST", 0)
    x, weight = torch.randn(7, 5).T.requires_grad_(), torch.randn(3, 7)
    linear(x, weight, None).sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(0).expand(5, 7))
    assert weight.grad is None


@pytest.mark.parametrize("badly", [True, False])
def test_plain_layers_alone_are_changed_and_only_where_it_pays(monkeypatch, badly):
    monkeypatch.setattr(linear_layers, "_is_served_badly", lambda: badly)
    model = nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 2), nn.Conv2d(1, 1, 1))
    names = list(model.state_dict())
    train_faster(model)
    assert [type(one) is Linear for one in (model[0], model[1].out_proj, model[2])] == [badly, False, False]
    assert list(model.state_dict()) == names
