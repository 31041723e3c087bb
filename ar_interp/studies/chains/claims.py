"""Claims about a next-token predictor: its chain, what it reads, its attribution, what samples teach."""

import math
from collections.abc import Iterator
from typing import Any

from ar_interp.claims import Claim, Estimate, Subject
from ar_interp.processes import Parity
from ar_interp.theory import parity_complexity

FEW, TOO_FEW, MANY = 200, 50, 3000  # chains to train on
NETWORK_SEEDS, WITHOUT_SEEDS = 3, 4
RIGHT: dict[str, Any] = {"tolerance": "answers", "predicted": 0.99, "side": "at least"}
CARRIED = 0.8  # of the products that were not trained on


def claims_of(subject: Subject) -> Iterator[Claim]:
    """The claims about a next-token predictor."""
    from ar_interp.studies.chains.measured import ChainsMeasured
    from ar_interp.studies.logged import log_claims

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
    if m.record is not None and setting.family in ("parity", "products"):
        yield from log_claims(m, "samples")


def _of_sums(m: Any) -> Iterator[Claim]:
    if not m.config.mlp:
        yield m.claim(
            "attribution/exact",
            "Logits are sums over tokens, so that direct attribution, ablation and patching agree on every token of "
            "every chain: their largest difference",
            lambda found: found.attributed.largest_difference,
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
        "The answers at the end of the chains that the model writes are right on fresh prompts: their share",
        lambda found: found.share(found.accuracy),
        evidence="behaviour",
        control=("without what the first step reads", m.without(*blind)),
        **RIGHT,
    )
    yield m.claim(
        "chain/exact",
        "Every token of these chains is right: share of chains",
        lambda found: found.share(found.accuracy, "free_running"),
        evidence="behaviour",
        control=("untrained", m.untrained),
        **RIGHT,
    )


def _of_reading(m: Any) -> Iterator[Claim]:
    steps = sum(map(bool, m.setting.sources))
    what = "hidden subset and the tokens of the chain" if steps > 1 else "newest token and the bit that it takes up"
    hidden = m.setting.family == "parity" and len(m.process.subset) > 1
    yield m.claim(
        "reads/sources",
        f"The largest centred maps stand where exact weights read, at the {what}, and nowhere else: share of the "
        f"{steps} step{'s' * (steps > 1)}",
        lambda found: found.reads_where_exact,
        evidence="weights",
        tolerance="steps that read",
        predicted=1,
        control=("running parity after 200 chains", m.running) if hidden else ("Gaussian weights", m.of(m.gaussian)),
    )


def _of_parity(m: Any) -> Iterator[Claim]:
    from ar_interp.studies.chains.by_hand import counting
    from ar_interp.studies.chains.measured import hardest_margin

    setting, chain = m.setting, m.setting.chain
    k, n = len(m.process.subset), m.process.n_bits
    if m.record is not None and chain in ("joint", "and-xor", "digits"):
        yield m.claim(
            "samples/enough",
            f"{m.record.n_samples} chains are enough in every seed: share of {m.record.n_seeds} seeds that write .99 "
            "of the chains without a mistake",
            lambda found: found.record.reaching(),
            evidence="training",
            tolerance="share of seeds",
            predicted=0.65,
            side="at least",
            control=(f"{TOO_FEW} chains", m.reaching(m.process, TOO_FEW)),
        )
    if m.record is not None and chain == "count":
        yield m.claim(
            "samples/short",
            f"The number of ones as one symbol can be read exactly, but {m.record.n_samples} chains are too few, for "
            f"want of margin: share of {m.record.n_seeds} seeds that write .99 of the chains without a mistake",
            lambda found: found.record.reaching(),
            evidence="training",
            tolerance="share of seeds",
            predicted=0.35,
            side="at most",
            control=("joint tokens after 200 chains", m.reaching(setting.with_chain("joint"), FEW)),
        )
    if chain == "count":
        yield _representable(m, "Weights by hand, argmax_v (v S - v^2 / 2), write every chain", counting(m.process))
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
            tolerance="margin",
            predicted=1,
            control=("of AND and XOR by turns, a longer chain", hardest_margin(setting.with_chain("and-xor")) / best),
        )


