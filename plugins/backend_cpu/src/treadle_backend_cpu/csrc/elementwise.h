/* What an elementwise kernel is: one loop over contiguous operands of the compute type, and how its
 * operands are stored. Everything else (strides, broadcasting, float16, threads, large outputs) is
 * one driver, elementwise.c, shared by all. */
#ifndef TREADLE_ELEMENTWISE_H
#define TREADLE_ELEMENTWISE_H
#include "scalar.h"

/* Operands at most, and bytes of a tile: all tiles of a kernel stay in L1. EW_PERIODIC: the input
 * repeats after at most EW_PERIOD elements. */
enum { EW_INPUTS = 4, EW_BUFFER = 4096, EW_PERIOD = 512 };

/* v[0..n_in) inputs, v[n_in] the output, which may be exactly an input; n is a multiple of the
 * kernel's block. */
typedef void (*td_loop)(int64_t n, char *const *v);
/* n elements from their stored form to the compute type, or back. */
typedef void (*td_convert)(int64_t n, char *dst, const char *src);

typedef struct {
    td_loop loop;                      /* NULL: only the conversions (a cast) */
    td_convert convert[EW_INPUTS + 1]; /* the output is at n_in; NULL: stored as computed */
    uint8_t size[EW_INPUTS + 1];       /* bytes of a stored element */
    uint8_t wide[EW_INPUTS + 1];       /* bytes of a computed element */
    int8_t n_in;
    int8_t divisor; /* an integer input that must not hold 0, or -1 */
    int16_t block;
    int32_t grain; /* elements that make a task */
} td_ew;

/* Plan: i[0] elements, i[1] which of the short ways is open, i[2] 1 to end tiles with a row, i[3]
 * ndim, shape[ndim], then per input its mode, its period, strides[ndim]. The output is dense and
 * has that shape. */
enum { EW_NOT_SIMPLE, EW_ALL_DENSE, EW_DENSE_AND_NUMBERS };
enum { EW_DENSE, EW_PERIODIC, EW_STRIDED, EW_TRANSPOSED };

int KERNEL(ew_run)(const td_plan *p, char **io, const td_ew *op);

/* ---- loops and kernels: the generated elementwise_*.inc consist of these ---- */

/* Exact aliasing is no dependence between elements. */
#define EW_VECTORISED _Pragma("GCC ivdep")

/* Pointers are copied first: a store of bytes might otherwise change v itself. */
#define EW_LOOP(n_in, block, R, POINTERS, OPERANDS, ...)                                           \
    {                                                                                              \
        POINTERS                                                                                   \
        R *const out_ = (R *)v[n_in];                                                              \
        n &= -(int64_t)block;                                                                      \
        EW_VECTORISED                                                                              \
        for (int64_t i_ = 0; i_ < n; i_++) { OPERANDS out_[i_] = (R)(__VA_ARGS__); }               \
    }
#define EW_POINTER(A, a, k) const A *const a##_ = (const A *)v[k];
#define EW_OPERAND(A, a) const A a = a##_[i_];
#define EW_POINTERS1(A, a) EW_POINTER(A, a, 0)
#define EW_POINTERS2(A, a, B, b) EW_POINTERS1(A, a) EW_POINTER(B, b, 1)
#define EW_POINTERS3(A, a, B, b, C, c) EW_POINTERS2(A, a, B, b) EW_POINTER(C, c, 2)
#define EW_POINTERS4(A, a, B, b, C, c, D, d) EW_POINTERS3(A, a, B, b, C, c) EW_POINTER(D, d, 3)
#define EW_OPERANDS1(A, a) EW_OPERAND(A, a)
#define EW_OPERANDS2(A, a, B, b) EW_OPERAND(A, a) EW_OPERAND(B, b)
#define EW_OPERANDS3(A, a, B, b, C, c) EW_OPERANDS2(A, a, B, b) EW_OPERAND(C, c)
#define EW_OPERANDS4(A, a, B, b, C, c, D, d) EW_OPERANDS3(A, a, B, b, C, c) EW_OPERAND(D, d)

/* EW_LOOP2(name, block, result type, type and name of each operand, expression) */
#define EW_LOOP1(name, block, R, A, a, ...)                                                        \
    static void name(int64_t n, char *const *v)                                                    \
        EW_LOOP(1, block, R, EW_POINTERS1(A, a), EW_OPERANDS1(A, a), __VA_ARGS__)
#define EW_LOOP2(name, block, R, A, a, B, b, ...)                                                  \
    static void name(int64_t n, char *const *v)                                                    \
        EW_LOOP(2, block, R, EW_POINTERS2(A, a, B, b), EW_OPERANDS2(A, a, B, b), __VA_ARGS__)
#define EW_LOOP3(name, block, R, A, a, B, b, C, c, ...)                                            \
    static void name(int64_t n, char *const *v) EW_LOOP(                                           \
        3, block, R, EW_POINTERS3(A, a, B, b, C, c), EW_OPERANDS3(A, a, B, b, C, c), __VA_ARGS__)
