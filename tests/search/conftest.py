"""Networks on which trials are tried: branches, in-place layers, several inputs and outputs, BatchNorm."""

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.net import LOW_PRECISION, fold_batch_norm
from lpcaffe.quant.sites import sites
from lpcaffe.search.parts import ROLES

BRANCHES = """name: "branches"
layer { name: "in" type: "Input" top: "data" top: "extra"
        input_param { shape { dim: 2 dim: 3 dim: 9 dim: 8 } shape { dim: 2 dim: 6 } } }
layer { name: "c1" type: "Convolution" bottom: "data" top: "c1" convolution_param { num_output: 5 kernel_size: 3 } }
layer { name: "r1" type: "ReLU" bottom: "c1" top: "c1" }
layer { name: "aux" type: "InnerProduct" bottom: "c1" top: "aux" inner_product_param { num_output: 3 } }
layer { name: "cut" type: "Slice" bottom: "c1" top: "left" top: "right" slice_param { slice_point: 2 } }
layer { name: "c2" type: "Convolution" bottom: "left" top: "c2" convolution_param { num_output: 4 kernel_size: 1 } }
layer { name: "c3" type: "Convolution" bottom: "right" top: "c3"
        convolution_param { num_output: 4 kernel_size: 3 pad: 1 bias_term: false } }
layer { name: "sum" type: "Eltwise" bottom: "c2" bottom: "c3" top: "sum" }
layer { name: "r2" type: "ReLU" bottom: "sum" top: "sum" }
layer { name: "pool" type: "Pooling" bottom: "sum" top: "pool" pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "flat" type: "Flatten" bottom: "pool" top: "flat" }
layer { name: "join" type: "Concat" bottom: "flat" bottom: "extra" top: "join" }
layer { name: "ip" type: "InnerProduct" bottom: "join" top: "ip" inner_product_param { num_output: 10 } }
layer { name: "r3" type: "ReLU" bottom: "ip" top: "ip" }
layer { name: "drop" type: "Dropout" bottom: "ip" top: "ip" }
layer { name: "last" type: "InnerProduct" bottom: "ip" top: "last" inner_product_param { num_output: 7 } }
layer { name: "prob" type: "Softmax" bottom: "last" top: "prob" }
"""

NORMED = """name: "normed"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 9 dim: 8 } } }
layer { name: "c1" type: "Convolution" bottom: "data" top: "c1"
        convolution_param { num_output: 5 kernel_size: 3 bias_term: false } }
layer { name: "n1" type: "BatchNorm" bottom: "c1" top: "c1" }
layer { name: "s1" type: "Scale" bottom: "c1" top: "c1" scale_param { bias_term: true } }
layer { name: "r1" type: "ReLU" bottom: "c1" top: "c1" }
layer { name: "c2" type: "Convolution" bottom: "c1" top: "c2"
        convolution_param { num_output: 4 kernel_size: 3 pad: 1 } }
layer { name: "n2" type: "BatchNorm" bottom: "c2" top: "n2" }
layer { name: "short" type: "Convolution" bottom: "c1" top: "short"
        convolution_param { num_output: 4 kernel_size: 1 } }
layer { name: "sum" type: "Eltwise" bottom: "n2" bottom: "short" top: "sum" }
layer { name: "r2" type: "PReLU" bottom: "sum" top: "sum" }
layer { name: "ip" type: "InnerProduct" bottom: "sum" top: "ip" inner_product_param { num_output: 7 } }
"""

_FOLDED = lp.Policy()
IMAGES = 19  # two whole batches and a part of one


@pytest.fixture
def branches(make_net):
    return make_net(BRANCHES)


@pytest.fixture
def normed(make_net):
    return make_net(NORMED)


@pytest.fixture
def data():
    """A function that makes data with labels for one of the networks."""

    def make(net, seed=3):
        rng = np.random.default_rng(seed)
        arrays = {"data": rng.normal(size=(IMAGES, 3, 9, 8)).astype(np.float32)}
        if "extra" in net.inputs:
            arrays["extra"] = rng.normal(size=(IMAGES, 6)).astype(np.float32)
        return lp.images(arrays, net).with_labels(rng.integers(0, 7, IMAGES))

    return make


@pytest.fixture
def searchable():
    """A function that gives the sites of weights and outputs of convolutions and inner products, in order."""

    def of(net, policy=_FOLDED):
        found = sites(fold_batch_norm(net) if policy.fold_bn else net, policy)
        return [site for site in found if site.role in ROLES and site.type in LOW_PRECISION]

    return of
