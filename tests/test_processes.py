"""The sampler against W itself, against moments, and in every basis."""

import cmath
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from ar_interp._parts import build_process
from ar_interp.processes import CommutingOrthogonal, CommutingUnitary, FirstToken, HaarOrthogonal, Sequences, haar
from ar_interp.processes.haar import by_doubling, product_of_reflections

LAWS = [
    FirstToken("ones", scale=0.7),
    FirstToken("unit-ones", scale=1.2),
    FirstToken("gaussian", scale=1.3),
    FirstToken("sphere", scale=2.0),
    FirstToken("signs", scale=0.5),
    FirstToken("one-hot", scale=3.0),
    FirstToken("sparse", scale=1.5, n_nonzero=3),
]
by_law = pytest.mark.parametrize("law", LAWS, ids=lambda law: law.law)
both_families = pytest.mark.parametrize("family", [CommutingUnitary, CommutingOrthogonal])


def random_basis(dim: int, *, is_complex: bool) -> torch.Tensor:
    dtype = torch.complex128 if is_complex else torch.float64
    return torch.linalg.qr(torch.randn(dim, dim, generator=torch.Generator().manual_seed(5), dtype=dtype))[0]


BASES = [
    pytest.param(CommutingUnitary, "eigen", id="unitary-eigen"),
    pytest.param(CommutingUnitary, random_basis(6, is_complex=True), id="unitary-P"),
    pytest.param(CommutingOrthogonal, "eigen", id="orthogonal-eigen"),
    pytest.param(CommutingOrthogonal, "rotation", id="orthogonal-rotation"),
    pytest.param(CommutingOrthogonal, random_basis(6, is_complex=False), id="orthogonal-P"),
]


