"""One thread for NumPy's matrix products.

OpenBLAS, which NumPy's wheels bring, cuts a product otherwise for every number of threads, and the last bits of the
sums differ. On one thread they do not depend on the machine's number of processors.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from typing import Any


def one_blas_thread() -> AbstractContextManager[Any]:
    """The BLAS library on one thread inside."""
    limit: AbstractContextManager[Any] = _libraries().limit(limits=1, user_api="blas")
    return limit


@functools.cache
def _libraries() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
