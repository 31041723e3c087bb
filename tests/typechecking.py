"""The run-time type checker of the test suite: beartype, with an int welcome where a float is, and jaxtyping's axes.

jaxtyping's own decorator binds the arguments of every call, asks for each type twice, and makes the checks of a
function in a function anew whenever the outer one runs: most of the time of a test whose tensors are small.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import is_dataclass
from functools import wraps
from inspect import isclass
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
axes_of_one_call = jaxtyping.jaxtyped
seen = set()


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
            with axes_of_one_call("context") if has_axes else nullcontext():
                return asked(*arguments, **options)

        return call

    return decorate


def known(hint: Any, names: dict[str, Any]) -> Any:
    """What a type in quotes stands for; anything, where it is not there yet."""
    try:
        return eval(hint, names) if isinstance(hint, str) else hint
    except NameError:
        return Any


jaxtyping.jaxtyped = jaxtyped
