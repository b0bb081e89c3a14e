"""A file of golden numbers of U2PL in, the same steps by this package compared with them. As a script it is one of several processes."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from semivss.data.labels import LabelSet
from semivss.losses.bank import MemoryBank
from semivss.losses.contrast_sets import ContrastSets, RankWindow, Regions, contrast_sets, regions
from semivss.losses.contrastive import MomentumPrototypes, RowSampler, class_means, contrastive_loss
from semivss.losses.supervised import pixel_loss
from semivss.losses.unsupervised import pixel_unsupervised_loss, reliable_factor
from semivss.posterior import class_distribution, entropy, entropy_percentile, resize_maps, split_labels, unreliability_threshold
from semivss.recipe import parse_recipe
from semivss.settings import Contrast as Settings
from semivss.tensors import PixelLogits, Split
from semivss.train.checkpoint import load_checkpoint, save_checkpoint
from semivss.train.contrast import Contrast

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
JUDGED = {"positive_mask", "anchor_mask", "negative_mask", "new_keys", "contra_loss", "grad_rep", "bank_after", "bank_after_len"}


@dataclass(frozen=True)
class Recorded(RowSampler):
    """The draws of the file."""

    drawn: Tensor | None = None
    read: Tensor | None = None

    def anchors(self, candidates: Tensor) -> Tensor:
        assert len(candidates) == len(self.drawn)
        return self.drawn

    def rows(self, queued: Tensor) -> Tensor:
        assert bool((self.read < queued[:, None, None]).all())
        return self.read


class Step:
    """What the file says of one step on one rank: `step["in_label_l"]`; `name in step`."""

    def __init__(self, arrays: dict[str, np.ndarray], param: dict[str, Any], number: int, rank: int) -> None:
        prefix = (f"s{number}_" if param["steps"] > 1 else "") + (f"r{rank}_" if param["world"] > 1 else "")
        self._arrays = {
            key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith((f"{prefix}in_", f"{prefix}out_"))
        }
        self.param, self.number = param, number
        self.asserted: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(np.asarray(self._arrays[name]))

    def equal(self, name: str, ours: Tensor) -> None:
        """Exactly the same numbers, where the file has them."""
        if name in self:
            assert torch.equal(ours.to(self[name].dtype), self[name]), f"step {self.number}: {name} differs"
            self.asserted.add(name)

    def close(self, name: str, ours: Tensor | float) -> None:
        """The same within tolerance, where the file has it; 0 where the published code returned NaN for want of pixels."""
        if name in self:
            expected = self[name].nan_to_num(nan=0.0)
            ours = torch.as_tensor(ours).to(expected.dtype)
            torch.testing.assert_close(ours, expected, **CLOSE, msg=lambda text: f"step {self.number}: {name}: {text}")
            self.asserted.add(name)

    @property
    def labels(self) -> tuple[Tensor, Tensor]:
        return self["in_label_l"].to(torch.uint8), self["in_label_u_aug"].to(torch.uint8)

    @property
    def alpha(self) -> float:
        epoch = self.param["epoch"] + self.number * self.param.get("epoch_inc", 0)
        return float(self.param["alpha0"] * (1 - epoch / self.param["epochs"]))

    def large(self, name: str, maps: Tensor) -> Tensor:
        """Full-size logits of the file, or ours where it leaves them out."""
        size = (self.param["H"], self.param["W"])
        ours = resize_maps(maps, size, align_corners=True)
        self.close(name, ours)
        return torch.from_numpy(self._arrays.get(name, ours.numpy()))


def load(file: Path, rank: int) -> list[Step]:
    with np.load(file) as archive:
        arrays = dict(archive)
    param = json.loads(str(arrays["param_json"]))
    return [Step(arrays, param, number, rank) for number in range(param["steps"])]


def worlds(file: Path) -> tuple[int, int]:
    """Processes and steps of a file."""
    with np.load(file) as archive:
        param = json.loads(str(archive["param_json"]))
    return param["world"], param["steps"]


def judge(file: Path, rank: int = 0, folder: Path | None = None) -> int:
    """Replay all steps in the variants that the file has; returns how many numbers and arrays were compared.

    With a `folder`, bank and prototypes go through a file there between steps.
    """
    steps = load(file, rank)
    for step in steps:
        judge_labels(step)
    for variant in ("fix", "ema"):
        if any(f"out_{variant}_contra_loss" in step for step in steps):
            judge_contrast(steps, variant, folder)
    for step in steps:  # a name that is no longer compared would pass unseen
        assert {f"out_fix_{name}" for name in JUDGED} | {"out_unsup_loss", "out_unsup_target"} <= step.asserted
    return sum(len(step.asserted) for step in steps)


def judge_labels(step: Step) -> None:
    """Supervised loss, entropy, threshold, split and unsupervised loss."""
    labelled, labels = step.labels
    count, size = len(labelled), (step.param["H"], step.param["W"])
    step.close("out_sup_loss", pixel_loss(step.large("in_pred_l_large", step["in_pred_all"][:count]), labelled))
    doubt = entropies(step)
    step.close("out_entropy", doubt)
    step.close("out_drop_percent", 100 - step.alpha)
    gamma = unreliability_threshold(doubt, labels, step.alpha)
    step.close("out_gamma_unsup", gamma)
    split = split_labels(labels, doubt, gamma)
    step.equal("out_unsup_target", split.labels)
    step.close("out_unsup_weight", reliable_factor(split, limit=None, count_ignored=True))
    judge_unsupervised(step, split, size)


def judge_unsupervised(step: Step, split: Split, size: tuple[int, int]) -> None:
    student = step["in_pred_all"][-len(split.labels) :]
    step.close("out_unsup_loss", pixel_unsupervised_loss(student, split, limit=None, count_ignored=True, align_corners=True))
    logits = step.large("in_pred_u_large", student).requires_grad_()
    loss = pixel_unsupervised_loss(logits, split, limit=None, count_ignored=True, align_corners=True)
    loss.backward()
    step.close("out_unsup_loss", loss)
    step.close("out_unsup_grad_pred_u_large", logits.grad)


def entropies(step: Step) -> Tensor:
    """Of the teacher on the unlabelled images, at full size."""
    teacher, size = step["in_pred_all_teacher"][-len(step.labels[1]) :], (step.param["H"], step.param["W"])
    given = step.large("in_pred_u_large_teacher", teacher)
    values = entropy(class_distribution(PixelLogits(given, given[:, :0])))
    ours = entropy(class_distribution(PixelLogits(teacher, teacher[:, :0]), size, align_corners=True))
    torch.testing.assert_close(ours, values, **CLOSE)
    return values


def judge_contrast(steps: list[Step], variant: str, folder: Path | None) -> None:
    bank, prototypes = first_bank(steps[0], variant), None
    if variant == "ema":
        prototypes = MomentumPrototypes(steps[0].param["C"], steps[0].param["D"], forget=True)
        prototypes.step = steps[0].param["i_iter0"] - 1
    for step in steps:
        if folder is not None:
            bank, prototypes = reloaded(folder / "state.ckpt", bank, prototypes)
        judge_bank(step, f"out_{variant}_bank_before", bank)
        judge_step(step, variant, bank, prototypes)
        judge_bank(step, f"out_{variant}_bank_after", bank)


def judge_step(step: Step, variant: str, bank: MemoryBank, prototypes: MomentumPrototypes | None) -> None:
    sets = judge_sets(step, variant)
    name = f"out_{variant}_"
    draws = {"drawn": step[name + "anchor_draw"].long(), "read": step[name + "negative_draw"].long()}
    z, teacher = step["in_rep_all"].requires_grad_(), step["in_rep_all_teacher"]
    result = contrastive_loss(z, teacher, sets, bank, Recorded(**draws), temperature=step.param["tau"], prototypes=prototypes)
    result.loss.backward()
    assert result.loss.isfinite()
    step.close(name + "contra_loss", result.loss.detach())
    step.close(name + "grad_rep", z.grad)
    step.equal(name + "new_keys", result.new_keys)
    step.equal(name + "valid_classes", result.positives.nonzero()[:, 0])
    processed = result.processed.nonzero()[:, 0]
    step.equal(name + "proc_anchor_class", processed)
    step.equal(name + "proc_bank_class", processed)
    step.equal(name + "anchor_pixel", sets.anchors.pixels[draws["drawn"] + sets.anchors.starts[processed][:, None]])
    step.close(name + "per_class_loss", result.class_losses[processed])
    if prototypes is not None:
        step.close(name + "momentum_prototype_after", prototypes.rows[:, None])
    if dist.is_initialized():
        mean = result.loss.detach().clone()
        dist.all_reduce(mean)
        step.close(name + "contra_loss_mean_over_ranks", mean / dist.get_world_size())


def judge_sets(step: Step, variant: str) -> ContrastSets:
    """Masks at the representation's size, and the sets made of them."""
    cells = judge_regions(step)
    teacher, size = step["in_pred_all_teacher"], (step.param["h"], step.param["w"])
    p = class_distribution(PixelLogits(teacher, teacher[:, :0]))
    sets = contrast_sets(p, cells, RankWindow(step.param["r_l"], step.param["r_h"]), step.param["delta_p"])
    for name, pixels in (("positive", sets.positives), ("anchor", sets.anchors), ("negative", sets.negatives)):
        step.equal(f"out_{variant}_{name}_mask", pixels.mask(len(teacher), size))
    step.close(f"out_{variant}_positives", class_means(step["in_rep_all_teacher"], sets.positives))
    return sets