def apply(W: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    return torch.einsum("bij,btj->bti", W, states)


# ---- W and the sequences


@by_law
@pytest.mark.parametrize(("family", "basis"), BASES)
def test_each_state_is_W_times_the_last(family, basis, law):
    sequences = family(6, first_token=law).sample(20, 30, seed=0, basis=basis)
    assert_close(sequences.tokens[:, 1:], apply(sequences.W, sequences.tokens[:, :-1]), rtol=0, atol=1e-12)


@both_families
def test_sampling_is_the_recursion(family):
    process = family(4, first_token=FirstToken("gaussian"), noise=0.3)
    generator = torch.Generator().manual_seed(0)
    eigenvalues = torch.exp(1j * process.draw_phases(5, generator))
    states = [process.draw_first_tokens(5, generator)]
    for noise in process.draw_noise(5, 7, generator).unbind(1):
        states.append(eigenvalues * states[-1] + 0.3 * noise)
    assert_close(process.sample(5, 8, seed=0).tokens, torch.stack(states, dim=1), rtol=0, atol=1e-13)


@pytest.mark.parametrize(("family", "basis"), BASES)
def test_W_is_unitary_with_the_eigenvalues_of_the_phases(family, basis):
    sequences = family(6).sample(20, 2, seed=1, basis=basis)
    W = sequences.W.to(torch.complex128)
    assert_close(W @ W.mH, torch.eye(6, dtype=W.dtype).expand_as(W), rtol=0, atol=1e-14)
    for k in range(1, 7):  # power sums fix the eigenvalues
        trace = torch.linalg.matrix_power(W, k).diagonal(0, -2, -1).sum(-1)
        assert_close(trace, torch.exp(1j * k * sequences.phases).sum(-1), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("family", "reference", "is_complex"), [(CommutingUnitary, "eigen", True), (CommutingOrthogonal, "rotation", False)]
)
def test_a_basis_only_changes_coordinates(family, reference, is_complex):
    process = family(6, first_token=FirstToken("gaussian"), noise=0.3)
    P = random_basis(6, is_complex=is_complex)
    plain, moved = process.sample(9, 12, seed=2, basis=reference), process.sample(9, 12, seed=2, basis=P)
    assert_close(moved.tokens, plain.tokens @ P.T, rtol=0, atol=1e-13)
    assert_close(moved.W, P @ plain.W @ P.mH, rtol=0, atol=1e-13)
    assert torch.equal(moved.phases, plain.phases)


def test_rotation_basis_holds_2x2_rotations():
    sequences = CommutingOrthogonal(6).sample(5, 2, seed=3, basis="rotation")
    for W, phases in zip(sequences.W, sequences.phases, strict=True):
        angles = phases[0::2]
        blocks = [torch.stack([torch.stack([a.cos(), -a.sin()]), torch.stack([a.sin(), a.cos()])]) for a in angles]
        assert_close(W, torch.block_diag(*blocks), rtol=0, atol=1e-15)


@by_law
@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_conjugate_pairs_stay_conjugate_in_the_eigenbasis(law, noise):
    process = CommutingOrthogonal(6, first_token=law, noise=noise)
    eigen, rotation = (process.sample(20, 15, seed=4, basis=basis).tokens for basis in ("eigen", "rotation"))
    assert_close(eigen[..., 0::2], eigen[..., 1::2].conj(), rtol=0, atol=1e-13)
    assert rotation.dtype == torch.float64
    # equal norms: nothing imaginary was dropped
    assert_close(rotation.square().sum(-1), eigen.abs().square().sum(-1), rtol=1e-12, atol=0)


# ---- laws


@both_families
def test_eigenvalues_are_uniform_on_the_circle_and_independent(family, assert_mean):
    phases = family(6).sample(20_000, 1, seed=5).phases[:, ::2]
    for k in (1, 2, 3):
        assert_mean(torch.cos(k * phases), 0.0)
        assert_mean(torch.sin(k * phases), 0.0)
    for sign in (1, -1):
        assert_mean(torch.cos(phases[:, 0] + sign * phases[:, 1]), 0.0)


@both_families
def test_mu_slows_the_eigenvalues(family, assert_mean):
    mu = 5.0
    phases = family(4, mu=mu).sample(20_000, 1, seed=6).phases[:, 0]
    assert 0 <= phases.min() < phases.max() < 2 * torch.pi / mu
    mean = (cmath.exp(2j * cmath.pi / mu) - 1) / (2j * cmath.pi / mu)
    assert_mean(phases.cos(), mean.real)
    assert_mean(phases.sin(), mean.imag)


@pytest.fixture(params=["unitary", "orthogonal"])
def first_tokens(request):
    """Draws s_1 in the basis where its law is stated; there it is real."""

    def draw(law: FirstToken) -> torch.Tensor:
        family, basis = {
            "unitary": (CommutingUnitary, "eigen"),
            "orthogonal": (CommutingOrthogonal, "rotation"),
        }[request.param]
        tokens = family(6, first_token=law).sample(20_000, 1, seed=7, basis=basis).tokens[:, 0]
        assert not tokens.is_complex() or not tokens.imag.any()
        return tokens.real

    return draw


@both_families
def test_ones_are_ones_in_the_eigenbasis(family):
    tokens = family(6, first_token=FirstToken("ones", scale=0.7)).sample(3, 1, seed=0).tokens
    assert torch.equal(tokens, torch.full((3, 1, 6), 0.7, dtype=torch.complex128))


def test_gaussian_first_tokens(first_tokens, assert_mean):
    tokens = first_tokens(FirstToken("gaussian", scale=1.3))
    for power, moment in ((1, 0.0), (2, 1.3**2), (3, 0.0), (4, 3 * 1.3**4)):
        assert_mean(tokens**power, moment)
    assert_mean(tokens[:, 0] * tokens[:, 1], 0.0)


def test_sphere_first_tokens(first_tokens, assert_mean):
    tokens = first_tokens(FirstToken("sphere", scale=2.0))
    assert_close(tokens.norm(dim=-1), torch.full((20_000,), 2.0, dtype=torch.float64))
    assert_mean(tokens, 0.0)
    assert_mean(tokens**2, 4 / 6)
    assert_mean(tokens**4, 3 * 16 / (6 * 8))  # E x_j^4 = 3 / (d (d + 2)) on the unit sphere


def test_sign_first_tokens(first_tokens, assert_mean):
    tokens = first_tokens(FirstToken("signs", scale=0.5))
    assert_close(tokens.abs(), torch.full_like(tokens, 0.5))
    assert_mean(tokens, 0.0)
    assert_mean(tokens[:, 0] * tokens[:, 1], 0.0)


def test_one_hot_first_tokens(first_tokens, assert_mean):
    tokens = first_tokens(FirstToken("one-hot", scale=3.0))
    hot = (tokens > 1.5).double()
    assert_close(tokens, 3.0 * hot)
    assert (hot.sum(-1) == 1).all()
    assert_mean(hot, 1 / 6)


def test_sparse_first_tokens(first_tokens, assert_mean):
    tokens = first_tokens(FirstToken("sparse", scale=1.5, n_nonzero=2))
    used = (tokens.abs() > 0.75).double()
    assert_close(tokens.abs(), 1.5 * used)
    assert (used.sum(-1) == 2).all()
    assert_mean(used, 2 / 6)
    assert_mean(tokens, 0.0)
    assert_mean(used[:, 0] * used[:, 1], 1 / 15)


@pytest.mark.parametrize(("family", "basis"), BASES)
def test_noise_has_the_stated_variance_and_no_memory(family, basis, assert_mean):
    sequences = family(6, noise=0.3).sample(20_000, 4, seed=8, basis=basis)
    noise = sequences.tokens[:, 1:] - apply(sequences.W, sequences.tokens[:, :-1])
    assert_mean(noise.real, 0.0)
    assert_mean(noise.abs() ** 2, 0.3**2)
    assert_mean((noise[:, 0] * noise[:, 1].conj()).real, 0.0)
    assert_mean((noise[:, 1] * sequences.tokens[:, 1].conj()).real, 0.0)
    if noise.is_complex():  # circular: real and imaginary parts share the variance
        assert_mean((noise**2).real, 0.0)
        assert_mean((noise**2).imag, 0.0)


@pytest.mark.parametrize("options", [{}, {"process_noise": 0.3}, {"process_noise": 0.3, "stationary": True}], ids=str)
@pytest.mark.parametrize(("family", "basis"), [*BASES[:1], *BASES[3:], pytest.param(HaarOrthogonal, None, id="Haar")])
def test_noise_of_the_process_and_of_observation(family, basis, options, assert_mean):
    """Both of the stated variance, circular, without memory; errors are those of the clean targets."""
    process = family(6, observation_noise=0.2, **options)
    sequences = process.sample(20_000, 4, seed=8, **({} if basis is None else {"basis": basis}))
    added = sequences.clean[:, 1:] - apply(sequences.W, sequences.clean[:, :-1])
    blur = sequences.tokens - sequences.clean
    for noise, size in ((added, process.process_noise), (blur, 0.2)):
        if not size:
            assert_close(noise, torch.zeros_like(noise), rtol=0, atol=1e-14)
            continue
        assert_mean(noise.abs() ** 2, size**2)
        assert_mean((noise[:, 0] * noise[:, 1].conj()).real, 0.0)
        if noise.is_complex():
            assert_mean((noise**2).real, 0.0)
    assert_mean((blur[:, 1] * sequences.clean[:, 1].conj()).real, 0.0)
    assert_close(sequences.errors(sequences.targets), blur[:, 1:].abs().square().sum(-1), rtol=1e-9, atol=1e-12)
    assert torch.equal(sequences[3:5].clean, sequences.clean[3:5])
    if process.stationary:
        assert_mean(sequences.clean.abs() ** 2, 1.0)
        unit = torch.eye(6, dtype=sequences.W.dtype)
        assert_close((sequences.W @ sequences.W.mH)[0], (1 - 0.3**2) * unit, rtol=0, atol=1e-13)


@pytest.mark.parametrize("process", [CommutingUnitary(4), CommutingOrthogonal(4), HaarOrthogonal(4)], ids=repr)
def test_noise_of_observation_leaves_the_states(process):
    plain = process.sample(3, 6, seed=1)
    blurred = replace(process, observation_noise=0.5).sample(3, 6, seed=1)
    assert torch.equal(blurred.clean, plain.tokens)
    assert torch.equal(plain.clean, plain.tokens)
    assert plain.states is None
    noise = replace(process, noise=0.3).sample(3, 6, seed=1)
    assert torch.equal(replace(process, process_noise=0.3).sample(3, 6, seed=1).tokens, noise.tokens)
    assert blurred.errors(blurred.targets).min() > 0


# ---- precision, randomness, indexing


@pytest.mark.parametrize(
    ("basis", "dtype", "kind"),
    [
        ("eigen", torch.float64, torch.complex128),
        ("eigen", torch.complex128, torch.complex128),
        ("eigen", torch.float32, torch.complex64),
        ("eigen", torch.complex64, torch.complex64),
        ("rotation", torch.float32, torch.float32),
        ("rotation", torch.complex64, torch.float32),
        ("rotation", torch.complex128, torch.float64),
    ],
)
def test_dtype_names_a_precision(basis, dtype, kind):
    sequences = CommutingOrthogonal(4).sample(2, 3, seed=0, basis=basis, dtype=dtype)
    assert sequences.tokens.dtype == sequences.W.dtype == kind
    assert sequences.phases.dtype == torch.float64


def test_single_precision_is_rounded_once():
    sample = partial(CommutingUnitary(4).sample, 8, 1000, seed=9)
    double, single = sample().tokens, sample(dtype=torch.float32).tokens
    # Rounding e^{i phi} to complex64 costs 6e-8; a float32 phase near 2 pi 1000 would cost 2e-4.
    assert (single - double).abs().max() < 1e-7


def test_double_precision_does_not_drift():
    sequences = CommutingUnitary(4).sample(8, 1000, seed=9)
    # A phase of 2 pi 1000 has a rounding error of 5e-13.
    assert_close(sequences.tokens[:, 1:], apply(sequences.W, sequences.tokens[:, :-1]), rtol=0, atol=4e-12)


@both_families
def test_seeds(family):
    process = family(4, first_token=FirstToken("gaussian"), noise=0.1)
    once, again, other = (process.sample(3, 5, seed=seed).tokens for seed in (0, 0, 1))
    assert torch.equal(once, again)
    assert not torch.isclose(once, other).any()
    generator = torch.Generator().manual_seed(0)
    first, second = (process.sample(3, 5, generator=generator).tokens for _ in range(2))
    assert torch.equal(first, once)
    assert not torch.isclose(second, first).any()


def test_global_randomness_is_neither_used_nor_changed():
    before = torch.random.get_rng_state()
    CommutingOrthogonal(4, first_token=FirstToken("sparse", n_nonzero=2), noise=0.1).sample(3, 5, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("index", [slice(1, 3), torch.tensor([4, 0]), torch.tensor([True, False, False, True, True])])
def test_sequences_index_all_fields_alike(index):
    sequences = CommutingUnitary(3).sample(5, 4, seed=0)
    some = sequences[index]
    assert isinstance(some, Sequences)
    for name in ("tokens", "W", "phases"):
        assert torch.equal(getattr(some, name), getattr(sequences, name)[index])
    assert len(some) == len(some.tokens)


# ---- rollout


@pytest.mark.parametrize(("family", "basis"), BASES)
def test_rollout_is_matrix_powers(family, basis):
    drawn = family(6, first_token=FirstToken("gaussian")).sample(4, 1, seed=10)
    rolled = family(6).rollout(drawn.phases, 8, first_tokens=drawn.tokens[:, 0], basis=basis)
    for t in range(8):
        state = (torch.linalg.matrix_power(rolled.W, t) @ rolled.tokens[:, 0, :, None])[..., 0]
        assert_close(rolled.tokens[:, t], state, rtol=0, atol=1e-13)


def test_rollout_starts_from_ones():
    tokens = CommutingUnitary(3).rollout(torch.tensor([[0.0, torch.pi, torch.pi / 2]]), 3).tokens[0]
    expected = torch.tensor([[1, 1, 1], [1, -1, 1j], [1, 1, -1]], dtype=torch.complex128)
    assert_close(tokens, expected, rtol=0, atol=1e-6)  # the angles are float32


@both_families
def test_rollout_repeats_a_sample(family):
    process = family(4)
    sequences = process.sample(3, 6, seed=0)
    assert torch.equal(process.rollout(sequences.phases, 6).tokens, sequences.tokens)


# ---- what is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CommutingUnitary(0), "dim must be at least 1, got 0"),
        (lambda: CommutingUnitary(10**9), "dim must be at most 4096, got 1000000000"),
        (lambda: CommutingUnitary(2.0), r"dim must be an integer, got 2\.0"),
        (lambda: CommutingUnitary(True), "dim must be an integer, got True"),
        (lambda: CommutingOrthogonal(5), r"dim must be even for CommutingOrthogonal .* got 5"),
        (lambda: CommutingUnitary(2, noise=-0.1), r"noise must be at least 0\.0, got -0\.1"),
        (lambda: CommutingUnitary(2, noise=float("nan")), "noise must be a finite number, got nan"),
        (lambda: HaarOrthogonal(2, observation_noise=-1), r"observation_noise must be at least 0\.0, got -1"),
        (lambda: CommutingUnitary(2, process_noise=1.0, stationary=True), "process_noise must be below 1 where stat"),
        (
            lambda: HaarOrthogonal(2, first_token="ones", stationary=True),
            "first_token must be left out where stationary",
        ),
        (lambda: CommutingUnitary(2, stationary=1), "stationary must be True or False, got 1"),
        (lambda: CommutingUnitary(2, mu=0.0), r"mu must be greater than 0\.0, got 0\.0"),
        (lambda: CommutingUnitary(2, mu="1"), "mu must be a finite number, got '1'"),
        (lambda: CommutingUnitary(2, first_token="one"), "first_token must be one of 'ones', .*, got 'one'"),
        (lambda: CommutingUnitary(2, first_token=LAWS[-1]), "n_nonzero must be at most dim = 2, got 3"),
        (lambda: FirstToken("ones", scale=0.0), r"first_token\.scale must be greater than 0\.0"),
        (lambda: FirstToken("sparse"), "n_nonzero goes with the law 'sparse' .* n_nonzero=None"),
        (lambda: FirstToken("signs", n_nonzero=1), "n_nonzero goes with the law 'sparse' .* n_nonzero=1"),
        (lambda: FirstToken("sparse", n_nonzero=0), r"first_token\.n_nonzero must be at least 1, got 0"),
    ],
)
def test_processes_refuse(make, message, without_type_checks):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        (CommutingUnitary, {"batch": 0}, "batch must be at least 1, got 0"),
        (CommutingUnitary, {"length": 0}, "length must be at least 1, got 0"),
        (CommutingUnitary, {"seed": None}, "exactly one of seed and generator"),
        (CommutingUnitary, {"generator": torch.Generator()}, "exactly one of seed and generator"),
        (CommutingUnitary, {"seed": -1}, "seed must be at least 0, got -1"),
        (
            CommutingUnitary,
            {"seed": None, "generator": torch.Generator(), "device": "cuda"},
            "device is cuda but the generator lives on cpu",
        ),
        (CommutingUnitary, {"dtype": torch.float16}, "dtype must be float64, .* got torch.float16"),
        (CommutingUnitary, {"basis": "rotation"}, r"a unitary matrix \[4 4\] for the unitary family, got 'rotation'"),
        (CommutingUnitary, {"basis": torch.ones(4, 4)}, "basis must be orthonormal: .* by 4"),
        (CommutingUnitary, {"basis": torch.eye(4) * torch.nan}, "basis must be orthonormal"),
        (CommutingUnitary, {"basis": torch.eye(3)}, r"basis must have shape \[4 4\], got \[3, 3\]"),
        (CommutingOrthogonal, {"basis": "real"}, "'eigen', 'rotation' or an orthonormal matrix .* got 'real'"),
        (CommutingOrthogonal, {"basis": 1j * torch.eye(4)}, "basis must be real for CommutingOrthogonal"),
    ],
)
def test_sample_refuses(family, options, message):
    with pytest.raises(ValueError, match=message):
        family(4).sample(**{"batch": 2, "length": 3, "seed": 0, **options})


