"""Readings of models trained on noisy tokens: how far from theory's weights, and what could be done with the tokens."""

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy
import torch
from torch import Tensor

from ar_interp import seeds
from ar_interp.claims import Estimate, Measured
from ar_interp.claims.estimate import CONTEXTS, SEEDS
from ar_interp.claims.measured import StandIn
from ar_interp.estimators import OLS, DiagonalOLS, GradientDescent, Kalman, PhaseGrid, Ridge
from ar_interp.models.config import HEAD_A, HEAD_B, POSITIONAL_P, ModelConfig
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.processes import Sequences
from ar_interp.studies.blocks_measured import predictor
from ar_interp.studies.heads_measured import HeadsMeasured
from ar_interp.theory import kappa_family, kappa_penalty, kappa_to_ratio, last_token_error
from ar_interp.training.config import TrainConfig
from ar_interp.training.loop import train

FORCED = 0.5  # kappa that is put in by hand
N_BAYES, N_STACK = 256, 2048  # contexts; the grid of phases is costly
DESCENT = TrainConfig(optimizer="lbfgs", steps=500, seed=1, device="cpu")


class NoisyHeadsMeasured(HeadsMeasured):
    """Diagonal heads on noisy tokens, in the gauge where C has a mean diagonal of 1."""

    NEEDED = 1024

    @property
    def stand_in(self) -> StandIn:
        """The weights of theory."""
        return StandIn(predictor(self.setting.ideal(self.model)), self.setting.best)

    @property
    def scale(self) -> float:
        """Mean of C_jj."""
        return self.weights.C.diagonal().mean().item()

    def keys(self, length: int) -> np.ndarray:
        """c p at T."""
        return self.scale * self.weights.P[length - 2, :length].numpy()

    def _over_lengths(self, read: Any) -> np.ndarray:
        """Numbers that `read` makes of the model's keys and of theory's, for every T."""
        lengths = range(2, self.config.n_ctx + 1)
        return np.array([read(self.keys(T), self.setting.keys(T).p) for T in lengths])

    @property
    def newest(self) -> float:
        """c p_T over theory's, at the T where it is farthest from 1."""
        return _farthest(self._over_lengths(lambda p, best: p[-1] / best[-1]), 1)

    @property
    def other_keys(self) -> float:
        """Largest |p_t / p_T| of any other key, over T."""
        return float(self._over_lengths(lambda p, best: np.abs(p[:-1] / p[-1]).max()).max())

    @property
    def ratio_to_bent(self) -> float:
        """p_{T-1} / p_T over theory's, at the T where it is farthest from 1."""
        return _farthest(self._over_lengths(lambda p, best: p[-2] / p[-1] * best[-1] / best[-2]), 1)

    @property
    def older_to_bent(self) -> float:
        """p_t / p_T of keys before T - 1 over theory's, where it is farthest from 1."""
        lengths = range(3, self.config.n_ctx + 1)
        found = [(self.keys(T), self.setting.keys(T).p) for T in lengths]
        return _farthest(np.concatenate([p[:-2] / p[-1] * best[-1] / best[:-2] for p, best in found]), 1)

    @property
    def mixing(self) -> float:
        """C_ji / C_jj for i of another pair, where it is farthest from theory's."""
        C = self.weights.C.numpy() / self.scale
        apart = np.kron(np.eye(len(C) // 2), np.ones((2, 2))) == 0
        return _farthest(C[apart], self.setting.mixing)

    @cached_property
    def noiseless(self) -> "NoisyHeadsMeasured":
        """Heads trained without noise, as many as here, by L-BFGS on the exact loss from other initial weights."""
        process = replace(self.process, observation_noise=0.0, process_noise=0.0)
        return self.of(train(self.config, process, DESCENT, progress=False).model)

    def with_kappa(self, kappa: float) -> HookedARTransformer:
        """A model with this kappa in C and the p_{T-1} that follows it without noise, else as theory's."""
        dim, n_ctx = self.config.dim, self.config.n_ctx
        double = {"dtype": torch.float64, "device": "cpu"}
        A, B = torch.eye(dim, **double), kappa_family(dim=dim, kappa=kappa, n_ctx=2).C
        P = torch.zeros(n_ctx, n_ctx, **double)
        for T in range(2, n_ctx + 1):
            newest = self.keys(T)[-1]
            P[T - 2, T - 2 : T] = torch.tensor([kappa_to_ratio(kappa) * newest, newest], **double)
        config = ModelConfig.diagonal(dim=dim, n_heads=dim, n_ctx=n_ctx)
        model = config.build(self.process, device=self.model.W_Q.device)
        model.load_state_dict({HEAD_A: A, HEAD_B: B, POSITIONAL_P: P})
        return model.requires_grad_(False)

    @property
    def penalty(self) -> float:
        """Growth of the exact loss with kappa = `FORCED`, over theory's; its scale c p_T is the model's at every T."""
        r = self.process.observation_noise**2
        lengths = range(2, self.config.n_ctx + 1)
        forced, free = (self.setting.expected_loss(self.with_kappa(kappa)).loss for kappa in (FORCED, 0.0))
        scales = [self.keys(T)[-1] for T in lengths]
        expected = [
            kappa_penalty(kappa=FORCED, scale=scale, observation_variance=self.setting.noise["observation_variance"])
            for scale in scales
        ]
        assert r or not any(expected)
        return (forced - free) / (self.config.dim * float(np.mean(expected)))


class Lines(Measured):
    """Errors of the model and of others at the longest T, on the same noisy contexts."""

    PART = 64

    @cached_property
    def contexts(self) -> Sequences:
        needed = N_BAYES if self.process.has_eigenbasis else N_STACK
        return self.fresh(needed, seeds.CLAIMS, least=2).to(self.model.W_Q.device, torch.float64)  # type: ignore[return-value]

    @property
    def noise(self) -> dict[str, float]:
        return self.setting.noise

    def last(self, predictions: Tensor, T: int = 0) -> Tensor:
        """Errors at T, the longest if left out."""
        return self.contexts.errors(predictions)[:, T - 1].double().cpu()

    @cached_property
    def bayes(self) -> Tensor:
        """Errors of the conditional mean, which knows the noise."""
        q, r = self.noise.values()
        return self.last(PhaseGrid(process_variance=q, observation_variance=r)(self.contexts.inputs))

    @cached_property
    def known(self) -> Tensor:
        """Errors of the filter that knows W."""
        return self.last(Kalman(self.contexts.W, self.contexts.clean[0, 0], **self.noise)(self.contexts.inputs))

    @cached_property
    def least_squares(self) -> Tensor:
        return self.last(DiagonalOLS()(self.contexts.pairs()))

    def ridge(self, T: int = 0) -> Tensor:
        """Errors of ridge regression, with a penalty for the noise of both tokens of a pair."""
        q, r = self.noise.values()
        fitted = Ridge.bayes(process_variance=q + 2 * r, entry_variance=1 / self.process.dim)
        return self.last(fitted(self.contexts.pairs()), T)

    @property
    def over_ridge(self) -> Estimate:
        """Median over contexts of the error of least squares over that of ridge regression, at T = dim + 1."""
        T = self.process.dim + 1
        return median(self.last(OLS()(self.contexts.pairs()), T) / self.ridge(T))

    @property
    def one_step(self) -> Tensor:
        """Errors of one gradient step, of the size that is best at this T on contexts of its own."""
        fitted = self.fresh(N_STACK, seeds.TUNING).to(self.model.W_Q.device, torch.float64)
        unit, clean = GradientDescent.of_steps(1, 1.0), fitted.clean_targets[:, -1]
        found = unit(fitted.pairs())[:, -1]
        eta = ((found.conj() * clean).real.sum() / found.abs().square().sum()).item()
        return self.last(eta * unit(self.contexts.pairs()))

    @property
    def second_head(self) -> float:
        """Score of s_{t-1} asked by s_T, or value of s_t, of the second head over the first's; the larger of both."""
        scalars = (self.model.block_scalar(name) for name in ("a2", "b1"))
        return max((x[1] / x[0]).item() for x in scalars)

    @property
    def over_seeds(self) -> Estimate:
        """Mean over the seeds of training of the error at the longest T over the line."""
        assert self.subject.run is not None
        found = Estimate.mean(self.subject.run.members["last"].to_numpy() / self.line, SEEDS)
        return found.widened(Estimate.mean(self.own).over(self.line).half_width)

    @property
    def over_logged(self) -> Estimate:
        """The error at the longest T over what training logged of the seed that was kept."""
        run = self.subject.run
        assert run is not None
        members = run.members
        return Estimate.mean(self.own).over(float(members["last"][members["seed"] == run.seed].item()))

    @cached_property
    def own(self) -> Tensor:
        """Errors of the model."""
        inputs, kind = self.contexts.inputs, self.config.torch_dtype
        kind = kind.to_complex() if inputs.is_complex() else kind
        with torch.no_grad():
            return self.last(torch.cat([self.model(part.to(kind)).to(part) for part in inputs.split(self.PART)]))

    @property
    def line(self) -> float:
        """The error of the best multiple of W y_T."""
        process = self.process
        square = process.initial.mean_square(process.dim) + process.dim * process.process_noise**2 * (
            self.config.n_ctx - 1
        )
        return last_token_error(dim=process.dim, square=square, **self.noise)


def median(values: Tensor) -> Estimate:
    """The median, with the interval of order statistics, which no tail can widen."""
    ordered, n = values.sort().values, len(values)
    below = int(scipy.stats.binom.ppf(0.025, n, 0.5))
    low, high = ordered[max(below - 1, 0)].item(), ordered[min(n - below, n - 1)].item()
    return Estimate(ordered.median().item(), {CONTEXTS: (high - low) / 2}, n, (low, high))


def _farthest(values: np.ndarray, target: float) -> float:
    """The value that deviates most from a target; nan where one is none."""
    off = np.abs(values - target)
    return float(values[np.nan_to_num(off, nan=np.inf).argmax()])
