/* Cure for MPI_Finalize of Debian 12's MPICH 4.0.2 (ch4:ucx, UCX 1.13) between nodes over TCP, loaded into the lower
 * half only (`lower_preload` in mana.conf, or by itself where the adapter is that MPICH).
 *
 * The trouble: MPI_Finalize disconnects every UCX endpoint, then waits in the process manager's barrier: a blocking
 * read of the descriptor named by PMI_FD. A disconnect finishes only while the peer drives UCX, and a peer that sits in
 * that read does not. So most runs over several nodes never end.
 *
 * The cure: remember the UCX worker; from the first disconnect on, the read from the process manager polls its
 * descriptor and drives the worker until the answer is there.
 *
 *   gcc -shared -fPIC -O2 mpich_finalize.c -o libmana_mpich_finalize.so -ldl */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <poll.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

/* UCX's functions, by the part of their prototypes that is used here; handles are passed through. */
typedef int create_worker(void *context, const void *parameters, void **worker);
typedef void destroy_worker(void *worker);
typedef void *disconnect_endpoint(void *endpoint);
typedef unsigned progress_worker(void *worker);
typedef ssize_t read_bytes(int descriptor, void *buffer, size_t length);

static _Atomic(void *) worker;      /* the one MPICH makes */
static atomic_bool disconnecting;   /* the end has begun */
static _Atomic(read_bytes *) next_read;
static _Atomic(progress_worker *) progress;

static void *next(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort(); /* interposed, so somebody linked against it: it exists */
    return found;
}

int ucp_worker_create(void *context, const void *parameters, void **made)
{
    create_worker *create = (create_worker *)next("ucp_worker_create");
    int status = create(context, parameters, made);
    if (status == 0) worker = *made;
    return status;
}

void ucp_worker_destroy(void *destroyed)
{
    destroy_worker *destroy = (destroy_worker *)next("ucp_worker_destroy");
    void *expected = destroyed;
    if (atomic_compare_exchange_strong(&worker, &expected, NULL)) disconnecting = 0;
    destroy(destroyed);
}

void *ucp_disconnect_nb(void *endpoint)
{
    disconnect_endpoint *disconnect = (disconnect_endpoint *)next("ucp_disconnect_nb");
    if (!progress) progress = (progress_worker *)dlsym(RTLD_DEFAULT, "ucp_worker_progress");
    disconnecting = 1;
    return disconnect(endpoint);
}

/* Is this the process manager's descriptor? */
static int manager(int descriptor)
{
    const char *text = getenv("PMI_FD");
    return text && *text && atoi(text) == descriptor;
}

ssize_t read(int descriptor, void *buffer, size_t length)
{
    if (!next_read) next_read = (read_bytes *)next("read");
    void *driven = worker;
    if (disconnecting && driven && progress && manager(descriptor)) {
        struct pollfd answer = {.fd = descriptor, .events = POLLIN};
        while (poll(&answer, 1, 1) == 0)
            while (progress(driven)) {}
    }
    return next_read(descriptor, buffer, length);
}
