"""Noise and partial observation: what survives of the gradient step and of the two-token identity."""

from typing import Any

from ar_interp.claims import Subject
from ar_interp.models.config import ModelConfig
from ar_interp.processes import CommutingOrthogonal, CommutingUnitary, HaarOrthogonal
from ar_interp.setting import NoisyHeads, NoisyStack, NoisyStep
from ar_interp.studies.base import Exhibit, Recipe, Structure, Study
from ar_interp.studies.noise.claims import claims_of
from ar_interp.training.config import TrainConfig

PROCESS, OBSERVATION = 0.1, 0.1**0.5  # standard deviations: q = .01, r = .1
BLUR = 0.05**0.5  # r = .05
BASELINES = {"one linear layer": "noisy-haar-l1", "softmax attention": "noisy-haar-softmax"}
N_SEEDS = 8  # of stacks


def baselines(config: Any, process: Any) -> dict[str, Any]:
    """Shipped models of the same process and context length that stand beside another, by what they are."""
    from ar_interp.checkpoints import load

    recipes = {said: (name, STUDY.recipes[name]) for said, name in BASELINES.items()}
    return {
        said: load(name).model
        for said, (name, recipe) in recipes.items()
        if recipe.process == process and recipe.config.n_ctx == config.n_ctx and recipe.config != config
    }


def _exhibits() -> tuple[Exhibit, ...]:
    from ar_interp import figures
    from ar_interp.probes.noise import bent_keys, noisy_errors
    from ar_interp.seeds import EXHIBITS as SEED
    from ar_interp.studies.exhibit import Result, exhibit

    def measure(subject: Subject) -> tuple[Any]:
        process: Any = subject.process
        beside = baselines(subject.config, process)
        return (noisy_errors(subject.model, process, beside=beside, seed=SEED),)

    errors = Result(
        before="from ar_interp.probes.noise import noisy_errors\nfrom ar_interp.studies.noise import baselines\n",
        code={
            "errors": "noisy_errors(checkpoint.model, checkpoint.process, beside=baselines(checkpoint.config, "
            f"checkpoint.process), seed={SEED})"
        },
        measure=measure,
        applies=lambda subject: not getattr(subject.process, "stationary", True),
    )
    bent = Result(
        before="from ar_interp.probes.noise import bent_keys\n",
        code={"bent": "bent_keys(checkpoint.model, checkpoint.process)"},
        measure=lambda subject: (bent_keys(subject.model, subject.process),),
        applies=lambda subject: isinstance(subject.setting, NoisyHeads) and subject.setting.pairs,
    )
    return (
        exhibit(
            figures.noisy_errors,
            errors,
            title="Errors on noisy tokens",
            page="Algorithm",
            structure="noise",
            evidence="behaviour",
            look="The model beside one gradient step, or what one layer of linear or softmax attention learns, least "
            "squares, ridge regression or the conditional mean, and the filter that knows W, which without noise of "
            "the process makes no error to draw; all on the same noisy contexts. Look which of them get below the "
            "dotted line: they estimate the state itself.",
            wide=True,
        ),
        exhibit(
            figures.bent_keys,
            bent,
            title="The last key but one under noise",
            page="Positional encoding",
            structure="noise",
            evidence="weights",
            look="The weight of the last key but one, over that of the last, at every noise. Look whether the model's "
            "point is on the line, and how far it has left -1/2, or 0.",
        ),
    )


def _heads(n_heads: int, summary: str, n_seeds: int) -> Recipe:
    return Recipe(
        summary=summary,
        config=ModelConfig.diagonal(dim=10, n_heads=n_heads, n_ctx=20),
        process=CommutingOrthogonal(10, observation_noise=BLUR),
        training=TrainConfig(optimizer="lbfgs", steps=1000, n_seeds=n_seeds),
    )


