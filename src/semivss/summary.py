"""What a recipe means before it runs: resolved settings, parameter counts, a memory estimate and the views of each stage; and its cost."""

from collections.abc import Iterator, Sequence

from semivss import layout
from semivss.cost.model_cost import build_meta, count_parameters
from semivss.cost.recipe_cost import (
    SPEEDS,
    LabellingCost,
    Machine,
    TrainingCost,
    expected_classes,
    recipe_costs,
    switched_peak,
    times,
    training_cost,
    training_recipes,
)
from semivss.recipe import Recipe, dump_recipe
from semivss.settings import Views
from semivss.wording import counted


def describe(recipe: Recipe) -> str:
    """The text of `semivss show`. No model is made and no data opened; memory is that of one process on a GPU."""
    labels = expected_classes(recipe.data.train[0])
    views = recipe.predict.views
    lines = [dump_recipe(recipe).rstrip(), "", f"# recipe hash      {recipe.digest()}"]
    for name, own in training_recipes(recipe):
        if name == "student":
            cost = training_cost(name, own, labels, Machine())
            parts = cost.parameters
            lines += [
                f"# parameters       {sum(parts.values()):,} ({parts['backbone']:,} backbone, {parts['head']:,} head)",
                f"# training memory  {_memory(cost)} of a batch of {own.train.batch}",
                f"# a step           {own.train.batch * own.train.accumulate} crops of {_size(own.data.augment.crop)}",
                f"# steps            {own.train.steps:,}",
                "# evaluation       1 view a frame: scale 1, no flip",
            ]
        if name == "retrained":
            cost = training_cost(name, own, labels, Machine())
            lines += [_retraining(recipe), f"# its memory       {_memory(cost)} of {cost.crops} crops"]
    if recipe.teacher is not None:
        parts = count_parameters(build_meta(recipe.teacher.model, labels))
        lines += [f"# teacher          {sum(parts.values()):,} parameters, {(recipe.teacher.train or recipe.train).steps:,} steps"]
    if recipe.semi is not None and recipe.semi.mode == "offline":
        lines += [f"# pseudo labels    {_count_views(recipe.pseudo.views)}: {_views(recipe.pseudo.views)}"]
    return "\n".join([*lines, f"# predict          {_count_views(views)}: {_views(views)}"])


def describe_cost(recipe: Recipe, machine: Machine) -> str:
    """The text of `semivss show --cost`. Raises RecipeError for a batch that the processes cannot share."""
    trainings, labellings = recipe_costs(recipe, machine)
    labels, recipes = expected_classes(recipe.data.train[0]), dict(training_recipes(recipe))
    on = f"{counted(machine.processes, machine.device.upper())}{_speed(machine)}"
    lines = [
        f"# Cost on {on}, counted from shapes; a multiplication and an addition are 2 operations.",
        "# Memory is of live tensors: an allocator and the kernels' work space come on top. Attention is counted with all its weights:",
        "# the fused kernels of a GPU need less.",
    ]
    for training in trainings:
        lines += _training_lines(training, switched_peak(recipes[training.name], labels, machine), machine)
    for labelling in labellings:
        lines += _labelling_lines(labelling, machine)
    return "\n".join([*lines, _total(recipe, trainings, labellings, machine)])


def _total(recipe: Recipe, trainings: Sequence[TrainingCost], labellings: Sequence[LabellingCost], machine: Machine) -> str:
    """Every round, control and evaluation of the run."""
    parts: list[float | None] = []
    for training in trainings:
        count = machine.processes * times(recipe, training.name)
        own = [training.hours, *([] if training.evaluation is None else [training.evaluation.hours])]
        parts += [None if hours is None else hours * count for hours in own]
    for labelling in labellings:
        again = len(layout.rounds(recipe)) if labelling.name == "pseudo labels" else 1
        parts.append(None if labelling.hours is None else labelling.hours * again)
    if machine.hours(1, "32") is None:
        return f"# all               hours of a {machine.device.upper()} need its speed: give --tflops"
    more = ", and sets of unknown length" if None in parts else ""
    return f"# all               {_hours(sum(hours or 0 for hours in parts))} of one {machine.device.upper()}{more}"


def _speed(machine: Machine) -> str:
    if machine.speed is not None:
        return f" at {machine.speed / 1e12:g} TFLOP/s each"
    if machine.device == "gpu":
        return " at " + " and ".join(
            f"{speed / 1e12:g} TFLOP/s in {'float32' if name == '32' else 'bfloat16'}" for name, speed in SPEEDS.items()
        )
    return ""


