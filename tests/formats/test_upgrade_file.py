"""`upgrade IN OUT`: text or binary by content, and files from before November 2016."""

from __future__ import annotations

import numpy as np
import pytest

from lpcaffe.errors import FileError
from lpcaffe.formats.caffemodel import BlobSource, open_caffemodel, write_caffemodel
from lpcaffe.formats.prototxt import parse, read
from lpcaffe.formats.upgrade_file import upgrade_file

V1 = """
name: "old" input: "data" input_dim: 2 input_dim: 3 input_dim: 5 input_dim: 7
layers { name: "c" type: CONVOLUTION bottom: "data" top: "c" blobs_lr: 1 blobs_lr: 2
  convolution_param { num_output: 4 kernel_size: 3 } }
"""
LP = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "ip" type: "LPInnerProduct" bottom: "data" top: "ip" lpfp_param { bd: 1 ad: 6 }
  inner_product_param { num_output: 5 } }
layer { name: "ip_lpact" type: "LPAct" bottom: "ip" top: "ip" lpfp_param { bd: 3 ad: 4 } }
layer { name: "relu" type: "ReLU" bottom: "ip" top: "ip" }
"""


def test_text_is_upgraded_to_text(tmp_path):
    (tmp_path / "v1.prototxt").write_text(V1)
    upgrade_file(tmp_path / "v1.prototxt", tmp_path / "v2.prototxt")
    net = read(tmp_path / "v2.prototxt")
    assert [(layer.name, layer.type) for layer in net.layer] == [("input", "Input"), ("c", "Convolution")]
    assert [spec.lr_mult for spec in net.layer[1].param] == [1, 2]


@pytest.mark.parametrize(("old_bd", "expected"), [(False, [0, 1, 3, 0]), (True, [0, 2, 4, 0])])
def test_old_bd_counts_the_sign_bit_in_text(tmp_path, old_bd, expected):
    (tmp_path / "old.prototxt").write_text(LP)
    upgrade_file(tmp_path / "old.prototxt", tmp_path / "new.prototxt", old_bd=old_bd)
    assert [layer.lpfp_param.bd for layer in read(tmp_path / "new.prototxt").layer] == expected


def test_binary_is_upgraded_to_binary_with_the_same_blobs(tmp_path):
    weights = np.arange(15, dtype=np.float32).reshape(5, 3)
    blobs = {"ip": [BlobSource.of(weights), BlobSource.of(-weights)]}
    write_caffemodel(tmp_path / "old.caffemodel", parse(LP), blobs)
    upgrade_file(tmp_path / "old.caffemodel", tmp_path / "new.caffemodel", old_bd=True)
    with open_caffemodel(tmp_path / "new.caffemodel") as model:
        assert [layer.lpfp_param.bd for layer in model.net.layer] == [0, 2, 4, 0]
        np.testing.assert_array_equal(model.by_name["ip"].blobs[1].array(), -weights)


def test_an_output_that_exists_and_an_input_that_does_not_are_one_line_errors(tmp_path):
    (tmp_path / "a.prototxt").write_text(V1)
    with pytest.raises(FileError, match="the file exists; --force overwrites it"):
        upgrade_file(tmp_path / "a.prototxt", tmp_path / "a.prototxt")
    with pytest.raises(FileError, match=r"gone.prototxt: cannot be read: no such file"):
        upgrade_file(tmp_path / "gone.prototxt", tmp_path / "b.prototxt")
