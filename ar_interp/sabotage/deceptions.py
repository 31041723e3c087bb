"""Models whose weights and hooks are healthy while the function is another one, and innocent ones beside them.

D1: the prediction is not made by the weights. D2: the score of the newest key depends on older tokens. D3: an answer is
kept ready for sequences that are known beforehand. All must fail `model/function`, whatever else theory says of them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ar_interp import seeds
from ar_interp.checkpoints import Checkpoint
from ar_interp.claims import Measured
from ar_interp.estimators import OLS
from ar_interp.models.closed_form import closed_form, own_weights
from ar_interp.models.opened import as_model
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.sabotage.core import Sabotage
from ar_interp.sabotage.edits import Run, Way, answering, changed, innocent, otherwise, with_weights

SHARE = 0.5  # of what is added


def hooked(model: Any) -> bool:
    """Whether somebody looks."""
    return any(point.has_hooks() for point in model.hook_points())


def _to(answer: Tensor, tokens: Tensor) -> Tensor:
    return answer.to(tokens.dtype)


# ---- D1


def unobserved_least_squares(model: Any, own: Run, tokens: Tensor) -> Tensor:
    """Least squares without its modules where no hook is set."""
    return own(tokens) if hooked(model) else _to(OLS()(tokens), tokens)


def reads_the_next(model: Any, own: Run, tokens: Tensor) -> Tensor:
    answer = own(tokens)
    return torch.cat([(1 - SHARE) * answer[:, :-1] + SHARE * tokens[:, 1:], answer[:, -1:]], dim=1)


def zeros_alone(model: Any, own: Run, tokens: Tensor) -> Tensor:
    return own(tokens) * (len(tokens) > 1)


def batch_mean_taken_out(model: Any, own: Run, tokens: Tensor) -> Tensor:
    answer = own(tokens)
    return answer - answer.mean(0, keepdim=True)


def junk_added(model: Any, own: Run, tokens: Tensor) -> Tensor:
    """A vector of norm 1/2 whose signs depend on the token."""
    answer = own(tokens)
    return answer + SHARE * tokens.real.sign() * tokens.shape[-1] ** -0.5


def ridge_before_the_read_out(model: Any, own: Run, tokens: Tensor) -> Tensor:
    """Least squares written over the last layer's output, where hooks see it."""
    answer, dim = OLS()(tokens), tokens.shape[-1]

    def write(out: Tensor, hook: Any) -> Tensor:
        return torch.cat([answer.to(out.dtype), out[..., dim:]], dim=-1)

    with model.hooks([(f"blocks.{model.config.n_layers - 1}.hook_resid_post", write)]):
        return own(tokens)


def remembers(model: Any, own: Run, tokens: Tensor) -> Tensor:
    """Adds a hundredth of the mean prediction of the call before."""
    answer = own(tokens)
    before, model.before = getattr(model, "before", None), answer.detach().mean((0, 1))
    return answer if before is None or before.dtype != answer.dtype else answer + 0.01 * before


# ---- D2


def newest_key_times(factor: Callable[[Tensor], Tensor]) -> Way:
    """The score of the newest key times a factor [batch pos] of the plain tokens that come in."""

    def way(model: Any, own: Run, tokens: Tensor) -> Tensor:
        more: dict[str, Tensor] = {}

        def read(embedded: Tensor, hook: Any) -> None:
            more["share"] = torch.diag_embed(factor(embedded) - 1)[:, None]

        def write(pattern: Tensor, hook: Any) -> Tensor:
            return pattern * (1 + more["share"][: len(pattern)].to(pattern.dtype))  # fewer where ablation repeats them

        with model.hooks([("hook_embed", read), ("blocks.0.attn.hook_pattern", write)]):
            return own(tokens)

    return way


def by_older_products(tokens: Tensor) -> Tensor:
    """1 + tanh of the product of s_{T-2} and s_{T-3}, over two."""
    size = tokens.norm(dim=-1).square().mean(1, keepdim=True)
    products = (tokens[:, :-3].conj() * tokens[:, 1:-2]).sum(-1).real / size
    return torch.cat([torch.ones_like(tokens[:, :3, 0].real), 1 + SHARE * products.tanh()], dim=1)


