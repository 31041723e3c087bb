"""Readings of general models for claims on their mechanism: what a removal costs, and what predictions are made of."""

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from typing import Any

import scipy
import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp import seeds
from ar_interp.claims import Estimate, Measured
from ar_interp.claims.estimate import CONTEXTS, LEVEL
from ar_interp.models.block_scalars import CURRENT, PREVIOUS
from ar_interp.probes.blocks import split_blocks
from ar_interp.processes import Sequences

PATTERN = "blocks.0.attn.hook_pattern"
LATE = 9  # from T = 10 on
POWERS = 8  # of S: those up to the last that four layers reach to 1 %

Hook = tuple[str, Callable]
Features = list[Float[Tensor, "batch dim"]]


class GeneralMeasured(Measured):
    """A general model, and its contexts with parts of the model removed.

    Attributes:
        REMOVED: how many contexts each removal is measured on.
    """

    REMOVED = 640  # of `tolerances`: no row of a mechanism needs more

    @cached_property
    def contexts(self) -> Sequences:
        return self.fresh(self.REMOVED, seeds.REMOVAL)

    @torch.no_grad()
    def run(self, hooks: Iterable[Hook] = (), model: Any = None, contexts: Sequences | None = None) -> Tensor:
        """|prediction - target|^2 of each context at every T, under hooks or of another model."""
        model, contexts = model or self.model, contexts or self.contexts
        with model.hooks(fwd_hooks=list(hooks)):
            parts = [part.errors(model(part.inputs)) for part in contexts.split(self.PART)]
        return torch.cat(parts).double().cpu()

    @cached_property
    def whole(self) -> Float[Tensor, "batch pos"]:
        """The errors with nothing removed."""
        return self.run()

    @torch.no_grad()
    def predictions(self) -> Float[Tensor, "batch pos dim"]:
        return torch.cat([self.model(part.inputs) for part in self.contexts.split(self.PART)]).double()

    def cost(self, *hooks: Hook, start: int = 1, step: int = 1) -> Float[Tensor, "batch"]:
        """Error under hooks less that without, mean over T - 1 = start, start + step, ..."""
        return (self.run(hooks) - self.whole)[:, start::step].mean(1)

    def error(self, model: Any = None, contexts: Sequences | None = None, hooks: Iterable[Hook] = ()) -> Estimate:
        """Mean error over T >= 2 of a changed model, on other contexts or under hooks."""
        changed = bool(hooks) or model is not None or contexts is not None
        errors = self.run(hooks, model, contexts) if changed else self.whole
        return Estimate.mean(errors[:, 1:].mean(1))

    # ---- layers, LayerNorm and biases

    @property
    def least_layer(self) -> Estimate:
        """The smallest cost of leaving out what a layer writes, with an interval for all layers at once."""
        found = [
            Estimate.mean(self.cost((f"blocks.{layer}.hook_attn_out", zeroed))) for layer in range(self.config.n_layers)
        ]
        wider = float(scipy.stats.norm.ppf(1 - (1 - LEVEL) / (2 * len(found)))) / 1.96
        low, high = (min(one.value + sign * wider * one.half_width for one in found) for sign in (-1, 1))
        return Estimate(min(one.value for one in found), {CONTEXTS: (high - low) / 2}, found[0].n, (low, high))

    def share_of_length(self, *, turned: bool = False) -> Estimate:
        """How much of the loss with one constant as the last LayerNorm's scale is saved by a constant for each T.

        Args:
            turned: the constants of the longest contexts stand at the shortest, and so on.
        """
        hook = f"blocks.{self.config.n_layers - 1}.ln1_post.hook_scale"
        with torch.no_grad():
            scale = self.model.run_with_cache(self.contexts.inputs, names_filter=hook)[1][hook].mean(0)
        by_length = scale.flip(0) if turned else scale
        costs = [
            self.cost((hook, lambda value, hook, put=put: put.expand_as(value))) for put in (by_length, scale.mean())
        ]
        return Estimate.ratio(costs[1] - costs[0], costs[1])

    @cached_property
    def unbiased(self) -> Any:
        """The model with every bias zero: of queries, keys, values, outputs, LayerNorm and the read-out."""
        model = deepcopy(self.model).requires_grad_(False)
        for name, parameter in model.named_parameters():
            if name.rpartition(".")[2].startswith("b"):
                parameter.zero_()
        return model

    @property
    def first_layer_off_step(self) -> float:
        """Share of the first layer's QK, where tokens are not zero, that is not c <s_{t-1}, s_T>."""
        QK = split_blocks((self.model.W_Q[0, 0] @ self.model.W_K[0, 0].mT).detach(), self.config.dim)
        step = QK[CURRENT, PREVIOUS].diagonal().mean()
        return 1 - (self.config.dim * step**2 / QK[CURRENT:, CURRENT:].square().sum()).item()

    # ---- what the prediction is of

    def unexplained(self, features: Callable[[Sequences, int], Features], positions: Iterable[int]) -> Estimate:
        """Share of the prediction that no combination of the features gives, the same one for all contexts at a T."""
        predictions, off, size = self.predictions(), [], []
        for T in positions:
            X = torch.stack(features(self.contexts, T), -1)  # [batch dim feature]
            y = predictions[:, T - 1, :, None]
            fitted = X @ torch.linalg.lstsq(X.flatten(0, 1), y.flatten(0, 1)).solution
            off.append((y - fitted).square().sum((1, 2)))
            size.append(y.square().sum((1, 2)))
        return Estimate.ratio(torch.stack(off).mean(0), torch.stack(size).mean(0))

    def without_keys(self, key: Callable[[int], int]) -> Hook:
        """A hook that cuts the key t = key(T) of every T."""

        def cut(pattern: Tensor, hook: Any) -> Tensor:
            pattern = pattern.clone()
            for T in range(1, pattern.shape[-1] + 1):
                if 1 <= key(T) <= T:
                    pattern[..., T - 1, key(T) - 1] = 0
            return pattern

        return PATTERN, cut

    def on_first_tokens(self, law: str) -> Estimate:
        """Error on contexts whose first token has another law."""
        other = replace(self.process, first_token=law)
        return self.error(contexts=self.of(self.model, other).contexts)

    def with_key_alone(self, lag: int) -> Hook:
        """A hook that leaves the attention to the key T - lag alone."""

        def keep(pattern: Tensor, hook: Any) -> Tensor:
            return pattern - pattern.tril(-lag - 1) - (pattern - pattern.tril(-lag))

        return PATTERN, keep

    # ---- bare plain heads

    def tensor(self) -> Float[Tensor, "dim dim dim dim"]:
        """sum_h A_h[i, j] B_h[k, l] of one layer, made symmetric in the key's j and the value's k, one token s_t."""
        A, B = (
            (x @ y).detach()[0].double() for x, y in ((self._W("Q"), self._W("K").mT), (self._W("V"), self._W("O")))
        )
        return symmetric(torch.einsum("hij,hkl->ijkl", A, B))

    def _W(self, part: str) -> Tensor:
        return getattr(self.model, f"W_{part}")

    def invariant(self, *, fixed: bool) -> Float[Tensor, "dim dim dim dim"]:
        """The part of `tensor` that rotations leave as it is, or those that fix the first token."""
        tensor = self.tensor()
        basis = invariant_maps(self.config.dim, fixed=fixed).to(tensor)
        columns = basis.flatten(1).T
        return (columns @ torch.linalg.lstsq(columns, tensor.reshape(-1, 1)).solution).reshape(tensor.shape)

    def share_off(self, *, fixed: bool) -> float:
        """|tensor - its invariant part| / |tensor|."""
        tensor = self.tensor()
        return ((tensor - self.invariant(fixed=fixed)).norm() / tensor.norm()).item()

    @property
    def positions(self) -> Float[Tensor, "query key"]:
        """p_t of each T; zero for T = 1."""
        P = self.model.P.detach().double()
        return torch.cat([torch.zeros_like(P[:1]), P[:-1]]).tril()

    def unexplained_by(self, tensor: Float[Tensor, "dim dim dim dim"]) -> Estimate:
        """Share of the prediction over T >= 2 that is not sum_t p_t tensor(s_{T-1}, s_t, s_t)."""
        s, predictions = self.contexts.inputs.double(), self.predictions()[:, 1:]
        pairs = torch.einsum("btj,btk->btjk", s, s)
        read = torch.einsum("qt,btjk->bqjk", self.positions, pairs)[:, 1:]
        made = torch.einsum("ijkl,bqi,bqjk->bql", tensor, s[:, :-1], read)
        off, size = (x.square().sum((1, 2)) for x in (predictions - made, predictions))
        return Estimate.ratio(off, size)

    @torch.no_grad()
    def parity_defect(self) -> float:
        """Largest |f(s~) - (-1)^{T-1} f(s)| over that of |f|, f the prediction and s~_t = (-1)^{t-1} s_t."""
        s = self.contexts.inputs
        signs = (-torch.ones_like(s[0, :, :1])) ** torch.arange(s.shape[1], device=s.device)[:, None]
        here, there = self.model(s), self.model(s * signs)
        return ((there - here * signs).norm(dim=-1).max() / here.norm(dim=-1).max()).item()

    def asked_before(self) -> Any:
        """A model of the same weights that asks with s_{T-1}."""
        model = replace(self.config, query_lag=1).build(self.process, device=self.model.W_Q.device)
        model.load_state_dict(self.model.state_dict())
        return model.requires_grad_(False)

    def size(self) -> Estimate:
        """Mean of |prediction|^2 over T >= 2."""
        return Estimate.mean(self.predictions()[:, 1:].square().sum(-1).mean(1))

    def of_key_alone(self) -> float:
        """Error of c p_T <s_{T-1}, s_T> s_T, whose square has the mean (c p_T)^2 / dim, in theory."""
        tensor = self.tensor()
        basis = invariant_maps(self.config.dim, fixed=False)[0].to(tensor)
        c = (tensor * basis).sum() / basis.square().sum()
        weights = c * self.positions.diagonal()[1:]
        return (1 - (2 * weights - weights**2) / self.config.dim).mean().item()


