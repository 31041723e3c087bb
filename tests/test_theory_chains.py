"""Lengths, margins and losses of chains against every halfspace, every input and linear programs."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

import ar_interp as ari


def bits(n: int) -> np.ndarray:
    """All inputs, as -1 and 1."""
    return np.array(list(itertools.product((-1, 1), repeat=n)))


def digits(inputs: np.ndarray) -> np.ndarray:
    """The binary digits of the number of ones, top first, as -1 and 1."""
    ones, length = (inputs > 0).sum(1), ari.theory.parity_length(inputs.shape[1])
    return 2 * (ones[:, None] >> np.arange(length - 1, -1, -1) & 1) - 1


def and_xor(inputs: np.ndarray) -> np.ndarray:
    """AND and XOR of the parity so far and the next bit, as -1 and 1."""
    state, tokens = inputs[:, 0] > 0, []
    for column in inputs.T[1:] > 0:
        tokens += [state & column, state ^ column]
        state = tokens[-1]
    return 2 * np.stack(tokens, 1) - 1


def squared_margin(features: np.ndarray, labels: np.ndarray) -> float:
    """max over |w| = 1 of the squared least label * <w, features>; 0 where no halfspace separates."""
    n = features.shape[1]
    separated = linprog(np.zeros(n), -labels[:, None] * features, -np.ones(len(features)), bounds=[(None, None)] * n)
    if separated.status == 2:
        return 0.0
    rule = {"type": "ineq", "fun": lambda w: labels * (features @ w) - 1, "jac": lambda w: labels[:, None] * features}
    found = minimize(lambda w: w @ w, separated.x, jac=lambda w: 2 * w, constraints=rule, method="SLSQP")
    return 1 / found.fun


def complexities(inputs: np.ndarray, chain: np.ndarray) -> list[float]:
    """(R / gamma)^2 of each token, from all bits, the tokens before it and a constant; inf where it is no halfspace."""
    found = []
    for t, labels in enumerate(chain.T):
        features = np.hstack([inputs, chain[:, :t], np.ones((len(inputs), 1))])
        margin = squared_margin(features, labels)
        found.append(features.shape[1] / margin if margin else math.inf)
    return found


@pytest.mark.parametrize("n", [2, 3, 5, 7])
def test_digits_of_the_count_are_halfspaces_and_end_in_the_parity(n):
    inputs = bits(n)
    chain = digits(inputs)
    assert np.array_equal(chain[:, -1] > 0, (inputs > 0).sum(1) % 2 == 1)
    worst, bound = max(complexities(inputs, chain)), ari.theory.parity_complexity("digits", n)
    assert worst <= bound * (1 + 1e-6)
    if n in (3, 7):  # 2^T - 1: the weights by hand have the largest margin
        assert worst == pytest.approx(bound, rel=1e-5)
        assert bound == {3: 35, 7: 270}[n]


@pytest.mark.parametrize("n", [3, 5])
def test_and_and_xor_by_turns_are_halfspaces_of_a_margin_that_does_not_shrink(n):
    inputs = bits(n)
    found = complexities(inputs, and_xor(inputs))
    assert max(found) <= ari.theory.parity_complexity("and-xor", n) * (1 + 1e-6)


def test_the_running_parity_is_no_chain_of_halfspaces():
    inputs = bits(4)
    chain = np.stack([inputs[:, : t + 1].prod(1) for t in range(4)], 1)
    assert [math.isinf(value) for value in complexities(inputs, chain)] == [False, True, True, True]


def test_a_symbol_of_state_and_bit_is_read_off_in_a_margin_that_does_not_shrink():
    for n in (2, 8):
        gap, square = (
            1.0,
            4.0,
        )  # of the answer's two scores, looked up in one of four symbols; |w|^2 of their difference
        assert ari.theory.parity_complexity("joint", n) == 2 * n * square / gap**2


def test_the_length_is_that_of_the_digits_and_an_upper_bound_for_more_symbols():
    for n in range(1, 200):
        assert ari.theory.parity_length(n) == math.ceil(math.log2(n + 1)) == len(f"{n:b}")
        assert ari.theory.parity_length(n, 3) <= ari.theory.parity_length(n)
    assert ari.theory.parity_length(10, 6) == 2
    assert ari.theory.parity_length(2**17 - 1) == 17


def test_one_halfspace_then_the_parity_fails_for_four_bits_and_works_for_three():
    """Every halfspace as first token, by integer weights up to 3, which give all those of four bits."""
    for n, possible in ((3, True), (4, False)):
        inputs = bits(n)
        parity = (-1) ** ((inputs > 0).sum(1) + 1)
        firsts = {
            tuple(np.sign(inputs @ np.array(w) + b))
            for w in itertools.combinations_with_replacement(range(4), n)  # signs and order of the bits are symmetries
            for b in np.arange(-8.5, 9)
        }
        solved = [
            squared_margin(np.hstack([inputs, np.array(first)[:, None], np.ones((2**n, 1))]), parity) > 1e-9
            for first in firsts
        ]
        assert any(solved) == possible


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_best_agreement_of_a_halfspace_with_the_parity(n):
    """A halfspace's agreement is at most 1/2 + its top Fourier coefficient / 2; thresholds of the count attain it."""
    inputs = bits(n)
    parity = inputs.prod(1)
    weights = np.random.default_rng(0).normal(size=(2000, n + 1))
    found = np.sign(inputs @ weights[:, :n].T + weights[:, n])
    counted = np.sign(inputs.sum(1)[:, None] + np.arange(-n - 0.5, n + 1))
    best = max(
        max((part == parity[:, None]).mean(0).max(), (part != parity[:, None]).mean(0).max())
        for part in (found, counted)
    )
    assert best == pytest.approx(ari.theory.best_halfspace_agreement(n), abs=1e-12)
    assert ari.theory.best_halfspace_agreement(2000) == pytest.approx(
        0.5 + float(math.comb(1999, 999) * 10**6 // 2**2000) / 10**6, abs=2e-6
    )


def test_gradients_say_little_of_which_parity_it_is():
    torch.manual_seed(0)
    n, net = 6, torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1)).double()
    inputs = torch.from_numpy(bits(n)).double()
    rows = torch.stack(
        [torch.cat([g.reshape(-1) for g in torch.autograd.grad(net(x).sum(), list(net.parameters()))]) for x in inputs]
    )
    subsets = torch.from_numpy(np.array(list(itertools.product((False, True), repeat=n))))
    characters = torch.stack([inputs[:, subset].prod(1) for subset in subsets])
    per_parity = (characters @ rows / 2**n).square().sum(1)
    assert per_parity.mean().item() == pytest.approx(
        ari.theory.parity_gradient(rows.square().sum(1).mean().item(), n), rel=1e-12
    )


