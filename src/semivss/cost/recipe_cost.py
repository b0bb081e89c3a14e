"""A recipe in, what each of its stages costs out: parameters, operations, memory by part, views, and how long that would take.

No data is opened: the number of classes comes from the kind of the data set, frames are taken to have one size, and the number of frames is
that of the published lists.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from semivss import layout
from semivss.cost.model_cost import StepCost, build_meta, prediction_cost, step_cost
from semivss.data.labels import LabelSet, label_set, vspw124
from semivss.data.toy import toy_labels
from semivss.errors import RecipeError
from semivss.infer.views import views_from
from semivss.models.segmenter import Segmenter
from semivss.plan import control_recipe, retraining_recipe, supervised_recipe
from semivss.recipe import Recipe, evaluation_sets
from semivss.settings import Model, Predict, PseudoLabels, Source, Views
from semivss.train.evaluate import evaluation_view
from semivss.train.sharding import units

Size = tuple[int, int]

VSPW_FRAMES = {"train": 198_330, "val": 24_503, "test": 28_902}  # by the published lists, end - start + 1
CLASSES = {"ade20k": "ade20k150", "coco_stuff": "coco_stuff171", "coco_panoptic": "coco_panoptic133", "cityscapes": "cityscapes19"}


# operations a second that a GPU is taken to do: a third of an H100's peak in bfloat16, and two thirds of its peak in float32
SPEEDS = {"bf16": 350e12, "32": 45e12}


@dataclass(frozen=True)
class Machine:
    """What a cost is asked for."""

    processes: int = 1  # that train together; each has a device of its own
    device: str = "gpu"  # or cpu
    frame: Size = (480, 853)  # height and width of the frames to predict; VSPW's usual release
    speed: float | None = None  # operations a second and device; none = SPEEDS of a GPU, and unknown of a CPU

    def precision(self, wanted: str) -> str:
        """What "auto" is taken to be: bf16 on a GPU, 32 on a CPU, though those with AMX take bf16 too."""
        return wanted if wanted != "auto" else "bf16" if self.device == "gpu" else "32"

    def hours(self, flops: int | float, precision: str) -> float | None:
        """Of one device; none where the speed is not known."""
        speed = self.speed or (SPEEDS[precision] if self.device == "gpu" else None)
        return None if speed is None else flops / speed / 3600


@dataclass(frozen=True)
class EvaluationCost:
    """The evaluations of one training, shared out among its processes."""

    frames: int | None  # of one evaluation; none = not known without the data
    times: int
    flops: int  # a frame
    peak: int  # bytes in one process, with all that training keeps meanwhile
    hours: float | None  # of all evaluations


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
    hours: float | None  # without evaluations
    evaluation: EvaluationCost | None

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
    hours: float | None  # of all frames


def recipe_costs(recipe: Recipe, machine: Machine) -> tuple[list[TrainingCost], list[LabellingCost]]:
    """All stages of a run. Raises RecipeError for a batch that the processes cannot share, and as `build_segmenter` does."""
    labels = expected_classes(recipe.data.train[0])
    trainings = [training_cost(name, own, labels, machine) for name, own in training_recipes(recipe)]
    return trainings, list(_labellings(recipe, labels, machine))


def switched_peak(recipe: Recipe, labels: LabelSet, machine: Machine) -> int:
    """Bytes of a training with recomputing on where it is off, and the other way round."""
    other = recipe.model_copy(update={"model": recipe.model.model_copy(update={"recompute": not recipe.model.recompute})})
    return sum(_passed(other, labels, machine).memory.values())


def times(recipe: Recipe, folder: str) -> int:
    """How often a stage of `training_recipes` is done: one that retrains, in each round."""
    return len(layout.rounds(recipe)) if folder in layout.retrained(recipe, 1).values() else 1


def training_recipes(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Folder and recipe of each training stage; of several rounds the first."""
    for role, folder in layout.supervised(recipe).items():
        yield folder, supervised_recipe(recipe, role)
    if layout.rounds(recipe):
        for role, folder in layout.retrained(recipe, 1).items():
            yield folder, retraining_recipe(recipe, role)
        for kind, folder in layout.controls(recipe).items():
            yield folder, control_recipe(recipe, kind)


@dataclass(frozen=True)
class _Passed:
    """A model that has gone through a step."""

    model: Segmenter
    step: StepCost
    memory: Mapping[str, int]
    crops: int
    looked_at: int  # crops that the averaged model looks at as well


def _passed(recipe: Recipe, labels: LabelSet, machine: Machine) -> _Passed:
    train, size = recipe.train, recipe.data.augment.crop
    samples = _shared(train.batch, machine, "train.batch") * recipe.data.sampling.frames_a_sample
    looked_at = 0
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
    memory = _memory(model, own, bool(train.ema), bank, machine.processes, shards)
    return _Passed(model, own, memory, samples, looked_at)


