"""Biases that prediction keeps: bit-equal to fresh ones, within a limit, and never those of other weights."""

import copy
import pickle

import pytest
import torch
from tests.models.test_segmenter import LABELS, frames
from torch import nn

from semivss.models.bias_memory import BiasMemory
from semivss.models.positions import relative_bias, resize_table
from semivss.models.trunk import Trunk
from semivss.models.zoo import build_segmenter
from semivss.settings import Model

GRID = (4, 4)
BYTES = 2 * (4 * 4 + 1) ** 2 * 4  # of a bias of two heads


def table(seed: int = 0) -> nn.Parameter:
    with torch.inference_mode(False):
        return nn.Parameter(torch.randn(7 * 7 + 3, 2, generator=torch.Generator().manual_seed(seed)))


def fresh(entries: torch.Tensor, grid: tuple[int, int] = GRID, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return relative_bias(resize_table(entries, GRID, grid).to(dtype), grid)


@pytest.mark.parametrize("grid", [GRID, (5, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_kept_is_what_would_be_made(grid, dtype):
    memory, entries = BiasMemory(), table()
    with torch.inference_mode():
        first, second = (memory.bias(entries, GRID, grid, dtype) for _ in range(2))
        assert second is first
        assert torch.equal(first, fresh(entries, grid, dtype))
    assert memory.size == first.nbytes


def test_only_inference_mode_keeps_something():
    memory, entries = BiasMemory(), table()
    memory.bias(entries, GRID, GRID, torch.float32).sum().backward()
    assert entries.grad is not None
    with torch.no_grad():
        memory.bias(entries, GRID, GRID, torch.float32)
    assert memory.size == 0


@torch.inference_mode()
def test_another_table_or_a_changed_one_has_a_bias_of_its_own():
    memory, entries = BiasMemory(), table()
    memory.bias(entries, GRID, GRID, torch.float32)
    with torch.inference_mode(False), torch.no_grad():
        entries.mul_(2)
    assert torch.equal(memory.bias(entries, GRID, GRID, torch.float32), fresh(entries))
    entries.data = entries.data * 3
    assert torch.equal(memory.bias(entries, GRID, GRID, torch.float32), fresh(entries))
    assert memory.size == BYTES
    other = table(1)
    assert torch.equal(memory.bias(other, GRID, GRID, torch.float32), fresh(other))
    assert memory.size == 2 * BYTES


@torch.inference_mode()
def test_the_limit_holds_and_the_same_biases_stay_while_sizes_come_round():
    memory, tables = BiasMemory(2 * BYTES), [table(seed) for seed in range(3)]
    rounds = [[memory.bias(entries, GRID, GRID, torch.float32) for entries in tables] for _ in range(4)]
    assert memory.size == 2 * BYTES
    for later in rounds[1:]:
        assert [now is before for now, before in zip(later, rounds[0], strict=True)] == [True, True, False]
        assert torch.equal(later[2], rounds[0][2])


@torch.inference_mode()
def test_a_size_that_no_longer_comes_makes_room():
    memory, entries = BiasMemory(BYTES), table()
    memory.bias(entries, GRID, GRID, torch.float32)
    seen = [memory.bias(entries, GRID, (3, 4), torch.float32) for _ in range(3)]
    assert seen[1] is not seen[0]
    assert seen[2] is seen[1]
    assert memory.size <= BYTES


@torch.inference_mode()
def test_without_a_limit_nothing_is_kept():
    memory, entries = BiasMemory(0), table()
    for _ in range(2):
        assert torch.equal(memory.bias(entries, GRID, GRID, torch.float32), fresh(entries))
    assert memory.size == 0


@pytest.mark.parametrize("backbone", ["beit_tiny", "vit_adapter_tiny", "one_peace_tiny"])
def test_a_model_keeps_the_biases_of_all_its_layers_until_it_trains_or_moves(backbone):
    torch.manual_seed(0)
    model = build_segmenter(Model(backbone=backbone, head="pixel"), LABELS).eval()
    (trunk,) = (module for module in model.modules() if isinstance(module, Trunk))
    for name, parameter in model.named_parameters():
        if "relative_position" in name or "rel_pos" in name:
            nn.init.normal_(parameter)
    names, images = list(model.state_dict()), frames(64, 96)
    with torch.no_grad():
        plain = model(images).logits
        assert trunk.biases.size == 0
    with torch.inference_mode():
        first, second = model(images).logits, model(images).logits
    assert torch.equal(first, plain)
    assert torch.equal(second, plain)
    tokens = 4 * 6 + 1
    assert trunk.biases.size == sum(4 * tokens**2 * layer_heads(layer) for layer in trunk.layers())
    assert list(model.state_dict()) == names
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301
        (own,) = (module for module in twin.modules() if isinstance(module, Trunk))
        assert own.biases.size == 0
        assert own.biases.limit == trunk.biases.limit
        assert all(module.biases is own.biases for module in own.modules() if hasattr(module, "biases"))
    for change in (lambda: model.train().eval(), model.double):
        with torch.inference_mode():
            model(images)
        assert trunk.biases.size > 0
        change()
        assert trunk.biases.size == 0


def layer_heads(layer: nn.Module) -> int:
    return layer.heads if isinstance(getattr(layer, "heads", None), int) else layer.attn.heads
