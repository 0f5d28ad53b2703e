"""The tensors that get a format: what a method sees of each site of a network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from lpcaffe.allocation.registry import Tensor
from lpcaffe.calibration import Calibration, TensorStats, finite_weights
from lpcaffe.engines import check_executable
from lpcaffe.engines.parameters import check_blobs
from lpcaffe.errors import DataError, located
from lpcaffe.net import LOW_PRECISION, ArrayBlob, Net, WeightBlob, fold_batch_norm
from lpcaffe.net.blobs import finite_chunks
from lpcaffe.quant.policy import Policy
from lpcaffe.quant.sites import Site, sites

Tensors = dict[Site, Tensor]


def gets_format(site: Site) -> bool:
    """Whether a width gives the site a format: it is covered, or the bias of a convolution or inner product."""
    return site.covered or (site.role == "bias" and site.type in LOW_PRECISION)


def site_tensors(net: Net, stats: Calibration | None, policy: Policy) -> tuple[Net, Tensors]:
    """The network that formats apply to, and the tensors of its sites, in source order.

    Of biases there is always one; of outputs only where the policy covers them and `stats` are given, whose folding and
    placement are the policy's then. With `round_bias` the statistics of weights are those of weights and bias. Raises
    WeightsError for weights that are missing or not finite, DataError for statistics of another network.
    """
    if stats is not None:
        stats.check(net)
        policy = dataclasses.replace(policy, fold_bn=stats.fold_bn, act_placement=stats.act_placement)
    folded = fold_batch_norm(net) if policy.fold_bn else net
    shapes = check_executable(folded).params
    outputs = {} if stats is None else _outputs(folded, stats, policy)
    found: Tensors = {}
    for site in sites(folded, policy):
        if site.role == "output":
            if gets_format(site) and stats is not None:
                found[site] = _output(site, stats, outputs)
            continue
        if not gets_format(site):
            continue
        with finite_weights(net), located(layer=site.layer):
            blobs: Sequence[WeightBlob] = _field(folded, site)
            if site.blob is not None:
                blobs = check_blobs(folded, site.layer, shapes[site.layer])
            own = weight_stats(blobs[site.blob or 0], site.blob or 0)
            bias = weight_stats(blobs[1], 1) if site.role == "weights" and len(blobs) > 1 else None
        if site.role == "weights":
            shares = policy.round_bias and site.type in LOW_PRECISION
            both = own + bias if shares and bias is not None else own
            found[site] = Tensor("weights", both, bias=bias)
        else:
            found[site] = Tensor("bias", own)
    return folded, found


def _outputs(net: Net, stats: Calibration, policy: Policy) -> dict[str, str]:
    """The names of outputs in the statistics, by tensor. After a PReLU they depend on the coverage."""
    own = sites(net, dataclasses.replace(policy, coverage=stats.coverage))
    return {site.tensor: site.layer for site in own if site.role == "output" and site.layer in stats.layers}


def _output(site: Site, stats: Calibration, outputs: Mapping[str, str]) -> Tensor:
    if site.tensor not in outputs:
        problem = f"the statistics, of coverage {stats.coverage}, do not have its output"
        raise DataError(problem, layer=site.layer, hint="calibrate with coverage all")
    name = outputs[site.tensor]
    return Tensor("output", stats.layers[name], rectified=stats.rectified.get(name))


def _field(net: Net, site: Site) -> list[WeightBlob]:
    """The slope or the coefficients that a message holds, as a blob."""
    message = net.by_name[site.layer].message
    values = [message.relu_param.negative_slope] if site.type == "ReLU" else list(message.eltwise_param.coeff)
    return [ArrayBlob(np.array(values, np.float32))]


def weight_stats(blob: WeightBlob, index: int) -> TensorStats:
    """The statistics of a blob of weights; WeightsError when it holds NaN or infinity, naming the first."""
    return sum((TensorStats.of(chunk) for chunk in finite_chunks(blob, index)), TensorStats())
