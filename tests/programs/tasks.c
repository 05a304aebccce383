/* OpenMP tasks that call MPI, each on whatever thread of the team takes it: sends, receives, tests, a collective and a
 * one-sided operation, in tasks that depend on each other; some sleep, inside a task, when a checkpoint comes.
 *   tasks [--rounds N] [--pause MS] [--threads N] */
#include "common.h"

#include <omp.h>

enum { TASKS = 8, WORDS = 3000 };

int main(int argc, char **argv)
{
    int provided;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &world_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world_size);
    CHECK(provided == MPI_THREAD_MULTIPLE, "thread level %d", provided);
    long rounds = option(argc, argv, "--rounds", 80), pause = option(argc, argv, "--pause", 30);
    int right = (world_rank + 1) % world_size, left = (world_rank + world_size - 1) % world_size;
    static uint64_t out[TASKS][WORDS], in[TASKS][WORDS], hashes[TASKS], sum, mine, counter;
    static MPI_Request sends[TASKS];
    uint64_t hash = 0;
    MPI_Comm comm, reductions;
    MPI_Win window;
    MPI_Comm_dup(MPI_COMM_WORLD, &comm);
    MPI_Comm_dup(MPI_COMM_WORLD, &reductions);
    MPI_Win_create(&counter, sizeof counter, 8, MPI_INFO_NULL, MPI_COMM_WORLD, &window);
    MPI_Win_lock_all(0, window);
    omp_set_dynamic(0);
    omp_set_num_threads((int)option(argc, argv, "--threads", 3));

#pragma omp parallel
    for (long round = 0; round < rounds; round++) {
#pragma omp single
        {
            int asleep = (int)(round % (TASKS * 2)), tag = (int)(round % 2) * TASKS;
            /* No sender waits for a receiver: whatever order the threads take them in, all are sent. */
            for (int i = 0; i < TASKS; i++) {
#pragma omp task firstprivate(i) depend(out : out[i])
                for (int k = 0; k < WORDS; k++) out[i][k] = fold(fold(hash, (uint64_t)(world_rank * TASKS + i)), (uint64_t)k);
#pragma omp task firstprivate(i) depend(in : out[i])
                {
                    int words = WORDS - i * 300 - (int)(round % 100);
                    if (i % 2) MPI_Isend(out[i], words, MPI_UINT64_T, right, tag + i, comm, &sends[i]);
                    else MPI_Issend(out[i], words, MPI_UINT64_T, right, tag + i, comm, &sends[i]);
                }
            }
#pragma omp task
            {
                static const uint64_t one = 1;
                MPI_Accumulate(&one, 1, MPI_UINT64_T, right, 0, 1, MPI_UINT64_T, MPI_SUM, window);
                MPI_Win_flush(right, window);
            }
#pragma omp taskwait
            for (int i = 0; i < TASKS; i++) {
#pragma omp task firstprivate(i)
                {
                    MPI_Status status;
                    int count, done = 0;
                    if (i == asleep) pause_ms(pause);
                    if (i % 3 == 0) {
                        MPI_Recv(in[i], WORDS, MPI_UINT64_T, left, tag + i, comm, &status);
                    } else {
                        MPI_Request request;
                        MPI_Irecv(in[i], WORDS, MPI_UINT64_T, i % 3 == 1 ? left : MPI_ANY_SOURCE, tag + i, comm, &request);
                        while (!done) {
                            MPI_Test(&request, &done, &status);
                            if (!done) {
#pragma omp taskyield
                            }
                        }
                    }
                    MPI_Get_count(&status, MPI_UINT64_T, &count);
                    CHECK(count == WORDS - i * 300 - (int)(round % 100) && status.MPI_SOURCE == left, "task %d: %d words", i, count);
                    CHECK(in[i][count - 1] == fold(fold(hash, (uint64_t)(left * TASKS + i)), (uint64_t)count - 1), "task %d: content", i);
                    hashes[i] = hash_bytes(in[i], (size_t)count * 8);
                }
            }
#pragma omp task
            {
                mine = (uint64_t)(round * world_size + world_rank);
                if (asleep == TASKS + 1) pause_ms(pause);
                MPI_Allreduce(&mine, &sum, 1, MPI_UINT64_T, MPI_SUM, reductions);
            }
#pragma omp taskwait
            MPI_Waitall(TASKS, sends, MPI_STATUSES_IGNORE);
            /* Every rank must start the next round with the same number. */
            uint64_t folded = sum;
            for (int i = 0; i < TASKS; i++) folded = fold(folded, hashes[i]);
            MPI_Allreduce(&folded, &hash, 1, MPI_UINT64_T, MPI_BXOR, comm);
            hash = fold(hash, (uint64_t)round);
        }
    }
    MPI_Win_flush_all(window);
    MPI_Barrier(comm);
    MPI_Win_sync(window);
    CHECK(counter == (uint64_t)rounds, "%lu additions", (unsigned long)counter);
    MPI_Win_unlock_all(window);
    MPI_Win_free(&window);
    MPI_Comm_free(&comm), MPI_Comm_free(&reductions);
    return finish(hash);
}
