"""What a layer refuses: one line that names the layer, says what was expected and what was got. Never a traceback."""

from pathlib import Path

import numpy as np
import pytest

from lpcaffe.engines import check_executable, infer_shapes, run
from lpcaffe.errors import DataError, FormatError, LpcaffeError, NetError
from lpcaffe.formats.prototxt import parse
from lpcaffe.layers import LAYERS, NEVER_RUN
from lpcaffe.net import ArrayBlob, Net

IMAGE = (2, 4, 7, 6)
PAIR = [(2, 3, 5), (2, 3, 5)]

# type, parameters, bottoms, number of tops, and what the message says
REFUSED = [
    ("Convolution", "", [IMAGE], 1, "kernel_size, or kernel_h and kernel_w"),
    ("Convolution", "convolution_param { kernel_size: 3 }", [IMAGE], 1, "num_output of at least 1"),
    ("Convolution", "convolution_param { num_output: 6 }", [IMAGE], 1, "kernel_size, or kernel_h and kernel_w"),
    ("Convolution", "convolution_param { num_output: 6 kernel_size: 0 }", [IMAGE], 1, r"at least 1 \(got \(0, 0\)\)"),
    ("Convolution", "convolution_param { num_output: 6 kernel_h: 3 }", [IMAGE], 1, r"at least 1 \(got \(3, 0\)\)"),
    ("Convolution", "convolution_param { num_output: 6 kernel_size: 3 group: 4 }", [IMAGE], 1, "group 4 must divide"),
    ("Convolution", "convolution_param { num_output: 6 kernel_size: 3 group: 3 }", [IMAGE], 1, "divide 4 input and 6"),
    ("Convolution", "convolution_param { num_output: 6 kernel_size: 3 group: 0 }", [IMAGE], 1, "group 0 must divide"),
    ("Convolution", "convolution_param { num_output: 6 kernel_size: 8 }", [IMAGE], 1, "spans 8 pixels, .* input has 7"),
    (
        "Convolution",
        "convolution_param { num_output: 6 kernel_size: 3 dilation: 4 pad: 1 }",
        [IMAGE],
        1,
        "spans 9 pixels, the padded input has 8",
    ),
    ("Convolution", "convolution_param { num_output: 6 kernel_size: 3 stride: 0 }", [IMAGE], 1, "must be at least 1"),
    ("Convolution", "convolution_param { num_output: 6 kernel_size: 3 stride_w: 2 }", [IMAGE], 1, "must be at least 1"),
    ("Convolution", "convolution_param { num_output: 6 kernel_size: 3 dilation: 0 }", [IMAGE], 1, "must be at least 1"),
    (
        "Convolution",
        "convolution_param { num_output: 6 kernel_size: 3 kernel_h: 3 kernel_w: 3 }",
        [IMAGE],
        1,
        "kernel_h and kernel_w need two spatial axes and no kernel beside them",
    ),
    (
        "Convolution",
        "convolution_param { num_output: 6 kernel_size: 3 pad: 1 pad: 1 pad: 1 }",
        [IMAGE],
        1,
        "pad is given 3 times, for 2 spatial axes",
    ),
    ("Convolution", "convolution_param { num_output: 6 kernel_h: 1 kernel_w: 1 }", [(2, 4, 7)], 1, "two spatial axes"),
    ("Convolution", "convolution_param { num_output: 6 kernel_size: 1 }", [(2, 4)], 1, "got 2 axes"),
    ("Convolution", "convolution_param { num_output: 6 kernel_size: 1 axis: 2 }", [IMAGE], 1, "only axis 1 is"),
    ("Convolution", "convolution_param { num_output: 6 kernel_size: 1 axis: 4 }", [IMAGE], 1, "axis 4 does not exist"),
    ("Convolution", "convolution_param { num_output: 6 kernel_size: 1 }", [IMAGE] * 2, 1, "expected tops: 2, got 1"),
    (
        "Convolution",
        "convolution_param { num_output: 6 kernel_size: 1 bias_term: false }",
        [IMAGE, (6, 4, 1, 1)],  # shapes that fit the weights
        1,
        "bottoms differ in shape: 2 x 4 x 7 x 6, 6 x 4 x 1 x 1",
    ),
    ("Convolution", "convolution_param { num_output: 6 kernel_size: 1 }", [IMAGE], 2, "expected tops: 1, got 2"),
    ("Convolution", "convolution_param { num_output: 6 kernel_size: 1 }", [IMAGE], 0, "expected tops: 1, got 0"),
    ("Convolution", "convolution_param { num_output: 4294967295 kernel_size: 1 }", [IMAGE], 1, "than the 2147483647"),
    ("InnerProduct", "", [IMAGE], 1, "num_output of at least 1"),
    ("InnerProduct", "inner_product_param { num_output: 3 axis: 4 }", [IMAGE], 1, "axis 4 does not exist: .* 4 axes"),
    ("InnerProduct", "inner_product_param { num_output: 3 axis: -5 }", [IMAGE], 1, "axis -5 does not exist"),
    ("InnerProduct", "inner_product_param { num_output: 3 }", [IMAGE, (3, 168)], 1, "expected bottoms: 1, got 2"),
    ("Pooling", "", [IMAGE], 1, "kernel size and a stride of at least 1"),
    ("Pooling", "pooling_param { kernel_size: 2 stride: 0 }", [IMAGE], 1, "kernel size and a stride of at least 1"),
    ("Pooling", "pooling_param { kernel_h: 2 }", [IMAGE], 1, "kernel_size, or kernel_h and kernel_w"),
    ("Pooling", "pooling_param { kernel_size: 2 kernel_h: 2 kernel_w: 2 }", [IMAGE], 1, "kernel_size, or kernel_h"),
    ("Pooling", "pooling_param { kernel_size: 2 pad_w: 1 }", [IMAGE], 1, "needs pad, or pad_h and pad_w"),
    ("Pooling", "pooling_param { kernel_size: 2 pad: 2 }", [IMAGE], 1, "padding .* must be smaller than the kernel"),
    ("Pooling", "pooling_param { kernel_size: 8 }", [IMAGE], 1, "kernel 8 is larger than the padded image, 7"),
    ("Pooling", "pooling_param { kernel_size: 8 stride: 2 ceil_mode: false }", [IMAGE], 1, "kernel 8 is larger"),
    ("Pooling", "pooling_param { kernel_size: 9 stride: 2 }", [IMAGE], 1, "kernel 9 is larger than the padded image"),
    ("Pooling", "pooling_param { global_pooling: true kernel_size: 7 }", [IMAGE], 1, "both global_pooling and"),
    ("Pooling", "pooling_param { global_pooling: true stride: 2 }", [IMAGE], 1, "only stride 1"),
    ("Pooling", "pooling_param { global_pooling: true pad: 1 }", [IMAGE], 1, "no padding"),
    (
        "Pooling",
        "pooling_param { pool: STOCHASTIC kernel_size: 2 pad: 1 }",
        [IMAGE],
        1,
        r"STOCHASTIC takes no padding \(got \(1, 1\)\); MAX and AVE do",
    ),
    ("Pooling", "pooling_param { kernel_size: 2 }", [(2, 4, 7)], 1, "needs N x C x H x W, got 3 axes"),
    ("Pooling", "pooling_param { pool: AVE kernel_size: 2 }", [IMAGE], 2, "expected tops: 1, got 2"),
    ("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 }", [IMAGE], 2, "expected tops: 1, got 2"),
    ("Pooling", "pooling_param { kernel_size: 2 }", [IMAGE], 3, "expected tops: 2, got 3"),
    ("SPP", "", [IMAGE], 1, "pyramid_height of at least 1"),
    ("SPP", "spp_param { pyramid_height: 2 }", [(2, 4, 7)], 1, "needs N x C x H x W, got 3 axes"),
    # 7 rows in 8 windows of 1 need one row more.
    ("SPP", "spp_param { pyramid_height: 4 }", [IMAGE], 1, r"padding \(1, 1\) must be smaller than .* \(1, 1\)"),
    ("SPP", "spp_param { pyramid_height: 4294967295 }", [IMAGE], 1, "must be smaller than the kernel"),
    ("SPP", "spp_param { pyramid_height: 3 pool: STOCHASTIC }", [IMAGE], 1, "STOCHASTIC takes no padding"),
    ("DepthwiseConvolution", "convolution_param { num_output: 6 kernel_size: 3 group: 4 }", [IMAGE], 1, "group 4 must"),
    ("ConvolutionDepthwise", "", [IMAGE], 1, "needs kernel_size, or kernel_h and kernel_w"),
    ("ConvolutionDepthwise", "convolution_param { kernel_size: 0 }", [IMAGE], 1, r"at least 1 \(got \(0, 0\)\)"),
    ("ConvolutionDepthwise", "convolution_param { kernel_size: 2 }", [(2, 4, 7)], 1, "needs N x C x H x W, got 3"),
    ("ConvolutionDepthwise", "convolution_param { kernel_size: 7 }", [IMAGE], 1, "spans 7 pixels, .* input has 6"),
    ("ConvolutionDepthwise", "convolution_param { kernel_size: 2 }", [IMAGE] * 2, 2, "expected bottoms: 1, got 2"),
    ("Deconvolution", "convolution_param { kernel_size: 3 }", [IMAGE], 1, "num_output of at least 1"),
    ("Deconvolution", "convolution_param { num_output: 6 kernel_size: 3 group: 3 }", [IMAGE], 1, "divide 4 input"),
    ("Deconvolution", "convolution_param { num_output: 6 kernel_size: 3 stride: 0 }", [IMAGE], 1, "must be at least 1"),
    ("Deconvolution", "convolution_param { num_output: 6 kernel_size: 1 axis: 2 }", [IMAGE], 1, "only axis 1 is"),
    (
        "Deconvolution",
        "convolution_param { num_output: 6 kernel_size: 2 pad: 4 }",
        [IMAGE],
        1,
        r"padding \(4, 4\) leaves an output of 0 x -1: every size must be at least 1",
    ),
    ("Deconvolution", "convolution_param { num_output: 6 kernel_size: 1 }", [IMAGE] * 2, 1, "expected tops: 2, got 1"),
    (
        "Deconvolution",
        "convolution_param { num_output: 6 kernel_size: 1 stride: 4294967295 }",
        [IMAGE],
        1,
        "than the 2147483647",
    ),
    ("Im2col", "", [IMAGE], 1, "needs kernel_size, or kernel_h and kernel_w"),
    ("Im2col", "convolution_param { kernel_size: 0 }", [IMAGE], 1, r"at least 1 \(got \(0, 0\)\)"),
    ("Im2col", "convolution_param { kernel_size: 7 }", [IMAGE], 1, "spans 7 pixels, the padded input has 6"),
    ("Im2col", "convolution_param { kernel_size: 2 dilation: 0 }", [IMAGE], 1, "must be at least 1"),
    ("Im2col", "convolution_param { kernel_size: 1 axis: 3 }", [IMAGE], 1, "a spatial axis after axis 3, got 4 axes"),
    ("Im2col", "convolution_param { kernel_size: 1 axis: -5 }", [IMAGE], 1, "axis -5 does not exist"),
    ("Im2col", "convolution_param { kernel_h: 1 kernel_w: 1 axis: 0 }", [IMAGE], 1, "need two spatial axes"),
    ("Interp", "", [IMAGE], 1, "needs height and width, zoom_factor, shrink_factor or a second bottom"),
    ("Interp", "interp_param { height: 5 }", [IMAGE], 1, "needs height and width"),
    ("Interp", "interp_param { height: 5 width: 0 }", [IMAGE], 1, r"height and width of at least 1 \(got 5 x 0\)"),
    ("Interp", "interp_param { height: 5 width: 4 pad_beg: 1 }", [IMAGE], 1, r"at most 0, .* \(got 1 and 0\)"),
    ("Interp", "interp_param { height: 5 width: 4 pad_end: 2 }", [IMAGE], 1, r"at most 0, .* \(got 0 and 2\)"),
    ("Interp", "interp_param { zoom_factor: 2 pad_beg: -4 pad_end: -2 }", [IMAGE], 1, "leaves nothing of 7 x 6 pixels"),
    ("Interp", "interp_param { zoom_factor: 0 }", [IMAGE], 1, r"factors of at least 1 \(got 1 and 0\)"),
    ("Interp", "interp_param { shrink_factor: -2 }", [IMAGE], 1, r"factors of at least 1 \(got -2 and 1\)"),
    ("Interp", "interp_param { zoom_factor: 2147483647 }", [IMAGE], 1, "than the 2147483647"),
    ("Interp", "interp_param { zoom_factor: 2 }", [(2, 4, 7)], 1, "needs N x C x H x W, got 2 x 4 x 7"),
    ("Interp", "", [IMAGE, (2, 4, 7)], 1, "needs N x C x H x W, got 2 x 4 x 7"),
    ("Upsample", "", [(2, 4, 7)], 1, "needs N x C x H x W, got 3 axes"),
    ("Upsample", "upsample_param { scale: 0 }", [IMAGE], 1, r"a scale of at least 1 \(got 0 x 0\)"),
    ("Upsample", "upsample_param { scale_h: 2 }", [IMAGE], 1, "needs scale, or scale_h and scale_w"),
    ("Upsample", "upsample_param { scale: 2 scale_h: 2 scale_w: 2 }", [IMAGE], 1, "scale, or scale_h and scale_w"),
    ("Upsample", "upsample_param { scale: 4294967295 }", [IMAGE], 1, "than the 2147483647"),
    ("Upsample", "upsample_param { pad_out_h: true }", [IMAGE], 1, "second bottom with argmax indices"),
    ("Upsample", "upsample_param { upsample_h: 9 upsample_w: 9 }", [IMAGE], 1, "second bottom with argmax indices"),
    ("Upsample", "", [IMAGE, (2, 4, 6, 7)], 1, "expected argmax indices of the shape 2 x 4 x 7 x 6, got 2 x 4 x 6 x 7"),
    ("Upsample", "upsample_param { upsample_h: 0 upsample_w: 9 }", [IMAGE] * 2, 1, r"at least 1 \(got 0 x 9\)"),
    ("Upsample", "upsample_param { scale: 3 pad_out_w: true }", [IMAGE] * 2, 1, r"need a scale of 2 \(got 3 x 3\)"),
    ("ROIPooling", "roi_pooling_param { pooled_h: 2 }", [IMAGE, (3, 5)], 1, r"at least 1 \(got 2 x 0\)"),
    (
        "ROIPooling",
        "roi_pooling_param { pooled_h: 2 pooled_w: 3 }",
        [IMAGE, (3, 4)],
        1,
        "expected N x C x H x W and regions R x 5, got 2 x 4 x 7 x 6 and 3 x 4",
    ),
    ("ROIPooling", "roi_pooling_param { pooled_h: 2 pooled_w: 3 }", [(4, 7, 6), (3, 5)], 1, "expected N x C x H x W"),
    ("ROIPooling", "roi_pooling_param { pooled_h: 2 pooled_w: 3 }", [IMAGE], 1, "expected bottoms: 2, got 1"),
    (
        "PSROIPooling",
        "psroi_pooling_param { spatial_scale: 1 output_dim: 1 group_size: 3 }",
        [IMAGE, (3, 5)],
        1,
        "expected output_dim group_size^2 = 9 channels, got 4".replace("^", r"\^"),
    ),
    (
        "PSROIPooling",
        "psroi_pooling_param { output_dim: 4 }",
        [IMAGE, (3, 5)],
        1,
        r"output_dim and group_size of at least 1 \(got 4 and 0\)",
    ),
    ("PSROIPooling", "psroi_pooling_param { output_dim: 1 group_size: 2 }", [IMAGE, (5,)], 1, "regions R x 5"),
    ("ReLU", "", [], 1, "expected bottoms: 1, got 0"),
    ("ReLU", "", PAIR, 1, "expected bottoms: 1, got 2"),
    ("ReLU", "", [IMAGE], 2, "expected tops: 1, got 2"),
    ("PReLU", "", [(5,)], 1, "needs at least two axes, got 1"),
    ("Softmax", "softmax_param { axis: 2 }", [(2, 3)], 1, "axis 2 does not exist: the bottom has 2 axes"),
    ("BatchNorm", "", [(5,)], 1, "needs at least N x C, got 1 axes"),
    ("Scale", "scale_param { axis: 3 }", [(2, 3, 5)], 1, "axis 3 does not exist"),
    ("Scale", "scale_param { axis: 1 num_axes: 3 }", [(2, 3, 5)], 1, "num_axes 3 from axis 1 on: .* 3 axes"),
    ("Scale", "scale_param { num_axes: -2 }", [(2, 3, 5)], 1, "num_axes -2"),
    ("Scale", "scale_param { axis: 1 }", [(2, 3, 5), (2, 3)], 1, "expected the shape 3 x 5 from axis 1 on, got 2 x 3"),
    ("Scale", "scale_param { axis: 2 }", [(2, 3, 5), (5, 4)], 1, "expected the shape 5 from axis 2 on, got 5 x 4"),
    ("Scale", "", [(2, 3), (3,), (3,)], 1, "expected bottoms: 1 to 2, got 3"),
    ("Bias", "bias_param { axis: 0 }", [(2, 3), (3,)], 1, "expected the shape 2 from axis 0 on, got 3"),
    ("LRN", "lrn_param { local_size: 4 }", [IMAGE], 1, r"local_size must be odd \(got 4\)"),
    ("LRN", "lrn_param { local_size: 0 }", [IMAGE], 1, r"local_size must be odd \(got 0\)"),
    ("LRN", "", [(2, 4)], 1, "needs N x C x H x W, got 2 axes"),
    ("Eltwise", "", [(2, 3)], 1, "expected bottoms: at least 2, got 1"),
    ("Eltwise", "", [(2, 3), (2, 4)], 1, "bottoms differ in shape: 2 x 3, 2 x 4"),
    ("Eltwise", "", [(1, 3), (2, 3)], 1, "bottoms differ in shape: 1 x 3, 2 x 3"),
    ("Eltwise", "", [(2, 3), (2, 3, 1)], 1, "bottoms differ in shape"),
    ("Eltwise", "eltwise_param { coeff: 2 }", PAIR, 1, r"one for each of 2 bottoms \(got 1\)"),
    ("Eltwise", "eltwise_param { operation: PROD coeff: 2 coeff: 3 }", PAIR, 1, "coeff needs operation SUM"),
    ("Concat", "", [], 1, "expected bottoms: at least 1, got 0"),
    ("Concat", "", [(2, 3, 5), (2, 3, 4)], 1, "bottoms differ outside axis 1: 2 x 3 x 5, 2 x 3 x 4"),
    ("Concat", "", [(2, 3), (2, 3, 4)], 1, "bottoms differ outside axis 1"),
    ("Concat", "", [(2, 3), (2,)], 1, "bottoms differ outside axis 1: 2 x 3, 2"),
    ("Concat", "concat_param { axis: 2 }", [(2, 3)], 1, "axis 2 does not exist"),
    ("Concat", "concat_param { axis: 1 concat_dim: 1 }", PAIR, 1, "axis and concat_dim are both given"),
    ("Slice", "", [(2, 5)], 2, "cannot cut axis 1 of size 5 into 2 equal parts"),
    ("Slice", "", [(2, 5)], 0, "at least one top"),
    ("Slice", "slice_param { slice_point: 2 }", [(2, 5)], 3, "slice points .2. do not cut .* into 3 parts"),
    ("Slice", "slice_param { slice_point: 3 slice_point: 3 }", [(2, 5)], 3, "do not cut axis 1 of size 5"),
    ("Slice", "slice_param { slice_point: 5 }", [(2, 5)], 2, "do not cut axis 1 of size 5"),
    ("Slice", "slice_param { slice_point: 0 }", [(2, 5)], 2, "do not cut axis 1 of size 5"),
    ("Slice", "slice_param { slice_dim: 1 axis: 1 }", [(2, 6)], 2, "axis and slice_dim are both given"),
    ("Flatten", "flatten_param { axis: 2 end_axis: 1 }", [IMAGE], 1, "axis 2 comes after end_axis 1"),
    ("Flatten", "flatten_param { end_axis: 4 }", [IMAGE], 1, "axis 4 does not exist"),
    ("Reshape", "reshape_param { shape { dim: 5 } }", [(2, 3)], 1, "cannot reshape 2 x 3 to 5"),
    ("Reshape", "reshape_param { shape { dim: 4 dim: -1 } }", [(2, 3)], 1, "cannot reshape 2 x 3 to 4 x -1"),
    ("Reshape", "reshape_param { shape { dim: -1 dim: -1 } }", [(2, 3)], 1, "at most one dimension can be -1"),
    ("Reshape", "reshape_param { shape { dim: -2 dim: -3 } }", [(2, 3)], 1, r"-1, 0 or more \(got -2\)"),
    ("Reshape", "reshape_param { shape { dim: 2 dim: 3 dim: 0 } }", [(2, 3)], 1, "copies axis 2, but .* has 2 axes"),
    ("Reshape", "reshape_param { axis: 3 }", [(2, 3)], 1, "axis 3 and num_axes -1 do not fit"),
    ("Reshape", "reshape_param { axis: 1 num_axes: 2 }", [(2, 3)], 1, "axis 1 and num_axes 2 do not fit"),
    ("Reshape", "reshape_param { num_axes: -2 }", [(2, 3)], 1, "axis 0 and num_axes -2 do not fit"),
    ("Clip", "clip_param { min: 1 max: 2 }", [IMAGE], 2, "expected tops: 1, got 2"),
    ("Exp", "exp_param { base: 0 }", [IMAGE], 1, r"base must be -1 \(for e\) or a positive number \(got 0\)"),
    ("Exp", "exp_param { base: -2 }", [IMAGE], 1, r"positive number \(got -2\)"),
    ("Exp", "exp_param { base: inf }", [IMAGE], 1, r"positive number \(got inf\)"),
    ("Exp", "exp_param { base: nan }", [IMAGE], 1, r"positive number \(got nan\)"),
    ("Log", "log_param { base: 0 }", [IMAGE], 1, r"positive number \(got 0\)"),
    ("Log", "log_param { base: 1 }", [IMAGE], 1, "no logarithm to the base 1"),
    ("Axpy", "", [(2, 3), (2, 3, 5)], 1, "expected bottoms: 3, got 2"),
    ("Axpy", "", [(2, 4), (2, 3, 5), (2, 3, 5)], 1, "factor of the shape 2 x 3, got 2 x 4 for 2 x 3 x 5"),
    ("Axpy", "", [(2, 3, 5), (2, 3, 5), (2, 3, 5)], 1, "factor of the shape 2 x 3, got 2 x 3 x 5"),
    ("Axpy", "", [(2,), (2,), (2,)], 1, "factor of the shape at least N x C, got 2 for 2"),
    ("Axpy", "", [(2, 3), (2, 3, 5), (2, 3, 4)], 1, "bottoms differ in shape: 2 x 3 x 5, 2 x 3 x 4"),
    ("BatchReindex", "", [IMAGE], 1, "expected bottoms: 2, got 1"),
    ("BatchReindex", "", [IMAGE, (5, 1)], 1, "one axis of indices, got 2 x 4 x 7 x 6 and 5 x 1"),
    ("Filter", "", [IMAGE], 1, "expected bottoms: at least 2, got 1"),
    ("Filter", "", [IMAGE, (3,)], 1, "expected 3 images, as the selector has, got 2 x 4 x 7 x 6"),
    ("Filter", "", [IMAGE, (3, 1), (2, 1)], 2, "expected 2 images, as the selector has, got 3 x 1"),
    ("Filter", "", [IMAGE, (2, 4)], 1, "one value for each image, got 2 x 4"),
    ("Filter", "", [IMAGE, (2,)], 2, "expected tops: 1, got 2"),
    ("Crop", "", [IMAGE], 1, "expected bottoms: 2, got 1"),
    ("Crop", "", [IMAGE, (2, 4, 8, 6)], 1, "axis 2 has the size 7: no room for 8 from 0 on"),
    ("Crop", "crop_param { offset: 1 }", [IMAGE, (2, 4, 5, 6)], 1, "axis 3 has the size 6: no room for 6 from 1 on"),
    ("Crop", "crop_param { offset: 4294967295 }", [IMAGE, IMAGE], 1, "no room for 7 from 4294967295 on"),
    ("Crop", "crop_param { axis: 1 offset: 1 offset: 1 }", [IMAGE, IMAGE], 1, r"one for each of 3 axes \(got 2\)"),
    ("Crop", "crop_param { axis: 4 }", [IMAGE, IMAGE], 1, "axis 4 does not exist"),
    ("Crop", "", [IMAGE, (2, 4, 7)], 1, "cannot crop 2 x 4 x 7 x 6 to 2 x 4 x 7, which has fewer axes"),
    ("Permute", "permute_param { order: 4 }", [IMAGE], 1, r"order \[4\] must name axes below 4, each once"),
    ("Permute", "permute_param { order: 1 order: 1 }", [IMAGE], 1, r"order \[1, 1\] must name axes below 4"),
    ("Tile", "", [IMAGE], 1, r"tiles of at least 1 \(got 0\)"),
    ("Tile", "tile_param { tiles: -1 }", [IMAGE], 1, r"tiles of at least 1 \(got -1\)"),
    ("Tile", "tile_param { tiles: 2 axis: 4 }", [IMAGE], 1, "axis 4 does not exist"),
    ("Tile", "tile_param { tiles: 2147483647 }", [IMAGE], 1, "more than the 2147483647"),
    ("ShuffleChannel", "shuffle_channel_param { group: 3 }", [IMAGE], 1, "group 3 must divide the channels .* 2 x 4"),
    ("ShuffleChannel", "shuffle_channel_param { group: 0 }", [IMAGE], 1, "group 0 must divide"),
    ("ShuffleChannel", "", [(3,)], 1, "group 1 must divide the channels of N x C x ..., got 3"),
    ("Silence", "", [], 0, "expected bottoms: at least 1, got 0"),
    ("Silence", "", [IMAGE], 1, "expected tops: 0, got 1"),
    ("Parameter", "parameter_param { shape { dim: 2 dim: 0 } }", [], 1, "the shape 2 x 0: every dimension must be"),
    ("Parameter", "parameter_param { shape { dim: 3 } }", [IMAGE], 1, "expected bottoms: 0, got 1"),
    ("Reduction", "reduction_param { axis: 4 }", [IMAGE], 1, "axis 4 does not exist: the bottom has 4 axes"),
    ("ArgMax", "argmax_param { top_k: 0 }", [IMAGE], 1, r"top_k must be from 1 to 168 \(got 0\)"),
    ("ArgMax", "argmax_param { top_k: 169 }", [IMAGE], 1, r"top_k must be from 1 to 168 \(got 169\)"),
    ("ArgMax", "argmax_param { axis: 1 top_k: 5 }", [IMAGE], 1, r"top_k must be from 1 to 4 \(got 5\)"),
    ("ArgMax", "argmax_param { axis: -5 }", [IMAGE], 1, "axis -5 does not exist"),
    ("MVN", "", [(2, 3, 4, 5, 6)], 1, "MVN needs one to four axes, got 5"),
    ("Normalize", "", [(5,)], 1, "Normalize needs two to four axes, got 5"),
    ("Normalize", "", [(2, 3, 4, 5, 6)], 1, "Normalize needs two to four axes, got 2 x 3 x 4 x 5 x 6"),
    ("Embed", "embed_param { num_output: 3 }", [(5,)], 1, r"input_dim of at least 1 \(got 3 and 0\)"),
    ("Embed", "embed_param { input_dim: 3 }", [(5,)], 1, r"input_dim of at least 1 \(got 0 and 3\)"),
    ("RNN", "", [(4, 3, 2), (4, 3)], 1, "recurrent_param needs num_output of at least 1"),
    ("RNN", "recurrent_param { num_output: 5 }", [(4, 3), (4, 3)], 1, "T x N x ... and T x N, got 4 x 3 and 4 x 3"),
    ("RNN", "recurrent_param { num_output: 5 }", [(4, 3, 2), (4, 2)], 1, "got 4 x 3 x 2 and 4 x 2"),
    ("RNN", "recurrent_param { num_output: 5 }", [(4, 3, 2), (4, 3)], 2, "expected tops: 1, got 2"),
    ("RNN", "recurrent_param { num_output: 5 }", [(4, 3, 2), (4, 3), (3, 2), (1, 3, 5)], 1, "bottoms: 2, or 3 with"),
    ("LSTM", "", [(4, 3, 2), (4, 3)], 1, "recurrent_param needs num_output of at least 1"),
    ("LSTM", "recurrent_param { num_output: 5 }", [(4, 3, 2)], 1, "expected bottoms: 2 to 5, got 1"),
    ("LSTM", "recurrent_param { num_output: 5 }", [(4, 3, 2), (4, 3), (4, 2)], 1, "static input of 3 x ..., got 4 x 2"),
    ("LSTM", "recurrent_param { num_output: 5 }", [(4, 3, 2), (4, 3), (3,)], 1, "static input of 3 x ..., got 3"),
    (
        "LSTM",
        "recurrent_param { num_output: 5 expose_hidden: true }",
        [(4, 3, 2), (4, 3), (1, 3, 5)],
        3,
        "bottoms: 4, or 5 with a static input, got 3",
    ),
    (
        "LSTM",
        "recurrent_param { num_output: 5 expose_hidden: true }",
        [(4, 3, 2), (4, 3), (1, 3, 5), (1, 3, 4)],
        3,
        "state of the shape 1 x 3 x 5, got 1 x 3 x 4",
    ),
    ("PriorBox", "", [IMAGE, IMAGE], 1, "prior_box_param needs min_size"),
    ("PriorBox", "prior_box_param { min_size: 3 }", [IMAGE], 1, "expected bottoms: 2, got 1"),
    ("PriorBox", "prior_box_param { min_size: 3 }", [(2, 4, 7), IMAGE], 1, "bottoms of N x C x H x W, got 3 axes"),
    ("PriorBox", "prior_box_param { min_size: 3 }", [IMAGE, (2, 4, 7)], 1, "bottoms of N x C x H x W, got 3 axes"),
    ("PriorBox", "prior_box_param { min_size: [3, 0] }", [IMAGE, IMAGE], 1, r"a positive min_size \(got 0\)"),
    ("PriorBox", "prior_box_param { min_size: nan }", [IMAGE, IMAGE], 1, r"a positive min_size \(got nan\)"),
    ("PriorBox", "prior_box_param { min_size: 3 aspect_ratio: -2 }", [IMAGE, IMAGE], 1, r"aspect_ratio \(got -2\)"),
    ("PriorBox", "prior_box_param { min_size: 3 max_size: 3 }", [IMAGE, IMAGE], 1, "max_size 3 must be larger than"),
    ("PriorBox", "prior_box_param { min_size: [3, 4] max_size: 9 }", [IMAGE, IMAGE], 1, "as min_size, got 1 and 2"),
    ("PriorBox", "prior_box_param { min_size: 3 variance: [1, 2] }", [IMAGE, IMAGE], 1, r"1 or 4 values .* \(got 2\)"),
    ("PriorBox", "prior_box_param { min_size: 3 variance: 0 }", [IMAGE, IMAGE], 1, r"positive variance \(got 0\)"),
    ("PriorBox", "prior_box_param { min_size: 3 img_size: 0 }", [IMAGE, IMAGE], 1, r"positive img_size \(got 0\)"),
    ("PriorBox", "prior_box_param { min_size: 3 img_h: 9 }", [IMAGE, IMAGE], 1, "needs img_size, or img_h and img_w"),
    ("PriorBox", "prior_box_param { min_size: 3 step: 2 step_h: 2 step_w: 2 }", [IMAGE, IMAGE], 1, "step, or step_h"),
    ("DetectionOutput", "", [(2, 12), (2, 6), (1, 2, 12)], 1, "num_classes of at least 1"),
    ("DetectionOutput", "detection_output_param { num_classes: 2 }", [(2, 12), (2, 6)], 1, "bottoms: 3, got 2"),
    ("DetectionOutput", "detection_output_param { num_classes: 2 }", [(2, 12), (2, 6), (2, 12)], 1, ".4 P., got 2 x"),
    (
        "DetectionOutput",
        "detection_output_param { num_classes: 2 }",
        [(2, 12), (2, 6), (1, 2, 10)],
        1,
        "priors of 1 x 2 x .4 P., got 1 x 2 x 10",
    ),
    (
        "DetectionOutput",
        "detection_output_param { num_classes: 2 share_location: false }",
        [(2, 12), (2, 6), (1, 2, 12)],
        1,
        "expected locations of 2 x 24, got 2 x 12",
    ),
    (
        "DetectionOutput",
        "detection_output_param { num_classes: 2 }",
        [(2, 12), (1, 6), (1, 2, 12)],
        1,
        "expected scores of 2 x 6, got 1 x 6",
    ),
    (
        "DetectionOutput",
        "detection_output_param { num_classes: 2 nms_param { nms_threshold: -1 } }",
        [(2, 12), (2, 6), (1, 2, 12)],
        1,
        r"nms_threshold of at least 0 \(got -1\)",
    ),
    (
        "DetectionOutput",
        "detection_output_param { num_classes: 2 nms_param { eta: 1.5 } }",
        [(2, 12), (2, 6), (1, 2, 12)],
        1,
        r"eta above 0 and up to 1 \(got 1.5\)",
    ),
    ("Quant", "", [IMAGE], 1, r"relu_param.negative_slope above 0: it holds the step \(got 0\)"),
    ("Quant", "relu_param { negative_slope: inf }", [IMAGE], 1, r"negative_slope above 0: .* \(got inf\)"),
    ("ConvolutionRistretto", "", [IMAGE], 1, "convolution_param needs kernel_size"),
    (
        "ConvolutionRistretto",
        "convolution_param { num_output: 6 kernel_size: 3 } quantization_param { bw_layer_in: 0 }",
        [IMAGE],
        1,
        r"needs 1 <= bw_layer_in <= 32 \(got 0\)",
    ),
    (
        "DeconvolutionRistretto",
        "convolution_param { num_output: 6 kernel_size: 3 } quantization_param { fl_params: 65 }",
        [IMAGE],
        1,
        r"-64 <= fl_params <= 64 \(got 65\)",
    ),
    (
        "FcRistretto",
        "inner_product_param { num_output: 6 } quantization_param { bw_layer_out: 33 }",
        [IMAGE],
        1,
        r"1 <= bw_layer_out <= 32 \(got 33\)",
    ),
    (
        "FcRistretto",
        "inner_product_param { num_output: 6 } quantization_param { precision: MINIFLOAT mant_bits: 24 }",
        [IMAGE],
        1,
        r"mant_bits <= 23 and 1 <= exp_bits <= 8 \(got 24 and 8\)",
    ),
    (
        "FcRistretto",
        "inner_product_param { num_output: 6 } quantization_param { precision: MINIFLOAT exp_bits: 0 }",
        [IMAGE],
        1,
        r"1 <= exp_bits <= 8 \(got 23 and 0\)",
    ),
    (
        "FcRistretto",
        "inner_product_param { num_output: 6 } "
        "quantization_param { precision: INTEGER_POWER_OF_2_WEIGHTS exp_max: -9 }",
        [IMAGE],
        1,
        r"exp_min <= exp_max <= 127 \(got -8 and -9\)",
    ),
    (
        "FcRistretto",
        "inner_product_param { num_output: 6 } quantization_param { precision: MINIFLOAT rounding_scheme: STOCHASTIC }",
        [IMAGE],
        1,
        "MINIFLOAT with STOCHASTIC rounding is not supported; NEAREST is",
    ),
    (
        "FcRistretto",
        "inner_product_param { num_output: 6 } "
        "quantization_param { precision: INTEGER_POWER_OF_2_WEIGHTS rounding_scheme: STOCHASTIC bw_layer_in: 8 }",
        [IMAGE],
        1,
        "INTEGER_POWER_OF_2_WEIGHTS with STOCHASTIC rounding is not supported; NEAREST is",
    ),
    (
        "FcRistretto",
        "inner_product_param { num_output: 6 } quantization_param { rounding_scheme: STOCHASTIC }",
        [IMAGE],
        1,
        r"Q17\.16 has 33 bits; a float32 holds",
    ),
    ("LRNRistretto", "", [IMAGE], 1, "precision: MINIFLOAT and norm_region: ACROSS_CHANNELS"),
    (
        "LRNRistretto",
        "lrn_param { norm_region: WITHIN_CHANNEL } quantization_param { precision: MINIFLOAT }",
        [IMAGE],
        1,
        "norm_region: ACROSS_CHANNELS",
    ),
    (
        "LRNRistretto",
        "lrn_param { local_size: 4 } quantization_param { precision: MINIFLOAT }",
        [IMAGE],
        1,
        r"local_size must be odd \(got 4\)",
    ),
    ("LRNRistretto", "quantization_param { precision: MINIFLOAT }", [(2, 4)], 1, "needs N x C x H x W, got 2 axes"),
    ("LPConvolution", "convolution_param { num_output: 6 kernel_size: 3 }", [IMAGE], 1, r"needs bd >= 1 \(got 0\)"),
    ("LPInnerProduct", "inner_product_param { num_output: 6 }", [IMAGE], 1, r"lpfp_param needs bd >= 1 \(got 0\)"),
    ("LPAct", "", [IMAGE], 1, r"lpfp_param needs bd >= 1 \(got 0\)"),
    ("LPAct", "lpfp_param { ad: 4 }", [IMAGE], 1, r"lpfp_param needs bd >= 1 \(got 0\)"),
    ("LPAct", "lpfp_param { bd: 2000 ad: 4 }", [IMAGE], 1, "expected bd <= 1024"),
    (
        "LPConvolution",
        "lpfp_param { bd: 2 ad: 2 } convolution_param { num_output: 6 kernel_size: 1 bias_term: false }",
        [IMAGE, (6, 4, 1, 1)],
        1,
        "expected bottoms: 1, got 2",
    ),
]  # fmt: skip


