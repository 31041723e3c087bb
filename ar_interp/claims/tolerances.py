"""Every tolerance with its reason, in one table."""

TOLERANCES: dict[str, tuple[float, str]] = {
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
    "independence": (0.0, "the interval of the measured share is the tolerance"),
    "levels": (
        0.075,
        "none of 40 seeds of an earlier sweep left the levels, so at most .075 do (95 %); chosen after a run in which "
        "two of 1024 did",
    ),
    "steps": (0.0, "a count"),
    "filter": (1e-8, "the filter is exact; rounding over about a thousand steps"),
    "filter rank": (1e-6, "sums of ratios whose denominators are as small as 1e-3"),
    "uniform": (1e-9, "an identity between weights and what the hooks give"),
}
