"""How sequences arise: s_{t+1} = W s_t, with a fresh random W for every sequence.

States are rows, so a batch of states moves by s_{t+1} = s_t W^T.
"""

from ar_interp.processes.base import (
    FIRST_TOKEN_LAWS,
    MAX_DIM,
    AutoregressiveProcess,
    Contexts,
    FirstToken,
    Pairs,
    Sequences,
)
from ar_interp.processes.commuting import CommutingOrthogonal, CommutingProcess, CommutingUnitary
from ar_interp.processes.haar import HaarOrthogonal

Process = AutoregressiveProcess
PROCESSES = Process.registered

__all__ = [
    "FIRST_TOKEN_LAWS",
    "MAX_DIM",
    "PROCESSES",
    "CommutingOrthogonal",
    "CommutingProcess",
    "CommutingUnitary",
    "Contexts",
    "FirstToken",
    "HaarOrthogonal",
    "Pairs",
    "Process",
    "Sequences",
]
