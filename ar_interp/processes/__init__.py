"""How sequences arise: s_{t+1} = W s_t, with a fresh random W for every sequence.

States are rows, so a batch of states moves by s_{t+1} = s_t W^T.
"""

from ar_interp.processes.base import FIRST_TOKEN_LAWS, MAX_DIM, AutoregressiveProcess, FirstToken, Sequences
from ar_interp.processes.commuting import CommutingOrthogonal, CommutingProcess, CommutingUnitary
from ar_interp.processes.haar import HaarOrthogonal

Process = AutoregressiveProcess
PROCESSES: dict[str, type[Process]] = {cls.kind: cls for cls in (CommutingUnitary, CommutingOrthogonal, HaarOrthogonal)}

__all__ = [
    "FIRST_TOKEN_LAWS",
    "MAX_DIM",
    "PROCESSES",
    "CommutingOrthogonal",
    "CommutingProcess",
    "CommutingUnitary",
    "FirstToken",
    "HaarOrthogonal",
    "Process",
    "Sequences",
]