@pytest.mark.parametrize(
    ("phases", "length", "message"),
    [
        (torch.zeros(2, 4), 0, "length must be at least 1, got 0"),
        (torch.zeros(2, 6), 3, r"phases must have shape \[batch 4\], got \[2, 6\]"),
        (torch.zeros(4), 3, r"phases must have shape \[batch 4\], got \[4\]"),
        (torch.ones(2, 4), 3, "phases of a conjugate pair .* must be opposite numbers"),
    ],
)
def test_rollout_refuses(phases, length, message, without_type_checks):
    with pytest.raises(ValueError, match=message):
        CommutingOrthogonal(4).rollout(phases, length)


def test_rollout_refuses_first_tokens_that_are_not_real_in_the_rotation_basis():
    first = torch.tensor([[1, 1, 1j, 1j]], dtype=torch.complex128)
    with pytest.raises(ValueError, match=r"first_tokens of a conjugate pair .* must be conjugate; they differ by 2"):
        CommutingOrthogonal(4).rollout(torch.zeros(1, 4, dtype=torch.float64), 3, first_tokens=first)


# ---- plain data


def test_a_law_may_be_given_by_name(without_type_checks):
    assert CommutingUnitary(3, first_token="signs") == CommutingUnitary(3, first_token=FirstToken("signs"))


