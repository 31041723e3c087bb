"""How contexts arise: sequences s_{t+1} = W s_t with a fresh random W each, and chains of thought.

States are rows, so a batch of states moves by s_{t+1} = s_t W^T.
"""

from ar_interp.processes.base import AutoregressiveProcess as AutoregressiveProcess
from ar_interp.processes.base import Process as Process
from ar_interp.processes.chain_tasks import Counting as Counting
from ar_interp.processes.chain_tasks import NoisyXor as NoisyXor
from ar_interp.processes.chain_tasks import Parity as Parity
from ar_interp.processes.chain_tasks import Permuted as Permuted
from ar_interp.processes.chains import Chains as Chains
from ar_interp.processes.chains import ChainTask as ChainTask
from ar_interp.processes.characters import Characters as Characters
from ar_interp.processes.commuting import CommutingOrthogonal as CommutingOrthogonal
from ar_interp.processes.commuting import CommutingProcess as CommutingProcess
from ar_interp.processes.commuting import CommutingUnitary as CommutingUnitary
from ar_interp.processes.contexts import Contexts as Contexts
from ar_interp.processes.contexts import Pairs as Pairs
from ar_interp.processes.contexts import Sequences as Sequences
from ar_interp.processes.first_token import FIRST_TOKEN_LAWS as FIRST_TOKEN_LAWS
from ar_interp.processes.first_token import MAX_DIM as MAX_DIM
from ar_interp.processes.first_token import FirstToken as FirstToken
from ar_interp.processes.haar import HaarOrthogonal as HaarOrthogonal
from ar_interp.processes.products import Products as Products
from ar_interp.processes.regression import NonparametricRegression as NonparametricRegression
from ar_interp.processes.regression import Prompts as Prompts

__all__ = [name for name in vars() if name[0].isupper()]  # pyright: ignore[reportUnsupportedDunderAll]


def __dir__() -> list[str]:
    return __all__
