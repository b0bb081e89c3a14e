"""Settings in, what a file that was written before some of their keys existed would have said of these out: the defaults."""

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_jsonable_python

from semivss.settings import BEFORE, Settings


def defaults(settings: Settings) -> dict[str, Any]:
    """A tree of JSON values with the sections and lists of `settings`, each key at its default; keys without one are left out.

    A new key's default must be what the version before did, or its field says under BEFORE what that was.
    """
    tree: dict[str, Any] = {}
    for key, field in type(settings).model_fields.items():
        value = getattr(settings, key)
        if isinstance(value, Settings):
            tree[key] = defaults(value)
        elif isinstance(value, tuple) and any(isinstance(item, Settings) for item in value):
            tree[key] = [defaults(item) for item in value]
        elif not field.is_required():
            extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
            tree[key] = extra.get(BEFORE, to_jsonable_python(field.get_default(call_default_factory=True)))
    return tree


def completed(old: Any, usual: Any) -> Any:
    """The tree `old` with what it lacks of the tree `usual`, in every section and in each item of lists of one length."""
    if isinstance(old, Mapping) and isinstance(usual, Mapping):
        return {**usual, **{key: completed(value, usual.get(key)) for key, value in old.items()}}
    if isinstance(old, list) and isinstance(usual, list) and len(old) == len(usual):
        return [completed(item, other) for item, other in zip(old, usual, strict=True)]
    return old
