/* Programs: many bound kernels run by one call, on memory that was planned beforehand.
 *
 * All that can be wrong with a program is refused when it is made (program_make.c), so that a call
 * only has to look at its arguments. It then takes one block from the caching allocator - the
 * frame, which holds every pointer of the call, and the arena behind it - and walks through the
 * steps. Nothing of a call lies in the program itself: any number of threads may run the same
 * one. */
#include "program.h"
#include <string.h>
#include <time.h>

#define SIGNAL_PERIOD 50000000      /* nanoseconds between checks for signals such as Ctrl-C */

PyTypeObject *program_type;

/* What one call needs; the arrays lie in its block, before the arena. */
typedef struct {
    td_block *block;
    uintptr_t *bases;
    int64_t *cells;
    char **io;
    PyObject *outs;                     /* the tuple that the call returns */
} frame;

/* ---- a call ---- */

/* The arena comes last: in builds that look for overruns nothing may follow it. */
static int open_frame(const Program *p, frame *f)
{
    size_t n_bases = (size_t)(base_of_cells(p) + p->n_cells);
    size_t words = n_bases + (size_t)p->n_cells + (size_t)p->n_places;
    size_t bytes = (words * 8 + 63) & ~(size_t)63;
    f->outs = NULL;
    f->block = td_block_new(bytes + (size_t)p->arena_bytes);
    if (!f->block) {
        PyErr_Format(PyExc_MemoryError, "program: cannot allocate %lld bytes of working memory",
                     (long long)p->arena_bytes);
        return -1;
    }
    f->bases = (uintptr_t *)(void *)f->block->ptr;
    f->cells = (int64_t *)(f->bases + n_bases);
    f->io = (char **)(void *)(f->cells + p->n_cells);
    f->bases[BASE_ZERO] = 0;
    f->bases[BASE_ARENA] = (uintptr_t)f->block->ptr + bytes;
    return 0;
}

static void raise_argument(int64_t k, const char *wanted, PyObject *given)
{
    PyObject *type = PyObject_GetAttrString((PyObject *)Py_TYPE(given), "__name__");
    if (!type) return;
    PyErr_Format(PyExc_TypeError, "program: argument %lld must be %s, not %U", (long long)k, wanted,
                 type);
    Py_DECREF(type);
}

static inline int load_storages(const Program *p, frame *f, PyObject *const *args)
{
    for (int64_t k = 0; k < p->n_args; k++) {
        Storage *s = (Storage *)args[k];
        if (!is_storage(args[k])) {
            raise_argument(k, "a Storage", args[k]);
            return -1;
        }
        if (s->nbytes < p->arg_bytes[k]) {
            PyErr_Format(PyExc_ValueError,
                         "program: argument %lld needs %lld bytes, its storage has %zd",
                         (long long)k, (long long)p->arg_bytes[k], s->nbytes);
            return -1;
        }
        f->bases[BASE_ARGS + k] = (uintptr_t)s->ptr;
    }
    return 0;
}

/* Those that no step reads are checked as well: which ones are read is not the caller's affair. */
static int load_numbers(const Program *p, frame *f, PyObject *const *args)
{
    for (int64_t k = 0; k < p->n_numbers; k++)
        if (!PyFloat_Check(args[k]) && !PyLong_Check(args[k])) {
            raise_argument(p->n_args + k, "a number", args[k]);
            return -1;
        }
    for (int64_t c = 0; c < p->n_cells; c++) {
        if (number_store(args[p->cells[c].number], p->cells[c].dtype, &f->cells[c])) return -1;
        f->bases[base_of_cells(p) + c] = (uintptr_t)&f->cells[c];
    }
    return 0;
}

static int make_outs(const Program *p, frame *f)
{
    f->outs = PyTuple_New((Py_ssize_t)p->n_outs);
    for (int64_t o = 0; f->outs && o < p->n_outs; o++) {
        Storage *s = storage_new(p->out_bytes[o]);
        if (!s) return -1;
        f->bases[base_of_outs(p) + o] = (uintptr_t)s->ptr;
        PyTuple_SetItem(f->outs, (Py_ssize_t)o, (PyObject *)s);
    }
    return f->outs ? 0 : -1;
}

static inline void resolve(const Program *p, const frame *f)
{
    const place *places = p->places;
    const uintptr_t *bases = f->bases;
    char **io = f->io;
    for (int64_t k = 0; k < p->n_places; k++)
        io[k] = (char *)(bases[places[k].base] + (uintptr_t)places[k].offset);
}

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Whether the handler of a signal raised. *state: what PyEval_SaveThread returned, NULL for a call
 * that keeps the GIL; NULL afterwards where the handler raised, since the GIL is then held. */
static bool interrupted(PyThreadState **state)
{
    PyThreadState *saved = *state;
    if (saved) PyEval_RestoreThread(saved);
    *state = NULL;
    if (PyErr_CheckSignals()) return true;
    if (saved) *state = PyEval_SaveThread();
    return false;
}

/* Returns NULL, or the step that failed with *code, or that was the last before an interruption
 * (*code is 0). */
static const step *walk(const Program *p, const frame *f, PyThreadState **state, int *code,
                        int64_t *times)
{
    char **io = f->io, *arena = (char *)f->bases[BASE_ARENA];
    const step *end = p->steps + p->n_steps;
    int64_t due = p->looks ? now() + SIGNAL_PERIOD : 0;
    for (const step *s = p->steps; s < end; s++) {
        int64_t start = times ? now() : 0;
        td_room_set(arena + s->room, (size_t)s->room_bytes);
        *code = s->run(s->plan, io);
        if (times) *times++ = now() - start;
        if (__builtin_expect(*code, 0)) return s;
        io += s->n_io;
        if (!s->look || now() < due) continue;
        if (interrupted(state)) return s;
        due = now() + SIGNAL_PERIOD;
    }
    return NULL;
}

