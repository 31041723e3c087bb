"""Every public function that runs a model, on a small model of each kind, for tests that ask the same of all."""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from torch import Tensor
from transformer_lens import FactoredMatrix

import ar_interp as ari
from ar_interp.claims import subject_of
from ar_interp.models.config import ModelConfig
from ar_interp.probes.blocks import augmented_blocks
from ar_interp.probes.chain_edits import continue_chain
from ar_interp.probes.chains import attribute, chain_accuracy, read_sources
from ar_interp.probes.edits import available_edits
from ar_interp.probes.function import function_deviation
from ar_interp.probes.jacobian import exact_circuit, full_jacobian, query_jacobian, value_jacobian
from ar_interp.probes.noise import noisy_errors
from ar_interp.probes.regression import kernel_structure, risks_by_length
from ar_interp.probes.steps import equivalent_steps_of
from ar_interp.probes.text import rolled_out
from ar_interp.studies import exhibits_of

UNITARY, PAIRS, HAAR = ari.CommutingUnitary(4), ari.CommutingOrthogonal(4), ari.HaarOrthogonal(3)
N, LENGTH = 120, 6
SIZES = {"dim": 3, "n_ctx": LENGTH}
MODELS = {
    "diagonal": (ModelConfig.diagonal(dim=4, n_heads=3, n_ctx=LENGTH), UNITARY),
    "diagonal, pairs": (ModelConfig.diagonal(dim=4, n_heads=2, n_ctx=LENGTH), PAIRS),
    "positional only": (ModelConfig.positional_only(n_ctx=LENGTH, init_scale=0.1), ari.CommutingUnitary(1, mu=20)),
    "augmented": (ModelConfig.augmented(**SIZES, heads="block-scalar"), HAAR),
    "augmented, full": (ModelConfig.augmented(dim=4, n_ctx=LENGTH), UNITARY),
    "stack": (ModelConfig.augmented(**SIZES, heads="block-scalar", n_layers=2, attention="linear/keys"), HAAR),
    "softmax": (ModelConfig.paper_figure5(**SIZES, n_layers=1, dtype="float64"), HAAR),
    "plain": (ModelConfig.full(**SIZES, n_heads=2, query_lag=0), HAAR),
    "layers": (ModelConfig.paper_figure7(**SIZES, n_heads=2, dtype="float64"), HAAR),
}
Call = Callable[[], Any]


def model_of(kind: str, device: str = "cpu") -> ari.HookedARTransformer:
    config, process = MODELS[kind]
    model, generator = ari.HookedARTransformer(config, process=process), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in model.parameters():
            weights.copy_(0.4 * torch.randn(weights.shape, generator=generator, dtype=torch.float64, device="cpu"))
    return model.to(device)


def contexts_of(kind: str, device: str = "cpu", dtype: torch.dtype = torch.float64) -> list[Any]:
    """Two samples."""
    _, process = MODELS[kind]
    return [process.contexts(N, LENGTH, seed=seed, device=device, dtype=dtype) for seed in (0, 1)]


def probes(model: Any, a: Any, b: Any, **options: Any) -> dict[str, Call]:
    """Every probe, also those that refuse such a model; with options of those that work on contexts."""
    hook, tokens = f"blocks.{model.config.n_layers - 1}.hook_attn_out", a.inputs
    found: dict[str, Call] = {
        f"{probe.__name__}": lambda probe=probe: probe(model)
        for probe in (ari.head_orthogonality, ari.positional_structure, augmented_blocks)
    }
    found |= {
        f"{probe.__name__}": lambda probe=probe: probe(model, a, **options)
        for probe in (
            ari.recover_context, ari.identify_algorithm, ari.path_contributions, ari.replace_last_token, ari.scrub,
            equivalent_steps_of, ari.ablate_layers,
        )
    }  # fmt: skip
    found |= {
        f"{probe.__name__}": lambda probe=probe: probe(model, tokens, **options)
        for probe in (query_jacobian, value_jacobian, full_jacobian, exact_circuit)
    }
    found |= {
        f"{probe.__name__}, {method}": lambda probe=probe, method=method: probe(model, a, method=method, **options)
        for probe in (ari.ablate_heads, ari.ablate_positions)
        for method in ("zero", "mean", "resample")
    }
    edits = available_edits(model)
    if model.config.heads == "diagonal":
        along = {0: model, 1: model.untrained(2)}
        found["structure_along"] = lambda: ari.structure_along(along, model.process)
    return found | {
        "recover_context, full": lambda: ari.recover_context(model, a, kind="full", **options),
        "scrub by keys": lambda: ari.scrub(model, a, [0, 1], **options),
        "swap_context": lambda: ari.swap_context(model, a, b, **options),
        "swap_context, keys and values": lambda: ari.swap_context(model, a, b, what="keys and values", **options),
        "circuits": lambda: ari.circuits(model, n_untrained=2),
        "function_deviation": lambda: function_deviation(model, contexts=tokens),
        "outside_errors": lambda: ari.outside_errors(model, n=16, **options),
        "probe_activations": lambda: ari.probe_activations(model, a, hooks=[hook], positions=[LENGTH], **options),
        "data_efficiency": lambda: ari.data_efficiency(model, a, hook=hook, **options),
        **{f"edit {edit}": lambda edit=edit: ari.edit_losses(model, edit, [0.5], n=16, **options) for edit in edits},
        "run_with_cache": lambda: dict(model.run_with_cache(tokens)[1].items()),
        **{
            f"estimator {estimator.__class__.__name__}": lambda estimator=estimator: estimator.estimate(a.pairs())
            for estimator in (ari.estimators.OLS(), ari.estimators.DiagonalOLS(), ari.estimators.LastToken())
        },
    }


