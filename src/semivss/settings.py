"""The sections of a recipe: frozen settings, checked when they are made. `recipe.py` reads them from TOML. Imports no torch."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from semivss.errors import RecipeError

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Size = tuple[Positive, Positive]  # height, width


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= value[0] <= value[1]:
        raise ValueError(f"needs two numbers from 0 on, the smaller one first, got {list(value)}")
    return value


Range = Annotated[tuple[float, float], AfterValidator(_ordered)]


def _bits(value: object) -> object:
    return "32" if type(value) is int and value == 32 else value  # `-o train.precision=32` is a number in TOML


Precision = Annotated[Literal["32", "bf16"], BeforeValidator(_bits)]
ForwardPrecision = Annotated[Literal["auto", "32", "bf16"], BeforeValidator(_bits)]


def _bytes(value: object) -> object:
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([KMGT]?)(i?)B?", value, re.IGNORECASE) if isinstance(value, str) else None
    if found is None and isinstance(value, str):
        raise ValueError(f"is no size, got {value!r}; write one such as 4GB or 500MB")
    if found is None:
        return value
    factor = (1024 if found[3] else 1000) ** ("KMGT".index(found[2].upper()) + 1 if found[2] else 0)
    return round(float(found[1]) * factor)


Bytes = Annotated[int, BeforeValidator(_bytes), Field(gt=0)]  # a number, or a text such as "4GB"


BEFORE = "before"  # in a field's json_schema_extra: what files of versions without the key would have said, where that is not its default


class Settings(BaseModel):
    """Base of all sections: frozen, and an unknown key or an infinite number is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Section = TypeVar("Section", bound=Settings)


class Toy(Settings):
    """The generated world (`data/toy.py`): clip k is a function of (seed, k) alone."""

    clips: Positive = 48
    labelled_clips: int | None = Field(None, ge=1)  # only the first so many keep their masks; none = all
    frames: Positive = 8
    size: Size = (120, 160)
    seed: int = 0
    first_clip: int = Field(0, ge=0)  # validation and test take other stretches of the same world


class Source(Settings):
    """One data set."""

    kind: Literal["vspw", "ade20k", "coco_stuff", "coco_panoptic", "cityscapes", "folder", "toy"]
    path: str = ""  # $VARIABLES are filled in when the data is opened
    split: str = "train"
    labelled: str | None = None  # list of <video>/<stem> or <video> lines, relative to path: no other mask is opened
    remap: str | None = None  # a shipped label map such as "ade20k150_to_vspw124"; none = the data set's own classes
    weight: float = Field(1.0, gt=0)  # share of the samples of the mix, relative to the other sources
    toy: Toy = Toy()

    @model_validator(mode="after")
    def _path(self) -> "Source":
        if self.kind != "toy" and not self.path:
            raise ValueError(f"path is missing; a {self.kind} data set needs its folder")
        return self

    def folder(self) -> Path:
        """The path with variables filled in. Raises RecipeError for a variable that is not set, or empty."""
        filled = os.path.expandvars(self.path)
        if "$" in filled or not all(os.environ.get(name) for name in re.findall(r"\$\{?(\w+)", self.path)):
            raise RecipeError(f"data path {self.path}: the variable is not set; export it or override the path with -o")
        return Path(filled).expanduser()


class Phase(Settings):
    """Until step `until` the training sources have these weights (one a source, 0 = left out); the last phase stays."""

    until: Positive
    weights: tuple[Annotated[float, Field(ge=0)], ...]


class Sampling(Settings):
    """Which frames make a training sample (reference: how published VSPW code samples)."""

    mode: Literal["frames", "stride", "anchor", "target", "window"] = "frames"
    # frames: any frame; stride: every n-th frame; anchor: a random frame and those at `offsets` after it;
    # target: a random frame last, those at `offsets` before it first; window: the target and frames within +-window
    stride: Positive = 7
    offsets: tuple[int, ...] = ()
    window: Positive = 5
    frames: Positive = 1  # window mode: frames a sample
    reverse: Share = 0.0  # chance to turn a clip round in time
    balance: Literal["uniform", "repeat_factor", "class_balanced"] = "uniform"
    repeat_threshold: float = Field(0.1, gt=0)  # repeat_factor: classes in fewer than this share of frames are seen more

    @property
    def frames_a_sample(self) -> int:
        """How many crops a sample brings."""
        return len(self.offsets) + 1 if self.offsets else self.frames


