/* What the files around the kernels share: memory blocks, the Storage object, bound kernels, the
 * registry. Only these files include Python.h; kernels see nothing but treadle_cpu.h. */
#ifndef TREADLE_NATIVE_H
#define TREADLE_NATIVE_H
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include "host.h"

/* A piece of memory as Python sees it. Small memory follows the object itself, 64 bytes after its
 * start, so that one free list serves both; larger memory is a td_block. A view shares the memory
 * of `base`. */
typedef struct {
    PyObject_HEAD
    char *ptr;              /* the first byte: a tensor's first element */
    Py_ssize_t nbytes;      /* from ptr to the end of the memory */
    PyObject *base;         /* of a view: the Storage that owns the memory, never itself a view */
    union {
        td_block *block;    /* of large memory */
        Py_buffer *buffer;  /* of wrapped memory: the export that we hold */
    } own;
    uint8_t kind;           /* enum storage_kind */
    uint8_t size_class;     /* of the record that this header begins */
} Storage;

enum storage_kind { KIND_SMALL, KIND_BLOCK, KIND_VIEW, KIND_WRAP };

extern PyTypeObject *storage_type;
extern PyTypeObject *bound_type;

int storage_init(PyObject *module);
int bound_init(PyObject *module);

/* A new Storage, or NULL with MemoryError set. */
Storage *storage_new(int64_t nbytes);
PyObject *storage_wrap(PyObject *module, PyObject *object);
void storage_trim(void);

/* Live, cached and counted memory of the small records (the GIL protects it). */
typedef struct { size_t live, peak, cached, allocs, misses; } td_memory;
extern td_memory storage_memory;

PyObject *native_bind(PyObject *module, PyObject *args, PyObject *kwargs);

/* Writes a Python number as dtype into the 8 bytes at `to`; -1 with an exception set. */
int number_store(PyObject *number, int dtype, int64_t *to);

#endif
