/* MPI_THREAD_SERIALIZED: threads that are in MPI one after the other, handed on by a token, the same order on all ranks. What
 * one thread starts another one waits for; the thread that began MPI is asleep most of the time, and any of them may be
 * the one that is in MPI, or none, when a checkpoint comes.
 *   serialized [--rounds N] [--pause MS] [--threads N] */
#include "common.h"

#include <pthread.h>

enum { THREADS = 8, WORDS = 3000 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t handed_on = PTHREAD_COND_INITIALIZER;
static long turn; /* whose turn it is: this modulo the number of threads */

static long rounds, pause_of_round;
static int threads;
static MPI_Comm comm;
static MPI_Request under_way[3]; /* started in the turn before */
static int started;
static uint64_t out[WORDS], in[WORDS], summed_in, summed, hash;

/* One turn: waits for what the thread before has started, starts something for the next one. */
static void be_in_mpi(long now)
{
    int right = (world_rank + 1) % world_size, left = (world_rank + world_size - 1) % world_size;
    if (started) {
        if (now % 3 == 0) MPI_Waitall(started, under_way, MPI_STATUSES_IGNORE);
        else
            for (int done = 0; done < started;) {
                int at, flag;
                MPI_Testany(started, under_way, &at, &flag, MPI_STATUS_IGNORE);
                done += flag;
            }
        hash = fold(hash, hash_bytes(in, sizeof in));
        hash = fold(hash, summed);
    }
    for (int i = 0; i < WORDS; i++) out[i] = fold(hash, (uint64_t)i);
    summed_in = hash;
    MPI_Irecv(in, WORDS, MPI_UINT64_T, left, 1, comm, &under_way[0]);
    MPI_Isend(out, WORDS, MPI_UINT64_T, right, 1, comm, &under_way[1]);
    MPI_Iallreduce(&summed_in, &summed, 1, MPI_UINT64_T, MPI_SUM, comm, &under_way[2]);
    started = 3;
    if (now % 5 == 0) MPI_Barrier(comm);
    if (now % 7 == 0) {
        MPI_Comm copy;
        uint64_t most;
        MPI_Comm_dup(comm, &copy);
        MPI_Allreduce(&hash, &most, 1, MPI_UINT64_T, MPI_MAX, copy);
        MPI_Comm_free(&copy);
        hash = fold(hash, most);
    }
}

static void *work(void *argument)
{
    long me = (intptr_t)argument;
    for (long round = 0; round < rounds; round++) {
        pthread_mutex_lock(&mutex);
        while (turn % threads != me) pthread_cond_wait(&handed_on, &mutex);
        be_in_mpi(turn);
        /* Some pauses with the token, in which nobody is in MPI. */
        if (round % 6 == me) pause_ms(pause_of_round);
        turn++;
        pthread_cond_broadcast(&handed_on);
        pthread_mutex_unlock(&mutex);
        if (round % 6 == me + 2) pause_ms(pause_of_round);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    int provided;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_SERIALIZED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &world_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world_size);
    CHECK(provided >= MPI_THREAD_SERIALIZED, "thread level %d", provided);
    rounds = option(argc, argv, "--rounds", 60), pause_of_round = option(argc, argv, "--pause", 60);
    threads = (int)option(argc, argv, "--threads", 4);
    CHECK(threads > 1 && threads <= THREADS, "2 to %d threads", THREADS);
    MPI_Comm_dup(MPI_COMM_WORLD, &comm);
    pthread_t others[THREADS];
    for (int i = 1; i < threads; i++) pthread_create(&others[i], NULL, work, (void *)(intptr_t)i);
    work((void *)(intptr_t)0);
    for (int i = 1; i < threads; i++) pthread_join(others[i], NULL);
    MPI_Waitall(started, under_way, MPI_STATUSES_IGNORE);
    MPI_Comm_free(&comm);
    return finish(fold(hash, summed));
}
