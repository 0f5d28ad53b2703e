"""A second opinion: OpenCV reads the same prototxt and caffemodel, both written here, and computes the same blobs.

Where OpenCV 4 is not Caffe, Caffe wins, and the case is not here but in tests/layers, against loops, or in
tests/engines/test_golden.py, against ADaPTION:

    Convolution     `pad_h` without `pad_w`, or the reverse, is not read
    InnerProduct    `transpose` is not read
    Pooling         no `round_mode`; global MAX pooling needs `pool` spelled out; windows that lie wholly outside, and
                    kernels larger than the image, are not Caffe's
    LRN             `k` is not read; without `alpha` it is 1e-4; windows within a channel that exceed the image differ
    Scale, PReLU    no scalar factor (`num_axes: 0`, `channel_shared`), no negative axis; a bias beside a second bottom
                    is not Caffe's
    BatchNorm       not for the batch's own statistics
    Eltwise         no `coeff` with MAX
    Concat, Slice   no `concat_dim`, no `slice_dim`
    Reshape         no `num_axes: 0`, no negative axis
    MVN, Swish      no `eps` beside the deviation, no `beta`
    Normalize       not over a whole image
    Permute         all axes must be named
    Bias, LP layers not at all, and so the other types that the last test names
"""

import cv2
import numpy as np
import pytest

from lpcaffe.engines import run
from lpcaffe.formats.caffemodel import BlobSource, write_caffemodel
from lpcaffe.formats.prototxt import dump
from lpcaffe.layers import LAYERS

IMAGE = (2, 4, 9, 7)


def one(kind: str, text: str = "", bottoms: str = 'bottom: "data"', name: str = "") -> str:
    """A layer whose top has its name: the only way that OpenCV finds all of them."""
    name = name or kind.lower()
    return f'layer {{ name: "{name}" type: "{kind}" {bottoms} top: "{name}" {text} }}\n'


def conv(text: str) -> str:
    return one("Convolution", f"convolution_param {{ num_output: 6 {text} }}")


def pool(text: str) -> str:
    return one("Pooling", f"pooling_param {{ {text} }}")


