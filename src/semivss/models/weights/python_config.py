"""The text of a Python configuration in, what it writes down out. It is never run; what would have to be run is marked, not left out.

A statement that is no plain `name = value` marks all names that it may change.
"""

import ast
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from semivss.errors import WeightsError

_LONGEST = 10_000  # entries of a list that a text of a few bytes may spell
_SUMS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv,
}


@dataclass(frozen=True)
class Unread:
    """A value that only running the text would give."""

    text: str


class Section(Mapping[str, Any]):
    """Named values. One that could not be read is there, and asking for it raises WeightsError: it is not taken for absent."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> Any:
        value = self._values[name]
        if isinstance(value, Unread):
            raise WeightsError(f"{name} ({value.text}) is not read, for nothing is run; write the value itself in its place")
        return _asked_for(value)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(self._values)

    def plain(self) -> dict[str, Any]:
        """All of it as dicts. Raises WeightsError if anything could not be read."""
        return {name: _plain(value) for name, value in self.items()}


def _asked_for(value: Any) -> Any:
    match value:
        case dict():
            return Section(value)
        case list():
            return [_asked_for(item) for item in value]
    return value


def _plain(value: Any) -> Any:
    match value:
        case Section():
            return value.plain()
        case list():
            return [_plain(item) for item in value]
    return value


def python_values(text: str) -> dict[str, Any]:
    """Values of the names at the top level, in nested dicts; what cannot be read is `Unread`, with the list or call that contains it.

    Read are numbers, texts, tuples and lists, dicts, `dict(key=value, **name)`, sums and products of numbers and lists, earlier names.

    Raises:
        SyntaxError, ValueError: a text that is no Python.
    """
    values: dict[str, Any] = {}
    for statement in ast.parse(text).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=node):
                values[name] = _value(node, values)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                values[name] = _unread(statement)
            case _:  # it may change whatever it stores to, or calls a method of
                values |= {name: _unread(statement) for name in _touched(statement)}
    return values


def _touched(statement: ast.stmt) -> set[str]:
    names = set()
    for node in ast.walk(statement):
        match node:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                names.add(name)
            case ast.Subscript(ctx=ast.Store() | ast.Del()) | ast.Attribute(ctx=ast.Store() | ast.Del()) | ast.Call(func=ast.Attribute()):
                names.add(_root(node.func if isinstance(node, ast.Call) else node))
    return names - {""}


def _root(node: ast.expr) -> str:
    """The name that a chain of entries and attributes begins with."""
    while isinstance(node, ast.Subscript | ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _value(node: ast.expr, known: Mapping[str, Any]) -> Any:
    match node:
        case ast.Name(id=name) if name in known:
            return known[name]
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords):
            return _table([(word.arg, word.value) for word in keywords], node, known)
        case ast.Dict(keys=keys, values=values):
            names = [None if key is None else key.value if isinstance(key, ast.Constant) else key for key in keys]
            return _table(list(zip(names, values, strict=True)), node, known)
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            listed = [_value(element, known) for element in elements]
            return _unread(node) if any(isinstance(item, Unread) for item in listed) else listed
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _SUMS:
            return _combined(_value(left, known), type(sign), _value(right, known), node)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return _unread(node)


def _table(entries: list[tuple[Any, ast.expr]], node: ast.expr, known: Mapping[str, Any]) -> Any:
    """A dict; None for a name stands for all the entries of a value."""
    table: dict[str, Any] = {}
    for name, item in entries:
        value = _value(item, known)
        if name is None and isinstance(value, dict):
            table |= value
        elif isinstance(name, str):
            table[name] = value
        else:
            return _unread(node)  # anything may be in it
    return table


def _combined(left: Any, sign: type[ast.operator], right: Any, node: ast.expr) -> Any:
    match left, right:
        case (int() | float(), int() | float()):
            fits = True
        case (list() as items, int(times)) | (int(times), list() as items):
            fits = sign is ast.Mult and _entries(items) * times <= _LONGEST
        case (list(), list()):
            fits = sign is ast.Add and _entries(left) + _entries(right) <= _LONGEST
        case _:
            fits = False
    try:
        return _SUMS[sign](left, right) if fits else _unread(node)
    except (ArithmeticError, ValueError):
        return _unread(node)


def _entries(value: Any) -> int:
    return sum(map(_entries, value)) + 1 if isinstance(value, list) else 1


def _unread(node: ast.AST) -> Unread:
    text = " ".join(ast.unparse(node).split())
    return Unread(text if len(text) <= 60 else f"{text[:57]}...")
