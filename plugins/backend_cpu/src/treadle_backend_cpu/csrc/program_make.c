/* Programs in the making: reads what the caller says of steps and operands, and refuses all that a
 * call could trip over. */
#include "program.h"
#include <stdarg.h>

#define MAX_TABLE (1 << 20)         /* arguments, numbers, results, each */
#define MAX_WORK ((int64_t)1 << 50) /* nanoseconds; estimates above it say no more */
#define LOOK_WORK 20000             /* estimated nanoseconds after which to look at the clock */
#define STEP_WORK 100               /* what a step counts for at least, besides its estimate */

enum slot_kind { AT_ARENA, AT_ARG, AT_CONSTANT, AT_NUMBER, AT_OUT, AT_NONE, SLOT_KINDS };

typedef struct {
    Program *p;
    PyObject *steps;
    int32_t *cell_of;           /* [number][dtype]: its cell + 1, 0 where none has asked for it */
    int64_t k;                  /* the step that is being read */
    Bound *bound;               /* its kernel, as soon as that is known */
    PyObject *slots;
} maker;

/* One operand as the caller described it. */
typedef struct { int64_t kind, index, offset, need; bool output; int position; } operand;

__attribute__((format(printf, 3, 4)))
static int refuse(const maker *m, PyObject *type, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    PyObject *text = PyUnicode_FromFormatV(format, values);
    va_end(values);
    if (!text) return -1;
    if (m->bound)
        PyErr_Format(type, "program: step %lld (%s): %U", (long long)m->k, m->bound->name, text);
    else
        PyErr_Format(type, "program: step %lld: %U", (long long)m->k, text);
    Py_DECREF(text);
    return -1;
}

static Bound *bound_of(PyObject *run)
{
    PyObject *self = PyCFunction_Check(run) ? PyCFunction_GetSelf(run) : NULL;
    return self && Py_TYPE(self) == bound_type ? (Bound *)self : NULL;
}

static int64_t operands_of(const Bound *b)
{
    return b->plan.n_in + b->plan.n_out;
}

/* Reads the pair (bound kernel, slots) of step k; the numbers in slots are not looked at. */
static int read_step(maker *m, int64_t k)
{
    PyObject *pair = PyTuple_GetItem(m->steps, (Py_ssize_t)k);
    m->k = k;
    m->bound = NULL;
    if (!PyTuple_Check(pair) || PyTuple_Size(pair) != 2)
        return refuse(m, PyExc_TypeError, "must be a tuple (bound kernel, slots)");
    m->bound = bound_of(PyTuple_GetItem(pair, 0));
    if (!m->bound) return refuse(m, PyExc_TypeError, "is not of a bound kernel");
    m->slots = PyTuple_GetItem(pair, 1);
    if (!PyTuple_Check(m->slots)) return refuse(m, PyExc_TypeError, "slots must be a tuple");
    long long n = PyTuple_Size(m->slots), io = operands_of(m->bound);
    if (n != 3 * io)
        return refuse(m, PyExc_ValueError, "%lld slot numbers for %lld operands, not three each",
                      n, io);
    return 0;
}

/* An exact reading: nothing of the caller's may run here, as __index__ would. */
static int read_slot(const maker *m, Py_ssize_t i, int64_t *to)
{
    PyObject *value = PyTuple_GetItem(m->slots, i);
    if (!PyLong_Check(value))
        return refuse(m, PyExc_TypeError, "slot number %zd is not an integer", i);
    int overflow;
    *to = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow)
        return refuse(m, PyExc_ValueError, "slot number %zd does not fit in 64 bits", i);
    return *to == -1 && PyErr_Occurred() ? -1 : 0;
}

static int read_operand(const maker *m, int position, operand *o)
{
    const Bound *b = m->bound;
    Py_ssize_t first = (Py_ssize_t)position * 3;
    if (read_slot(m, first, &o->kind) || read_slot(m, first + 1, &o->index) ||
        read_slot(m, first + 2, &o->offset))
        return -1;
    o->position = position;
    o->output = position >= b->plan.n_in;
    o->need = o->output ? b->out_bytes[position - b->plan.n_in] : 0;
    if (o->kind < 0 || o->kind >= SLOT_KINDS)
        return refuse(m, PyExc_ValueError, "operand %d is of an unknown kind, %lld", position,
                      (long long)o->kind);
    return 0;
}

static int check_index(const maker *m, const operand *o, int64_t n, const char *what)
{
    if (o->index >= 0 && o->index < n) return 0;
    return refuse(m, PyExc_ValueError, "operand %d is %s %lld of %lld", o->position, what,
                  (long long)o->index, (long long)n);
}

