/* A list of dimensions with a stride in the input and one in the output, and walking it. */
#ifndef TD_DIMS_H
#define TD_DIMS_H
#include "treadle_cpu.h"

typedef struct { int64_t size, xs, ys; } td_dim;

/* Element offset in the input of row-major index k over n dimensions; adds that in the output to
 * *y when y is given. */
static inline int64_t td_offset(const td_dim *d, int n, int64_t k, int64_t *y) {
    int64_t x = 0;
    for (int a = n - 1; a >= 0 && k; a--) {
        const int64_t q = k / d[a].size, i = k - q * d[a].size;
        x += i * d[a].xs;
        if (y) *y += i * d[a].ys;
        k = q;
    }
    return x;
}
#endif