@given(
    family=st.sampled_from([CommutingUnitary, CommutingOrthogonal]),
    dim=st.integers(2, 40).map(lambda half: 2 * half),
    law=st.sampled_from(LAWS),
    noise=st.floats(0, 10),
    blur=st.floats(0, 10),
    mu=st.floats(0.1, 1000),
)
def test_to_dict_reads_back(family, dim, law, noise, blur, mu):
    process = family(dim, first_token=law, noise=noise, observation_noise=blur, process_noise=noise, mu=mu)
    still = family(dim, process_noise=min(noise, 0.5), stationary=True)
    assert build_process(still.to_dict(), "here") == still
    assert build_process(process.to_dict(), "here") == process
    assert build_process(replace(process, mu=1.0).to_dict(), "here") != process or mu == 1.0


# ---- what a GPU draws with


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_products_of_reflections_are_haar(dim, assert_mean):
    gaussian = torch.randn(20_000, dim, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    W = product_of_reflections(gaussian)
    assert_close(W @ W.mT, torch.eye(dim, dtype=W.dtype).expand_as(W), rtol=0, atol=1e-13)
    assert_mean(torch.linalg.det(W), 0.0)
    trace = W.diagonal(0, 1, 2).sum(1)
    squares = (W @ W).diagonal(0, 1, 2).sum(1)
    # E W_ij^4 = 3 / (d (d + 2)); E |tr W|^2 = 1; E tr W^2 = 1 (Diaconis and Shahshahani 1994)
    assert_mean(trace, 0.0)
    assert_mean(squares + 1e-9 * trace, 1.0)
    for i, j in [(0, 0), (0, dim - 1), (dim - 1, 0), (dim - 1, dim - 1), (dim // 2, dim // 2)]:
        assert_mean(W[:, i, j], 0.0)
        if dim > 1:
            assert_mean(W[:, i, j].square(), 1 / dim)
            assert_mean(W[:, i, j].pow(4), 3 / (dim * (dim + 2)))
    if dim > 2:
        assert_mean(trace.square(), 1.0)
        assert_mean(W[:, 0, 0] * W[:, 1, 1], 0.0)
        assert_mean(W[:, 0, 0] * W[:, 1, 1] * W[:, 0, 1] * W[:, 1, 0], -1 / (dim * (dim - 1) * (dim + 2)))


@pytest.mark.parametrize("length", [1, 2, 7, 8, 51])
def test_doubling_is_the_recursion(length):
    generator = torch.Generator().manual_seed(0)
    W = HaarOrthogonal(4).draw_matrices(3, generator)
    first = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    states = [first]
    for _ in range(length - 1):
        states.append(torch.einsum("bij,bj->bi", W, states[-1]))
    assert_close(by_doubling(W, first, length), torch.stack(states, dim=1), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    "process", [HaarOrthogonal(3), HaarOrthogonal(3, noise=0.1), CommutingUnitary(2), CommutingOrthogonal(4)], ids=repr
)
@pytest.mark.parametrize("on_a_gpu", [False, True])
def test_members_draw_from_their_own_generators(process, on_a_gpu, monkeypatch):
    if on_a_gpu:
        monkeypatch.setattr(haar, "DECOMPOSED_ON", ())

    def generators(*seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    both = process.of_members(5, 9, generators(1, 2), torch.float64)
    assert both.shape == (2, 5, 9, process.dim)
    assert not torch.equal(both[0], both[1])
    for k, seed in enumerate((1, 2)):
        alone = process.draw(5, 9, generators(seed)[0], torch.float64).tokens
        assert_close(both[k], alone, rtol=1e-12, atol=1e-14)
        assert torch.equal(both[k], process.of_members(5, 9, generators(seed), torch.float64)[0])
