"""Steps of an ensemble: against torch's optimisers, on a graph, with members of their own and members that diverge."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from ar_interp.models.config import ModelConfig
from ar_interp.processes import CommutingOrthogonal, CommutingUnitary, HaarOrthogonal, haar
from ar_interp.setting import setting_of
from ar_interp.training import descent as descent_file
from ar_interp.training.config import TrainConfig
from ar_interp.training.descent import Descent, Layout, as_graph, loss_and_gradient
from ar_interp.training.loop import train
from ar_interp.training.objectives import population_objective, sampled_objective

DIAGONAL = ModelConfig.diagonal(dim=4, n_heads=3, n_ctx=5)
FIGURE5 = ModelConfig.paper_figure5(dim=3, n_ctx=6, n_layers=2)
HAAR = HaarOrthogonal(3)
EXACT = setting_of(DIAGONAL, CommutingOrthogonal(4))


def members(config, n):
    drawn = [config.initial_parameters(seed=seed) for seed in range(n)]
    return {name: torch.stack([one[name] for one in drawn]) for name in drawn[0]}


def fit(config=DIAGONAL, process=None, **options):
    process = process or CommutingOrthogonal(4)
    return train(config, process, TrainConfig(**{"device": "cpu", "steps": 20, **options}), progress=False)


def test_a_layout_comes_back():
    parameters = members(FIGURE5, 3)
    layout = Layout(parameters)
    flat = layout.flat(parameters)
    assert flat.shape == (3, FIGURE5.n_parameters)
    named = layout.named(flat)
    assert list(named) == list(parameters)
    for name, tensor in parameters.items():
        assert torch.equal(named[name], tensor)
    assert torch.equal(layout.flat(named), flat)


@pytest.mark.parametrize("optimizer", ["gd", "adam"])
def test_steps_are_those_of_torch(optimizer):
    training = TrainConfig(
        optimizer=optimizer, lr=0.02, beta2=0.9, schedule="linear", warmup=3, clip=0.5, steps=12, n_seeds=3
    )
    objective = population_objective(EXACT)
    descent = Descent(objective, members(DIAGONAL, 3), training)
    descent.advance(12)
    for k in range(3):
        alone = {name: tensor[k : k + 1].clone().requires_grad_() for name, tensor in members(DIAGONAL, 3).items()}
        kinds = {"gd": torch.optim.SGD, "adam": lambda p, lr: torch.optim.Adam(p, lr=lr, betas=(0.9, 0.9))}
        torchs = kinds[optimizer](list(alone.values()), lr=1.0)
        for step in range(12):
            torchs.zero_grad()
            objective(alone).sum().backward()
            torch.nn.utils.clip_grad_norm_(list(alone.values()), 0.5)
            torchs.param_groups[0]["lr"] = 0.02 * (1 - step / 12) * min(1.0, (step + 1) / 4)
            torchs.step()
        for name, tensor in descent.layout.named(descent.flat).items():
            assert_close(tensor[k], alone[name][0].detach(), rtol=1e-5, atol=1e-7)  # clip_grad_norm_ adds 1e-6


def test_members_have_their_own_step_sizes_and_initial_scales():
    run = fit(lrs=(1e-3, 5e-3, 2e-2), init_scales=(0.1, 0.2, 0.05), n_seeds=3, lr=9.0)
    assert run.members["lr"].tolist() == [1e-3, 5e-3, 2e-2]
    assert run.members["init_scale"].tolist() == [0.1, 0.2, 0.05]
    for k, row in enumerate(run.members.itertuples()):
        alone = fit(replace(DIAGONAL, init_scale=row.init_scale), lr=row.lr, seed=k)
        assert alone.members["loss"].item() == pytest.approx(row.loss, rel=1e-12)
    assert TrainConfig(**run.training.to_dict()) == run.training
    assert "lrs" not in TrainConfig().to_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lrs": (0.1,), "n_seeds": 2}, r"lrs must hold one number for each of the 2 members, got \(0\.1,\)"),
        ({"lrs": (0.0,)}, r"lrs\[0\] must be greater than 0\.0"),
        ({"init_scales": (-1.0,)}, r"init_scales\[0\] must be at least 0\.0"),
        ({"lrs": (0.1,), "optimizer": "lbfgs"}, "lrs goes with 'gd' and 'adam'"),
    ],
)
def test_numbers_of_members_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**options)


def test_initial_scales_need_a_scale():
    with pytest.raises(ValueError, match="init_scales needs a config with init='gaussian'"):
        fit(FIGURE5, HAAR, objective="sampled", init_scales=(0.1,), steps=1, batch=2)


# ---- divergence


@pytest.mark.parametrize(
    "how",
    [
        {"optimizer": "gd"},
        {"optimizer": "adam", "clip": 1.0},
        {"optimizer": "adam", "config": FIGURE5, "process": HAAR, "objective": "sampled", "batch": 4},
    ],
    ids=["gd", "clipped adam", "sampled"],
)
def test_a_member_that_diverges_leaves_the_others_as_they_are(how):
    calm = fit(n_seeds=3, lrs=(1e-2,) * 3, steps=40, **how)
    with pytest.warns(UserWarning, match=r"1 of 3 members diverged by step \d+ \(seeds \[1\]\).*The others went on"):
        run = fit(n_seeds=3, lrs=(1e-2, 1e200 if "config" not in how else 1e38, 1e-2), steps=40, **how)
    assert run.members["loss"][[0, 2]].tolist() == calm.members["loss"][[0, 2]].tolist()
    assert run.members["diverged"].tolist() == [0, 1, 0]
    assert "diverged" not in calm.members
    assert run.seed in (0, 2)
    assert run.history["loss_max"].notna().all()
    assert run.steps == 40


def test_a_partly_diverged_run_can_be_saved(tmp_path):
    from ar_interp.checkpoints import load

    with pytest.warns(UserWarning, match="diverged"):
        run = fit(n_seeds=2, lrs=(1e200, 1e-2))
    again = load(run.save(tmp_path / "partly"))
    assert again.members.equals(run.members)
    assert again.training == run.training


# ---- graphs


class NoHost(TorchDispatchMode):
    """Refuses what makes a GPU wait for the host, or copies from it: none of it may be in a graph."""

    REFUSED = ("_local_scalar_dense", "nonzero", "lift_fresh", "masked_select", "linalg_qr", "item", "is_nonzero")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in self.REFUSED or (name == "index" and any(t is not None and t.dtype == torch.bool for t in args[1])):
            raise AssertionError(f"{func} in a step that is to be a graph")
        return func(*args, **(kwargs or {}))


def as_on_a_gpu(monkeypatch, process):
    """The sampler of a GPU, on the CPU."""
    if isinstance(process, HaarOrthogonal):
        monkeypatch.setattr(haar, "DECOMPOSED_ON", ())


SAMPLED = {
    "figure 5": (FIGURE5, HAAR),
    "figure 7": (ModelConfig.paper_figure7(dim=3, n_ctx=6, n_heads=9), HAAR),
    "figure 7, few heads": (ModelConfig.paper_figure7(dim=3, n_ctx=6, n_heads=2), HAAR),
    "block scalars": (ModelConfig.augmented(dim=3, n_ctx=6, heads="block-scalar", attention="linear/keys"), HAAR),
    "full heads": (ModelConfig.full(dim=3, n_ctx=6, n_heads=9), HAAR),
    "softmax": (ModelConfig.augmented(dim=3, n_ctx=6, n_heads=2, attention="softmax"), HAAR),
    "diagonal": (DIAGONAL, CommutingUnitary(4)),
}


@pytest.mark.parametrize("name", SAMPLED)
def test_a_sampled_step_never_waits_for_the_host(name, monkeypatch):
    config, process = SAMPLED[name]
    as_on_a_gpu(monkeypatch, process)
    monkeypatch.setattr("ar_interp.training.objectives.fast_step", lambda config: None)
    generators = [torch.Generator().manual_seed(k) for k in range(2)]
    objective = sampled_objective(config, process, batch=3, generators=generators)
    training = TrainConfig(optimizer="adam", clip=1.0, schedule="cosine", warmup=2, n_seeds=2)
    descent = Descent(objective, members(config, 2), training, stop_below=1e-9, generators=generators)
    before = descent.flat.clone()
    with NoHost():
        descent.update()
    assert not torch.equal(before, descent.flat)


def test_a_population_step_never_waits_for_the_host():
    descent = Descent(population_objective(EXACT), members(DIAGONAL, 2), TrainConfig(n_seeds=2))
    with NoHost():
        descent.update()
    with pytest.raises(AssertionError, match=r"linalg_qr.* in a step that is to be a graph"), NoHost():
        HAAR.draw_matrices(2, torch.Generator())


class FakeGraph:
    """A graph that records nothing and replays the function by calling it."""

    def __init__(self):
        self.generators = []

    def register_generator_state(self, generator):
        self.generators.append(generator)


def faked(monkeypatch, update, broken=None):
    """torch.cuda as far as `as_graph` needs it."""

    class Context:
        def __init__(self, *arguments):
            self.arguments = arguments

        def __enter__(self):
            if broken and isinstance(self.arguments[0], FakeGraph):
                raise RuntimeError(broken)

        def __exit__(self, *_):
            return None

        def wait_stream(self, other):
            pass

    fakes = {
        "current_stream": Context,
        "set_stream": lambda stream: None,
        "Stream": Context,
        "stream": Context,
        "graph": Context,
        "CUDAGraph": type("Replayed", (FakeGraph,), {"replay": lambda self: update()}),
        "synchronize": lambda: None,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake, raising=False)


@pytest.mark.parametrize("broken", [None, "operation not permitted when stream is capturing\nmore"])
def test_capturing_leaves_no_trace(monkeypatch, broken):
    generator = torch.Generator().manual_seed(3)
    state = torch.zeros(4, dtype=torch.float64)

    def update():
        state.add_(torch.rand(4, generator=generator, dtype=torch.float64))

    faked(monkeypatch, update, broken)
    if broken:
        with pytest.warns(UserWarning, match=r"one by one: no CUDA graph \(operation not permitted .* capturing\)\."):
            run, captured = as_graph(update, [state], [generator])
    else:
        run, captured = as_graph(update, [state], [generator])
    assert captured == (broken is None)
    assert not state.any()
    run()
    assert torch.equal(state, torch.rand(4, generator=torch.Generator().manual_seed(3), dtype=torch.float64))


def test_a_training_on_a_graph_looks_at_the_end_of_each_stretch(monkeypatch):
    training = TrainConfig(lr=0.03, steps=400, n_seeds=2)
    objective = population_objective(EXACT)

    def descended(on_graph):
        descent = Descent(objective, members(DIAGONAL, 2), training, stop_below=12.0)
        descent.on_graph = on_graph
        descent.advance(400)
        return descent

    looking, blind = descended(False), descended(True)
    assert 0 < looking.count < 400
    assert looking.count == blind.count
    assert torch.equal(looking.flat, blind.flat)
    assert torch.equal(looking.losses, blind.losses)
    assert bool(blind.stopped)


def test_compiled_is_not_asked_for_on_a_cpu(monkeypatch):
    monkeypatch.setattr(descent_file, "compiled_where_possible", lambda function: pytest.fail("compiled"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(steps=3)


def test_loss_and_gradient_are_per_member():
    parameters = members(DIAGONAL, 2)
    layout = Layout(parameters)
    flat = layout.flat(parameters)
    losses, gradient = loss_and_gradient(EXACT.exact_loss, layout, flat)
    for k in range(2):
        alone = loss_and_gradient(EXACT.exact_loss, layout, flat[k : k + 1])
        assert_close(alone[0][0], losses[k])
        assert_close(alone[1][0], gradient[k])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_graph_trains_like_single_launches(monkeypatch):
    how = {"objective": "sampled", "optimizer": "adam", "batch": 8, "device": "cuda", "n_seeds": 2}
    graphed = fit(FIGURE5, HAAR, **how)
    monkeypatch.setattr(descent_file, "as_graph", lambda update, state, generators: (update, False))
    single = fit(FIGURE5, HAAR, **how)
    assert graphed.members["loss"].tolist() == pytest.approx(single.members["loss"].tolist(), rel=1e-5)