def test_rank_of_random_bits_over_two_elements():
    for n, m in itertools.product((1, 2, 3), (1, 2, 3, 4)):
        full = 0
        for rows in itertools.product(range(2**n), repeat=m):
            spanned = {0}
            for row in rows:
                spanned |= {row ^ other for other in spanned}
            full += len(spanned) == 2**n
        assert ari.theory.elimination_probability(n, m) == pytest.approx(full / 2 ** (n * m), abs=1e-12)
    assert round(ari.theory.elimination_probability(16, 20), 4) == 0.9388


@pytest.mark.parametrize("window", [1, 2, 3, 5])
@pytest.mark.parametrize("flip", [0.1, 0.3])
def test_the_best_linear_window_on_noisy_xor(flip, window):
    """The exact law of window + 1 tokens in a row: the first two are uniform."""
    rows = bits(max(window + 1, 2))
    unflipped = rows[:, 2:] * rows[:, 1:-1] * rows[:, :-2] < 0  # the xor of three, as -1 and 1, is their product
    law = np.where(unflipped, 1 - flip, flip).prod(1) / 4
    features, label = rows[:, -1 - window : -1], rows[:, -1]
    assert law.sum() == pytest.approx(1)

    def loss(w: np.ndarray) -> float:
        return float(law @ np.logaddexp(0, -label * (features @ w)))

    found = minimize(loss, np.zeros(window), tol=1e-14)
    assert found.fun == pytest.approx(ari.theory.noisy_xor_loss(flip, window=window), abs=1e-9)
    if window >= 3:
        mixed = 2 * flip * (1 - flip)
        assert found.x == pytest.approx([*np.zeros(window - 3), math.log((1 - mixed) / mixed), 0, 0], abs=1e-4)
    assert ari.theory.noisy_xor_loss(flip, window=None) < found.fun


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: ari.theory.parity_length(0), "n_bits must be at least 1, got 0"),
        (lambda: ari.theory.parity_length(3, 1), "n_symbols must be at least 2"),
        (lambda: ari.theory.parity_complexity("running", 4), "chain must be one of 'and-xor'"),
        (lambda: ari.theory.noisy_xor_loss(1.5, window=3), "probability must be at most 1"),
        (lambda: ari.theory.noisy_xor_loss(0.1, window=0), "window must be at least 1"),
    ],
)
def test_arguments_out_of_range_are_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()
