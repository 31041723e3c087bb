"""Chains of thought: which chains a linear next-token predictor can learn, where it reads them, and with how much."""

import math
from collections.abc import Iterator
from typing import Any

from ar_interp.claims import Claim, Estimate, Subject
from ar_interp.models.next_token_config import NextTokenConfig
from ar_interp.processes import ChainTask, Characters, Counting, NoisyXor, Parity, Permuted, Products
from ar_interp.setting import ChainPredictors
from ar_interp.studies.base import Control, Exhibit, Recipe, Structure, Study
from ar_interp.theory import parity_complexity
from ar_interp.training.config import TrainConfig

SOURCE = "Malach 2023, arXiv 2309.06979; derived here"
SUBSET = (3, 14, 0, 9, 6, 11, 2, 8)  # of 16 bits, in the order in which chains read them
RIDGE = 1e-4
HELP = "2a95af4ac93f5b719944030ce3769070ddf827d847cba42192afa8da989e5dc4"  # SHA-256 of the text
FEW, TOO_FEW, MANY = 200, 50, 3000  # chains to train on
NETWORK_SEEDS = 3
FEWER = 8  # chains of which a figure shows the attribution


def _claims(subject: Subject) -> Iterator[Claim]:
    from ar_interp.studies.chains_measured import ChainsMeasured

    m = ChainsMeasured(subject)
    setting = m.setting
    yield from _of_sums(m)
    if setting.separable and setting.chain != "count" and setting.family != "products":
        yield from _of_answers(m)
    if setting.sources is not None:
        yield from _of_reading(m)
    if setting.family == "parity":
        yield from _of_parity(m)
    if setting.family == "counting" and setting.separable:
        yield from _of_counting(m)
    if setting.family == "permuted":
        yield from _of_permutation(m)
    if setting.family == "products":
        yield from _of_products(m)
    if setting.family == "characters":
        yield from _of_characters(m)
    if setting.family == "noisy-xor" and setting.minimum is not None:
        yield from _of_noise(m)


def _of_sums(m: Any) -> Iterator[Claim]:
    if not m.config.mlp:
        yield m.claim(
            "attribution/exact",
            "Logits are sums over tokens, so that direct attribution, ablation and patching agree on every token of "
            "every chain: their largest difference",
            lambda found: found.attribution_error,
            evidence="causal",
            source="the definition of the model",
            tolerance="attribution",
            control=("of log-probabilities, which are no sums", m.attribution_of_probabilities()),
        )
    if m.process.n_chain > 1 and m.process.follows:
        found = m.damaged
        product = math.prod(found.by_token["correct"])
        yield m.claim(
            "chain/free",
            "With noise on its weights the model writes a whole chain alone exactly as often as no token is wrong "
            "given the right ones before it: difference of the shares",
            lambda _: abs(found.free_running - found.teacher_forced),
            evidence="behaviour",
            source="there is a wrong token if and only if there is a first one",
            tolerance="counted chains",
            control=("from the product of the shares of each token", abs(product - found.teacher_forced)),
        )


def _of_answers(m: Any) -> Iterator[Claim]:
    read = next((min(sources) for sources in m.setting.sources or () if sources), None)
    first = 0 if m.config.window is None else 1
    blind = range(first, m.config.n_sources + first) if read is None else (read,)
    yield m.claim(
        "chain/answers",
        "The answers at the end of the chains that it writes are right on fresh prompts: their share",
        lambda found: found.share(found.accuracy),
        evidence="behaviour",
        source=SOURCE,
        tolerance="answers",
        predicted=0.99,
        side="at least",
        control=("without what the first step reads", m.without(*blind)),
    )
    yield m.claim(
        "chain/exact",
        "Every token of these chains is right: share of chains",
        lambda found: found.share(found.accuracy, "free_running"),
        evidence="behaviour",
        source=SOURCE,
        tolerance="answers",
        predicted=0.99,
        side="at least",
        control=("untrained", m.untrained),
    )


def _of_reading(m: Any) -> Iterator[Claim]:
    steps = sum(map(bool, m.setting.sources))
    what = "hidden subset and the tokens of the chain" if steps > 1 else "newest token and the bit that it takes up"
    yield m.claim(
        "reads/sources",
        f"The largest centred maps stand at the {what} that exact weights read, no more and no fewer: share of the "
        f"{steps} step{'s' * (steps > 1)}",
        lambda found: found.reads_where_exact,
        evidence="weights",
        source=SOURCE,
        tolerance="steps that read",
        predicted=1,
        control=("Gaussian weights", m.of(m.gaussian)),
    )


