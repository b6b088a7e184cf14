/* The stages of one width: VECTORS(M) lists M(0), M(1) ..., EACH(DO, f) does DO(k, f) for each, and
 * IN_STAGE(name) makes names. No guard: it is included once per width.
 *
 * A stage does its work on a0, a1 ... and calls the next one in tail position, which is a jump.
 * `code` points at its opcode and its argument: the index of an operand, or the bits of a number. */
#define PARAMETER(k) vf a##k
#define ARGUMENT(k) a##k
#define NOTHING(k) (vf){}
#define STATE const int64_t *code, char *const *at, int64_t pos, VECTORS(PARAMETER)
typedef void (*IN_STAGE(stage))(STATE);
static const IN_STAGE(stage) IN_STAGE(stages)[FUSED_CODES];

#define NAMED(name) STAGE_(IN_STAGE(name))
#define STAGE(name, ...)                                                                           \
    static void IN_STAGE(name)(STATE) {                                                            \
        __VA_ARGS__                                                                                \
        return IN_STAGE(stages)[code[2]](code + 2, at, pos, VECTORS(ARGUMENT));                    \
    }
#define OPERAND char *const operand = at[code[1]] + pos;
#define NUMBER const vf number = repeated(code[1]);
#define AT(k) ((vf_any *)operand)[k]

static void IN_STAGE(end)(STATE) {
    (void)code, (void)at, (void)pos;
#define UNUSED(k, f) (void)a##k;
    EACH(UNUSED, )
}

#define LOAD(k, f) a##k = AT(k);
#define STORE(k, f) AT(k) = a##k;
#define STREAM(k, f) stream(&AT(k), a##k);
STAGE(load, OPERAND EACH(LOAD, ))
STAGE(store, OPERAND EACH(STORE, ))
STAGE(stream, OPERAND EACH(STREAM, ))

#define APPLY(k, f) a##k = f(a##k);
#define FUSED_UNARY(name, ...) STAGE(name, EACH(APPLY, do_##name))
FUSED_UNARY(not)
FUSED_UNARY(truth)
FUSED_UNARY(number)

/* What is beside the accumulator comes second, or (from) first. */
#define WITH(k, f) a##k = f(a##k, AT(k));
#define FROM(k, f) a##k = f(AT(k), a##k);
#define WITH_NUMBER(k, f) a##k = f(a##k, number);
#define FROM_NUMBER(k, f) a##k = f(number, a##k);
#define FUSED_WITH(name) STAGE(name, OPERAND EACH(WITH, do_##name))
#define FUSED_FROM(name) STAGE(name##_from, OPERAND EACH(FROM, do_##name))
#define FUSED_NUMBER(name) STAGE(name##_number, NUMBER EACH(WITH_NUMBER, do_##name))
#define FUSED_FROM_NUMBER(name) STAGE(name##_from_number, NUMBER EACH(FROM_NUMBER, do_##name))

/* where(c, a, b): what is in the accumulator is c, a or b; the others are operands, in this order. */
#define PAIR                                                                                       \
    const char *const first = at[code[1] & 0xffff] + pos, *const second = at[code[1] >> 16] + pos;
#define FIRST(k) ((const vf_any *)first)[k]
#define SECOND(k) ((const vf_any *)second)[k]
#define WHERE_C(k, f) a##k = choose(a##k, FIRST(k), SECOND(k));
#define WHERE_A(k, f) a##k = choose(FIRST(k), a##k, SECOND(k));
#define WHERE_B(k, f) a##k = choose(FIRST(k), SECOND(k), a##k);
STAGE(where_c, PAIR EACH(WHERE_C, ))
STAGE(where_a, PAIR EACH(WHERE_A, ))
STAGE(where_b, PAIR EACH(WHERE_B, ))

#define FUSED_BINARY(...)
#define FUSED_STAGE(name)
#include FUSED_INC
#undef FUSED_UNARY
#undef FUSED_WITH
#undef FUSED_FROM
#undef FUSED_NUMBER
#undef FUSED_FROM_NUMBER
#undef FUSED_STAGE

/* The same list once more: the table. */
#define FUSED_UNARY(name, ...) IN_STAGE(name),
#define FUSED_WITH(name) IN_STAGE(name),
#define FUSED_FROM(name) IN_STAGE(name##_from),
#define FUSED_NUMBER(name) IN_STAGE(name##_number),
#define FUSED_FROM_NUMBER(name) IN_STAGE(name##_from_number),
#define FUSED_STAGE(name) IN_STAGE(name),
static const IN_STAGE(stage) IN_STAGE(stages)[FUSED_CODES] = {
#include FUSED_INC
};
#undef FUSED_BINARY
#undef FUSED_UNARY
#undef FUSED_WITH
#undef FUSED_FROM
#undef FUSED_NUMBER
#undef FUSED_FROM_NUMBER
#undef FUSED_STAGE

TD_INLINE void IN_STAGE(run)(const int64_t *code, char *const *at, int64_t pos) {
    IN_STAGE(stages)[code[0]](code, at, pos, VECTORS(NOTHING));
}
