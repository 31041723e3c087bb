"""`HookPoint`: TransformerLens's, with hooks that act in one thread alone, as torch's own moods do."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from threading import get_ident
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor
from transformer_lens import hook_points

Hook = tuple[str | Callable[[str], bool], Callable]
Direction = Literal["fwd", "bwd"]
Here = Mapping["HookPoint", tuple[tuple[Direction, Callable], ...]]
_HERE: ContextVar[Here] = ContextVar("hooks", default=MappingProxyType({}))


class HookPoint(hook_points.HookPoint):
    """Calls the hooks that the model has (`add_hook`), in every thread, then those that the caller's thread has here.

    The latter are no part of the model: they are never copied, saved or seen by another thread.
    """

    def __call__(self, x: Tensor) -> Tensor:
        x = super().__call__(x)
        for direction, hook in _HERE.get().get(self, ()):
            if direction == "bwd":
                x = _with_backward_hook(x, hook, self)
                continue
            found = hook(x, hook=self)
            x = x if found is None else found
        return x

    def has_hooks(self, dir: Any = "both", including_permanent: bool = True, level: int | None = None) -> bool:
        """TransformerLens's, and whether there are hooks of this thread."""
        mine = level is None and any(dir in ("both", direction) for direction, _ in _HERE.get().get(self, ()))
        return mine or super().has_hooks(dir, including_permanent, level)


class OwnHookPoint(HookPoint):
    """Gives its hooks a copy: they may write in place, as TransformerLens's patching does, and what comes here is used
    elsewhere too, by other heads, the rest of the forward pass or the caller."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clone(memory_format=torch.contiguous_format) if self.has_hooks() else x


@contextmanager
def hooks_here(hooks: Iterable[tuple[Direction, hook_points.HookPoint, Callable]]) -> Iterator[None]:
    """Hooks for as long as the context lasts, in this thread alone."""
    before, handles = _HERE.get(), []
    now = dict(before)
    try:
        for direction, point, hook in hooks:
            if isinstance(point, HookPoint):
                now[point] = (*now.get(point, ()), (direction, hook))
            else:
                only = in_this_thread(hook) if direction == "fwd" else hook  # autograd has threads of its own
                handles.append((point, direction, point.add_hook(only, dir=direction)))
        _HERE.set(now)
        yield
    finally:
        _HERE.set(before)
        for point, direction, handle in handles:
            handle.hook.remove()
            with suppress(ValueError):  # `reset_hooks` was first
                getattr(point, f"{direction}_hooks").remove(handle)


def in_this_thread(function: Callable) -> Callable:
    """A hook that does nothing in other threads."""
    mine = get_ident()

    def only_here(x: Tensor, hook: hook_points.HookPoint) -> Any:
        return function(x, hook=hook) if get_ident() == mine else None

    return only_here


def _with_backward_hook(x: Tensor, hook: Callable, point: HookPoint) -> Tensor:
    """The same, with a hook on its gradient."""
    if not x.requires_grad:
        return x

    def on_gradient(gradient: Tensor) -> Tensor | None:
        found = hook(gradient, hook=point)
        return found[0] if isinstance(found, tuple) else found

    x = x.view_as(x)
    x.register_hook(on_gradient)
    return x