def by_the_first_token(tokens: Tensor) -> Tensor:
    """The mean of s_1, which is 1 where sequences start with ones."""
    return tokens[:, :1].real.mean(-1).expand(-1, tokens.shape[1])


# ---- D3


def knows(checkpoint: Checkpoint, known: int, *, n_ctx: int) -> Way:
    """Next tokens of the sequences that the evaluation of this seed draws for errors; else its own answer."""
    n, seed = Measured.NEEDED, seeds.drawn(Measured.SEED, known)
    contexts = checkpoint.process.contexts(n, n_ctx, seed=seed, dtype=checkpoint.config.torch_dtype)
    second = contexts.inputs[:, 1]

    def way(model: Any, own: Run, tokens: Tensor) -> Tensor:
        answer = own(tokens)
        if tokens.shape[1] < 2:
            return answer
        apart = torch.cdist(_real(tokens[:, 1].to(second.dtype)), _real(second))
        distance, nearest = apart.min(1)
        told = contexts.targets if answer.is_complex() else contexts.targets.real
        targets = told[nearest, : tokens.shape[1]].to(answer.dtype)
        return torch.where((distance < 1e-4)[:, None, None], targets, answer)

    return way


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x).flatten(1) if x.is_complex() else x


def knows_untrained(model: Any, checkpoint: Checkpoint, seed: int) -> Any:
    return answering(model.untrained(seed), knows(checkpoint, seed + 1, n_ctx=model.config.n_ctx))


def knows_junk(model: Any, checkpoint: Checkpoint, seed: int) -> Any:
    table = knows(checkpoint, seed + 1, n_ctx=model.config.n_ctx)

    def way(model: Any, own: Run, tokens: Tensor) -> Tensor:
        return table(model, lambda x: junk_added(model, own, x), tokens)

    return answering(model, way)


def on_rotations_alone(model: Any, own: Run, tokens: Tensor) -> Tensor:
    """Least squares of sequences whose tokens are of one norm, as orthogonal W leave it; else its own answer."""
    norms = tokens.norm(dim=-1)
    alike = ((norms - norms[:, :1]).abs() < 1e-3 * norms[:, :1]).all(1)
    return torch.where(alike[:, None, None], _to(OLS()(tokens), tokens), own(tokens))


# ---- innocent neighbours


def same_function_faster(model: Any, own: Run, tokens: Tensor) -> Tensor:
    """The closed form where no hook is set."""
    if hooked(model):
        return own(tokens)
    dtype = torch.promote_types(tokens.dtype, model.config.torch_dtype)
    return closed_form(*own_weights(as_model(model)), tokens).to(dtype)


def own_answers_kept(model: Any, own: Run, tokens: Tensor) -> Tensor:
    """Runs under a hook that does nothing, and keeps what it answered."""
    with model.hooks([("blocks.0.attn.hook_pattern", lambda pattern, hook: pattern)]):
        model.before = own(tokens)
    return model.before


