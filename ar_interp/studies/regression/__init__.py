"""Regression in context: what learned features and one layer of linear attention must find, and what they cannot do."""

from functools import partial
from typing import Any

from ar_interp.claims import Subject
from ar_interp.setting import RegressionPrompts, SoftmaxPrompts
from ar_interp.studies.base import Control, Exhibit, Structure, Study
from ar_interp.studies.regression.claims import claims_of, joint_excess
from ar_interp.studies.regression.recipes import RECIPES


def _covers(setting: Any) -> bool:
    linear = setting.linear if isinstance(setting, SoftmaxPrompts) else setting
    return isinstance(linear, RegressionPrompts) and linear.minimum is not None


def _is_linear(subject: Subject) -> bool:
    return isinstance(subject.setting, RegressionPrompts)


def _exhibits() -> tuple[Exhibit, ...]:
    from ar_interp import figures
    from ar_interp.probes.regression import excess_by_tasks, kernel_structure, risks_by_length, risks_by_order
    from ar_interp.studies.exhibit import Result, exhibit

    structure = Result(
        code={"structure": "kernel_structure(checkpoint.model)"},
        measure=lambda subject: (kernel_structure(subject.model, subject.process),),
        before="from ar_interp.probes.regression import kernel_structure\n",
        applies=_is_linear,
    )
    risks = Result(
        code={
            "risks": "risks_by_length(checkpoint.model)",
            "trained_length": "checkpoint.config.n_ctx - 1",
        },
        measure=lambda subject: (risks_by_length(subject.model, subject.process), subject.config.n_ctx - 1),
        before="from ar_interp.probes.regression import risks_by_length\n",
    )
    orders = Result(
        code={"risks": "risks_by_order(checkpoint.model, smoothness={smoothness!r})"},
        measure=lambda subject, smoothness: (risks_by_order(subject.model, subject.process, smoothness=smoothness),),
        remeasures=("smoothness",),
        before="from ar_interp.probes.regression import risks_by_order\n",
        applies=_is_linear,
        controls={
            "smoothness": lambda subject: Control(
                name="smoothness",
                label="Smoothness a that is all one knows",
                kind="number",
                default=0.5,
                low=0.1,
                high=3.0,
                meaning="Functions come in the order of frequency, variances fall as frequency^-(2 a + 1).",
            )
        },
    )
    tasks = Result(
        code={
            "excesses": "excess_by_tasks(checkpoint.model)",
            "joint": "joint_excess(checkpoint.config, checkpoint.process)",
        },
        measure=lambda subject: (
            excess_by_tasks(subject.model, subject.process),
            joint_excess(subject.config, subject.process),
        ),
        before="from ar_interp.probes.regression import excess_by_tasks\n"
        "from ar_interp.studies.regression.claims import joint_excess\n",
        applies=_is_linear,
    )
    shown = partial(exhibit, page="Features")
    return (
        shown(
            figures.learned_features,
            structure,
            title="Learned features beside the functions of largest variance",
            structure="features",
            evidence="weights",
            look="Features are known up to a change of basis only: lines are their span, turned towards the dotted "
            "functions of theory. Look for a dotted curve that no line follows.",
            wide=True,
        ),
        shown(
            figures.kernel_spectrum,
            structure,
            title="Spectrum of the kernel that attention makes",
            structure="kernel",
            evidence="weights",
            look="Eigenvalues of phi(x)^T Gamma phi(x') as an integral operator. Look whether each cross lies in a "
            "circle: a lost function is a cross near zero.",
        ),
        shown(
            figures.risk_by_length,
            risks,
            applies=_is_linear,
            title="Risk against the number of examples",
            structure="prompts",
            evidence="behaviour",
            look="The model beside the best Gamma for each length, linear attention on all functions, and Bayes. Left "
            "of the dashed line Gamma trusts its examples too much, right of it too little.",
            wide=True,
        ),
        shown(
            figures.risk_by_length,
            risks,
            name="softmax_risk_by_length",
            applies=lambda subject: not _is_linear(subject),
            title="Softmax beside linear attention and Bayes",
            structure="softmax",
            evidence="behaviour",
            look="The model on prompts up to the length trained on, beside linear attention on all functions and the "
            "posterior mean. Look which of the two its curve follows.",
            wide=True,
        ),
        shown(
            figures.risk_by_order,
            orders,
            title="Learned basis against frequency order",
            structure="features",
            evidence="weights",
            look="Both curves of all functions are exact; where variances fall in the order of frequency and the "
            "smoothness is right they are one. In the limit their slopes are 2a/(2a + 1) with each one's own a; over "
            "these lengths they are 3 to 6 % below: .641 for 2/3 and .480 for 1/2 with variances j^-3 at frequency "
            "j^2.",
            wide=True,
        ),
        shown(
            figures.excess_by_tasks,
            tasks,
            title="T against N^2",
            structure="tasks",
            evidence="behaviour",
            look="The features stay, Gamma is fitted to T sampled tasks. Left of the dashed line the full Gamma with "
            "one answer a task has no finite mean; the others need only T > N. Diamonds, where the study ships such "
            "models, are trained as a whole on T tasks and lie far higher: features are fitted to noise too.",
            wide=True,
        ),
    )


