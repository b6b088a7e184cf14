/* Storage: memory as a Python object, with free lists for small ones.
 *
 * A small Storage is one record: 64 bytes that hold the object, then its data, so a small result
 * costs one pop from a list. Records of views and of large memory are headers only (class 0). The
 * GIL protects the lists and the counters. */
#include "native.h"
#include <stdlib.h>

#define HEADER 64                               /* bytes before the data of a record */
#define SMALL_MAX 16384                        /* bytes of data up to which it follows the header */
#define FINE_MAX 1024           /* up to here one class per 64 bytes, above four per power of two */
#define CLASSES 33
#define KEEP_BYTES ((size_t)4 << 20)            /* free records to keep per class */

_Static_assert(sizeof(Storage) <= HEADER, "a Storage must fit before its data");

PyTypeObject *storage_type;
td_memory storage_memory;

typedef struct { Storage *first; int n, max; } free_list;   /* linked through base */
static free_list lists[CLASSES];

static int class_of(int64_t nbytes)
{
    if (nbytes <= FINE_MAX) return nbytes <= 64 ? 1 : (int)((nbytes + 63) >> 6);
    int log2 = 63 - __builtin_clzll((uint64_t)nbytes - 1);
    return 16 + (log2 - 10) * 4 + (int)(((nbytes - 1) >> (log2 - 2)) - 4) + 1;
}

static size_t class_bytes(int c)
{
    if (c <= 16) return (size_t)c * 64;
    int log2 = 10 + (c - 17) / 4, step = (c - 17) % 4;
    return (size_t)(step + 5) << (log2 - 2);
}

static Storage *record_fresh(int c, size_t data)
{
    void *memory = NULL;
    if (posix_memalign(&memory, 64, HEADER + data)) return NULL;
    storage_memory.misses++;
    Storage *s = memory;
    PyObject_Init((PyObject *)s, storage_type);
    s->size_class = (uint8_t)c;
    return s;
}

/* A parked record keeps its type and its reference to it: waking it is setting the count. */
static inline Storage *record_new(int c, size_t data)
{
    free_list *list = &lists[c];
    Storage *s = list->first;
    if (__builtin_expect(!s, 0)) return record_fresh(c, data);
    list->first = (Storage *)s->base;
    list->n--;
    storage_memory.cached -= data;
    Py_SET_REFCNT((PyObject *)s, 1);
    return s;
}

static void record_release(Storage *s)
{
    PyTypeObject *type = Py_TYPE((PyObject *)s);
    free(s);
    Py_DECREF(type);
}

static inline void record_free(Storage *s)
{
    free_list *list = &lists[s->size_class];
    if (TD_NO_CACHE || list->n >= list->max) {
        record_release(s);
        return;
    }
    s->base = (PyObject *)list->first;
    list->first = s;
    list->n++;
    storage_memory.cached += class_bytes(s->size_class);
}

static inline void count_live(size_t bytes)
{
    storage_memory.allocs++;
    storage_memory.live += bytes;
    if (storage_memory.live > storage_memory.peak) storage_memory.peak = storage_memory.live;
}

static Storage *no_memory(int64_t nbytes)
{
    PyErr_Format(PyExc_MemoryError, "cannot allocate %lld bytes", (long long)nbytes);
    return NULL;
}

static Storage *storage_small(int64_t nbytes)
{
    int c = class_of(nbytes);
    size_t data = TD_NO_CACHE ? (size_t)nbytes : class_bytes(c);
    Storage *s = record_new(c, data);
    if (!s) return no_memory(nbytes);
    count_live(data);
    s->ptr = (char *)s + HEADER;
    s->nbytes = (Py_ssize_t)nbytes;
    s->base = NULL;
    s->kind = KIND_SMALL;
    return s;
}

static Storage *storage_large(int64_t nbytes)
{
    if (td_too_large(nbytes)) return no_memory(nbytes);
    td_block *block = td_block_new((size_t)nbytes);
    if (!block) return no_memory(nbytes);
    Storage *s = record_new(0, 0);
    if (!s) {
        td_block_free(block);
        return no_memory(nbytes);
    }
    s->ptr = block->ptr;
    s->nbytes = (Py_ssize_t)nbytes;
    s->base = NULL;
    s->own.block = block;
    s->kind = KIND_BLOCK;
    return s;
}

Storage *storage_new(int64_t nbytes)
{
    if (__builtin_expect((uint64_t)nbytes <= SMALL_MAX, 1)) return storage_small(nbytes);
    return storage_large(nbytes);
}

static void drop_buffer(Storage *s)
{
    PyBuffer_Release(s->own.buffer);
    PyMem_Free(s->own.buffer);
}