BRANCHES = (
    one("Slice", "slice_param { slice_point: 1 }").replace('top: "slice"', 'top: "a" top: "b"')
    + one("ReLU", bottoms='bottom: "a"')
    + one("TanH", bottoms='bottom: "b"')
    + one("Concat", bottoms='bottom: "tanh" bottom: "relu"')
    + one("Eltwise", "eltwise_param { operation: SUM coeff: 2 coeff: -1 }", 'bottom: "concat" bottom: "data"')
)
RESIDUAL = (
    one("Convolution", "convolution_param { num_output: 4 kernel_size: 3 pad: 1 bias_term: false }")
    + one("BatchNorm", bottoms='bottom: "convolution"')
    + one("Scale", "scale_param { bias_term: true }", 'bottom: "batchnorm"')
    + one("Eltwise", bottoms='bottom: "scale" bottom: "data"')
    + one("ReLU", bottoms='bottom: "eltwise"')
    + one("Pooling", "pooling_param { pool: AVE global_pooling: true }", 'bottom: "relu"')
    + one("InnerProduct", "inner_product_param { num_output: 3 }", 'bottom: "pooling"')
    + one("Softmax", bottoms='bottom: "innerproduct"')
)
IN_PLACE = (
    one("Convolution", "convolution_param { num_output: 6 kernel_size: 3 group: 2 stride: 2 }", name="c1")
    + 'layer { name: "r1" type: "ReLU" bottom: "c1" top: "c1" relu_param { negative_slope: 0.1 } }\n'
    + 'layer { name: "n1" type: "BatchNorm" bottom: "c1" top: "c1" }\n'
    + 'layer { name: "s1" type: "Scale" bottom: "c1" top: "c1" scale_param { bias_term: true } }\n'
    + one(
        "Convolution",
        "convolution_param { num_output: 5 kernel_h: 1 kernel_w: 3 pad_h: 0 pad_w: 1 }",
        'bottom: "c1"',
        "c2",
    )
    + 'layer { name: "p2" type: "PReLU" bottom: "c2" top: "c2" }\n'
    + one("InnerProduct", "inner_product_param { num_output: 3 }", 'bottom: "c2"', "ip")
)
NETS = {
    "conv": conv("kernel_size: 3"),
    "conv without bias, padded, strided": conv("kernel_size: 3 pad: 2 stride: 2 bias_term: false"),
    "conv in groups": conv("kernel_size: 3 pad: 1 group: 2"),
    "depthwise conv": one("Convolution", "convolution_param { num_output: 4 kernel_size: 3 group: 4 }"),
    "dilated conv": conv("kernel_size: 3 dilation: 2 pad: 1"),
    "conv by _h and _w": conv("kernel_h: 3 kernel_w: 2 stride_h: 1 stride_w: 3 pad_h: 0 pad_w: 2"),
    "strided 1x1 conv": conv("kernel_size: 1 stride: 2"),
    "inner product": one("InnerProduct", "inner_product_param { num_output: 5 }"),
    "inner product of rows": one("InnerProduct", "inner_product_param { num_output: 5 bias_term: false axis: 3 }"),
    "max pooling, rounded up": pool("pool: MAX kernel_size: 3 stride: 4"),
    "mean pooling, rounded up": pool("pool: AVE kernel_size: 3 stride: 4"),
    "max pooling, padded": pool("pool: MAX kernel_size: 3 stride: 2 pad: 1"),
    "mean pooling, padded": pool("pool: AVE kernel_size: 4 stride: 3 pad: 2"),
    "max pooling, last window dropped": pool("pool: MAX kernel_size: 2 stride: 2 pad: 1"),
    "mean pooling, last window dropped": pool("pool: AVE kernel_size: 2 stride: 2 pad: 1"),
    "pooling, rounded down": pool("pool: AVE kernel_size: 3 stride: 4 pad: 1 ceil_mode: false"),
    "pooling by _h and _w": pool("pool: MAX kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 1 pad_h: 1 pad_w: 0"),
    "global mean": pool("pool: AVE global_pooling: true"),
    "global max": pool("pool: MAX global_pooling: true"),
    "relu": one("ReLU") + one("ReLU", "relu_param { negative_slope: 0.25 }", name="leaky"),
    "prelu": one("PReLU"),
    "sigmoid": one("Sigmoid"),
    "tanh": one("TanH"),
    "powers": one("Power", "power_param { power: 3 scale: 0.5 shift: -1 }")
    + one("Power", "power_param { scale: -2 shift: 0.5 }", name="linear"),
    "dropout": one("Dropout", "dropout_param { dropout_ratio: 0.3 }")
    + one("Dropout", "dropout_param { dropout_ratio: 0.25 scale_train: false }", name="scaled"),
    "softmax": one("Softmax") + one("Softmax", "softmax_param { axis: 2 }", name="rows"),
    "batch norm": one("BatchNorm", "batch_norm_param { eps: 0.01 }"),
    "scale": one("Scale") + one("Scale", "scale_param { bias_term: true }", name="biased"),
    "scale by a second bottom": one("Pooling", "pooling_param { pool: AVE global_pooling: true }")
    + one("Flatten", bottoms='bottom: "pooling"')
    + one("Scale", "scale_param { axis: 0 }", 'bottom: "data" bottom: "flatten"'),
    "lrn": one("LRN", "lrn_param { local_size: 3 alpha: 0.5 beta: 0.75 }")
    + one("LRN", "lrn_param { local_size: 3 alpha: 0.5 norm_region: WITHIN_CHANNEL }", name="within"),
    "eltwise": one("TanH")
    + one("Eltwise", "eltwise_param { operation: PROD }", 'bottom: "data" bottom: "tanh"', "product")
    + one("Eltwise", "eltwise_param { operation: MAX }", 'bottom: "data" bottom: "tanh"', "largest"),
    "flatten and reshape": one("Flatten", "flatten_param { axis: 2 }")
    + one("Reshape", "reshape_param { shape { dim: 0 dim: -1 dim: 3 dim: 7 } }"),
    "split": one("Split").replace('top: "split"', 'top: "a" top: "b"')
    + one("ReLU", bottoms='bottom: "a"')
    + one("TanH", bottoms='bottom: "b"'),
    "activations": one("AbsVal")
    + one("Log", bottoms='bottom: "absval"')
    + one("BNLL")
    + one("ELU", "elu_param { alpha: 0.5 }")
    + one("Exp", "exp_param { base: 2 scale: 0.5 shift: 1 }")
    + one("ReLU6")
    + one("Swish"),
    "crop": pool("pool: MAX kernel_size: 3 stride: 2")
    + one("Crop", "crop_param { offset: 1 offset: 2 }", 'bottom: "data" bottom: "pooling"')
    + one("Crop", "crop_param { axis: 3 offset: 3 }", 'bottom: "data" bottom: "pooling"', "columns"),
    "axes and channels in another order": one("Permute", "permute_param { order: 0 order: 2 order: 3 order: 1 }")
    + one("Permute", "permute_param { order: 3 order: 0 order: 1 order: 2 }", name="columns")
    + one("ShuffleChannel", "shuffle_channel_param { group: 2 }"),
    "mvn": one("MVN")
    + one("MVN", "mvn_param { across_channels: true }", name="across")
    + one("MVN", "mvn_param { normalize_variance: false }", name="centred"),
    "normalize": one("Normalize", "norm_param { across_spatial: false channel_shared: false eps: 3 }"),
    "silence": one("ReLU") + 'layer { name: "silence" type: "Silence" bottom: "data" }\n',
    "branches": BRANCHES,
    "residual": RESIDUAL,
    "in place": IN_PLACE,
}


