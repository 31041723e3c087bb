"""Chains of thought: tasks and their encoders, linear next-token predictors, and what is read off them."""

import math
from dataclasses import replace
from itertools import pairwise, product

import pytest
import torch

import ar_interp as ari
from ar_interp.checkpoints import load
from ar_interp.estimators import NGrams, ParityElimination, eliminate
from ar_interp.models.next_token import HookedNextToken
from ar_interp.models.next_token_config import NextTokenConfig
from ar_interp.probes.chains import attribute, chain_accuracy, read_sources
from ar_interp.processes import ChainTask, Characters, Counting, NoisyXor, Parity, Permuted, Products
from ar_interp.processes.chain_tasks import CHAINS
from ar_interp.training.batched import SumOfTokens

SUBSET = (5, 1, 7, 2, 8, 4)
TASKS = {
    **{chain: Parity(10, SUBSET, chain_of=chain) for chain in CHAINS},
    "counting": Counting(6, modulus=3),
    "permuted": Permuted((2, 0, 1, 4, 3)),
    "noisy xor": NoisyXor(0.2, n_prompt=4),
}
CHAINS_OF_NONE = TASKS["none"].contexts(5, seed=0)
TRAINING = {"objective": "sampled", "fresh": False, "optimizer": "adam", "lr": 0.05, "device": "cpu", "progress": False}


def trained(task: ChainTask, m: int, *, steps: int = 200, window: int | None = None, seed: int = 0) -> HookedNextToken:
    """A predictor of the task, from m chains."""
    config = NextTokenConfig.of(task, window=window)
    options = {key: value for key, value in TRAINING.items() if key != "progress"}
    training = ari.TrainConfig(batch=m, steps=steps, first_length=task.n_prompt, seed=seed, **options)
    return ari.train(config, task, training, progress=False).model


def filled(task: ChainTask, window: int | None = None) -> HookedNextToken:
    """A predictor with random weights."""
    model = NextTokenConfig.of(task, window=window).build(task)
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize("name", TASKS)
def test_names_and_ids_go_both_ways_and_the_same_seed_gives_the_same_chains(name):
    task = TASKS[name]
    chains = task.contexts(20, seed=0)
    assert chains.tokens.shape == (20, task.n_prompt + task.n_chain)
    assert torch.equal(chains.tokens, task.contexts(20, task.length, seed=0).tokens)
    assert chains.tokens.min() >= 0
    assert chains.tokens.max() < task.dim
    assert torch.equal(task.encode(task.decode(chains.tokens[3])), chains.tokens[3])
    assert chains.text(3).split(" ")[task.n_prompt] == "|"
    assert type(task).find(task.kind)(**{k: v for k, v in task.to_dict().items() if k != "kind"}) == task


@pytest.mark.parametrize("chain", CHAINS)
def test_every_chain_ends_in_the_parity_of_the_subset_and_is_what_its_name_says(chain):
    task = TASKS[chain]
    chains = task.contexts(200, seed=1)
    prompts, tokens = chains.tokens[:, :10], [task.decode(row[10:]) for row in chains.tokens]
    for prompt, row in zip(prompts.tolist(), tokens, strict=True):
        bits = [prompt[place] for place in SUBSET]
        states = [sum(bits[:t]) % 2 for t in range(len(bits) + 1)]
        expected = {
            "none": [],
            "running": states[1:-1],
            "and-xor": [
                x for t in range(1, len(bits)) for x in (states[t] & bits[t], states[t + 1])
            ][:-1],
            "joint": [f"{state},{bit}" for state, bit in zip(states, bits, strict=False)],
            "digits": list(f"{sum(bits):0{ari.theory.parity_length(len(bits))}b}")[:-1],
            "count": [f"#{sum(bits)}"],
        }[chain]  # fmt: skip
        assert row == [*map(str, expected), str(sum(bits) % 2)]


def test_counting_stands_where_a_window_finds_it():
    task = TASKS["counting"]
    for row in task.contexts(50, seed=0).tokens:
        names = task.decode(row)
        state = 0
        for place in range(6):
            token = names[task.n_prompt + place]
            assert token == f"{state},{names[task.n_prompt + place - (task.n_bits + 1)]}"
            state = (state + int(token[-1])) % 3
        assert names[-1] == f"#{state}"
        assert names[len(names) - 1 - (task.n_bits + 1)] == "="