def zeroed(value: Tensor, hook: Any) -> Tensor:
    return torch.zeros_like(value)


def symmetric(tensor: Float[Tensor, "dim dim dim dim"]) -> Float[Tensor, "dim dim dim dim"]:
    return (tensor + tensor.transpose(1, 2)) / 2


def invariant_maps(dim: int, *, fixed: bool) -> Float[Tensor, "map dim dim dim dim"]:
    """Maps of (s_{T-1}, s_t, s_t) that commute with all rotations: <s_{T-1}, s_t> s_t and |s_t|^2 s_{T-1}.

    Args:
        fixed: with the rotations that leave s_1 = 1/sqrt(dim) (1, ..., 1) alone, so with that vector in them.
    """
    identity = torch.eye(dim, dtype=torch.float64, device="cpu")
    first = torch.full((dim, dim), 1 / dim, dtype=torch.float64, device="cpu")  # s_1 s_1^T
    along = [identity, first] if fixed else [identity]
    pairings = [(x, y) for x in along for y in along]
    maps = [torch.einsum(form, x, y) for form in ("ij,kl->ijkl", "jk,il->ijkl") for x, y in pairings]
    maps = maps[:-1] if fixed else maps  # <., s_1> four times is there twice
    return torch.stack([symmetric(found) for found in maps])


