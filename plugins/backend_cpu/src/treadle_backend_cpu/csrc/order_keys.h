/* Signed integer keys in the order of the elements, branch-free so that loops over them vectorise.
 *
 * td_key*: a total order of float bits, -0 below +0 (maxima and minima want it). td_rank*: -0
 * and +0 are equal (sorting and argmax). Both put every NaN above +inf; inf is the magnitude of
 * infinity in the given width. */
#ifndef TD_ORDER_KEYS_H
#define TD_ORDER_KEYS_H
#include "treadle_cpu.h"

/* mirror is all ones below zero, nan all ones for a NaN. A select would keep gcc from
 * vectorising a maximum over keys. */
#define TD_KEY(name, T, bits, most)                                                            \
    TD_INLINE T name(T b, T inf) {                                                             \
        const T mirror = (T)(b >> (bits - 1)), nan = (T)((T)(inf - (b & most)) >> (bits - 1)); \
        return (T)(((b ^ (mirror & most)) | nan) & ~(nan & ~most));                            \
    }
TD_KEY(td_key16, int16_t, 16, INT16_MAX)
TD_KEY(td_key32, int32_t, 32, INT32_MAX)
TD_KEY(td_key64, int64_t, 64, INT64_MAX)

/* Sign and magnitude to two's complement. */
#define TD_RANK(name, T, bits, most)                                                           \
    TD_INLINE T name(T b, T inf) {                                                             \
        const T mirror = (T)(b >> (bits - 1)), m = b & most, nan = (T)(inf - m) >> (bits - 1); \
        return (((m ^ mirror) - mirror) | nan) & ~(nan & ~most);                               \
    }
TD_RANK(td_rank32, int32_t, 32, INT32_MAX)
TD_RANK(td_rank64, int64_t, 64, INT64_MAX)
#endif
