"""Text as sequences of vectors: embeddings, the regression that can fail, and the published experiment that cannot."""

import itertools

import numpy as np
import pytest
import torch
from oracles import check_titles

import ar_interp as ari
from ar_interp.cli import main
from ar_interp.probes.text import _errors, blocked_r2, orthogonal, ridge
from ar_interp.processes.text import TextEmbedding, python_topics, repeats, words_of, words_of_file
from ar_interp.studies.text import text_claims

DIM, LENGTH = 4, 800


def planted(share: float, n: int = 3, *, same: bool = True, seed: int = 0) -> list[torch.Tensor]:
    """Documents s_{t+1} = sqrt(share) W s_t + noise with an orthogonal W, one for all or one each; R^2 = share."""
    generator = torch.Generator().manual_seed(seed)
    matrices = [torch.linalg.qr(torch.randn(DIM, DIM, generator=generator, dtype=torch.float64))[0] for _ in range(n)]
    documents = []
    for place in range(n):
        noise = torch.randn(LENGTH, DIM, generator=generator, dtype=torch.float64)
        tokens = [noise[0]]
        for step in noise[1:]:
            tokens.append(share**0.5 * matrices[0 if same else place] @ tokens[-1] + (1 - share) ** 0.5 * step)
        documents.append(torch.stack(tokens) @ torch.diag(torch.arange(1.0, DIM + 1).double()) + 3.0)
    return documents


def test_a_planted_matrix_is_found_and_every_control_does_what_it_must():
    found = ari.text_regularity(planted(0.5), dim=DIM, n_permutations=19).documents
    assert found["R2"].to_numpy() == pytest.approx(0.5, abs=0.05)
    assert found["corpus"].to_numpy() == pytest.approx(0.5, abs=0.06)
    assert (found["p"] == 1 / 20).all()
    assert (found["within"] < 0.15).all()
    assert found["blocks"].to_numpy() == pytest.approx(0.45, abs=0.06)  # nine of ten neighbours are left
    assert found["orthogonal"].to_numpy() == pytest.approx(2 * 0.5**0.5 - 1, abs=0.06)
    assert (found["transposed"] < 0.3).all()
    assert (found["copy"] < 0.2).all()
    assert found["null"].mean() == pytest.approx(-DIM / (0.75 * LENGTH), abs=0.006)


def test_in_context_means_a_matrix_of_its_own_not_that_of_the_language():
    shared = ari.text_regularity(planted(0.5, 4), dim=DIM, n_permutations=3)
    own = ari.text_regularity(planted(0.5, 4, same=False), dim=DIM, n_permutations=3)
    gain, error = own.gain
    assert gain > 5 * error
    assert gain > 10 * abs(shared.gain[0])
    assert (own.documents["own"] > own.documents["other"]).all()
    assert text_claims(own)["text/own matrix"].interval[0] > 0
    assert text_claims(shared)["text/own matrix"].verdict != "holds"


def test_verdicts_on_a_text_are_those_of_its_law():
    ordered = text_claims(ari.text_regularity(planted(0.5, 12), dim=DIM, n_permutations=19))
    assert [claim.verdict for claim in ordered][:2] == ["holds", "holds"]
    assert ordered["text/orthogonal"].verdict == "holds"  # 2 sqrt(.5) - 1 is above 0, W = I below
    noise = text_claims(ari.text_regularity(planted(0.0, 12), dim=DIM, n_permutations=19))
    assert noise["text/order"].verdict != "holds"
    assert noise["text/orthogonal"].verdict == "fails"


def test_noise_has_no_regularity_and_p_is_uniform():
    found = ari.text_regularity(planted(0.0, 24), dim=DIM, n_permutations=19)
    assert found.documents["R2"].mean() == pytest.approx(found.documents["null"].mean(), abs=0.004)
    assert 1 <= (found.documents["p"] <= 0.25).sum() <= 13  # 6 expected, 1e-3 each side


