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
int program_init(PyObject *module);

static inline bool is_storage(PyObject *o)
{
    return Py_TYPE(o) == storage_type;
}

/* A new Storage, or NULL with MemoryError set. */
Storage *storage_new(int64_t nbytes);
PyObject *storage_wrap(PyObject *module, PyObject *object);
void storage_trim(void);

/* Live, cached and counted memory of the small records (the GIL protects it). */
typedef struct { size_t live, peak, cached, allocs, misses; } td_memory;
extern td_memory storage_memory;

/* A kernel, its plan, its result sizes: the __self__ of what bind returns. */
typedef struct {
    PyObject_HEAD
    td_kernel run;
    td_plan plan;
    int64_t *out_bytes;     /* UNWANTED for a result that nobody wants */
    uint8_t *slots;         /* one per input: SLOT_STORAGE or a dtype code */
    int64_t work;           /* estimated nanoseconds */
    char *name;
    void *memory;           /* holds all the arrays above */
} Bound;

#define UNWANTED (-1)
#define SLOT_STORAGE 255    /* only a Storage may be passed */
#define GIL_WORK 20000      /* nanoseconds of work above which other threads may run */

PyObject *native_bind(PyObject *module, PyObject *args, PyObject *kwargs);
PyObject *native_program(PyObject *module, PyObject *args, PyObject *kwargs);

/* Raises what a kernel's error code stands for; step: its index in a program, or -1. */
void bound_raise(const Bound *b, int64_t step, int code);

/* Writes a Python number as dtype into the 8 bytes at `to`; -1 with an exception set. */
int number_store(PyObject *number, int dtype, int64_t *to);

#endif
