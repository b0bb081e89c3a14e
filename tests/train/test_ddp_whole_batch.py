"""Two gloo processes that share a batch out, however unequal their parts: the gradients and weights of one process with all of it."""

import pytest
import torch
from children import free_port, start, wait
from whole import KINDS, run_match, run_whole


def ended(out, exact: bool) -> list[dict]:
    port = free_port()
    ranks = [start(run_whole, rank, 2, port, out, exact) for rank in range(2)]
    alone = start(run_whole, 0, 1, port, out, exact)
    assert [wait(one) for one in (*ranks, alone)] == [0, 0, 0]
    return [torch.load(out / f"{name}.pt", weights_only=True) for name in ("1_0", "2_0", "2_1")]


def test_ddp_fifty_steps_of_sgd_in_float64_end_with_the_weights_of_one_process(tmp_path):
    alone, *ranks = ended(tmp_path, exact=True)
    for kind in KINDS:
        for rank in ranks:
            for name, value in alone[kind]["weights"].items():
                assert float((rank[kind]["weights"][name] - value).abs().max()) < 1e-9, f"{kind} {name}"
            assert rank[kind]["losses"] == ranks[0][kind]["losses"]
            for told, expected in zip(rank[kind]["losses"], alone[kind]["losses"], strict=True):
                assert told == pytest.approx(expected, rel=1e-9, abs=1e-9)
        first, last = (sum(alone[kind]["losses"][step].values()) for step in (0, -1))
        assert last < 0.998 * first  # it was really trained


def test_ddp_gradients_of_the_first_step_in_float32_are_those_of_one_process(tmp_path):
    alone, *ranks = ended(tmp_path, exact=False)
    for kind in KINDS:
        largest = max(float(value.abs().max()) for value in alone[kind]["gradients"].values())
        assert largest > 0
        for rank in ranks:
            assert rank[kind]["gradients"].keys() == alone[kind]["gradients"].keys()
            for name, value in alone[kind]["gradients"].items():
                assert float((rank[kind]["gradients"][name] - value).abs().max()) < 1e-5 * largest, f"{kind} {name}"


def test_ddp_mask_losses_are_divided_by_the_mean_count_of_masks(tmp_path):
    port = free_port()
    ranks = [start(run_match, rank, 2, port, tmp_path) for rank in range(2)]
    assert [wait(one) for one in ranks] == [0, 0]
    for rank in range(2):
        # without any mask the whole batch counts one, half of it for each process
        assert torch.load(tmp_path / f"match{rank}.pt", weights_only=True) == {"counts": [7.0, 0.5], "refused": True}
