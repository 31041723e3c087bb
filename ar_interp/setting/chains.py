"""Next-token predictors on the tasks that they are about."""

from typing import Any

from ar_interp.models.next_token_config import NextTokenConfig
from ar_interp.processes.chains import ChainTask
from ar_interp.setting.base import Setting


class ChainPredictors(Setting):
    """Logits are sums over tokens: which chains such a model can learn is known, its loss has no closed form."""

    kind = "chains"

    @classmethod
    def speaks_of(cls, config: Any, process: Any) -> bool:
        return type(config) is NextTokenConfig and isinstance(process, ChainTask)