@pytest.mark.parametrize(("name", "window"), [("joint", None), ("counting", 7), ("counting", 3), ("noisy xor", 6)])
def test_logits_are_the_sum_over_tokens_and_later_tokens_change_nothing(name, window):
    task = TASKS[name]
    model, chains = filled(task, window), task.contexts(5, seed=0)
    logits = model(chains.inputs)
    for row in range(2):
        for step in range(task.n_chain):
            position = task.n_prompt - 1 + step
            seen = chains.tokens[row, : position + 1].tolist()
            if window is None:
                terms = [model.W[step, source, symbol] for source, symbol in enumerate(seen)]
                bias = model.b[step]
            else:
                terms = [model.W[offset, symbol] for offset, symbol in enumerate(reversed(seen)) if offset < window]
                bias = model.b
            assert torch.allclose(logits[row, position], sum(terms) + bias)
            assert torch.allclose(model(chains.inputs[:1, : position + 1])[0, -1], logits[0, position])
    assert (logits[:, : task.n_prompt - 1] == 0).all()


@pytest.mark.parametrize(("name", "window"), [("joint", None), ("counting", 7), ("counting", 3)])
def test_attribution_ablation_and_patching_agree_to_rounding(name, window):
    task = TASKS[name]
    found = attribute(filled(task, window), task.contexts(20, seed=0))
    assert found.direct.abs().mean() > 0.1
    assert found.largest_difference < 1e-12


def test_a_free_chain_is_right_as_often_as_no_token_is_wrong():
    task = TASKS["joint"]
    found = chain_accuracy(trained(task, 20), task.contexts(1000, seed=2**41))
    assert found.free_running == found.teacher_forced
    assert found.answer >= found.free_running
    assert 0.1 < found.teacher_forced < 0.9
    assert found.teacher_forced <= found.by_token["correct"].min()


def test_chains_of_one_step_at_a_time_are_learned_and_running_parity_is_not():
    accuracies = {
        chain: chain_accuracy(trained(TASKS[chain], 400, steps=80), TASKS[chain].contexts(1000, seed=2**41)).answer
        for chain in ("joint", "and-xor", "digits", "running", "none")
    }
    assert min(accuracies[chain] for chain in ("joint", "and-xor", "digits")) > 0.97
    assert max(accuracies[chain] for chain in ("running", "none")) < 0.5 + 5 * 0.5 / 1000**0.5 + 0.05


def test_the_hidden_subset_is_read_off_the_centred_norms_in_every_gauge():
    task = TASKS["joint"]
    model, chains = trained(task, 400), task.contexts(300, seed=0)
    found = read_sources(model, chains, prompt_only=True)
    assert tuple(found.first[: len(SUBSET)].tolist()) == SUBSET
    assert found.margin[: len(SUBSET)].min() > 1.5
    with torch.no_grad():  # what softmax and the bias undo
        moved = filled(task)
        model.W += moved.W.mean(2, keepdim=True) + moved.W.mean(3, keepdim=True)
    again = read_sources(model, chains, prompt_only=True)
    assert torch.allclose(again.singular_values, found.singular_values, atol=1e-9)
    untrained = read_sources(filled(task), chains, prompt_only=True)
    assert tuple(untrained.first[: len(SUBSET)].tolist()) != SUBSET


@pytest.mark.parametrize("modulus", [2, 3])
def test_a_shared_map_has_one_direction_less_than_there_are_states_and_reads_two_tokens(modulus):
    task = Counting(6, modulus=modulus)
    model, fresh = trained(task, 200, window=7, steps=150), task.contexts(1000, seed=2**41)
    assert chain_accuracy(model, fresh).answer > 0.99
    found = read_sources(model, fresh, symbols=[name for name in task.vocabulary if "," in name])
    assert found.rank(0, below=0.1) == modulus - 1
    assert read_sources(model, fresh).first.tolist() == [0]
    assert chain_accuracy(model, fresh, without=(2, 3, 4, 5, 6)).answer > 0.99
    for offset in (1, 7):
        assert chain_accuracy(model, fresh, without=(offset,)).answer < 0.75


