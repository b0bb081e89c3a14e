"""A recipe and where memory ran out in, the one line about it out: what did not fit, and which keys of the recipe make it smaller."""

from lightning_fabric import Fabric

from semivss.errors import SemivssError
from semivss.out_of_memory import not_fitting
from semivss.recipe import Recipe, Sections
from semivss.wording import counted


def too_large_model(recipe: Recipe, sections: Sections, fabric: Fabric, step: int | None) -> SemivssError:
    """Of the model itself, its average, and what goes into a checkpoint after `step` or comes out of one (none)."""
    when = "before the first step" if step is None else f"at step {step}"
    remedies = _shared_out(recipe, sections, fabric)
    remedies += [f"choose a smaller {sections.model}.backbone", "take another device (semivss show --cost tells what each stage needs)"]
    return not_fitting(recipe.name, f"a model round {recipe.model.backbone}, {when}", remedies, fabric.device)


def too_large_crops(recipe: Recipe, sections: Sections, fabric: Fabric, step: int) -> SemivssError:
    """Of optimiser step `step`, counted from 1."""
    train, (height, width) = recipe.train, recipe.data.augment.crop
    crops, batches = train.batch * recipe.data.sampling.frames_a_sample, f"{sections.train}.batch"
    if recipe.semi is not None and recipe.semi.mode != "supervised":
        crops += recipe.semi.strong.views * recipe.semi.unlabelled_batch
        batches += " and semi.unlabelled_batch"
    remedies = [] if recipe.model.recompute else [f"set {sections.model}.recompute = true"]
    remedies += [f'set {sections.train}.precision = "bf16"'] if train.precision == "32" else []
    remedies += _shared_out(recipe, sections, fabric)
    remedies += [f"lower {batches} and raise {sections.train}.accumulate"]
    remedies += ["lower data.augment.crop (semivss show --cost tells what each needs)"]
    what = f"{crops} crops of {height}x{width} in {fabric.world_size} process{'es' * (fabric.world_size > 1)}, in step {step}"
    return not_fitting(recipe.name, what, remedies, fabric.device)


def too_large_frames(recipe: Recipe, sections: Sections, fabric: Fabric, step: int) -> SemivssError:
    """Of the evaluation after optimiser step `step`."""
    train, count = recipe.train, recipe.train.evaluate_batch
    remedies = [f"lower {sections.train}.evaluate_batch"] if count > 1 else []
    remedies += [f'set {sections.train}.precision = "bf16"'] if train.precision == "32" else []
    resized = next((key for key in ("short_side", "base") if getattr(recipe.data.augment, key) is not None), None)
    remedies += [f"lower data.augment.{resized}" if resized else "set data.augment.short_side below that of the frames"]
    remedies += ["leave data.val out"]
    what = f"{counted(count, 'whole frame')} at a time, in the evaluation after step {step}"
    return not_fitting(recipe.name, what, remedies, fabric.device)


def too_large_loading(recipe: Recipe) -> SemivssError:
    """Of the processes that read and cut frames, on the CPU."""
    data = recipe.data
    what = f"{data.workers} loader processes and a cache of {data.cache_mb} MB in each, while frames were read"
    return SemivssError(
        f"{recipe.name}: out of memory with {what}; lower data.cache_mb, data.workers, train.batch or the sides of data.augment.crop"
    )


def _shared_out(recipe: Recipe, sections: Sections, fabric: Fabric) -> list[str]:
    return [f'set {sections.train}.sharding = "full"'] if fabric.world_size > 1 and recipe.train.sharding == "none" else []
