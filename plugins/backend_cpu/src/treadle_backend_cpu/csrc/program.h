/* Programs, between the file that makes them and the one that runs them. */
#ifndef TREADLE_PROGRAM_H
#define TREADLE_PROGRAM_H
#include "native.h"

typedef struct {
    td_kernel run;
    const td_plan *plan;
    Bound *bound;               /* owned: the kernel and the plan are its */
    int64_t room, room_bytes;   /* of the arena: what no buffer takes while it runs */
    int32_t n_io;
    bool look;                  /* see whether signals are due, once it has run */
} step;

/* Where an operand lies: offset bytes after one of a call's bases. The bases are the address 0 (for
 * constants, whose address is the offset, and for NULL), the arena, the arguments, the results,
 * the cells. */
typedef struct { int64_t offset; uint32_t base; } place;
enum { BASE_ZERO, BASE_ARENA, BASE_ARGS };

typedef struct { int32_t number, dtype; } cell;     /* a number as one dtype: 8 bytes of a call */

typedef struct {
    PyObject_HEAD
    step *steps;
    place *places;              /* of all operands of all steps */
    int64_t *arg_bytes, *out_bytes;
    cell *cells;
    int64_t n_steps, n_places, n_args, n_outs, n_numbers, n_cells;
    int64_t arena_bytes, work;
    bool looks;                 /* some step does */
    PyObject *constants;
    void *memory;               /* holds the arrays above */
} Program;

static inline int64_t base_of_outs(const Program *p)
{
    return BASE_ARGS + p->n_args;
}

static inline int64_t base_of_cells(const Program *p)
{
    return base_of_outs(p) + p->n_outs;
}

/* Reads and checks the steps and sizes for a program that knows its arena_bytes, n_numbers and
 * constants; rooms: offset and bytes per step, or NULL. -1 with an exception set. */
int program_fill(Program *p, PyObject *steps, PyObject *arg_bytes, PyObject *out_bytes,
                 PyObject *rooms);

#endif
