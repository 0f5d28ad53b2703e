"""Layers that no engine runs: the shapes that the file says of data, losses and evaluation; why they are refused."""

from __future__ import annotations

import numpy as np
import pytest

from lpcaffe.engines import check_executable, infer_shapes, run
from lpcaffe.errors import NetError
from lpcaffe.formats.prototxt import parse
from lpcaffe.layers import LAYERS, NEVER_RUN
from lpcaffe.net import Net

# type, parameters, shapes of the tops ("?" where only the data know)
DATA = [
    # batch size, crop size, and who says the channels
    ("Data", "data_param { batch_size: 50 } transform_param { crop_size: 227 }", ["50 x ? x 227 x 227", (50,)]),
    ("Data", "data_param { batch_size: 5 } transform_param { mean_value: 1 crop_size: 9 }", ["5 x ? x 9 x 9", (5,)]),
    (
        "Data",
        "data_param { batch_size: 5 } transform_param { mean_value: 1 mean_value: 2 mean_value: 3 crop_size: 9 }",
        [(5, 3, 9, 9), (5,)],
    ),
    ("Data", "data_param { batch_size: 5 } transform_param { force_gray: true crop_size: 9 }", [(5, 1, 9, 9), (5,)]),
    ("Data", "data_param { batch_size: 5 } transform_param { force_color: true crop_size: 9 }", [(5, 3, 9, 9), (5,)]),
    (
        "Data",
        "data_param { batch_size: 5 force_encoded_color: true } transform_param { crop_size: 9 }",
        [(5, 3, 9, 9), (5,)],
    ),
    ("Data", "data_param { batch_size: 5 } transform_param { force_color: true }", ["5 x 3 x ? x ?", (5,)]),
    ("Data", "", ["? x ? x ? x ?"]),
    # SSD
    (
        "Data",
        "data_param { batch_size: 5 } transform_param { force_color: true crop_h: 7 crop_w: 9 }",
        [(5, 3, 7, 9), (5,)],
    ),
    (
        "AnnotatedData",
        "data_param { batch_size: 5 } transform_param { force_color: true"
        " resize_param { resize_mode: WARP height: 7 width: 9 } }",
        [(5, 3, 7, 9), "1 x 1 x ? x 8"],
    ),
    (
        "AnnotatedData",
        "data_param { batch_size: 5 } transform_param { force_color: true"
        " resize_param { resize_mode: FIT_SMALL_SIZE height: 7 width: 9 } }",
        ["5 x 3 x ? x ?", "1 x 1 x ? x 8"],
    ),
    (
        "VideoData",
        "data_param { batch_size: 5 } transform_param { force_color: true crop_size: 4"
        " resize_param { resize_mode: FIT_LARGE_SIZE_AND_PAD height: 7 width: 9 } }",
        [(5, 3, 4, 4)],
    ),
    # image files
    ("ImageData", "image_data_param { batch_size: 5 new_height: 7 new_width: 9 }", [(5, 3, 7, 9), (5,)]),
    ("ImageData", "image_data_param { is_color: false new_height: 7 new_width: 9 }", [(1, 1, 7, 9), (1,)]),
    (
        "ImageData",
        "image_data_param { batch_size: 5 new_height: 7 new_width: 9 } transform_param { crop_size: 4 }",
        [(5, 3, 4, 4), (5,)],
    ),
    ("ImageData", "image_data_param { batch_size: 5 }", ["5 x 3 x ? x ?", (5,)]),
    (
        "ImageSegData",
        "image_data_param { batch_size: 5 } transform_param { crop_size: 4 }",
        [(5, 3, 4, 4), (5, 1, 4, 4)],
    ),
    ("WindowData", "window_data_param { batch_size: 5 } transform_param { crop_size: 4 }", [(5, 3, 4, 4), (5,)]),
    # arrays
    ("MemoryData", "memory_data_param { batch_size: 5 channels: 2 height: 7 width: 9 }", [(5, 2, 7, 9), (5,)]),
    ("MemoryData", "memory_data_param { batch_size: 5 channels: 2 height: 7 }", ["5 x 2 x 7 x ?", (5,)]),
    ("HDF5Data", "hdf5_data_param { batch_size: 5 }", ["5 x ?", "5 x ?", "5 x ?"]),
    ("DummyData", "dummy_data_param { shape { dim: 5 dim: 3 } }", [(5, 3), (5, 3)]),
    ("DummyData", "dummy_data_param { shape { dim: 5 dim: 3 } shape { dim: 4 } }", [(5, 3), (4,)]),
    ("DummyData", "dummy_data_param { num: 5 channels: 2 height: 7 width: 9 }", [(5, 2, 7, 9), (5, 2, 7, 9)]),
    (
        "DummyData",
        "dummy_data_param { num: 5 num: 4 channels: 2 height: 7 height: 3 width: 9 }",
        [(5, 2, 7, 9), (4, 2, 3, 9)],
    ),
    # what Caffe ignores and other tools write
    ("Data", "input_param { shape { dim: 1 dim: 3 dim: 7 dim: 9 } }", [(1, 3, 7, 9)]),
]


def layer(kind: str, parameters: str, tops: int) -> Net:
    names = " ".join(f'top: "t{i}"' for i in range(tops))
    return Net.of(parse(f'layer {{ name: "l" type: "{kind}" {names} {parameters} }}'))