def _training_lines(cost: TrainingCost, other: int, machine: Machine) -> Iterator[str]:
    backbone, head = (cost.parameters[part] / 1e6 for part in ("backbone", "head"))
    yield f"# {cost.name}"
    yield f"#   parameters      {backbone + head:,.1f} M: {backbone:,.1f} backbone, {head:,.1f} head"
    crops = f"{counted(cost.crops, 'crop')} of {_size(cost.size)} at a time"
    shares = ", ".join(f"{_flop(flops)} {name}" for name, flops in cost.step.flops.items())
    yield f"#   a pass          {_flop(cost.step.total_flops)} for {crops}: {shares}"
    memory = ", ".join(f"{_bytes(size)} {name}" for name, size in cost.memory.items())
    yield f"#   memory          {_bytes(cost.peak)} a {machine.device.upper()}: {memory}"
    yield f"#   {'without' if cost.recompute else 'with'} model.recompute: {_bytes(other)}"
    yield f"#   {cost.steps:,} steps".ljust(20) + f"{_flop(cost.flops)} each, {_flop(cost.flops * cost.steps)} in all{_colon(cost.hours)}"
    if (evaluation := cost.evaluation) is not None:
        frames = "" if evaluation.frames is None else f" of {evaluation.frames:,} frames"
        line = f"#   {evaluation.times:,} evaluations{frames}: {_flop(evaluation.flops)} a frame"
        yield f"{line}, {_bytes(evaluation.peak)} a {machine.device.upper()}{_colon(evaluation.hours)}"


def _labelling_lines(cost: LabellingCost, machine: Machine) -> Iterator[str]:
    models = f"{counted(cost.models, 'model')}"
    yield f"# {cost.name}"
    yield (
        f"#   a frame         {_size(machine.frame)}: {cost.views} views, {cost.windows} windows, {models}: "
        f"{_flop(cost.flops)}, {_bytes(cost.peak)}"
    )
    if cost.frames is not None:
        hours = "" if cost.hours is None else f"{_colon(cost.hours)} of one {machine.device.upper()}"
        yield f"#   {cost.frames:,} frames".ljust(20) + _flop(cost.frames * cost.flops) + hours


def _colon(hours: float | None) -> str:
    return "" if hours is None else f": {_hours(hours)}"


def _retraining(recipe: Recipe) -> str:
    semi = recipe.semi
    assert semi is not None
    unlabelled = "" if semi.mode == "supervised" else f" and {semi.unlabelled_batch} unlabelled"
    rounds = f", {semi.rounds} rounds" if semi.rounds > 1 else ""
    return f"# retraining       {semi.mode}, {semi.train.steps:,} steps of {semi.train.batch} labelled{unlabelled} crops{rounds}"


def _memory(cost: TrainingCost) -> str:
    """The estimate in words."""
    parts = ", ".join(f"{_bytes(size)} {name}" for name, size in cost.memory.items())
    return f"about {_bytes(cost.peak)}: {parts}"


def _bytes(size: int | float) -> str:
    return f"{size / 2**30:,.2f} GiB" if size >= 2**30 else f"{size / 2**20:,.0f} MiB"


def _flop(count: int | float) -> str:
    """With the prefix that leaves at most three digits before the point."""
    for size, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T")):
        if count >= size:
            return f"{count / size:,.2f} {prefix}FLOP"
    return f"{count / 1e9:,.2f} GFLOP"


def _hours(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours >= 0.1 else f"{hours * 3600:,.1f} seconds"


def _count_views(views: Views) -> str:
    return f"{2 * len(views.scales) if views.flip else len(views.scales)} views a frame"


def _views(views: Views) -> str:
    return "; ".join(_view_parts(views))


def _view_parts(views: Views) -> Iterator[str]:
    yield "scales " + ", ".join(f"{scale:g}" for scale in views.scales) + (", each with its mirror image" if views.flip else "")
    yield f"windows of {_size(views.crop)}, step {_size(views.stride) if views.stride else 'two thirds'}" if views.crop else "whole frames"
    if views.short_side is not None:
        yield f"frames resized first, {views.short_side} pixels along their shorter side"
    else:
        yield f"frames resized to {_size(views.base)} first" if views.base else "frames at their own size"


def _size(size: tuple[int, int] | None) -> str:
    return "-" if size is None else f"{size[0]}x{size[1]}"