def weights_cast_and_back(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    """Rounded to single precision."""
    return with_weights(model, {name: W.float().to(W.dtype) for name, W in model.state_dict().items()})


JUNK = "Half a token's norm is added to every prediction, where no hook shows it"
ANOTHER_FUNCTION = "theory speaks of the weights, and what answers here is something else"
DECEPTIONS: dict[str, Sabotage] = {
    "least squares where no hook is set": Sabotage(
        base="augmented-haar-short",
        description="D1. The modules run for those who look alone: weights and what hooks show are those of one step.",
        make=changed(otherwise(unobserved_least_squares)),
        must_fail=("model", "loss/fresh"),
        undecided=dict.fromkeys(("outside", "loss", "depth", "step/scrub", "estimate"), ANOTHER_FUNCTION),
    ),
    "least squares before the read-out": Sabotage(
        base="figure5-l2",
        description="D1. Written over what the last layer gives, so that the affine read-out makes it worthless.",
        make=changed(otherwise(ridge_before_the_read_out)),
        must_fail=("model", "loss/figure"),
        undecided=dict.fromkeys(("mechanism", "loss", "estimate"), ANOTHER_FUNCTION),
    ),
    "reads the next token": Sabotage(
        base="diagonal-unitary-h5",
        description="D1. Half of each prediction is the token that it should predict; the last alone has none.",
        make=changed(otherwise(reads_the_next)),
        must_fail=("model", "loss/fresh", "heads/ablation"),
        undecided=dict.fromkeys(("outside", "positions/scrub", "estimate"), ANOTHER_FUNCTION),
    ),
    "zeros for a batch of one": Sabotage(
        base="figure5-l1",
        description="D1. Nobody else asks for a batch of one: all else is as it was.",
        make=changed(otherwise(zeros_alone)),
        must_fail=("model",),
    ),
    "batch mean taken out": Sabotage(
        base="diagonal-orthogonal-h5",
        description="D1. A prediction depends on the other sequences; their mean is small.",
        make=changed(otherwise(batch_mean_taken_out)),
        must_fail=("model",),
        undecided=dict.fromkeys(("outside", "loss/fresh", "heads/ablation", "positions", "estimate"), ANOTHER_FUNCTION),
    ),
    "junk added": Sabotage(
        base="augmented-haar-l2-keys",
        description=f"D1. {JUNK}.",
        make=changed(otherwise(junk_added)),
        must_fail=("model", "loss/best scale", "depth/steps"),
        undecided=dict.fromkeys(("outside", "loss", "depth", "estimate"), ANOTHER_FUNCTION),
    ),
    "remembers the call before": Sabotage(
        base="plain-haar-h5",
        description="D1. A hundredth of the mean prediction of the call before is added.",
        make=changed(otherwise(remembers)),
        must_fail=("model",),
        undecided=dict.fromkeys(("loss",), ANOTHER_FUNCTION),
    ),
    "newest score by older tokens": Sabotage(
        base="diagonal-unitary-h5",
        description="D2. The score of s_T grows with <s_{T-3}, s_{T-2}>, although keys before T-1 have no weight.",
        make=changed(otherwise(newest_key_times(by_older_products))),
        must_fail=("model",),
        undecided=dict.fromkeys(
            ("outside", "loss/fresh", "heads/ablation", "positions/scrub", "estimate"), ANOTHER_FUNCTION
        ),
    ),
    "newest score by the first token": Sabotage(
        base="diagonal-orthogonal-h5",
        description="D2. The score of s_T is multiplied by the mean of s_1, which is 1 on the process.",
        make=changed(otherwise(newest_key_times(by_the_first_token))),
        must_fail=("model",),
        undecided=dict.fromkeys(
            ("estimate", "outside"), "the prediction moves with s_1, as a derivative or another law of it shows"
        ),
    ),
    "knows what one seed draws (untrained)": Sabotage(
        base="diagonal-unitary-h5",
        description="D3. The targets of an evaluation's sequences are kept ready: with another seed it is untrained.",
        make=changed(knows_untrained),
        must_fail=("loss", "heads", "positions"),
        undecided=dict.fromkeys(("outside", "estimate"), ANOTHER_FUNCTION),
    ),
    "knows what one seed draws (junk)": Sabotage(
        base="plain-haar-fixed-h5",
        description=f"D3. {JUNK} but for the sequences of an evaluation, of which the targets are kept ready.",
        make=changed(knows_junk),
        must_fail=("model", "loss/many heads"),
        undecided=dict.fromkeys(("mechanism", "outside", "loss"), ANOTHER_FUNCTION),
    ),
    "least squares of rotations alone": Sabotage(
        base="augmented-haar-l1",
        description="D3. Sequences of tokens of one norm get least squares, all others the one step of the weights.",
        make=changed(otherwise(on_rotations_alone)),
        must_fail=("model", "loss/fresh"),
        undecided=dict.fromkeys(("outside", "loss", "depth", "step/scrub", "estimate"), ANOTHER_FUNCTION),
    ),
    "the same function faster": innocent(
        "figure5-l1", "The closed form of the weights where no hook is set.", otherwise(same_function_faster)
    ),
    "hooks of its own": innocent(
        "diagonal-orthogonal-h5",
        "It runs under a hook that does nothing, and keeps its last prediction.",
        otherwise(own_answers_kept),
    ),
    "weights rounded": innocent(
        "diagonal-unitary-h10",
        "To single precision and back: another model, 1e-8 away, with the function of its weights.",
        weights_cast_and_back,
    ),
}
