"""A recipe in, what each of its stages costs out: parameters, operations, memory by part, views, and how long that would take.

No data is opened: the number of classes comes from the kind of the data set, frames are taken to have one size, and the number of frames is
that of the published lists.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from semivss import layout
from semivss.cost.model_cost import StepCost, build_meta, count_parameters, prediction_cost, step_cost
from semivss.data.labels import LabelSet, label_set, vspw124
from semivss.data.toy import toy_labels
from semivss.errors import RecipeError
from semivss.infer.views import views_from
from semivss.models.segmenter import Segmenter
from semivss.plan import retraining_recipe, supervised_recipe
from semivss.recipe import Recipe, evaluation_sets
from semivss.settings import Model, Source, Views
from semivss.train.sharding import units

Size = tuple[int, int]

VSPW_FRAMES = {"train": 198_330, "val": 24_503, "test": 28_902}  # by the published lists, end - start + 1
CLASSES = {"ade20k": "ade20k150", "coco_stuff": "coco_stuff171", "coco_panoptic": "coco_panoptic133", "cityscapes": "cityscapes19"}


@dataclass(frozen=True)
class Machine:
    """What a cost is asked for."""

    processes: int = 1  # that train together; each has a device of its own
    device: str = "gpu"  # or cpu
    frame: Size = (480, 853)  # height and width of the frames to predict; VSPW's usual release
    speed: float = 350e12  # operations a second and device: a third of an H100's peak in bfloat16


@dataclass(frozen=True)
class TrainingCost:
    """One training stage, in one of the processes unless it says otherwise."""

    name: str  # folder
    parameters: Mapping[str, int]
    crops: int  # that go through the model together, in one process
    size: Size
    recompute: bool
    step: StepCost
    memory: Mapping[str, int]  # bytes by part; their sum is the peak
    flops: int  # of an optimiser step of all processes
    steps: int
    hours: float

    @property
    def peak(self) -> int:
        """Bytes."""
        return sum(self.memory.values())


@dataclass(frozen=True)
class LookCost:
    """Of one model and one frame."""

    flops: int
    weights: int  # bytes
    extra: int  # bytes beside the weights at the worst moment


@dataclass(frozen=True)
class LabellingCost:
    """One set of frames that models predict, on one device."""

    name: str
    models: int
    views: int  # a frame and model
    windows: int  # of all views, a frame and model
    flops: int  # a frame, all models
    frames: int | None  # none = not known without the data
    peak: int  # bytes
    seconds: float  # a frame


def recipe_costs(recipe: Recipe, machine: Machine) -> tuple[list[TrainingCost], list[LabellingCost]]:
    """All stages of a run. Raises RecipeError for a batch that the processes cannot share, and as `build_segmenter` does."""
    labels = expected_classes(recipe.data.train[0])
    trainings = [training_cost(name, own, labels, machine) for name, own in training_recipes(recipe)]
    return trainings, list(_labellings(recipe, labels, machine))


def switched(recipe: Recipe) -> Recipe:
    """The same with recomputing on where it is off, and the other way round."""
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"recompute": not recipe.model.recompute})})


def training_recipes(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Folder and recipe of each training stage; of several rounds the first, and controls are left out."""
    for role, folder in layout.supervised(recipe).items():
        yield folder, supervised_recipe(recipe, role)
    if layout.rounds(recipe):
        for role, folder in layout.retrained(recipe, 1).items():
            yield folder, retraining_recipe(recipe, role)


def training_cost(name: str, recipe: Recipe, labels: LabelSet, machine: Machine) -> TrainingCost:
    """One training stage."""
    train, size = recipe.train, recipe.data.augment.crop
    samples = _shared(train.batch, machine, "train.batch") * _frames_a_sample(recipe)
    looked_at = 0  # crops that the averaged model looks at as well
    semi = recipe.semi if recipe.semi is not None and recipe.semi.mode != "supervised" else None
    labelled = samples
    if semi is not None:
        guessed = _shared(semi.unlabelled_batch, machine, "semi.unlabelled_batch")
        samples += semi.strong.views * guessed
        looked_at += guessed if semi.mode == "online" else 0
        if semi.contrast.weight and semi.contrast.teacher == "ema":
            looked_at += round(semi.contrast.share * (labelled + guessed))
    model = build_meta(recipe.model, labels, machine.device)
    own = step_cost(model, size, samples, bf16=train.precision == "bf16")
    bank = 0
    if semi is not None and semi.contrast.weight:
        bank = (2 if semi.contrast.bank_precision == "bf16" else 4) * len(labels) * semi.contrast.bank * semi.contrast.channels
    shards = machine.processes if train.sharding == "full" else 1
    forward = own.flops["backbone"] + own.flops["head"]
    a_pass = own.total_flops + forward * looked_at // samples
    flops = a_pass * train.accumulate * machine.processes
    return TrainingCost(
        name,
        count_parameters(model),
        samples,
        size,
        recipe.model.recompute,
        own,
        _memory(model, own, bool(train.ema), bank, machine.processes, shards),
        flops,
        train.steps,
        flops * train.steps / machine.processes / machine.speed / 3600,
    )


