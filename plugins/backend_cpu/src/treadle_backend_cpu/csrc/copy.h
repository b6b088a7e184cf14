/* Moving elements between layouts; sizes 1, 2, 4 and 8 bytes. */
#ifndef TREADLE_COPY_H
#define TREADLE_COPY_H
#include "treadle_cpu.h"

/* Elements lo..hi of a strided region, counted in row-major order, to dst, one after the other. */
void KERNEL(copy_range)(char *dst, const char *src, int ndim, const int64_t *shape,
                        const int64_t *strides, int64_t lo, int64_t hi, int size);

/* n elements to dst: copies of one, or of a stored one every `stride` elements. */
void KERNEL(copy_run)(char *dst, const char *src, int64_t n, int64_t stride, int size);

/* memcpy past the caches: for results too large to be found in a cache later. stream_end must
 * follow before another thread may read. */
void KERNEL(stream)(char *dst, const char *src, int64_t bytes);
void KERNEL(stream_end)(void);
enum { TD_STREAM_BYTES = 32 << 20 }; /* results from this size on are streamed */
#endif
