"""Are the CPU kernels vectorised? Counts the packed and the scalar instructions of each, and says what it found.

    python tools/show_rounding_assembly.py [--dump FOLDER]

A kernel has a vector loop and, for what is left over, a scalar one, so both kinds appear. What tells is that the packed
instructions do the rounding: a kernel is called vectorised when packed additions and compares, and for random numbers
packed 32 x 32 -> 64-bit products, are there. (The rule rounds with additions, so rounding instructions proper do not
appear.) Exit status 1 when one is not.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from pathlib import Path

import numba
import numpy as np

from lpcaffe.numbers.rounding import SCHEMES, numba_backend

# Instructions of x86 (with and without the v of AVX) and of AArch64, by what they do in the rule.
KINDS = {
    "add": (r"v?(add|sub)p[sd]|f(add|sub)\.[24][sd]", r"v?(add|sub)s[sd]|fadd"),
    "multiply": (r"v?mulp[sd]|fmul\.[24][sd]", r"v?muls[sd]|fmul"),
    "compare": (r"v?cmp\w*p[sd]|v?(min|max)p[sd]|fcm\w+\.[24][sd]", r"v?u?comis[sd]|v?cmp\w*s[sd]|fcmp"),
    "round": (r"v?(round|rndscale)p[sd]|frint\w\.[24][sd]", r"v?(round|rndscale)s[sd]|frint\w"),
    "product of words": (r"v?pmuludq|umull2?\.2d", r"mulq|mulxq|imulq|umull"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dump", type=Path, help="write every kernel's assembly into this folder")
    options = parser.parse_args()
    print("| scheme | data | way | registers | " + " | ".join(f"{kind}: packed, scalar" for kind in KINDS) + " |")
    print("|---" * (4 + len(KINDS)) + "|")
    failed = []
    for scheme in sorted(SCHEMES):
        for dtype in (np.float32, np.float64):
            for way in ("out of place", "in place"):
                text = assembly(scheme, dtype, way)
                if options.dump:
                    options.dump.mkdir(parents=True, exist_ok=True)
                    name = f"{scheme}_{np.dtype(dtype)}_{way.replace(' ', '_')}.s"
                    (options.dump / name).write_text(text, encoding="utf-8")
                found = count(text)
                registers = Counter(re.findall(r"%([xyz]mm)\d+", text))
                widest = next((name for name in ("zmm", "ymm", "xmm") if registers[name]), "other")
                cells = " | ".join(f"{packed}, {single}" for packed, single in found.values())
                print(f"| {scheme} | {np.dtype(dtype)} | {way} | {widest} | {cells} |")
                needed = ["add", "multiply", "compare"] + ["product of words"] * SCHEMES[scheme].random
                if not all(found[kind][0] for kind in needed):
                    failed.append(f"{scheme} {np.dtype(dtype)} {way}")
    print(f"\nNot vectorised: {', '.join(failed)}" if failed else "\nEvery kernel is vectorised.")
    return 1 if failed else 0


def assembly(scheme: str, dtype: type, way: str) -> str:
    """What LLVM made of one kernel. It is compiled again, because a cached kernel has no assembly."""
    python = numba_backend.kernel(scheme).py_func
    fresh = numba.njit(python, nogil=True, fastmath=False)
    real = numba.float32 if dtype == np.float32 else numba.float64
    out = numba.types.Array(real, 1, "C")
    source = numba.none if way == "in place" else numba.types.Array(real, 1, "C", readonly=True)
    fresh.compile((source, out, *[real] * 4, *[numba.uint64] * 3))
    return str(next(iter(fresh.inspect_asm().values())))


def count(text: str) -> dict[str, tuple[int, int]]:
    """Packed and scalar instructions of each kind."""
    names = Counter(match for match in re.findall(r"^\s+([a-z][\w.]*)", text, re.MULTILINE))
    return {
        kind: tuple(sum(n for name, n in names.items() if re.fullmatch(pattern, name)) for pattern in patterns)
        for kind, patterns in KINDS.items()
    }  # type: ignore[return-value]


if __name__ == "__main__":
    sys.exit(main())
