"""What Numba's CUDA target lacks, as LLVM instructions: vectors of four, and a product that stays one.

`load4(array, k)` and `store4(array, k, v0, v1, v2, v3)` are one load or store of four neighbours that says it is
aligned to 16 bytes, so the address must be: PTX's ld.v4.f32, or two ld.v2.f64. `product(a, b)` is PTX's mul.rn, which
is never fused with an addition; a plain mul may be, and numba-cuda has no switch against it. `wide_product(a, b)` is
mul.wide.u32, where a plain product of 64-bit words is several instructions. Imported by cuda_backend alone.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


def _vector_pointer(context: Any, builder: Any, array_type: Any, array: Any, k: Any) -> Any:
    data = context.make_array(array_type)(context, builder, value=array).data
    vector = ir.VectorType(context.get_value_type(array_type.dtype), 4)
    return builder.bitcast(builder.gep(data, [k]), vector.as_pointer()), vector


@intrinsic
def load4(typing_context: Any, x: Any, k: Any) -> Any:
    """Four elements from k on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, _ = _vector_pointer(context, builder, signature.args[0], *arguments)
        loaded = builder.load(pointer, align=16)
        lanes = [builder.extract_element(loaded, ir.IntType(32)(lane)) for lane in range(4)]
        return context.make_tuple(builder, signature.return_type, lanes)

    return types.UniTuple(x.dtype, 4)(x, types.int64), generate


@intrinsic
def store4(typing_context: Any, out: Any, k: Any, q0: Any, q1: Any, q2: Any, q3: Any) -> Any:
    """Write four elements from k on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, start, *values = arguments
        pointer, vector = _vector_pointer(context, builder, signature.args[0], array, start)
        whole = ir.Constant(vector, ir.Undefined)
        for lane, value in enumerate(values):
            whole = builder.insert_element(whole, value, ir.IntType(32)(lane))
        builder.store(whole, pointer, align=16)
        return context.get_dummy_value()

    return types.void(out, types.int64, *[out.dtype] * 4), generate


@intrinsic
def product(typing_context: Any, a: Any, b: Any) -> Any:
    """a * b, rounded by itself."""
    real = types.float64 if types.float64 in (a, b) else types.float32

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.get_value_type(real)
        name = "llvm.nvvm.mul.rn.d" if real == types.float64 else "llvm.nvvm.mul.rn.f"
        multiply = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind, kind]), name)
        return builder.call(multiply, arguments)

    return real(real, real), generate


@intrinsic
def wide_product(typing_context: Any, a: Any, b: Any) -> Any:
    """The 64-bit product of two 32-bit words that are kept in uint64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        narrow, wide = ir.IntType(32), ir.IntType(64)
        multiply = ir.InlineAsm(ir.FunctionType(wide, [narrow, narrow]), "mul.wide.u32 $0, $1, $2;", "=l,r,r")
        return builder.call(multiply, [builder.trunc(word, narrow) for word in arguments])

    return types.uint64(types.uint64, types.uint64), generate
