"""How probes are fitted, scored and coded: against naive loops and scikit-learn's metrics."""

import numpy as np
import pytest
from cases import N_READ, READ_HOOK, noise, numbered, planted
from oracles import read_row
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, log_loss, r2_score
from sklearn.model_selection import KFold, LeaveOneOut, cross_val_predict
from zoo import Exposed, tabled

import ar_interp as ari
from ar_interp.probes.readout_efficiency import RESOLUTION, data_efficiency
from ar_interp.probes.readout_fits import N_BOOTSTRAP, PENALTIES, Split, fit_probe, interval, penalty_of, scores_of

HAAR = ari.HaarOrthogonal(3)

# ---- the penalty


def test_held_out_sequences_have_no_say_in_the_fit():
    """Whatever stands in their rows, the penalty is the same."""
    features, values = noise(N_READ, 60, seed=1), noise(N_READ, 2, seed=2)
    features[:, :2] += values
    test = Split.of(N_READ, seed=0).test
    row = read_row(features, values)
    for spoiled in ("features", "values"):
        copies = {"features": features.copy(), "values": values.copy()}
        copies[spoiled][test] = 1e3 * noise(*copies[spoiled][test].shape, seed=3)
        other = read_row(copies["features"], copies["values"])
        assert other["penalty"] == row["penalty"]
        assert other["score"] < row["score"] - 0.1
    assert PENALTIES[0] < row["penalty"] < PENALTIES[-1]


def naive_penalty(X, Y):
    """Leave one out, one by one."""
    errors = []
    scaled = X / np.sqrt(np.mean(X**2))
    for penalty in PENALTIES:
        left_out = cross_val_predict(Ridge(alpha=penalty * len(X)), scaled, Y, cv=LeaveOneOut())
        errors.append(np.mean((Y - left_out) ** 2))
    return PENALTIES[int(np.argmin(errors))]


@pytest.mark.parametrize(("width", "level"), [(3, 0.0), (3, 1.0), (40, 1.0), (90, 0.3), (90, 30.0)])
def test_the_penalty_of_ridge_is_that_of_naive_leave_one_out(width, level):
    X = noise(60, width, seed=1)
    Y = X[:, :3] @ noise(3, 2, seed=2) + level * noise(60, 2, seed=3)
    assert penalty_of(fit_probe(X, Y), 60) == pytest.approx(naive_penalty(X, Y))


def test_the_penalty_of_logistic_regression_is_that_of_naive_folds():
    X = noise(90, 6, seed=1)
    Y = (X[:, :1] + noise(90, 1, seed=2) > 0).astype(int)
    scaled = X / np.sqrt(np.mean(X**2))
    losses = []
    for penalty in PENALTIES:
        folds = []
        for train, test in KFold(3, shuffle=True, random_state=0).split(X):
            probe = LogisticRegression(C=1 / (90 * penalty), max_iter=10_000).fit(scaled[train], Y[train, 0])
            folds.append(log_loss(Y[test, 0], probe.predict_proba(scaled[test])))
        losses.append(np.mean(folds))
    chosen = penalty_of(fit_probe(X, Y), 90)
    assert chosen == pytest.approx(PENALTIES[int(np.argmin(losses))])
    assert PENALTIES[0] < chosen < PENALTIES[-1]


def test_the_unit_of_an_activation_does_not_matter():
    features, values = noise(N_READ, 20, seed=1), noise(N_READ, 2, seed=2)
    features[:, :2] += values
    row, scaled = read_row(features, values), read_row(1e6 * features, values)
    assert scaled["score"] == pytest.approx(row["score"], rel=1e-9)
    assert scaled["penalty"] == row["penalty"]


def test_an_activation_that_is_zero_holds_nothing():
    values = noise(N_READ, 2, seed=1)
    for target in (values, values > 0):
        row = read_row(np.zeros((N_READ, 3)), target)
        assert row["score"] == row["baseline"]
        assert row["n_features"] == 0


# ---- the split and the bootstrap


def test_a_split_is_one_of_sequences():
    split = Split.of(N_READ, seed=3)
    assert sorted([*split.train, *split.test]) == list(range(N_READ))
    assert len(split.test) == 90
    assert sorted(split.shuffled) == sorted(split.train)
    assert (split.shuffled != split.train).mean() > 0.9
    assert (split.counts.sum(1) == 90).all()
    assert (split.counts[0] == 1).all()
    assert len(split.counts) == N_BOOTSTRAP + 1


