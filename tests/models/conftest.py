"""Released networks; `make test-models` fetches them (tools/fetch_models.py, tools/cut_crops.py)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("LPCAFFE_MODELS") or Path(__file__).resolve().parents[2] / ".cache" / "models")


def folder(name: str, wanted: str) -> Path:
    if not (CACHE / name / wanted).is_file():
        pytest.skip(f"{name} is not in the cache of released networks: run make test-models")
    return CACHE / name


@pytest.fixture(scope="session")
def open_nsfw() -> Path:
    return folder("open_nsfw", "resnet_50_1by2_nsfw.caffemodel")


@pytest.fixture(scope="session")
def face_detector() -> Path:
    return folder("face_ssd_res10", "res10_300x300_ssd_iter_140000.caffemodel")


@pytest.fixture(scope="session")
def crops() -> Path:
    return folder("crops", "sources.txt")
