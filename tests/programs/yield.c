/* Preloaded beside the MPI in the short run: a rank that waits leaves the processor to the others.
 *
 * Both MPIs ask for progress again and again. Open MPI can be told to yield in between (mpi_yield_when_idle), MPICH
 * on UCX as packaged cannot: with more ranks than processors each message then takes a time slice. And what yields
 * is never idle, so that jobs which only wait slow down those that work. Here a wait that lasts becomes a nap. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    PATIENCE = 200,       /* fruitless calls in a row before the first nap */
    IN_A_ROW = 50 * 1000, /* ns: with more than that in between, something else was done */
    NAP = 50 * 1000,      /* ns */
};

static long long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int sched_yield(void)
{
    static __thread long long last;
    static __thread unsigned calls;
    calls = now() - last > IN_A_ROW ? 0 : calls + 1;
    if (calls < PATIENCE) {
        syscall(SYS_sched_yield);
    } else {
        struct timespec nap = {0, NAP};
        nanosleep(&nap, NULL);
    }
    last = now();
    return 0;
}

unsigned ucp_worker_progress(void *worker)
{
    static unsigned (*real)(void *);
    /* Not RTLD_NEXT: the library may have been loaded later, with an adapter. */
    void *library = real ? NULL : dlopen("libucp.so.0", RTLD_LAZY | RTLD_NOLOAD);
    if (library) *(void **)&real = dlsym(library, "ucp_worker_progress");
    if (!real) abort();
    unsigned events = real(worker);
    if (events == 0) sched_yield();
    return events;
}
