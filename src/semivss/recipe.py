"""A recipe: TOML in, a frozen tree of settings out. Imports no torch, so that help, checks and printing answer at once."""

import difflib
import hashlib
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import to_json

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
        """The path with variables filled in. Raises RecipeError for a variable that is not set."""
        filled = os.path.expandvars(self.path)
        if "$" in filled:
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


class Augment(Settings):
    """Section 3.2 of the paper. One draw serves all frames of a clip."""

    crop: Size = (480, 480)
    scale: Range = (0.5, 2.0)  # random resize of the whole frame before the crop
    base: Size | None = None  # size of the frame at scale 1; none = as on disk
    max_class_share: float = Field(0.75, gt=0, le=1)  # a crop with one class above this share is drawn again, 10 tries
    flip: Share = 0.5
    photometric: bool = True  # brightness, contrast, saturation, hue, each with chance 0.5
    brightness: float = Field(32.0, ge=0)  # added, in grey levels
    contrast: Range = (0.5, 1.5)
    saturation: Range = (0.5, 1.5)
    hue: float = Field(18.0, ge=0, le=180)  # degrees


class Data(Settings):
    train: tuple[Source, ...] = Field(min_length=1)
    unlabelled: tuple[Source, ...] = ()
    val: Source | None = None
    test: tuple[Source, ...] = ()
    phases: tuple[Phase, ...] = ()
    policy: Literal["strict", "skip", "ignore"] = "strict"  # damaged files: stop | leave the frame out | use what is sound
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


class Model(Settings):
    backbone: str = "tiny"  # a name of models/zoo.py: tiny, or timm/<any features_only model>
    weights: str | None = None  # local file, or "lite0" for the weights of the extra of that name
    pretrained: bool = False  # let timm fetch its weights by name; needs a network
    drop_path: Share = 0.0
    head: Literal["pixel", "mask2former"] = "pixel"
    pixel: PixelHead = PixelHead()
    mask2former: Mask2FormerHead = Mask2FormerHead()
    rule: Literal["spread", "l1", "softmax"] = "spread"  # mask votes to class distribution


class Train(Settings):
    steps: Positive = 1000
    batch: Positive = 8
    accumulate: Positive = 1
    lr: float = Field(1e-4, gt=0)
    backbone_lr: float = Field(0.1, gt=0)  # factor on lr for the backbone
    weight_decay: float = Field(0.05, ge=0)
    betas: tuple[Share, Share] = (0.9, 0.999)
    schedule: Literal["poly", "constant"] = "poly"
    power: float = Field(0.9, gt=0)
    warmup: int = Field(0, ge=0)  # steps of linear warm-up
    clip: float = Field(0.0, ge=0)  # gradient norm; 0 = no clipping
    precision: Annotated[Literal["32", "bf16"], BeforeValidator(_bits)] = "32"
    ema: float = Field(0.0, ge=0, lt=1)  # decay of the averaged weights that are evaluated and saved; 0 = none
    seed: int = 0
    threads: int | None = Field(None, ge=1)  # intra-op threads; none = torch's choice. Part of bitwise reproduction
    evaluate_every: Positive = 500
    evaluate_stride: Positive = 1  # every n-th frame of each validation clip is scored during training
    checkpoint_every: Positive = 500
    log_every: Positive = 20
    panel_frames: int = Field(4, ge=0)  # frames in the picture of predictions drawn at each evaluation


class Views(Settings):
    """Test-time views: every scale, with and without flip, cut into windows; averaged as distributions."""

    scales: tuple[Annotated[float, Field(gt=0)], ...] = Field((1.0,), min_length=1)
    flip: bool = False
    crop: Size | None = None  # sliding window; none = the whole frame
    stride: Size | None = None  # none = two thirds of the crop
    base: Size | None = None  # frames are resized to this before the scales; predictions have the frame's own size


class Predict(Settings):
    views: Views = Views()
    probabilities: Literal["none", "uint8", "float16"] = "none"
    entropy: bool = True
    overlay: Literal["none", "overlay", "side_by_side"] = "overlay"
    fps: float = Field(15.0, gt=0)  # of overlays made from frame folders
    batch: Positive = 4  # windows a forward pass


