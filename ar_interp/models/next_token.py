"""Next-token predictors: the logits of the next token are a sum over the tokens that it sees.

    logits_t[v] = sum_p W^t[p, y_p, v] + b^t[v],        y = the prompt and the chain so far

The *absolute* version has a map for each step of the chain and sees all tokens (the class of Malach 2023, arXiv
2309.06979); the *window* version has one map for all steps, of the last K tokens. W is known up to
W[p, u, v] + f_p(v) + g_p(u), which b and softmax undo: norms and singular values are read after centring over u and v.

Two options are those of the paper's code: maps of a rank, E L U with E and U shared by all (its model of text), and an
MLP after the sum, logits = U^T relu(M^T relu(sum) + m) + b (its model of products). **With the MLP the logits are no
sums over tokens**, so that the arithmetic result of the paper is not that of a linear predictor.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ar_interp._moods import calm
from ar_interp._resident import resident
from ar_interp.models.hooks import HookPoint, StrictHooks
from ar_interp.models.next_token_config import NextTokenConfig
from ar_interp.processes.chains import ChainTask, check_ids


class HookedNextToken(StrictHooks):
    """Logits of the next token as a sum of one term for each token that is seen; hooks show the terms.

    Args:
        config: sizes.
        process: the task that the model is about. Optional.

    Hooks:
        hook_contributions: [batch step source symbol], what each token adds to the logits of each step of the chain.
            Sources are positions from the prompt's first token on (0 for those after the step), or for a window
            offsets, the newest token first. With an MLP the last axis is its input.
        hook_sum: [batch step symbol], their sum with the bias.
    """

    @calm()
    def __init__(self, config: NextTokenConfig, process: ChainTask | None = None, *, seed: int = 0) -> None:
        super().__init__()
        if not isinstance(config, NextTokenConfig):
            raise ValueError(f"config must be a NextTokenConfig, got a {type(config).__name__}.")
        if process is not None:
            config.check_process(process)
        self.config, self.process = config, process
        for name, start in config.initial_parameters(seed=seed).items():
            group, _, step = name.partition(".")
            if not step:
                self.register_parameter(name, nn.Parameter(start))
            elif step == "0":
                self.register_module(group, nn.ParameterList([start]))
            else:
                self.get_submodule(group).append(nn.Parameter(start))  # pyright: ignore[reportCallIssue]
        self.hook_contributions = HookPoint()
        self.hook_sum = HookPoint()
        self.setup()

    def untrained(self, seed: int) -> "HookedNextToken":
        """A model of the same architecture with initial weights: 0 whatever the seed where the loss is convex."""
        return HookedNextToken(self.config, self.process, seed=seed).to(next(self.parameters()).device)

    @property
    def maps(self) -> Float[Tensor, "*step source symbol out"]:
        """Terms that symbols add at each source, to the logits or to the MLP's input; a window has no axis of steps."""
        return self._maps()[0]

    def _maps(self) -> tuple[Tensor, Tensor]:
        return self.config.maps(dict(self.named_parameters()))

    def forward(self, tokens: Int[Tensor, "..."]) -> Float[Tensor, "batch pos symbol"]:
        """The logits of the next token at each position; 0 before the last token of the prompt.

        Args:
            tokens: a prompt, and as much of its chain as there is.
        Raises:
            ValueError: tokens that are no prompt, are too many, or are no ids.
        """
        logits = self._logits(self._checked(tokens), self._maps(), first_step=0)
        before = logits.new_zeros(1, 1, 1).expand(len(tokens), self.config.n_prompt - 1, self.config.dim)
        return torch.cat([before, logits], dim=1)

    def generate(self, prompts: Int[Tensor, "batch prompt"]) -> Int[Tensor, "batch pos"]:
        """Prompts with the chain that the model writes, each token the likeliest given its own ones before.

        Hooks see the newest step alone.
        """
        tokens, maps = self._checked(prompts), self._maps()
        for step in range(prompts.shape[1] - self.config.n_prompt, self.config.n_chain):
            tokens = torch.cat([tokens, self._logits(tokens, maps, first_step=step).argmax(-1)], dim=1)
        return tokens

    def _logits(self, tokens: Tensor, maps: tuple[Tensor, Tensor], *, first_step: int) -> Tensor:
        """[batch step symbol], of the steps from the first on."""
        sources = resident(self.config.sources(tokens.shape[1]), tokens.device)[first_step:]  # [step source]
        W, constant = maps
        source = torch.arange(sources.shape[1], device=tokens.device)
        seen = tokens[:, sources.clamp(min=0)]  # [batch step source]
        if self.config.window:
            terms = W[source, seen]
        else:
            steps = torch.arange(first_step, first_step + len(sources), device=tokens.device)
            terms, constant = W[steps[:, None], source, seen], constant[steps]
        terms = terms.masked_fill_((sources < 0)[:, :, None], 0.0)
        sums = self.hook_sum(self.hook_contributions(terms).sum(2) + constant)
        return self.config.logits(dict(self.named_parameters()), sums)

    def _checked(self, tokens: Tensor) -> Tensor:
        config = self.config
        tokens = check_ids("tokens", tokens, config.dim, ndim=2)
        if not config.n_prompt <= tokens.shape[1] <= config.n_ctx:
            raise ValueError(
                f"tokens must be a prompt of {config.n_prompt} and at most {config.n_chain - 1} tokens of its chain, "
                f"got {tokens.shape[1]}."
            )
        return tokens
