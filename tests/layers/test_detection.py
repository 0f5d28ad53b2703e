"""DetectionOutput where the cases of the oracle do not reach: eta, odd boxes, and a batch that changes."""

import numpy as np
import pytest
from caffe_layers import ORACLES
from caffe_layers.detection import detect

from lpcaffe.engines import run
from lpcaffe.engines.onnxruntime_engine import OnnxRuntime
from lpcaffe.errors import NetError
from lpcaffe.formats.prototxt import parse
from lpcaffe.net import Net

ENGINES = pytest.mark.parametrize("engine", ["numpy", "onnxruntime"])


def build(text: str, bottoms: list[np.ndarray]) -> Net:
    inputs = "".join(
        f'layer {{ name: "in{i}" type: "Input" top: "x{i}" input_param {{ shape {{ {dims} }} }} }}\n'
        for i, bottom in enumerate(bottoms)
        for dims in [" ".join(f"dim: {dim}" for dim in bottom.shape)]
    )
    return Net.of(
        parse(f'{inputs}layer {{ name: "l" type: "DetectionOutput" bottom: ["x0", "x1", "x2"] top: "y" {text} }}')
    )


def detections(text: str, bottoms: list[np.ndarray], **options: str) -> np.ndarray:
    return run(build(text, bottoms), {f"x{i}": x for i, x in enumerate(bottoms)}, **options)["y"]


def at_priors(boxes: list[list[float]], scores: list[float]) -> list[np.ndarray]:
    """Boxes that lie on their priors, of one class beside the background."""
    priors = np.stack([np.array(boxes, np.float32).reshape(-1), np.ones(4 * len(boxes), np.float32)])
    conf = np.array([[0, score] for score in scores], np.float32).reshape(1, -1)
    return [np.zeros((1, priors.shape[1]), np.float32), conf, priors[np.newaxis]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_with_eta_the_threshold_shrinks_after_each_box_that_stays(dtype):
    counts = set()
    for eta in (0.99, 0.9, 0.5):
        text = f"code_type: CENTER_SIZE nms_param {{ nms_threshold: 0.9 eta: {eta} }}"
        case = detect(text, (2, 41, 3), eta=eta, threshold=0.9, code="CENTER_SIZE")
        expected = ORACLES["DetectionOutput"](*case.bottoms, **case.meaning)[0]
        found = detections(case.text, case.bottoms, engine="numpy", dtype=dtype)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
        counts.add(found.shape[2])
    assert len(counts) == 3


def test_a_graph_refuses_eta_and_names_the_layer():
    case = detect("nms_param { eta: 0.5 }")
    with pytest.raises(NetError, match=r'^layer "l": an ONNX graph cannot shrink .* by eta 0.5; the numpy engine does'):
        detections(case.text, case.bottoms, engine="onnxruntime")


@ENGINES
def test_of_equal_scores_the_first_prior_comes_first(engine):
    boxes = [[0, 0, 0.5, 0.5], [0.1, 0, 0.6, 0.5], [0.5, 0.5, 1, 1], [0, 0, 0.5, 0.6]]
    bottoms = at_priors(boxes, [0.5, 0.75, 0.75, 0.5])
    found = detections(
        "detection_output_param { num_classes: 2 nms_param { nms_threshold: 0.7 } }", bottoms, engine=engine
    )
    np.testing.assert_array_equal(found[0, 0, :, 2], np.float32([0.75, 0.75, 0.5]))
    np.testing.assert_array_equal(found[0, 0, :, 3:], np.float32([boxes[1], boxes[2], boxes[0]]))


@ENGINES
def test_an_overlap_equal_to_the_threshold_stays(engine):
    boxes = [[0, 0, 1, 1], [0, 0, 1, 0.5], [0, 0, 0.75, 1]]  # overlaps with the first of 1/2 and 3/4
    text = "detection_output_param {{ num_classes: 2 nms_param {{ nms_threshold: {} }} }}"
    for threshold, expected in ((0.75, 3), (0.5, 2), (0.4375, 1)):
        found = detections(text.format(threshold), at_priors(boxes, [0.75, 0.5, 0.25]), engine=engine)
        assert found.shape[2] == expected


@ENGINES
def test_a_score_equal_to_the_threshold_goes(engine):
    boxes = [[0, 0, 0.25, 0.25], [0.5, 0.5, 1, 1]]
    text = "detection_output_param { num_classes: 2 confidence_threshold: 0.5 }"
    found = detections(text, at_priors(boxes, [0.5, 0.75]), engine=engine)
    np.testing.assert_array_equal(found, np.float32([[[[0, 1, 0.75, 0.5, 0.5, 1, 1]]]]))


@ENGINES
def test_a_box_inside_out_suppresses_nothing_and_comes_back_as_it_is(engine):
    boxes = [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5], [0, 0, 0.5, 0.375]]
    text = "detection_output_param { num_classes: 2 nms_param { nms_threshold: 0.5 } }"
    found = detections(text, at_priors(boxes, [0.75, 0.5, 0.25]), engine=engine)
    np.testing.assert_array_equal(found[0, 0, :, 3:], np.float32(boxes[:2]))


@ENGINES
def test_a_score_of_nan_is_no_detection(engine):
    boxes = [[0, 0, 0.25, 0.25], [0.5, 0.5, 1, 1], [0, 0.5, 0.25, 1]]
    text = "detection_output_param { num_classes: 2 confidence_threshold: 0.125 }"
    found = detections(text, at_priors(boxes, [0.5, np.nan, 0.75]), engine=engine)
    np.testing.assert_array_equal(found[0, 0, :, 2], np.float32([0.75, 0.5]))


def test_one_graph_serves_any_number_of_images():
    net = Net.of(
        parse(
            """
            layer { name: "in" type: "Input" top: "map" input_param { shape { dim: 1 dim: 2 dim: 3 dim: 5 } } }
            layer { name: "loc" type: "Input" top: "loc" input_param { shape { dim: 1 dim: 60 } } }
            layer { name: "conf" type: "Input" top: "conf" input_param { shape { dim: 1 dim: 45 } } }
            layer { name: "prior" type: "PriorBox" bottom: "map" bottom: "map" top: "prior"
                    prior_box_param { min_size: 2 } }
            layer { name: "l" type: "DetectionOutput" bottom: "loc" bottom: "conf" bottom: "prior" top: "y"
                    detection_output_param { num_classes: 3 code_type: CENTER_SIZE keep_top_k: 6
                                             nms_param { top_k: 8 } } }
            """
        )
    )
    engine = OnnxRuntime(net)
    rng = np.random.default_rng(1)
    sessions = []
    for images in (1, 3, 2):
        feeds = {
            "map": np.zeros((images, 2, 3, 5), np.float32),
            "loc": rng.normal(size=(images, 60)).astype(np.float32),
            "conf": rng.random((images, 45), np.float32),
        }
        (found,) = engine.run(feeds).values()
        np.testing.assert_allclose(found, run(net, feeds, engine="numpy")["y"], rtol=0, atol=1e-5)
        assert set(found[0, 0, :, 0]) == set(range(images))
        sessions.append(engine._session)
    assert sessions[0] is sessions[1] is sessions[2]
