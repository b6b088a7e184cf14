/* What every C file of this backend shares: a plan, a kernel, the pool, scratch memory, errors.
 * Kernels are compiled once per ISA level; KERNEL(name) gives each its own symbol (matmul_f32 ->
 * td_avx512_matmul_f32). */
#ifndef TREADLE_CPU_H
#define TREADLE_CPU_H
#include <stddef.h>
#include <stdint.h>

enum td_error { TD_OK = 0, TD_ERR_INDEX, TD_ERR_ZERO, TD_ERR_MEMORY, TD_ERR_VALUE };

enum td_dtype { TD_B1, TD_I8, TD_I16, TD_I32, TD_I64, TD_U8, TD_U16, TD_U32, TD_U64, TD_F16, TD_BF16, TD_F32, TD_F64, TD_DTYPES };

/* What Python decided at binding: sizes, strides (in elements), attributes. Never changes
 * afterwards, so concurrent calls may share it. */
typedef struct {
    const int64_t *i;   /* integer parameters; their meaning belongs to the kernel and its Python factory */
    const double *f;    /* real parameters */
    int n_i, n_f, n_in, n_out;
} td_plan;

/* io[0..n_in) are inputs, io[n_in..n_in+n_out) outputs; a NULL output is one that nobody wants. */
typedef int (*td_kernel)(const td_plan *p, char **io);
typedef struct { const char *name; td_kernel run; } td_entry;

/* Runs body(t, ctx) for t = 0..n-1 on the pool and waits. Tasks may run in any order and on any
 * thread, so results must not depend on either; called from inside a task, or while another caller
 * owns the pool, it runs the tasks in the calling thread. n <= 1 never touches the pool. */
typedef void (*td_body)(int64_t t, void *ctx);
void td_parallel(int64_t n, td_body body, void *ctx);
int td_threads(void);      /* how many threads the pool would use; never let results depend on it */

/* 64-byte aligned memory from the caching allocator (uninitialised), for one kernel call; NULL when
 * there is none. Thread safe. */
void *td_scratch(size_t bytes);
void td_scratch_free(void *p);

/* Keeps a message for the exception (printf style) and returns code: `return td_fail(TD_ERR_INDEX,
 * "index %lld ...", i);` */
int td_fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

#ifndef TD_ISA
#define TD_ISA base
#define TD_VEC 16
#endif
#define TD_CAT3_(a, b, c) a##b##_##c
#define TD_CAT3(a, b, c) TD_CAT3_(a, b, c)
#define KERNEL(name) TD_CAT3(td_, TD_ISA, name)

#define TD_MIN(a, b) ((a) < (b) ? (a) : (b))
#define TD_MAX(a, b) ((a) > (b) ? (a) : (b))
#define TD_INLINE static inline __attribute__((always_inline))
#define TD_RESTRICT __restrict__
#endif