def build(kind: str, text: str, bottoms: list[tuple[int, ...]], tops: int) -> Net:
    inputs = "".join(
        f'layer {{ name: "in{i}" type: "Input" top: "x{i}" '
        f"input_param {{ shape {{ {' '.join(f'dim: {dim}' for dim in shape)} }} }} }}\n"
        for i, shape in enumerate(bottoms)
    )
    names = "".join(f'bottom: "x{i}" ' for i in range(len(bottoms))) + "".join(f'top: "y{i}" ' for i in range(tops))
    return Net.of(parse(f'{inputs}layer {{ name: "l" type: "{kind}" {names} {text} }}'))


@pytest.mark.parametrize(("kind", "text", "bottoms", "tops", "message"), REFUSED)
def test_parameters_that_make_no_layer_are_one_line_that_names_it(kind, text, bottoms, tops, message):
    with pytest.raises(LpcaffeError, match=message) as caught:
        infer_shapes(build(kind, text, bottoms, tops))
    line = str(caught.value)
    assert line.startswith('layer "l": ')
    assert "\n" not in line


def test_every_type_that_can_be_refused_is_tried():
    refused = {row[0] for row in REFUSED}
    nothing_to_refuse = {"Sigmoid", "TanH", "Power", "Dropout", "Split"}
    nothing_to_refuse |= {"AbsVal", "BNLL", "ELU", "Swish", "Threshold", "ReLU6"}
    assert set(LAYERS) - refused == nothing_to_refuse