def look_cost(model: Model, views: Views, batch: int, labels: LabelSet, machine: Machine) -> LookCost:
    """What one model needs for all views of a frame."""
    segmenter = build_meta(model, labels, machine.device)
    windows = _windows(views, machine)
    costs = {size: prediction_cost(segmenter, size, min(batch, windows.count(size)), machine.frame) for size in dict.fromkeys(windows)}
    weights = sum(p.numel() * p.element_size() for p in segmenter.parameters())
    return LookCost(sum(costs[size].flops for size in windows), weights, max(cost.peak for cost in costs.values()) - weights)


def labelling_cost(
    name: str, looks: Sequence[LookCost], views: Views, frames: int | None, machine: Machine, *, together: bool = True
) -> LabellingCost:
    """Models that label or predict the same frames, as an ensemble or, not `together`, one after the other."""
    flops = sum(look.flops for look in looks)
    weights = [look.weights for look in looks]
    peak = max(look.extra for look in looks) + (sum(weights) if together else max(weights))
    count = len(_windows(views, machine))
    return LabellingCost(name, len(looks), len(views_from(views)), count, flops, frames, peak, flops / machine.speed)


def _windows(views: Views, machine: Machine) -> list[Size]:
    return [(window.height, window.width) for view in views_from(views) for window in view.windows(machine.frame)]


def expected_classes(source: Source) -> LabelSet:
    """The classes that a data set of this kind has; those of VSPW where only the data can tell."""
    if source.remap is not None:
        return label_set(source.remap.rsplit("_to_", 1)[-1])
    if source.kind == "toy":
        return toy_labels()
    return label_set(CLASSES[source.kind]) if source.kind in CLASSES else vspw124()


def expected_frames(source: Source) -> int | None:
    """The number of frames, where it is known without the data."""
    if source.kind == "toy":
        return source.toy.clips * source.toy.frames
    return VSPW_FRAMES.get(source.split) if source.kind == "vspw" else None


def _labellings(recipe: Recipe, labels: LabelSet, machine: Machine) -> Iterator[LabellingCost]:
    models = {"student": recipe.model} | ({} if recipe.teacher is None else {"teacher": recipe.teacher.model})
    known: dict[tuple[str, str, int], LookCost] = {}

    def looks(roles: Sequence[str], views: Views, batch: int) -> list[LookCost]:
        for role in roles:
            if (role, str(views), batch) not in known:
                known[role, str(views), batch] = look_cost(models[role], views, batch, labels, machine)
        return [known[role, str(views), batch] for role in roles]

    if recipe.semi is not None and recipe.semi.mode == "offline":
        counts = [expected_frames(source) for source in recipe.data.unlabelled]
        frames = None if None in counts else sum(count or 0 for count in counts)
        settings = recipe.pseudo
        yield labelling_cost("pseudo labels", looks([*models], settings.views, settings.batch), settings.views, frames, machine)
    views, batch = recipe.predict.views, recipe.predict.batch
    for name, source in evaluation_sets(recipe).items():
        frames = expected_frames(source)
        yield labelling_cost(f"predict {name}", looks([*models], views, batch), views, frames, machine)
        if single := ["teacher" if "teacher" in folder else "student" for folder in layout.compared(recipe)]:
            title = f"predict {name} with each model, for the comparison"
            yield labelling_cost(title, looks(single, views, batch), views, frames, machine, together=False)


def _memory(model: Segmenter, step: StepCost, average: bool, bank: int, processes: int, shards: int) -> dict[str, int]:
    """Bytes by part. What the units need that are put together is no longer shared: two at a time, and all that is in none."""
    learned = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    together = 0
    if shards > 1:
        sizes = [sum(p.numel() * p.element_size() for p in unit.parameters()) for unit in units(model)]
        together = 2 * (max(sizes, default=0) * 2 + learned - sum(sizes))  # weights, and gradients on their way
    parts = {
        "weights": step.weights // shards,
        "gradients": learned // shards,
        "AdamW": 2 * learned // shards,
        "average": step.weights if average else 0,
        "exchange": learned if processes > 1 and shards == 1 else together,  # DDP's buckets, or units that are put together
        "bank of L_c": bank,
        # whole gradients come as activations go, so that the sum is the worst moment; shares of them are too small for that
        "activations": max(step.peak - step.weights - learned, 0) if shards == 1 else step.activations,
    }
    return {name: size for name, size in parts.items() if size}


def _shared(batch: int, machine: Machine, key: str) -> int:
    if batch % machine.processes:
        raise RecipeError(f"{key} {batch} cannot be shared out among {machine.processes} processes; give --processes a divisor of it")
    return batch // machine.processes


def _frames_a_sample(recipe: Recipe) -> int:
    sampling = recipe.data.sampling
    return len(sampling.offsets) + 1 if sampling.offsets else sampling.frames