static int compute(const Program *p, frame *f, int64_t *times)
{
    int code = 0;
    PyThreadState *state = p->work > GIL_WORK ? PyEval_SaveThread() : NULL;
    resolve(p, f);
    const step *s = walk(p, f, &state, &code, times);
    td_room_set(NULL, 0);
    if (state) PyEval_RestoreThread(state);
    if (s && code) bound_raise(s->bound, s - p->steps, code);
    return s ? -1 : 0;
}

static PyObject *call(const Program *p, PyObject *const *args, Py_ssize_t n, int64_t *times)
{
    if (n != p->n_args + p->n_numbers)
        return PyErr_Format(PyExc_TypeError,
                            "program: takes %lld storages and %lld numbers; got %zd arguments",
                            (long long)p->n_args, (long long)p->n_numbers, n);
    frame f;
    if (open_frame(p, &f)) return NULL;
    if (load_storages(p, &f, args) || load_numbers(p, &f, args + p->n_args) || make_outs(p, &f) ||
        compute(p, &f, times)) {
        Py_XDECREF(f.outs);
        f.outs = NULL;
    }
    td_block_free(f.block);
    return f.outs;
}

static PyObject *program_run(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    return call((const Program *)self, args, n, NULL);
}

static PyObject *tuple_of(const int64_t *values, int64_t n)
{
    PyObject *tuple = PyTuple_New((Py_ssize_t)n);
    for (int64_t k = 0; tuple && k < n; k++) {
        PyObject *value = PyLong_FromLongLong(values[k]);
        if (!value) {
            Py_DECREF(tuple);
            return NULL;
        }
        PyTuple_SetItem(tuple, (Py_ssize_t)k, value);
    }
    return tuple;
}

static PyObject *program_timed(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    const Program *p = (const Program *)self;
    int64_t *times = PyMem_Malloc(((size_t)p->n_steps + 1) * sizeof *times);
    if (!times) return PyErr_NoMemory();
    PyObject *outs = call(p, args, n, times);
    PyObject *each = outs ? tuple_of(times, p->n_steps) : NULL;
    PyMem_Free(times);
    PyObject *both = each ? PyTuple_Pack(2, outs, each) : NULL;
    Py_XDECREF(outs);
    Py_XDECREF(each);
    return both;
}

/* ---- the type ---- */

static PyMethodDef run_method = {
    "run", (PyCFunction)(void (*)(void))program_run, METH_FASTCALL,
    "run(*storages, *numbers): run the steps; return a tuple of the results."
};

PyObject *native_program(PyObject *module, PyObject *args, PyObject *kwargs)
{
    (void)module;
    static char *names[] = {"steps", "arena_bytes", "arg_bytes", "out_bytes", "constants",
                            "n_numbers", "rooms", NULL};
    long long arena;
    PyObject *steps, *arg_bytes, *out_bytes, *constants, *rooms = NULL;
    Py_ssize_t n_numbers;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!LO!O!O!n|O!:program", names, &PyTuple_Type,
                                     &steps, &arena, &PyTuple_Type, &arg_bytes, &PyTuple_Type,
                                     &out_bytes, &PyTuple_Type, &constants, &n_numbers,
                                     &PyTuple_Type, &rooms))
        return NULL;
    allocfunc alloc = (allocfunc)PyType_GetSlot(program_type, Py_tp_alloc);
    Program *p = (Program *)alloc(program_type, 0);
    if (!p) return NULL;
    p->arena_bytes = arena;
    p->n_numbers = n_numbers;
    p->constants = constants;
    Py_INCREF(constants);
    PyObject *run = NULL;
    if (!program_fill(p, steps, arg_bytes, out_bytes, rooms))
        run = PyCFunction_NewEx(&run_method, (PyObject *)p, NULL);
    Py_DECREF((PyObject *)p);
    return run;
}

static void program_dealloc(PyObject *self)
{
    Program *p = (Program *)self;
    PyTypeObject *type = Py_TYPE(self);
    for (int64_t k = 0; k < p->n_steps; k++) Py_DECREF((PyObject *)p->steps[k].bound);
    Py_XDECREF(p->constants);
    PyMem_Free(p->memory);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *get_int(PyObject *self, void *offset)
{
    int64_t value;
    memcpy(&value, (char *)self + (size_t)offset, sizeof value);
    return PyLong_FromLongLong(value);
}

#define INT(name, field, doc) {name, get_int, NULL, doc, (void *)offsetof(Program, field)}
static PyGetSetDef getters[] = {
    INT("steps", n_steps, "Number of kernels that a call runs."),
    INT("arena_bytes", arena_bytes, "Bytes of the memory that a call takes for its duration."),
    INT("work", work, "Estimated nanoseconds of one call."),
    {0},
};
static PyMethodDef methods[] = {
    {"timed", (PyCFunction)(void (*)(void))program_timed, METH_FASTCALL,
     "timed(*storages, *numbers): run the steps; return the results and a tuple of nanoseconds, "
     "one per step."},
    {0},
};
static PyType_Slot slots[] = {
    {Py_tp_dealloc, program_dealloc},
    {Py_tp_getset, getters},
    {Py_tp_methods, methods},
    {Py_tp_doc, "What a program knows; the __self__ of what program returns."},
    {0, NULL},
};
static PyType_Spec spec = {
    .name = "treadle_backend_cpu._native.Program",
    .basicsize = sizeof(Program),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = slots,
};

int program_init(PyObject *module)
{
    if (!program_type) program_type = (PyTypeObject *)PyType_FromSpec(&spec);
    if (!program_type) return -1;
    return PyModule_AddObjectRef(module, "Program", (PyObject *)program_type);
}
