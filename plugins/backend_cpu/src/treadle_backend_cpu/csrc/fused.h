/* Fused elementwise regions: many ops in one pass over memory, without a compiler at run time.
 *
 * A region is code for a small machine. Its stages are threaded code: eight vectors travel as
 * arguments from stage to stage, so that only what is needed later is stored, in slots that stay in
 * L1. The few functions that vector code alone cannot compute are loops of the single kernels, from
 * tile to tile. Every op is rounded as its own kernel rounds it: results are equal bit by bit. */
#ifndef TREADLE_FUSED_H
#define TREADLE_FUSED_H
#include "elementwise.h"
#include "fused_codes.h"

enum {
    FUSED_BLOCK = 8 * TD_VEC, /* bytes that a stage works on */
    FUSED_AHEAD = 512,        /* bytes between what is computed and what is asked for */
    FUSED_TILE = 2048,        /* bytes of an operand that is not read or written where it lies */
    FUSED_PERIOD = 4096,      /* bytes of a repeated input that is copied, at most */
    FUSED_INPUTS = 8,
    FUSED_OPERANDS = 40, /* inputs, results, constants and slots together */
    FUSED_WORDS = 512    /* of code */
};

/* How an operand is stored: as computed, or converted with every tile. Truth is all bits of a
 * computed element. */
enum { FUSED_PLAIN, FUSED_F16, FUSED_BF16, FUSED_BOOL, FUSED_FORMS };

/* Steps of the code: what to do, how many words follow, and these.
 * STAGES: pairs of a stage and its argument. From LOOP on: a loop's operands and result. */
enum { FUSED_STAGES, FUSED_LOOP };

/* Plan: i[0] elements, i[1] elements of a task, i[2] elements of a row that tiles end with or 0,
 * i[3] inputs, i[4] results, i[5] constants, i[6] slots, i[7] words of code, i[8] what is known
 * of it (below), i[9] ndim, shape[ndim]; per input its form, its mode (elementwise.h), after how many
 * elements it repeats or 0, strides[ndim]; the results' forms; the constants' bits; the code. Results
 * are dense. Operands are numbered in this order. */
enum {
    FUSED_STAGED = 1, /* the code is stages only and operands are stored as computed */
    FUSED_DENSE = 2,  /* and inputs are dense */
    FUSED_LATE = 4    /* results are written when all inputs have been read */
};

/* An operand that begins anew every so many bytes, which are whole blocks; `left` of them are to come.
 * Numbers, constants and slots are one block. */
typedef struct {
    int operand;
    int64_t bytes, left;
} td_repeat;

/* What differs between the types that are computed in. */
typedef struct {
    int size; /* bytes of an element */
    td_convert load[FUSED_FORMS], store[FUSED_FORMS];
    const td_loop *loops;
    /* Runs stages on bytes of the operands, whole vectors. The first `ahead` are prefetched. */
    void (*stages)(const int64_t *code, char **at, int64_t bytes, td_repeat *repeats, int n,
                   int ahead);
} td_machine;

int KERNEL(fused_run)(const td_plan *p, char **io, const td_machine *machine);

extern const td_loop KERNEL(loops_f32)[], KERNEL(loops_f64)[];
#endif