Sized = TypeVar("Sized", bound="Augment | Views")


def _one_size(section: Sized) -> Sized:
    if section.base is not None and section.short_side is not None:
        raise ValueError("base and short_side both say how large a frame is at scale 1; take one of them out")
    return section


class Augment(Settings):
    """Section 3.2 of the paper. One draw serves all frames of a clip."""

    crop: Size = (480, 480)
    scale: Range = (0.5, 2.0)  # random resize of the whole frame before the crop
    base: Size | None = None  # size of the frame at scale 1; none = as on disk
    short_side: Positive | None = None  # instead of base: length of the frame's shorter side at scale 1
    max_class_share: float = Field(0.75, gt=0, le=1)  # a crop with one class above this share is drawn again, 10 tries
    flip: Share = 0.5
    photometric: bool = True  # brightness, contrast, saturation, hue, each with chance 0.5
    brightness: float = Field(32.0, ge=0)  # added, in grey levels
    contrast: Range = (0.5, 1.5)
    saturation: Range = (0.5, 1.5)
    hue: float = Field(18.0, ge=0, le=180)  # degrees

    @model_validator(mode="after")
    def _one_size(self) -> "Augment":
        return _one_size(self)


class Data(Settings):
    train: tuple[Source, ...] = Field(min_length=1)
    unlabelled: tuple[Source, ...] = ()
    val: Source | None = None
    test: tuple[Source, ...] = ()
    phases: tuple[Phase, ...] = ()
    policy: Literal["strict", "skip", "ignore"] = "strict"  # damaged files: stop | leave the frame out | use what is sound
    absent_classes: Literal["error", "allow"] = "error"  # a class that no training mask shows: stop | go on without it
    sampling: Sampling = Sampling()
    augment: Augment = Augment()
    workers: int = Field(0, ge=0)
    cache_mb: int = Field(256, ge=0)  # decoded training frames and masks kept in memory, per loader process

    @model_validator(mode="after")
    def _phases(self) -> "Data":
        for phase in self.phases:
            if len(phase.weights) != len(self.train) or not any(phase.weights):
                raise ValueError(f"phases.weights needs {len(self.train)} numbers, one a training source, not all 0")
        return self


class PixelHead(Settings):
    """FPN-like per-pixel classifier, trained with cross-entropy."""

    channels: Positive = 128
    dropout: Share = 0.1


class Mask2FormerHead(Settings):
    """Pixel decoder and transformer decoder of Mask2Former (transformers' modules) and its loss."""

    channels: Positive = 256  # of the pixel decoder, the queries and the mask features
    mask_channels: Positive | None = None  # of the mask features; none = channels
    queries: Positive = 100
    encoder_layers: Positive = 6  # deformable layers of the pixel decoder
    decoder_layers: Positive = 9
    heads: Positive = 8
    encoder_feedforward: Positive = 1024
    feedforward: Positive = 2048
    points: Positive = 12544  # valid points an image in matcher and mask losses
    oversample: float = Field(3.0, ge=1)
    importance: Share = 0.75
    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    no_object_weight: float = 0.1
    min_area: int = Field(1, ge=1)  # a class with fewer valid pixels is no target

    @model_validator(mode="after")
    def _divisible(self) -> "Mask2FormerHead":
        if self.channels % self.heads:
            raise ValueError(f"channels {self.channels} must be a multiple of heads {self.heads}")
        return self


Layers = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]  # first, last


class Trunk(Settings):
    """What differs from the preset that `backbone` names; models/sizes.py says what the numbers are."""

    width: Positive | None = None
    depth: Positive | None = None
    heads: Positive | None = None
    feedforward: Positive | None = None
    grid: Size | None = None
    stages: tuple[Layers, ...] | None = None
    windows: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    layer_scale: float | None = None
    prior: Positive | None = None
    points: Positive | None = None
    deform_heads: Positive | None = None
    deform_ratio: float | None = Field(None, gt=0)
    conv_ratio: float | None = Field(None, gt=0)
    injector_scale: float | None = None