def test_fits_are_least_squares_and_procrustes():
    torch.manual_seed(0)
    x, y = torch.randn(2, 30, 3, dtype=torch.float64)
    W = torch.randn(3, 3, dtype=torch.float64)
    stacked, target = torch.cat([x, 2.0 * torch.eye(3).double()]), torch.cat([y, 2.0 * W.T])
    assert torch.allclose(ridge(x, y, 4.0, W), torch.linalg.lstsq(stacked, target).solution.T)
    best = orthogonal(x, y)
    assert torch.allclose(best @ best.T, torch.eye(3).double())
    for _ in range(50):
        other = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
        assert (y - x @ best.T).norm() <= (y - x @ other.T).norm()
    assert blocked_r2(
        torch.randn(40, 3, dtype=torch.float64), lambda x, y: torch.zeros(3, 3).double()
    ) == pytest.approx(0)


def test_a_window_rolls_out_wrongly_if_and_only_if_a_word_has_two_successors():
    """All words of five letters over five letters, with random vectors."""
    words = np.array(list(itertools.product(range(5), repeat=5)))
    vectors = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 64)) / 8)
    errors = _errors(vectors[torch.from_numpy(words)])
    conflicts = torch.tensor([bool(repeats(word)[0]) for word in words])
    by_hand = [
        any(a[0] == b[0] and a[1] != b[1] for a, b in itertools.combinations(itertools.pairwise(w), 2)) for w in words
    ]
    assert conflicts.tolist() == by_hand
    assert errors[~conflicts].max() < 1e-20
    assert errors[conflicts].min() > 1e-2


def test_the_published_statistic_is_a_function_of_repetitions_and_random_vectors_pass_it():
    words, _ = python_topics()
    found = ari.probes.text.rolled_out(words, TextEmbedding.glove(), n=400).kept
    assert (found["disagree"] == 0).all()
    assert (found["kept"] == found["random"]).all()


def test_help_of_python_has_a_weak_regularity_of_order_and_none_in_context():
    words, digest = python_topics()
    assert digest == "2a95af4ac93f5b719944030ce3769070ddf827d847cba42192afa8da989e5dc4"
    found = ari.text_regularity(TextEmbedding.glove().documents(words, length=8000), dim=8, n_permutations=19)
    mean = found.documents.mean()
    assert mean["R2"] - mean["null"] == pytest.approx(0.0115, abs=0.01)
    assert (found.documents["p"] == 1 / 20).all()
    assert mean["within"] < mean["R2"] / 2
    assert mean["orthogonal"] < -0.7
    assert found.gain[0] < 0  # W of the language predicts better than one adapted to the document
    figure = ari.figures.text_regularity(found)
    check_titles({"text_regularity": figure})


def test_vectors_from_a_text_put_words_of_one_use_together():
    rng = np.random.default_rng(0)
    words = [w for _ in range(800) for w in (rng.choice(["cat", "dog"]), rng.choice(["runs", "sleeps"]), "and")]
    embedding = TextEmbedding.trained(words, n_words=5, dim=3, window=1)
    assert set(embedding.words) == set(words)
    vector = dict(zip(embedding.words, torch.nn.functional.normalize(embedding.vectors, dim=1), strict=True))
    assert vector["cat"] @ vector["dog"] > 0.9
    assert vector["cat"] @ vector["runs"] < 0.5