def test_scores_of_resamples_are_scikit_learns():
    split = Split.of(N_READ, seed=0)
    truth = noise(90, 3, seed=1)
    guess = truth + noise(90, 3, seed=2)
    scores = scores_of(truth, guess, split.counts)
    agreement = scores_of((truth > 0).astype(int), (guess > 0).astype(int), split.counts)
    draws = np.random.default_rng(0).integers(90, size=(N_BOOTSTRAP, 90))
    for i, draw in enumerate([np.arange(90), *draws]):
        assert scores[i] == pytest.approx(r2_score(truth[draw], guess[draw]), abs=1e-12)
        hits = [accuracy_score(truth[draw, j] > 0, guess[draw, j] > 0) for j in range(3)]
        assert agreement[i] == pytest.approx(np.mean(hits))
    score, low, high = interval(scores)
    assert low < score < high
    assert high - low == pytest.approx(np.diff(np.quantile(scores[1:], (0.025, 0.975)))[0])


def test_the_interval_lies_around_the_score():
    """Of the mean no resample scores as well as the sample does: resamples are nearer to their own means."""
    truth = noise(90, 3, seed=1)
    scores = scores_of(truth, np.broadcast_to(truth.mean(0), truth.shape), Split.of(N_READ, seed=0).counts)
    assert scores[1:].max() < scores[0]
    score, low, high = interval(scores)
    assert low < score < high


@pytest.mark.parametrize(("guess", "expected"), [(0.0, 1.0), (0.5, 0.5)])
def test_a_value_that_does_not_vary_where_it_is_tested_is_met_or_not(guess, expected):
    truth = noise(90, 2, seed=1)
    predicted = truth.copy()
    truth[:, 1], predicted[:, 1] = 0, guess
    counts = np.ones((1, 90), dtype=int)
    assert scores_of(truth, predicted, counts)[0] == pytest.approx(expected)
    assert r2_score(truth, predicted) == pytest.approx(expected)


def test_the_interval_holds_the_score_on_fresh_sequences():
    """Of 40 probes the score on many more sequences lies in the 95 % interval in at least 33, six standard errors."""
    weights = noise(3, 1, seed=0)
    inside = 0
    for seed in range(40):
        X = noise(N_READ + 5000, 3, seed=10 + seed)
        Y = X @ weights + noise(len(X), 1, seed=100 + seed)
        split = Split.of(N_READ, seed=seed)
        probe = fit_probe(X[split.train], Y[split.train])
        _, low, high = interval(scores_of(Y[split.test], probe.predict(X[split.test]), split.counts))
        inside += low < r2_score(Y[N_READ:], probe.predict(X[N_READ:])) < high
    assert inside >= 33


# ---- data efficiency


def efficiency(features, values, control=None, n=N_READ, **options):
    untrained = tabled(noise(n, 2, seed=99) if control is None else control)
    return data_efficiency(
        tabled(features), numbered(n), hook=READ_HOOK, target=planted(values), untrained=untrained, **options
    )


def test_what_is_spread_over_many_features_takes_more_data_though_all_of_it_is_there():
    """Both are read without error in the end; the second opinion tells them apart."""
    values = noise(N_READ, 2, seed=1)
    spread = np.concatenate([values, noise(N_READ, 100, seed=2)], axis=1) @ noise(102, 102, seed=3)
    result = efficiency(values, values, control=spread)
    last = result.curve.groupby("source")["score"].last()
    assert last["model"] > 0.999
    assert last["untrained"] > 0.9
    codes = result.codes.set_index("source")
    assert codes.loc["model", "compression"] > 0.9
    assert codes.loc["untrained", "compression"] < 0.6
    assert abs(codes.loc["shuffled", "saved"]) < 0.05
    assert result.to_frame() is result.curve


def test_the_curve_ends_at_the_score_of_the_sweep():
    features, values = noise(N_READ, 10, seed=1), noise(N_READ, 2, seed=2)
    features[:, :2] += values
    curve, row = efficiency(features, values).curve, read_row(features, values)
    assert curve["n_train"].tolist() == [52, 105, 210] * 4
    ends = curve.groupby("source").last()
    for source, column in [("model", "score"), *((name, name) for name in ("shuffled", "projection", "untrained"))]:
        if source != "projection":  # at another T
            assert ends.loc[source, "score"] == row[column]
    assert ends.loc["model", ["low", "high"]].tolist() == row[["low", "high"]].tolist()


