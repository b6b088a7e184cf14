/* The thread pool.
 *
 * One 64-bit ticket says everything: its low half counts the tasks that nobody has claimed, its
 * high half the jobs so far. A thread claims a task by lowering the ticket with compare-and-swap;
 * having claimed one it may read the job, which cannot end before that task does. So late or
 * sleeping workers are never waited for: the caller needs only that all tasks are done, and a
 * worker that comes too late finds nothing to claim.
 *
 * Idle workers spin for about a millisecond, because a fork-join costs 0.4 us with a spinning
 * worker and 10 to 50 times as much with a sleeping one, then park on a condition variable each. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include "host.h"

#define SPIN_NS 1000000                 /* how long an idle thread looks for work before it parks */
#define SPIN_CROWDED_NS 5000                /* the same where threads outnumber processors */
#define LOOKS 32                            /* looks between two readings of the clock */
#define MAX_TASKS ((int64_t)1 << 31)        /* tasks in one ticket */
#define LINE 64                             /* bytes of a cache line */

typedef struct {
    _Alignas(LINE) atomic_int parked;
    bool woken;                             /* guarded by lock */
    pthread_mutex_t lock;
    pthread_cond_t wake;
} worker;

static struct {
    _Alignas(LINE) _Atomic uint64_t ticket; /* jobs so far << 32 | unclaimed tasks */
    _Alignas(LINE) _Atomic int64_t done;    /* tasks done of the present job */
    _Alignas(LINE) atomic_int owned;        /* whether a caller has the pool */
    atomic_int threads;                     /* the caller included; 0: not asked for yet */
    atomic_int crowded;                     /* whether they outnumber the processors */
    /* The job: written by the owner before its ticket, read by whoever claimed a task of it. */
    td_body body;
    void *ctx;
    int64_t first;
    uint32_t n;
    td_message *message;
    td_room *room;
    /* The owner waits here when the last tasks take long. */
    atomic_int waiting;
    pthread_mutex_t lock;
    pthread_cond_t finished;
    int started;                            /* workers; guarded by owned */
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .finished = PTHREAD_COND_INITIALIZER};

static worker workers[TD_MAX_THREADS];

static inline void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Looks until ready(arg) or until the time for it is over; says which. */
static bool spin(bool (*ready)(int64_t), int64_t arg)
{
    int crowded = atomic_load_explicit(&pool.crowded, memory_order_relaxed);
    int64_t budget = crowded ? SPIN_CROWDED_NS : SPIN_NS, start = 0;
    for (;;) {
        for (int i = 0; i < LOOKS; i++) {
            if (ready(arg)) return true;
            pause_briefly();
        }
        int64_t now = now_ns();
        if (!start) start = now;
        if (now - start > budget) return false;
    }
}

/* Claims and runs tasks while there are any; returns how many. */
static int64_t run_tasks(void)
{
    int64_t ran = 0;
    uint64_t t = atomic_load_explicit(&pool.ticket, memory_order_acquire);
    while ((uint32_t)t) {
        if (!atomic_compare_exchange_weak_explicit(&pool.ticket, &t, t - 1, memory_order_acq_rel,
                                                   memory_order_acquire))
            continue;
        if (!ran++) {
            td_message_to(pool.message);
            td_room_to(pool.room);
        }
        pool.body(pool.first + (pool.n - (uint32_t)t), pool.ctx);
        t = atomic_load_explicit(&pool.ticket, memory_order_acquire);
    }
    return ran;
}

static bool claimable(int64_t me)
{
    if (!(uint32_t)atomic_load(&pool.ticket)) return false;
    return me < atomic_load_explicit(&pool.threads, memory_order_relaxed) - 1;
}

/* The order "parked, then look at the ticket" here meets "ticket, then look at parked" in
 * publish(). */
static void park(worker *w, int me)
{
    pthread_mutex_lock(&w->lock);
    atomic_store(&w->parked, 1);
    while (!w->woken && !claimable(me)) pthread_cond_wait(&w->wake, &w->lock);
    w->woken = false;
    atomic_store(&w->parked, 0);
    pthread_mutex_unlock(&w->lock);
}

static void unpark(worker *w)
{
    pthread_mutex_lock(&w->lock);
    w->woken = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
}

