"""proto/caffe.proto: compiled as committed, complete, and alone in its descriptor pool."""

import csv
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FieldDescriptor

from lpcaffe.formats.schema import PACKAGE, POOL, LayerParameter, NetParameter, enum_number, message_class

ROOT = Path(__file__).resolve().parents[2]
SPEC = ROOT.parent / "shared" / "spec"
needs_shared = pytest.mark.skipif(not SPEC.exists(), reason="needs the list of Caffe's fields beside the checkout")
DESCRIPTORS = descriptor_pb2.FileDescriptorSet.FromString((ROOT / "lpcaffe/formats/caffe.desc").read_bytes())
PRIVATE = 500_000_000
TYPES = {number: name[5:].lower() for name, number in vars(FieldDescriptor).items() if name.startswith("TYPE_")}


def messages():
    for file in DESCRIPTORS.file:
        for message in file.message_type:
            yield POOL.FindMessageTypeByName(f"{PACKAGE}.{message.name}")


def test_the_committed_descriptor_is_what_the_proto_compiles_to(tmp_path):
    spec = importlib.util.spec_from_file_location("make_schema", ROOT / "tools" / "make_schema.py")
    make_schema = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_schema)
    make_schema.compile_schema(tmp_path / "caffe.desc")
    assert descriptor_pb2.FileDescriptorSet.FromString((tmp_path / "caffe.desc").read_bytes()) == DESCRIPTORS


def test_another_caffe_proto_in_the_process_is_no_conflict():
    """pycaffe registers `caffe.proto` with `caffe.NetParameter` in the default pool; before lpcaffe or after it."""
    pycaffe = """
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
def pycaffe():
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    file.message_type.add(name="NetParameter").field.add(name="name", number=1, label=1, type=5)
    pool = descriptor_pool.Default()
    pool.Add(file)
    net = message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe.NetParameter"))
    assert net(name=3).SerializeToString() == bytes([8, 3])
def lpcaffe():
    from lpcaffe.formats.schema import NetParameter
    assert NetParameter(name="a").SerializeToString() == bytes([10, 1, 97])
"""
    for order in ("pycaffe(); lpcaffe()", "lpcaffe(); pycaffe()"):
        subprocess.run([sys.executable, "-W", "error", "-c", f"{pycaffe}\n{order}"], check=True, cwd=ROOT)


def test_every_message_but_other_itself_keeps_what_it_does_not_know():
    for message in messages():
        if message.name != "Other":
            assert message.fields_by_name["other"].number == PRIVATE, message.name
            assert message.fields_by_name["other"].message_type.name == "Other", message.name


def test_numbers_from_500000000_up_are_private_and_no_number_below_is():
    private = {f"{m.name}.{f.name}" for m in messages() for f in m.fields if f.number > PRIVATE}
    assert private == {
        "LayerParameter.swish_param",
        "LayerParameter.clip_param",
        "LayerParameter.roi_pooling_param",
        "LayerParameter.smooth_l1_loss_param",
        "LayerParameter.quantization_param",
        "LayerParameter.interp_param",
        "LayerParameter.psroi_pooling_param",
        "LayerParameter.shuffle_channel_param",
        "LayerParameter.upsample_param",
        "SolverParameter.estimate",
        "PoolingParameter.ceil_mode",
        "DropoutParameter.scale_train",
    }


def test_classes_and_enum_values_are_found_by_caffes_names():
    assert message_class("NetParameter") is NetParameter
    assert enum_number("PoolingParameter.PoolMethod", "AVE") == 1
    assert enum_number("Phase", "TEST") == 1


def shown_default(field):
    if field.enum_type is not None:
        return field.enum_type.values_by_number[field.default_value].name
    return str(field.default_value).lower() if field.type == FieldDescriptor.TYPE_BOOL else str(field.default_value)


@needs_shared
def test_every_field_of_every_dialect_is_there_as_it_is_in_files():
    proto = (ROOT / "proto" / "caffe.proto").read_text(encoding="utf-8")
    rows = list(csv.DictReader((SPEC / "caffe_fields.tsv").read_text(encoding="utf-8").splitlines(), delimiter="\t"))
    assert len(rows) == 650
    for row in rows:
        field = POOL.FindMessageTypeByName(f"{PACKAGE}.{row['message']}").fields_by_name[row["field"]]
        where = f"{row['message']}.{row['field']}"
        if field.number > PRIVATE:
            line = rf"{row['type']} {row['field']} = {field.number};  // {row['number']} in files"
            assert re.search(line, proto), where
        else:
            assert str(field.number) == row["number"], where
        named = field.message_type or field.enum_type
        assert (named.full_name.removeprefix(f"{PACKAGE}.") if named else TYPES[field.type]) == row["type"], where
        label = "repeated" if not field.has_presence else "required" if field.is_required else "optional"
        assert label == row["label"], where
        assert field.is_packed == (row["packed"] == "packed"), where
        if row["default"] and field.type == FieldDescriptor.TYPE_FLOAT:
            assert np.float32(row["default"]) == field.default_value, where
        elif row["default"]:
            assert shown_default(field) == row["default"].strip('"'), where


@needs_shared
def test_every_enum_of_every_dialect_is_there():
    rows = list(csv.DictReader((SPEC / "caffe_enums.tsv").read_text(encoding="utf-8").splitlines(), delimiter="\t"))
    assert len(rows) == 44
    for row in rows:
        values = POOL.FindEnumTypeByName(f"{PACKAGE}.{row['enum']}").values
        known = {f"{value.name}={value.number}" for value in values}
        if row["enum"] == "QuantizationParameter.Precision":  # and the names of its first version
            known -= {"FIXED_POINT=0", "MINI_FLOATING_POINT=1", "POWER_2_WEIGHTS=2"}
        assert known == set(row["values"].split()), row["enum"]


def test_parameters_of_forks_without_a_common_number_have_their_fields_and_defaults():
    def fields(block):
        message = LayerParameter.DESCRIPTOR.fields_by_name[block].message_type
        return {f.name: f.default_value for f in message.fields if f.name != "other"}

    assert fields("interp_param") == {
        "height": 0,
        "width": 0,
        "zoom_factor": 1,
        "shrink_factor": 1,
        "pad_beg": 0,
        "pad_end": 0,
    }
    assert fields("psroi_pooling_param") == {"spatial_scale": 0.0, "output_dim": 0, "group_size": 0}
    assert fields("shuffle_channel_param") == {"group": 1}
    assert fields("upsample_param") == {
        "scale": 2,
        "scale_h": 0,
        "scale_w": 0,
        "pad_out_h": False,
        "pad_out_w": False,
        "upsample_h": 0,
        "upsample_w": 0,
    }