def _stack(n_layers: int, attention: str = "linear/keys", n_heads: int = 1) -> Recipe:
    layers = "One augmented layer" if n_layers == 1 else f"{n_layers} augmented layers"
    scores = "scores divided by the number of keys"
    if attention == "softmax":
        scores = f"{n_heads} heads of softmax attention, to stand beside the linear ones"
    return Recipe(
        summary=f"{layers} on Haar W observed with noise, blocks that are multiples of the identity, {scores}; d = 5, "
        f"contexts up to 30, {N_SEEDS} seeds.",
        config=ModelConfig.augmented(
            dim=5,
            n_ctx=30,
            n_layers=n_layers,
            n_heads=n_heads,
            heads="block-scalar",
            attention=attention,
            init_scale=0.3,
            dtype="float32",
        ),
        process=HaarOrthogonal(5, observation_noise=0.2),
        training=TrainConfig(
            objective="sampled",
            optimizer="adam",
            lr=3e-2,
            schedule="cosine",
            warmup=50,
            clip=10.0,
            steps=1000,
            batch=128,
            n_seeds=N_SEEDS,
        ),
    )


STRUCTURES = {
    "noise": Structure(
        title="Under noise",
        meaning="Tokens are the states of a noisy process, observed with noise. Theory says which step and which keys "
        "are best then, what the conditional mean does with the same tokens, and where every prediction stops that "
        "multiplies the newest token by an estimate of W: the noise of that token remains.",
        formulas=(
            "s_{t+1} = W s_t + ε, y_t = s_t + ν; q = E|ε_j|², r = E|ν_j|²; errors are those of the clean s_{T+1}.",
            "One layer: still one gradient step, of size Σ h / Σ (G_s + (d-1) G_x); without q it tends to "
            "3/(2 (1+r) T_max).",
            "At least d heads: kappa = 0 alone, c p_T = 1/((1+r)(1+4r+2r²)); kappa costs kappa² v² 4r(1+3r+r²).",
            "d/2 heads: kappa = 1, p_{T-1}/p_T = -½(1+r)(1+4r+2r²)/(1+9r+18r²+6r³) for two keys of unmixed pairs; "
            "older keys and other pairs take a part over.",
            "The best multiple of W y_T errs by r/(1+r) of each coordinate of modulus 1.",
            "Two softmax heads with scores ±z: e^z/Σe^z − e^{−z}/Σe^{−z} rises with the overlap z, as a step's weights "
            "do, and is bounded.",
        ),
    ),
}

STUDY = Study(
    name="noise",
    source="the settings of Sander et al. 2024 with noise of the process and of observation",
    question="What of the gradient step and of the two newest keys survives noise, and does depth see through it?",
    covers=lambda setting: isinstance(setting, NoisyStep | NoisyHeads | NoisyStack),
    recipes={
        "noisy-augmented-unitary": Recipe(
            summary="One augmented layer on noisy commuting unitary W, observed with noise: a shorter gradient step.",
            config=ModelConfig.augmented(dim=10, n_ctx=20, heads="block-scalar"),
            process=CommutingUnitary(10, process_noise=PROCESS, observation_noise=OBSERVATION),
            training=TrainConfig(
                objective="sampled", optimizer="adam", lr=1e-2, schedule="cosine", steps=1500, batch=256
            ),
        ),
        "noisy-orthogonal-h10": _heads(
            10, "Conjugate pairs observed with noise, as many heads as coordinates: noise selects kappa = 0.", 4
        ),
        "noisy-orthogonal-h5": _heads(
            5,
            "Conjugate pairs observed with noise, half as many heads as coordinates: the two-token identity bends. Few "
            "seeds escape the traps, so the best of 32.",
            32,
        ),
        **{f"noisy-haar-l{n_layers}": _stack(n_layers) for n_layers in (1, 2, 3, 4)},
        "noisy-haar-softmax": _stack(1, "softmax", n_heads=2),
    },
    claims=claims_of,
    exhibits=_exhibits,
    structures=STRUCTURES,
)