class Swin(Settings):
    """What differs from the Swin that `backbone` names."""

    width: Positive | None = None
    depths: tuple[Positive, ...] | None = None
    heads: tuple[Positive, ...] | None = None
    window: Positive | None = None


class Model(Settings):
    backbone: str = "tiny"  # a name of models/zoo.py, timm/<any features_only model>, or transformers/<kind of backbone>
    config: dict[str, JsonValue] | None = None  # transformers/*: its settings, as in the backbone_config of a config.json
    trunk: Trunk | None = None  # beit_*, vit_adapter_*, vit_adapter_plain_*, one_peace_*: other sizes than the preset's
    swin: Swin | None = None  # swin_*: likewise
    weights: str | None = None  # local file, or "lite0" for the weights of the extra of that name
    pretrained: bool = False  # let timm fetch its weights by name; needs a network
    drop_path: Share = 0.0
    head: Literal["pixel", "mask2former"] = "pixel"
    pixel: PixelHead = PixelHead()
    mask2former: Mask2FormerHead = Mask2FormerHead()
    rule: Literal["spread", "l1", "softmax"] = "spread"  # mask votes to class distribution
    # written by `weights convert`, of a classifier learned for other classes: the class that each of its rows counts for (class_rows.py)
    class_rows: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    recompute: bool = False  # keep fewer activations in training and compute them twice (activation checkpointing); same results


class Train(Settings):
    steps: Positive = 1000
    batch: Positive = 8
    accumulate: Positive = 1
    lr: float = Field(1e-4, gt=0)
    backbone_lr: float = Field(0.1, gt=0)  # factor on lr for the backbone; without effect where layer_decay is set
    layer_decay: float | None = Field(None, gt=0, le=1)  # factor on lr from each block of a trunk to the one before; published: 0.9, 0.95
    compat: bool = False  # with layer_decay: the published groups to the letter, see train/optim.py
    weight_decay: float = Field(0.05, ge=0)
    betas: tuple[Share, Share] = (0.9, 0.999)
    schedule: Literal["poly", "constant"] = "poly"
    power: float = Field(0.9, gt=0)
    warmup: int = Field(0, ge=0)  # steps of linear warm-up
    clip: float = Field(0.0, ge=0)  # gradient norm; 0 = no clipping
    precision: Precision = "32"
    ema: float = Field(0.0, ge=0, lt=1)  # decay of the averaged weights that are evaluated and saved; 0 = none
    sharding: Literal["none", "full"] = "none"  # full: several processes share out weights, gradients and optimiser state (FSDP)
    seed: int = 0
    threads: int | None = Field(None, ge=1)  # intra-op threads; none = torch's choice. Part of bitwise reproduction
    evaluate_every: Positive = 500
    evaluate_stride: Positive = 1  # every n-th frame of each validation clip is scored during training
    evaluate_batch: Positive = 4  # frames that go through the model together in these evaluations, whole and without gradients
    checkpoint_every: Positive = 500
    log_every: Positive = 20
    panel_frames: int = Field(4, ge=0)  # frames in the picture of predictions drawn at each evaluation

    @model_validator(mode="after")
    def _groups(self) -> "Train":
        if self.compat and self.layer_decay is None:
            raise ValueError("compat is about the groups of layer_decay; set train.layer_decay too")
        return self


class Views(Settings):
    """Test-time views: every scale, with and without flip, cut into windows; averaged as distributions."""

    scales: tuple[Annotated[float, Field(gt=0)], ...] = Field((1.0,), min_length=1)
    flip: bool = False
    crop: Size | None = None  # sliding window; none = the whole frame
    stride: Size | None = None  # none = two thirds of the crop
    base: Size | None = None  # frames are resized to this before the scales; predictions have the frame's own size
    short_side: Positive | None = None  # instead of base: length of the frame's shorter side before the scales
    sampling: Literal["exact", "direct"] = (
        "exact"  # maps are enlarged to the view and brought back to the frame | read at its pixels at once
    )

    @model_validator(mode="after")
    def _one_size(self) -> "Views":
        return _one_size(self)


