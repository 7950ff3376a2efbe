"""Arguments against annotations: what an operation declares is what it gets.

An operation's parameters carry types out of a small set, the types of the wire: `int`, `float`, `str`, `bool`, `bytes`,
`Decimal`, `list[...]`, `dict[str, ...]`, `None`, unions of these, and `Any`. Others are refused when the operation is
registered, not when the first customer comes.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Union, get_args, get_origin

Check = Callable[[Any, str], Any]
"""Takes a value and the path to it; returns the value that the operation gets, or raises `Mistyped`."""

SCALARS: tuple[type, ...] = (int, float, str, bool, bytes, Decimal)


class Mistyped(Exception):
    """A value is not of the declared type. The text says where, what was expected, and what came."""


class UnsupportedAnnotation(Exception):
    """An annotation outside of the set above."""


def compile_annotation(annotation: Any) -> Check:
    """The check for one annotation. Raises `UnsupportedAnnotation`."""
    if annotation is Any:
        return _anything
    if annotation is None or annotation is type(None):
        return _exactly(type(None), "None")
    if annotation is float:
        return _float
    if annotation in SCALARS:
        return _exactly(annotation, annotation.__name__)
    origin = get_origin(annotation) or annotation
    if origin is Union or origin is types.UnionType:
        return _any_of([compile_annotation(part) for part in get_args(annotation)], annotation)
    if origin is list:
        return _list_of(get_args(annotation))
    if origin is dict:
        return _dict_of(get_args(annotation))
    raise UnsupportedAnnotation(describe(annotation))


def describe(annotation: Any) -> str:
    """An annotation as an author would write it."""
    return annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)


def _anything(value: Any, path: str) -> Any:
    return value


def _exactly(kind: type, name: str) -> Check:
    # Exactly: a bool is an int to Python, but True is no number of items.
    def check(value: Any, path: str) -> Any:
        if type(value) is not kind:
            raise Mistyped(f"{path} must be {name}, not {type(value).__name__}")
        return value

    return check


def _float(value: Any, path: str) -> float:
    # A whole number where a float is declared is no mistake (PEP 484 says the same).
    if type(value) is not float and type(value) is not int:
        raise Mistyped(f"{path} must be float, not {type(value).__name__}")
    return float(value)


def _any_of(checks: list[Check], annotation: Any) -> Check:
    def check(value: Any, path: str) -> Any:
        for one in checks:
            try:
                return one(value, path)
            except Mistyped:
                continue
        raise Mistyped(f"{path} must be {describe(annotation)}, not {type(value).__name__}")

    return check


def _list_of(parameters: tuple[Any, ...]) -> Check:
    item_check = compile_annotation(parameters[0]) if parameters else _anything

    def check(value: Any, path: str) -> Any:
        if type(value) is not list:
            raise Mistyped(f"{path} must be list, not {type(value).__name__}")
        return [item_check(item, f"{path}[{at}]") for at, item in enumerate(value)]

    return check


def _dict_of(parameters: tuple[Any, ...]) -> Check:
    if parameters and parameters[0] is not str:
        raise UnsupportedAnnotation(f"dict with {describe(parameters[0])} keys")
    item_check = compile_annotation(parameters[1]) if parameters else _anything

    def check(value: Any, path: str) -> Any:
        if type(value) is not dict:
            raise Mistyped(f"{path} must be dict, not {type(value).__name__}")
        return {name: item_check(item, f"{path}.{name}") for name, item in value.items()}

    return check
