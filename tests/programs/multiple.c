/* MPI_THREAD_MULTIPLE: several threads inside MPI at once, each with its own communicator and all on a shared one, in
 * blocking and non-blocking calls, probes, collectives and one-sided operations: on a window of the thread's own, and on
 * one of all threads in an epoch that lasts from beginning to end. Some are asleep. With --init by MPI_Init, whose level the
 * user has given the library.
 *   multiple [--rounds N] [--pause MS] [--threads N] [--init 1] */
#include "common.h"

#include <pthread.h>

enum { LARGEST = 20000, THREADS = 8, CELLS = 4 };

static MPI_Comm shared, own[THREADS];
static MPI_Win all, windows[THREADS];
static uint64_t *all_memory, *memory[THREADS]; /* of the shared window: CELLS of each thread, then one of all */
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

/* One-sided operations: thread `me` of each rank on the cells of thread `me` of the right neighbour. */
static uint64_t one_sided(int me, long round)
{
    int right = (world_rank + 1) % world_size, left = (world_rank + world_size - 1) % world_size;
    static const uint64_t one = 1;
    uint64_t mark = fold((uint64_t)(round * 100 + me), (uint64_t)world_rank), theirs = fold((uint64_t)(round * 100 + me), (uint64_t)left);
    uint64_t old, got, count;
    MPI_Request request;
    MPI_Fetch_and_op(&one, &old, MPI_UINT64_T, right, me * CELLS, MPI_SUM, all);
    MPI_Put(&mark, 1, MPI_UINT64_T, right, me * CELLS + 1, 1, MPI_UINT64_T, all);
    MPI_Accumulate(&one, 1, MPI_UINT64_T, right, THREADS * CELLS, 1, MPI_UINT64_T, MPI_SUM, all);
    MPI_Raccumulate(&mark, 1, MPI_UINT64_T, right, me * CELLS + 2, 1, MPI_UINT64_T, MPI_SUM, all, &request);
    if (round % 16 == 2 * me) pause_ms(pause_of_round);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    MPI_Win_flush(right, all);
    CHECK(old == (uint64_t)round, "thread %d, round %ld: %lu additions", me, round, (unsigned long)old);
    MPI_Rget(&got, 1, MPI_UINT64_T, right, me * CELLS + 1, 1, MPI_UINT64_T, all, &request);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    CHECK(got == mark, "thread %d, round %ld: a mark", me, round);
    if (round % 4 == 0) {
        MPI_Win_fence(0, windows[me]);
        MPI_Put(&mark, 1, MPI_UINT64_T, right, 0, 1, MPI_UINT64_T, windows[me]);
        if (round % 16 == 4 * me) pause_ms(pause_of_round);
        MPI_Win_fence(0, windows[me]);
        CHECK(memory[me][0] == theirs, "thread %d, round %ld: between fences", me, round);
        MPI_Win_fence(MPI_MODE_NOSUCCEED, windows[me]);
    } else if (round % 4 == 1) {
        MPI_Win_lock(MPI_LOCK_EXCLUSIVE, 0, 0, windows[me]);
        MPI_Get(&count, 1, MPI_UINT64_T, 0, 1, 1, MPI_UINT64_T, windows[me]);
        MPI_Win_flush(0, windows[me]);
        count++;
        MPI_Put(&count, 1, MPI_UINT64_T, 0, 1, 1, MPI_UINT64_T, windows[me]);
        MPI_Win_unlock(0, windows[me]);
    }
    return got;
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
        hash = fold(hash, one_sided(me, round));
        if (round % 8 == me) pause_ms(pause_of_round);
    }
    hashes[me] = hash;
    free(out), free(in);
    return NULL;
}

int main(int argc, char **argv)
{
    int provided;
    if (option(argc, argv, "--init", 0)) MPI_Init(&argc, &argv), MPI_Query_thread(&provided);
    else MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &world_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world_size);
    CHECK(provided == MPI_THREAD_MULTIPLE, "thread level %d", provided);
    rounds = option(argc, argv, "--rounds", 200), pause_of_round = option(argc, argv, "--pause", 30);
    int threads = (int)option(argc, argv, "--threads", 3);
    CHECK(threads > 0 && threads <= THREADS, "1 to %d threads", THREADS);
    MPI_Comm_dup(MPI_COMM_WORLD, &shared);
    size_t cells = THREADS * CELLS + 1;
    all_memory = calloc(cells, sizeof *all_memory);
    MPI_Win_create(all_memory, (MPI_Aint)(cells * 8), 8, MPI_INFO_NULL, MPI_COMM_WORLD, &all);
    for (int i = 0; i < threads; i++) {
        MPI_Comm_dup(MPI_COMM_WORLD, &own[i]);
        MPI_Win_allocate(CELLS * 8, 8, MPI_INFO_NULL, own[i], &memory[i], &windows[i]);
        memset(memory[i], 0, CELLS * 8);
    }
    MPI_Win_lock_all(0, all);
    MPI_Barrier(MPI_COMM_WORLD);
    pthread_t others[THREADS];
    for (int i = 1; i < threads; i++) pthread_create(&others[i], NULL, work, (void *)(intptr_t)i);
    work((void *)(intptr_t)0);
    uint64_t hash = 0;
    for (int i = 0; i < threads; i++) {
        if (i) pthread_join(others[i], NULL);
        hash = fold(hash, hashes[i]);
    }
    MPI_Win_flush_all(all);
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_Win_sync(all);
    CHECK(all_memory[THREADS * CELLS] == (uint64_t)(rounds * threads), "%lu additions of all threads",
          (unsigned long)all_memory[THREADS * CELLS]);
    hash = fold(hash, hash_bytes(all_memory, cells * 8));
    MPI_Win_unlock_all(all);
    MPI_Win_free(&all);
    for (int i = 0; i < threads; i++) {
        uint64_t counted = (uint64_t)((rounds + 2) / 4 * world_size);
        MPI_Barrier(own[i]);
        CHECK(world_rank != 0 || memory[i][1] == counted, "%lu, not %lu, counted under locks", (unsigned long)memory[i][1],
              (unsigned long)counted);
        MPI_Win_free(&windows[i]);
        MPI_Comm_free(&own[i]);
    }
    free(all_memory);
    MPI_Comm_free(&shared);
    return finish(hash);
}