class Forward(Settings):
    """How models run that predict."""

    batch: Positive = 4  # windows a forward pass
    # of the forward pass; distributions are float32 anyhow. auto = bf16 where that is much faster (infer/precision.py), else 32
    precision: ForwardPrecision = Field("auto", json_schema_extra={BEFORE: "32"})
    threads: int | None = Field(None, ge=1)  # of an operator on the CPU; none = OMP_NUM_THREADS, or this process's share of the cores
    bias_cache: float = Field(1.0, ge=0)  # GiB that a model may keep relative-position biases in; they are made anew beyond that
    memory: Bytes | None = None  # limit of the process, such as "4GB"; none = as much as it needs
    compile: bool = False  # by torch.compile; minutes for each size of window, remembered on disk


SPEED = {"batch", "memory", "threads", "bias_cache", "compile"}  # of `Forward`: no file depends on them, but for rounding


class Predict(Forward):
    views: Views = Views()
    probabilities: Literal["none", "uint8", "float16"] = "none"
    entropy: bool = True
    overlay: Literal["none", "overlay", "side_by_side"] = "overlay"
    fps: float = Field(15.0, gt=0)  # of overlays made from frame folders


class Score(Settings):
    vc: tuple[Annotated[int, Field(ge=2)], ...] = (8, 16)
    vc_labels: Literal["reduced", "raw"] = "reduced"


class Teacher(Settings):
    """A second model, trained on the same labelled frames. Both label the video, both predict in the end."""

    model: Model = Model()
    train: Train | None = None  # none = as the student


class PseudoLabels(Forward):
    """How unlabelled video is labelled (U2PL, arXiv 2203.03884; 8 scales and flip in arXiv 2406.00587). The threshold is no part of it."""

    views: Views = Views()
    weights: tuple[Annotated[float, Field(ge=0)], ...] = ()  # of teacher, where there is one, and student; empty = equal
    window: int = Field(0, ge=0)  # frames on either side whose distributions, warped by optical flow, join the mean; 0 = none
    align: Share = 0.0  # how far the mean prediction is moved to the classes' shares in the labelled frames (ReMixMatch); 0 = not at all
    confidence: bool = False  # also write the largest probability
    top_classes: int = Field(0, ge=0)  # also write the ids of so many most likely classes at stride 8; 0 = none


class Threshold(Settings):
    """Which share of the unlabelled pixels is unreliable: alpha percent, those of highest entropy."""

    kind: Literal["batch_percentile", "dataset_percentile", "absolute"] = "batch_percentile"
    alpha: float = Field(20.0, ge=0, le=100)  # percent; at the start, where the schedule is linear
    schedule: Literal["linear", "constant"] = "linear"  # linear: alpha (1 - t / T) in step t of T
    gamma: float = Field(0.5, ge=0)  # nats; kind absolute: the cut itself
    per_class: bool = False  # percentiles within each pseudo class, so that one cut does not starve the rare ones


class Contrast(Settings):
    """The contrastive loss over unreliable pixels (arXiv 2406.00587, equation 6; constants of U2PL)."""

    weight: float = Field(0.1, ge=0)  # lambda_c; 0 = no representation head, no bank, no loss
    channels: Positive = 256  # D of the representation
    stride: Literal[4, 8] = 4
    anchors: Positive = 256  # M a class
    negatives: Positive = 50  # N an anchor
    temperature: float = Field(0.5, gt=0)  # tau
    confidence: Share = 0.3  # delta_p: least probability of an anchor's class
    low_rank: Positive | None = None  # r_l: a labelled pixel is a negative of the classes before this rank; none = 3, with few classes less
    high_rank: Positive = 20  # r_h: an unreliable pixel is a negative of the classes from r_l up to before this rank
    share: float = Field(1.0, gt=0, le=1)  # of the labelled and of the unlabelled crops of a batch; L_c and its teacher see these alone
    bank: Positive = 4096  # keys a class
    bank_precision: Precision = "32"  # of the keys that are kept
    keys: Positive = 256  # new keys a class and step, at most
    anchor_set: Literal["paper", "code"] = "paper"  # unlabelled anchors: all reliable pixels | the alpha percent of lowest entropy
    teacher: Literal["ema", "self"] = "ema"  # whose features are keys and prototypes: those of the averaged student | its own, detached
    prototypes: bool = False  # average the positive keys over time; in one process alone

    @model_validator(mode="after")
    def _ranks(self) -> "Contrast":
        if self.low_rank is not None and self.low_rank >= self.high_rank:
            raise ValueError(f"low_rank {self.low_rank} must be below high_rank {self.high_rank}")
        return self


