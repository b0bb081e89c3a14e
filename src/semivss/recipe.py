"""A recipe: TOML in, a frozen tree of settings out. Imports no torch, so that help, checks and printing answer at once."""

import copy
import difflib
import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from pydantic import Field, ValidationError, model_validator
from pydantic_core import to_json

from semivss.errors import RecipeError
from semivss.presets import with_presets
from semivss.settings import Data, Model, Predict, PseudoLabels, Score, Section, Semi, Settings, Source, Teacher, Toy, Train
from semivss.wording import counted

# Settings that change no weight of the model they train: a run may go on with other ones.
_WATCHING = {"checkpoint_every", "evaluate_batch", "log_every", "panel_frames", "sharding"}
FREE: dict[str, Any] = {
    "name": True,
    "data": {"workers", "cache_mb", "test"},
    "model": {"recompute"},
    "train": _WATCHING,
    "predict": True,
    "score": True,
    "teacher": True,
    "pseudo": True,
    "semi": {"rounds": True, "retrain_teacher": True, "controls": True, "train": _WATCHING},
}


class Sections(NamedTuple):
    """Where the model and the steps of one training stand in the recipe of a run, for errors that name keys."""

    model: str = "model"
    train: str = "train"


class Recipe(Settings):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    data: Data
    model: Model = Model()
    train: Train = Train()
    predict: Predict = Predict()
    score: Score = Score()
    teacher: Teacher | None = None
    pseudo: PseudoLabels = PseudoLabels()
    semi: Semi | None = None  # none = supervised training is all

    @model_validator(mode="after")
    def _sections_fit(self) -> "Recipe":
        models = 1 if self.teacher is None else 2
        if self.pseudo.weights and len(self.pseudo.weights) != models:
            raise ValueError(
                f"pseudo.weights has {counted(len(self.pseudo.weights), 'number')} for {counted(models, 'model')}; give one each"
            )
        if self.pseudo.weights and not any(self.pseudo.weights):
            raise ValueError("pseudo.weights are all 0; at least one model must count")
        if self.semi is None or self.semi.mode == "supervised":
            return self
        if not self.data.unlabelled:
            raise ValueError(f"semi.mode {self.semi.mode} needs unlabelled video; add [[data.unlabelled]], or take the section [semi] out")
        if self.semi.supervised_steps >= self.semi.train.steps:
            raise ValueError("semi.supervised_steps must be below semi.train.steps, or no step sees unlabelled video")
        heads = {one.model.head for one in (self, self.teacher if self.semi.retrain_teacher else None) if one is not None}
        if heads == {"pixel"} and (self.semi.likelihood or self.semi.weigh_masks):
            name = "likelihood" if self.semi.likelihood else "weigh_masks"
            raise ValueError(
                f"semi.{name} is for masks; a pixel head has that loss already, so leave it out or take model.head mask2former"
            )
        if self.semi.threshold.kind == "absolute" and self.semi.threshold.per_class:
            raise ValueError("semi.threshold: per_class is for percentiles; an absolute gamma is the same for all classes")
        return self

    def digest(self) -> str:
        """Short hash of every setting that is not at its default; results carry it, beside the version that says what the defaults are."""
        return hashlib.sha256(self.model_dump_json(exclude_defaults=True).encode()).hexdigest()[:12]


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a TOML recipe and apply `a.b=c` overrides (c is a TOML value; a bare word is text; nothing takes the key out).

    A key `base`, first in the file, names another recipe, relative to it, of which this one says only what differs.

    Raises:
        RecipeError: one line with the key, what is allowed and the nearest known key.
    """
    tree = {"name": Path(path).stem} | _with_base(Path(path), ())
    return parse_recipe(overridden(tree, overrides), str(path))


def _with_base(path: Path, inner: tuple[Path, ...]) -> dict[str, Any]:
    """The file's tree laid over that of its base; `inner` are the files that lead here."""
    if path.resolve() in inner:
        raise RecipeError(f"{inner[-1]}: its base {path.name} is made from itself; name another")
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        whose = f"base of {inner[-1]}" if inner else "recipe"
        raise RecipeError(f"{path}: cannot read the {whose} ({error.strerror}); give the path of a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid TOML ({error}); mend that line") from error
    tree = _expanded(tree, str(path))
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise RecipeError(f"{path}: key 'base' must be the path of another recipe, got {base!r}")
    below = _with_base(path.parent / base, (*inner, path.resolve()))
    below.pop("name", None)  # this recipe has one of its own
    return _laid_over(below, tree)


def _laid_over(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Sections are merged key by key; values and lists, such as the sources of data.train, are replaced."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _laid_over(merged[key], value) if both else value
    return merged


def overridden(tree: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A nested mapping with `a.b=c` overrides applied to a copy. Raises RecipeError for one of another form."""
    changed: dict[str, Any] = copy.deepcopy(dict(tree))
    for override in overrides:
        _override(changed, override)
    return changed


def parse_recipe(tree: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Check a nested mapping. Raises RecipeError as `load_recipe` does."""
    try:
        return _strictly(Recipe, _expanded(tree, where))
    except ValidationError as error:
        raise RecipeError(f"{where}: {_explain(error, Recipe)}") from error


def _expanded(tree: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The tree without names of presets; of each file before it is laid over another, so that a preset replaces all that lies below."""
    try:
        return with_presets(tree)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from None


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
    """The resolved recipe as TOML, without the toy world of sources that are none; reading it back gives the same recipe."""
    import tomli_w

    tree = _without_none(recipe.model_dump(mode="json"))
    data = tree["data"]
    for source in [*data["train"], *data["unlabelled"], *data["test"], *([data["val"]] if "val" in data else [])]:
        if source["kind"] != "toy" and Toy.model_validate(source["toy"]) == Toy():
            del source["toy"]
    return tomli_w.dumps(tree)


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
    if not text.strip() and isinstance(node, dict):
        node.pop(last, None)
    elif isinstance(node, list):
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
    key = ".".join(location)
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
    said = f"{message[0].lower() + message[1:]}{shown}{more}"
    return f"key {key!r}: {said}" if location else said  # what no key alone is to blame for names its keys itself


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