def test_the_argmax_of_a_trained_map_is_the_permutation_and_its_angles_are_roots_of_unity():
    task = Permuted((1, 2, 3, 4, 5, 6, 0))
    model = trained(task, 60, window=1)
    assert model.W[0].argmax(-1).tolist() == list(task.permutation)
    centred = model.W[0] - model.W[0].mean(0) - model.W[0].mean(1, keepdim=True) + model.W[0].mean()
    eigenvalues = torch.linalg.eigvals(centred.detach().mT)
    angles = eigenvalues[eigenvalues.abs() > 1e-6].angle().abs().sort().values  # 0 is the gauge's
    roots = torch.tensor([2 * math.pi * j / 7 for j in (1, 1, 2, 2, 3, 3)], dtype=torch.float64)
    assert torch.allclose(angles, roots, atol=0.05)


def test_noisy_xor_takes_three_tokens_to_predict_and_then_the_loss_of_theory():
    for window, tolerance in ((2, 0.01), (4, 0.02)):
        task = NoisyXor(0.1, n_prompt=4, n_chain=12)
        fresh = task.contexts(2000, seed=2**41)
        model = trained(task, 1000, window=window, steps=80)
        loss = fresh.losses(model(fresh.inputs)).mean().item()
        assert loss == pytest.approx(ari.theory.noisy_xor_loss(0.1, window=window), abs=tolerance)