def test_a_clip_without_a_bound_is_refused_where_it_is_executed():
    """In a text a missing required field is an error of the file; a binary one can leave it out."""
    for bounds in ({"min": 1}, {"max": 1}, {}):
        net = build("Clip", "", [IMAGE], 1).message
        net.layer[-1].clip_param.SetInParent()
        for name, value in bounds.items():
            setattr(net.layer[-1].clip_param, name, value)
        with pytest.raises(NetError, match=r'^layer "l": clip_param needs min and max$'):
            infer_shapes(Net.of(net))


@pytest.mark.parametrize("wrong", [-1, 4, float("nan"), float("inf"), -1e30])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_index_of_nothing_names_the_layer_when_it_runs(wrong, dtype):
    net = build("BatchReindex", "", [(4, 3), (3,)], 1)
    indices = np.array([3, wrong, 0], np.float32)
    with pytest.raises(DataError, match=r'^layer "l": expected indices from 0 to 3, got '):
        run(net, {"x0": np.ones((4, 3), np.float32), "x1": indices}, engine="numpy", dtype=dtype)
    net = build("Embed", "embed_param { num_output: 2 input_dim: 4 bias_term: false }", [(3,)], 1)
    net = net.replace(net.message, {"l": [ArrayBlob(np.ones((4, 2), np.float32))]})
    with pytest.raises(DataError, match=r'^layer "l": expected indices from 0 to 3, got '):
        run(net, {"x0": indices}, engine="numpy", dtype=dtype)


