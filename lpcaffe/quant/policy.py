"""Policy: how a network is quantized, apart from the formats themselves. One value, wherever that matters."""

from __future__ import annotations

from dataclasses import dataclass

from lpcaffe.errors import PlanError
from lpcaffe.numbers.rounding import SCHEMES

PLACEMENTS = ("before-relu", "after-relu")
COVERAGES = ("learned", "all")


@dataclass(frozen=True)
class Policy:
    """The settings of a plan.

    dialect         the name of a dialect (`lpcaffe.dialects`): how Caffe's files express the formats
    rounding, seed  the scheme of every Qm.f (`numbers.rounding.SCHEMES`), and the seed of its random numbers
    round_bias      layers compute with biases that are rounded in the format of their weights
    round_output    the network's answers get a format too; a choice of sites, which no plan has to repeat
    fold_bn         BatchNorm, Scale and Bias are folded into the layer before them
    act_placement   outputs are rounded before the ReLU that follows, or after it
    coverage        which sites get a format: those of convolutions and inner products ("learned"), or those of every
                    value that a multiplication reads ("all")

    Raises PlanError.
    """

    dialect: str = "adaption"
    rounding: str = "deterministic"
    seed: int = 0
    round_bias: bool = False
    round_output: bool = False
    fold_bn: bool = True
    act_placement: str = "before-relu"
    coverage: str = "learned"

    def __post_init__(self) -> None:
        for name, known in (("rounding", SCHEMES), ("act_placement", PLACEMENTS), ("coverage", COVERAGES)):
            if getattr(self, name) not in known:
                raise PlanError(f"{name}: expected {' or '.join(known)}, got {getattr(self, name)!r}")
        if not 0 <= self.seed < 1 << 64:
            raise PlanError(f"seed: expected 0 to 2^64 - 1, got {self.seed}")
