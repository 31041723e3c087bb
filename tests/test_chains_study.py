"""Study of chains of thought: theory by task, claims of models alone, edited chains, figures, sabotaged models."""

import math
from dataclasses import replace

import pytest
import torch

import ar_interp as ari
from ar_interp import theory
from ar_interp.claims import subject_of
from ar_interp.models.next_token_config import NextTokenConfig
from ar_interp.probes.chain_edits import continue_chain
from ar_interp.probes.chains import chain_accuracy
from ar_interp.processes import Counting, NoisyXor, Parity, Permuted, Products
from ar_interp.sabotage import run_battery
from ar_interp.sabotage.chains import gauge
from ar_interp.studies import exhibits_of
from ar_interp.studies.chains.by_hand import counting, summing_columns
from ar_interp.studies.chains.measured import ChainsMeasured, answers_by_samples, gradient_at_zero, hardest_margin

JOINT = "chain-parity-joint"
SUBSET = (5, 1, 7)

pytestmark = pytest.mark.usefixtures("known_function")


@pytest.mark.parametrize(
    ("task", "window", "separable", "minimum", "sources"),
    [
        (Parity(9, SUBSET), None, True, 0, [{5}, {1, 9}, {7, 10}, {11}]),
        (Parity(9, SUBSET, chain_of="and-xor"), None, True, 0, [{5, 1}, {5, 1, 9}, {7, 10}, {7, 10, 11}]),
        (Parity(9, SUBSET, chain_of="digits"), None, True, 0, [{*SUBSET}] * 2),
        (Parity(9, tuple(range(8)), chain_of="digits"), None, True, 0, [set(), *[{*range(8)}] * 3]),
        (Parity(9, SUBSET, chain_of="count"), None, True, 0, [{*SUBSET}, {9}]),
        (Parity(9, SUBSET, chain_of="running"), None, False, 2 / 3 * math.log(2), None),
        (Parity(9, SUBSET, chain_of="none"), None, False, math.log(2), None),
        (Parity(9, SUBSET[:1], chain_of="none"), None, True, 0, [{5}]),
        (Parity(9, SUBSET), 4, None, None, None),
        (Counting(6), 7, True, 0, [{1, 7}]),
        (Counting(6), 6, False, None, None),
        (Permuted((1, 2, 0)), 1, True, 0, None),
        (NoisyXor(0.1, n_prompt=3), 3, False, theory.noisy_xor_loss(0.1, window=3), None),
        (NoisyXor(0.1, n_prompt=2), 3, False, None, None),
    ],
)  # fmt: skip
def test_theory_says_what_can_be_learned_and_where_it_is_read(task, window, separable, minimum, sources):
    setting = ari.setting_of(NextTokenConfig.of(task, window=window), task)
    assert setting.separable is separable
    assert setting.minimum == (None if minimum is None else pytest.approx(minimum))
    assert setting.sources == (None if sources is None else tuple(map(frozenset, sources)))


def test_running_parity_has_no_gradient_at_zero_but_for_its_first_token_and_digits_have_the_margin_of_theory():
    running = Parity(6, (*SUBSET[:2], 3), chain_of="running")
    assert gradient_at_zero(running, first=1) == 0
    assert gradient_at_zero(running) == 0.25
    for n in (3, 6, 7):
        digits = hardest_margin(Parity(n, chain_of="digits"))
        assert digits == pytest.approx(theory.parity_complexity("digits", n), rel=1e-3)
    widest = hardest_margin(Parity(6, chain_of="and-xor"))  # of the last pair, solved for apart
    assert widest == pytest.approx(16 / 0.3879**2, rel=1e-3)
    assert widest < theory.parity_complexity("and-xor", 6)


@pytest.mark.parametrize(
    ("task", "by_hand"),
    [
        (Parity(6, (4, 1, 2, 5), chain_of="count"), counting),
        (Products(1, chain_of="columns"), summing_columns),
        (Products(2, chain_of="columns"), summing_columns),
    ],
)
def test_weights_by_hand_write_chains_of_sums_without_a_mistake(task, by_hand):
    assert chain_accuracy(by_hand(task), task.contexts(400, seed=0)).free_running == 1


def test_running_parity_is_not_read_where_its_tokens_come_from_but_for_the_first():
    task = Parity(10, SUBSET)
    model = NextTokenConfig.of(task).build(task)
    running = ChainsMeasured(subject_of(model, n=400)).running
    assert running.process.chain_of == "running"
    assert running.setting.made_of == tuple(map(frozenset, [{5}, {1, 10}, {7, 11}]))
    assert running.reads_where_exact == pytest.approx(1 / 3)


def test_claims_of_a_model_alone_are_those_that_need_no_training():
    count = ari.load("chain-parity-count")
    claims = ari.verify(count.model, seed=1, n=400)
    assert {"chain/representable", "reads/sources", "attribution/exact"} < {claim.name for claim in claims}
    assert not any(claim.evidence == "training" for claim in claims)
    assert claims["chain/representable"].measured == 1
    assert claims["chain/representable"].control.measured < 0.99
    untrained = ari.verify(count.model.untrained(0), seed=1, n=400)
    assert untrained["reads/sources"].verdict == "fails"


