/* Bound kernels: a kernel, its plan, its result sizes. The call is the hot path of eager execution,
 * so everything that can be decided at binding is: the limited API still reaches about 30 ns a
 * call, result included. */
#include "native.h"
#include <stdio.h>
#include <string.h>

#define LOCAL_IO 24                             /* operands that need no memory of their own */
#define MAX_IO 65536

PyTypeObject *bound_type;

/* What one call needs: pointers for the kernel, numbers as elements, results. */
typedef struct {
    char **io;
    int64_t *numbers;
    PyObject **outs;
    char *io_local[LOCAL_IO];
    int64_t numbers_local[LOCAL_IO];
    PyObject *outs_local[LOCAL_IO];
    void *memory;
} frame;

void bound_raise(const Bound *b, int64_t step, int code)
{
    static const struct { PyObject **type; const char *text; } errors[] = {
        [TD_ERR_INDEX] = {&PyExc_IndexError, "index out of range"},
        [TD_ERR_ZERO] = {&PyExc_ZeroDivisionError, "integer division by zero"},
        [TD_ERR_MEMORY] = {&PyExc_MemoryError, "cannot allocate working memory"},
        [TD_ERR_VALUE] = {&PyExc_ValueError, "invalid value"},
    };
    char message[sizeof(td_message)];
    bool given = td_message_take(message, sizeof message);
    bool known = code >= TD_ERR_INDEX && code <= TD_ERR_VALUE;
    char where[100] = "";
    if (step >= 0) snprintf(where, sizeof where, "step %lld (%s): ", (long long)step, b->name);
    else if (!known) snprintf(where, sizeof where, "%s: ", b->name);
    if (known) PyErr_Format(*errors[code].type, "%s%s", where, given ? message : errors[code].text);
    else PyErr_Format(PyExc_SystemError, "%sunknown error code %d", where, code);
}

static void raise_operand(const Bound *b, int i, PyObject *given)
{
    PyObject *type = PyObject_GetAttrString((PyObject *)Py_TYPE(given), "__name__");
    if (!type) return;
    uint8_t slot = i < b->plan.n_in ? b->slots[i] : SLOT_STORAGE;
    const char *wanted = slot == SLOT_STORAGE ? "a Storage" : "a Storage or a number";
    PyErr_Format(PyExc_TypeError, "%s: argument %d must be %s, not %U", b->name, i, wanted, type);
    Py_DECREF(type);
}

/* An input that is not a Storage: a number, or an error. */
static int load_number(const Bound *b, frame *f, int i, PyObject *arg)
{
    if (b->slots[i] < TD_DTYPES) {
        int status = number_store(arg, b->slots[i], &f->numbers[i]);
        f->io[i] = (char *)&f->numbers[i];
        if (status <= 0) return status;
    }
    raise_operand(b, i, arg);
    return -1;
}

static inline int load_inputs(const Bound *b, frame *f, PyObject *const *args)
{
    for (int i = 0; i < b->plan.n_in; i++) {
        if (is_storage(args[i])) f->io[i] = ((Storage *)args[i])->ptr;
        else if (load_number(b, f, i, args[i])) return -1;
    }
    return 0;
}

static int load_given(const Bound *b, frame *f, PyObject *const *args)
{
    for (int o = 0; o < b->plan.n_out; o++) {
        int i = b->plan.n_in + o;
        if (b->out_bytes[o] == UNWANTED && Py_IsNone(args[i])) {
            f->io[i] = NULL;
            continue;
        }
        if (!is_storage(args[i])) {
            raise_operand(b, i, args[i]);
            return -1;
        }
        Storage *s = (Storage *)args[i];
        if (s->nbytes < b->out_bytes[o]) {
            PyErr_Format(PyExc_ValueError, "%s: result %d needs %lld bytes, its storage has %zd",
                         b->name, o, (long long)b->out_bytes[o], s->nbytes);
            return -1;
        }
        f->io[i] = b->out_bytes[o] == UNWANTED ? NULL : s->ptr;
    }
    return 0;
}

