"""`HookPoint`: TransformerLens's, with hooks that act in one thread alone, as torch's own moods do; `StrictHooks`."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from threading import get_ident
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor
from transformer_lens import HookedRootModule, hook_points

Hook = tuple[str | Callable[[str], bool], Callable]
NamesFilter = str | Sequence[str] | Callable[[str], bool] | None
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


class StrictHooks(HookedRootModule):
    """A root of models whose hooks act in one thread alone, and where a name that selects no hook is an error."""

    hooks_stand_in = ""  # what an error on an unknown hook says of the model

    def hook_names(self) -> list[str]:
        """Every hook, in the order of the forward pass."""
        return list(self.hook_dict)

    def run_with_cache(  # type: ignore[override] - TransformerLens returns a plain dict
        self, *model_args: Any, names_filter: NamesFilter = None, **kwargs: Any
    ) -> tuple[Tensor, Any]:
        """The predictions and an ActivationCache of what `names_filter` selects (all if left out).

        Raises:
            ValueError: a filter that names an unknown hook or selects none.
        """
        self._check_filter(names_filter)
        if names_filter is not None and not isinstance(names_filter, str) and not callable(names_filter):
            names_filter = list(names_filter)
        return super().run_with_cache(*model_args, names_filter=names_filter, **kwargs)

    @contextmanager
    def hooks(
        self,
        fwd_hooks: Iterable[Hook] = (),
        bwd_hooks: Iterable[Hook] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> Iterator[Any]:
        """TransformerLens's context manager, in this thread alone: another one that runs the model has no part in it.

        So are `run_with_hooks` and `run_with_cache`; `add_hook` acts in every thread. An unknown hook is an error.

        Args:
            fwd_hooks, bwd_hooks: names (or functions that select names) and hooks.
            reset_hooks_end: False leaves them on the model, as `add_hook` does.
            clear_contexts: forget the `ctx` of every hook point at the end.
        """
        given: list[tuple[Direction, Hook]] = [
            *(("fwd", hook) for hook in fwd_hooks),
            *(("bwd", hook) for hook in bwd_hooks),
        ]
        found: list[tuple[Direction, Any, Callable]] = [
            (direction, self.hook_dict[name], hook)
            for direction, (names, hook) in given
            for name in self._selected(names)
        ]
        if not reset_hooks_end:
            for direction, point, hook in found:
                point.add_hook(hook, dir=direction)
        with hooks_here(found if reset_hooks_end else ()):
            yield self
        if clear_contexts and reset_hooks_end:
            self.clear_contexts()

    def _selected(self, names: str | Callable[[str], bool]) -> list[str]:
        self._check_filter(names)
        return list(filter(names, self.hook_dict)) if callable(names) else [names]

    def add_hook(self, name: str | Callable[[str], bool], *args: Any, **kwargs: Any) -> None:
        """Add a hook that stays until `reset_hooks`; an unknown name is an error."""
        self._check_filter(name)
        super().add_hook(name, *args, **kwargs)

    def _check_filter(self, names_filter: NamesFilter) -> None:
        names = self.hook_names()
        if names_filter is None:
            return
        if callable(names_filter):
            if not any(names_filter(name) for name in names):
                raise ValueError("names_filter selects no hook of this model; model.hook_names() lists all.")
            return
        wanted = [names_filter] if isinstance(names_filter, str) else list(names_filter)
        if not wanted:
            raise ValueError("names_filter is empty and selects no hook; leave it out to cache all.")
        for name in wanted:
            if name not in names:
                nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
                raise ValueError(
                    f"hook {name!r} does not exist{self.hooks_stand_in}. Did you mean {nearest[0]!r}? "
                    "model.hook_names() lists all."
                )