def _of_parity(m: Any) -> Iterator[Claim]:
    from ar_interp.studies.chains_measured import hardest_margin

    setting, chain = m.setting, m.setting.chain
    k, n = len(m.process.subset), m.process.n_bits
    if m.record is not None and chain in ("joint", "and-xor", "digits"):
        yield m.claim(
            "samples/enough",
            f"{m.record.n_samples} chains teach it in every seed: share of {m.record.n_seeds} seeds that write .99 of "
            "the chains without a mistake",
            lambda found: found.record.reaching,
            evidence="training",
            source=SOURCE,
            tolerance="share of seeds",
            predicted=0.65,
            side="at least",
            control=(f"{TOO_FEW} chains", m.reaching(m.process, TOO_FEW)),
        )
    if m.record is not None and chain == "count":
        yield m.claim(
            "samples/short",
            f"The number of ones as one symbol can be read exactly, and {m.record.n_samples} chains do not teach it, "
            f"for want of margin: share of {m.record.n_seeds} seeds that write .99 of the chains without a mistake",
            lambda found: found.record.reaching,
            evidence="training",
            source=SOURCE,
            tolerance="share of seeds",
            predicted=0.35,
            side="at most",
            control=("joint tokens after 200 chains", m.reaching(setting.with_chain("joint"), FEW)),
        )
    if chain == "count":
        yield m.claim(
            "chain/representable",
            "Weights by hand, argmax_v (v S - v^2 / 2), write every chain: share of answers that are right",
            lambda found: found.of(found.counted_by_hand).share(found.of(found.counted_by_hand).accuracy),
            evidence="behaviour",
            source=SOURCE,
            tolerance="answers",
            predicted=0.99,
            side="at least",
            control=("the trained weights", m.share(m.accuracy)),
        )
    if chain in ("none", "running") and k > 1 and n >= 10:
        yield from _of_nothing_to_learn(m)
    if chain == "digits":
        best = parity_complexity(chain, k)
        yield m.claim(
            "margin/hardest",
            f"A short chain costs margin: (R / gamma)^2 of its hardest token at the widest margin is that of theory, "
            f"{best:.0f}: their ratio",
            lambda found: hardest_margin(found.process) / best,
            evidence="training",
            source=SOURCE,
            tolerance="margin",
            predicted=1,
            control=("of AND and XOR by turns, a longer chain", hardest_margin(setting.with_chain("and-xor")) / best),
        )