class Strong(Settings):
    """What the student sees of an unlabelled crop beyond the change of light of `data.augment`, which it gets as well."""

    views: Literal[1, 2] = 1  # strong views of each crop
    complementary: Share = 0.5  # with 2 views: share of the crops whose channels are dealt out between the views (UniMatch V2)
    grey: Share = 0.2  # chance to lose the colours
    blur: Share = 0.5  # chance to be blurred
    mix: Literal["none", "cutmix", "classmix", "cutout"] = "cutmix"
    mix_chance: Share = 0.5  # a batch


class SemiTrain(Train):
    """As [train], but averaged: the average labels in mode online, and gives L_c its keys.

    Without `layer_decay` each model has that of its own training.
    """

    ema: float = Field(0.999, ge=0, lt=1)  # for thousands of steps; 0.998 for 1000, docs/tries.md


class Semi(Settings):
    """Retraining on labelled and pseudo-labelled crops: L = L_s + lambda_u L_u + lambda_c L_c."""

    # offline: labels of the frozen ensemble; online: those of the student's own average, made in each step (U2PL);
    # supervised: neither, the control that an experiment needs
    mode: Literal["offline", "online", "supervised"] = "offline"
    start: Literal["student", "scratch"] = "student"
    train: SemiTrain = SemiTrain()
    unlabelled_batch: Positive = 8  # crops beside the train.batch labelled ones
    supervised_steps: int = Field(0, ge=0)  # first steps with L_s alone
    previous: int = Field(0, ge=0)  # mode online: earlier states of the teacher that are kept; in each step one of them labels with it
    previous_every: Positive = 100  # steps between them
    align: Share = 0.0  # mode online: as pseudo.align, for the labels of each step
    unsupervised: float = Field(1.0, ge=0)  # lambda_u
    likelihood: float = Field(0.0, ge=0)  # mask classification: weight of -log p(label) in L_s and L_u (equations 4, 5)
    max_area_factor: float = Field(5.0, ge=1)  # largest N_all / N_reliable by which L_u is multiplied
    weigh_masks: bool = False  # mask classification: multiply the mask terms of each image by its own N_all / N_reliable
    min_area: Positive = 16  # mask classification: a pseudo class of fewer reliable pixels is no target
    strong: Strong = Strong()
    threshold: Threshold = Threshold()
    contrast: Contrast = Contrast()
    rounds: Positive = 1  # label and retrain so many times
    retrain_teacher: bool = False
    # students retrained beside the first round's for comparison alone, in as many steps: on labelled frames; without L_c
    controls: tuple[Literal["supervised", "no_contrast"], ...] = ()

    @model_validator(mode="after")
    def _average(self) -> "Semi":
        if self.mode == "online" and not self.train.ema:
            raise ValueError("semi.train.ema must be above 0 in mode online: the averaged weights are the teacher")
        if self.mode == "online" and self.threshold.kind == "dataset_percentile":
            raise ValueError('semi.threshold.kind "dataset_percentile" needs stored pseudo labels; take batch_percentile in mode online')
        if self.mode == "offline" and self.align:
            raise ValueError("semi.align needs mode online; pseudo.align is for the labels of mode offline")
        if self.mode == "offline" and self.previous:
            raise ValueError("semi.previous needs mode online: the labels of mode offline are made before")
        if self.contrast.weight and self.contrast.teacher == "ema" and not self.train.ema and self.mode != "supervised":
            raise ValueError('semi.train.ema must be above 0, or semi.contrast.teacher = "self"')
        return self
