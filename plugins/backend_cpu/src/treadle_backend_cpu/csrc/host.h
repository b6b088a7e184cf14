/* The part of the machinery that knows nothing of Python: memory blocks, threads, instruction sets,
 * messages. */
#ifndef TREADLE_HOST_H
#define TREADLE_HOST_H
#include <stdatomic.h>
#include <stdbool.h>
#include "treadle_cpu.h"

/* memory.c: blocks above the small records; every function is thread safe. */
typedef struct td_block {
    char *ptr;                              /* 64-byte aligned; 2 MB aligned when size >= 2 MB */
    size_t size;                            /* bytes that may be used, a size class */
    size_t mapped;                          /* bytes to give back to munmap; 0: free() */
    int bin;
    struct td_block *next, *previous;       /* cached blocks of the same bin, newest first */
    struct td_block *newer, *older;         /* all cached blocks by the time of their release */
} td_block;

typedef struct { size_t live, peak, cached, allocs, misses; } td_block_memory;

td_block *td_block_new(size_t bytes);
void td_block_free(td_block *block);
void td_block_trim(void);
bool td_too_large(int64_t bytes);           /* more than the machine could ever hold */
td_block_memory td_block_stats(bool reset_peak);

/* Unused memory of an arena, 64-byte aligned, from which td_scratch takes first. */
typedef struct { _Atomic(char *) at; char *end; } td_room;
void td_room_set(char *from, size_t bytes); /* this thread's, until it is set again */
td_room *td_room_here(void);
void td_room_to(td_room *target);           /* a pool thread takes from its caller's */

/* topology.c: how many threads this process should use. */
int td_default_threads(void);
int td_usable_cpus(void);

/* pool.c */
#define TD_MAX_THREADS 512
void td_set_threads(int n);

/* registry.c */
typedef struct { const char *name; const td_entry *const *tables; } td_level;
const char *td_registry_load(void);         /* chooses the level; says why it cannot, or NULL */
const char *td_isa(void);
const td_entry *td_find(const char *name);
const td_entry *td_kernels(int *n);         /* all of them, sorted by name */

/* cpuid.c */
enum td_isa_level { TD_LEVEL_BASE, TD_LEVEL_AVX2, TD_LEVEL_AVX512, TD_LEVELS };
bool td_cpu_has(enum td_isa_level level);

/* fail.c: the message of the last failure for the thread that started the work. */
typedef struct { char text[240]; } td_message;
td_message *td_message_here(void);          /* where this thread's failures are written now */
void td_message_to(td_message *target);     /* a pool thread writes to its caller's */
bool td_message_take(char *to, size_t size);

/* Lets the ISA-independent files run in address-sanitized builds without caches that would hide
 * errors. */
#if defined(__SANITIZE_ADDRESS__)
#define TD_NO_CACHE 1
#else
#define TD_NO_CACHE 0
#endif
#endif