def _of_nothing_to_learn(m: Any) -> Iterator[Claim]:
    from ar_interp.studies.chains_measured import gradient_at_zero, network_answers

    chain, n = m.setting.chain, m.process.n_bits
    joint = m.setting.with_chain("joint")
    if m.record is not None:
        coins = m.process.n_chain - (chain == "running")
        yield m.claim(
            "samples/chance",
            f"{m.record.n_samples} chains teach it nothing: mean share over {m.record.n_seeds} seeds of chains without "
            f"a mistake, as many as by {coins} coin{'s' * (coins > 1)}",
            lambda found: found.record.exact,
            evidence="training",
            source=SOURCE,
            tolerance="chance",
            predicted=2.0**-coins,
            control=("joint tokens after 200 chains", m.reaching(joint, FEW)),
        )
    yield m.claim(
        "chain/chance",
        "Its own answers are right by chance: their share",
        lambda found: found.share(found.accuracy),
        evidence="behaviour",
        source=SOURCE,
        tolerance="chance",
        predicted=0.5,
        control=("elimination over GF(2) from twice as many strings as bits", m.elimination()),
    )
    if n <= 16:
        first = int(chain == "running")
        yield m.claim(
            "optimum/guess",
            f"No weights are better than a guess, ln 2 per token{' from the second on' * first}: largest gradient of "
            f"the expected loss at W = 0, over all 2^{n} prompts",
            lambda found: gradient_at_zero(found.process, first),
            evidence="training",
            source="the loss is convex; " + SOURCE,
            tolerance="optimum of guesses",
            control=("joint tokens", gradient_at_zero(joint)),
        )
    if chain == "none":
        for bits in (24, 16):
            task = Parity(bits, tuple(range(bits // 2)), chain_of="joint")
            yield m.claim(
                f"network/{bits} bits",
                f"A chain is what makes the parity of {bits // 2} of {bits} bits learnable: share of right answers by "
                f"joint tokens after {MANY} strings",
                lambda found, task=task: found.mean_answer(task, MANY // 5, 2),
                evidence="training",
                source="measured: a network learns the smaller parity without a chain",
                tolerance="learnable",
                predicted=0.6,
                side="at least",
                control=("a ReLU network without a chain", network_answers(task, MANY, NETWORK_SEEDS)),
            )


def _of_counting(m: Any) -> Iterator[Claim]:
    q, n = m.process.modulus, m.process.n_bits
    yield m.claim(
        "rank/states",
        f"The table of the newest token has as many directions as states, less one: singular value {q} over the "
        "one before, of the centred map",
        lambda found: found.next_singular_value(found.model.W.detach()),
        evidence="weights",
        source=SOURCE,
        tolerance="small singular value",
        predicted=0.02,
        side="at most",
        control=("Gaussian weights", m.next_singular_value(m.gaussian.W)),
    )
    between = tuple(range(2, n + 1))
    yield m.claim(
        "offsets/between",
        f"Without the tokens at offsets 2 to {n} the answers stay right: their share",
        lambda found: found.without(*between),
        evidence="causal",
        source=SOURCE,
        tolerance="answers",
        predicted=0.99,
        side="at least",
        control=("without the newest token", m.without(1)),
    )
    for name, offset, most in (("bit", n + 1, 1 / q + 0.05), ("state", 1, 0.6)):
        yield m.claim(
            f"offsets/{name}",
            f"Without the token at offset {offset}, the {name}, answers are lost: share that is right",
            lambda found, offset=offset: found.without(offset),
            evidence="causal",
            source=SOURCE,
            tolerance="answers",
            predicted=most,
            side="at most",
            control=("with all tokens", m.share(m.accuracy)),
        )


def _of_permutation(m: Any) -> Iterator[Claim]:
    angles = m.angles_of(m.process.permutation)
    yield m.claim(
        "permutation/argmax",
        "The likeliest successor in the map of the newest token is the permutation: share of the symbols",
        lambda found: (
            sum(a == b for a, b in zip(found.successors, found.process.permutation, strict=True)) / found.config.dim
        ),
        evidence="weights",
        source="one-hot sequences of a permutation are an orthogonal autoregression",
        tolerance="steps that read",
        predicted=1,
        control=("Gaussian weights", m.of(m.gaussian)),
    )
    yield m.claim(
        "permutation/angles",
        "The angles of the eigenvalues of the centred map are those of the permutation, largest difference in radians",
        lambda found: (found.angles - angles).abs().max().item(),
        evidence="weights",
        source="eigenvalues of a permutation are roots of unity",
        tolerance="angles",
        control=("Gaussian weights", m.of(m.gaussian)),
    )


def _of_products(m: Any) -> Iterator[Claim]:
    last = float(m.accuracy.by_token["correct"].to_numpy()[-1])
    if m.setting.separable:
        yield m.claim(
            "products/unseen",
            "A long chain of look-ups carries over to products that it was not trained on: share that is right",
            lambda found: found.share(found.accuracy),
            evidence="behaviour",
            source=SOURCE,
            tolerance="products",
            predicted=0.8,
            side="at least",
            control=("trained without a chain", m.mean_answer(m.setting.with_chain("none"), MANY, 2)),
        )
        return
    yield m.claim(
        "products/unseen",
        "Without a chain hardly a product that it was not trained on is right: their share",
        lambda found: found.share(found.accuracy),
        evidence="behaviour",
        source=SOURCE,
        tolerance="products",
        predicted=0.06,
        side="at most",
        control=("the last digit alone", last),
    )
    if m.record is not None:
        yield m.claim(
            "samples/short",
            f"{m.record.n_samples} products do not teach it, in no seed: mean share over {m.record.n_seeds} of unseen "
            "products that are right",
            lambda found: found.record.exact,
            evidence="training",
            source=SOURCE,
            tolerance="products",
            predicted=0.06,
            side="at most",
            control=("the last digit alone", last),
        )


def _of_characters(m: Any) -> Iterator[Claim]:
    seen = m.config.window
    if seen == 1:
        yield m.claim(
            "loss/bigrams",
            "From one character a linear predictor is the table of pairs: its loss on all that it was trained on over "
            "their entropy",
            lambda found: found.training_loss / found.grams(2, part="train", add=0.0),
            evidence="behaviour",
            source="the infimum of the loss is the conditional entropy of the sample",
            tolerance="entropy of pairs",
            predicted=1,
            control=("without a character", m.grams(1, part="train", add=0.0) / m.grams(2, part="train", add=0.0)),
        )
        return
    pairs, triples = m.grams(2), m.grams(3)
    yield m.claim(
        "loss/below pairs",
        f"From {seen} characters it predicts a held-out text better than the table of pairs, {pairs:.3f}, by .2 or "
        "more: loss per character",
        lambda found: found.held_out_loss,
        evidence="behaviour",
        source="measured; more context can only lower the least loss",
        tolerance="characters",
        predicted=pairs - 0.2,
        side="at most",
        control=("the table of pairs", pairs),
    )
    yield m.claim(
        "loss/above triples",
        f"A sum over characters has no conjunctions: it does not reach the table of triples, {triples:.3f}",
        lambda found: found.held_out_loss,
        evidence="behaviour",
        source="logits are sums over characters",
        tolerance="characters",
        predicted=triples,
        side="at least",
        control=("the table of four", m.grams(4)),
    )


def _of_noise(m: Any) -> Iterator[Claim]:
    seen, flip = m.config.n_sources, m.process.flip
    yield m.claim(
        "loss/window",
        f"The loss per token with the last {seen} in sight is that of the best linear map, {m.setting.minimum:.5f}",
        lambda found: Estimate.mean(found.contexts.losses(found.model(found.contexts.inputs))),
        evidence="behaviour",
        source=SOURCE,
        tolerance="noisy loss",
        predicted=m.setting.minimum,
        control=("the last two alone, or the rule itself", math.log(2) if seen > 2 else m.rule),
    )
    if seen > 2:
        yield m.claim(
            "reads/third",
            "The third newest token alone is read: its share of the squared norm of the centred maps",
            lambda found: found.share_of_third,
            evidence="weights",
            source=SOURCE,
            tolerance="share of norm",
            predicted=1,
            control=("Gaussian weights", m.of(m.gaussian)),
        )
        epsilon = 2 * flip * (1 - flip)
        yield m.claim(
            "reads/weight",
            "Its weight is the log-odds of two flips: half the difference of logits that the bit makes",
            lambda found: found.weight_of_third,
            evidence="weights",
            source=SOURCE,
            tolerance="log-odds",
            predicted=math.log((1 - epsilon) / epsilon),
            control=("the log-odds of one flip", math.log((1 - flip) / flip)),
        )


def _exhibits() -> tuple[Exhibit, ...]:
    from ar_interp import figures
    from ar_interp.probes.chain_edits import continue_chain
    from ar_interp.probes.chains import attribute, read_sources
    from ar_interp.studies.chains_measured import answers_by_samples
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
        code={"attributions": f"attribute(checkpoint.model, contexts[:{FEWER}])"},
        measure=lambda subject: (attribute(subject.model, contexts_of(subject)[:FEWER]),),
        before=f"from ar_interp.probes.chains import attribute\n{contexts}",
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
        before="from ar_interp.studies.chains_measured import answers_by_samples\n",
        applies=lambda subject: getattr(subject.setting, "family", "") == "parity",
    )
    return (
        exhibit(
            figures.edited_chain,
            continued,
            title="A chain to edit",
            page="Chains",
            structure="chain",
            evidence="behaviour",
            look="Type ids of the prompt and then as many tokens of the chain as you like, right or wrong: the model "
            "writes the rest. Change one bit of the last token given and look how far the error goes.",
            wide=True,
        ),
        exhibit(
            figures.read_positions,
            read,
            title="Which tokens each step reads",
            page="Chains",
            structure="reads",
            evidence="weights",
            look="Norms of the maps after centring, which is what a bias and softmax cannot undo. Look for a dark cell "
            "without a ring, and for a ring without one.",
            wide=True,
        ),
        exhibit(
            figures.chain_directions,
            directions,
            title="Directions of the maps",
            page="Chains",
            structure="rank",
            evidence="weights",
            look="Singular values of what stands in the dark cells. Look for the drop: a copy has one direction, a "
            "table of states one less than there are states.",
        ),
        exhibit(
            figures.attribution_agreement,
            attributions,
            title="Attribution, ablation and patching",
            page="Chains",
            structure="attribution",
            evidence="causal",
            look="Three ways to say what a token contributes, a point for each step and source. Look for a point off "
            "the line: there is none where logits are sums.",
        ),
        exhibit(
            figures.answers_by_samples,
            samples,
            title="Right answers against the number of chains trained on",
            page="Chains",
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
        tokens = next((other for other, chain in chains if chain.written[-1] != chain.right[-1]), tokens)
    return Control(
        name="tokens",
        label=f"Ids of the prompt, {config.n_prompt} of them, and of the chain as far as it is given",
        kind="sequence",
        default=tokens,
        high=config.dim - 1,
        meaning=f"Of the chain at most {config.n_chain - 1} tokens, all but the answer. {listed}.",
    )


def _recipe(
    summary: str, task: ChainTask, batch: int, *, window: int | None = None, dtype: str = "float64", **options: Any
) -> Recipe:
    """A predictor that minimises the loss of one sample of chains."""
    how: dict[str, Any] = {"objective": "sampled", "fresh": False, "optimizer": "lbfgs", "steps": 500, "ridge": RIDGE}
    return Recipe(
        summary=summary,
        config=NextTokenConfig.of(task, window=window, dtype=dtype),
        process=task,
        training=TrainConfig(**{**how, **options}, batch=batch, first_length=task.n_prompt, device="cpu"),
    )


def _parity(chain: str) -> Parity:
    return Parity(16, SUBSET, chain_of=chain)


STUDY = Study(
    name="chains",
    source="Malach 2023, arXiv 2309.06979",
    question="Which chains of thought can a linear next-token predictor learn, and where does it read them?",
    covers=lambda setting: isinstance(setting, ChainPredictors),
    recipes={
        "chain-parity-joint": _recipe(
            "Parity of eight hidden bits by (state, bit) tokens: 200 chains are enough, and the bits are read off.",
            _parity("joint"),
            200,
            n_seeds=10,
        ),
        "chain-parity-and-xor": _recipe(
            "The same by AND and XOR of two bits at a time, in a vocabulary of two symbols.",
            _parity("and-xor"),
            200,
            n_seeds=10,
        ),
        "chain-parity-digits": _recipe(
            "The same by the four binary digits of the number of ones: the shortest chain there is, of small margin.",
            _parity("digits"),
            400,
            n_seeds=10,
        ),
        "chain-parity-count": _recipe(
            "The same by the number of ones in one token: representable, and not learned to .99 from 3000 chains.",
            _parity("count"),
            3000,
            n_seeds=8,
        ),
        "chain-parity-running": _recipe(
            "The same by the running parity, no token of which but the first is a halfspace: chance.",
            _parity("running"),
            3000,
            n_seeds=8,
        ),
        "chain-parity-none": _recipe(
            "The same without a chain: chance.",
            _parity("none"),
            3000,
            n_seeds=8,
        ),
        **{
            f"chain-counting-q{q}": _recipe(
                f"Counting modulo {q} by one shared window: it reads two tokens, with {q - 1} direction(s) for {q} "
                "states.",
                Counting(10, modulus=q),
                200,
                window=11,
                ridge=1e-3,
                n_seeds=8,
            )
            for q in (2, 3, 5)
        },
        "chain-permutation": _recipe(
            "One cycle of seven symbols: the trained map is the permutation, its eigenvalues roots of unity.",
            Permuted((1, 2, 3, 4, 5, 6, 0)),
            60,
            window=1,
            ridge=8e-4,
        ),
        "chain-noisy-xor-k2": _recipe(
            "x_t = x_{t-1} xor x_{t-2} xor noise from the two tokens that make it: nothing can be learned.",
            NoisyXor(0.1, n_prompt=2, n_chain=20),
            5000,
            window=2,
            ridge=0.0,
            n_seeds=8,
        ),
        "chain-noisy-xor-k3": _recipe(
            "The same from three tokens: the third newest alone tells of the next, twice as noisily.",
            NoisyXor(0.1, n_prompt=3, n_chain=20),
            5000,
            window=3,
            ridge=0.0,
            n_seeds=8,
        ),
        "chain-products": _recipe(
            "Two digits times two digits by 35 look-ups: from 5000 products nearly all others are right.",
            Products(2, part="train"),
            5000,
            dtype="float32",
        ),
        "chain-products-none": _recipe(
            "The same without a chain: one product in thirty or forty is right.",
            Products(2, chain_of="none", part="train"),
            5000,
            n_seeds=8,
        ),
        "chain-text-k1": _recipe(
            "Characters of Python's help from the one before: the table of pairs, whose loss is their entropy.",
            Characters(1, part="train", sha256=HELP),
            5856,
            window=1,
            ridge=0.0,
            steps=200,
        ),
        "chain-text-k8": _recipe(
            "The same from the last eight: better than pairs, and short of the table of triples, which a sum is not.",
            Characters(8, part="train", sha256=HELP),
            16,
            window=8,
            ridge=0.0,
            fresh=True,
            optimizer="adam",
            lr=0.02,
            schedule="cosine",
            steps=2500,
        ),
    },
    claims=_claims,
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
        "permutation": Structure(
            title="One permutation",
            meaning="One-hot sequences s_{t+1} = P s_t are an orthogonal autoregression over a vocabulary: the map of "
            "the newest token is P, and its eigenvalues are roots of unity.",
        ),
    },
)