@pytest.mark.parametrize(("kind", "parameters", "expected"), DATA)
def test_a_data_layer_has_the_shapes_that_the_file_says(kind, parameters, expected):
    net = layer(kind, parameters, len(expected))
    shapes = infer_shapes(net, strict=False)
    assert list(shapes.blobs.values()) == [shape if isinstance(shape, tuple) else None for shape in expected]
    unknown = [(f"t{i}", shape) for i, shape in enumerate(expected) if isinstance(shape, str)]
    said = [str(problem) for problem in shapes.problems]
    assert said == [f'layer "l": the file does not say the whole shape of "{top}": {s}' for top, s in unknown[:1]]
    if unknown:
        with pytest.raises(NetError, match=r'^layer "l": the file does not say the whole shape of'):
            infer_shapes(net)


@pytest.mark.parametrize(
    ("kind", "parameters", "tops", "message"),
    [
        ("Data", "data_param { batch_size: 5 }", 3, "expected tops: 2, got 3"),
        ("VideoData", "", 3, "expected tops: 2, got 3"),
        ("DummyData", "dummy_data_param { shape { dim: 5 } shape { dim: 4 } }", 3, "one for each of 3, got 2"),
        ("DummyData", "", 1, "one for each of 1, got 0"),
        ("Data", "input_param { shape { dim: 5 } shape { dim: 4 } }", 1, "expected tops: 2, got 1"),
        ("Data", "input_param { shape { dim: 99999 dim: 99999 } }", 1, "more than the 2147483647 values"),
    ],
)
def test_a_data_layer_that_cannot_be_is_refused(kind, parameters, tops, message):
    with pytest.raises(NetError, match=f'^layer "l": .*{message}'):
        infer_shapes(layer(kind, parameters, tops))


# type, parameters, shapes of the bottoms, shapes of as many tops as it can have
LOSSES = [
    ("SoftmaxWithLoss", "", [(2, 3, 5), (2, 5)], [(), (2, 3, 5)]),
    ("SoftmaxWithLoss", "", [(2, 3, 5), (2, 5), (2, 5)], [()]),
    ("EuclideanLoss", "", [(2, 3), (2, 3)], [()]),
    ("SigmoidCrossEntropyLoss", "", [(2, 3), (2, 3)], [()]),
    ("HingeLoss", "", [(2, 3), (2,)], [()]),
    ("InfogainLoss", "", [(2, 3), (2,), (3, 3)], [()]),
    ("MultinomialLogisticLoss", "", [(2, 3), (2,)], [()]),
    ("ContrastiveLoss", "", [(2, 3), (2, 3), (2,)], [()]),
    ("SmoothL1Loss", "", [(2, 3), (2, 3), (2, 3), (2, 3)], [()]),
    ("L1Loss", "", [(2, 3), (2, 3)], [()]),
    ("MultiBoxLoss", "", [(2, 8), (2, 6), (1, 2, 8), (1, 1, 3, 8)], [()]),
    ("Accuracy", "", [(2, 3, 5), (2, 5)], [(), (3,)]),
    ("Accuracy", "accuracy_param { axis: -1 }", [(2, 3, 5), (2, 3)], [(), (5,)]),
    ("SegAccuracy", "", [(2, 3, 5, 7), (2, 1, 5, 7)], [(1, 1, 1, 3)]),
]


@pytest.mark.parametrize(("kind", "parameters", "bottoms", "tops"), LOSSES)
def test_losses_and_evaluation_give_single_values(kind, parameters, bottoms, tops):
    inputs = "".join(
        f'layer {{ name: "i{i}" type: "Input" top: "b{i}" input_param {{ shape {{ dim: {list(shape)} }} }} }}'
        for i, shape in enumerate(bottoms)
    )
    reads = " ".join(f'bottom: "b{i}"' for i in range(len(bottoms)))
    for count in range(len(tops) + 1):  # Caffe names what the file leaves out
        writes = " ".join(f'top: "t{i}"' for i in range(count))
        net = Net.of(parse(f'{inputs} layer {{ name: "l" type: "{kind}" {reads} {writes} {parameters} }}'))
        shapes = infer_shapes(net)
        assert [shapes.blobs[f"t{i}"] for i in range(count)] == tops[:count]
        assert (shapes.params, shapes.macs) == ({}, 0)


def test_how_many_detections_there_are_is_not_known():
    net = Net.of(
        parse("""
        layer { name: "a" type: "Input" top: "a" top: "b" input_param { shape { dim: [1, 1, 4, 7] } } }
        layer { name: "l" type: "DetectionEvaluate" bottom: "a" bottom: "b" top: "t" }
    """)
    )
    shapes = infer_shapes(net, strict=False)
    assert shapes.blobs["t"] is None
    assert [str(problem) for problem in shapes.problems] == [
        'layer "l": the file does not say the whole shape of "t": 1 x 1 x ? x 5'
    ]


def test_no_type_is_both_run_and_never_run():
    assert not LAYERS.keys() & NEVER_RUN.keys()
    tried = {row[0] for row in (*DATA, *LOSSES)} | {"DetectionEvaluate", "Python"}
    assert tried == NEVER_RUN.keys()


@pytest.mark.parametrize("kind", sorted(NEVER_RUN))
def test_what_is_never_run_is_refused_with_the_reason(kind):
    net = Net.of(
        parse(f"""
        layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: 2 dim: 3 }} }} }}
        layer {{ name: "l" type: "{kind}" bottom: "x" bottom: "x" top: "y" }}
    """)
    )
    if kind == "Python":
        said = 'layer "l": a Python layer is code that lpcaffe never executes'
    else:
        role = NEVER_RUN[kind].role
        assert role in ("a data layer", "a loss layer", "an evaluation layer")
        said = f'layer "l": {role} ({kind}) is not part of a deploy network; lpcaffe upgrade --deploy makes one'
    with pytest.raises(NetError) as caught:
        check_executable(net)
    assert str(caught.value) == said
    with pytest.raises(NetError) as caught:
        run(net, np.ones((2, 3), np.float32))
    assert str(caught.value) == said