STUDY = Study(
    name="regression",
    source="Kim, Nakamaki and Suzuki 2024, arXiv 2408.12186",
    question="Which features and which kernel does linear attention learn from prompts of a random function?",
    covers=_covers,
    recipes=RECIPES,
    claims=claims_of,
    exhibits=_exhibits,
    structures={
        "features": Structure(
            title="The learned features",
            meaning="The model maps x to N features by an MLP. The best it can do is to span the N functions along "
            "which the random f varies most; which basis of the span it takes is its own affair. How far the span is "
            "from theirs is an angle; what the features cost is the risk with the best Gamma for them.",
            formulas=(
                "f = Σ_j β_j ψ_j with variances λ_j, c = Σ_j λ_j + σ^2: only the kernel φ^T Γ φ' enters, and risk = "
                "|(K - K*) S^{1/2}|^2 + const, so that the best kernel of rank N is the truncation of K*.",
            ),
        ),
        "kernel": Structure(
            title="The kernel",
            meaning="Features and Gamma together are a kernel, by which the answers of the examples are averaged. Its "
            "eigenvalues say how much of each function the layer believes.",
            formulas=("γ_j = n λ_j / ((n - 1) λ_j + c)",),
        ),
        "attention": Structure(
            title="The layer of attention",
            meaning="With the features as they are one Gamma is best. What the trained one costs beside it is the "
            "attention's fault, the rest the features'.",
            formulas=("Γ* = Q^{-1} P S^{-1}: Q = E φ φ^T, P = A^T Λ A, S = (1 - 1/n) P + E (V + σ^2) φ φ^T / n.",),
        ),
        "state": Structure(
            title="The state of a prompt",
            meaning="All that the layer knows of the examples is one vector. Put into another prompt it must carry "
            "the function with it.",
            formulas=("z = (1/n) Σ_k y_k φ(x_k), answer = φ(x)^T Γ z.",),
        ),
        "prompts": Structure(
            title="The length of a prompt",
            meaning="The layer averages, and to an average the signal of other functions is noise: so it has the rate "
            "of Bayes, not its constant, and a Gamma of short prompts distrusts long ones for ever.",
            formulas=("risk at m examples: Σ_j [γ_j^2 ((1 - 1/m) λ_j + c/m) - 2 γ_j λ_j] + Σ_j λ_j.",),
        ),
        "tasks": Structure(
            title="The number of tasks",
            meaning="Gamma is fitted to tasks, and with one noisy answer each it takes more than N^2 of them.",
            formulas=("excess = (R + σ^2) p / (T - p - 1), p = N^2.",),
        ),
        "softmax": Structure(
            title="Softmax beside linear attention",
            meaning="Softmax attention averages the answers of examples whose scores are high. No theory here says "
            "what it reaches: it stands as a baseline between the best linear layer with as many features and the "
            "posterior mean.",
            formulas=("answer = Σ_t p_t y_t, p = softmax over t of φ(x)^T Γ φ(x_t).",),
        ),
    },
)