@pytest.mark.parametrize("name", NETS)
def test_opencv_computes_the_same(name, random_net, tmp_path):
    data = f'layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ {_dims(IMAGE)} }} }} }}\n'
    net = random_net(f'name: "n" {data} {NETS[name]}', seed=len(name))
    (tmp_path / "net.prototxt").write_text(dump(net.message))
    sources = {layer: [BlobSource.of(blob.array()) for blob in blobs] for layer, blobs in net.weights.items()}
    write_caffemodel(tmp_path / "net.caffemodel", net.message, sources)
    x = np.random.default_rng(7).normal(size=IMAGE).astype(np.float32)
    found = run(net, x)

    reader = cv2.dnn.readNetFromCaffe(str(tmp_path / "net.prototxt"), str(tmp_path / "net.caffemodel"))
    reader.setInput(x, "data")
    # All blobs that keep their first value; OpenCV knows the others only at the end of the network.
    blobs = [layer.name for layer in net.layers[1:] if layer.raw_tops == (layer.name,)]
    blobs = [blob for blob in blobs if net.last_versions[blob] == f"{blob}@{blob}"]
    assert set(net.outputs) <= set(blobs)
    for blob, expected in zip(blobs, reader.forward(blobs), strict=True):
        assert found[blob].shape == expected.shape
        np.testing.assert_allclose(found[blob], expected, rtol=0, atol=1e-5 * np.abs(expected).max(), err_msg=blob)


def test_every_layer_type_that_opencv_has_is_in_a_net():
    tried = {kind for kind in LAYERS if any(f'type: "{kind}"' in text for text in NETS.values())}
    unknown_to_opencv = {"Bias", "LPAct", "LPConvolution", "LPInnerProduct"}
    unknown_to_opencv |= {"ArgMax", "Axpy", "BatchReindex", "Clip", "Embed", "Filter", "LSTM", "Parameter", "RNN"}
    unknown_to_opencv |= {"Reduction", "Threshold", "Tile", "Im2col", "Quant", "SPP", "ConvolutionDepthwise"}
    unknown_to_opencv |= {"ConvolutionRistretto", "DeconvolutionRistretto", "FcRistretto", "LRNRistretto"}
    # OpenCV's have other rules than the forks, or need what only a whole network gives (tests/models).
    others = {"DepthwiseConvolution", "DetectionOutput", "Interp", "PriorBox", "PSROIPooling", "ROIPooling", "Upsample"}
    others |= {"Deconvolution"}
    assert set(LAYERS) - tried == unknown_to_opencv | others


def _dims(shape: tuple[int, ...]) -> str:
    return " ".join(f"dim: {dim}" for dim in shape)
