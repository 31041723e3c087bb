"""Constants of a computation on the device where it runs."""

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

_COPIES: WeakIdKeyDictionary = WeakIdKeyDictionary()  # constant -> (device, dtype) -> its copy there


def resident(constant: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """The constant on a device, copied there once: a CUDA graph can hold no copy from the host.

    Args:
        constant: an object that stays, and is not written to.
        dtype: its own if left out.
    """
    place = device, dtype or constant.dtype
    if place == (constant.device, constant.dtype):
        return constant
    copies: dict[tuple[torch.device, torch.dtype], Tensor] = _COPIES.setdefault(constant, {})  # type: ignore[assignment]
    if place not in copies:
        with torch.inference_mode(False):
            copies[place] = constant.to(*place)
    return copies[place]
