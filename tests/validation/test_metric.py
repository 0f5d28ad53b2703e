"""The user's own figure: loaded by name, called once with everything, and what goes wrong in it said in one line."""

import sys

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.errors import DataError, PlanError
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.quant.plan import BitPlan, LayerPlan
from lpcaffe.validation.metric import load_metric, measure, metric_name

MODULE = """
import numpy as np
number = 3
def good(full, low, labels):
    return np.float32(2.5)
def fails(full, low, labels):
    raise KeyError("prob")
class Distance:
    def __call__(self, full, low, labels):
        return -1
distance = Distance()
"""

TWO = """name: "two"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 6 } } }
layer { name: "a" type: "InnerProduct" bottom: "data" top: "a" inner_product_param { num_output: 5 } }
layer { name: "b" type: "InnerProduct" bottom: "data" top: "b" inner_product_param { num_output: 7 } }
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A working directory with modules in it; what is imported from there is forgotten again."""
    (tmp_path / "own_metric.py").write_text(MODULE)
    (tmp_path / "own_broken.py").write_text("import not_there_either\n")
    (tmp_path / "own_syntax.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("own_metric", "own_broken", "own_syntax"):
        sys.modules.pop(name, None)


def test_a_metric_is_found_in_the_working_directory(module):
    metric = load_metric("own_metric:good")
    assert metric({}, {}, None) == 2.5
    assert metric_name(metric) == "own_metric:good"
    assert load_metric("own_metric:distance")({}, {}, None) == -1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("own_metric", "expected module:function, got 'own_metric'"),
        ("own_metric:", "expected module:function"),
        (":good", "expected module:function"),
        ("not_there:good", "there is no module 'not_there'; it is looked for in the working directory first"),
        ("own_metric.deeper:good", "there is no module 'own_metric.deeper'"),
        ("own_metric:nope", "the module 'own_metric' has no 'nope'"),
        ("own_metric:number", "'own_metric:number' is of type int, not a function"),
        ("own_broken:f", "importing 'own_broken' failed: ModuleNotFoundError: No module named 'not_there_either'"),
        ("own_syntax:f", "importing 'own_syntax' failed: SyntaxError: "),
        (".:f", "importing '.' failed: TypeError: "),
    ],
)
def test_what_is_wrong_with_a_name_is_said(module, text, said):
    with pytest.raises(PlanError) as caught:
        load_metric(text)
    assert str(caught.value).startswith(f"metric: {said}")
    assert "\n" not in str(caught.value)


def raising(error):
    def metric(full, low, labels):
        raise error

    return metric


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (lambda full, low, labels: None, "returned NoneType, expected a number"),
        (lambda full, low, labels: "1", "returned str, expected a number"),
        (lambda full, low, labels: True, "returned bool, expected a number"),
        (lambda full, low, labels: np.ones(2), "returned ndarray, expected a number"),
        (lambda full, low, labels: 1j, "returned complex, expected a number"),
        (lambda full, low, labels: float("nan"), "returned nan, expected a finite number"),
        (lambda full, low, labels: -np.inf, "returned -inf, expected a finite number"),
        (lambda full: 0, "failed: TypeError: "),
        (raising(KeyError("prob")), "failed: KeyError: 'prob'"),
        (raising(ValueError("one\ntwo")), "failed: ValueError: one"),
        (raising(AssertionError()), "failed: AssertionError"),
    ],
)
def test_a_metric_that_gives_no_number_is_an_error(metric, said):
    with pytest.raises(DataError) as caught:
        measure(metric, {}, {}, None)
    assert str(caught.value).startswith(f"the metric {metric_name(metric)} {said}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int64(2), np.array(2.0)])
def test_any_number_will_do(value):
    found = measure(lambda full, low, labels: value, {}, {}, None)
    assert (found, type(found)) == (2.0, float)


def test_a_blob_whose_batches_do_not_fit_together_is_named():
    with pytest.raises(DataError, match=r'blob "boxes": a metric needs it for all images'):
        measure(raising(ValueError()), {"boxes": [np.ones((1, 1, 2, 7)), np.ones((1, 1, 5, 7))]}, {}, None)


@pytest.mark.parametrize("batch", [4, 13])
def test_validation_measures_all_outputs_of_all_images(make_net, tmp_path, batch):
    seen = []

    def metric(full, low, labels):
        seen.append((full, low, labels))
        return 1 - float(np.abs(full["a"] - low["a"]).max())

    net, x = make_net(TWO), np.random.default_rng(1).normal(size=(13, 6)).astype(np.float32)
    plan = BitPlan({"a": LayerPlan("InnerProduct", QFormat(1, 2), QFormat(3, 2))})
    low = lp.convert(net, plan, tmp_path / "out").net
    images = lp.images(x, net).with_labels(np.arange(13) % 7)
    report = lp.validate(net, low, images, plan=plan, metric=metric, batch=batch)
    ((full, got, labels),) = seen
    assert labels is images.labels
    for blob in "ab":
        for outputs, own in ((full, net), (got, low)):
            assert outputs[blob].shape == (13, {"a": 5, "b": 7}[blob])
            batches = [lp.run(own, x[i : i + batch], engine="numpy")[blob] for i in range(0, 13, batch)]
            assert np.array_equal(outputs[blob], np.concatenate(batches))
    assert report.to_json()["metric"] == 1 - np.abs(full["a"] - got["a"]).max() < 1
    assert f"metric {report.comparison.metric:.6g}" in str(report)


def test_without_a_metric_there_is_none(make_net, tmp_path):
    net = make_net(TWO)
    plan = BitPlan({"a": LayerPlan("InnerProduct", QFormat(1, 2))})
    low = lp.convert(net, plan, tmp_path / "out").net
    assert lp.validate(net, low, lp.images(np.ones((3, 6), np.float32), net)).to_json()["metric"] is None
    assert lp.validate(net, low).to_json()["metric"] is None
    with pytest.raises(DataError, match="--metric needs data"):
        lp.validate(net, low, metric=lambda full, low, labels: 0.0)
