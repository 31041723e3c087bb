"""What theory says one should see, in words: the titles of the figures."""

from dataclasses import dataclass

from ar_interp.models.config import ModelConfig
from ar_interp.processes import CommutingProcess, Process
from ar_interp.theory import orthogonal_minimum, unitary_minimum


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The theory's expectation at a global minimum, for one family and number of heads.

    Source: Sander et al. 2024, non-augmented tokens (see `ar_interp.theory` for the statements as numbers).

    Attributes:
        process: the family that the model was trained on.
        n_heads: of the model.
    """

    process: CommutingProcess
    n_heads: int

    @property
    def minimum(self) -> float:
        """Smallest loss per context length, summed over the coordinates."""
        least = orthogonal_minimum if self.process.conjugate_pairs else unitary_minimum
        return least(dim=self.process.dim, n_heads=self.n_heads)

    @property
    def exact(self) -> bool:
        """Every sequence is predicted without error."""
        return self.minimum == 0

    @property
    def slow(self) -> bool:
        """The angles fill only a part of the circle, and descent is stopped long before its optimum."""
        return self.process.mu > 4

    @property
    def kappa_is_one(self) -> bool:
        """The heads are too few for any other kappa."""
        return self.process.conjugate_pairs and self.n_heads < self.process.dim

    @property
    def context(self) -> str:
        if self.slow:
            return "In theory the optimum knows W from T = 2 on; training that is stopped early leaves an error"
        if self.exact:
            return "In theory the model knows W exactly from T = 2 on; OLS needs T = d + 1"
        return f"In theory an error of {self.minimum:g}/d remains at every T: the heads are too few to carry W"

    @property
    def estimate(self) -> str:
        if self.exact:
            return "In theory the estimate Ŵ equals W: the two pairs of panels look the same"
        return "In theory Ŵ keeps only what few heads can carry: its entries fall short of those of W"

    @property
    def circle(self) -> str:
        if self.slow:
            return "In theory the newest key alone carries a part of λ; older keys add the rest"
        if self.kappa_is_one:
            return "In theory the heads alone carry 2 cos θ, on the real line; older keys turn it into λ"
        if self.process.conjugate_pairs:
            return "In theory the heads alone carry λ + κ λ̄; older keys turn it into λ"
        if self.exact:
            return "In theory the heads carry λ itself: every dot lies in its circle"
        return "In theory the heads are too few to carry every λ: the dots fall short of their circles"

    @property
    def prediction(self) -> str:
        if self.slow:
            return "In theory the prediction of a model that is stopped early is close to the next token, not equal"
        if self.exact:
            return "In theory the prediction is the next token: every dot lies in its circle"
        return "In theory few heads cannot predict every coordinate: some dots miss their circles"

    @property
    def heads(self) -> str:
        n_heads, dim = self.n_heads, self.process.dim
        if self.process.conjugate_pairs:
            if not self.kappa_is_one:
                return "In theory C = BᵀA has equal 2×2 blocks c [[1, κ], [κ, 1]] and nothing else; any κ but −1"
            if n_heads < dim // 2:
                return f"In theory C = BᵀA has {n_heads} equal 2×2 blocks of ones, one pair per head; ABᵀ is 2c I"
            across = "is 2c I" if n_heads == dim // 2 else f"has {dim // 2} eigenvalues 2c"
            return f"In theory C = BᵀA has equal 2×2 blocks of ones (κ = 1), nothing else; ABᵀ {across}"
        if n_heads < dim:
            return f"In theory C = BᵀA is c times a projector of rank {n_heads}, and ABᵀ is c I"
        across = "ABᵀ too" if n_heads == dim else f"ABᵀ is c times a projector of rank {dim}"
        return f"In theory C = BᵀA is c times the identity, and {across}"

    @property
    def spectrum(self) -> str:
        n_heads, dim = self.n_heads, self.process.dim
        if self.process.conjugate_pairs:
            if not self.kappa_is_one:
                return f"In theory {dim // 2} singular values are |c (1 + κ)| and {dim // 2} are |c (1 − κ)|"
            return f"In theory {min(n_heads, dim // 2)} singular values of C are 2|c| and the rest are zero"
        rest = " and the rest are zero" if n_heads < dim else ""
        return f"In theory {min(n_heads, dim)} singular values of C are |c|{rest}"

    @property
    def statistics(self) -> str:
        if self.process.conjugate_pairs and not self.kappa_is_one:
            return "In theory C is a multiple of a projector only at κ = 0 or 1; at any other κ the defects stay"
        if self.process.conjugate_pairs and self.n_heads > self.process.dim // 2:
            return "In theory the projector defect of C vanishes; more heads than pairs leave M and the cosines free"
        if self.n_heads > self.process.dim:
            return "In theory both projector defects vanish; |M/m − I| and the cosines do not (H > d)"
        return "In theory the defects and cos(a,b) vanish; cos(a,a) is small after descent from small weights"

    @property
    def positional(self) -> str:
        if self.slow:
            return "In theory the optimum is p<sub>T</sub> alone; training stopped early spreads over older keys"
        if self.kappa_is_one:
            return "In theory two keys are used, p<sub>T</sub> = 1/c and p<sub>T−1</sub> = −p<sub>T</sub>/2"
        if self.process.conjugate_pairs:
            return "In theory two keys are used: p<sub>T−1</sub>/p<sub>T</sub> = −κ/(1 + κ), p<sub>T</sub> = 1/c"
        return "In theory only the newest key is used, p<sub>T</sub> = 1/c"

    @property
    def ratio(self) -> str:
        if self.process.conjugate_pairs:
            return "In theory p<sub>T−1</sub>/p<sub>T</sub> = −κ/(1 + κ) at every T, with κ read from the heads"
        return "In theory p<sub>T−1</sub>/p<sub>T</sub> = 0 at every T"

    @property
    def residual(self) -> str:
        if self.slow:
            return "In theory training that is stopped early leaves a residual far above rounding"
        if self.exact:
            return "In theory the prediction is exact at every angle, up to rounding"
        return "In theory few heads cannot be exact: the residual stays far from zero at every angle"


@dataclass(frozen=True, kw_only=True)
class ExpectedGeneral:
    """What one should see of any other model, where less is known.

    Source: Sander et al. 2024, augmented tokens, for one linear layer.

    Attributes:
        config: of the model.
    """

    config: ModelConfig

    @property
    def minimum(self) -> None:
        """No closed form."""

    @property
    def context(self) -> str:
        config = self.config
        if config.encoding == "plain":
            return "What the newest value carries is compared with W; OLS knows W from T = d + 1 on"
        if config.n_layers == 1 and config.linear and not config.layer_norm and not config.d_mlp:
            return "In theory one linear layer takes one gradient step: an error remains at every T"
        return "Deeper than one gradient step the error should fall with T; OLS knows W from T = d + 1 on"

    @property
    def estimate(self) -> str:
        return "The nearer the estimate Ŵ is to W, the more alike the panels look"

    @property
    def circle(self) -> str:
        return "The diagonal of Ŵ should come to lie on the eigenvalues of W as T grows"

    @property
    def prediction(self) -> str:
        return "The better the model knows W, the nearer its dots lie to the circles"


def expected_of(config: ModelConfig, process: Process) -> Expected | ExpectedGeneral:
    """What theory expects of this model."""
    if config.heads in ("diagonal", "unit") and isinstance(process, CommutingProcess):
        return Expected(process=process, n_heads=config.n_heads)
    return ExpectedGeneral(config=config)
