"""The battery: every sabotaged and innocent model by name, run as a matrix of claims by models."""

from collections.abc import Iterable, Mapping

import pandas as pd

from ar_interp import checkpoints
from ar_interp._checks import check_seed
from ar_interp._moods import calm
from ar_interp._shown import ByName, watched
from ar_interp.sabotage.chains import CHAINS
from ar_interp.sabotage.conditions import CONDITIONS
from ar_interp.sabotage.core import BatteryResult, Make, Sabotage, cells
from ar_interp.sabotage.deceptions import DECEPTIONS
from ar_interp.sabotage.diagonal import PAIRS, UNITARY
from ar_interp.sabotage.emergence import EMERGENCE
from ar_interp.sabotage.general import GENERAL
from ar_interp.sabotage.hidden import HIDDEN
from ar_interp.sabotage.innocent import INNOCENT
from ar_interp.sabotage.mechanism import MECHANISM
from ar_interp.sabotage.noise import NOISE
from ar_interp.sabotage.regression import REGRESSION
from ar_interp.sabotage.runs import RUNS
from ar_interp.sabotage.stacks import STACKS
from ar_interp.studies import verify

PARTS: dict[str, dict[str, Sabotage]] = {
    "diagonal heads, unitary": UNITARY,
    "diagonal heads, pairs": PAIRS,
    "general models": GENERAL,
    "mechanism": MECHANISM,
    "stacks": STACKS,
    "noise": NOISE,
    "runs": RUNS,
    "emergence": EMERGENCE,
    "deceptions": DECEPTIONS,
    "hidden": HIDDEN,
    "conditions": CONDITIONS,
    "regression": REGRESSION,
    "chains": CHAINS,
    "innocent": INNOCENT,
}
BATTERY = ByName({name: sabotage for part in PARTS.values() for name, sabotage in part.items()})


@calm(gradients=True)
def run_battery(
    names: Iterable[str] | None = None,
    *,
    seed: int = 0,
    n: int | None = None,
    battery: Mapping[str, Sabotage] = BATTERY,
) -> BatteryResult:
    """Verify every model of the battery, and set each verdict beside what theory expects.

    Args:
        names: the models to verify; all if left out.
        seed: of all that is random in them, and of the evaluation.
        n: how many contexts each measurement takes; as many as each claim was planned with if left out.
        battery: the models by name.
    Raises:
        ValueError: an unknown name, no name; an expectation of a claim that is not made of the model.
    """
    check_seed(seed)
    chosen = list(battery) if names is None else list(names)
    unknown = [name for name in chosen if name not in battery]
    if unknown or not chosen:
        raise ValueError(f"names must be of the battery, got {unknown or chosen}; it has {', '.join(battery)}.")
    before: dict[tuple[str, Make], dict[str, str]] = {}
    rows = []
    for name in watched(iterable=chosen, desc="battery", unit=" models"):
        sabotage = battery[name]
        checkpoint = checkpoints.load(sabotage.base)
        if sabotage.healthy and (sabotage.base, sabotage.healthy) not in before:
            claims = verify(sabotage.healthy(checkpoint, seed), checkpoint.process, seed=seed, n=n)
            before[sabotage.base, sabotage.healthy] = {claim.name: claim.verdict for claim in claims}
        claims = verify(sabotage.make(checkpoint, seed), checkpoint.process, seed=seed, n=n)
        rows += cells(name, sabotage, claims, before[sabotage.base, sabotage.healthy] if sabotage.healthy else {})
    return BatteryResult(frame=pd.DataFrame(rows))
