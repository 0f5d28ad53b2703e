/* round_fp.h as a library that ctypes can call. */
#include "round_fp.h"

#ifdef __cplusplus
extern "C" {
#endif
void philox(uint64_t seed, uint64_t stream, uint64_t block, uint32_t *words);
int round_f32(const float *x, float *out, size_t n, int bd, int ad, int scheme, uint64_t seed, uint64_t stream, uint64_t index);
int round_f64(const double *x, double *out, size_t n, int bd, int ad, int scheme, uint64_t seed, uint64_t stream, uint64_t index);
float one_f32(float x, int bd, int ad, int scheme, uint64_t seed, uint64_t stream, uint64_t index);
#ifdef __cplusplus
}
#endif

void philox(uint64_t seed, uint64_t stream, uint64_t block, uint32_t *words)
{
    round_fp_philox(seed, stream, block, words);
}

int round_f32(const float *x, float *out, size_t n, int bd, int ad, int scheme, uint64_t seed, uint64_t stream, uint64_t index)
{
    round_fp_format_f32 format;
    if (!round_fp_make_f32(bd, ad, &format)) return 0;
    round_fp_array_f32(x, out, n, format, (enum round_fp_scheme)scheme, seed, stream, index);
    return 1;
}

int round_f64(const double *x, double *out, size_t n, int bd, int ad, int scheme, uint64_t seed, uint64_t stream, uint64_t index)
{
    round_fp_format_f64 format;
    if (!round_fp_make_f64(bd, ad, &format)) return 0;
    round_fp_array_f64(x, out, n, format, (enum round_fp_scheme)scheme, seed, stream, index);
    return 1;
}

float one_f32(float x, int bd, int ad, int scheme, uint64_t seed, uint64_t stream, uint64_t index)
{
    round_fp_format_f32 format;
    if (!round_fp_make_f32(bd, ad, &format)) return 0;
    return round_fp_f32(x, format, (enum round_fp_scheme)scheme, round_fp_uniform(seed, stream, index));
}
