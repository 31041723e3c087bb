"""Linear next-token predictors: the logits of the next token are a sum over the tokens that it sees.

    logits_t[v] = sum_p W^t[p, y_p, v] + b^t[v],        y = the prompt and the chain so far

The *absolute* version has a map for each step of the chain and sees all tokens (the class of Malach 2023, arXiv
2309.06979); the *window* version has one map for all steps, of the last K tokens. W is known up to
W[p, u, v] + f_p(v) + g_p(u), which b and softmax undo: norms and singular values are read after centring over u and v.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens import HookedRootModule

from ar_interp.models.hooks import HookPoint
from ar_interp.models.next_token_config import NextTokenConfig
from ar_interp.processes.chains import ChainTask


class HookedNextToken(HookedRootModule):
    """Logits of the next token as a sum of one term for each token that is seen; hooks show the terms.

    Args:
        config: sizes.
        process: the task that the model is about. Optional.

    Hooks:
        hook_contributions: [batch step source symbol], what each token adds to the logits of each step of the chain.
            Sources are positions from the prompt's first token on (0 for those after the step), or for a window
            offsets, the newest token first.
    """

    W: Tensor
    b: Tensor

    def __init__(self, config: NextTokenConfig, process: ChainTask | None = None) -> None:
        super().__init__()
        if process is not None:
            config.check_process(process)
        self.config, self.process = config, process
        for name, start in config.initial_parameters(seed=0).items():
            self.register_parameter(name, nn.Parameter(start))
        self.hook_contributions = HookPoint()
        self.setup()

    def untrained(self, seed: int) -> "HookedNextToken":
        """The same architecture with initial weights, which are 0 whatever the seed."""
        return HookedNextToken(self.config, self.process).to(self.W.device)

    def forward(self, tokens: Int[Tensor, "..."]) -> Float[Tensor, "batch pos symbol"]:
        """The logits of the next token at each position; 0 before the last token of the prompt.

        Args:
            tokens: a prompt, and as much of its chain as there is.
        Raises:
            ValueError: tokens that are no prompt, are too many, or are no ids.
        """
        n_steps = self._steps(tokens)
        logits = self.hook_contributions(self._contributions(tokens, n_steps)).sum(2) + self._bias(n_steps)
        before = logits.new_zeros(1, 1, 1).expand(len(tokens), self.config.n_prompt - 1, self.config.dim)
        return torch.cat([before, logits], dim=1)

    def generate(self, prompts: Int[Tensor, "batch prompt"]) -> Int[Tensor, "batch pos"]:
        """Prompts with the chain that the model writes, each token the likeliest given its own ones before."""
        tokens = prompts
        for _ in range(self.config.n_chain):
            tokens = torch.cat([tokens, self(tokens)[:, -1:].argmax(-1)], dim=1)
        return tokens

    def _steps(self, tokens: Tensor) -> int:
        """Steps of the chain that tokens are enough for."""
        config = self.config
        if tokens.ndim != 2 or tokens.is_floating_point() or tokens.is_complex():
            raise ValueError(f"tokens must be ids [batch pos], got {tokens.dtype} {list(tokens.shape)}.")
        if not config.n_prompt <= tokens.shape[1] <= config.n_ctx:
            raise ValueError(
                f"tokens must be a prompt of {config.n_prompt} and at most {config.n_chain - 1} tokens of its chain, "
                f"got {tokens.shape[1]}."
            )
        return tokens.shape[1] - config.n_prompt + 1

    def _contributions(self, tokens: Tensor, n_steps: int) -> Float[Tensor, "batch step source symbol"]:
        config = self.config
        one_hot = torch.eye(config.dim, dtype=self.W.dtype, device=tokens.device)[tokens]
        if config.window:
            pad = config.window - config.n_prompt
            one_hot = nn.functional.pad(one_hot, (0, 0, max(pad, 0), 0))[:, max(-pad, 0) :]
            seen = one_hot.unfold(1, config.window, 1).flip(-1)  # [batch step symbol offset]
            return torch.einsum("bsik,kio->bsko", seen, self.W)
        n_pos = tokens.shape[1]
        step, source = (torch.arange(n, device=tokens.device) for n in (n_steps, n_pos))
        known = source < config.n_prompt + step[:, None]
        W = self.W[:n_steps, :n_pos] * known[:, :, None, None]
        return torch.einsum("bki,skio->bsko", one_hot, W)

    def _bias(self, n_steps: int) -> Tensor:
        return self.b if self.config.window else self.b[:n_steps]
