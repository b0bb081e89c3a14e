"""The memory bank against a list of queues, one process against two, and its way through a checkpoint."""

import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from semivss.errors import WeightsError
from semivss.losses.bank import MemoryBank
from semivss.losses.contrast_sets import ByClass
from semivss.losses.matcher import NonFiniteCost

CLASSES, CHANNELS = 4, 3


def keys_of(seed: int, largest: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, largest, (CLASSES,), generator=generator)
    return torch.randn(int(counts.sum()), CHANNELS, generator=generator), counts


def plain_bank(size=5, most=None) -> MemoryBank:
    return MemoryBank(CLASSES, CHANNELS, size, most=most, unit=False)


def test_rings_are_queues_of_the_newest_rows():
    sizes = [5, 1, 12, 7]
    bank, lists = plain_bank(sizes), [torch.zeros(0, CHANNELS) for _ in sizes]
    for step in range(12):
        keys, counts = keys_of(step, 2 if step < 4 else 30)
        assert torch.equal(bank.add(keys, counts), counts)
        new = keys.split(counts.tolist())
        lists = [torch.cat([old, rows])[-size:] for old, rows, size in zip(lists, new, sizes, strict=True)]
        assert all(torch.equal(ours, rows) for ours, rows in zip(bank.queues(), lists, strict=True))
        assert bank.lengths.tolist() == [len(rows) for rows in lists]


def test_rows_are_taken_oldest_first():
    bank = plain_bank(3)
    bank.add(torch.arange(5.0)[:, None].expand(5, CHANNELS), torch.tensor([0, 5, 0, 0]))
    assert bank.take(torch.tensor([1]), torch.tensor([[0, 2, 1]]))[0, :, 0].tolist() == [2.0, 4.0, 3.0]


def test_rows_have_length_one_unless_asked_otherwise():
    bank = MemoryBank(2, 3, 4)
    bank.add(torch.tensor([[3.0, 0.0, 4.0], [0.0, 0.0, 0.0]]), torch.tensor([1, 1]))
    assert bank.queues()[0].tolist() == [[pytest.approx(0.6), 0.0, pytest.approx(0.8)]]
    assert bank.queues()[1].tolist() == [[0.0, 0.0, 0.0]]


def test_half_precision_rows_come_back_as_float32():
    bank = MemoryBank(2, 3, 4, dtype=torch.bfloat16)
    bank.add(torch.randn(2, 3), torch.tensor([2, 0]))
    assert bank.rows.dtype == torch.bfloat16
    assert bank.queues()[0].dtype == torch.float32


@pytest.mark.parametrize(("count", "most"), [(3, 8), (8, 8), (9, 8), (12, 8), (40, 8), (0, 8)])
def test_every_pixel_has_the_same_chance_to_be_kept(count, most):
    pixels, generator = ByClass(torch.arange(100, 100 + count + 5), torch.tensor([5, count])), torch.Generator().manual_seed(0)
    seen = torch.zeros(count)
    for _ in range(500):
        chosen = pixels.subset(most, generator)
        assert chosen.counts.tolist() == [5, min(count, most)]
        own = chosen.pixels[5:] - 105
        assert own.tolist() == sorted(set(own.tolist()))  # different ones, in their order
        seen[own] += 1
    torch.testing.assert_close(seen / 500, torch.full((count,), min(1.0, most / max(count, 1))), rtol=0, atol=0.1)


def test_no_pair_of_pixels_is_excluded_or_forced():
    pixels, generator = ByClass(torch.arange(6), torch.tensor([6])), torch.Generator().manual_seed(0)
    pairs = {tuple(pixels.subset(2, generator).pixels.tolist()) for _ in range(300)}
    assert len(pairs) >= 12  # of 15; neighbours within a stretch may come together only across its ends


def test_the_same_generator_chooses_the_same_keys():
    pixels, bank = ByClass(torch.arange(900), torch.tensor([300, 600])), MemoryBank(2, 3, most=10)
    first, again, other = (bank.choose(pixels, torch.Generator().manual_seed(seed)).pixels for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(plain_bank().choose(pixels).pixels, pixels.pixels)  # no cap


def test_a_bad_key_changes_nothing():
    bank = plain_bank()
    bank.add(*keys_of(0))
    before = torch.cat(bank.queues())
    keys, counts = keys_of(1)
    keys[0, 0] = torch.nan
    with pytest.raises(NonFiniteCost):
        bank.add(keys, counts)
    assert torch.equal(torch.cat(bank.queues()), before)


@pytest.mark.parametrize("steps", [0, 1, 6])
def test_a_saved_bank_goes_on_as_if_nothing_had_happened(steps, tmp_path):
    straight, broken = plain_bank(20), plain_bank(20)
    for step in range(steps):
        straight.add(*keys_of(step))
        broken.add(*keys_of(step))
    torch.save(broken.state_dict(), tmp_path / "bank.pt")
    resumed = plain_bank(20)
    resumed.add(*keys_of(99))  # what it held before is gone
    resumed.load_state_dict(torch.load(tmp_path / "bank.pt", weights_only=True))
    for step in range(6, 12):
        straight.add(*keys_of(step))
        resumed.add(*keys_of(step))
    assert torch.equal(straight.rows, resumed.rows)
    assert torch.equal(straight.ends, resumed.ends)


def test_the_file_holds_no_unwritten_rows():
    bank = plain_bank(1000)
    bank.add(*keys_of(0))
    assert bank.state_dict()["rows"].untyped_storage().nbytes() < 4 * CLASSES * CHANNELS * 10
    bank.load_state_dict(bank.state_dict())
    assert bank.lengths.tolist() == keys_of(0)[1].tolist()


def test_a_bank_of_another_shape_is_refused():
    bank = plain_bank()
    for other in (plain_bank(6), MemoryBank(CLASSES, 2, 5), MemoryBank(3, CHANNELS, 5)):
        with pytest.raises(WeightsError, match="memory bank: the checkpoint holds"):
            bank.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="4 sizes"):
        plain_bank([1, 2])


def share(rank: int, step: int) -> tuple[Tensor, Tensor]:
    return keys_of(10 * step + rank, 6)


CAPS = (None, 6)  # keys a class and step


def test_ddp_banks_are_equal_and_hold_the_first_ranks_keys_first(tmp_path):
    words = [[sys.executable, __file__, str(rank), str(tmp_path)] for rank in range(2)]
    processes = [subprocess.Popen(word, stderr=subprocess.PIPE, text=True) for word in words]
    complaints = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], complaints
    expected = plain_bank(9)
    for step in range(5):
        shares = [share(rank, step) for rank in range(2)]
        pairs = zip(*(keys.split(counts.tolist()) for keys, counts in shares), strict=True)
        expected.add(torch.cat([rows for pair in pairs for rows in pair]), shares[0][1] + shares[1][1])
    for rank in range(2):
        for ours in torch.load(tmp_path / f"rank{rank}.pt", weights_only=True):
            assert ours["refused"] == 5
            assert all(torch.equal(ours[name], value) for name, value in expected.state_dict().items())


def main(rank: str, folder: str) -> None:
    """One of two processes: five steps, and each time a bad key on the second process only."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=int(rank), world_size=2)
    states = []
    for most in CAPS:
        bank, refused = plain_bank(9, most), 0
        for step in range(5):
            bank.add(*share(int(rank), step))
            try:
                bank.add(torch.full((1, CHANNELS), torch.nan if rank == "1" else 1.0), torch.tensor([1, 0, 0, 0]))
            except NonFiniteCost:
                refused += 1
        states.append(bank.state_dict() | {"refused": refused})
    torch.save(states, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