static void drop_outs(frame *f, int n)
{
    for (int o = 0; o < n; o++) Py_XDECREF(f->outs[o]);
}

static inline int make_outs(const Bound *b, frame *f)
{
    for (int o = 0; o < b->plan.n_out; o++) {
        Storage *s = b->out_bytes[o] == UNWANTED ? NULL : storage_new(b->out_bytes[o]);
        if (!s && b->out_bytes[o] != UNWANTED) {
            drop_outs(f, o);
            return -1;
        }
        f->outs[o] = (PyObject *)s;
        f->io[b->plan.n_in + o] = s ? s->ptr : NULL;
    }
    return 0;
}

static inline int compute(const Bound *b, char **io)
{
    if (b->work <= GIL_WORK) return b->run(&b->plan, io);
    PyThreadState *state = PyEval_SaveThread();
    int code = b->run(&b->plan, io);
    PyEval_RestoreThread(state);
    return code;
}

static PyObject *none(void)
{
    Py_INCREF(Py_None);
    return Py_None;
}

/* Hands the results over: one Storage, or a tuple with None for what nobody wanted. */
static PyObject *collect(const Bound *b, frame *f)
{
    int n = b->plan.n_out;
    if (n == 1) return f->outs[0] ? f->outs[0] : none();
    if (n == 0) return none();
    PyObject *tuple = PyTuple_New(n);
    if (!tuple) {
        drop_outs(f, n);
        return NULL;
    }
    for (int o = 0; o < n; o++) PyTuple_SetItem(tuple, o, f->outs[o] ? f->outs[o] : none());
    return tuple;
}

static PyObject *call_in_frame(const Bound *b, frame *f, PyObject *const *args, bool given)
{
    if (load_inputs(b, f, args) || (given ? load_given(b, f, args) : make_outs(b, f))) return NULL;
    int code = compute(b, f->io);
    if (code) {
        bound_raise(b, -1, code);
        if (!given) drop_outs(f, b->plan.n_out);
        return NULL;
    }
    return given ? none() : collect(b, f);
}

static PyObject *call_many(const Bound *b, frame *f, PyObject *const *args, bool given)
{
    size_t n = (size_t)(b->plan.n_in + b->plan.n_out);
    char *memory = PyMem_Malloc(n * (sizeof *f->io + sizeof *f->numbers + sizeof *f->outs));
    if (!memory) return PyErr_NoMemory();
    f->numbers = (int64_t *)(void *)memory;
    f->io = (char **)(f->numbers + n);
    f->outs = (PyObject **)(f->io + n);
    PyObject *result = call_in_frame(b, f, args, given);
    PyMem_Free(memory);
    return result;
}

static PyObject *raise_count(const Bound *b, Py_ssize_t n)
{
    return PyErr_Format(PyExc_TypeError,
                        "%s: takes %d inputs, or these and %d results; got %zd arguments",
                        b->name, b->plan.n_in, b->plan.n_out, n);
}

static PyObject *call_any(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    const Bound *b = (const Bound *)self;
    int n_in = b->plan.n_in, n_io = n_in + b->plan.n_out;
    if (n != n_in && n != n_io) return raise_count(b, n);
    frame f;
    if (n_io > LOCAL_IO) return call_many(b, &f, args, n != n_in);
    f.io = f.io_local;
    f.numbers = f.numbers_local;
    f.outs = f.outs_local;
    return call_in_frame(b, &f, args, n != n_in);
}

/* One or two storages in, one small result out, too little work to release the GIL: most eager
 * calls. */