def training_memory(recipe: Recipe, labels: LabelSet, machine: Machine) -> Mapping[str, int]:
    """Bytes of a step in one process, by part; their sum is the peak. Raises RecipeError as `recipe_costs` does."""
    return _passed(recipe, labels, machine).memory


def training_cost(name: str, recipe: Recipe, labels: LabelSet, machine: Machine) -> TrainingCost:
    """One training stage. Raises RecipeError as `recipe_costs` does."""
    passed, train = _passed(recipe, labels, machine), recipe.train
    own = passed.step
    forward = own.flops["backbone"] + own.flops["head"]
    a_pass = own.total_flops + forward * passed.looked_at // passed.crops
    flops = a_pass * train.accumulate * machine.processes
    return TrainingCost(
        name,
        own.parameters,
        passed.crops,
        recipe.data.augment.crop,
        recipe.model.recompute,
        own,
        passed.memory,
        flops,
        train.steps,
        machine.hours(flops * train.steps / machine.processes, train.precision),
        _evaluation(passed, recipe, machine),
    )


def _evaluation(passed: _Passed, recipe: Recipe, machine: Machine) -> EvaluationCost | None:
    """Whole frames in one view; weights, gradients, moments and average of the training stay where they are."""
    train, source = recipe.train, recipe.data.val
    if source is None:
        return None
    view = evaluation_view(recipe.data.augment)
    frame = view.size(machine.frame)
    cost = prediction_cost(passed.model, frame, train.evaluate_batch, machine.frame, bf16=train.precision == "bf16")
    kept = sum(size for name, size in passed.memory.items() if name != "activations")
    whole = "average" in passed.memory or train.sharding == "none" or machine.processes == 1  # else it is put together first
    frames = expected_frames(source)
    frames = None if frames is None else -(-frames // train.evaluate_stride)
    count = -(-train.steps // train.evaluate_every)
    hours = None if frames is None else machine.hours(cost.flops * frames * count / machine.processes, train.precision)
    return EvaluationCost(frames, count, cost.flops, kept + cost.peak - (passed.step.weights if whole else 0), hours)


def look_cost(model: Model, views: Views, batch: int, labels: LabelSet, machine: Machine, precision: str = "32") -> LookCost:
    """What one model needs for all views of a frame."""
    segmenter = build_meta(model, labels, machine.device)
    windows = _windows(views, machine)
    costs = {
        size: prediction_cost(segmenter, size, min(batch, windows.count(size)), machine.frame, bf16=precision == "bf16")
        for size in dict.fromkeys(windows)
    }
    weights = sum(p.numel() * p.element_size() for p in segmenter.parameters())
    return LookCost(sum(costs[size].flops for size in windows), weights, max(cost.peak for cost in costs.values()) - weights)


def labelling_cost(
    name: str, looks: Sequence[LookCost], settings: Predict | PseudoLabels, frames: int | None, machine: Machine, *, together: bool = True
) -> LabellingCost:
    """Models that label or predict the same frames, as an ensemble or, not `together`, one after the other."""
    flops = sum(look.flops for look in looks)
    weights = [look.weights for look in looks]
    peak = max(look.extra for look in looks) + (sum(weights) if together else max(weights))
    count = len(_windows(settings.views, machine))
    hours = None if frames is None else machine.hours(flops * frames, machine.precision(settings.precision))
    return LabellingCost(name, len(looks), len(views_from(settings.views)), count, flops, frames, peak, hours)


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
    known: dict[tuple[str, str, int, str], LookCost] = {}

    def looks(roles: Sequence[str], how: Predict | PseudoLabels) -> list[LookCost]:
        precision = machine.precision(how.precision)
        keys = [(role, str(how.views), how.batch, precision) for role in roles]
        for key in keys:
            if key not in known:
                known[key] = look_cost(models[key[0]], how.views, how.batch, labels, machine, precision)
        return [known[key] for key in keys]

    if recipe.semi is not None and recipe.semi.mode == "offline":
        counts = [expected_frames(source) for source in recipe.data.unlabelled]
        frames = None if None in counts else sum(count or 0 for count in counts)
        yield labelling_cost("pseudo labels", looks([*models], recipe.pseudo), recipe.pseudo, frames, machine)
    how = recipe.predict
    for name, source in evaluation_sets(recipe).items():
        frames = expected_frames(source)
        yield labelling_cost(f"predict {name}", looks([*models], how), how, frames, machine)
        if single := ["teacher" if "teacher" in folder else "student" for folder in layout.compared(recipe)]:
            title = f"predict {name} with each model, for the comparison"
            yield labelling_cost(title, looks(single, how), how, frames, machine, together=False)


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