/* Results have known sizes; those of inputs, and the alignment of both, only the caller knows. */
static int check_room(const maker *m, const operand *o, int64_t room)
{
    if (o->offset >= 0 && o->offset <= room && o->need <= room - o->offset) return 0;
    return refuse(m, PyExc_ValueError, "operand %d has %lld bytes at offset %lld of %lld",
                  o->position, (long long)o->need, (long long)o->offset, (long long)room);
}

static int place_in(const maker *m, const operand *o, int64_t base, int64_t room, place *to)
{
    *to = (place){o->offset, (uint32_t)base};
    return check_room(m, o, room);
}

static int place_constant(const maker *m, const operand *o, place *to)
{
    if (check_index(m, o, PyTuple_Size(m->p->constants), "constant")) return -1;
    if (o->output) return refuse(m, PyExc_ValueError, "result %d is a constant", o->position);
    Storage *s = (Storage *)PyTuple_GetItem(m->p->constants, (Py_ssize_t)o->index);
    *to = (place){(int64_t)((uintptr_t)s->ptr + (uintptr_t)o->offset), BASE_ZERO};
    return check_room(m, o, s->nbytes);
}

static int place_number(const maker *m, const operand *o, place *to)
{
    Program *p = m->p;
    if (check_index(m, o, p->n_numbers, "number")) return -1;
    if (o->output) return refuse(m, PyExc_ValueError, "result %d is a number", o->position);
    int dtype = m->bound->slots[o->position];
    if (dtype >= TD_DTYPES)
        return refuse(m, PyExc_ValueError, "operand %d must be a Storage, not a number",
                      o->position);
    int32_t *known = &m->cell_of[o->index * TD_DTYPES + dtype];
    if (!*known) {
        p->cells[p->n_cells] = (cell){(int32_t)o->index, dtype};
        *known = (int32_t)++p->n_cells;
    }
    *to = (place){0, (uint32_t)(base_of_cells(p) + *known - 1)};
    return 0;
}

static int place_operand(const maker *m, const operand *o, place *to)
{
    const Program *p = m->p;
    bool unwanted = o->output && o->need == UNWANTED;
    if (unwanted != (o->kind == AT_NONE))
        return refuse(m, PyExc_ValueError, unwanted ? "operand %d was bound as unwanted"
                      : "operand %d cannot be left out", o->position);
    switch ((enum slot_kind)o->kind) {
    case AT_ARENA: return place_in(m, o, BASE_ARENA, p->arena_bytes, to);
    case AT_ARG:
        if (check_index(m, o, p->n_args, "argument")) return -1;
        return place_in(m, o, BASE_ARGS + o->index, p->arg_bytes[o->index], to);
    case AT_CONSTANT: return place_constant(m, o, to);
    case AT_NUMBER: return place_number(m, o, to);
    case AT_OUT:
        if (check_index(m, o, p->n_outs, "result")) return -1;
        return place_in(m, o, base_of_outs(p) + o->index, p->out_bytes[o->index], to);
    default: *to = (place){0, BASE_ZERO}; return 0;
    }
}

/* Signals wait for the end of a step anyway, so the clock is only read where, by the estimates,
 * enough has happened since the last reading. */
static void add_work(Program *p, step *s, int64_t *pending)
{
    int64_t work = TD_MAX(TD_MIN(s->bound->work, MAX_WORK), 0);
    if (__builtin_add_overflow(p->work, work, &p->work)) p->work = INT64_MAX;
    *pending += work + STEP_WORK;
    s->look = *pending >= LOOK_WORK;
    if (!s->look) return;
    p->looks = true;
    *pending = 0;
}

static int fill_steps(maker *m, int64_t n)
{
    Program *p = m->p;
    place *to = p->places;
    int64_t pending = 0;
    for (int64_t k = 0; k < n; k++) {
        if (read_step(m, k)) return -1;
        for (int i = 0; i < operands_of(m->bound); i++) {
            operand o;
            if (read_operand(m, i, &o) || place_operand(m, &o, to++)) return -1;
        }
        step *s = &p->steps[k];
        Bound *b = m->bound;
        *s = (step){b->run, &b->plan, b, 0, 0, (int32_t)operands_of(b), false};
        Py_INCREF((PyObject *)b);
        p->n_steps++;
        add_work(p, s, &pending);
    }
    return 0;
}

