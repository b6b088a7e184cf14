/* Memory blocks: a caching allocator.
 *
 * The first touch of fresh pages costs ten times the writing of them, so blocks are kept when they
 * are freed and given out again. Sizes are rounded up to eight classes per power of two (at most
 * 12.5 % more than asked for), from 2 MB on to 32 (3 %: arenas are of this size). A request takes
 * a cached block that is up to 25 % larger, of its own class first and then of the next ones, the
 * most recently freed first because its lines may still be in the caches.
 * Above a quarter of the machine's memory the longest unused blocks go back to the system. Blocks
 * of 2 MB and more are aligned to 2 MB and ask for huge pages. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include "host.h"

#define HUGE_PAGE ((size_t)2 << 20)
#define MIN_LOG2 10                             /* the smallest class: 1 KB */
#define MAX_LOG2 47
#define FINE_LOG2 21                            /* from here on the classes are finer */
#define COARSE_BINS ((FINE_LOG2 - MIN_LOG2) * 8 + 1)
#define BINS (COARSE_BINS + (MAX_LOG2 - FINE_LOG2 + 1) * 32)
#define SCRATCH_HEADER 64                      /* bytes before scratch memory: see scratch_header */

static struct {
    pthread_mutex_t lock;
    td_block *bins[BINS];
    td_block *newest, *oldest;
    size_t cap;                                 /* cached bytes to keep at most */
    td_block_memory stats;
} cache = {.lock = PTHREAD_MUTEX_INITIALIZER};

static size_t physical_bytes(void)
{
    static size_t bytes;               /* written once with the same value by whoever comes first */
    size_t known = __atomic_load_n(&bytes, __ATOMIC_RELAXED);
    if (!known) {
        long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
        known = pages > 0 && size > 0 ? (size_t)pages * (size_t)size : (size_t)4 << 30;
        __atomic_store_n(&bytes, known, __ATOMIC_RELAXED);
    }
    return known;
}

bool td_too_large(int64_t bytes)
{
    return bytes < 0 || (uint64_t)bytes > (uint64_t)physical_bytes() * 2;   /* there may be swap */
}

/* Rounds up to a class: the top four bits of the size, the leading one included, say which; the top
 * six of large sizes. */
static int bin_of(size_t bytes, size_t *rounded)
{
    if (bytes <= (size_t)1 << MIN_LOG2) {
        *rounded = (size_t)1 << MIN_LOG2;
        return 0;
    }
    int log2 = 63 - __builtin_clzll(bytes - 1);
    bool fine = log2 >= FINE_LOG2;
    int shift = log2 - (fine ? 5 : 3);
    size_t steps = (bytes - 1) >> shift;        /* 8..15, fine 32..63 */
    *rounded = (steps + 1) << shift;
    if (fine) return COARSE_BINS + (log2 - FINE_LOG2) * 32 + (int)(steps - 32);
    return (log2 - MIN_LOG2) * 8 + (int)(steps - 8) + 1;
}

static bool system_memory(td_block *block)
{
    block->mapped = 0;
    if (TD_NO_CACHE || block->size < HUGE_PAGE) {
        void *p = NULL;
        if (posix_memalign(&p, 64, block->size)) return false;
        block->ptr = p;
        return true;
    }
    size_t size = (block->size + 4095) & ~(size_t)4095, whole = size + HUGE_PAGE;
    char *p = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return false;
    char *aligned = (char *)(((uintptr_t)p + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1));
    if (aligned > p) munmap(p, (size_t)(aligned - p));
    if (aligned + size < p + whole) munmap(aligned + size, (size_t)(p + whole - aligned - size));
#ifdef MADV_HUGEPAGE
    madvise(aligned, size, MADV_HUGEPAGE);      /* refused where huge pages are off: no harm */
#endif
    block->ptr = aligned;
    block->mapped = size;
    return true;
}

static void give_back(td_block *block)
{
    if (block->mapped) munmap(block->ptr, block->mapped);
    else free(block->ptr);
    free(block);
}

/* The three functions below expect the lock. */
static void uncache(td_block *block)
{
    if (block->previous) block->previous->next = block->next;
    else cache.bins[block->bin] = block->next;
    if (block->next) block->next->previous = block->previous;
    if (block->newer) block->newer->older = block->older;
    else cache.newest = block->older;
    if (block->older) block->older->newer = block->newer;
    else cache.oldest = block->newer;
    cache.stats.cached -= block->size;
}

static void keep(td_block *block)
{
    block->previous = NULL;
    block->next = cache.bins[block->bin];
    if (block->next) block->next->previous = block;
    cache.bins[block->bin] = block;
    block->newer = NULL;
    block->older = cache.newest;
    if (block->older) block->older->newer = block;
    else cache.oldest = block;
    cache.newest = block;
    cache.stats.cached += block->size;
}

static void count_live(size_t bytes)
{
    cache.stats.allocs++;
    cache.stats.live += bytes;
    if (cache.stats.live > cache.stats.peak) cache.stats.peak = cache.stats.live;
}

static td_block *take_cached(int bin)
{
    int last = bin + (bin < COARSE_BINS ? 2 : 8);
    for (int b = bin; b <= last && b < BINS; b++) {
        td_block *block = cache.bins[b];
        if (block) {
            uncache(block);
            return block;
        }
    }
    return NULL;
}

