"""The text of a Python configuration (mmseg's kind) in, its values out as far as they are written down literally. It is never run.

`name = value` at the top level counts; a value may be a number, text, tuple, list, dict, `dict(key=value)`, or the name of an earlier one.
Everything else (calls, sums, imports) is left out with what contains it in a list, and alone in a dict.
"""

import ast
from collections.abc import Mapping
from typing import Any

_LEFT_OUT = object()


def python_literals(text: str) -> dict[str, Any]:
    """Names and values. Raises SyntaxError or ValueError for a text that is no Python."""
    values: dict[str, Any] = {}
    for statement in ast.parse(text).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=node):
                value = _value(node, values)
                values.pop(name, None)
                if value is not _LEFT_OUT:
                    values[name] = value
    return values


def _value(node: ast.expr, known: Mapping[str, Any]) -> Any:
    match node:
        case ast.Name(id=name):
            return known.get(name, _LEFT_OUT)
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords):
            pairs = {word.arg: _value(word.value, known) for word in keywords if word.arg}
        case ast.Dict(keys=keys, values=items):
            pairs = {key.value: _value(item, known) for key, item in zip(keys, items, strict=True) if isinstance(key, ast.Constant)}
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            listed = [_value(element, known) for element in elements]
            return _LEFT_OUT if any(item is _LEFT_OUT for item in listed) else listed
        case _:
            try:
                return ast.literal_eval(node)
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                return _LEFT_OUT
    return {key: value for key, value in pairs.items() if value is not _LEFT_OUT}
