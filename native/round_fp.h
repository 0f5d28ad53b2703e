/* round_fp.h: fixed-point rounding, bit for bit what lpcaffe's round_fp computes. C99, C++ and CUDA C++; header only.
 *
 * The format Q(bd).(ad) has bd bits before the binary point, the sign included, and ad after it; N = 2^(bd+ad-1) - 1:
 *
 *     y = x * 2^ad        n = R(y)        q = clip(n, -N, N) * 2^-ad
 *
 * The result is never -0.0, NaN comes back with its own bits, and infinities saturate. docs/rounding.md derives all this.
 *
 *     round_fp_format_f32 q2_14;
 *     if (!round_fp_make_f32(2, 14, &q2_14)) ...                            a float does not hold this format
 *     round_fp_array_f32(x, out, n, q2_14, ROUND_FP_STOCHASTIC, seed, stream, index);
 *     q = round_fp_f32(v, q2_14, ROUND_FP_STOCHASTIC, round_fp_uniform(seed, stream, index));
 *
 * and the same with double and _f64. Element k of an array takes the random number of index + k; x and out may be one.
 * Every product below is with a power of two and so exact, so that fusing it with an addition changes nothing; but
 * fast-math, flushing of subnormals and the wide registers of the x87 are not allowed. See README.md for compile lines.
 *
 * SPDX-License-Identifier: BSD-2-Clause */
#ifndef ROUND_FP_H
#define ROUND_FP_H

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__FAST_MATH__)
#error "round_fp.h cannot be compiled with fast-math: NaN and exact sums would be lost"
#endif
#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0 && !defined(__CUDA_ARCH__)
#error "round_fp.h needs floats that are computed as floats; on 32-bit x86 compile with -msse2 -mfpmath=sse"
#endif

#ifdef __CUDACC__
#define ROUND_FP_INLINE static __inline__ __host__ __device__
#else
#define ROUND_FP_INLINE static inline
#endif

enum round_fp_scheme {
    ROUND_FP_DETERMINISTIC = 0, /* nearest, ties away from zero */
    ROUND_FP_STOCHASTIC = 1,    /* up with the probability of the fraction, on the magnitude */
    ROUND_FP_HALF_EVEN = 2,     /* nearest, ties to even */
    ROUND_FP_FLOOR = 3          /* toward minus infinity */
};

/* Philox4x32-10 (Salmon, Moraes, Dror and Shaw, SC 2011). key = seed; counter = block, stream; low words first. */
ROUND_FP_INLINE void round_fp_philox(uint64_t seed, uint64_t stream, uint64_t block, uint32_t words[4])
{
    uint32_t c0 = (uint32_t)block, c1 = (uint32_t)(block >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    int round;
    for (round = 0; round < 10; ++round) {
        const uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    words[0] = c0;
    words[1] = c1;
    words[2] = c2;
    words[3] = c3;
}

/* The random number of a word: 24 bits, 0 <= u < 1. */
ROUND_FP_INLINE float round_fp_unit(uint32_t word)
{
    return (float)(int32_t)(word >> 8) * (1.0f / 16777216.0f);
}

/* The random number of one element. */
ROUND_FP_INLINE float round_fp_uniform(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint32_t words[4];
    round_fp_philox(seed, stream, index / 4, words);
    return round_fp_unit((index & 2) ? ((index & 1) ? words[3] : words[2]) : ((index & 1) ? words[1] : words[0]));
}

/* Everything that depends on the type, once for float and once for double. BITS is the type's precision, 24 or 53;
 * HIGHEST the ad whose step is its smallest normal number. */
#define ROUND_FP_DEFINE(REAL, SUFFIX, FLOOR, FABS, LDEXP, BITS, HIGHEST)                                              \
    typedef struct {                                                                                                  \
        REAL top, scale, step; /* largest value, 2^ad, 2^-ad */                                                       \
    } round_fp_format_##SUFFIX;                                                                                       \
                                                                                                                      \
    /* Fill in a format. Returns 0, and leaves it alone, when the type does not hold it exactly. */                   \
    ROUND_FP_INLINE int round_fp_make_##SUFFIX(int bd, int ad, round_fp_format_##SUFFIX *format)                      \
    {                                                                                                                 \
        if (ad < -(BITS) || ad > (HIGHEST) || bd < 1 - ad || bd > (BITS) + 1 - ad) return 0;                          \
        format->step = LDEXP((REAL)1, -ad);                                                                           \
        format->scale = LDEXP((REAL)1, ad);                                                                           \
        format->top = LDEXP((REAL)1, bd - 1) - format->step;                                                          \
        return 1;                                                                                                     \
    }                                                                                                                 \
                                                                                                                      \
    /* round_fp of one number; u is read by the stochastic scheme alone. */                                           \
    ROUND_FP_INLINE REAL round_fp_##SUFFIX(REAL x, round_fp_format_##SUFFIX format, enum round_fp_scheme scheme,      \
                                           float u)                                                                   \
    {                                                                                                                 \
        const int negative = x < 0;                                                                                   \
        REAL a = FABS(x), y, i, f;                                                                                    \
        int up = 0;                                                                                                   \
        if (x != x) return x;                                                                                         \
        if (a > format.top) a = format.top;                                                                           \
        y = a * format.scale;                                                                                         \
        if (y == 0) y = a; /* a tiny x may underflow; all that counts is that it is not 0 */                          \
        i = FLOOR(y);                                                                                                 \
        f = y - i;                                                                                                    \
        switch (scheme) {                                                                                             \
        case ROUND_FP_DETERMINISTIC: up = f >= (REAL)0.5; break;                                                      \
        case ROUND_FP_STOCHASTIC: up = (REAL)u < f; break;                                                            \
        case ROUND_FP_HALF_EVEN:                                                                                      \
            up = f > (REAL)0.5 || (f == (REAL)0.5 && FLOOR(i * (REAL)0.5) != i * (REAL)0.5);                          \
            break;                                                                                                    \
        case ROUND_FP_FLOOR: up = negative && f > 0; break;                                                           \
        }                                                                                                             \
        if (up) i += 1;                                                                                               \
        a = i * format.step;                                                                                          \
        return negative ? 0 - a : a; /* 0 - 0 is +0 */                                                                \
    }                                                                                                                 \
                                                                                                                      \
    /* round_fp of n numbers, the first of which has the given index. out may be x. */                                \
    ROUND_FP_INLINE void round_fp_array_##SUFFIX(const REAL *x, REAL *out, size_t n, round_fp_format_##SUFFIX format, \
                                                 enum round_fp_scheme scheme, uint64_t seed, uint64_t stream,         \
                                                 uint64_t index)                                                      \
    {                                                                                                                 \
        uint32_t words[4];                                                                                            \
        size_t k;                                                                                                     \
        for (k = 0; k < n; ++k) {                                                                                     \
            const uint64_t at = index + k;                                                                            \
            float u = 0;                                                                                              \
            if (scheme == ROUND_FP_STOCHASTIC) {                                                                      \
                if (k == 0 || at % 4 == 0) round_fp_philox(seed, stream, at / 4, words);                              \
                u = round_fp_unit(words[at % 4]);                                                                     \
            }                                                                                                         \
            out[k] = round_fp_##SUFFIX(x[k], format, scheme, u);                                                      \
        }                                                                                                             \
    }

ROUND_FP_DEFINE(float, f32, floorf, fabsf, ldexpf, 24, 126)
ROUND_FP_DEFINE(double, f64, floor, fabs, ldexp, 53, 1022)

#undef ROUND_FP_DEFINE

#endif
