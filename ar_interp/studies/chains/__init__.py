"""Chains of thought: which chains a linear next-token predictor can learn, where it reads them, and with how much."""

from copy import deepcopy
from functools import partial
from typing import Any

from ar_interp.claims import Subject
from ar_interp.setting import ChainPredictors
from ar_interp.studies.base import Control, Exhibit, Structure, Study
from ar_interp.studies.chains.claims import claims_of
from ar_interp.studies.chains.recipes import RECIPES

FEWER = 8  # chains of which a figure shows the attribution


def _exhibits() -> tuple[Exhibit, ...]:
    from ar_interp import figures
    from ar_interp.probes.chain_edits import continue_chain
    from ar_interp.probes.chains import attribute, read_sources
    from ar_interp.studies.chains.measured import answers_by_samples
    from ar_interp.studies.exhibit import Result, contexts_code, contexts_of, exhibit

    contexts = f"contexts = {contexts_code()}\n"
    read = Result(
        code={"places": "read_sources(checkpoint.model, contexts)", "n_prompt": "checkpoint.config.n_prompt"},
        measure=lambda subject: (read_sources(subject.model, contexts_of(subject)), subject.config.n_prompt),
        before=f"from ar_interp.probes.chains import read_sources\n{contexts}",
        applies=lambda subject: not subject.config.mlp,
    )
    directions = Result(
        code={
            "places": "read_sources(checkpoint.model, contexts, symbols=setting.pairs, written=setting.pairs)",
            "n_prompt": "checkpoint.config.n_prompt",
        },
        measure=lambda subject: (_directions(subject), subject.config.n_prompt),
        before=f"from ar_interp.probes.chains import read_sources\n{contexts}",
        applies=lambda subject: not subject.config.mlp,
    )
    attributions = Result(
        code={"attributions": f"attribute(deepcopy(checkpoint.model).double(), contexts[:{FEWER}])"},
        measure=lambda subject: (attribute(deepcopy(subject.model).double(), contexts_of(subject)[:FEWER]),),
        before=f"from copy import deepcopy\n\nfrom ar_interp.probes.chains import attribute\n{contexts}",
        applies=lambda subject: not subject.config.mlp,
    )
    continued = Result(
        code={"continued": "continue_chain(checkpoint.model, {tokens!r})"},
        measure=lambda subject, tokens: (continue_chain(subject.model, tokens),),
        remeasures=("tokens",),
        before="from ar_interp.probes.chain_edits import continue_chain\n",
        applies=lambda subject: subject.process.follows,  # type: ignore[union-attr] - a task of chains
        controls={"tokens": _tokens},
    )
    samples = Result(
        code={"answers": "answers_by_samples(checkpoint.process)", "guess": "0.5"},
        measure=lambda subject: (answers_by_samples(subject.process), 0.5),
        before="from ar_interp.studies.chains.measured import answers_by_samples\n",
        applies=lambda subject: getattr(subject.setting, "family", "") == "parity",
    )
    shown = partial(exhibit, page="Chains")
    return (
        shown(
            figures.edited_chain,
            continued,
            title="A chain to edit",
            structure="chain",
            evidence="behaviour",
            look="Type ids of the prompt and then as many tokens of the chain as you like, right or wrong: the model "
            "writes the rest. Change one bit of the last token given and look how far the error goes.",
            wide=True,
        ),
        shown(
            figures.read_positions,
            read,
            title="Which tokens each step reads",
            structure="reads",
            evidence="weights",
            look="Norms of the maps after centring, which is what a bias and softmax cannot undo. Where theory knows "
            "exact weights, rings are what they read: look for a strong cell without one, and for a weak one with it.",
            wide=True,
        ),
        shown(
            figures.chain_directions,
            directions,
            title="Directions of the maps",
            structure="rank",
            evidence="weights",
            look="Singular values of the largest map of each step. Look for the drop: a copy of a bit has one "
            "direction, a table of states one less than there are states.",
        ),
        shown(
            figures.attribution_agreement,
            attributions,
            title="Attribution, ablation and patching",
            structure="attribution",
            evidence="causal",
            look="Three ways to say what a token contributes, a point for each step and source. Look for a point off "
            "the line: there is none where logits are sums.",
        ),
        shown(
            figures.answers_by_samples,
            samples,
            title="Right answers against the number of chains trained on",
            structure="samples",
            evidence="training",
            look="The chain of this model beside running parity and no chain, trained anew. Look where a line leaves "
            "the guess, and whether more chains would help the others.",
            wide=True,
        ),
    )


def _directions(subject: Subject) -> Any:
    from ar_interp.probes.chains import read_sources
    from ar_interp.studies.exhibit import contexts_of

    setting: Any = subject.setting
    return read_sources(subject.model, contexts_of(subject), symbols=setting.pairs, written=setting.pairs)