def neighbours() -> dict[str, Call]:
    """Probes of chains, prompts, noise, emergence and text, each on a shipped model or text."""
    chain, prompts, noise = (ari.load(name) for name in ("chain-parity-running", "regression-smooth", "noisy-haar-l1"))
    few, stages = chain.process.contexts(6, seed=0), ari.load("emergence-anisotropic")
    embedding = ari.TextEmbedding.glove()
    words = [embedding.words[k] for k in np.random.default_rng(0).integers(0, 300, 200)]
    return {
        "attribute": lambda: attribute(chain.model, few),
        "chain_accuracy": lambda: chain_accuracy(chain.model, few, without=(0, 1)),
        "read_sources": lambda: read_sources(chain.model, few),
        "continue_chain": lambda: continue_chain(chain.model, few.tokens[0, : few.n_prompt].tolist()),
        "logits": lambda: chain.model(few.inputs).detach(),
        "kernel_structure": lambda: kernel_structure(prompts.model),
        "risks_by_length": lambda: risks_by_length(prompts.model, n=8, lengths=[2]),
        "noisy_errors": lambda: noisy_errors(noise.model, n=4, n_ctx=4),
        "descent_along": lambda: ari.descent_along(stages),
        "stage_times": lambda: ari.stage_times(stages),
        "sign_pattern": lambda: ari.sign_pattern(stages.model),
        "text_regularity": lambda: ari.text_regularity(embedding.documents(words, length=100), dim=2, n_permutations=2),
        "rolled_out": lambda: rolled_out(words, embedding, n=20),
    }


def judgements(model: Any, n: int = 8) -> dict[str, Call]:
    """`verify`, every `assert_*`, and every figure of the report."""
    subject = subject_of(model, n=max(n, 128), seed=3)
    asked = [
        getattr(ari.testing, name)
        for name in ari.testing.__all__
        if name.startswith("assert_") and name != "assert_claim"
    ]
    return {
        "verify": lambda: ari.verify(model, seed=3, n=n),
        **{one.__name__: lambda one=one: one(model) for one in asked},
        **{f"figure {one.name}": lambda one=one: drawn(one, subject) for one in exhibits_of(subject)},
    }


def drawn(exhibit: Any, subject: Any) -> Any:
    """The figure of an exhibit at the first values of its controls."""
    values = {control.name: control.default for control in exhibit.controls(subject)}
    return exhibit.draw(subject, exhibit.result(subject, values, {}), **values)


def outcome(call: Call) -> Any:
    """What a call gives as numbers on the CPU, or the error that it refuses with."""
    try:
        return plain(call())
    except (ValueError, AssertionError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"


def plain(found: Any) -> Any:
    """Numbers, arrays and texts in dictionaries."""
    if isinstance(found, Tensor):
        return found.detach().cpu().resolve_conj().numpy()
    if isinstance(found, ari.Claims):
        return [plain(vars(claim) if not is_dataclass(claim) else claim) for claim in found]
    if isinstance(found, pd.DataFrame):
        return {str(name): column.to_numpy() for name, column in found.items()}
    if isinstance(found, go.Figure):
        return plain(found.to_plotly_json())
    if isinstance(found, FactoredMatrix):
        return [plain(found.A), plain(found.B)]
    if is_dataclass(found) and not isinstance(found, type):
        return {field.name: plain(getattr(found, field.name)) for field in fields(found)}
    if isinstance(found, Mapping):
        return {str(name): plain(value) for name, value in found.items()}
    if isinstance(found, tuple | list):
        return [plain(value) for value in found]
    return found


def differences(found: Any, expected: Any, tolerance: float, where: str = "", *, floor: float = 0.0) -> list[str]:
    """Where two outcomes are apart by more than a share of the largest number there, and than `floor`."""
    if type(found) is not type(expected):
        return [f"{where}: {found!r:.300} is not {expected!r:.300}"]
    if isinstance(expected, Mapping):
        if found.keys() != expected.keys():
            return [f"{where}: {sorted(found)} are not {sorted(expected)}"]
        return [
            line
            for name in expected
            for line in differences(found[name], expected[name], tolerance, f"{where}.{name}", floor=floor)
        ]
    if isinstance(expected, list):
        if len(found) != len(expected):
            return [f"{where}: {len(found)} are not {len(expected)}"]
        pairs = enumerate(zip(found, expected, strict=True))
        return [line for i, (x, y) in pairs for line in differences(x, y, tolerance, f"{where}[{i}]", floor=floor)]
    if (isinstance(expected, np.ndarray) and expected.dtype.kind in "fc") or isinstance(expected, float):
        x, y = np.asarray(found), np.asarray(expected)
        if x.shape != y.shape:
            return [f"{where}: shapes {x.shape}, {y.shape}"]
        scale = np.nanmax(np.abs(np.where(np.isfinite(y), y, 0)), initial=0)
        same = np.isclose(x, y, rtol=tolerance, atol=max(floor, tolerance * scale), equal_nan=True)
        return [] if same.all() else [f"{where}: {x[~same][:3]} are not {y[~same][:3]}"]
    same = np.array_equal(found, expected) if isinstance(expected, np.ndarray) else found == expected
    return [] if same else [f"{where}: {found!r:.300} is not {expected!r:.300}"]