class Score(Settings):
    vc: tuple[Annotated[int, Field(ge=2)], ...] = (8, 16)
    vc_labels: Literal["reduced", "raw"] = "reduced"


class Recipe(Settings):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    data: Data
    model: Model = Model()
    train: Train = Train()
    predict: Predict = Predict()
    score: Score = Score()

    def digest(self) -> str:
        """Short hash of every setting; results carry it."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a TOML recipe and apply `a.b=c` overrides (c is a TOML value; a bare word is text).

    Raises:
        RecipeError: one line with the key, what is allowed and the nearest known key.
    """
    try:
        tree = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: cannot read the recipe ({error.strerror}); give the path of a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid TOML ({error}); mend that line") from error
    tree.setdefault("name", Path(path).stem)
    for override in overrides:
        _override(tree, override)
    return parse_recipe(tree, str(path))


def parse_recipe(tree: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Check a nested mapping. Raises RecipeError as `load_recipe` does."""
    try:
        return _strictly(Recipe, tree)
    except ValidationError as error:
        raise RecipeError(f"{where}: {_explain(error, Recipe)}") from error


def checked(section: type[Section], where: str, /, **values: Any) -> Section:
    """One section from given values. Raises RecipeError in one line, as a recipe would."""
    try:
        return _strictly(section, values)
    except ValidationError as error:
        raise RecipeError(f"{where}: {_explain(error, section)}") from error


def _strictly(section: type[Section], tree: Mapping[str, Any]) -> Section:
    """No guessing of types: true is no number and "3" neither. As JSON, since a list is the only form of a tuple there."""
    return section.model_validate_json(to_json(tree), strict=True)


def evaluation_sets(recipe: Recipe) -> dict[str, Source]:
    """The sets to predict and score: "val" and "test", or "test_1", "test_2" where there are several."""
    tests = recipe.data.test
    sets = {"val": recipe.data.val} if recipe.data.val else {}
    names = ["test"] if len(tests) == 1 else [f"test_{k + 1}" for k in range(len(tests))]
    return sets | dict(zip(names, tests, strict=True))


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as TOML; reading it back gives the same recipe."""
    import tomli_w

    return tomli_w.dumps(_without_none(recipe.model_dump(mode="json")))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


def _override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"-o {override}: not of the form key.subkey=value, such as -o train.steps=100")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    node: Any = tree
    *parents, last = key.strip().split(".")
    for part in parents:
        node = _child(node, part, override)
    if isinstance(node, list):
        node[_index(node, last, override)] = value
    else:
        node[last] = value


def _child(node: Any, part: str, override: str) -> Any:
    child = node[_index(node, part, override)] if isinstance(node, list) else node.setdefault(part, {})
    if not isinstance(child, dict | list):
        raise RecipeError(f"-o {override}: {part} is a value, not a section")
    return child


def _index(node: list[Any], part: str, override: str) -> int:
    if not part.isdigit() or int(part) >= len(node):
        raise RecipeError(f"-o {override}: {part!r} must be a position 0..{len(node) - 1} in that list")
    return int(part)


def _explain(error: ValidationError, root: type[Settings]) -> str:
    problem = error.errors()[0]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location) or "recipe"
    if problem["type"] == "extra_forbidden":
        known = sorted(_fields_at(location[:-1], root))
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else "mend or remove it."
        return f"unknown key {key!r}; {hint} Known keys: {', '.join(known)}{more}"
    if problem["type"] == "missing":
        return f"key {key!r} is missing; add it{more}"
    message = problem["msg"].removeprefix("Value error, ")
    given = problem.get("input")
    shown = "" if isinstance(given, dict | list | tuple) or hasattr(given, "model_fields") else f", got {given!r}"
    return f"key {key!r}: {message[0].lower() + message[1:]}{shown}{more}"


def _fields_at(location: Sequence[str], root: type[Settings]) -> list[str]:
    """Known keys of the section at `location` of `root`."""
    section: Any = root
    for part in location:
        if part.isdigit():
            continue
        section = _section(section.model_fields[part].annotation)
    return list(section.model_fields)


def _section(annotation: Any) -> Any:
    """The Settings class inside an annotation such as `tuple[Source, ...]` or `Source | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    return next((found for argument in get_args(annotation) if argument is not Ellipsis and (found := _section(argument))), None)