def _tokens(subject: Subject) -> Control:
    """A prompt and the first half of its chain as ids, the last of them another, which spoils the answer."""
    from ar_interp.probes.chain_edits import continue_chain
    from ar_interp.studies.exhibit import contexts_of

    config, names = subject.config, subject.process.vocabulary  # type: ignore[union-attr] - a task of chains
    kept = config.n_prompt + config.n_chain // 2
    listed = ", ".join(f"{i} = {name}" for i, name in enumerate(names[:12])) + ", …" * (len(names) > 12)
    strings = contexts_of(subject).tokens[:, :kept].tolist()
    tokens = strings[0]
    if kept > config.n_prompt:
        others = [[*tokens[:-1], token] for token in dict.fromkeys(other[-1] for other in strings)]
        chains = [(other, continue_chain(subject.model, other)) for other in others]
        n = subject.process.n_answer  # type: ignore[union-attr] - a task of chains
        tokens = next((other for other, chain in chains if chain.written[-n:] != chain.right[-n:]), tokens)
    return Control(
        name="tokens",
        label=f"Ids of the prompt, {config.n_prompt} of them, and of the chain as far as it is given",
        kind="sequence",
        default=tokens,
        high=config.dim - 1,
        meaning=f"At most {config.n_chain - 1} tokens of the chain, all but the answer. {listed}.",
    )


STUDY = Study(
    name="chains",
    source="Malach 2023, arXiv 2309.06979",
    question="Which chains of thought can a linear next-token predictor learn, and where does it read them?",
    covers=lambda setting: isinstance(setting, ChainPredictors),
    recipes=RECIPES,
    claims=claims_of,
    exhibits=_exhibits,
    structures={
        "chain": Structure(
            title="The chain that it writes",
            meaning="A next-token predictor that writes the likeliest token after its own ones either keeps to the "
            "chain of the task or makes a first mistake. So it is right alone exactly as often as it makes no mistake "
            "when it is given the right tokens: errors do not compound, they only begin.",
            formulas=("z_t = argmax_v Σ_p W^t[p, y_p, v] + b^t[v], y = (x, z_1, ..., z_{t-1}); the answer is z_T.",),
        ),
        "samples": Structure(
            title="What samples teach",
            meaning="Each token of a chain is a convex problem of its own. Some chains make every step easy, some make "
            "it possible with a margin so small that thousands of samples are too few, and running parity leaves "
            "nothing to learn.",
            formulas=("Mistakes of a perceptron: at most (R / γ)^2.",),
        ),
        "reads": Structure(
            title="The tokens that are read",
            meaning="A map is known up to what bias and softmax undo, so that norms are read after centring. Where "
            "exact weights would read, and nowhere else, the maps of a trained model must be large.",
            formulas=("W[p, u, v] ~ W[p, u, v] + f_p(v) + g_p(u).",),
        ),
        "attribution": Structure(
            title="Attribution with a ground truth",
            meaning="Logits are sums over tokens: what a token adds is one number, whether it is read off, ablated or "
            "patched in. Methods that disagree here are wrong.",
        ),
        "rank": Structure(
            title="The states behind a table",
            meaning="One shared map turns (state, bit) into the next state. It can tell q states apart with q - 1 "
            "directions, and uses no more.",
        ),
        "offsets": Structure(
            title="The offsets of a window",
            meaning="With one map for all steps only two tokens matter: the state, which is the newest, and the bit "
            "that it takes up. Without one of them answers are lost, without all others nothing is.",
        ),
        "optimum": Structure(
            title="A chain that teaches nothing",
            meaning="The parity so far and the next bit are each independent of their xor. So no linear map of tokens "
            "helps, however many samples there are: the best one is zero.",
            formulas=("E (1[y = v] - 1/V) 1[y_p = u] = 0 for all p, u, v: the loss is convex, so W = 0 is a minimum.",),
        ),
        "margin": Structure(
            title="Length against margin",
            meaning="The binary digits of the number of ones are a chain of logarithmic length, of which the last "
            "digit needs a margin that falls as n^{-3/2}; AND and XOR by turns take 2 (n - 1) tokens with wide ones.",
            formulas=("(R / γ)^2: about n^3 / 3 for digits, 7 (3 n - 2) for AND and XOR, 8 n for joint tokens.",),
        ),
        "network": Structure(
            title="A network without a chain",
            meaning="That parity needs a chain is a statement on large n: with 16 bits a network learns it from the "
            "prompt alone, which makes the row void, and with 24 it does not.",
            formulas=("mean over all 2^n parities of |E χ_S ∇f|^2 = E|∇f|^2 / 2^n.",),
        ),
        "products": Structure(
            title="Products",
            meaning="Two numbers are multiplied by a chain that a linear map can write: pairs of digits, then sums of "
            "columns or one look-up after another. Sums make a short chain with a small margin, look-ups a long one "
            "that fewer products teach.",
            formulas=("a b = Σ_{i,j} a_i b_j 10^{i+j}; argmax_v (v S - v^2 / 2) is the integer S.",),
        ),
        "permutation": Structure(
            title="One permutation",
            meaning="One-hot sequences s_{t+1} = P s_t are an orthogonal autoregression over a vocabulary: the map of "
            "the newest token is P, and its eigenvalues are roots of unity.",
        ),
    },
)
