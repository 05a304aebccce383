/* MPI_THREAD_MULTIPLE: several threads inside MPI at once, each with its own communicator and all on a shared one, in
 * blocking and non-blocking calls, probes and collectives; some asleep.
 *   multiple [--rounds N] [--pause MS] [--threads N] */
#include "common.h"

#include <pthread.h>

enum { LARGEST = 20000, THREADS = 8 };

static MPI_Comm shared, own[THREADS];
static long rounds, pause_of_round;
static uint64_t hashes[THREADS];

/* A ring on the thread's own communicator: every way to send and receive in turns. */
static uint64_t ring(MPI_Comm comm, long round, uint64_t *out, uint64_t *in, int words)
{
    int right = (world_rank + 1) % world_size, left = (world_rank + world_size - 1) % world_size, tag = (int)round % 100;
    MPI_Request requests[2];
    MPI_Status status;
    int count;
    switch (round % 4) {
    case 0:
        MPI_Sendrecv(out, words, MPI_UINT64_T, right, tag, in, words, MPI_UINT64_T, left, tag, comm, &status);
        break;
    case 1:
        MPI_Irecv(in, words, MPI_UINT64_T, MPI_ANY_SOURCE, tag, comm, &requests[0]);
        MPI_Isend(out, words, MPI_UINT64_T, right, tag, comm, &requests[1]);
        MPI_Waitall(2, requests, MPI_STATUSES_IGNORE);
        break;
    case 2:
        MPI_Isend(out, words, MPI_UINT64_T, right, tag, comm, &requests[0]);
        MPI_Probe(left, tag, comm, &status);
        MPI_Get_count(&status, MPI_UINT64_T, &count);
        CHECK(count == words, "%d words announced, %d expected", count, words);
        MPI_Recv(in, words, MPI_UINT64_T, left, tag, comm, MPI_STATUS_IGNORE);
        MPI_Wait(&requests[0], MPI_STATUS_IGNORE);
        break;
    default: {
        MPI_Message message;
        MPI_Issend(out, words, MPI_UINT64_T, right, tag, comm, &requests[0]);
        MPI_Mprobe(MPI_ANY_SOURCE, tag, comm, &message, &status);
        MPI_Mrecv(in, words, MPI_UINT64_T, &message, MPI_STATUS_IGNORE);
        for (int done = 0; !done;) MPI_Test(&requests[0], &done, MPI_STATUS_IGNORE);
    }
    }
    return hash_bytes(in, (size_t)words * sizeof *in);
}

static void *work(void *argument)
{
    int me = (int)(intptr_t)argument;
    uint64_t *out = malloc(LARGEST * sizeof *out), *in = malloc(LARGEST * sizeof *in);
    uint64_t hash = (uint64_t)me, sum;
    struct random plan = {(uint64_t)me};
    for (long round = 0; round < rounds; round++) {
        int words = 1 + (int)below(&plan, below(&plan, 4) ? 50 : LARGEST - 1);
        for (int i = 0; i < words; i++) out[i] = fold(hash, (uint64_t)i);
        hash = fold(hash, ring(own[me], round, out, in, words));
        uint64_t word = hash;
        MPI_Allreduce(&word, &sum, 1, MPI_UINT64_T, MPI_SUM, own[me]);
        hash = fold(hash, sum);
        /* All threads of all ranks on one communicator, told apart by the tag. */
        MPI_Sendrecv_replace(&hash, 1, MPI_UINT64_T, (world_rank + 1) % world_size, me,
                             (world_rank + world_size - 1) % world_size, me, shared, MPI_STATUS_IGNORE);
        if (round % 8 == me) pause_ms(pause_of_round);
    }
    hashes[me] = hash;
    free(out), free(in);
    return NULL;
}

int main(int argc, char **argv)
{
    int provided;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &world_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world_size);
    CHECK(provided == MPI_THREAD_MULTIPLE, "thread level %d", provided);
    rounds = option(argc, argv, "--rounds", 200), pause_of_round = option(argc, argv, "--pause", 30);
    int threads = (int)option(argc, argv, "--threads", 3);
    CHECK(threads > 0 && threads <= THREADS, "1 to %d threads", THREADS);
    MPI_Comm_dup(MPI_COMM_WORLD, &shared);
    for (int i = 0; i < threads; i++) MPI_Comm_dup(MPI_COMM_WORLD, &own[i]);
    pthread_t others[THREADS];
    for (int i = 1; i < threads; i++) pthread_create(&others[i], NULL, work, (void *)(intptr_t)i);
    work((void *)(intptr_t)0);
    uint64_t hash = 0;
    for (int i = 0; i < threads; i++) {
        if (i) pthread_join(others[i], NULL);
        hash = fold(hash, hashes[i]);
        MPI_Comm_free(&own[i]);
    }
    MPI_Comm_free(&shared);
    return finish(hash);
}
