"""Training steps in float64 or float32 on a given batch, by one process or by several that share it out; what they end with."""

import os
from pathlib import Path

import torch
from torch import nn

from semivss.data.labels import LabelSet
from semivss.losses.points import ValidPixels
from semivss.models.segmenter import Segmenter
from semivss.models.zoo import build_segmenter
from semivss.recipe import parse_recipe
from semivss.settings import Model, Semi
from semivss.tensors import Batch
from semivss.train import steps
from semivss.train.method import Objective
from semivss.train.objective import SemiObjective
from semivss.train.processes import start_fabric
from semivss.train.targets import Targets

COLOURS = ((0, 0, 0),) * 4
MASKS = {"channels": 32, "queries": 6, "encoder_layers": 1, "decoder_layers": 2, "heads": 4, "points": 64, "encoder_feedforward": 32}
HEADS = {"pixel": {"pixel": {"channels": 8, "dropout": 0.0}}, "masks": {"head": "mask2former", "mask2former": MASKS}}
SEMI = Semi(likelihood=0.5, weigh_masks=True, min_area=4, contrast={"weight": 0})
KINDS = ("pixel", "masks", "semi_pixel", "semi_masks")


def unequal_crops() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Four frames, labels and entropies: the first process' two crops show one class on a few pixels, the others up to four everywhere."""
    generator = torch.Generator().manual_seed(1)
    frames = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 4, (4, 8, 8), dtype=torch.uint8, generator=generator).repeat_interleave(8, 1).repeat_interleave(8, 2)
    labels[0] = 255
    labels[1, :, 20:] = 255
    labels[1, :, :20] = 2
    labels[2, 20:] = 255
    return frames, labels, torch.rand(4, 64, 64, generator=generator)


class GivenTargets:
    """Stands in for a method: the loss of retraining under entropies that are given, so that nothing is drawn."""

    def __init__(self, module: nn.Module, doubt: torch.Tensor | None) -> None:
        self.module, self._doubt = module, doubt

    def terms(self, module, average, batch, step, generator):
        frames, labels = batch.flat()
        if self._doubt is None:
            return module(frames, labels, generator)
        turned = frames.flip(1)
        return module(frames, labels, Targets(turned[None], labels, self._doubt.to(frames.device), 0.6, None), None, generator)


def without_batch_norms(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        norm = isinstance(child, nn.BatchNorm2d)
        setattr(module, name, nn.GroupNorm(1, child.num_features) if norm else without_batch_norms(child))
    return module


def same_points_on_every_image(self: ValidPixels, count: int, _images: int, points: int) -> torch.Tensor:
    one = torch.rand(count, 1, points, generator=self._generator)
    return one.expand(count, len(self.labels), points)


def run_whole(rank: int, world: int, port: int, out: Path, exact: bool) -> None:
    """50 steps of SGD in float64 if `exact`, else one of AdamW in float32; leaves what they end with in `out`/<world>_<rank>.pt."""
    torch.set_num_threads(1)
    if world > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    ValidPixels._random = same_points_on_every_image
    steps.seed_of = lambda *_: 7
    recipe = parse_recipe({"name": "whole", "data": {"train": [{"kind": "toy"}]}, "train": {"clip": 0.0, "threads": 1}})
    fabric = start_fabric(recipe)
    frames, labels, doubt = (part.chunk(world)[rank] for part in unequal_crops())
    batch = Batch(frames[:, None], labels[:, None], ("any",) * len(frames))
    ends = {}
    for kind in KINDS:
        torch.manual_seed(0)
        model = Model(backbone="tiny", **HEADS[kind.removeprefix("semi_")])
        segmenter = without_batch_norms(build_segmenter(model, LabelSet("four", tuple("abcd"), COLOURS, (False,) * 4)))
        assert isinstance(segmenter, Segmenter)
        objective = SemiObjective(segmenter, SEMI) if "semi" in kind else Objective(segmenter)
        objective = objective.double() if exact else objective
        module = fabric.setup_module(objective)
        optimizer = torch.optim.SGD(objective.parameters(), 0.002) if exact else torch.optim.AdamW(objective.parameters(), 1e-3)
        training = steps.Training(
            GivenTargets(objective, doubt if "semi" in kind else None), module.train(), fabric.setup_optimizers(optimizer), None
        )
        count = 50 if exact else 1
        losses = [steps.train_step(fabric, training, iter([batch]), recipe.train, step).terms for step in range(count)]
        parameters = dict(objective.named_parameters())
        ends[kind] = {
            "weights": {name: value.detach() for name, value in parameters.items()},
            "gradients": {name: value.grad for name, value in parameters.items() if value.grad is not None},
            "losses": losses,
        }
    torch.save(ends, out / f"{world}_{rank}.pt")


def run_match(rank: int, world: int, port: int, out: Path) -> None:
    """The divisor of mask losses of two processes with 4 and 10 target masks, then with none; leaves them in `out`/match<rank>.pt."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    from semivss.losses.matcher import NonFiniteCost, match

    classes = [[0, 1, 2, 3], list(range(10))][rank]
    counts = [float(match(torch.zeros(1, 1, 12, len(ids)), [ids])[1]) for ids in (classes, [])]
    bad = torch.zeros(1, 1, 12, 4).index_fill(3, torch.tensor(2), float("nan") if rank else 0.0)
    try:
        match(bad, [[0, 1, 2, 3]])
        refused = False
    except NonFiniteCost:
        refused = True
    torch.save({"counts": counts, "refused": refused}, out / f"match{rank}.pt")
    torch.distributed.destroy_process_group()