static inline PyObject *call_small(PyObject *self, PyObject *const *args, Py_ssize_t n, int n_in)
{
    const Bound *b = (const Bound *)self;
    char *io[3];
    if (n != n_in || !is_storage(args[0]) || !is_storage(args[n_in - 1]))
        return call_any(self, args, n);
    io[0] = ((Storage *)args[0])->ptr;
    io[n_in - 1] = ((Storage *)args[n_in - 1])->ptr;
    Storage *out = storage_new(b->out_bytes[0]);
    if (!out) return NULL;
    io[n_in] = out->ptr;
    int code = b->run(&b->plan, io);
    if (__builtin_expect(!code, 1)) return (PyObject *)out;
    Py_DECREF((PyObject *)out);
    bound_raise(b, -1, code);
    return NULL;
}

static PyObject *call_unary(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    return call_small(self, args, n, 1);
}

static PyObject *call_binary(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    return call_small(self, args, n, 2);
}

#define RUN(function) {"run", (PyCFunction)(void (*)(void))function, METH_FASTCALL, NULL}
static PyMethodDef run_any = RUN(call_any);
static PyMethodDef run_unary = RUN(call_unary), run_binary = RUN(call_binary);

static PyMethodDef *entry_for(const Bound *b)
{
    int n = b->plan.n_in;
    bool small = b->plan.n_out == 1 && b->out_bytes[0] != UNWANTED && b->work <= GIL_WORK;
    if (!small || n < 1 || n > 2) return &run_any;
    return n == 1 ? &run_unary : &run_binary;
}

/* ---- binding ---- */

static int read_ints(PyObject *tuple, int64_t *to, const char *what)
{
    for (Py_ssize_t i = 0; i < PyTuple_Size(tuple); i++) {
        to[i] = PyLong_AsLongLong(PyTuple_GetItem(tuple, i));
        if (to[i] == -1 && PyErr_Occurred()) return -1;
        if (what && to[i] < UNWANTED) {
            PyErr_Format(PyExc_ValueError, "bind: %s must be at least -1, not %lld", what,
                         (long long)to[i]);
            return -1;
        }
    }
    return 0;
}

static int read_floats(PyObject *tuple, double *to)
{
    for (Py_ssize_t i = 0; i < PyTuple_Size(tuple); i++) {
        to[i] = PyFloat_AsDouble(PyTuple_GetItem(tuple, i));
        if (to[i] == -1.0 && PyErr_Occurred()) return -1;
    }
    return 0;
}

static int check_slots(const uint8_t *slots, Py_ssize_t n, int n_in)
{
    if (n != n_in) {
        PyErr_Format(PyExc_ValueError, "bind: %zd scalar codes for %d inputs", n, n_in);
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++)
        if (slots[i] >= TD_DTYPES && slots[i] < SLOT_STORAGE) {
            PyErr_Format(PyExc_ValueError, "bind: scalar code %d of input %zd is not a dtype",
                         slots[i], i);
            return -1;
        }
    return 0;
}

/* One piece of memory for all arrays, the widest elements first. */
static int lay_out(Bound *b, const char *name)
{
    td_plan *p = &b->plan;
    size_t words = (size_t)(p->n_out + p->n_i + p->n_f), length = strlen(name) + 1;
    char *memory = PyMem_Malloc(words * 8 + (size_t)p->n_in + length);
    if (!memory) {
        PyErr_NoMemory();
        return -1;
    }
    b->memory = memory;
    b->out_bytes = (int64_t *)(void *)memory;
    p->i = b->out_bytes + p->n_out;
    p->f = (const double *)(p->i + p->n_i);
    b->slots = (uint8_t *)(memory + words * 8);
    b->name = (char *)b->slots + p->n_in;
    memcpy(b->name, name, length);
    return 0;
}

typedef struct {
    const char *name, *slots;
    int n_in;
    PyObject *out_bytes, *ints, *floats;
    Py_ssize_t n_slots;
    long long work;
} request;