@pytest.mark.parametrize("wrong", [-1, 2, float("nan"), float("inf"), -1e30])
@pytest.mark.parametrize("kind", ["ROIPooling", "PSROIPooling"])
def test_a_region_of_no_image_names_the_layer_when_it_runs(kind, wrong):
    text = "roi_pooling_param { pooled_h: 2 pooled_w: 3 } psroi_pooling_param { output_dim: 1 group_size: 2 }"
    rois = np.array([[1, 0, 0, 3, 3], [wrong, 0, 0, 3, 3]], np.float32)
    with pytest.raises(DataError, match=r'^layer "l": a region names image \S+ of 2$'):
        run(build(kind, text, [IMAGE, (2, 5)], 1), {"x0": np.ones(IMAGE, np.float32), "x1": rois}, engine="numpy")


@pytest.mark.parametrize("wrong", [-1, 60, float("nan"), float("inf"), -1e30])
def test_a_place_outside_the_image_names_the_layer_when_it_runs(wrong):
    """60 is a place of the pooled image, had it been enlarged as much as it was reduced."""
    net = build("Upsample", "upsample_param { upsample_h: 6 upsample_w: 10 }", [(1, 1, 3, 2)] * 2, 1)
    places = np.array([0, 59, 7, wrong, 8, 9], np.float32).reshape(1, 1, 3, 2)
    with pytest.raises(DataError, match=r'^layer "l": there is no index \S+ in an image of 6 x 10$'):
        run(net, {"x0": np.ones((1, 1, 3, 2), np.float32), "x1": places}, engine="numpy")