static void storage_dealloc(PyObject *self)
{
    Storage *s = (Storage *)self;
    switch (s->kind) {
    case KIND_SMALL:
        storage_memory.live -= TD_NO_CACHE ? (size_t)s->nbytes : class_bytes(s->size_class);
        break;
    case KIND_BLOCK: td_block_free(s->own.block); break;
    case KIND_VIEW: Py_DECREF(s->base); break;
    case KIND_WRAP: drop_buffer(s); break;
    }
    record_free(s);
}

static int storage_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
    Storage *s = (Storage *)self;
    return PyBuffer_FillInfo(view, self, s->ptr, s->nbytes, 0, flags);
}

/* A view of a view shares the owner itself, so the offset may go back as far as the owner's first
 * byte. */
static PyObject *storage_view(PyObject *self, PyObject *offset_object)
{
    Storage *s = (Storage *)self;
    Py_ssize_t offset = PyLong_AsSsize_t(offset_object);
    if (offset == -1 && PyErr_Occurred()) return NULL;
    Storage *owner = s->kind == KIND_VIEW ? (Storage *)s->base : s;
    if (offset < owner->ptr - s->ptr || offset > s->nbytes)
        return PyErr_Format(PyExc_ValueError, "view: offset %zd is outside a storage of %zd bytes",
                            offset, s->nbytes);
    Storage *view = record_new(0, 0);
    if (!view) return PyErr_NoMemory();
    Py_INCREF((PyObject *)owner);
    view->ptr = s->ptr + offset;
    view->nbytes = s->nbytes - offset;
    view->base = (PyObject *)owner;
    view->kind = KIND_VIEW;
    return (PyObject *)view;
}

PyObject *storage_wrap(PyObject *module, PyObject *object)
{
    (void)module;
    Py_buffer *buffer = PyMem_Malloc(sizeof *buffer);
    if (!buffer) return PyErr_NoMemory();
    if (PyObject_GetBuffer(object, buffer, PyBUF_CONTIG)) {     /* writable and contiguous */
        PyMem_Free(buffer);
        return NULL;
    }
    Storage *s = record_new(0, 0);
    if (!s) {
        PyBuffer_Release(buffer);
        PyMem_Free(buffer);
        return PyErr_NoMemory();
    }
    s->ptr = buffer->buf;
    s->nbytes = buffer->len;
    s->base = NULL;
    s->own.buffer = buffer;
    s->kind = KIND_WRAP;
    return (PyObject *)s;
}

void storage_trim(void)
{
    for (int c = 0; c < CLASSES; c++) {
        free_list *list = &lists[c];
        while (list->first) {
            Storage *s = list->first;
            list->first = (Storage *)s->base;
            storage_memory.cached -= class_bytes(c);
            record_release(s);
        }
        list->n = 0;
    }
}

static PyObject *storage_repr(PyObject *self)
{
    Storage *s = (Storage *)self;
    return PyUnicode_FromFormat("<Storage of %zd bytes at %p>", s->nbytes, (void *)s->ptr);
}

static PyObject *get_ptr(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromVoidPtr(((Storage *)self)->ptr);
}

static PyObject *get_nbytes(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromSsize_t(((Storage *)self)->nbytes);
}

static PyGetSetDef getters[] = {
    {"ptr", get_ptr, NULL, "Address of the first byte.", NULL},
    {"nbytes", get_nbytes, NULL, "Bytes from the first to the end of the memory.", NULL},
    {0},
};
static PyMethodDef methods[] = {
    {"view", storage_view, METH_O,
     "Share the memory from a byte offset on, which may be negative in a view."},
    {0},
};
static PyType_Slot slots[] = {
    {Py_tp_dealloc, storage_dealloc},
    {Py_tp_repr, storage_repr},
    {Py_tp_getset, getters},
    {Py_tp_methods, methods},
    {Py_bf_getbuffer, storage_getbuffer},
    {Py_tp_doc, "Bytes that kernels read and write; made by alloc, wrap and bound kernels."},
    {0, NULL},
};
static PyType_Spec spec = {
    .name = "treadle_backend_cpu._native.Storage",
    .basicsize = HEADER,
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = slots,
};

int storage_init(PyObject *module)
{
    for (int c = 0; c < CLASSES; c++) lists[c].max = (int)(KEEP_BYTES / (HEADER + class_bytes(c)));
    if (!storage_type)                      /* parked records know the type: it stays as it is */
        storage_type = (PyTypeObject *)PyType_FromSpec(&spec);
    if (!storage_type) return -1;
    return PyModule_AddObjectRef(module, "Storage", (PyObject *)storage_type);
}
