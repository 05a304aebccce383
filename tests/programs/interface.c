/* The application interface: holds, a range left out, callbacks, a checkpoint that is waited for. The result is the
 * native one, whatever happens in between. Compiled for MPI, and with -DALONE for a program without.
 *
 *   interface [--die 1] [--stuck hold|callback|mpi|publish] [--pause MS]
 *
 * --die: the last rank kills itself after the checkpoint, unless it was resumed from it. --stuck: what must be
 * named by a watchdog, or refused, or never lets its control thread rest. */
#ifdef ALONE
#include <stdint.h>
#define MPI_COMM_WORLD 0
#define MPI_UINT64_T 0
#define MPI_SUM 0
static int MPI_Init(int *argc, char ***argv) { return argc == 0 || argv == 0; }
static int MPI_Finalize(void) { return 0; }
#define MPI_Comm_rank(comm, rank) (*(rank) = 0)
#define MPI_Comm_size(comm, size) (*(size) = 1)
#define MPI_Abort(comm, code) exit(code)
#define MPI_Barrier(comm) ((void)0)
#define MPI_Allreduce(in, out, count, type, op, comm) (*(out) = *(in))
#define MPI_Gather(in, n, type, out, m, same, root, comm) (*(out) = *(in))
#define MPI_H
#endif
#include "common.h"
#include <mana.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static pthread_mutex_t shared = PTHREAD_MUTEX_INITIALIZER;
static volatile long counts[4];
static long guarded, seen_by_callback;
static const char *stuck;

/* The pattern of pthread_atfork: taken before, given back after, both on one thread. */
static void before(int event, void *data)
{
    CHECK(event == MANA_EVENT_CHECKPOINT && data == &guarded, "event %d", event);
    CHECK(mana_hold("never") == MANA_ERR_BUSY, "a callback may hold");
    CHECK(mana_checkpoint(0, MANA_WAIT) == MANA_ERR_BUSY, "a callback may ask");
    if (strcmp(stuck, "callback") == 0) pause();
#ifndef ALONE
    if (strcmp(stuck, "mpi") == 0) MPI_Barrier(MPI_COMM_WORLD);
#endif
    pthread_mutex_lock(&shared);
    seen_by_callback = guarded;
    counts[event]++;
}

static void after(int event, void *data)
{
    CHECK(data == NULL, "data");
    CHECK(guarded == seen_by_callback, "changed from %ld to %ld while locked", seen_by_callback, guarded);
    counts[event]++;
    pthread_mutex_unlock(&shared);
}