def test_without_strict_a_refused_layer_is_a_problem_and_its_tops_are_unknown():
    net = build("LPAct", "lpfp_param { bd: 2000 ad: 4 }", [IMAGE], 1)
    shapes = infer_shapes(net, strict=False)
    assert shapes.blobs == {"x0": IMAGE, "y0": None}
    assert [problem.layer for problem in shapes.problems] == ["l"]


def test_a_format_wider_than_the_arithmetic_names_the_layer_when_it_runs():
    net = build("LPAct", "lpfp_param { bd: 4 ad: 22 }", [(2, 3)], 1)
    x = np.ones((2, 3), np.float32)
    with pytest.raises(FormatError, match=r'^layer "l": Q4\.22 has 26 bits'):
        run(net, x)
    np.testing.assert_array_equal(run(net, x, dtype="float64")["y0"], x)


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        ("Convolutoin", r"did you mean Convolution or .*\? docs/layers\.md has all types"),
        ("RELU", r"did you mean ReLU\? docs/layers\.md has all types"),
        ("input", r"did you mean Input\? docs/layers\.md has all types"),
        ("EuclideanLos", r"did you mean EuclideanLoss\b.*\? docs/layers\.md has all types"),
        ("Xyzzy", r"docs/layers\.md has all types"),
        ("", r"docs/layers\.md has all types"),
    ],
)
def test_an_unknown_type_is_named_with_the_layer_and_the_types_like_it(kind, hint):
    with pytest.raises(NetError, match=f'^layer "l": layer type "{kind}" is not known; {hint}$'):
        infer_shapes(build(kind, "", [IMAGE], 1))


def test_the_document_of_types_that_the_error_names_has_them_all():
    text = (Path(__file__).parents[2] / "docs" / "layers.md").read_text(encoding="utf-8")
    assert [name for name in (*LAYERS, *NEVER_RUN, "Input") if f"`{name}`" not in text] == []


@pytest.mark.parametrize(
    ("kind", "text", "shown"),
    [
        ("Pooling", "pooling_param { pool: AVG kernel_size: 2 }", "pooling_param.pool=AVG"),
        ("LPAct", "lpfp_param { bd: 2 ad: 2 rounding_scheme: NEAREST }", "lpfp_param.rounding_scheme=NEAREST"),
        ("Eltwise", "eltwise_param { operation: MUL }", "eltwise_param.operation=MUL"),
    ],
)
def test_a_mistyped_enum_is_refused_where_the_layer_is_executed(kind, text, shown):
    net = build(kind, text, [IMAGE] * (2 if kind == "Eltwise" else 1), 1)
    infer_shapes(net)  # the file may be looked at
    with pytest.raises(NetError, match=f'^layer "l": {shown} is not a value that Caffe knows$'):
        check_executable(net)
