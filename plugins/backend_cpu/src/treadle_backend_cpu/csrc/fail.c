/* Messages of failing kernels. A kernel runs in the thread that Python called, its tasks in pool
 * threads; a failure in any of them is written where the caller will look. Rare, so one lock guards
 * all of it. */
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "host.h"

static __thread td_message own_message;
static __thread td_message *target;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

td_message *td_message_here(void)
{
    return target ? target : &own_message;
}

void td_message_to(td_message *message)
{
    target = message;
}

int td_fail(int code, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    pthread_mutex_lock(&lock);
    vsnprintf(td_message_here()->text, sizeof own_message.text, format, values);
    pthread_mutex_unlock(&lock);
    va_end(values);
    return code;
}

/* Copies this thread's message and forgets it; false when there is none. */
bool td_message_take(char *to, size_t size)
{
    pthread_mutex_lock(&lock);
    bool found = own_message.text[0] != 0;
    snprintf(to, size, "%s", own_message.text);
    own_message.text[0] = 0;
    pthread_mutex_unlock(&lock);
    return found;
}

/* Another thread may have held the lock when this process was forked. */
static void unlock_in_child(void)
{
    pthread_mutex_init(&lock, NULL);
}

__attribute__((constructor)) static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, unlock_in_child);
}
