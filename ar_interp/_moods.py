"""The moods of torch: `calm`, as it is when a program starts, whatever the caller's; `recording`, into a CUDA graph."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

DEVICES = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def calm(*, gradients: bool = False) -> Iterator[None]:
    """Neither inference mode nor autocast, new tensors on the CPU, gradients only where asked for; all of it in this
    thread alone. The default dtype is one for all threads, and so is left: nothing here may depend on it."""
    import torch  # here: what only lists the studies needs none

    with ExitStack() as moods:
        moods.enter_context(torch.inference_mode(False))
        moods.enter_context(torch.set_grad_enabled(gradients))
        for device in filter(torch.is_autocast_enabled, DEVICES):
            moods.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            moods.enter_context(torch.device("cpu"))
        yield


def recording() -> bool:
    """Whether operations are being recorded into a CUDA graph, where no tensor has a value that can be read."""
    import torch

    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
