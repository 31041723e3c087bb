"""One augmented linear-attention layer on commuting W: it takes one step of gradient descent, and what else it does."""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch

from ar_interp.claims import Claim, Subject, claim
from ar_interp.models.config import ModelConfig
from ar_interp.processes import CommutingOrthogonal, CommutingUnitary, Process
from ar_interp.setting import GradientStep
from ar_interp.studies.base import Recipe, Structure, Study
from ar_interp.theory import one_step_loss, one_step_minimum, optimal_step_size
from ar_interp.training.config import TrainConfig

if TYPE_CHECKING:
    from ar_interp.studies.blocks_measured import BlocksMeasured

SOURCE = "Sander et al. 2024, augmented tokens; exact step size by counting modes"
PAIRS = "not in Sander et al. 2024: conjugate pairs reach the target through the partner too; by counting modes"
GAUGE = "diagonal W commutes with diagonal signs D, so that D Ŵ D errs as Ŵ does"


def _claims(subject: Subject) -> Iterator[Claim]:
    from ar_interp.studies.blocks_measured import BlocksMeasured, without_signs
    from ar_interp.studies.interventions import scale_claim, step_claim
    from ar_interp.studies.swap_claims import swap_claims

    measured = signless = BlocksMeasured(subject)
    exact = subject.run is not None and subject.run.training.objective == "population"
    yield from _loss_claims(measured, exact)
    if measured.setting.full:
        yield _sign_claim(measured)
        signless = measured.of(without_signs(measured.model))
        yield from _full_claims(signless)
    yield from _step_claims(signless, "exact" if exact else "sampled")
    yield _estimate_claim(signless)
    sizes, step = {"dim": subject.config.dim, "length": subject.config.n_ctx}, measured.setting.best.a[1]
    left = one_step_loss(**sizes, step_size=step) / subject.config.dim
    yield signless.estimate_claim(step, source=SOURCE, predicted=left)
    yield step_claim(signless)
    yield scale_claim(measured)
    yield from swap_claims(measured)


def _sizes(m: "BlocksMeasured") -> dict[str, int]:
    return {"dim": m.config.dim, "max_length": m.config.n_ctx}


def _loss_claims(m: "BlocksMeasured", exact: bool) -> Iterator[Claim]:
    """The loss at its minimum; where training was on the exact loss, to the digits of theory."""
    pairs, minimum = m.setting.pairs, m.setting.best.loss
    source = PAIRS if pairs else SOURCE
    if exact:
        yield m.claim(
            "loss/minimum",
            "The loss is at its minimum over all block scalars",
            lambda m: m.expected_loss,
            evidence="weights",
            source=source,
            tolerance="minimum",
            predicted=minimum,
        )
    yield m.loss_claim(
        "loss/fresh",
        "The error of the hooked model on fresh sequences is the minimum over all block scalars: their ratio",
        source=source,
        tolerance="loss ratio",
        reference=minimum,
    )
    if pairs and exact:
        pure = one_step_minimum(**_sizes(m))
        yield m.claim(
            "loss/gain",
            f"The loss lies below the best pure gradient step's, {pure:.6g}, by the share of the gain that theory "
            "allows",
            lambda m: (pure - m.expected_loss) / (pure - minimum),
            evidence="weights",
            source=source,
            tolerance="gain",
            predicted=1,
            control=("the best pure gradient step", 0.0),
        )


