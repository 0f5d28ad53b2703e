"""Compile proto/caffe.proto into lpcaffe/formats/caffe.desc, the descriptor set that lpcaffe loads at run time.

    python tools/make_schema.py

Needs grpcio-tools (in the extra `dev`). tests/formats/test_schema.py checks that the committed file is current.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def compile_schema(out: Path) -> None:
    from grpc_tools import protoc

    proto = ROOT / "proto"
    status = protoc.main(["protoc", f"-I{proto}", f"--descriptor_set_out={out}", str(proto / "caffe.proto")])
    if status:
        sys.exit(f"protoc ended with status {status}")


if __name__ == "__main__":
    compile_schema(ROOT / "lpcaffe" / "formats" / "caffe.desc")
