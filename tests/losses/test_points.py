"""Points lie on valid pixels, uniformly, and carry the label of their pixel."""

import pytest
import torch

from semivss.losses.points import ValidPixels


def test_points_lie_on_valid_pixels_and_carry_their_label():
    labels = torch.randint(0, 6, (3, 13, 18), dtype=torch.uint8)
    labels[labels == 5] = 255
    points = ValidPixels(labels, (4, 5)).draw(2000)
    x, y = ((points.grid + 1) / 2 * torch.tensor([20.0, 16.0])).floor().long().unbind(-1)  # 5 x 4 cells cover 20 x 16 pixels
    assert torch.equal(labels[torch.arange(3)[:, None], y, x], points.labels)
    assert (points.labels != 255).all()


def test_every_valid_pixel_is_as_likely_as_another():
    labels = torch.full((1, 10, 10), 255, dtype=torch.uint8)
    labels[0, 2, 3:7] = torch.arange(4, dtype=torch.uint8)
    counts = ValidPixels(labels, (10, 10), torch.Generator().manual_seed(0)).draw(40_000).labels.flatten().bincount(minlength=4)
    assert (counts - 10_000).abs().max() < 400  # 4.6 standard deviations


def test_positions_fill_the_pixel():
    labels = torch.full((1, 4, 4), 255, dtype=torch.uint8)
    labels[0, 1, 2] = 0
    grid = (ValidPixels(labels, (4, 4)).draw(5000).grid + 1) * 2
    assert grid[0].amin(0).tolist() < [2.01, 1.01]
    assert ((grid[0] >= torch.tensor([2.0, 1.0])) & (grid[0] <= torch.tensor([3.0, 2.0]))).all()
    assert grid[0].std(0).min() > 0.27  # a uniform one has 0.289


def test_an_image_without_valid_pixels_harms_no_other():
    labels = torch.full((3, 4, 4), 255, dtype=torch.uint8)
    labels[1, 0, 0] = 7
    assert (ValidPixels(labels, (4, 4)).draw(50).labels[1] == 7).all()


def test_picking_takes_the_points_asked_for():
    points = ValidPixels(torch.randint(0, 9, (2, 8, 8), dtype=torch.uint8), (8, 8)).draw(20)
    picked = points.pick(torch.tensor([1, 0, 1]), torch.tensor([[3, 19], [0, 0], [5, 6]]))
    assert torch.equal(picked.grid[0, 1], points.grid[1, 19])
    assert torch.equal(picked.labels[2], points.labels[1, [5, 6]])


def test_reading_a_map_at_the_centre_of_its_cells_returns_them():
    maps = torch.randn(2, 3, 4, 5)
    y, x = torch.meshgrid((torch.arange(4) + 0.5) / 2 - 1, (torch.arange(5) + 0.5) / 2.5 - 1, indexing="ij")
    grid = torch.stack([x, y], -1).view(1, 20, 2).expand(2, -1, -1)
    pixels = ValidPixels(torch.zeros(2, 16, 20, dtype=torch.uint8), (4, 5))
    torch.testing.assert_close(pixels.read(maps, grid), maps.flatten(2))
    corner = torch.full((2, 1, 2), -1.0)
    torch.testing.assert_close(pixels.read(maps, corner)[..., 0], maps[..., 0, 0])


@pytest.mark.parametrize("size", [(32, 48), (13, 15)])  # the second one's maps hang over its edge
def test_many_maps_are_read_as_one_by_one(size):
    maps = torch.randn(5, -(-size[0] // 4), -(-size[1] // 4))
    pixels = ValidPixels(torch.zeros(1, *size, dtype=torch.uint8), (maps.shape[1], maps.shape[2]))
    points = pixels.draw(200)
    torch.testing.assert_close(pixels.read_all(maps, points.grid[0]), pixels.read(maps[None], points.grid)[0].T)
