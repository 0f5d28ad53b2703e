"""What an engine gives to whoever runs networks: a session, which computes tensors of one network, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

from lpcaffe.engines.shapes import Shapes
from lpcaffe.net import Net


@dataclass(frozen=True)
class Options:
    """How to compute. An engine that cannot do what an option asks is never given it (see `EngineInfo`).

    dtype            the arithmetic, float32 or float64
    seed             of random numbers
    stochastic_as    the scheme that stands in for stochastic rounding; None is stochastic itself
    threads          how many the engine may use; 0 leaves it to the engine
    """

    dtype: str = "float32"
    seed: int = 0
    stochastic_as: str | None = None
    threads: int = 0


# The tensors of one forward pass, from the inputs by blob and the position of the batch in the whole input.
Session = Callable[[Mapping[str, np.ndarray], int], dict[str, np.ndarray]]
# Makes a session from the net with its weights, the tensors wanted, the shapes of all, and how to compute. Raises
# NetError for a network that the engine cannot run, and WeightsError.
Open = Callable[[Net, Collection[str], Shapes, Options], Session]


@dataclass(frozen=True)
class EngineInfo:
    """An engine, and what it can do beside a forward pass in float32.

    float64           arithmetic in float64, in which sums of fixed-point products are exact
    random            draw random numbers: the options seed and stochastic_as
    any_tensor        give any tensor of the network, not just the last version of each blob
    differentiable    give gradients
    integer           compute on integer codes
    """

    open: Open
    float64: bool = False
    random: bool = False
    any_tensor: bool = False
    differentiable: bool = False
    integer: bool = False
