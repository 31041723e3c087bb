"""The run-time type checker of the test suite: beartype, with an int welcome where a float is, and jaxtyping's axes.

jaxtyping's own decorator binds the arguments of every call, asks for each type twice, and makes the checks of a
function in a function anew whenever the outer one runs: most of the time of a test whose tensors are small. Of a
tensor it copies all axes known before it looks at a single one.
"""

from collections.abc import Callable
from dataclasses import is_dataclass
from functools import wraps
from inspect import isclass
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping._array_types import _MetaAbstractArray, _NamedDim
from jaxtyping._storage import get_shape_memo
from torch import Tensor, dtype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
axes_of_one_call = jaxtyping.jaxtyped
answer_of_jaxtyping = _MetaAbstractArray.__instancecheck__
seen = set()
names_of: dict[tuple[type, dtype], list[str]] = {}  # of the axes of a hint, where tensors of this dtype passed it


def jaxtyped(*, typechecker: Callable) -> Callable:
    """In place of jaxtyping's: checks a function, those in a function once, or the fields of a dataclass."""

    def decorate(function: Any) -> Any:
        if isclass(function):
            if is_dataclass(function) and not hasattr(function.__init__, "__wrapped__"):
                function.__init__ = decorate(function.__init__)
            return function
        again = "<locals>" in function.__qualname__ and function.__code__ in seen
        seen.add(function.__code__)
        if again or not function.__annotations__:
            return function
        written = function.__annotations__
        hints = {name: known(hint, function.__globals__) for name, hint in written.items()}
        has_axes, function.__annotations__ = "jaxtyping." in str(hints), hints
        asked = typechecker(function)
        function.__annotations__ = written

        @wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            __tracebackhide__ = True
            if jaxtyping.config.jaxtyping_disable:
                return function(*arguments, **options)
            if not has_axes:
                return asked(*arguments, **options)
            with axes_of_one_call("context"):
                return asked(*arguments, **options)

        return call

    return decorate


def known(hint: Any, names: dict[str, Any]) -> Any:
    """What a type in quotes stands for; anything, where it is not there yet."""
    try:
        return eval(hint, names) if isinstance(hint, str) else hint
    except NameError:
        return Any


def is_instance(hint: Any, value: object) -> bool:
    """jaxtyping's answer, sooner for a tensor that fits a hint of named axes."""
    if type(value) is not Tensor:
        return answer_of_jaxtyping(hint, value)
    names = names_of.get((hint, value.dtype), ())
    if len(names) == value.ndim > 0:
        known, found = get_shape_memo()[0], {}
        for name, n in zip(names, value.shape, strict=True):
            if found.setdefault(name, known.get(name, n)) != n:
                break
        else:
            known.update(found)
            return True
    fits = answer_of_jaxtyping(hint, value)
    if fits and all(type(axis) is _NamedDim and not (axis.broadcastable or axis.treepath) for axis in hint.dims):
        names_of[hint, value.dtype] = [axis.name for axis in hint.dims]
    return fits


jaxtyping.jaxtyped = jaxtyped
_MetaAbstractArray.__instancecheck__ = is_instance
