"""Image files: which ones a folder or a list names, and their pixels.

A folder is walked recursively; files with an image's extension count, in the order of their paths below it, compared
part by part; hidden ones do not. A list file has one image a line, `path` or `path label`, relative to the list file's
folder; paths may hold spaces, empty lines do not count, and either every line has a label or none.
"""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lpcaffe.errors import DataError, reason
from lpcaffe.io.kinds import UNREADABLE

EXTENSIONS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"})

INTEGER = re.compile("[-+]?[0-9]{1,18}")


def folder_images(folder: Path) -> list[Path]:
    """The images below `folder`, sorted. Raises DataError if there are none."""
    found = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in EXTENSIONS
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    ]
    if not found:
        raise DataError(f"no images in this folder (looked for {', '.join(sorted(EXTENSIONS))})", path=folder)
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def list_images(path: Path) -> tuple[list[Path], NDArray[np.int64] | None]:
    """The images of a list file, and their labels if it has any. Raises DataError with the line that is wrong."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"cannot be read: {reason(error)}", path=path) from error
    except UnicodeDecodeError as error:
        raise DataError(
            "this is no text", path=path, hint="expected a folder, a list file, .npy, .npz, an LMDB or `random`"
        ) from error
    images: list[Path] = []
    labels: list[int] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, label = _split_label(line.strip())
        if (label is not None) != (len(labels) == len(images)) and images:
            has, had = ("a label", "none") if label is not None else ("no label", "one")
            raise DataError(f"this line has {has}, the lines before have {had}", path=path, line=number)
        image = path.parent / name
        if not image.is_file():
            raise DataError(f"no such image: {image}", path=path, line=number)
        images.append(image)
        if label is not None:
            labels.append(label)
    if not images:
        raise DataError("this list names no images", path=path)
    return images, np.array(labels, np.int64) if labels else None


def _split_label(line: str) -> tuple[str, int | None]:
    name, *last = line.rsplit(maxsplit=1)
    return (name, int(last[0])) if last and INTEGER.fullmatch(last[0]) else (line, None)


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """The pixels of an image file: uint8, H x W x 3 in RGB, or H x W if the file is grey. Raises DataError.

    As OpenCV, with which Caffe reads, it turns a photograph by its EXIF orientation and drops transparency.
    """
    try:
        return decode_image(Path(path).read_bytes())
    except OSError as error:
        raise DataError(f"cannot be read: {reason(error)}", path=path) from error
    except DataError as error:
        raise DataError(error.problem, path=path, hint=error.hint) from error


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """The pixels of an image file's bytes, as `read_image` gives them. Raises DataError without a place."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode == "P":  # a palette's transparency is only dropped without a warning by way of RGBA
                upright = upright.convert("RGBA")
            deep = upright.mode.startswith(("I", "F"))
            pixels = np.asarray(upright if deep or upright.mode == "L" else upright.convert("RGB"))
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        why = "not an image that Pillow knows" if isinstance(error, UnidentifiedImageError) else reason(error)
        raise DataError(f"unreadable image: {why}") from error
    if deep:
        raise DataError(f"expected an image of 8 bits a channel, got Pillow's mode {upright.mode}")
    return pixels