static uint64_t steps(int from, int to, long pause)
{
    uint64_t hash = 0;
    for (int step = from; step < to; step++) {
        uint64_t mine = mix((uint64_t)(step * 1000 + world_rank)), sum = 0;
        MPI_Allreduce(&mine, &sum, 1, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
        hash = fold(hash, sum);
        pthread_mutex_lock(&shared);
        guarded++;
        pthread_mutex_unlock(&shared);
        pause_ms(pause);
    }
    return hash;
}

/* While it is held there is no checkpoint, although one is wanted. */
static void critical_section(void)
{
    CHECK(mana_hold("outer") == 0 && mana_hold(NULL) == 0, "hold");
    CHECK(mana_checkpoint(MANA_LEVEL_LOCAL, 0) == MANA_REQUESTED, "request");
    pause_ms(200);
    CHECK(counts[MANA_EVENT_CHECKPOINT] == 0, "a checkpoint while held");
    CHECK(mana_release() == 0, "release");
    pause_ms(200);
    CHECK(counts[MANA_EVENT_CHECKPOINT] == 0, "a checkpoint while held once");
    CHECK(mana_release() == 0, "release");
    CHECK(mana_release() == MANA_ERR_ARGUMENT, "one release too many");
}

int main(int argc, char **argv)
{
    CHECK(mana_checkpoint(0, MANA_WAIT) < 0 || mana_running(), "not running");
#ifndef ALONE
    CHECK(!mana_running() || mana_checkpoint(0, 0) == MANA_ERR_CLOSED, "before MPI_Init");
#endif
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &world_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world_size);
    stuck = text_option(argc, argv, "--stuck", "");
    long page = sysconf(_SC_PAGESIZE), pause = option(argc, argv, "--pause", 0);
    char *scratch = mmap(NULL, (size_t)(8 * page), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(scratch, 7, (size_t)(8 * page));
    uint64_t hash = steps(0, 3, pause);

    if (mana_running()) {
        CHECK(mana_restarts() == 0, "restarts");
        CHECK(mana_on(9, before, NULL) == MANA_ERR_ARGUMENT, "event 9");
        CHECK(mana_on(MANA_EVENT_CHECKPOINT, before, &guarded) == 0, "on");
        CHECK(mana_on(MANA_EVENT_CONTINUED, after, NULL) == 0, "on");
        CHECK(mana_on(MANA_EVENT_RESTARTED, after, NULL) == 0, "on");
        CHECK(mana_exclude(scratch + 10, (size_t)(4 * page)) == 0, "exclude");
        CHECK(mana_exclude(scratch, 10) == MANA_ERR_ARGUMENT, "no whole page");
        CHECK(mana_include(scratch + page, (size_t)page) == MANA_ERR_ARGUMENT, "never excluded");
        CHECK(mana_publish("phase", "before \"it\"") == 0, "publish");
        CHECK(mana_publish("", "x") == MANA_ERR_ARGUMENT, "no key");
        pid_t child = fork();
        if (child == 0) _exit(mana_running() || mana_checkpoint(0, 0) != MANA_ERR_NOT_RUNNING);
        int status = 1;
        CHECK(waitpid(child, &status, 0) == child && status == 0, "a child is not under control: %d", status);
        if (strcmp(stuck, "hold") == 0) {
            mana_hold("the output of step 3");
            fprintf(stderr, "held\n");
            for (;;) pause_ms(1000);
        }
        if (strcmp(stuck, "publish") == 0) {
            fprintf(stderr, "publishing\n");
            for (;;) {
                mana_publish("step", "another");
                pause_ms(50);
            }
        }
        if (!*stuck) {
            /* One that holds while it waits would wait for itself: all are told. */
            int holds = world_rank == world_size / 2;
            if (holds) mana_hold("by mistake");
            CHECK(mana_checkpoint(MANA_LEVEL_LOCAL, MANA_WAIT) == MANA_ERR_BUSY, "wait while held");
            if (holds) mana_release();
            CHECK(mana_checkpoint(99, MANA_WAIT) == MANA_ERR_ARGUMENT, "level 99");
            if (world_rank == 0) critical_section();
        }
        if (world_rank == world_size - 1) pause_ms(300); /* the others wait for it */
        int result = mana_checkpoint(MANA_LEVEL_HIGHEST, MANA_WAIT);
        fprintf(stderr, "rank %d: checkpoint %s, events %ld %ld %ld\n", world_rank,
                result == MANA_CONTINUED ? "continued" : result == MANA_RESUMED ? "resumed" : "failed",
                counts[MANA_EVENT_CHECKPOINT], counts[MANA_EVENT_CONTINUED], counts[MANA_EVENT_RESTARTED]);
        int resumed = result == MANA_RESUMED;
        if (*stuck && result == MANA_ERR_FAILED) return finish(hash);
        CHECK(result > 0, "result %d", result);
        CHECK(resumed == mana_restarts(), "%d restarts", mana_restarts());
        CHECK(counts[MANA_EVENT_RESTARTED] == resumed, "%ld restarted", counts[MANA_EVENT_RESTARTED]);
        CHECK(counts[MANA_EVENT_CHECKPOINT] == counts[MANA_EVENT_CONTINUED] + resumed, "an event was lost");
        for (long i = 0; i < 8 * page; i++) {
            int zero = resumed && i >= page && i < 4 * page;
            CHECK(scratch[i] == (zero ? 0 : 7), "byte %ld is %d", i, scratch[i]);
        }
        CHECK(mana_include(scratch + 10, (size_t)(4 * page)) == 0, "include");
        mana_publish("phase", "after it");
        if (!resumed && option(argc, argv, "--die", 0)) {
            MPI_Barrier(MPI_COMM_WORLD); /* the launcher kills the others: they have said what they have to say */
            if (world_rank == world_size - 1) raise(SIGKILL);
        }
    }
    hash = fold(hash, steps(3, 10, pause));
    return finish(hash);
}
