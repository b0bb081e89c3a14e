"""Golden warps, the sign and unit of flow, and pictures that are too small for OpenCV."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from semivss.temporal.flow import dis_flow, warp


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise of several sizes, which optical flow can follow."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(1, 3, height, width)
    for size in (4, 8, 16, 32):
        noise = torch.rand(1, 3, -(-height // size) + 1, -(-width // size) + 1, generator=generator)
        total += F.interpolate(noise, (height, width), mode="bicubic", align_corners=False)
    return (total[0] * 60).clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


def constant_flow(x: float, y: float, height: int, width: int) -> Tensor:
    return torch.tensor([float(x), float(y)]).view(1, 2, 1, 1).expand(1, 2, height, width).clone()


def test_golden_temporal_warp(golden: Path) -> None:
    seen = 0
    for path in sorted((golden / "temporal").glob("warp_*.npz")):
        with np.load(path) as file:
            vectors = {name: torch.from_numpy(file[name]) for name in file.files}
        border, valid = warp(vectors["feat"], vectors["flow"], "border")
        zeros, _ = warp(vectors["feat"], vectors["flow"], "zeros")
        for name, result in (("border", border), ("zeros", zeros), ("truncate", border * valid), ("dff", zeros * vectors["dff_scale"])):
            assert torch.allclose(result, vectors[f"out_{name}"], atol=1e-5, rtol=0), f"{path.name}: {name}"
        seen += 1
    assert seen


def test_whole_pixels_shift_exactly() -> None:
    maps = torch.rand(1, 2, 9, 13)
    warped, valid = warp(maps, constant_flow(3, -2, 9, 13))
    torch.testing.assert_close(warped[..., 2:, :-3], maps[..., :-2, 3:], atol=1e-6, rtol=0)
    assert valid[0, 0].nonzero().min(0).values.tolist() == [2, 0]
    assert int(valid.sum()) == 7 * 10


def test_a_picture_that_moved_right_has_positive_x() -> None:
    """What is at x in the current frame lies at x + 5 in the reference."""
    current = texture(96, 128)
    reference = np.roll(current, 5, axis=1)
    flow = dis_flow(current, reference)[:, 16:-16, 16:-16]
    assert float((flow[0] - 5).abs().mean()) < 0.1
    assert float(flow[1].abs().mean()) < 0.1
    warped, _ = warp(torch.from_numpy(reference).permute(2, 0, 1)[None].float(), dis_flow(current, reference)[None])
    assert float((warped[0].permute(1, 2, 0) - torch.from_numpy(current))[16:-16, 16:-16].abs().mean()) < 1


def test_equal_frames_have_no_flow_and_mirrored_ones_mirrored_flow() -> None:
    frame, other = texture(64, 80), np.roll(texture(64, 80), (2, -3), axis=(0, 1))
    assert float(dis_flow(frame, frame).abs().max()) < 1e-3
    flow, mirrored = dis_flow(frame, other), dis_flow(frame[:, ::-1], other[:, ::-1]).flip(-1)
    inner = (slice(None), slice(16, -16), slice(16, -16))
    assert float((flow * torch.tensor([-1.0, 1.0]).view(2, 1, 1) - mirrored)[inner].abs().mean()) < 0.1


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (12, 200), (24, 200), (200, 5)])
def test_small_and_narrow_frames_have_a_flow(size: tuple[int, int]) -> None:
    flow = dis_flow(texture(*size), texture(*size, seed=1))
    assert flow.shape == (2, *size)
    assert bool(flow.isfinite().all())