/* Tells the owner about tasks done; after this the job may end at any moment. */
static void report(int64_t ran)
{
    atomic_fetch_add(&pool.done, ran);
    if (!atomic_load(&pool.waiting)) return;
    pthread_mutex_lock(&pool.lock);
    pthread_cond_signal(&pool.finished);
    pthread_mutex_unlock(&pool.lock);
}

static void *work(void *self)
{
    worker *w = self;
    int me = (int)(w - workers);
    for (;;) {
        int64_t ran = claimable(me) ? run_tasks() : 0;
        if (ran) report(ran);
        if (!spin(claimable, me)) park(w, me);
    }
    return NULL;
}

/* Starts what is missing of `n` workers. Signals stay with the threads that Python knows. */
static void start_workers(int n)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (pool.started < n) {
        worker *w = &workers[pool.started];
        pthread_t thread;
        pthread_mutex_init(&w->lock, NULL);
        pthread_cond_init(&w->wake, NULL);
        if (pthread_create(&thread, NULL, work, w)) break;     /* fewer threads are no error */
        pthread_detach(thread);
        pool.started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void publish(int64_t first, uint32_t n, int helpers)
{
    pool.first = first;
    pool.n = n;
    atomic_store_explicit(&pool.done, 0, memory_order_relaxed);
    uint64_t jobs = atomic_load_explicit(&pool.ticket, memory_order_relaxed) >> 32;
    atomic_store(&pool.ticket, (jobs + 1) << 32 | n);
    for (int i = 0; i < helpers && i < (int)n - 1; i++)
        if (atomic_load(&workers[i].parked)) unpark(&workers[i]);
}

static bool all_done(int64_t n)
{
    return atomic_load_explicit(&pool.done, memory_order_acquire) == n;
}

static void join(int64_t n)
{
    if (all_done(n) || spin(all_done, n)) return;
    pthread_mutex_lock(&pool.lock);
    atomic_store(&pool.waiting, 1);
    while (atomic_load(&pool.done) != n) pthread_cond_wait(&pool.finished, &pool.lock);
    atomic_store(&pool.waiting, 0);
    pthread_mutex_unlock(&pool.lock);
}

static void run_on_pool(int64_t n, td_body body, void *ctx, int helpers)
{
    if (pool.started < helpers) start_workers(helpers);
    if (pool.started < helpers) helpers = pool.started;
    pool.body = body;
    pool.ctx = ctx;
    pool.message = td_message_here();
    pool.room = td_room_here();
    for (int64_t first = 0; first < n; first += MAX_TASKS) {
        int64_t count = TD_MIN(n - first, MAX_TASKS);
        publish(first, (uint32_t)count, helpers);
        atomic_fetch_add(&pool.done, run_tasks());
        join(count);
    }
}

/* Whoever finds the pool taken, a task included, runs alone: so nothing ever waits for a thread
 * that waits for it. */
void td_parallel(int64_t n, td_body body, void *ctx)
{
    int threads = n > 1 ? td_threads() : 1;
    if (threads > 1 && !atomic_load_explicit(&pool.owned, memory_order_relaxed)
        && !atomic_exchange_explicit(&pool.owned, 1, memory_order_acquire)) {
        run_on_pool(n, body, ctx, threads - 1);
        atomic_store_explicit(&pool.owned, 0, memory_order_release);
        return;
    }
    for (int64_t t = 0; t < n; t++) body(t, ctx);
}

void td_set_threads(int n)
{
    atomic_store_explicit(&pool.crowded, n > td_usable_cpus(), memory_order_relaxed);
    atomic_store(&pool.threads, TD_MIN(TD_MAX(n, 1), TD_MAX_THREADS));
}

int td_threads(void)
{
    int threads = atomic_load_explicit(&pool.threads, memory_order_relaxed);
    if (__builtin_expect(!threads, 0)) {
        td_set_threads(td_default_threads());
        threads = atomic_load(&pool.threads);
    }
    return threads;
}

/* A forked child has the caller's thread only: its pool begins anew, whatever its workers were
 * doing. */
static void forget_workers(void)
{
    memset(workers, 0, sizeof workers);
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.finished, NULL);
    atomic_store(&pool.ticket, 0);
    atomic_store(&pool.waiting, 0);
    atomic_store(&pool.owned, 0);
    pool.started = 0;
}

__attribute__((constructor)) static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, forget_workers);
}
