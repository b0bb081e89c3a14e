"""Depthwise convolutions in a training under autocast."""

import copy

import torch
from torch import nn

from semivss.train.depthwise import keep_depthwise_exact


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 5, padding=2, groups=8), nn.Conv2d(8, 4, 1))


def test_they_stay_in_float32_while_gradients_are_wanted_and_the_rest_does_not():
    made, x = network(), torch.randn(1, 3, 9, 9)
    names = list(made.state_dict())
    keep_depthwise_exact(made)
    assert list(made.state_dict()) == names
    seen: list[torch.dtype] = []
    for layer in made:
        layer.register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        made(x).float().sum().backward()
        assert seen == [torch.bfloat16, torch.float32, torch.bfloat16]
        with torch.no_grad():
            made(x)
    assert seen[3:] == [torch.bfloat16] * 3
    assert all(parameter.grad is not None for parameter in made.parameters())


def test_without_autocast_nothing_changes_and_a_copy_has_its_own_weights():
    plain, made, x = network(), network(), torch.randn(1, 3, 9, 9)
    keep_depthwise_exact(made)
    assert torch.equal(made(x), plain(x))
    twin = copy.deepcopy(made)
    with torch.no_grad():
        twin[1].weight.zero_()
    assert torch.equal(made(x), plain(x))
    assert not torch.equal(twin(x), plain(x))