static int fill(Bound *b, const request *r)
{
    b->plan.n_in = r->n_in;
    b->plan.n_out = (int)PyTuple_Size(r->out_bytes);
    b->plan.n_i = (int)PyTuple_Size(r->ints);
    b->plan.n_f = (int)PyTuple_Size(r->floats);
    b->work = r->work;
    if (b->plan.n_out + r->n_in > MAX_IO) {
        PyErr_Format(PyExc_ValueError, "bind: more than %d operands", MAX_IO);
        return -1;
    }
    if (check_slots((const uint8_t *)r->slots, r->n_slots, r->n_in)) return -1;
    if (lay_out(b, r->name)) return -1;
    memcpy(b->slots, r->slots, (size_t)r->n_in);
    if (read_ints(r->out_bytes, b->out_bytes, "a result's size")) return -1;
    if (read_ints(r->ints, (int64_t *)b->plan.i, NULL)) return -1;
    return read_floats(r->floats, (double *)b->plan.f);
}

PyObject *native_bind(PyObject *module, PyObject *args, PyObject *kwargs)
{
    (void)module;
    static char *names[] = {"name", "n_in", "out_bytes", "ints", "floats", "scalars", "work", NULL};
    request r;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "siO!O!O!y#L:bind", names, &r.name, &r.n_in,
                                     &PyTuple_Type, &r.out_bytes, &PyTuple_Type, &r.ints,
                                     &PyTuple_Type, &r.floats, &r.slots, &r.n_slots, &r.work))
        return NULL;
    const td_entry *entry = td_find(r.name);
    if (!entry)
        return PyErr_Format(PyExc_ValueError, "bind: no kernel named '%s' for %s", r.name,
                            td_isa());
    if (r.n_in < 0 || r.n_in > MAX_IO)
        return PyErr_Format(PyExc_ValueError, "bind: %d inputs", r.n_in);
    allocfunc alloc = (allocfunc)PyType_GetSlot(bound_type, Py_tp_alloc);
    Bound *b = (Bound *)alloc(bound_type, 0);
    if (!b) return NULL;
    b->run = entry->run;
    PyObject *run = fill(b, &r) ? NULL : PyCFunction_NewEx(entry_for(b), (PyObject *)b, NULL);
    Py_DECREF((PyObject *)b);
    return run;
}

static void bound_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyMem_Free(((Bound *)self)->memory);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *get_name(PyObject *self, void *unused)
{
    (void)unused;
    return PyUnicode_FromString(((Bound *)self)->name);
}

static PyObject *get_operands(PyObject *self, void *output)
{
    const td_plan *plan = &((Bound *)self)->plan;
    return PyLong_FromLong(output ? plan->n_out : plan->n_in);
}

static PyObject *get_work(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromLongLong(((Bound *)self)->work);
}

static PyObject *get_scalars(PyObject *self, void *unused)
{
    (void)unused;
    const Bound *b = (const Bound *)self;
    return PyBytes_FromStringAndSize((const char *)b->slots, b->plan.n_in);
}

static PyGetSetDef getters[] = {
    {"name", get_name, NULL, "Name of the kernel.", NULL},
    {"n_in", get_operands, NULL, "Number of inputs.", NULL},
    {"n_out", get_operands, NULL, "Number of results, wanted or not.", &bound_type},
    {"scalars", get_scalars, NULL, "Per input 255 for a Storage, else the dtype code of a number.", NULL},
    {"work", get_work, NULL, "Estimated work in nanoseconds.", NULL},
    {0},
};
static PyType_Slot slots[] = {
    {Py_tp_dealloc, bound_dealloc},
    {Py_tp_getset, getters},
    {Py_tp_doc, "What a bound kernel knows; the __self__ of what bind returns."},
    {0, NULL},
};
static PyType_Spec spec = {
    .name = "treadle_backend_cpu._native.Bound",
    .basicsize = sizeof(Bound),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = slots,
};

int bound_init(PyObject *module)
{
    if (!bound_type) bound_type = (PyTypeObject *)PyType_FromSpec(&spec);
    if (!bound_type) return -1;
    return PyModule_AddObjectRef(module, "Bound", (PyObject *)bound_type);
}
