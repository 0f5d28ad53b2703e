"""The messages of proto/caffe.proto, as protobuf classes in a descriptor pool of their own.

The pool is private: lpcaffe and pycaffe, which both define `caffe.proto`, live in one process. The classes are made
from `caffe.desc`, a descriptor set compiled by tools/make_schema.py, so no generated code pins the protobuf version.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# A protobuf message or message class of the private pool. Its fields are only known at run time.
Message = Any

PACKAGE = "lpcaffe.caffe"

# How many layers a file may have; one of two bytes becomes a message of a kilobyte. The longest of the wild has 1,169.
MAX_LAYERS = 10_000


def _load() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    files = descriptor_pb2.FileDescriptorSet.FromString(
        resources.files(__package__).joinpath("caffe.desc").read_bytes()
    )
    for file in files.file:
        pool.Add(file)
    return pool


POOL = _load()


def message_class(name: str) -> Any:
    """The class of a message by its Caffe name, for example `message_class("NetParameter")`."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))


def enum_number(enum: str, value: str) -> int:
    """The number of an enum value, for example `enum_number("PoolingParameter.PoolMethod", "AVE")`."""
    return int(POOL.FindEnumTypeByName(f"{PACKAGE}.{enum}").values_by_name[value].number)


NetParameter = message_class("NetParameter")
LayerParameter = message_class("LayerParameter")
V1LayerParameter = message_class("V1LayerParameter")
V0LayerParameter = message_class("V0LayerParameter")
BlobProto = message_class("BlobProto")
BlobShape = message_class("BlobShape")
Datum = message_class("Datum")
NetState = message_class("NetState")
TRAIN = 0
TEST = 1