def judge_regions(step: Step) -> Regions:
    labels, doubt = step.labels, entropies(step)
    low = entropy_percentile(doubt, labels[1], step.alpha)
    gamma = entropy_percentile(doubt, labels[1], 100 - step.alpha)
    step.close("out_alpha_t", step.alpha)
    step.close("out_low_thresh", low)
    step.close("out_high_thresh", gamma)
    cells = regions(torch.cat(labels), doubt, (step.param["h"], step.param["w"]), gamma, low, whole=True)
    step.equal("out_label_small", cells.labels)
    step.equal("out_low_mask_all", cells.sure[:, None])
    step.equal("out_high_mask_all", cells.unsure[:, None])
    return cells


def new_bank(step: Step) -> MemoryBank:
    sizes = [step.param.get("qsize0", step.param["qsize"])] + [step.param["qsize"]] * (step.param["C"] - 1)
    return MemoryBank(step.param["C"], step.param["D"], sizes, most=None, unit=False)


def first_bank(step: Step, variant: str) -> MemoryBank:
    """With the rows that the file starts from."""
    bank, name = new_bank(step), f"out_{'fix' if variant == 'ema' else variant}_bank_before"
    if name in step:
        lengths = step[f"{name}_len"].long()
        rows = torch.nn.utils.rnn.pad_sequence(list(step[name].split(lengths.tolist())), batch_first=True)
        bank.load_state_dict({"rows": rows, "lengths": lengths, "ends": lengths % bank.sizes, "sizes": bank.sizes})
    return bank