def descent(contexts: Sequences, T: int) -> Features:
    """M S^k s_T for k < POWERS, M = sum_t s_{t+1} s_t^T and S = sum_t s_t s_t^T: what steps of descent are made of."""
    s = contexts.inputs.double()
    past, future, found = s[:, : T - 1], s[:, 1:T], []
    M, S = (torch.einsum("bti,btj->bij", x, past) * s.shape[-1] / T for x in (future, past))
    state = s[:, T - 1, :, None]
    for _ in range(POWERS):
        found.append((M @ state)[..., 0])
        state = S @ state
    return found


def of_the_first_token(contexts: Sequences, T: int) -> Features:
    """<s_1, s_T> s_2; the mean of s_{T-1}, s_{T-3}, ...; s_{T-1}; for even T <s_1, s_t> s_t of t = 1 + T/2."""
    s = contexts.inputs.double()

    def along(t: int, value: int) -> Float[Tensor, "batch dim"]:
        return (s[:, 0] * s[:, t - 1]).sum(-1, keepdim=True) * s[:, value - 1]

    same_parity = s[:, T % 2 : T : 2].mean(1)
    middle = [along(1 + T // 2, 1 + T // 2)] if T % 2 == 0 else []
    return [along(T, 2), same_parity, s[:, T - 2], *middle]


def of_another(features: Callable[[Sequences, int], Features]) -> Callable[[Sequences, int], Features]:
    """The features of another context."""
    return lambda contexts, T: [feature.roll(1, 0) for feature in features(contexts, T)]