/* One piece of memory for all arrays; every element is of 8 bytes or a multiple. */
static int lay_out(Program *p, int64_t n_steps)
{
    int64_t cells = TD_MIN(p->n_numbers * TD_DTYPES, p->n_places);
    size_t words = (size_t)(p->n_args + p->n_outs + cells);
    size_t bytes = (size_t)n_steps * sizeof(step) + (size_t)p->n_places * sizeof(place);
    char *memory = PyMem_Malloc(bytes + words * 8 + 1);
    if (!memory) {
        PyErr_NoMemory();
        return -1;
    }
    p->memory = memory;
    p->steps = (step *)(void *)memory;
    p->places = (place *)(void *)(p->steps + n_steps);
    p->arg_bytes = (int64_t *)(void *)(p->places + p->n_places);
    p->out_bytes = p->arg_bytes + p->n_args;
    p->cells = (cell *)(void *)(p->out_bytes + p->n_outs);
    return 0;
}

static int read_sizes(PyObject *tuple, int64_t *to, const char *what)
{
    for (Py_ssize_t i = 0; i < PyTuple_Size(tuple); i++) {
        to[i] = PyLong_AsLongLong(PyTuple_GetItem(tuple, i));
        if (to[i] == -1 && PyErr_Occurred()) return -1;
        if (to[i] < 0) {
            PyErr_Format(PyExc_ValueError, "program: %s %zd has %lld bytes", what, i,
                         (long long)to[i]);
            return -1;
        }
    }
    return 0;
}

static int check_counts(const Program *p)
{
    if (p->arena_bytes < 0 || p->n_numbers < 0) {
        PyErr_Format(PyExc_ValueError, "program: an arena of %lld bytes, %lld numbers",
                     (long long)p->arena_bytes, (long long)p->n_numbers);
        return -1;
    }
    if (p->n_args > MAX_TABLE || p->n_outs > MAX_TABLE || p->n_numbers > MAX_TABLE) {
        PyErr_Format(PyExc_ValueError, "program: more than %d arguments, results or numbers",
                     MAX_TABLE);
        return -1;
    }
    for (Py_ssize_t i = 0; i < PyTuple_Size(p->constants); i++)
        if (!is_storage(PyTuple_GetItem(p->constants, i))) {
            PyErr_Format(PyExc_TypeError, "program: constant %zd is not a Storage", i);
            return -1;
        }
    return 0;
}

static int read_rooms(const Program *p, PyObject *rooms)
{
    if (PyTuple_Size(rooms) != 2 * p->n_steps) {
        PyErr_Format(PyExc_ValueError, "program: %zd numbers for the rooms of %lld steps",
                     PyTuple_Size(rooms), (long long)p->n_steps);
        return -1;
    }
    for (int64_t k = 0; k < p->n_steps; k++) {
        int64_t from = PyLong_AsLongLong(PyTuple_GetItem(rooms, (Py_ssize_t)(2 * k)));
        if (from == -1 && PyErr_Occurred()) return -1;
        int64_t bytes = PyLong_AsLongLong(PyTuple_GetItem(rooms, (Py_ssize_t)(2 * k + 1)));
        if (bytes == -1 && PyErr_Occurred()) return -1;
        if (from < 0 || from % 64 || bytes < 0 || from > p->arena_bytes ||
            bytes > p->arena_bytes - from) {
            PyErr_Format(PyExc_ValueError, "program: step %lld has room for %lld bytes at %lld",
                         (long long)k, (long long)bytes, (long long)from);
            return -1;
        }
        p->steps[k].room = from;
        p->steps[k].room_bytes = bytes;
    }
    return 0;
}

int program_fill(Program *p, PyObject *steps, PyObject *arg_bytes, PyObject *out_bytes,
                 PyObject *rooms)
{
    maker m = {.p = p, .steps = steps};
    int64_t n_steps = PyTuple_Size(steps);
    p->n_args = PyTuple_Size(arg_bytes);
    p->n_outs = PyTuple_Size(out_bytes);
    if (check_counts(p)) return -1;
    for (int64_t k = 0; k < n_steps; k++) {
        if (read_step(&m, k)) return -1;
        p->n_places += operands_of(m.bound);
    }
    if (lay_out(p, n_steps)) return -1;
    if (read_sizes(arg_bytes, p->arg_bytes, "argument")) return -1;
    if (read_sizes(out_bytes, p->out_bytes, "result")) return -1;
    m.cell_of = PyMem_Calloc((size_t)p->n_numbers * TD_DTYPES + 1, sizeof *m.cell_of);
    if (!m.cell_of) {
        PyErr_NoMemory();
        return -1;
    }
    int status = fill_steps(&m, n_steps);
    PyMem_Free(m.cell_of);
    return status || !rooms ? status : read_rooms(p, rooms);
}