def judge_bank(step: Step, name: str, bank: MemoryBank) -> None:
    name = name.replace("_ema_", "_fix_")  # the same in both
    step.equal(f"{name}_len", bank.lengths)
    step.equal(name, torch.cat(bank.queues()))


def reloaded(path: Path, bank: MemoryBank, prototypes: MomentumPrototypes | None) -> tuple[MemoryBank, MomentumPrototypes | None]:
    """Fresh objects with the state of these, by way of the checkpoint of a training run."""
    recipe = parse_recipe({"name": "golden", "data": {"train": [{"kind": "toy"}]}})
    classes, _, channels = bank.rows.shape
    save_checkpoint(path, recipe, {"method": keeper(bank, prototypes).state_dict()})
    fresh = MemoryBank(classes, channels, bank.sizes.tolist(), most=bank.most, unit=bank.unit)
    averaged = prototypes and MomentumPrototypes(classes, channels, forget=prototypes.forget)
    keeper(fresh, averaged).load_state_dict(load_checkpoint(path, recipe)["method"])
    return fresh, averaged


def keeper(bank: MemoryBank, prototypes: MomentumPrototypes | None) -> Contrast:
    """What keeps bank and prototypes in training, around these."""
    names = tuple(f"class {number}" for number in range(len(bank.rows)))
    label_set = LabelSet("golden", names, ((0, 0, 0),) * len(names), (False,) * len(names))
    kept = Contrast(Settings(channels=1, bank=1), label_set, "spread", 500, torch.device("cpu"))
    kept._bank, kept._prototypes = bank, prototypes
    return kept


def main(file: str, rank: str, world: str, meeting: str) -> None:
    """One process of a file that needs several."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=int(rank), world_size=int(world))
    print(judge(Path(file), int(rank)))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