#define EW_LOOP4(name, block, R, A, a, B, b, C, c, D, d, ...)                                      \
    static void name(int64_t n, char *const *v)                                                    \
        EW_LOOP(4, block, R, EW_POINTERS4(A, a, B, b, C, c, D, d),                                 \
                EW_OPERANDS4(A, a, B, b, C, c, D, d), __VA_ARGS__)

/* Expressions with a function that cannot treat every argument in vector code: a block at a time,
 * and again in the slow form where `far` says so. */
#define EW_FAR(name, n_in, block, R, POINTERS, OPERANDS, near, any)                                \
    static __attribute__((noinline, cold)) void name##_any(int64_t i_, R *r_, char *const *v) {    \
        POINTERS                                                                                   \
        for (int j_ = 0; j_ < block; j_++, i_++) { OPERANDS r_[j_] = any; }                        \
    }                                                                                              \
    static void name(int64_t n, char *const *v) {                                                  \
        POINTERS                                                                                   \
        R *const out_ = (R *)v[n_in];                                                              \
        for (int64_t at_ = 0; at_ < n; at_ += block) {                                             \
            uint32_t far = 0;                                                                      \
            R r_[block];                                                                           \
            EW_VECTORISED                                                                          \
            for (int j_ = 0; j_ < block; j_++) {                                                   \
                const int64_t i_ = at_ + j_;                                                       \
                OPERANDS r_[j_] = near;                                                            \
            }                                                                                      \
            if (__builtin_expect(far != 0, 0)) name##_any(at_, r_, v);                             \
            memcpy(out_ + at_, r_, sizeof r_);                                                     \
        }                                                                                          \
    }
#define EW_FAR1(name, block, R, A, a, near, any)                                                   \
    EW_FAR(name, 1, block, R, EW_POINTERS1(A, a), EW_OPERANDS1(A, a), near, any)
#define EW_FAR2(name, block, R, A, a, B, b, near, any)                                             \
    EW_FAR(name, 2, block, R, EW_POINTERS2(A, a, B, b), EW_OPERANDS2(A, a, B, b), near, any)

#define EW_FUSED(loop) /* a loop that fused regions use: see elementwise_f32.c */

/* A kernel by its loop and how each operand is stored: bytes, or f16 or bf16; 0 is no operand. */
#define EW_KERNEL(name, loop, n_in, block, grain, divisor, a, b, c, d, y)                          \
    static int KERNEL(name)(const td_plan *p, char **io) {                                         \
        static const td_ew op = {loop,                                                             \
                                 EW_LIST##n_in(EW_CONVERT, a, b, c, d, y),                         \
                                 EW_LIST##n_in(EW_SIZE, a, b, c, d, y),                            \
                                 EW_LIST##n_in(EW_WIDE, a, b, c, d, y),                            \
                                 n_in,                                                             \
                                 divisor,                                                          \
                                 block,                                                            \
                                 grain};                                                           \
        return KERNEL(ew_run)(p, io, &op);                                                         \
    }
#define EW_LIST1(F, a, b, c, d, y) {F(a, load), F(y, store)}
#define EW_LIST2(F, a, b, c, d, y) {F(a, load), F(b, load), F(y, store)}
#define EW_LIST3(F, a, b, c, d, y) {F(a, load), F(b, load), F(c, load), F(y, store)}
#define EW_LIST4(F, a, b, c, d, y) {F(a, load), F(b, load), F(c, load), F(d, load), F(y, store)}
#define EW_SIZE(form, way) EW_SIZE_##form
#define EW_WIDE(form, way) EW_WIDE_##form
#define EW_CONVERT(form, way) EW_CONVERT_##form(way)
enum {
    EW_SIZE_1 = 1,
    EW_SIZE_2 = 2,
    EW_SIZE_4 = 4,
    EW_SIZE_8 = 8,
    EW_SIZE_f16 = 2,
    EW_SIZE_bf16 = 2
};
enum {
    EW_WIDE_1 = 1,
    EW_WIDE_2 = 2,
    EW_WIDE_4 = 4,
    EW_WIDE_8 = 8,
    EW_WIDE_f16 = 4,
    EW_WIDE_bf16 = 4
};
#define EW_CONVERT_1(way) NULL
#define EW_CONVERT_2(way) NULL
#define EW_CONVERT_4(way) NULL
#define EW_CONVERT_8(way) NULL
#define EW_CONVERT_f16(way) KERNEL(way##_f16)
#define EW_CONVERT_bf16(way) KERNEL(way##_bf16)

void KERNEL(load_f16)(int64_t n, char *dst, const char *src);
void KERNEL(load_bf16)(int64_t n, char *dst, const char *src);
void KERNEL(store_f16)(int64_t n, char *dst, const char *src);
void KERNEL(store_bf16)(int64_t n, char *dst, const char *src);
#endif