KINDS = {
    "absolute": (TASKS["joint"], {}),
    "window": (TASKS["counting"], {"window": 7}),
    "short prompt": (TASKS["noisy xor"], {"window": 6}),
    "rank": (TASKS["joint"], {"rank": 3}),
    "rank of a window": (TASKS["counting"], {"window": 7, "rank": 3}),
    "mlp": (TASKS["joint"], {"rank": 5, "mlp": True}),
    "mlp of a window": (TASKS["counting"], {"window": 7, "rank": 5, "mlp": True}),
    "alphabets": (TASKS["joint"], {"alphabets": [(0, 2)] * 10 + [(2, 6)] * 6 + [(0, 2)]}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_training_computes_what_the_hooked_model_does(kind):
    task, options = KINDS[kind]
    config = NextTokenConfig.of(task, **options)
    generator = torch.Generator().manual_seed(0)
    parameters = {
        name: torch.randn(2, *shape, dtype=torch.float64, generator=generator)
        for name, shape in config.parameter_shapes.items()
    }
    tokens = torch.stack([task.contexts(5, seed=seed).inputs for seed in (0, 1)])
    found = SumOfTokens(config).predict(parameters, tokens)
    for k, predictions in enumerate(found):
        model = config.build(task)
        model.load_state_dict({name: members[k] for name, members in parameters.items()})
        assert (predictions - model(tokens[k])).abs().max() < 1e-12
        written = model.generate(tokens[k, :, : task.n_prompt])
        assert torch.equal(model(written[:, :-1])[:, task.n_prompt - 1 :].argmax(-1), written[:, task.n_prompt :])


def test_a_model_with_relus_has_no_attribution_by_sums():
    task = TASKS["joint"]
    config = NextTokenConfig.of(task, rank=4, mlp=True)
    model, chains = config.build(task), task.contexts(5, seed=0)
    for probe in (attribute, read_sources):
        with pytest.raises(ValueError, match="no sums over tokens: it has an MLP"):
            probe(model, chains)
    assert chain_accuracy(model, chains).n == 5
    of_rank = NextTokenConfig.of(task, rank=4).build(task)
    assert attribute(of_rank, chains).largest_difference < 1e-12
    assert torch.linalg.matrix_rank(of_rank.maps).max() == 4


def test_lbfgs_ends_at_the_minimum_of_the_loss_on_each_members_own_sample_with_the_ridge():
    task = TASKS["joint"]
    options = {"objective": "sampled", "fresh": False, "optimizer": "lbfgs", "device": "cpu", "first_length": 10}
    training = ari.TrainConfig(batch=40, steps=300, ridge=1e-3, seed=3, n_seeds=2, **options)
    run = ari.train(NextTokenConfig.of(task), task, training, progress=False)
    for k in range(2):
        model = NextTokenConfig.of(task).build(task)
        model.load_state_dict({name: members[k] for name, members in run.ensemble.items()})
        sample = task.contexts(40, seed=3 + k)
        loss = task.n_chain * sample.losses(model(sample.inputs)).mean()
        (loss + 1e-3 * sum(W.square().sum() for W in model.parameters())).backward()
        assert max(W.grad.abs().max() for W in model.parameters()) < 1e-6
        other = task.contexts(40, seed=4 - k)
        assert loss < task.n_chain * other.losses(model(other.inputs)).mean()


def test_it_is_saved_and_loaded_as_any_kind(tmp_path):
    task = TASKS["joint"]
    config = NextTokenConfig.of(task)
    training = ari.TrainConfig(objective="sampled", batch=50, steps=5, optimizer="adam", first_length=10, n_seeds=2)
    run = ari.train(config, task, training, progress=False)
    loaded = load(run.save(tmp_path / "chain"))
    chains = task.contexts(5, seed=0)
    assert loaded.process == task
    assert torch.equal(loaded.model(chains.inputs), run.model(chains.inputs))


@pytest.mark.parametrize("chain", ["none", "columns", "lookups"])
@pytest.mark.parametrize("n_digits", [1, 2, 3])
def test_products_are_right_and_every_token_is_in_its_alphabet(n_digits, chain):
    task = Products(n_digits, chain_of=chain)
    chains = task.contexts(30, seed=0)
    for row in chains.tokens:
        names = task.decode(row)
        a, b = int("".join(names[:n_digits])), int("".join(names[n_digits : 2 * n_digits]))
        assert "".join(names[-2 * n_digits :]) == f"{a * b:0{2 * n_digits}d}"
        assert task.product(row[None]).item() == a * b
        assert torch.equal(task.prompt(a, b), row[: task.n_prompt])
        for (first, end), symbol in zip(task.alphabets, row.tolist(), strict=True):
            assert first <= symbol < end
    assert task.n_chain == {"none": 2 * n_digits, "columns": n_digits**2 + 4 * n_digits - 2}.get(chain, task.n_chain)


def test_parts_of_finite_tasks_share_nothing_and_come_once_each():
    train, held_out = (Products(part=part).contexts(2500, seed=0).tokens[:, :4] for part in ("train", "held-out"))
    seen = {tuple(row) for row in train.tolist()}
    assert len(seen) == 2500
    assert not seen & {tuple(row) for row in held_out.tolist()}
    assert Products(part="train").unseen == Products(part="held-out")
    text = Characters(3, n_chain=50, part="train")
    windows = text.contexts(text.n_windows, seed=0).tokens
    assert len({tuple(row) for row in windows.tolist()}) > 0.95 * text.n_windows
    everything = Characters(3).ids
    assert torch.equal(torch.cat([text.ids, text.unseen.ids]), everything)
    assert text.decode(everything[:4]) == ["t", "h", "e", "blank"]
    assert len(text.vocabulary) == 37
    predicted = torch.sort(windows[:, 3:].flatten()).values
    assert torch.equal(predicted, torch.sort(text.ids[3 : 3 + len(predicted)]).values)
    with pytest.raises(ValueError, match="sha256 must be that of the text"):
        Characters(sha256="0" * 64).contexts(2, seed=0)
    with pytest.raises(ValueError, match="what follows a prompt stands in the text alone"):
        text.chain(windows[:, :3], torch.Generator())


def test_a_table_of_products_is_learned_by_look_ups_with_its_alphabets():
    task = Products(1, chain_of="lookups")
    options = {"objective": "sampled", "fresh": False, "optimizer": "lbfgs", "device": "cpu", "first_length": 2}
    training = ari.TrainConfig(batch=100, steps=60, ridge=1e-4, **options)
    run = ari.train(NextTokenConfig.of(task), task, training, progress=False)
    fresh = task.contexts(100, seed=5)
    assert chain_accuracy(run.model, fresh).answer == 1
    assert run.history["loss_min"].iloc[-1] == pytest.approx(
        fresh.losses(run.model(fresh.inputs)).mean().item()
        + 1e-4 * sum(W.square().sum() for W in run.model.parameters()).item() / task.n_chain,
        rel=1e-6,
    )
    assert attribute(run.model, fresh[:20]).largest_difference < 1e-12


def test_elimination_learns_a_parity_and_says_what_is_left_open():
    rows = torch.tensor(list(product([False, True], repeat=4)))
    generator = torch.Generator().manual_seed(0)
    for n_rows in (2, 3, 4, 6):
        A = torch.randint(0, 2, (n_rows, 4), generator=generator).bool()
        for b in torch.tensor(list(product([False, True], repeat=n_rows))):
            solved = ((A[None].int() * rows[:, None].int()).sum(2) % 2 == b.int()).all(1)
            found = eliminate(A, b)
            assert found.consistent == bool(solved.any())
            if found.consistent:
                assert (rows[solved] == found.x).all(1).any()
                assert solved.sum() == 2 ** (4 - found.rank)
    task = TASKS["none"]
    found = ParityElimination.fit(task.contexts(30, seed=0))
    assert found.subset == tuple(sorted(SUBSET))
    fresh = task.contexts(500, seed=1)
    assert torch.equal(found(fresh.tokens[:, :10]), fresh.answers)
    wrong = fresh.tokens.clone()
    wrong[:50, -1] ^= 1
    assert not ParityElimination.fit(replace(fresh, tokens=wrong)).solution.consistent
    with pytest.raises(ValueError, match="chains must have bits"):
        ParityElimination.fit(TASKS["permuted"].contexts(5, seed=0))


def test_elimination_finds_the_subset_as_often_as_random_equations_have_full_rank():
    n, m, repeats = 6, 8, 2000
    generator = torch.Generator().manual_seed(1)
    A = torch.randint(0, 2, (repeats, m, n), generator=generator).bool()
    unique = sum(eliminate(own, own[:, 0]).rank == n for own in A) / repeats
    expected = math.prod(1 - 2.0**-i for i in range(m - n + 1, m + 1))
    assert abs(unique - expected) < 4 * (expected * (1 - expected) / repeats) ** 0.5


def test_counts_of_n_grams_have_the_entropy_of_the_sample_and_no_window_of_one_token_has_less():
    text = torch.randint(0, 3, (400,), generator=torch.Generator().manual_seed(0))
    pairs = [(a, b) for a, b in pairwise(text.tolist())]
    by_hand = [-math.log(pairs.count(pair) / sum(first == pair[0] for first, _ in pairs)) for pair in pairs]
    assert torch.allclose(NGrams.fit(text, n=2, n_symbols=3, add=0).losses(text), torch.tensor(by_hand).double())
    assert NGrams.fit(text, n=1, n_symbols=3).losses(text).shape == (400,)
    assert NGrams.fit(text[:5], n=3, n_symbols=3).probabilities.sum(-1).allclose(torch.ones(3, 3).double())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Parity(4, (0, 4)), "subset must be at most 3, got 4"),
        (lambda: Parity(4, (0, 0)), "subset must name each bit once"),
        (lambda: Parity(4, ()), "subset is empty; leave it out for all bits"),
        (lambda: Parity(4, chain_of="long"), "chain_of must be one of 'none'"),
        (lambda: Counting(4, modulus=1), "modulus must be at least 2"),
        (lambda: Products(4), "n_digits must be at most 3"),
        (lambda: Products(2).prompt(100, 3), "a must be at most 99, got 100"),
        (lambda: Permuted((0, 2)), r"permutation must hold each of 0..n-1 once"),
        (lambda: Permuted((True, False)), "permutation must be an integer, got True"),
        (lambda: TASKS["joint"].contexts(5, sede=3), "the name of an option must be one of 'seed', .* got 'sede'"),
        (lambda: replace(TASKS["joint"].contexts(5, seed=0), n_prompt=17), "n_prompt must be at most 16, got 17"),
        (lambda: replace(TASKS["joint"].contexts(5, seed=0), vocabulary=("0", "1")), "tokens must be ids 0 to 1"),
        (lambda: TASKS["joint"].decode(torch.tensor([0, -1])), "ids must be ids 0 to 5, got -1 to 0"),
        (lambda: Products(1).product(torch.full((2, 4), 10)), "the answer in tokens must be ids 0 to 9"),
        (lambda: Products(1).product(torch.zeros(2, 1).long()), "the tokens of a row must be at least 2, got 1"),
        (lambda: CHAINS_OF_NONE.losses(torch.zeros(5, 10, 2), first_length=11), "first_length must be at most 10"),
        (lambda: chain_accuracy(filled(TASKS["none"]), CHAINS_OF_NONE[:0]), "at least 1 sequence for this probe"),
        (lambda: read_sources(filled(TASKS["none"]), CHAINS_OF_NONE).rank(-1), "source must be at least 0, got -1"),
        (lambda: NGrams.fit(torch.tensor([0, 1, 5]), n=2, n_symbols=3), "tokens must be ids 0 to 2, got 0 to 5"),
        (lambda: NGrams.fit(torch.tensor([0, 1]), n=3, n_symbols=3), "the number of tokens must be at least 3, got 2"),
        (
            lambda: ParityElimination.fit(TASKS["none"].contexts(9, seed=0))(torch.ones(2, 3).long()),
            "prompts must be of 10 bits, as those that it was fitted to, got 3",
        ),
        (
            lambda: attribute(filled(TASKS["joint"]), Parity(10, (0, 1, 2, 3, 4, 5)).contexts(2, seed=0)),
            "contexts must be of the model's own task, Parity",
        ),
        (
            lambda: chain_accuracy(filled(TASKS["joint"]), TASKS["none"].contexts(2, seed=0)),
            "contexts must have 6 symbols and 10 tokens of a prompt among 17, got 2, 10 and 11",
        ),
        (
            lambda: read_sources(filled(TASKS["joint"]), TASKS["joint"].contexts(9, seed=0), symbols=()),
            "symbols is empty; leave it out for all",
        ),
        (lambda: NoisyXor(1.5), "flip must be at most 1"),
        (lambda: TASKS["joint"].contexts(5, 3, seed=0), "length must be 16, 10"),
        (lambda: TASKS["joint"].contexts(5, seed=0).pairs(), "no pairs of vectors"),
        (lambda: TASKS["joint"].encode(["2"]), "symbols must be of 0, 1"),
        (
            lambda: TASKS["joint"].contexts(5, seed=0).losses(torch.zeros(5, 16, 6), first_length=2),
            "first_length must be at least 10, the tokens of the prompt",
        ),
        (lambda: NextTokenConfig.of(TASKS["joint"], mlp=True), "mlp needs rank"),
        (lambda: NextTokenConfig.of(TASKS["joint"], alphabets=[(0, 2)] * 3), r"alphabets must hold \(first, end\) for"),
        (lambda: NextTokenConfig.of(TASKS["joint"], alphabets=[(0, 7)] * 17), "alphabets must be at most 6, got 7"),
        (lambda: NextTokenConfig.of(TASKS["joint"], window=3, alphabets=[(0, 2)] * 17), "leave window and rank out"),
        (lambda: NextTokenConfig.of(TASKS["joint"], window=40), "window must be at most 16"),
        (lambda: NextTokenConfig.of(TASKS["joint"]).build(TASKS["count"]), r"process must have 6 symbols and 10 \+ 7"),
        (lambda: filled(TASKS["joint"])(torch.zeros(2, 3, dtype=torch.long)), "tokens must be a prompt of 10"),
        (lambda: filled(TASKS["joint"])(torch.zeros(12, dtype=torch.long)), "tokens must be a tensor of integer ids"),
        (
            lambda: chain_accuracy(filled(TASKS["counting"], 3), TASKS["counting"].contexts(5, seed=0), without=(4,)),
            "without must be at most 3",
        ),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_refused_by_name(call, said):
    with pytest.raises(ValueError, match=said):
        call()