def _step_claims(m: "BlocksMeasured", kind: str) -> Iterator[Claim]:
    """The gradient step alone; where eigenvalues come in pairs a second path beside it."""
    pairs, eta = m.setting.pairs, optimal_step_size(**_sizes(m))
    claim = partial(m.claim, evidence="weights", source=PAIRS if pairs else SOURCE)
    if pairs:
        step, said = m.setting.best.a[1], "the optimum's, "
        control = ("the best pure gradient step", eta / step)
    else:
        step, said = eta, "eta = 3 / (2 T_max + 3 d - 4) = "
        shorter = optimal_step_size(dim=m.config.dim, max_length=m.config.n_ctx // 2)
        control = ("the step size for contexts half as long", shorter / eta)
    yield claim(
        "step/size",
        f"The step size a2 b1 is {said}{step:.8f}: their ratio",
        lambda m: m.blocks.step_size / step,
        tolerance=f"step size, {kind}",
        predicted=1,
        control=control,
    )
    if pairs:
        yield claim(
            "step/second path",
            "There is a second path, a3, and it is negative: a3 / a2",
            lambda m: m.second_path,
            tolerance=f"other scalars, {kind}",
            predicted=m.setting.best.a[2] / step,
            control=("the best pure gradient step", 0.0),
        )
    yield claim(
        "step/others",
        f"Every product of scalars but a2 b1{' and a3 b1' if pairs else ''} is zero: largest, over a2 b1",
        lambda m: m.share_beside_step(second=pairs),
        tolerance=f"other scalars, {kind}",
    )


def _sign_claim(m: "BlocksMeasured") -> Claim:
    """Claim about a gauge that full matrices have and block scalars have not."""
    from ar_interp.studies.blocks_measured import query_signs, without_signs

    turned = torch.ones(m.config.dim, dtype=torch.float64, device="cpu")
    turned[::2] = -1
    loss = m.loss()
    return claim(
        "step/signs",
        "With every other coordinate of query and prediction negated the loss is the same, a gauge of full matrices",
        evidence="behaviour",
        source=GAUGE,
        tolerance="loss ratio",
        predicted=1,
        measured=m.of(without_signs(m.model, turned)).loss().over(loss),
        control=("only the query's negated", m.of(query_signs(m.model, turned)).loss().over(loss)),
    )


def _full_claims(m: "BlocksMeasured") -> Iterator[Claim]:
    """Claims that full matrices are block-scalar, to which nothing forces them but the law of s_1."""
    claim = partial(m.claim, evidence="weights", source=SOURCE, tolerance="full blocks")
    yield claim(
        "step/QK",
        "The QK block (s_T, s_{t-1}) of full matrices is a multiple of the identity: distance over its norm",
        lambda m: m.step_defect,
    )
    yield claim(
        "step/OV",
        "The OV block of full matrices that writes s_t is a multiple of the identity: distance over its norm",
        lambda m: m.value_defect,
    )
    yield claim(
        "step/other blocks",
        "Paths of full matrices into the read-out other than <s_{t-1}|s_T> s_t carry nothing: largest norm of the "
        "blocks of QK and OV that make one, over the step's",
        lambda m: m.other_paths,
    )


def _estimate_claim(m: "BlocksMeasured") -> Claim:
    return m.claim(
        "estimate/step",
        "The model's estimate of W, read from its circuit, is eta sum_t s_{t+1} s_t^*: relative distance",
        lambda m: m.distance_from_step,
        evidence="activations",
        source=SOURCE,
        tolerance="estimate",
    )


def _recipe(summary: str, process: Process, training: TrainConfig, heads: str = "block-scalar") -> Recipe:
    config = ModelConfig.augmented(dim=10, n_ctx=20, heads=heads)
    return Recipe(summary=summary, config=config, process=process, training=training)


def _sampled(steps: int) -> TrainConfig:
    return TrainConfig(objective="sampled", optimizer="adam", lr=1e-2, schedule="cosine", steps=steps, batch=256)


EXACT = TrainConfig(optimizer="lbfgs", steps=2000, n_seeds=8)

STRUCTURES = {
    "step": Structure(
        title="The gradient step",
        meaning="An augmented token holds s_t and its predecessor s_{t-1}. One layer can then correlate successors "
        "with predecessors, which is one step of gradient descent on Σ_t |s_{t+1} - W s_t|^2 from W = 0. "
        "Where theory speaks, it says how long the step is, and which other paths through the layer stay open.",
        formulas=(
            "prediction = Σ_t (a1 ⟨s_t, s_T⟩ + a2 ⟨s_{t-1}, s_T⟩ + a3 ⟨s_t, s_{T-1}⟩ + a4 ⟨s_{t-1}, s_{T-1}⟩) (b1 s_t "
            "+ b2 s_{t-1}); a step of gradient descent is a2 b1 = eta alone: Ŵ = eta Σ_{t<T} s_{t+1} s_t^*.",
            "Independent eigenvalues, |s_{1,j}| = 1: eta = 3/(2 T_max + 3 d - 4), all other products 0.",
            "Conjugate pairs and Haar W reach the target through a3 too: a3/a2 < 0, and a little less error.",
            "Other laws of s_1, scores divided by the number of pairs: a2 b1 = kappa_1/(kappa_2 + kappa_3 mean "
            "1/(t-1)), moments of s_1; the relative error tends to 1 - kappa_1^2/(kappa_0 kappa_2).",
        ),
    ),
}

STUDY = Study(
    name="gradient step",
    source="Sander et al. 2024, augmented tokens",
    question="Does one layer take one step of gradient descent on the pairs it has seen, and how long is it?",
    covers=lambda setting: isinstance(setting, GradientStep),
    recipes={
        "augmented-unitary": _recipe(
            "One augmented layer on commuting unitary W, block scalars, exact loss: one step of gradient descent.",
            CommutingUnitary(10),
            EXACT,
        ),
        "augmented-unitary-sampled": _recipe(
            "As augmented-unitary, but from fresh sampled batches.", CommutingUnitary(10), _sampled(2000)
        ),
        "augmented-unitary-full": _recipe(
            "As augmented-unitary with full matrices, sampled; random signs of s_1 make multiples of the identity "
            "optimal.",
            CommutingUnitary(10, first_token="signs"),
            _sampled(2500),
            heads="full",
        ),
        "augmented-orthogonal": _recipe(
            "One augmented layer on conjugate pairs, block scalars, exact loss: a gradient step and a second path, "
            "a3 < 0.",
            CommutingOrthogonal(10),
            EXACT,
        ),
    },
    claims=_claims,
    structures=STRUCTURES,
)
