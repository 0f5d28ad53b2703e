"""Arrays in .npy and .npz files, under any name.

numpy.savez takes names as keyword arguments, so an array cannot be called `file`, and blobs can: here the archive is
written entry by entry. The bytes depend on the arrays alone.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import IO

import numpy as np

from lpcaffe.errors import DataError, reason
from lpcaffe.io.kinds import UNREADABLE
from lpcaffe.io.outputs import whole_file


def read_arrays(path: str | PathLike[str]) -> np.ndarray | dict[str, np.ndarray]:
    """The array of an .npy, or the arrays of an .npz by name. Raises DataError for anything else, pickles included."""
    try:
        with Path(path).open("rb") as file:  # which NumPy leaves open where the archive is broken
            found = np.load(file, allow_pickle=False)
            return found if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
    except OSError as error:
        raise DataError(f"cannot be read: {reason(error)}", path=path) from error
    except MemoryError as error:
        raise DataError("claims more values than memory holds", path=path) from error
    except UNREADABLE as error:
        raise DataError("is not a whole .npy or .npz of numbers", path=path) from error


def write_npz(path: str | PathLike[str], arrays: Mapping[str, np.ndarray], *, force: bool = False) -> None:
    """Write the arrays, uncompressed, each under its name. Raises FileError as `whole_file` does."""
    with whole_file(path, force) as file:
        write_entries(file, arrays.items())


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of such a file."""
    file = io.BytesIO()
    write_entries(file, arrays.items())
    return file.getvalue()


def write_entries(file: IO[bytes], arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write such a file into an open one, an array at a time."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)


def write_npy(path: str | PathLike[str], array: np.ndarray, *, force: bool = False) -> None:
    """Write one array. Raises FileError as `whole_file` does."""
    values = np.asarray(array, order="C")
    with whole_file(path, force) as file:
        # Not numpy's write_array: on a full disk it raises an error that tells neither the reason nor the file.
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(values))
        file.write(values.data)