def test_a_wrong_token_is_carried_to_the_answer():
    model = ari.load(JOINT).model
    tokens = model.process.contexts(1, seed=0).tokens[0].tolist()
    n = model.config.n_prompt
    kept = continue_chain(model, tokens[: n + 4])
    assert kept.written == kept.alone == kept.right
    assert continue_chain(model, torch.tensor(tokens[: n + 4])).written == kept.written
    state, bit = divmod(tokens[n + 3] - 2, 2)
    changed = continue_chain(model, [*tokens[: n + 3], 2 + 2 * (1 - state) + bit])
    assert [a == b for a, b in zip(changed.written, changed.right, strict=True)] == [True] * 3 + [False] * 6
    figure = ari.figures.edited_chain(changed)
    assert figure.layout.title.text.startswith(
        f"The chain is changed at 4: the model answers {changed.written[-1]}, not"
    )


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ([0] * 15, "tokens must be a prompt of 16 ids and at most 8 of the chain, 16 to 24 in all, got 15"),
        ([0] * 25, "16 to 24 in all, got 25"),
        ([0] * 15 + [6], "tokens must be at most 5, got 6"),
        ([], "got 0"),
    ],
)
def test_what_is_no_beginning_of_a_chain_is_refused(tokens, said):
    with pytest.raises(ValueError, match=said):
        continue_chain(ari.load(JOINT).model, tokens)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: hardest_margin(Parity(4, chain_of="running")), "chain of the task must be one of 'and-xor', 'digits'"),
        (lambda: hardest_margin(Parity(21, chain_of="digits")), "n_bits must be at most 20, got 21"),
        (lambda: gradient_at_zero(Parity(4), first=5), "first must be at most 4, got 5"),
        (lambda: answers_by_samples(Parity(4), samples=()), "samples several numbers"),
    ],
)
def test_numbers_of_the_study_are_asked_for_where_they_exist(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_a_model_is_verified_about_another_subset_and_fails():
    claims = ari.verify(ari.load(JOINT).model, process=Parity(16, range(8)), seed=0, n=100)
    assert claims["attribution/exact"].verdict == "holds"
    assert claims["chain/exact"].verdict == "fails"


def test_a_chain_that_does_not_follow_from_its_prompt_is_refused():
    with pytest.raises(ValueError, match="whose chains follow from their prompts, got NoisyXor"):
        continue_chain(ari.load("chain-noisy-xor-k3").model, [0, 1, 0])


@pytest.mark.parametrize("name", [JOINT, "chain-counting-q3", "chain-noisy-xor-k3"])
def test_figures_say_what_is_seen(name):
    checkpoint = ari.load(name)
    subject, kept, titles = replace(subject_of(checkpoint), run=None), {}, {}
    for exhibit in exhibits_of(subject):
        if exhibit.structure != "samples":
            values = {control.name: control.default for control in exhibit.controls(subject)}
            figure = exhibit.draw(subject, exhibit.result(subject, values, kept), **values)
            titles[exhibit.name] = figure.layout.title.text.replace("<br>", " ")
    assert ("edited_chain" in titles) == (name != "chain-noisy-xor-k3")
    assert titles["attribution_agreement"].startswith("Attribution, ablation and patching agree to")
    said = {JOINT: "x4, x15, z2", "chain-counting-q3": "−1, −11", "chain-noisy-xor-k3": "−3"}
    assert ("2 directions" in titles["chain_directions"]) == (name == "chain-counting-q3")
    assert titles["read_positions"].startswith(f"The largest maps stand at {said[name]}")


@pytest.mark.parametrize("symbol", [6, -1])
def test_ids_of_another_vocabulary_are_refused(symbol):
    model = ari.load(JOINT).model
    with pytest.raises(ValueError, match=r"tokens must be ids 0 to 5, got .* are they of another task"):
        model(torch.full((2, 16), symbol))


@pytest.mark.parametrize("seed", [2, 5])
def test_a_token_and_its_copy_are_read_alike_but_for_rounding(seed):
    subject = subject_of(gauge(ari.load(JOINT).model, ari.load(JOINT), seed), ari.load(JOINT).process, n=500, seed=0)
    assert ChainsMeasured(subject).reads_where_exact == 1


def test_answers_by_samples_tell_chains_apart():
    table = answers_by_samples(Parity(10, SUBSET), samples=(20, 100), n_seeds=1, chains=("none",))
    assert table["chain"].tolist() == ["joint", "joint", "none", "none"]
    assert table["answer"].to_numpy()[1] > 0.99
    assert table["answer"].to_numpy()[3] < 0.6
    assert ari.figures.answers_by_samples(table, 0.5).layout.title.text.startswith("After 100 chains")


def test_sabotaged_models_fail_where_they_must():
    names = ["chain, a subset shuffled", "chain, in another gauge"]
    result = run_battery(names, n=1000)
    assert result.false_positives.empty
    assert result.misses.empty
    assert set(result.frame[result.frame["expected"] == "fail"]["verdict"]) == {"fails"}