def _of_nothing_to_learn(m: Any) -> Iterator[Claim]:
    from ar_interp.studies.chains.measured import gradient_at_zero, network_answers

    chain, n = m.setting.chain, m.process.n_bits
    joint = m.setting.with_chain("joint")
    if m.record is not None:
        coins = m.process.n_chain - (chain == "running")
        yield m.claim(
            "samples/chance",
            f"{m.record.n_samples} chains teach the model nothing: mean share over {m.record.n_seeds} seeds of chains "
            f"without a mistake, within .03 of that of {coins} coin{'s' * (coins > 1)}",
            lambda found: found.record.exact,
            evidence="training",
            tolerance="chance",
            predicted=2.0**-coins,
            control=("joint tokens after 200 chains", m.reaching(joint, FEW)),
        )
    yield m.claim(
        "chain/chance",
        "The model's own answers are right by chance: their share",
        lambda found: found.share(found.accuracy),
        evidence="behaviour",
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
            source=f"the loss is convex; {m.SOURCE}",
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
        control=("without the newest token", m.without(1)),
        **RIGHT,
    )
    for name, offset, most in (("bit", n + 1, 1 / q + 0.05), ("state", 1, 0.6)):
        yield m.claim(
            f"offsets/{name}",
            f"Without the token at offset {offset}, the {name}, answers are lost: share that is right",
            lambda found, offset=offset: found.without(offset),
            evidence="causal",
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
    from ar_interp.studies.chains.by_hand import summing_columns

    chain, shares = m.setting.chain, m.accuracy.by_token["correct"].to_numpy()
    if chain == "lookups":
        carried = "A long chain of look-ups carries over to products that were not trained on"
        yield _unseen(m, carried, CARRIED, "at least", _without_chain(m))
        if m.record is not None:
            yield m.claim(
                "samples/enough",
                f"{m.record.n_samples} products are enough in every seed: share of {m.record.n_seeds} seeds that write "
                f"{CARRIED} of the unseen products without a mistake",
                lambda found: found.record.reaching(CARRIED),
                evidence="training",
                tolerance="share of seeds",
                predicted=0.65,
                side="at least",
                control=("trained without a chain", m.reaching(m.setting.with_chain("none"), MANY, CARRIED)),
            )
        return
    if chain == "none":
        most, lost = 0.06, "Without a chain hardly a product that was not trained on is right"
        control = ("the last digit alone", float(shares[-1]))
    else:
        most, lost = 0.2, "By the sums of columns few products that were not trained on are right"
        control = ("the pair that is least often right, before the sums", float(shares[: m.process.n_digits**2].min()))
    yield _unseen(m, lost, most, "at most", control)
    if m.record is not None:
        yield m.claim(
            "samples/short",
            f"{m.record.n_samples} products are not enough in any seed: mean share over {m.record.n_seeds} of unseen "
            "products that are right",
            lambda found: found.record.exact,
            evidence="training",
            tolerance="products",
            predicted=most,
            side="at most",
            control=control,
        )
    if chain == "columns":
        more = "The sums of columns are worth more than no chain"
        yield _unseen(m, more, 0.08, "at least", _without_chain(m), name="products/above none")
        yield _representable(
            m,
            "Weights by hand, argmax_v (v S - v^2 / 2) for a sum or a digit S, write every chain",
            summing_columns(m.process),
        )


def _unseen(
    m: Any, statement: str, predicted: float, side: str, control: tuple[str, Any], *, name: str = "products/unseen"
) -> Claim:
    return m.claim(
        name,
        f"{statement}: {'their share' if side == 'at most' else 'share that is right'}",
        lambda found: found.share(found.accuracy),
        evidence="behaviour",
        tolerance="products",
        predicted=predicted,
        side=side,
        control=control,
    )


def _without_chain(m: Any) -> tuple[str, Estimate]:
    return "trained without a chain", m.mean_answer(m.setting.with_chain("none"), MANY, WITHOUT_SEEDS)


def _representable(m: Any, statement: str, by_hand: Any) -> Claim:
    exact = m.of(by_hand)
    return m.claim(
        "chain/representable",
        f"{statement}: share of answers that are right",
        lambda _: exact.share(exact.accuracy),
        evidence="behaviour",
        control=("the trained weights", m.share(m.accuracy)),
        **RIGHT,
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
        f"From {seen} characters a sum predicts a held-out text better than the table of pairs, {pairs:.3f}, by .2 or "
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
            tolerance="share of norm",
            predicted=1,
            control=("Gaussian weights", m.of(m.gaussian)),
        )
        epsilon = 2 * flip * (1 - flip)
        yield m.claim(
            "reads/weight",
            "The weight of the third newest token is the log-odds of two flips: half the difference of logits that "
            "it makes",
            lambda found: found.weight_of_third,
            evidence="weights",
            tolerance="log-odds",
            predicted=math.log((1 - epsilon) / epsilon),
            control=("the log-odds of one flip", math.log((1 - flip) / flip)),
        )
