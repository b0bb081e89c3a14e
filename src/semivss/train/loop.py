"""A recipe in, a trained model folder out: the training loop, on one process or several, that can be stopped anywhere and goes on."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric

from semivss.atomic import atomic_json
from semivss.data.labels import LabelSet
from semivss.data.loader import tell_left_out
from semivss.data.policy import DefectCounter
from semivss.data.shares import check_anything_shown, check_classes_shown
from semivss.data.source import open_source, open_sources, same_classes
from semivss.errors import DataError, SemivssError
from semivss.metrics.confusion import Confusion
from semivss.models.bias_memory import biases_of
from semivss.models.folder import read_description
from semivss.models.segmenter import Segmenter
from semivss.models.zoo import build_segmenter
from semivss.out_of_memory import told
from semivss.progress import say, track
from semivss.recipe import Recipe, Sections
from semivss.settings import Model
from semivss.train.checkpoint import load_checkpoint, save_checkpoint
from semivss.train.depthwise import keep_depthwise_exact
from semivss.train.ema import AveragedModel
from semivss.train.evaluate import Validation, evaluate, evaluation_view
from semivss.train.interrupt import Interrupt
from semivss.train.journal import Journal
from semivss.train.method import AnyBatch, Given, Method, Supervised
from semivss.train.optim import build_optimizer, learning_rate, set_learning_rate
from semivss.train.panels import save_panel
from semivss.train.processes import run_folder, start_fabric
from semivss.train.sharding import is_sharded, load_whole, load_whole_optimizer, whole, whole_module
from semivss.train.steps import WEIGHTS, StepResult, Training, agree, check_patience, seed_of, train_step
from semivss.train.too_large import too_large_crops, too_large_frames, too_large_loading, too_large_model

OWN = Sections()


@dataclass
class Counters:
    """Where a run stands; plain values, part of every checkpoint."""

    step: int = 0  # optimiser steps done, skipped ones included
    evaluated: int = 0  # step of the last evaluation
    best_miou: float = -1.0  # of the weights in model/
    best_step: int = 0
    skipped: int = 0  # steps without a finite result
    skipped_in_a_row: int = 0
    seconds: float = 0.0  # wall clock of the loop, evaluations included, over all starts
    cpu_seconds: float = 0.0  # the same in CPU time of this process, without loader workers
    sums: dict[str, float] = field(default_factory=dict)  # of what the next row of the journal averages
    counts: dict[str, int] = field(default_factory=dict)  # steps that each of them was seen in


def train(recipe: Recipe, out: Path, *, given: Given | None = None, resume: bool = True, sections: Sections = OWN) -> None:
    """Train the recipe's model into the folder `out`, or go on from `out`/last.ckpt: on labelled data, or as `recipe.semi` says.

    Writes model/ (best validation mIoU; without validation data the latest weights), last.ckpt, metrics.csv, TensorBoard events,
    panels/<step>.png and defects.json. Interrupted anywhere and started again, it ends with bitwise the same weights (on the same
    machine with the same number of threads). With `resume` off, an earlier checkpoint in `out` is overwritten. Retraining needs `given`:
    the weights to start from and the pseudo labels. `sections` says where `recipe.model` and `recipe.train` stand in the
    recipe of the user.

    Raises:
        SemivssError: a setting, file or sample that the user can mend; `out` belongs to another process or another recipe.
        KeyboardInterrupt: after Ctrl-C, when the current step is finished and saved.
    """
    fabric = start_fabric(recipe)
    with run_folder(out, fabric), Interrupt() as interrupt:
        run: Run | None = None
        with told(lambda: too_large_model(recipe, sections, fabric, None if run is None else run.counters.step)):
            run = Run(recipe, out, fabric, interrupt, given or Given(), sections)
            if fabric.is_global_zero:
                tell_left_out(run.datasets)
            if resume:
                run.load()
            if not run.counters.step:
                check = check_classes_shown if recipe.data.absent_classes == "error" else check_anything_shown
                check(run.datasets, recipe.data.policy)
            run.loop()
        run.close()
        interrupt.leave()


class Run:
    """The objects of one training run; `loop` is the method."""

    def __init__(self, recipe: Recipe, out: Path, fabric: Fabric, interrupt: Interrupt, given: Given, sections: Sections = OWN) -> None:
        self.recipe, self.out, self.fabric, self.interrupt = recipe, out, fabric, interrupt
        self.sections = sections
        self.counters, self.defects = Counters(), DefectCounter()
        self.datasets = open_sources(recipe.data.train, recipe.data.policy)
        self.validation = self._validation()
        torch.manual_seed(seed_of(recipe.train.seed, WEIGHTS))
        label_set = self.datasets[0].label_set
        self.segmenter = build_segmenter(_before(recipe.model, given, label_set), label_set)
        if recipe.train.precision == "bf16" and fabric.device.type == "cpu":
            keep_depthwise_exact(self.segmenter)
        self.method = self._method(given)
        self.ema = None
        if decay := recipe.train.ema:
            random = "" if given.weights is None else "representation."  # a new head, however well the student is trained
            begin = recipe.semi.supervised_steps if recipe.semi is not None and random else 0
            self.ema = AveragedModel(self.method.module, decay, random=random, begin=begin)
            self.ema.module.to(fabric.device)
        module = fabric.setup_module(self.method.module)
        self.optimizer = build_optimizer(self.method.module, recipe.train)  # after it: sharding changes what the parameters are
        optimizer = fabric.setup_optimizers(self.optimizer)
        module.train()
        self.training = Training(self.method, module, optimizer, None if self.ema is None else self.ema.module)
        self.journal: Journal | None = None

    def loop(self) -> None:
        """Steps, and between them the journal, evaluations and checkpoints that are due."""
        settings, counters = self.recipe.train, self.counters
        self.journal = Journal(self.out, counters.step) if self.fabric.is_global_zero else None
        began = time.perf_counter() - counters.seconds, time.process_time() - counters.cpu_seconds
        if (row := self._evaluate_if_due()) and self.journal is not None:  # an evaluation that was interrupted
            self.journal.write(counters.step, row)
        batches = self.method.batches(counters.step, self.fabric.global_rank, self.fabric.world_size)
        stream = self._loaded(batches)
        name = f"train {self.out.name}"
        for step in track(range(counters.step, settings.steps), name, total=settings.steps, unit="steps", start=counters.step):
            rate = learning_rate(step, settings)
            set_learning_rate(self.optimizer, rate)
            with told(lambda: too_large_crops(self.recipe, self.sections, self.fabric, self.counters.step + 1)):
                result = train_step(self.fabric, self.training, stream, settings, step)
            if self.ema is not None and not result.skipped:
                self.ema.update(self.method.module, step)
            counters.step = step + 1
            counters.seconds, counters.cpu_seconds = time.perf_counter() - began[0], time.process_time() - began[1]
            self.defects.merge(batches.defects)
            row = self._note(result, rate) | self._evaluate_if_due()
            if row and self.journal is not None:
                self.journal.write(counters.step, row)
            stopping = not agree(self.fabric, not self.interrupt)
            if stopping or counters.step % settings.checkpoint_every == 0 or counters.step == settings.steps:
                self.save()
            if stopping:
                say(f"stopped after step {counters.step} of {settings.steps}; the same command goes on from there")
                break

    def save(self) -> None:
        """Write last.ckpt and defects.json; without validation data also model/."""
        defects = self._all_defects()
        best = self.best() if self.validation is None else None
        first = self.fabric.is_global_zero
        weights, moments = (whole(part.state_dict(), keep=first) for part in (self.method.module, self.optimizer))
        if first:
            if best is not None:
                best.save_pretrained(self.out / "model")
            state = {
                "model": weights,
                "optimizer": moments,
                "ema": None if self.ema is None else self.ema.module.state_dict(),
                "method": self.method.state_dict(),
                "counters": asdict(self.counters),
                "defects": defects.to_dict(limit=None),
            }
            save_checkpoint(self.out / "last.ckpt", self.recipe, state)
            atomic_json(self.out / "defects.json", defects.to_dict())
        self.fabric.barrier()

    def load(self) -> None:
        """Go on from last.ckpt, if there is one. Raises SemivssError for a damaged one, or one of another recipe."""
        path = self.out / "last.ckpt"
        if not path.exists():
            return
        state = load_checkpoint(path, self.recipe)
        load_whole(self.method.module, state["model"])
        load_whole_optimizer(self.optimizer, state["optimizer"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.method.load_state_dict(state["method"])
        self.counters = Counters(**state["counters"])
        self.defects = DefectCounter.from_dict(state["defects"])
        if self.counters.step < self.recipe.train.steps:
            say(f"{path}: going on after step {self.counters.step}")

    def close(self) -> None:
        if self.journal is not None:
            self.journal.close()
        if self.defects:
            say(
                f"damaged or missing files met under policy {self.recipe.data.policy}: {self.defects}; names in {self.out / 'defects.json'}"
            )

    def best(self) -> Segmenter:
        """The weights to evaluate and save, whole: the averaged ones if the recipe averages. All processes must call it."""
        if self.ema is not None:
            return cast(Segmenter, self.ema.module.segmenter)
        if not is_sharded(self.segmenter):
            return self.segmenter
        return whole_module(self.segmenter)

    def _method(self, given: Given) -> Method:
        if self.recipe.semi is None:
            return Supervised(self.recipe, self.datasets, self.segmenter)
        from semivss.train.semi import SemiSupervised

        return SemiSupervised(self.recipe, self.recipe.semi, self.datasets, self.segmenter, given, self.fabric)

    def _validation(self) -> Validation | None:
        data, fabric = self.recipe.data, self.fabric
        if data.val is None:
            return None
        dataset = open_source(data.val, data.policy)
        same_classes(self.datasets[0], dataset)
        stride = self.recipe.train.evaluate_stride
        view = evaluation_view(data.augment)
        return Validation.of(dataset, data.policy, view, stride=stride, rank=fabric.global_rank, world=fabric.world_size)

    def _note(self, result: StepResult, rate: float) -> dict[str, float]:
        """Add a step to the journal's averages; the row, when one is due. Raises SemivssError after too many skipped steps."""
        counters, settings = self.counters, self.recipe.train
        counters.skipped_in_a_row = counters.skipped_in_a_row + 1 if result.skipped else 0
        if result.skipped:
            counters.skipped += 1
            try:
                check_patience(result, counters.skipped_in_a_row)
            except SemivssError:
                counters.skipped_in_a_row = 0  # a later start gets its ten tries again
                self.save()
                raise
        else:
            values = {"loss": sum(result.terms.values())} | {f"loss_{name}": value for name, value in result.terms.items()}
            for name, value in (values | {"gradient_norm": result.norm} | self.method.notes()).items():
                counters.sums[name] = counters.sums.get(name, 0.0) + value
                counters.counts[name] = counters.counts.get(name, 0) + 1
        if counters.step % settings.log_every and counters.step != settings.steps:
            return {}
        means = {name: value / counters.counts[name] for name, value in counters.sums.items()}
        counters.sums, counters.counts = {}, {}
        return means | {"lr": rate, "skipped": counters.skipped, "seconds": counters.seconds, "cpu_seconds": counters.cpu_seconds}

    def _evaluate_if_due(self) -> dict[str, float]:
        """Score the validation set if it is time and keep the weights if they are the best so far; the scores for the journal."""
        counters, settings = self.counters, self.recipe.train
        due = counters.step % settings.evaluate_every == 0 or counters.step == settings.steps
        if self.validation is None or not due or counters.evaluated == counters.step or not agree(self.fabric, not self.interrupt):
            return {}
        with told(lambda: too_large_frames(self.recipe, self.sections, self.fabric, self.counters.step)):
            best = self.best()
            done = evaluate(
                best.eval(),
                self.validation,
                settings.panel_frames,
                self.defects,
                lambda: bool(self.interrupt),
                batch=settings.evaluate_batch,
                precision=settings.precision,
            )
            for memory in biases_of(best):  # of an average, whose tables go on changing
                memory.clear()
        self.method.module.train()
        if not agree(self.fabric, done is not None) or done is None:
            return {}
        confusion, rows = done
        scores = pooled(self.fabric, confusion).scores()
        if scores.miou is None:
            raise DataError(f"{self.validation.dataset.name}: no labelled pixel to evaluate on; mend data.val or leave it out")
        counters.evaluated = counters.step
        if self.fabric.is_global_zero:
            title = f"{self.recipe.name}, step {counters.step}: mIoU {scores.miou:.3f} on {self.validation.dataset.name}"
            save_panel(self.out / "panels" / f"{counters.step:06d}.png", rows, self.validation.dataset.label_set, title)
            say(f"{self.out.name}, step {counters.step}: val mIoU {100 * scores.miou:.2f}, accuracy {100 * (scores.acc or 0):.2f}")
        if scores.miou > counters.best_miou:
            counters.best_miou, counters.best_step = scores.miou, counters.step
            if self.fabric.is_global_zero:
                best.save_pretrained(self.out / "model")
        return {"val_miou": scores.miou, "val_acc": scores.acc or 0.0, "val_weighted_iou": scores.weighted_iou or 0.0}

    def _loaded(self, batches: Iterable[AnyBatch]) -> Iterator[AnyBatch]:
        """The batches; what their loading has no room for is not laid at the model's door."""
        with told(lambda: too_large_loading(self.recipe)):
            yield from batches

    def _all_defects(self) -> DefectCounter:
        """Defects met by all processes."""
        if self.fabric.world_size == 1:
            return self.defects
        found: list[Any] = [None] * self.fabric.world_size
        torch.distributed.all_gather_object(found, self.defects.to_dict(limit=None))
        for one in found:
            self.defects.merge(DefectCounter.from_dict(one))
        return self.defects


def _before(model: Model, given: Given, label_set: LabelSet) -> Model:
    """What to build where `given` has weights for all of it: those that `model` names would be read, or fetched, for nothing."""
    if given.weights is None:
        return model
    saved, classes = read_description(given.weights)
    fits = classes.names == label_set.names and saved.head == model.head  # else refused when the weights are taken over
    rows = saved.class_rows if fits else None
    return model.model_copy(update={"weights": None, "pretrained": False, "class_rows": rows})


def pooled(fabric: Fabric, confusion: Confusion) -> Confusion:
    """The sum of all processes' counts, on all of them."""
    counts = fabric.all_reduce(torch.from_numpy(confusion.counts).to(fabric.device), reduce_op="sum")
    return Confusion(confusion.num_classes, counts.cpu().numpy())
