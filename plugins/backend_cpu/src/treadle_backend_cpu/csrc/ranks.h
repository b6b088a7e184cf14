/* Loading elements of any dtype as ranks: keys of 32 or 64 bits in which equal elements are
 * equal. */
#ifndef TD_RANKS_H
#define TD_RANKS_H
#include "order_keys.h"

/* keys[j] = rank of x[j * stride]; the bits of flip are inverted first. */
typedef void (*td_load)(const void *x, int64_t n, int64_t stride, void *keys, int64_t flip,
                        int64_t inf);

#define TD_LOAD_RANKS(name, T, K, RANK)                                                     \
    static void name(const void *x_, int64_t n, int64_t stride, void *keys_, int64_t flip_, \
                     int64_t inf_) {                                                        \
        const T *x = x_;                                                                    \
        K *keys = keys_;                                                                    \
        const K flip = (K)flip_, inf = (K)inf_;                                             \
        (void)inf;                                                                          \
        if (stride == 1)                                                                    \
            _Pragma("GCC ivdep") for (int64_t j = 0; j < n; j++) keys[j] = RANK((K)x[j]);   \
        else                                                                                \
            for (int64_t j = 0; j < n; j++) keys[j] = RANK((K)x[j * stride]);               \
    }
#define TD_RANK_INT(v) ((v) ^ flip)
/* Moved to the upper half, the bits of a half type keep their order. */
#define TD_RANK_HALF(v) td_rank32((int32_t)((uint32_t)(v) << 16) ^ flip, inf)
#define TD_RANK_F32(v) td_rank32((v) ^ flip, inf)
#define TD_RANK_F64(v) td_rank64((v) ^ flip, inf)
TD_LOAD_RANKS(td_load_i8, int8_t, int32_t, TD_RANK_INT)
TD_LOAD_RANKS(td_load_u8, uint8_t, int32_t, TD_RANK_INT)
TD_LOAD_RANKS(td_load_i16, int16_t, int32_t, TD_RANK_INT)
TD_LOAD_RANKS(td_load_u16, uint16_t, int32_t, TD_RANK_INT)
TD_LOAD_RANKS(td_load_i32, int32_t, int32_t, TD_RANK_INT)
TD_LOAD_RANKS(td_load_i64, int64_t, int64_t, TD_RANK_INT)
TD_LOAD_RANKS(td_load_half, uint16_t, int32_t, TD_RANK_HALF)
TD_LOAD_RANKS(td_load_f32, int32_t, int32_t, TD_RANK_F32)
TD_LOAD_RANKS(td_load_f64, int64_t, int64_t, TD_RANK_F64)

/* size of an element; wide: ranks have 64 bits; flip: what makes an unsigned integer signed;
 * inf: 0 for integers. */
typedef struct { int size, wide; td_load load; int64_t flip, inf; } td_rank_kind;

static const td_rank_kind td_rank_kinds[TD_DTYPES] = {
    {1, 0, td_load_u8, 0, 0},  {1, 0, td_load_i8, 0, 0}, {2, 0, td_load_i16, 0, 0},
    {4, 0, td_load_i32, 0, 0}, {8, 1, td_load_i64, 0, 0},
    {1, 0, td_load_u8, 0, 0},  {2, 0, td_load_u16, 0, 0},
    {4, 0, td_load_i32, INT32_MIN, 0},  {8, 1, td_load_i64, INT64_MIN, 0},
    {2, 0, td_load_half, 0, 0x7c000000}, {2, 0, td_load_half, 0, 0x7f800000},
    {4, 0, td_load_f32, 0, 0x7f800000},  {8, 1, td_load_f64, 0, 0x7ff0000000000000}};
#endif
