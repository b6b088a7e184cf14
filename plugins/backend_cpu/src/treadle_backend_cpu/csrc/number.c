/* Python numbers as elements: what a cast of a 0-d tensor would give. Reals saturate into integers
 * (NaN to 0), integers wrap, anything becomes a bool by comparison with 0, and the small floats
 * round once, to nearest even. */
#include "native.h"
#include <math.h>
#include <string.h>

typedef struct { bool real; double d; uint64_t bits; } number;  /* bits: an integer modulo 2**64 */

/* Limits of the integer types; the index is the dtype code. */
static const struct { int64_t low; uint64_t high; } limits[] = {
    [TD_I8] = {INT8_MIN, INT8_MAX}, [TD_I16] = {INT16_MIN, INT16_MAX},
    [TD_I32] = {INT32_MIN, INT32_MAX}, [TD_I64] = {INT64_MIN, INT64_MAX},
    [TD_U8] = {0, UINT8_MAX}, [TD_U16] = {0, UINT16_MAX},
    [TD_U32] = {0, UINT32_MAX}, [TD_U64] = {0, UINT64_MAX},
};

static uint64_t saturate(double d, int dtype)
{
    if (d != d) return 0;
    if (d <= (double)limits[dtype].low) return (uint64_t)limits[dtype].low;
    if (d >= (double)limits[dtype].high) return limits[dtype].high;
    return d < 0 ? (uint64_t)(int64_t)d : (uint64_t)d;
}

/* Rounds to a float of `exponent` and `mantissa` bits in one step, subnormals and overflow
 * included. */
static uint16_t round_float(double d, int exponent, int mantissa)
{
    const int bias = (1 << (exponent - 1)) - 1, top = (1 << exponent) - 1;
    uint16_t sign = signbit(d) ? 0x8000 : 0;
    if (d != d) return (uint16_t)(sign | top << mantissa | 1 << (mantissa - 1));
    if (isinf(d)) return (uint16_t)(sign | top << mantissa);
    int e;
    frexp(d, &e);                                               /* |d| in [2**(e-1), 2**e) */
    int lowest = e - 1 < 1 - bias ? 1 - bias : e - 1;           /* subnormals share one exponent */
    double steps = nearbyint(ldexp(fabs(d), mantissa - lowest));
    if (d == 0) return sign;
    /* A carry out of the mantissa moves to the next exponent by itself, since the fields are
     * adjacent. */
    int64_t bits = (int64_t)steps + ((int64_t)(lowest + bias - 1) << mantissa);
    if (bits > (int64_t)top << mantissa) bits = (int64_t)top << mantissa;
    return (uint16_t)(sign | bits);
}

static int read_integer(PyObject *o, int dtype, number *n)
{
    int overflow;
    long long v = PyLong_AsLongLongAndOverflow(o, &overflow);
    if (v == -1 && PyErr_Occurred()) return -1;
    n->real = false;
    n->bits = (uint64_t)v;
    n->d = (double)v;
    if (!overflow) return 0;
    if (dtype >= TD_F16) {
        n->d = PyLong_AsDouble(o);                     /* OverflowError beyond the largest double */
        return n->d == -1.0 && PyErr_Occurred() ? -1 : 0;
    }
    if (dtype == TD_U64 && overflow > 0) {
        n->bits = PyLong_AsUnsignedLongLong(o);                 /* OverflowError beyond 2**64 */
        return PyErr_Occurred() ? -1 : 0;
    }
    PyErr_SetString(PyExc_OverflowError, "the integer does not fit in 64 bits");
    return -1;
}

static int read_number(PyObject *o, int dtype, number *n)
{
    if (PyFloat_Check(o)) {
        n->real = true;
        n->d = PyFloat_AsDouble(o);
        n->bits = 0;
        return 0;
    }
    if (PyLong_Check(o)) return read_integer(o, dtype, n);      /* a bool is an int */
    return 1;
}

int number_store(PyObject *object, int dtype, int64_t *to)
{
    number n;
    int status = read_number(object, dtype, &n);
    if (status) return status;
    uint64_t bits;
    float f;
    switch (dtype) {
    case TD_F64: memcpy(to, &n.d, 8); return 0;
    case TD_F32:
        f = (float)n.d;
        memcpy(to, &f, 4);
        return 0;
    case TD_F16: bits = round_float(n.d, 5, 10); break;
    case TD_BF16: bits = round_float(n.d, 8, 7); break;
    case TD_B1: bits = n.real ? n.d != 0 : n.bits != 0; break;
    default: bits = n.real ? saturate(n.d, dtype) : n.bits;
    }
    /* Little-endian machines find a narrow value in the first bytes; others need it moved there. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    memcpy(to, &bits, 8);
#else
    static const int sizes[] = {1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 2};
    memcpy(to, (char *)&bits + 8 - sizes[dtype], sizes[dtype]);
#endif
    return 0;
}
