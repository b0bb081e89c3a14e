"""What lies in a weight file in, whose model it is and its tensors under our names out. Nothing is built or loaded here.

A family is told by names of tensors that no other family has, and in a folder by what its config.json says.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from semivss.data.labels import LabelSet
from semivss.errors import WeightsError
from semivss.models.published_keys import INDEX_BUFFERS, from_published, our_name
from semivss.models.weights.mask2former_folder import class_names, mask2former_settings, mask2former_tensors
from semivss.models.weights.names import from_swin_authors, from_swin_files, from_torchvision, trunk_tensors
from semivss.models.weights.shapes import SEEDS, read_sizes
from semivss.models.weights.weight_file import CONFIG, WHOLE, WeightFile, read_weights, some
from semivss.settings import Model

FAMILIES = {
    "semivss": "a model of semivss",
    "vit_adapter": "ViT-Adapter round BEiT",
    "vit_adapter_plain": "ViT-Adapter round a plain ViT",
    "one_peace": "ONE-PEACE's vision branch with the adapter of ViT-Adapter",
    "beit_segmenter": "BEiT with the pyramid of its authors' segmentation models",
    "beit": "pre-trained BEiT or BEiTv2",
    "vit": "pre-trained plain ViT",
    "one_peace_trunk": "pre-trained ONE-PEACE",
    "mask2former": "Mask2Former of transformers",
    "swin": "pre-trained Swin",
    "timm": "a backbone of timm or torchvision",
    "other": "weights under names that are not known here",
}
_PARTS = {  # of the model, that weights of a family have; of all other families: the whole backbone
    "swin": "backbone.body.swin.",
    **dict.fromkeys(("beit", "vit", "one_peace_trunk"), "backbone.trunk."),
}
_OF_TIMM = ("conv1.weight", "conv_stem.weight", "stem.0.weight", "stem.conv.weight", "conv1.0.weight", "patch_embed.proj.weight")


@dataclass(frozen=True)
class Recognised:
    """Somebody's weights, under our names."""

    file: WeightFile
    family: str  # of FAMILIES
    state: dict[str, Tensor]  # under our names, `backbone.` and `head.`; family timm: under timm's
    unused: tuple[str, ...] = ()  # that no model of ours has, named as in the file
    classes: tuple[str, ...] | None = None  # names, in the order of the classifier's rows
    model: Model | None = None  # settings, where the file says them
    label_set: LabelSet | None = None  # of a model of semivss

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def part(self) -> str:
        """How the names begin of all that weights of this family have in common; a head may be there or not."""
        return _PARTS.get(self.family, "backbone.")

    def has_head(self) -> bool:
        """Whether there is a head that we know."""
        return any(name.startswith("head.") for name in self.state)

    def says(self) -> str:
        """The family in words."""
        named = self.family in ("semivss", "mask2former")  # with their heads
        return FAMILIES[self.family] + (" and a Mask2Former head" if self.has_head() and not named else "")


def open_recognised(path: Path) -> Recognised:
    """Read and recognise. Raises WeightsError as `read_weights` and `recognise` do."""
    if path.name in WHOLE and (path.parent / CONFIG).is_file():
        path = path.parent  # what belongs to the weights lies beside them
    if path.is_dir():
        from semivss.models.folder import is_ours, read_folder

        if is_ours(path):
            file, model, label_set = read_folder(path)
            state = {name: tensor for name, tensor in file.tensors.items() if name.startswith(("backbone.", "head."))}
            count, said = read_sizes(state).get("classes"), len(label_set if model.class_rows is None else model.class_rows)
            if count not in (None, said):
                raise WeightsError(f"{path}: its classifier has {count} rows, its config.json says {said}; get the folder again")
            return Recognised(file, "semivss", state, (), label_set.names, model, label_set)
    return recognise(read_weights(path))


def recognise(file: WeightFile) -> Recognised:
    """Whose weights these are.

    Family "other" is nobody's that we know: its names may still be those of a backbone that is named beside it.

    Raises:
        WeightsError: a model that is known not to be supported, a part of one, or a tensor of a shape that it cannot have.
    """
    try:
        return _told(file)
    except ValueError as error:
        raise WeightsError(f"{file.path}: damaged: {error}; get the file again") from error


