"""Names of test-time views in, the settings they stand for out."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from semivss.errors import RecipeError
from semivss.settings import Views

BASE = 896  # pixels along the shorter side of a frame at scale 1, and a side of the windows: the published models' training crops


def _published(*sides: int) -> Views:
    return Views(scales=tuple(side / BASE for side in sides), flip=True, crop=(BASE, BASE), stride=(512, 512), short_side=BASE)


# In the order of their cost, for frames of a common size.
PRESETS: Mapping[str, Views] = {
    "single": Views(),
    "fast": Views(flip=True),  # the size that models of one's own data were trained at, and mirrored frames, which training shows too
    "released": _published(640, 768, 896),
    "paper": _published(512, 640, 768, 896, 1024, 1152, 1280, 1408),
}


def preset_views(name: str, *, whole: bool = False) -> Views:
    """The views of a preset; as `whole` images instead of windows if wanted. Raises RecipeError for an unknown name."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise RecipeError(f"no views are called {name!r}; {hint}Known ones: {', '.join(PRESETS)}")
    return whole_images(PRESETS[name]) if whole else PRESETS[name]


def whole_images(views: Views) -> Views:
    """The same scales, each as one picture."""
    return views.model_copy(update={"crop": None, "stride": None})


@dataclass(frozen=True)
class Budget:
    """Time that a command may take, and the views to choose from."""

    seconds: float
    views: Mapping[str, Views]  # cheapest first


def parse_budget(text: str, *, up_to: str | None = None, whole: bool = False) -> Budget:
    """Hours, minutes and seconds such as 2h, 1h30m or 45s, for all presets or those up to the one that is named.

    Raises RecipeError for what is no time, and for an unknown name.
    """
    found = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text)
    seconds = sum(float(count) * unit for count, unit in zip(found.groups("0"), (3600, 60, 1), strict=True)) if found else 0.0
    if not seconds:
        raise RecipeError(f"--budget {text}: not a time; write hours, minutes and seconds such as 2h, 90m or 1h30m")
    names = list(PRESETS)
    if up_to is not None:
        preset_views(up_to)
        names = names[: names.index(up_to) + 1]
    return Budget(seconds, {name: preset_views(name, whole=whole) for name in names})


def with_presets(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's tree with the views of a preset in place of its name, as in `views = { preset = "released", whole = true }`.

    What else is wrong with the tree is left to whoever checks it. Raises RecipeError for an unknown name, or settings beside it.
    """
    for name, section in tree.items():
        if isinstance(section, dict) and isinstance(section.get("views"), dict) and "whole" in section["views"] and not _names_one(section):
            raise RecipeError(
                f"key '{name}.views.whole': goes with a preset ({', '.join(PRESETS)}); other views are whole unless they have a crop"
            )
    named = {name: section for name, section in tree.items() if _names_one(section)}
    return {**tree, **{name: {**section, "views": _expanded(f"{name}.views", section["views"])} for name, section in named.items()}}


def _names_one(section: Any) -> bool:
    return isinstance(section, dict) and isinstance(section.get("views"), dict) and "preset" in section["views"]


def _expanded(key: str, views: Mapping[str, Any]) -> dict[str, Any]:
    """Every key, so that nothing of another recipe below shows through."""
    name, whole = views["preset"], views.get("whole", False)
    if more := sorted(set(views) - {"preset", "whole", "sampling"}):
        raise RecipeError(
            f"key '{key}': a preset brings sizes of its own; leave {', '.join(more)} out, with -o by naming it as a whole: "
            f"-o '{key}={{preset=\"{name}\"}}'"
        )
    if not isinstance(name, str) or not isinstance(whole, bool):
        raise RecipeError(f"key '{key}': preset is a name ({', '.join(PRESETS)}), whole is true or false")
    try:
        chosen = preset_views(name, whole=whole)
    except RecipeError as error:
        raise RecipeError(f"key '{key}.preset': {error}") from None
    return chosen.model_dump(mode="json") | ({"sampling": views["sampling"]} if "sampling" in views else {})