def test_a_gaussian_channel_saves_its_information():
    """saved = -1/2 log2(1 - R^2) per value: .5 bits for R^2 = 1/2; the code is random with sd about .7 / sqrt(n)."""
    n = 4000
    features = noise(n, 1, seed=1)
    codes = efficiency(features, features + noise(n, 1, seed=2), n=n).codes.set_index("source")
    assert codes.loc["model", "saved"] == pytest.approx(0.5, abs=0.06)
    assert codes.loc["untrained", "saved"] == pytest.approx(0, abs=0.01)
    assert codes.loc["untrained", "constant_bits"] == pytest.approx(10 + 0.5 * np.log2(2 * np.pi * np.e), abs=0.1)


def test_the_code_of_numbers_is_the_naive_sum():
    features, values = noise(N_READ, 5, seed=1), noise(N_READ, 2, seed=2)
    features[:, 0] += values[:, 0]
    train = Split.of(N_READ, seed=0).train
    X, Y = features[train], values[train]
    unit = RESOLUTION * values.std(0)
    bits, constant = [], []
    for n, end in ((52, 105), (105, 210)):
        scale = np.sqrt(np.mean(X[:n] ** 2))
        ridge = Ridge(alpha=naive_penalty(X[:n], Y[:n]) * n)
        left_out = cross_val_predict(ridge, X[:n] / scale, Y[:n], cv=LeaveOneOut())
        mean_left_out = (Y[:n].sum(0) - Y[:n]) / (n - 1)
        predicted = ridge.fit(X[:n] / scale, Y[:n]).predict(X[n:end] / scale)
        for i in range(n, end):
            for j in range(2):
                for mean, before, total in (
                    (predicted[i - n, j], left_out, bits),
                    (Y[:n, j].mean(), mean_left_out, constant),
                ):
                    variance = np.mean((Y[:n, j] - before[:, j]) ** 2) + unit[j] ** 2 / (2 * np.pi)
                    density = np.exp(-((Y[i, j] - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
                    total.append(-np.log2(density * unit[j]))
    code = efficiency(features, values).codes.set_index("source").loc["model"]
    assert code["bits"] == pytest.approx(np.mean(bits))
    assert code["constant_bits"] == pytest.approx(np.mean(constant))
    assert code["saved"] == pytest.approx(np.mean(constant) - np.mean(bits))


def test_no_code_is_shorter_than_nothing():
    values = noise(N_READ, 1, seed=1)
    code = efficiency(values, values).codes.set_index("source").loc["model"]
    assert 0 <= code["bits"] < 0.1
    assert 0.99 < code["compression"] <= 1


def test_the_code_of_classes_is_the_probability_of_what_came():
    features = noise(N_READ, 2, seed=1)
    classes = (features[:, :1] + 0.5 * noise(N_READ, 1, seed=2) > 0.3).astype(int)
    train = Split.of(N_READ, seed=0).train
    X, Y = features[train], classes[train]
    bits, constant = [], []
    for n, end in ((52, 105), (105, 210)):
        probabilities = fit_probe(X[:n], Y[:n]).predict_proba(X[n:end])[0]
        for i in range(n, end):
            bits.append(-np.log2(probabilities[i - n, Y[i, 0]]))
            constant.append(-np.log2((np.sum(Y[:n] == Y[i]) + 1) / (n + 2)))
    code = efficiency(features, classes).codes.set_index("source").loc["model"]
    assert code["bits"] == pytest.approx(np.mean(bits))
    assert code["constant_bits"] == pytest.approx(np.mean(constant))
    assert code["compression"] > 0.3


def test_the_smallest_number_of_sequences_is_enough():
    values = noise(115, 1, seed=1)
    assert efficiency(values, values, n=115).curve["n_train"].tolist() == [40, 80] * 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, s: data_efficiency(m, s[:114], hook=READ_HOOK, untrained=m), "at least 115 .* got 114"),
        (
            lambda m, s: data_efficiency(m, s, hook=READ_HOOK, untrained=m, target="previous token", position=2),
            "'previous token' is the same in every sequence at T = 2",
        ),
        (
            lambda m, s: data_efficiency(m, s, hook=READ_HOOK, untrained=m, position=6),
            "position must be at most 5, got 6",
        ),
    ],
)
def test_refusals(call, message):
    model, sequences = Exposed(lambda tokens: tokens), HAAR.sample(115, 6, seed=0)
    with pytest.raises(ValueError, match=message):
        call(model, sequences)
