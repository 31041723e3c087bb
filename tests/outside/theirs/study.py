"""Three of three files: a part of theory, and the study with its recipe, claim and exhibit."""

import ar_interp as ari
from ar_interp.claims import Estimate, Tolerance, claim
from ar_interp.setting import Setting
from ar_interp.studies import Exhibit, Recipe, Structure, Study
from theirs.attention import Rectified
from theirs.figure import silent_keys_figure
from theirs.probe import silent_keys
from theirs.process import Shrinking


class RectifiedHeads(Setting):
    """Scores of rectified heads are symmetric about zero: half of the keys are left out."""

    kind = "rectified heads"

    @classmethod
    def speaks_of(cls, config, process):
        return getattr(config, "attention", None) == Rectified.kind and type(process) is Shrinking

    @property
    def half(self):
        return 0.5


def measure(subject):
    contexts = subject.process.contexts(
        subject.size(256), subject.config.n_ctx, seed=2**50, dtype=subject.config.torch_dtype
    )
    return silent_keys(subject.model, contexts)


def claims(subject):
    found = measure(subject)
    return [
        claim(
            "keys/silent",
            "Rectified heads leave half of their keys out: mean share over the heads",
            source="the law of the scores is symmetric",
            evidence="activations",
            tolerance=Tolerance(0.15, "a few heads after a short training"),
            predicted=subject.setting.half,
            measured=Estimate(found.share.mean().item(), n=found.n),
            control=("linear attention leaves none out", 0.0),
        )
    ]


STUDY = Study(
    name="rectified heads",
    source="somebody else",
    question="How many keys does a rectified head leave out?",
    covers=lambda setting: isinstance(setting, RectifiedHeads),
    recipes={
        "rectified": Recipe(
            summary="Rectified heads on a process that shrinks by 1 − ρ = 0.1.",
            config=ari.ModelConfig.full(dim=3, n_ctx=6, n_heads=4, attention=Rectified.kind, init_scale=0.5),
            process=Shrinking(3, first_token="sphere"),
            training=ari.TrainConfig(objective="sampled", optimizer="adam", lr=1e-2, steps=20, batch=64),
        )
    },
    claims=claims,
    exhibits=lambda: (
        Exhibit(
            name="silent keys",
            title="Keys that are left out",
            page="Silent keys",
            structure="keys",
            evidence="activations",
            look="A bar per head. Look whether they are near one half.",
            measure=measure,
            draw=lambda subject, found: silent_keys_figure(found),
            code="""
            from theirs.figure import silent_keys_figure
            from theirs.study import measure
            from ar_interp.claims.subject import subject_of

            silent_keys_figure(measure(subject_of(checkpoint))).show()
            """,
        ),
    ),
    structures={"keys": Structure(title="The keys", meaning="A rectified head leaves keys out.")},
)
