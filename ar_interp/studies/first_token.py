"""The law of the first token: the step size it makes, and the error that one gradient step leaves."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ar_interp.claims import Claim, Estimate, Subject
from ar_interp.models.config import ModelConfig
from ar_interp.processes import CommutingUnitary, FirstToken
from ar_interp.setting import FirstTokenLaw
from ar_interp.studies.base import Recipe, Study
from ar_interp.theory import initial_token_error
from ar_interp.training.config import TrainConfig

if TYPE_CHECKING:
    from ar_interp.studies.blocks_measured import BlocksMeasured

LAW = "Zheng et al. 2024, arXiv 2405.16845; general laws by counting modes"


def _claims(subject: Subject) -> Iterator[Claim]:
    from ar_interp.studies.blocks_measured import BlocksMeasured
    from ar_interp.studies.interventions import scale_claim, step_claim
    from ar_interp.studies.swap_claims import swap_claims

    measured, n_ctx = BlocksMeasured(subject), subject.config.n_ctx
    setting, law = measured.setting, measured.process.initial.law
    other = FirstToken("signs") if law == "gaussian" else FirstToken("gaussian")
    elsewhere = measured.of(measured.model, replace(measured.process, first_token=other))
    moments, limit = setting.moments, setting.moments.limit_relative_error
    yield measured.claim(
        "step/size",
        f"The step size a2 b1 is kappa1 / (kappa2 + kappa3 mean 1/(t-1)) = {setting.product:.5f}: their ratio",
        lambda m: m.blocks.step_size / setting.product,
        evidence="weights",
        source=LAW,
        tolerance="step size, sampled",
        predicted=1,
        control=(
            f"the step size for first tokens of law {other.law!r}",
            elsewhere.setting.product / setting.product,
        ),
    )
    yield measured.claim(
        "step/others",
        "Every product of scalars but a2 b1 is zero, whatever the law of s_1: largest, over a2 b1",
        lambda m: m.share_beside_step(),
        evidence="weights",
        source=LAW,
        tolerance="other scalars, sampled",
    )
    yield measured.claim(
        "loss/relative",
        f"The relative error at T = {n_ctx} follows from the step size and tends to {limit:.4g} with long contexts: "
        + "one step "
        + ("never recovers the sequence" if limit > 0 else "recovers the sequence in the end"),
        _relative_error,
        evidence="behaviour",
        source=LAW,
        tolerance="relative error",
        predicted=initial_token_error(moments, product=measured.blocks.step_size, length=n_ctx) / moments.kappa0,
        control=(f"the same weights on first tokens of law {other.law!r}", elsewhere),
    )
    yield measured.estimate_claim(setting.product, source=LAW)
    yield step_claim(measured)
    yield scale_claim(measured)
    yield from swap_claims(measured)


def _relative_error(m: "BlocksMeasured") -> Estimate:
    """At the longest contexts; sampled is only the difference from a pure step of the same size."""
    step, moments, size = m.beside([0, m.blocks.step_size, 0, 0], [1, 0]), m.setting.moments, m.config.dim
    pure = m.errors_of(step)[:, -1]
    expected = size * initial_token_error(moments, product=m.blocks.step_size, length=m.config.n_ctx)
    return Estimate.mean(m.errors[:, -1] - pure).less(-expected).over(size * moments.kappa0)


def _recipe(law: FirstToken, finding: str) -> Recipe:
    return Recipe(
        summary=f"One augmented layer divided by the number of pairs, first tokens of law {law.law!r}: {finding}.",
        config=ModelConfig.augmented(dim=5, n_ctx=20, heads="block-scalar", attention="linear/pairs"),
        process=CommutingUnitary(5, first_token=law),
        training=TrainConfig(objective="sampled", optimizer="adam", lr=1e-2, schedule="cosine", steps=2000, batch=512),
    )


STUDY = Study(
    name="first token",
    source="Zheng et al. 2024, arXiv 2405.16845",
    question="How does the law of the first token set the step, and does one step ever recover the sequence?",
    covers=lambda setting: isinstance(setting, FirstTokenLaw),
    recipes={
        "initial-gaussian": _recipe(FirstToken("gaussian"), "one gradient step never recovers the sequence"),
        "initial-onehot": _recipe(FirstToken("one-hot"), "recovered exactly"),
        "initial-sparse": _recipe(FirstToken("sparse", n_nonzero=3), "recovered in the end"),
        "initial-ones": _recipe(FirstToken("ones"), "recovered in the end"),
    },
    claims=_claims,
)
