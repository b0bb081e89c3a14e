"""What a forward pass is predicted to need is what it then takes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from semivss.cost.forward_cost import MIB, allocator_reserve, forward_cost, predicted_peak, without_values
from semivss.cost.model_cost import build_meta
from semivss.data.labels import vspw124
from semivss.models.zoo import build_segmenter
from semivss.settings import Model

ROOT = Path(__file__).parents[2]
SWIN = {"backbone": "swin_t", "head": "mask2former", "window": (256, 384), "batch": 2}
TINY = {"backbone": "tiny", "head": "pixel", "window": (720, 960), "batch": 4}


@pytest.fixture(scope="module")
def tiny():
    return build_segmenter(Model(backbone="tiny"), vspw124())


@pytest.mark.parametrize("case", [SWIN, TINY], ids=["swin", "tiny"])
def test_counted_memory_is_within_a_tenth_of_the_measured_peak(case):
    quick = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}
    words = [sys.executable, ROOT / "benchmarks" / "forward_memory.py", "--child", json.dumps(case), "--at-once"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ | quick)
    assert json.loads(done.stdout)["ratio"] == pytest.approx(1, abs=0.1)


def test_cost_grows_with_the_batch_and_with_the_pixels(tiny):
    one, two, large = (forward_cost(tiny, window, batch) for window, batch in (((64, 64), 1), ((64, 64), 2), ((128, 128), 1)))
    assert two.flops == 2 * one.flops
    assert two.activations == pytest.approx(2 * one.activations, rel=0.01)
    assert large.flops == pytest.approx(4 * one.flops, rel=0.01)
    assert one.weights == sum(t.numel() * t.element_size() for t in (*tiny.parameters(), *tiny.buffers()))


def test_the_model_is_not_touched_and_its_copy_has_no_values(tiny):
    tiny.train()
    twin = without_values(tiny)
    assert all(p.is_meta for p in twin.parameters())
    assert without_values(twin) is twin
    assert forward_cost(twin, (64, 96), 1) == forward_cost(tiny, (64, 96), 1)
    assert tiny.training
    assert not any(p.is_meta for p in tiny.parameters())


def test_bfloat16_keeps_no_second_copy_of_the_weights():
    model = build_meta(Model(backbone="swin_t", head="mask2former"), vspw124(), "cpu")
    high, low = (forward_cost(model, (128, 128), 1, precision) for precision in ("32", "bf16"))
    assert low.activations < high.activations < high.weights / 8
    assert (low.weights, low.flops) == (high.weights, high.flops)


def test_the_allocator_keeps_a_bounded_share_of_a_small_pass_and_half_of_a_large_one(tiny):
    assert allocator_reserve(10 * MIB) == 8 * MIB
    assert allocator_reserve(1000 * MIB) == 564 * MIB
    cost = forward_cost(tiny, (64, 64), 1)
    assert predicted_peak(tiny, (64, 64), 1) == cost.weights + cost.activations + allocator_reserve(cost.activations)
