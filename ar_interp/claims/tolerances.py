"""`Tolerance`: how far a measurement may lie from its prediction, and why; those of the studies stand in one table."""

from math import ceil
from typing import Any, NamedTuple


class Tolerance(NamedTuple):
    """The largest difference between measured and predicted, set beforehand, and the reason for this number.

    Attributes:
        deviation: standard deviation of what one context (or pair) adds to the mean that is measured, the largest that
            a pilot on other seeds found among the shipped models; 0 where nothing is sampled.
    """

    value: float
    reason: str
    deviation: float = 0.0

    @property
    def n(self) -> int:
        """How many contexts make the half-width of the 95 % interval a third of the tolerance.

        Then whatever lies within two thirds of the tolerance from its prediction, or a third beyond it, is decided.
        """
        return max(2, ceil((3 * 1.96 * self.deviation / self.value) ** 2))


_TABLE: dict[str, tuple[Any, ...]] = {
    "function": (
        1.0,
        "what rounding may leave of a prediction: 1e-9 of it in double precision, 1e-4 in single, some million and "
        "some thousand times the machine's epsilon, since sums over coordinates, keys, heads and layers cancel",
    ),
    "minimum": (1e-8, "float64 descent to convergence; the loss is quadratic in the remaining error"),
    "sampled loss": (1e-6, "exact up to Monte Carlo error, which is added; 1e-6 covers rounding where that vanishes"),
    "projector": (1e-5, "first order in the weights: the square root of the loss tolerance, within a factor of 10"),
    "heads": (1e-5, "first order in the weights, as for the projector"),
    "scale product": (1e-6, "c p_T = 1 enters the loss with curvature of order dim; tighter than the projector's"),
    "off mass": (1e-10, "a share of squares: the weights' tolerance 1e-5, squared"),
    "ratio zero": (1e-5, "first order in the weights"),
    "balanced cosine": (
        0.1,
        "descent from scale .1 is balanced up to its initial weights, .1 to .2; random heads have .3",
    ),
    "balanced frame": (0.03, "an orthogonal frame only as far as the heads are balanced: second order in .2"),
    "identity": (1e-3, "sup norm; the kappa = 1 minimum is degenerate, so the loss leaves the weights 1e-4 or so"),
    "kappa": (1e-4, "the kappa = 1 minimum is degenerate: the loss is of fourth order in kappa - 1"),
    "kappa relation": (1e-4, "as for kappa"),
    "block mass": (1e-8, "a share of squares: 1e-4, squared"),
    "rank": (0.0, "an integer"),
    "init scale": (
        0.06,
        "four standard deviations of |A|^2 - |P|^2 over Gaussian initial weights, and the finite step",
    ),
    "readable": (0.05, "ridge on 1400 sequences: R^2 of a linear function is 1 up to regularisation, of an even one 0"),
    "share": (0.03, "half-width of the reference's own 95 % interval, 16 of 256 seeds (Wilson)"),
    "independence": (0.0, "twice the share of independent heads leaves room for the intervals of both"),
    "levels": (
        0.075,
        "none of 40 seeds of an earlier sweep left the levels, so at most .075 do (95 %); chosen after a run in which "
        "two of 1024 did",
    ),
    "steps": (0.0, "a count"),
    "filter": (1e-8, "the filter is exact; rounding over about a thousand steps"),
    "filter rank": (1e-6, "sums of ratios whose denominators are as small as 1e-3"),
    "uniform": (1e-9, "an identity between weights and what the hooks give"),
    "step size, exact": (
        1e-6,
        "the loss is quadratic in it: L-BFGS on the exact loss leaves the square root of rounding",
    ),
    "step size, sampled": (0.01, "gradient noise, averaged by steps that decay to zero"),
    "step size, Haar": (0.05, "sampled, and flat along a valley: b2 can stand in for a part of a2 at .1 % of the loss"),
    "other scalars, exact": (1e-5, "first order in the weights, as for the projector"),
    "other scalars, sampled": (
        0.05,
        "as a share of a2 b1, known to 1 %: the least determined have a fifth of its weight",
    ),
    "full blocks": (
        0.1,
        "d^2 entries have sqrt(d) times the relative noise of their mean diagonal, .01 at d = 10, twice",
    ),
    "estimate": (0.1, "as for the full blocks; block scalars leave the second path a3, a twentieth of a2 for pairs"),
    "gain": (1e-4, "a ratio of differences of 1e-2 in losses that are exact to 1e-8"),
    "loss ratio": (0.01, "sampled training, to which the interval over fresh sequences is added"),
    "second path, Haar": (0.05, "as a share of a2; flat along the valley of b2"),
    "second value, Haar": (0.2, "the loss changes by .1 % from b2 = 0 to its optimum: hardly determined"),
    "relative error": (0.02, "the step size is known to 1 %, which moves the error by twice that at most"),
    "estimate/W": (0.02, "as the relative error, of differences to a reference on the same contexts", 0.11),
    "doublings": (0.5, "nearer to this power of two than to any other"),
    "counted steps": (0.02, "step sizes tuned on 1000 contexts move the number of steps by about 1 %, .015 doublings"),
    "apart": (0.0, "the bound, .02 doublings, is what the tuning of the reference's steps may move"),
    "logged loss": (0.05, "both are counted on contexts of their own, which leave the number of steps 1 or 2 %"),
    "needed": (0.0, "a bound far above 1, the cost of a part that does nothing"),
    "wrong parity": (
        0.1,
        "sampled training leaves weak paths known to a twentieth, those of two layers to twice that",
    ),
    "every seed": (0.0, "a universal statement"),
    "every batch": (0.0, "a universal statement"),
    "blow-ups": (0.01, "a rare event: 40 of 4096 sequences"),
    "zero predictor": (0.01, "sampled training can only add to the loss"),
    "swap": (0.05, "a twentieth of the prediction may come from elsewhere, or steer where it must not", 0.33),
    "swap of patterns": (0.05, "as for other swaps; what the target's values leave at kappa = 1 varies more", 0.45),
    "best scale": (0.02, "the step size of sampled training is known to 1 %; twice that for many layers"),
    "conserved": (0.05, "conserved by gradient flow; steps of finite size change it by the square of their size"),
    "outside, exact": (1e-3, "as for the identity: the kappa = 1 minimum leaves the weights 1e-4 or so"),
    "outside, sampled": (
        0.05,
        "the step size is known to 1 %, which moves the error by up to 3 % there; the rest for weak paths",
    ),
    "outside, bound": (0.0, "a bound between what fixed steps do and what least squares or no weights do"),
    "outside, rounding": (1e-9, "an identity; products of layers magnify rounding"),
    "removal": (0.01, "exact at a minimum, of which the weights miss 1e-3 at most; the rest is sampling, added"),
    "scrubbed keys": (1e-3, "older keys carry 1e-5 of the weights or less, and their square of the loss"),
    "scrubbed paths": (0.05, "as the second path: sampled training leaves the weak paths known to a twentieth of a2"),
    "descent": (0.05, "a twentieth of the prediction may be no polynomial in the second moments: biases", 0.03),
    "first step": (0.1, "as for the full blocks: the weights are known to a tenth, and so is what stands beside"),
    "layer": (0.02, "a fifth of the bound, itself half of what the last of four layers adds", 0.08),
    "length": (0.1, "halfway from the bound, .8, to a share of .7; wrong constants do worse than none", 0.17),
    "biases": (0.05, "a twentieth of the error of predicting zero", 0.07),
    "nothing": (0.2, "a fifth of the error of predicting zero; what it would have saved is more", 0.7),
    "first token": (
        0.4,
        "LayerNorm mixes what heads write and 25 heads write more than these four vectors: a pilot left a third",
        0.2,
    ),
    "second key": (0.1, "a third of the error that the second key saves one head", 0.3),
    "midpoint": (0.05, "half of what it saves 25 heads", 0.1),
    "invariant": (0.05, "sampled training leaves d^4 products of weights known to a few hundredths of their norm"),
    "invariant prediction": (0.01, "a share of squares: a tenth, squared", 0.01),
    "newest key": (0.05, "a quarter of the error that a head can save, 1/d at d = 5", 0.24),
    "beyond": (0.0, "the bound is the error of the best head, known to .001"),
    "silent": (
        0.001,
        "sampled training leaves weights of a hundredth; the prediction is of third order in them",
        0.001,
    ),
    "recursion": (1e-6, "plain descent on the exact loss is the recursion itself: only rounding is between them"),
    "recursion, sampled": (
        0.05,
        "thousands of sequences a step know the sixth moment of the first tokens to some 3 %; steps average over it",
    ),
    "off plane": (1e-6, "zero by the symmetry of the law; rounding grows along directions sharper than the plane"),
    "half time": (0.02, "steps of finite size delay the flow by mu = lr slope, a hundredth or less here"),
    "first step off the plane": (1e-6, "a gradient read from the first step, exact but for rounding"),
    "all-ones optimum": (1e-3, "descent that has gone on until the loss is at its minimum to six digits"),
    "stage": (1e-6, "as for the recursion"),
    "equal-phase gain, exact": (1e-6, "main blocks alone, at a minimum to rounding"),
    "equal-phase gain": (0.03, "sampled training leaves the products known to a hundredth, and weak other paths"),
    "block optimum": (1e-5, "descent that has gone on until the loss is at its minimum to six digits"),
    "random starts": (0.05, "some 1.5 times the half-width of the 95 % interval of a thousand starts"),
    "reached": (0.02, "a start near a saddle takes longer than the training lasts"),
    "parity": (1e-3, "exact but for rounding: float32 predictions of a size of 1e-3"),
    "noisy keys": (1e-4, "as for kappa: descent on the exact loss leaves the weights the root of its rounding or less"),
    "mixing": (1e-4, "as for kappa, of a number of .01"),
    "penalty": (1e-6, "two exact losses; the smaller is subtracted"),
    "Bayes": (0.2, "the bound is of leading order, some per cent off at T = 20; the rest is sampling of 256 contexts"),
    "not Bayes": (0.0, "a bound, half again the least error, of what is several times that"),
    "opposite signs": (0.0, "a sign; a head whose part shrinks to nothing is at the bound"),
    "cost of masks": (0.5, "half-way between the two minima that theory has: 1 with masks, 0 without"),
    "logged error": (0.1, "both are means over 2048 contexts of their own, each known to 2 or 3 %"),
    "logged loss again": (1e-5, "the same weights on the same contexts: sums of thousands of terms in float32"),
    "the line": (0.0, "a bound, of the best multiple of W y_T or of one step; the interval decides"),
    "prompt risk": (
        0.005,
        "3 % of the risk of these models; a strong function that is lost costs ten times as much, and on a smooth "
        "prior untrained features miss less",
    ),
    "fresh prompts": (0.05, "some times what 12 000 prompts leave of a model that is far from the best series"),
    "span": (3.0, "degrees: a thousandth of the squared norm lies outside"),
    "kernel": (0.01, "first order in the weights, which a risk known to 1e-5 leaves to some thousandths"),
    "order": (0.01, "the risk is known to 3 %, of a share of a sixth"),
    "moved state": (0.1, "half of what another function's noise does to the risk", 1.9),
    "design": (0.25, "tails of the design add 0 to 35 % in a pilot of 60 repeats, and the repeats vary"),
    "answers": (0.0, "a bound: one mistake in a hundred, which 4000 strings tell from one in two hundred"),
    "counted chains": (0.0, "an identity between two counts"),
    "attribution": (1e-12, "rounding of sums of logits of some tens in double precision"),
    "steps that read": (0.0, "a count"),
    "share of seeds": (0.0, "a bound that the interval of eight of eight seeds meets"),
    "chance": (0.03, "twice what 4000 strings leave; a halfspace that is fitted to few strings differs by .02 itself"),
    "optimum of guesses": (1e-12, "an expectation over all prompts, exact but for rounding"),
    "margin": (0.01, "what the solver leaves"),
    "learnable": (0.0, "a bound between a guess and an answer"),
    "small singular value": (0.0, "a bound: a ridge and a finite sample leave a hundredth of the others"),
    "angles": (0.02, "radians; a finite sample of a map with equal singular values"),
    "noisy loss": (0.01, "some times what finite training adds and 4000 strings leave", 0.3),
    "share of norm": (0.02, "weights that should be 0 are known to a tenth of the one that is not"),
    "log-odds": (0.1, "a logistic weight is known to a twentieth after some thousand tokens"),
    "again": (1e-6, "the same bits on the machine of the rows; elsewhere thousands of steps in double precision"),
    "again, sampled": (0.05, "the same bits on the machine of the rows; elsewhere a thousand steps of Adam in single"),
    "certain": (0.01, "the lower end of the interval of 512 of 512 seeds is .9926"),
    "more": (0.0, "a bound apart from what the control has"),
    "one step": (0.25, "a second path makes a layer a little more than a step"),
    "later": (0.05, "steps of finite size, and what is of second order in the start"),
    "products": (0.0, "a bound between one product in thirty and nearly all"),
    "entropy of pairs": (0.002, "pairs at the ends of windows, and what descent leaves"),
    "characters": (0.0, "a bound; the interval over windows of 64 characters decides"),
    "text bound": (0.0, "a bound that is set without a look at the text; the interval over documents decides"),
    "published windows": (0.0005, "one window of 2000"),
    "signal": (
        0.0,
        "a bound between 1, of the best layer at one example, and theory's ratio at 8 examples and more, 1.5 and more",
    ),
    "curve": (0.005, "some times what angles below a degree leave; features of another span miss percents"),
    "joint": (0.0, "a bound: Gamma alone costs 1.1 to 1.7 of the formula, features from so few tasks 8 and more"),
    "fewer tasks": (0.0, "a bound between no gain, 1, and what eight times as many tasks save, a half or more"),
    "softmax": (0.0, "a bound, set after a pilot of eight training seeds"),
    "figure": (0.0004, "a unit in the last but one digit of the figures, and 1 % of the smallest"),
}

TOLERANCES = {name: Tolerance(*entry) for name, entry in _TABLE.items()}
