"""What a recipe means before it runs: resolved settings, parameter counts, a memory estimate and the views of each stage."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from semivss.data.labels import vspw124
from semivss.losses.supervised import supervised_loss
from semivss.models.segmenter import Segmenter
from semivss.models.zoo import build_segmenter
from semivss.recipe import Recipe, dump_recipe
from semivss.settings import Model, Train, Views


def describe(recipe: Recipe) -> str:
    """The text of `semivss show`. Builds the model without its weight file and opens no data; class-dependent sizes assume 124 classes."""
    model = _fresh(recipe.model)
    parameters = sum(p.numel() for p in model.parameters())
    a_sample = sample_memory(model, recipe)
    views = recipe.predict.views
    lines = [
        dump_recipe(recipe).rstrip(),
        "",
        f"# recipe hash      {recipe.digest()}",
        f"# parameters       {parameters:,} ({_count(model.backbone):,} backbone, {_count(model.head):,} head)",
        f"# training memory  {_memory(model, recipe.train, a_sample * recipe.train.batch)} of a batch of {recipe.train.batch}",
        f"# a step           {recipe.train.batch * recipe.train.accumulate} crops of {_size(recipe.data.augment.crop)}",
        f"# steps            {recipe.train.steps:,}",
        "# evaluation       1 view a frame: scale 1, no flip",
        *_semi_lines(recipe, model, a_sample),
        f"# predict          {_count_views(views)}: {_views(views)}",
    ]
    return "\n".join(lines)


def _semi_lines(recipe: Recipe, model: Segmenter, a_sample: int) -> Iterator[str]:
    """What the stages beyond supervised training add."""
    if recipe.teacher is not None:
        teacher = _fresh(recipe.teacher.model)
        yield f"# teacher          {_count(teacher):,} parameters, {(recipe.teacher.train or recipe.train).steps:,} steps"
    if (semi := recipe.semi) is None:
        return
    if semi.mode == "offline":
        yield f"# pseudo labels    {_count_views(recipe.pseudo.views)}: {_views(recipe.pseudo.views)}"
    unlabelled = "" if semi.mode == "supervised" else f" and {semi.unlabelled_batch} unlabelled"
    rounds = f", {semi.rounds} rounds" if semi.rounds > 1 else ""
    yield f"# retraining       {semi.mode}, {semi.train.steps:,} steps of {semi.train.batch} labelled{unlabelled} crops{rounds}"
    samples = semi.train.batch + (0 if semi.mode == "supervised" else semi.strong.views * semi.unlabelled_batch)
    contrast = semi.contrast
    bank = 4 * len(model.label_set) * contrast.bank * contrast.channels if contrast.weight and semi.mode != "supervised" else 0
    yield f"# its memory       {_memory(model, semi.train, a_sample * samples)} of {samples} crops, {bank / 2**20:,.0f} MB bank of L_c"


def _fresh(model: Model) -> Segmenter:
    """The model without its weight file, for 124 classes."""
    return build_segmenter(model.model_copy(update={"weights": None, "pretrained": False}), vspw124())


def _memory(model: Segmenter, train: Train, activations: int) -> str:
    """The estimate in words."""
    state = sum(p.numel() * p.element_size() for p in model.parameters()) * (5 if train.ema else 4)
    kept = f"weights, gradients, AdamW{' and EMA' if train.ema else ''}"
    return f"about {(state + activations) / 2**20:,.0f} MB: {state / 2**20:,.0f} MB {kept}, {activations / 2**20:,.0f} MB activations"


def sample_memory(model: Segmenter, recipe: Recipe) -> int:
    """Bytes that the crops of one sample keep for backward. Counted on one small crop, scaled by area."""
    height, width = recipe.data.augment.crop
    probe = (min(height, 256), min(width, 256))
    share = height * width / (probe[0] * probe[1])
    frames_a_sample = len(recipe.data.sampling.offsets) + 1 if recipe.data.sampling.offsets else recipe.data.sampling.frames
    return int(_saved_bytes(model, recipe, probe) * share * frames_a_sample)


def _saved_bytes(model: Segmenter, recipe: Recipe, size: tuple[int, int]) -> int:
    """Bytes of distinct tensors that autograd keeps for one crop of `size`, weights left out. Two crops minus one removes constants."""
    one, two = (_kept_for_backward(model, recipe, size, batch) for batch in (1, 2))
    return max(two - one, 0)


def _kept_for_backward(model: Segmenter, recipe: Recipe, size: tuple[int, int], batch: int) -> int:
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # a freed storage could come back under the same address

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    frames = torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8)
    labels = torch.randint(0, 4, (batch, *size), dtype=torch.uint8)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = supervised_loss(model(frames), labels, recipe.model, torch.Generator().manual_seed(0))
    del losses
    return sum(kept.values())


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _count_views(views: Views) -> str:
    return f"{2 * len(views.scales) if views.flip else len(views.scales)} views a frame"


def _views(views: Views) -> str:
    return "; ".join(_view_parts(views))


def _view_parts(views: Views) -> Iterator[str]:
    yield "scales " + ", ".join(f"{scale:g}" for scale in views.scales) + (", each with its mirror image" if views.flip else "")
    yield f"windows of {_size(views.crop)}, step {_size(views.stride) if views.stride else 'two thirds'}" if views.crop else "whole frames"
    yield f"frames resized to {_size(views.base)} first" if views.base else "frames at their own size"


def _size(size: tuple[int, int] | None) -> str:
    return "-" if size is None else f"{size[0]}x{size[1]}"
