/* The module treadle_backend_cpu._native: memory, threads and kernels of the CPU for Python. */
#include "native.h"

static PyObject *native_alloc(PyObject *module, PyObject *size)
{
    (void)module;
    Py_ssize_t nbytes = PyLong_AsSsize_t(size);
    if (nbytes == -1 && PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_OverflowError)) return NULL;
        PyErr_Clear();
        return PyErr_Format(PyExc_MemoryError, "cannot allocate %S bytes", size);
    }
    return (PyObject *)storage_new(nbytes);
}

static PyObject *native_set_threads(PyObject *module, PyObject *count)
{
    (void)module;
    long n = PyLong_AsLong(count);
    if (n == -1 && PyErr_Occurred()) return NULL;
    if (n < 1 || n > TD_MAX_THREADS)
        return PyErr_Format(PyExc_ValueError, "set_num_threads: from 1 to %d threads, not %ld",
                            TD_MAX_THREADS, n);
    td_set_threads((int)n);
    Py_INCREF(Py_None);
    return Py_None;
}

static PyObject *native_get_threads(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return PyLong_FromLong(td_threads());
}

static PyObject *native_isa(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return PyUnicode_FromString(td_isa());
}

static PyObject *native_names(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    int n;
    const td_entry *kernels = td_kernels(&n);
    PyObject *list = PyList_New(n);
    for (int i = 0; list && i < n; i++) {
        PyObject *name = PyUnicode_FromString(kernels[i].name);
        if (!name || PyList_SetItem(list, i, name)) {
            Py_DECREF(list);
            return NULL;
        }
    }
    return list;
}

static PyObject *native_memory_stats(PyObject *module, PyObject *args)
{
    (void)module;
    int reset = 0;
    if (!PyArg_ParseTuple(args, "|p:memory_stats", &reset)) return NULL;
    td_block_memory blocks = td_block_stats(reset);
    td_memory small = storage_memory;
    if (reset) storage_memory.peak = storage_memory.live;
    return Py_BuildValue("{s:n,s:n,s:n,s:n,s:n}",
                         "live", (Py_ssize_t)(blocks.live + small.live),
                         "peak", (Py_ssize_t)(blocks.peak + small.peak),
                         "cached", (Py_ssize_t)(blocks.cached + small.cached),
                         "allocs", (Py_ssize_t)(blocks.allocs + small.allocs),
                         "misses", (Py_ssize_t)(blocks.misses + small.misses));
}

static PyObject *native_trim(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    storage_trim();
    td_block_trim();
    Py_INCREF(Py_None);
    return Py_None;
}

static PyMethodDef methods[] = {
    {"alloc", native_alloc, METH_O,
     "Allocate a Storage of so many uninitialised bytes, 64-byte aligned."},
    {"wrap", storage_wrap, METH_O,
     "Share the memory of a writable contiguous buffer as a Storage."},
    {"bind", (PyCFunction)(void (*)(void))native_bind, METH_VARARGS | METH_KEYWORDS,
     "bind(name, n_in, out_bytes, ints, floats, scalars, work): return the kernel as a callable "
     "run(*ins) that returns new storages, or run(*ins, *outs) that writes into given ones."},
    {"program", (PyCFunction)(void (*)(void))native_program, METH_VARARGS | METH_KEYWORDS,
     "program(steps, arena_bytes, arg_bytes, out_bytes, constants, n_numbers): return a list of "
     "bound kernels as one callable run(*storages, *numbers) that returns a tuple of storages. "
     "Each step is (bound, slots), slots three ints per operand: kind, index, offset in bytes; "
     "kinds: 0 arena, 1 argument, 2 constant, 3 number, 4 result, 5 a result nobody wants."},
    {"set_num_threads", native_set_threads, METH_O,
     "Use so many threads from now on, the caller included."},
    {"get_num_threads", native_get_threads, METH_NOARGS,
     "Return how many threads kernels may use."},
    {"isa", native_isa, METH_NOARGS,
     "Return the instruction set level in use: base, avx2 or avx512."},
    {"names", native_names, METH_NOARGS, "Return the names of all kernels, sorted."},
    {"memory_stats", native_memory_stats, METH_VARARGS,
     "memory_stats(reset_peak=False): return bytes live, peak and cached, the number of allocs, "
     "and of those that the system had to serve (misses)."},
    {"trim", native_trim, METH_NOARGS, "Give cached memory back to the system."},
    {0},
};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "treadle_backend_cpu._native", "Memory, threads and kernels of the CPU.",
    -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__native(void)
{
    const char *problem = td_registry_load();
    if (problem) {
        PyErr_SetString(PyExc_ImportError, problem);
        return NULL;
    }
    PyObject *module = PyModule_Create(&definition);
    if (!module) return NULL;
    if (!storage_init(module) && !bound_init(module) && !program_init(module)) return module;
    Py_DECREF(module);
    return NULL;
}
