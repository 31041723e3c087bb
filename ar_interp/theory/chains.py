"""Linear next-token predictors with a chain of thought: lengths, margins and losses of parity.

A predictor of the class writes z_t = argmax_v sum_p W^t[p, y_p, v] + c^t_v, linear in the one-hot tokens y = (x, z_<t)
that it has seen; the answer z_T is its last token. The *length complexity* of a function is the least T at which some
member of the class computes it for every input. Learning is T convex problems under teacher forcing.

Parity asks for the sum modulo 2 of n bits x. Its chains, each with the answer as last token:

    and-xor     AND and XOR of the parity so far and the next bit by turns: 2 (n - 1) tokens, two symbols
    digits      the binary digits of the number of ones, top first: ceil(log2(n + 1)) tokens, two symbols
    joint       (parity so far, next bit) as one of four symbols, then the answer: n + 1 tokens

Definitions: Malach 2023 (arXiv 2309.06979). The lengths, margins and losses are derived here.
"""

import math

from ar_interp._checks import check_choice, check_integer, check_number

CHAINS = ("and-xor", "digits", "joint")
MAX_BITS = 10**6


def parity_length(n_bits: int, n_symbols: int = 2) -> int:
    """Tokens, the answer included, with which a linear predictor computes the parity of n bits.

    The answer is 1 + ceil(log_V((n + 1) / 2)), the number of base-V digits that count the ones. For V = 2 it is
    ceil(log2(n + 1)) and exact: after T - 1 halfspaces floor(n / 2^(T - 1)) bits can still be free, and the last token
    is a halfspace of them. **For more symbols it is an upper bound**: fewer tokens may do.

    Args:
        n_bits: n >= 1, the bits whose parity is asked for.
        n_symbols: V >= 2, the symbols that a token of the chain can be.
    Raises:
        ValueError: an argument out of range.
    """
    n = check_integer("n_bits", n_bits, low=1, high=MAX_BITS)
    V = check_integer("n_symbols", n_symbols, low=2)
    length, counted = 1, 2  # with `length` tokens numbers below `counted` can be told apart, the last by its parity
    while counted < n + 1:
        length, counted = length + 1, counted * V
    return length


def parity_complexity(chain: str, n_bits: int) -> float:
    """(R / gamma)^2 of the hardest token of a chain: the mistakes that a perceptron can make, and so its samples.

    R is the length of the features (bits and symbols of two kinds as +-1, others one-hot, and a constant 1), gamma the
    margin that weights written by hand have.

        and-xor     7 (3 n - 2): XOR has margin 1 / sqrt 7
        digits      (n + T) (n + (4^T - 4) / 3 + (n + 1 - 2^T)^2), about n^3 / 3 at n = 2^T - 1
        joint       8 n: the answer is looked up in one of 2 n tokens

    A short chain costs margin: that, not "a chain or none", is what is traded.

    Args:
        chain: `and-xor`, `digits` or `joint`.
        n_bits: n >= 2.
    Raises:
        ValueError: an unknown chain, or fewer than two bits.
    """
    check_choice("chain", chain, CHAINS)
    n = check_integer("n_bits", n_bits, low=2, high=MAX_BITS)
    if chain == "and-xor":
        return 7.0 * (3 * n - 2)
    if chain == "joint":
        return 8.0 * n
    T = parity_length(n)
    return float((n + T) * (n + (4**T - 4) // 3 + (n + 1 - 2**T) ** 2))


def best_halfspace_agreement(n_bits: int) -> float:
    """The share of all inputs on which the best halfspace agrees with the parity of n bits.

    1/2 + C(n - 1, floor((n - 1) / 2)) / 2^n, reached by a threshold at the middle of the number of ones. Training does
    not reach it: on the uniform cube W = 0 minimises every convex loss of a margin, with log 2 of the logistic one.

    Args:
        n_bits: n >= 1.
    Raises:
        ValueError: n_bits below 1.
    """
    n = check_integer("n_bits", n_bits, low=1, high=MAX_BITS)
    middle = (n - 1) // 2
    logarithm = math.lgamma(n) - math.lgamma(middle + 1) - math.lgamma(n - middle) - n * math.log(2)
    return 0.5 + (math.comb(n - 1, middle) / 2**n if n < 1000 else math.exp(logarithm))


def parity_gradient(mean_square_gradient: float, n_bits: int) -> float:
    """Mean over all 2^n parities S of |E chi_S(x) grad f(x)|^2, for any model f: E|grad f|^2 / 2^n (Parseval).

    The gradient of the squared loss is the same for nearly all parities, however f is made. It is a statement about
    gradients, not about information: elimination over GF(2) learns a parity from a few more than n samples.

    Args:
        mean_square_gradient: E|grad f(x)|^2 over uniform inputs; >= 0.
        n_bits: n >= 1.
    Raises:
        ValueError: an argument out of range.
    """
    check_integer("n_bits", n_bits, low=1, high=MAX_BITS)
    return math.ldexp(check_number("mean_square_gradient", mean_square_gradient, low=0.0), -n_bits)


def elimination_probability(n_bits: int, n_samples: int) -> float:
    """The probability that m uniform samples of n bits determine a parity: that they have rank n over GF(2).

    prod_{i = m-n+1}^m (1 - 2^-i); 0 for m < n.

    Args:
        n_bits: n >= 1.
        n_samples: m >= 1.
    Raises:
        ValueError: an argument below 1.
    """
    n = check_integer("n_bits", n_bits, low=1, high=MAX_BITS)
    m = check_integer("n_samples", n_samples, low=1)
    return math.prod(1 - math.ldexp(1.0, -i) for i in range(m - n + 1, m + 1)) if m >= n else 0.0


def binary_entropy(probability: float) -> float:
    """H(p) = -p log p - (1 - p) log(1 - p), in nats.

    Raises:
        ValueError: a probability outside [0, 1].
    """
    p = check_number("probability", probability, low=0.0)
    if p > 1:
        raise ValueError(f"probability must be at most 1, got {p}.")
    return -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)


def noisy_xor_loss(flip: float, *, window: int | None) -> float:
    """The least logistic loss per token, in nats, on x_t = x_{t-1} xor x_{t-2} xor n_t with P(n_t = 1) = flip.

    A linear predictor of the last `window` tokens has

        window <= 2     log 2: the two tokens that determine the next are each independent of it
        window >= 3     H(2 flip (1 - flip)), by x_{t-3} alone: x_t = x_{t-3} xor n_t xor n_{t-1}

    and no predictor has less than the entropy rate, H(flip). Windows of up to 7 tokens were checked exactly, weight by
    weight; that older tokens add nothing is not proved here.

    Args:
        flip: within [0, 1].
        window: K >= 1; None for the entropy rate, that of a predictor that knows the rule.
    Raises:
        ValueError: a flip outside [0, 1], a window below 1.
    """
    entropy_rate = binary_entropy(flip)
    if window is None:
        return entropy_rate
    check_integer("window", window, low=1)
    return math.log(2) if window <= 2 else binary_entropy(2 * flip * (1 - flip))