def test_documents_hold_the_known_words_in_order():
    embedding = TextEmbedding(("a", "b"), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    words = words_of("A b, c! B a\nb'a")
    assert words == ["a", "b", "c", "b", "a", "b", "a"]
    first, second, third = embedding.documents(words, length=2)
    assert torch.equal(torch.cat([first, second, third]), embedding(words))
    assert embedding.ids(words) == [0, 1, 1, 0, 1, 0]
    assert len(TextEmbedding.glove().words) == 7544


def test_files_of_vectors_and_of_text_are_read_and_what_is_none_is_refused(tmp_path):
    path = tmp_path / "vectors.npz"
    np.savez(path, words=["a", "b"], vectors=np.eye(2))
    assert TextEmbedding.from_file(path).words == ("a", "b")
    np.savez(path, words=np.array(["a", {}], dtype=object), vectors=np.eye(2))
    for content, said in (
        (path.read_bytes(), "must be an .npz file"),
        (path.read_bytes()[:60], "must be an .npz file"),
        (b"", "must be an .npz file"),
        (b"text", "must be an .npz file"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=said):
            TextEmbedding.from_file(path)
    np.savez(path, words=["a", "a"], vectors=np.eye(2))
    with pytest.raises(ValueError, match="'a' stands twice"):
        TextEmbedding.from_file(path)
    np.savez(path, words=["a", "b"], vectors=np.full((2, 2), np.nan))
    with pytest.raises(ValueError, match="NaN or infinite"):
        TextEmbedding.from_file(path)
    np.savez_compressed(path, words=["a", "b"], vectors=np.zeros((2, 2**23)))
    with pytest.raises(ValueError, match="its arrays are larger than"):
        TextEmbedding.from_file(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not UTF-8"):
        words_of_file(path)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: ari.text_regularity(planted(0.0, 1)), "two or more"),
        (lambda: ari.text_regularity(planted(0.0), dim=5), "dim must be at most 4"),
        (lambda: ari.text_regularity([d[:30] for d in planted(0.0)], dim=4), "longer than 8 dim = 32 words"),
        (lambda: ari.text_regularity(planted(0.0), dim=2, n_permutations=0), "n_permutations must be at least 2"),
        (
            lambda: ari.text_regularity(planted(0.0), dim=2, n_permutations=10**23),
            "n_permutations must be at most 1000000",
        ),
        (lambda: TextEmbedding.glove().documents(["zzzzz", "the"], length=2), "known words, 1 of 2 here, got 2"),
        (lambda: TextEmbedding.trained(["a", "b"], window=4), "words in the text must be at least 5"),
        (lambda: TextEmbedding(("a",), torch.zeros(2, 2)), "must have shape"),
        (lambda: TextEmbedding((), torch.zeros(0, 2)), "number of words must be at least 1"),
        (
            lambda: TextEmbedding.glove()("the cat"),
            r"words must be several words, got 'the cat': split a text by words_of",
        ),
        (lambda: TextEmbedding.trained("the cat sat", dim=2), "words must be several words"),
        (lambda: TextEmbedding.random(["a"], dim=2, seed=-1), "seed must be at least 0"),
        (lambda: repeats(np.zeros((6, 6), dtype=int)), r"ids must be a list of integers or words, got int64 \[6, 6\]"),
        (lambda: repeats([1, 2]), "the number of ids must be at least 5, got 2"),
        (lambda: ari.text_regularity([planted(0.0)[0], torch.ones(50, 3)], dim=2), r"one embedding, got .* \[3, 4\]"),
        (
            lambda: ari.text_regularity([planted(0.0)[0], torch.ones(50, 4)], dim=2),
            r"documents\[1\] has one vector at every",
        ),
        (
            lambda: ari.text_regularity([d[:, [0, 0, 1, 1]] for d in planted(0.0)], dim=3),
            "dim must be at most 2, what the",
        ),
    ],
)
def test_arguments_that_have_no_meaning_are_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_the_command_prints_the_table_of_a_text_and_writes_its_figure(tmp_path, capsys):
    text, page = tmp_path / "text.txt", tmp_path / "figure.html"
    text.write_text(" ".join(np.random.default_rng(0).choice(TextEmbedding.glove().words[:300], 1300)))
    command = ["text", str(text), "--length", "400", "--dim", "2", "--permutations", "3", "-o", str(page)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "a row for each of 3 documents" in said
    assert "no gain that is sure" in said
    assert "Void: random vectors give the same windows" in said
    verdicts = [line.split()[0] for line in said.splitlines() if "expected" in line]  # of `text_claims`, in order
    assert verdicts[-2:] == ["fails", "void"]  # no orthogonal matrix in random words; the published statistic
    assert "plotly" in page.read_text()
    assert main([*command[:2], "--length", "1300"]) == 2
    assert "two or more" in capsys.readouterr().err


def test_a_document_may_be_longer_than_the_one_after_it():
    long, short = planted(0.5)[:2]
    table = ari.text_regularity([long, short[:30]], dim=2, n_permutations=2).documents
    assert np.isfinite(table.to_numpy()).all()
