"""Linear layers by oneDNN: the numbers and gradients of torch's own, in the layers that are torch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semivss.models import linear as module
from semivss.models.linear import Linear, linear, speed_up

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")


@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 7), (0, 7)])
@pytest.mark.parametrize("outputs", [4, 11])
@pytest.mark.parametrize("biased", [True, False])
def test_values_and_gradients_are_those_of_torch(shape, outputs, biased):
    torch.manual_seed(0)
    x = torch.randn(shape, requires_grad=True)
    weight, bias = torch.randn(outputs, 7, requires_grad=True), torch.randn(outputs, requires_grad=True) if biased else None
    wanted = [part for part in (x, weight, bias) if part is not None]
    weights = torch.randn(*shape[:-1], outputs)
    results = [product(x, weight, bias) for product in (linear, F.linear)]
    torch.testing.assert_close(*results)
    gradients = [torch.autograd.grad((result * weights).sum(), wanted) for result in results]
    torch.testing.assert_close(*gradients)


def test_a_transposed_input_and_a_frozen_weight():
    x, weight = torch.randn(7, 5).T.requires_grad_(), torch.randn(3, 7)
    result = linear(x, weight, None)
    torch.testing.assert_close(result, F.linear(x, weight))
    result.sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(0).expand(5, 7))
    assert weight.grad is None


def test_other_precisions_are_left_to_torch():
    layer = Linear(7, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(5, 7)).dtype == torch.bfloat16
    assert layer.double()(torch.randn(5, 7).double()).dtype == torch.float64


@pytest.mark.parametrize("slow", [True, False])
def test_plain_layers_alone_are_changed_and_only_where_it_pays(monkeypatch, slow):
    monkeypatch.setattr(module, "mkl_is_slow", lambda: slow)
    model = nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 2), nn.Conv2d(1, 1, 1))
    names, before = list(model.state_dict()), model[0](torch.ones(1, 4))
    speed_up(model)
    assert [type(one) is Linear for one in (model[0], model[1].out_proj, model[2])] == [slow, False, False]
    assert list(model.state_dict()) == names
    torch.testing.assert_close(model[0](torch.ones(1, 4)), before)