def _told(file: WeightFile) -> Recognised:
    """As `recognise`; raises ValueError for an impossible shape."""
    if (kind := file.config.get("model_type")) is not None:
        return _of_transformers(file, str(kind))
    tensors = _without(file.tensors, "module.")
    names = set(tensors)
    if any(name.startswith("model.pixel_level_module.") for name in names):
        raise WeightsError(f"{file.path}: a file of transformers' Mask2Former without its settings; give the folder that holds config.json")
    if any(name.startswith("backbone.trunk.") for name in names):
        raise WeightsError(f"{file.path}: a file of semivss without its settings; give the folder that holds config.json")
    if any(name.endswith("layers.0.blocks.0.attn.relative_position_bias_table") for name in names):
        return _swin(file, tensors)
    if names & {"backbone.patch_embed.proj.weight", "backbone.image_adapter.cls_embedding"}:
        return _of_mmseg(file, tensors)
    if any("image_adapter." in name for name in names):
        return _one_peace(file, tensors)
    tensors = _without(tensors, "backbone.")
    if "patch_embed.proj.weight" in tensors and "blocks.0.attn.qkv.weight" in tensors:
        trunk, unused = trunk_tensors(tensors)
        family = "beit" if {"blocks.0.attn.relative_position_bias_table", "blocks.0.attn.q_bias"} & trunk.keys() else "vit"
        return Recognised(file, family, _under("backbone.trunk.", trunk), unused)
    if "features.0.0.weight" in names:
        if (renamed := from_torchvision(tensors)) is None:
            raise WeightsError(f"{file.path}: a model of torchvision that is not supported; supported: ResNets, ConvNeXt, Swin")
        return Recognised(file, "timm", renamed)
    is_timm = "architecture" in file.config or any(name in _OF_TIMM for name in names)
    return Recognised(file, "timm" if is_timm else "other", dict(tensors))


def demand_known(found: Recognised) -> None:
    """Raise WeightsError for a file of nobody's that we know."""
    if found.family == "other":
        known = "; ".join(says for family, says in FAMILIES.items() if family not in ("semivss", "other"))
        raise WeightsError(f"{found.path}: not weights that are known here, it holds {some(sorted(found.file.tensors))}; known: {known}")


def _of_mmseg(file: WeightFile, tensors: Mapping[str, Tensor]) -> Recognised:
    ours = from_published(tensors)
    roots = ("backbone.", "head.") if SEEDS in ours else ("backbone.",)
    state = {name: tensor for name, tensor in ours.items() if name.startswith(roots)}
    unused = tuple(name for name in tensors if not our_name(name).startswith(roots) or name.endswith(INDEX_BUFFERS))
    with_table = "backbone.trunk.blocks.0.attn.relative_position_bias_table" in state
    match "backbone.spm.stem.0.weight" in state, "backbone.trunk.image_adapter.cls_embedding" in state:
        case True, True:
            family = "one_peace"
        case True, False:
            family = "vit_adapter" if with_table else "vit_adapter_plain"
        case False, False if with_table:
            family = "beit_segmenter"
        case _:
            raise WeightsError(
                f"{file.path}: a segmentation model without adapter round ViT or ONE-PEACE, which is not supported; take another"
            )
    names = file.meta.get("CLASSES") or file.meta.get("classes")
    said = tuple(map(str, names)) if isinstance(names, list | tuple) and names else None
    return Recognised(file, family, state, unused, said)


def _one_peace(file: WeightFile, tensors: Mapping[str, Tensor]) -> Recognised:
    """The published pre-training file, or the vision branch of the whole model."""
    trunk, unused = trunk_tensors(tensors)
    needed = ("image_adapter.cls_embedding", "image_adapter.embed_images.0.weight", "encoder.layers.0.self_attn.q_proj.weight")
    if lacking := [name for name in needed if name not in trunk]:
        raise WeightsError(
            f"{file.path}: ONE-PEACE under other names than those of one-peace-vision.pkl ({lacking[0]} is not there, "
            f"{some(sorted(tensors))} are); give that file, which its authors publish beside this one"
        )
    return Recognised(file, "one_peace_trunk", _under("backbone.trunk.", trunk), unused)


def _swin(file: WeightFile, tensors: Mapping[str, Tensor]) -> Recognised:
    """Pre-trained, or within a segmentation model of its authors, whose head stays behind."""
    inner = {name.removeprefix("backbone."): tensor for name, tensor in tensors.items() if name.startswith("backbone.")} or tensors
    swin, unused = from_swin_authors(inner)
    outside = tuple(name for name in tensors if inner is not tensors and not name.startswith("backbone."))
    return Recognised(file, "swin", _under("backbone.body.", swin), unused + outside)


def _of_transformers(file: WeightFile, kind: str) -> Recognised:
    config: Mapping[str, Any] = file.config
    if kind == "mask2former":
        settings = mask2former_settings(config, file.path)
        state, unused = mask2former_tensors(file.tensors, config)
        return Recognised(file, "mask2former", state, unused, class_names(config), settings)
    if kind == "swin":
        swin = from_swin_files(file.tensors)
        body = {name: tensor for name, tensor in swin.items() if name.startswith(("swin.e", "hidden_states_norms."))}
        return Recognised(file, "swin", _under("backbone.body.", body), tuple(name for name in swin if name not in body))
    raise WeightsError(f"{file.path}: a {kind} of transformers, which is not supported; supported: mask2former, swin")


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _without(tensors: Mapping[str, Tensor], prefix: str) -> Mapping[str, Tensor]:
    """Names without `prefix`, if all have it."""
    return (
        {name.removeprefix(prefix): tensor for name, tensor in tensors.items()} if all(n.startswith(prefix) for n in tensors) else tensors
    )