static td_block *fresh_block(size_t size, int bin)
{
    td_block *block = malloc(sizeof *block);
    if (!block) return NULL;
    block->size = size;
    block->bin = bin;
    if (system_memory(block)) return block;
    td_block_trim();                    /* what is cached in other classes may be what is missing */
    if (system_memory(block)) return block;
    free(block);
    return NULL;
}

td_block *td_block_new(size_t bytes)
{
    if (bytes > (size_t)INT64_MAX || td_too_large((int64_t)bytes)) return NULL;
    size_t size;
    int bin = bin_of(bytes, &size);
    if (TD_NO_CACHE) size = bytes ? bytes : 1;  /* exact, so that an overrun by one byte is seen */
    pthread_mutex_lock(&cache.lock);
    td_block *block = take_cached(bin);
    if (block) count_live(block->size);
    pthread_mutex_unlock(&cache.lock);
    if (block) return block;

    block = fresh_block(size, bin);
    if (!block) return NULL;
    pthread_mutex_lock(&cache.lock);
    count_live(block->size);
    cache.stats.misses++;
    pthread_mutex_unlock(&cache.lock);
    return block;
}

/* Takes the longest unused blocks out until `cached` bytes remain; returns them as a list through
 * next. */
static td_block *evict(size_t cached)
{
    td_block *list = NULL;
    while (cache.oldest && cache.stats.cached > cached) {
        td_block *block = cache.oldest;
        uncache(block);
        block->next = list;
        list = block;
    }
    return list;
}

static void give_back_all(td_block *list)
{
    while (list) {
        td_block *next = list->next;
        give_back(list);
        list = next;
    }
}

void td_block_free(td_block *block)
{
    if (!block) return;
    pthread_mutex_lock(&cache.lock);
    cache.stats.live -= block->size;
    if (!cache.cap) cache.cap = physical_bytes() / 4;
    keep(block);
    td_block *list = evict(TD_NO_CACHE ? 0 : cache.cap);
    pthread_mutex_unlock(&cache.lock);
    give_back_all(list);
}

void td_block_trim(void)
{
    pthread_mutex_lock(&cache.lock);
    td_block *list = evict(0);
    pthread_mutex_unlock(&cache.lock);
    give_back_all(list);
}

td_block_memory td_block_stats(bool reset_peak)
{
    pthread_mutex_lock(&cache.lock);
    td_block_memory stats = cache.stats;
    if (reset_peak) cache.stats.peak = cache.stats.live;
    pthread_mutex_unlock(&cache.lock);
    return stats;
}

/* ---- scratch memory ---- */

typedef struct {
    td_block *block;                            /* NULL: it lies in the room */
    size_t whole;                               /* bytes of the room that it takes, header and all */
} scratch_header;

static __thread td_room own_room;
static __thread td_room *room;                  /* a pool thread's: that of its caller */

td_room *td_room_here(void)
{
    return room ? room : &own_room;
}

void td_room_to(td_room *target)
{
    room = target;
}

void td_room_set(char *from, size_t bytes)
{
    if (TD_NO_CACHE) return;                    /* an overrun there would not be seen */
    own_room.end = from + bytes;
    atomic_store_explicit(&own_room.at, from, memory_order_relaxed);
}

static void *scratch_in_room(size_t bytes)
{
    td_room *r = td_room_here();
    size_t whole = (bytes + SCRATCH_HEADER + 63) & ~(size_t)63;
    char *at = atomic_load_explicit(&r->at, memory_order_relaxed);
    do {
        if (whole > (size_t)(r->end - at)) return NULL;
    } while (!atomic_compare_exchange_weak_explicit(&r->at, &at, at + whole, memory_order_acq_rel,
                                                    memory_order_relaxed));
    *(scratch_header *)(void *)at = (scratch_header){NULL, whole};
    return at + SCRATCH_HEADER;
}

void *td_scratch(size_t bytes)
{
    if (bytes > SIZE_MAX / 2) return NULL;
    void *p = scratch_in_room(bytes);
    if (p) return p;
    td_block *block = td_block_new(bytes + SCRATCH_HEADER);
    if (!block) return NULL;
    *(scratch_header *)(void *)block->ptr = (scratch_header){block, 0};
    return block->ptr + SCRATCH_HEADER;
}

/* What lies in the room is free again where it was taken last, the rest when the step is over. */
void td_scratch_free(void *p)
{
    if (!p) return;
    char *start = (char *)p - SCRATCH_HEADER;
    scratch_header *header = (scratch_header *)(void *)start;
    if (header->block) {
        td_block_free(header->block);
        return;
    }
    char *end = start + header->whole;
    atomic_compare_exchange_strong_explicit(&td_room_here()->at, &end, start, memory_order_acq_rel,
                                            memory_order_relaxed);
}

/* A fork while another thread holds the lock would leave it locked in the child for ever. */
static void before_fork(void) { pthread_mutex_lock(&cache.lock); }
static void after_fork(void) { pthread_mutex_unlock(&cache.lock); }
__attribute__((constructor)) static void watch_forks(void)
{
    pthread_atfork(before_fork, after_fork, after_fork);
}
