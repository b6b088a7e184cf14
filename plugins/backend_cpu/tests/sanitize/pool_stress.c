/* Hammers the pool from several threads, nested and across forks, and measures a fork-join; no
 * Python involved.
 *     gcc -O2 -pthread -I csrc pool_stress.c csrc/{pool,topology,fail}.c && ./a.out
 * prints "ok" and the nanoseconds of a fork-join. Built with -fsanitize=thread it must print no
 * report. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "host.h"

#define CALLERS 4
#define MAX_TASKS 300

typedef struct { int64_t sum[MAX_TASKS]; int64_t n; bool nested; } job;

static void inner(int64_t t, void *ctx)
{
    ((int64_t *)ctx)[t] = t;
}

static void task(int64_t t, void *ctx)
{
    job *j = ctx;
    int64_t values[7] = {0};
    if (j->nested) td_parallel(7, inner, values);
    j->sum[t] += t + values[6];
}

static void check(job *j, int64_t rounds)
{
    for (int64_t t = 0; t < j->n; t++)
        if (j->sum[t] != rounds * (t + (j->nested ? 6 : 0))) {
            printf("task %lld ran wrongly\n", (long long)t);
            exit(1);
        }
}

static void *call_often(void *arg)
{
    int64_t rounds = *(int64_t *)arg;
    for (int64_t n = 0; n <= MAX_TASKS; n = n * 2 + 1) {
        job j = {.n = n, .nested = n % 4 == 3};
        for (int64_t r = 0; r < rounds; r++) td_parallel(n, task, &j);
        check(&j, rounds);
    }
    return NULL;
}

static void many_callers(int64_t rounds)
{
    pthread_t callers[CALLERS];
    for (int i = 0; i < CALLERS; i++) pthread_create(&callers[i], NULL, call_often, &rounds);
    for (int i = 0; i < CALLERS; i++) pthread_join(callers[i], NULL);
}

static void forks(void)
{
    for (int i = 0; i < 5; i++) {
        pid_t child = fork();
        if (!child) {
            int64_t rounds = 20;
            alarm(20);
            call_often(&rounds);
            _exit(0);
        }
        int status;
        waitpid(child, &status, 0);
        if (status) {
            printf("a forked child failed: %d\n", status);
            exit(1);
        }
    }
}

static void fail_task(int64_t t, void *ctx)
{
    (void)ctx;
    if (t == 40) td_fail(TD_ERR_INDEX, "task %lld", (long long)t);
}

static void messages(void)
{
    char text[64];
    td_parallel(64, fail_task, NULL);
    bool found = td_message_take(text, sizeof text), again = td_message_take(text + 32, 32);
    if (!found || strcmp(text, "task 40") || again) {
        printf("the message of a failing task was lost\n");
        exit(1);
    }
}

/* Every task waits for all the others to start, so each thread must take one. */
static void meet(int64_t t, void *ctx)
{
    (void)t;
    _Atomic int64_t *missing = ctx;
    atomic_fetch_sub(missing, 1);
    while (atomic_load(missing) > 0) continue;
}

static double fork_join_ns(int64_t rounds)
{
    struct timespec a, b;
    double best = 1e9;
    for (int chunk = 0; chunk < 20; chunk++) {
        clock_gettime(CLOCK_MONOTONIC, &a);
        for (int64_t r = 0; r < rounds; r++) {
            _Atomic int64_t missing = td_threads();
            td_parallel(td_threads(), meet, (void *)&missing);
        }
        clock_gettime(CLOCK_MONOTONIC, &b);
        double ns = (double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec);
        best = TD_MIN(best, ns / (double)rounds);
    }
    return best;
}

/* Joins after pauses longer than the spinning, so that workers are woken from their sleep. */
static void parked(void)
{
    job j = {.n = 5};
    for (int i = 0; i < 20; i++) {
        usleep(3000);
        td_parallel(5, task, &j);
    }
    check(&j, 20);
}

int main(int argc, char **argv)
{
    int64_t rounds = argc > 1 ? atoll(argv[1]) : 2000;
    bool forking = argc <= 2;              /* a thread sanitizer refuses new threads after a fork */
    td_set_threads(2);
    double ns = fork_join_ns(rounds);
    for (int threads = 1; threads <= 5; threads += 2) {
        td_set_threads(threads);
        many_callers(rounds / threads / 10 + 1);
        parked();
        messages();
        if (forking) forks();
    }
    printf("ok fork-join %.0f ns\n", ns);
    return 0;
}
