"""The log of a training and the weights that are said to be its end: the loss of the kept seed, computed again."""

from collections.abc import Iterator

from ar_interp import seeds
from ar_interp.claims import Claim, Measured, claim
from ar_interp.training.loop import final_loss


def log_claims(measured: Measured, structure: str) -> Iterator[Claim]:
    """The claim that binds a log of many seeds to the weights; none where a GPU drew the contexts of the log.

    Args:
        structure: that the claims are about which rest on the log.
    """
    run = measured.subject.run
    if run is None or (run.device != "cpu" and measured.setting.no_exact_loss is not None):
        return
    losses, members = (run.members[name].to_numpy() for name in ("loss", "seed"))
    logged = float(losses[members == run.seed].mean())
    untrained = measured.model.untrained(seeds.UNTRAINED).state_dict()
    own, before = (final_loss(run, weights) for weights in (measured.model.state_dict(), untrained))
    yield claim(
        f"{structure}/log",
        "The loss that training logged for the kept seed is that of the shipped weights on the same contexts: their "
        "difference over the loss of untrained weights",
        evidence="training",
        source="the losses of all seeds are on the same contexts, or exact",
        tolerance="logged loss again",
        measured=abs(own - logged) / before,
        control=("the loss of untrained weights", abs(before - logged) / before),
    )
