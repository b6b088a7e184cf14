/* The float32 product, also of float16 and bfloat16 operands: these become float32 when they are
 * fetched, results are rounded once. */
#define T float
#include "gemm_plan.h"
#include "matmul.h"
#include "scalar.h"
#if defined(__F16C__)
#include <immintrin.h>
#endif

int KERNEL(gemm_f32)(const td_gemm *g, int threads)
{
    job j = {.items = {.count = 1}};
    j.p = (product){.m = g->m, .n = g->n, .k = g->k, .a = operand_of(g->a, g->a_row, g->a_col),
                    .b = operand_of(g->b, g->b_row, g->b_col), .c = g->c, .c_row = g->ldc,
                    .c_col = 1, .bias_n = g->bias_n, .bias_m = g->bias_m, .alpha = g->alpha,
                    .accumulate = g->accumulate, .act = g->act};
    return run_job(&j, threads ? td_threads() : 1);
}

static void widen_bf16(float *dst, const uint16_t *src, int64_t n)
{
    for (int64_t i = 0; i < n; i++) dst[i] = td_bf16_to_f32(src[i]);
}
/* There is an instruction for float16, which the compiler does not find in td_f16_to_f32. */
static void widen_f16(float *dst, const uint16_t *src, int64_t n)
{
    int64_t i = 0;
#if defined(__AVX512F__)
    for (; i + 16 <= n; i += 16) {
        const __m256i half = _mm256_loadu_si256((const void *)(src + i));
        _mm512_storeu_ps(dst + i, _mm512_cvtph_ps(half));
    }
#elif defined(__F16C__)
    for (; i + 8 <= n; i += 8) {
        const __m128i half = _mm_loadu_si128((const void *)(src + i));
        _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(half));
    }
#endif
    for (; i < n; i++) dst[i] = td_f16_to_f32(src[i]);
}

/* Unit strides apart, so that these loops become vector code. */
#define CONVERSIONS(name)                                                                          \
    static void fetch_##name(float *dst, const void *src, int64_t at, int64_t stride, int64_t n)   \
    {                                                                                              \
        const uint16_t *s = (const uint16_t *)src + at;                                            \
        if (stride == 1) widen_##name(dst, s, n);                                                  \
        else for (int64_t i = 0; i < n; i++) dst[i] = td_##name##_to_f32(s[i * stride]);           \
    }                                                                                              \
    static void store_##name(void *c, int64_t at, int64_t stride, const float *src, int64_t n)     \
    {                                                                                              \
        uint16_t *d = (uint16_t *)c + at;                                                          \
        if (stride == 1) for (int64_t i = 0; i < n; i++) d[i] = td_f32_to_##name(src[i]);          \
        else for (int64_t i = 0; i < n; i++) d[i * stride] = td_f32_to_##name(src[i]);             \
    }
CONVERSIONS(f16)
CONVERSIONS(bf16)

static int run_f32(const td_matmul *x)
{
    job j = {.items = {x->count, x->dims, x->size, x->a_batch, x->b_batch}};
    j.p = (product){.m = x->m, .n = x->n, .k = x->k, .a = operand_of(x->a, x->a_row, x->a_col),
                    .b = operand_of(x->b, x->b_row, x->b_col), .c = x->c, .c_row = x->n,
                    .c_col = 1, .bias_n = x->bias, .alpha = 1, .act = x->act};
    return run_job(&j, td_threads());
}

/* bias: as float32. */
static int run_half(const td_matmul *x, const float *bias)
{
    const fetch_fn fetch = x->dtype == TD_F16 ? fetch_f16 : fetch_bf16;
    job j = {.items = {x->count, x->dims, x->size, x->a_batch, x->b_batch}, .out = x->c,
             .store = x->dtype == TD_F16 ? store_f16 : store_bf16};
    j.p = (product){.m = x->m, .n = x->n, .k = x->k, .a = {x->a, x->a_row, x->a_col, 2, fetch},
                    .b = {x->b, x->b_row, x->b_col, 2, fetch}, .c_row = x->n, .c_col = 1,
                    .bias_n = bias, .alpha = 1, .act = x->act};
    return run_job(&j, td_threads());
}

int KERNEL(product_f32)(const td_matmul *x)
{
    if (x->dtype == TD_F32) return run_f32(x);
    if (!x->bias) return run_half(x, NULL);
    float *bias = td_scratch((size_t)x->n * sizeof(float));
    if (!bias) return TD_ERR_MEMORY;
    (x->dtype == TD_F16 ? fetch_f16 : fetch_bf16)(bias, x->bias, 0, 1, x->n);
    const int code = run_half(x, bias);
    td_scratch_free(bias);
    return code;
}
