"""A second device on a machine that has one: tensors that say `meta` and have values, as those of a GPU have.

Inside `second_device()` the device `meta` computes. What meets a tensor of the CPU there (but for a number) is an
error, as on a GPU, and so is numpy.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, return_and_correct_aliasing
from torch.utils._pytree import tree_map

NAME = "meta"
BROUGHT: list[str] = []  # the operations that took values from the CPU to the second device
READ: list[str] = []  # those that took values from it
LINALG = ("eigh", "inv", "inv_ex", "lstsq", "pinv", "qr", "solve", "svd", "svdvals")
READERS = tuple(
    getattr(torch.ops.aten, name) for name in ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal")
)
BROKEN = [getattr(torch.linalg, name) for name in LINALG]  # in their parts, by a dispatch mode


class There(torch.Tensor):
    """A tensor of the second device; `here` has its values."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here):
        here = here.resolve_conj().resolve_neg()  # torch sees the outside alone, which has no such bits
        shape = {"strides": here.stride(), "storage_offset": here.storage_offset(), "dtype": here.dtype}
        found = torch.Tensor._make_wrapper_subclass(cls, here.shape, device=NAME, requires_grad=False, **shape)
        found.here = here
        return found

    def __repr__(self):
        return f"There({self.here})"

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function in (torch.Tensor.numpy, torch.Tensor.__array__):
            raise TypeError("can't convert tensor of the second device to numpy: use Tensor.cpu() first.")
        if function == torch.Tensor.tolist:
            return args[0].detach().here.tolist()
        if function == torch.Tensor.is_meta.__get__:
            return False
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _compute(function, args, kwargs or {})


def _mapped(function, value):
    """The value with `function` of every tensor in it; `tree_map` of any structure takes most of the time of a test."""
    if isinstance(value, torch.Tensor):
        return function(value)
    return type(value)(_mapped(function, x) for x in value) if isinstance(value, list | tuple) else value


def _compute(function, args, kwargs):
    tensors = []
    _mapped(tensors.append, (*args, *kwargs.values()))
    there = any(isinstance(x, There) for x in tensors)
    to = kwargs.get("device")
    moves = function.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_, torch.ops.aten.index_put_)
    if there and not moves and any(not isinstance(x, There) and x.dim() for x in tensors):
        places = ["second" if isinstance(x, There) else "cpu" for x in tensors]
        indexing = function.overloadpacket in (torch.ops.aten.index, torch.ops.aten._index_put_impl_)
        if not indexing or places[0] == "cpu":  # a GPU is indexed by the CPU too
            raise RuntimeError(f"Expected all tensors to be on the same device, got {places} in {function}")
    if function.overloadpacket is torch.ops.aten._to_copy and to is not None and not there and NAME in str(to):
        BROUGHT.append(str(function))
    left = function.overloadpacket is torch.ops.aten._to_copy and to is not None and NAME not in str(to)
    if there and (left or function.overloadpacket in READERS):
        READ.append(str(function))
    if to is not None:
        there = torch.device(to).type == NAME
        kwargs = {**kwargs, "device": "cpu"}
    elif function.overloadpacket in (torch.ops.aten.copy_, torch.ops.aten.index_put_):
        there = isinstance(args[0], There)
    bare, *options = _mapped(lambda x: x.here if isinstance(x, There) else x, (args, *kwargs.values()))
    found = function(*bare, **dict(zip(kwargs, options, strict=True)))
    if not there:
        return found
    with torch.inference_mode(False):  # in which a view cannot be told its base
        return return_and_correct_aliasing(function, args, kwargs, _mapped(There, found))


class _Factories(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _compute(function, args, kwargs or {})


class _Composed(TorchFunctionMode):
    """Functions that torch composes otherwise for a meta device, which has no values elsewhere."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (torch.tensor, torch.as_tensor) and NAME in str(kwargs.get("device")):
            return function(*args, **{**kwargs, "device": "cpu"}).to(NAME)
        if function is torch.Tensor.new_tensor and isinstance(args[0], There):
            return There(function(args[0].here, *args[1:], **kwargs))
        if function in BROKEN:
            there = isinstance(args[0], There)
            with _disable_current_modes():
                found = function(*(x.here if isinstance(x, There) else x for x in args), **kwargs)
                return tree_map(There, found) if there else found
        return function(*args, **kwargs)


class _Generator(torch.Generator):
    """Numbers for either device, which the CPU draws."""

    def __new__(cls, device="cpu"):
        found = super().__new__(cls, "cpu")
        found.of = torch.device(device)
        return found

    @property
    def device(self):
        return self.of


@contextmanager
def second_device(monkeypatch) -> Iterator[str]:
    """The name of the second device, which computes inside."""
    monkeypatch.setattr(torch, "Generator", _Generator)
    monkeypatch.setattr(torch.__future__, "_overwrite_module_params_on_conversion", True)  # of tensors in tensors
    with _Factories(), _Composed():
        yield NAME
