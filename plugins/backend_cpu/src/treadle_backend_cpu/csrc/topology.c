/* How many threads this process should use: what the user says, else the physical cores that the
 * scheduler lets it run on, within the quota of its control group. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "host.h"

#define PATH 512

static bool read_line(const char *path, char *line, int size)
{
    FILE *f = fopen(path, "r");
    if (!f) return false;
    bool read = fgets(line, size, f) != NULL;
    fclose(f);
    if (read) line[strcspn(line, "\n")] = 0;
    return read;
}

/* The first number of a variable such as "4" or "4,2"; 0 when it is not set or not a count. */
static int from_environment(const char *name)
{
    const char *text = getenv(name);
    long n = text ? strtol(text, NULL, 10) : 0;
    return n > 0 ? (int)TD_MIN(n, TD_MAX_THREADS) : 0;
}

static int online_cpus(void)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}

#ifdef __linux__
/* Threads of one core name the same first sibling; a core counts once. */
static int core_of(int cpu)
{
    char path[PATH], line[PATH];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    return read_line(path, line, sizeof line) ? atoi(line) : cpu;
}

static int allowed_cpus(bool cores)
{
    cpu_set_t allowed, seen;
    if (sched_getaffinity(0, sizeof allowed, &allowed)) return online_cpus();
    CPU_ZERO(&seen);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &allowed)) CPU_SET(cores ? core_of(cpu) : cpu, &seen);
    return TD_MAX(CPU_COUNT(&seen), 1);
}
#else
static int allowed_cpus(bool cores)
{
    (void)cores;
    return online_cpus();
}
#endif

/* Whole processors in a quota; 0 where there is none. Rounded down, since a spinning pool would be
 * throttled. */
static int whole_cpus(double quota, double period)
{
    if (quota <= 0 || period <= 0) return 0;
    return quota < period ? 1 : (int)TD_MIN(quota / period, (double)TD_MAX_THREADS);
}

static int quota_at(const char *group)
{
    char path[2 * PATH], line[PATH];
    double quota, period;
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", group);
    if (!read_line(path, line, sizeof line)) return 0;
    if (sscanf(line, "%lf %lf", &quota, &period) != 2) return 0;
    return whole_cpus(quota, period);
}

/* Control groups, version 2: the least quota from our own group up to the root that we can see. */
static int quota_v2(void)
{
    char line[PATH];
    if (!read_line("/proc/self/cgroup", line, sizeof line) || strncmp(line, "0::", 3))
        return quota_at("");
    int least = 0;
    char *group = line + 3;
    for (;;) {
        int quota = quota_at(strcmp(group, "/") ? group : "");
        if (quota && (!least || quota < least)) least = quota;
        char *slash = strrchr(group, '/');
        if (!slash) return least;
        *slash = 0;
    }
}

static int quota_v1(void)
{
    char quota[64], period[64];
    if (!read_line("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", quota, sizeof quota)) return 0;
    if (!read_line("/sys/fs/cgroup/cpu/cpu.cfs_period_us", period, sizeof period)) return 0;
    return whole_cpus(atof(quota), atof(period));
}

int td_usable_cpus(void)
{
    return allowed_cpus(false);
}

int td_default_threads(void)
{
    int n = from_environment("TREADLE_NUM_THREADS");
    if (!n) n = from_environment("OMP_NUM_THREADS");
    if (n) return n;
    n = allowed_cpus(true);
    int quota = quota_v2();
    if (!quota) quota = quota_v1();
    return quota ? TD_MIN(n, quota) : n;
}
