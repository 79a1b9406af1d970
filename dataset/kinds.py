"""Whether what was read from a file has the kinds of values that a program of ours writes there."""

import math
from collections.abc import Mapping
from types import UnionType
from typing import get_args, get_origin

Kind = type | UnionType


def is_of(value: object, kind: Kind) -> bool:
    """kind: a type, or such as `str | None`, `list[str]`, `dict[str, int]`. A bool is no number, nor is nan or
    infinity."""
    parts, origin = get_args(kind), get_origin(kind)
    if isinstance(kind, UnionType):
        return any(is_of(value, part) for part in parts)
    if origin is list:
        return isinstance(value, list) and all(is_of(one, parts[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(is_of(name, parts[0]) and is_of(one, parts[1])
                                               for name, one in value.items())
    if kind in (int, float):
        return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind)


def of_another_kind(values: Mapping, kinds: Mapping[str, Kind]) -> list[str]:
    """The names among `values` whose value is not of the kind in `kinds`, which need not name all of them."""
    return [name for name, kind in kinds.items() if name in values and not is_of(values[name], kind)]
