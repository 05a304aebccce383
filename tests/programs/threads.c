/* OpenMP and MPI: the team computes, the main thread communicates, some threads sit in a barrier or asleep when a
 * checkpoint comes, each with thread-local state.
 *   threads [--rounds N] [--pause MS] [--threads N] */
#include "common.h"

#include <omp.h>
#include <unistd.h>

static __thread uint64_t own; /* must follow its thread */

int main(int argc, char **argv)
{
    int provided;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &world_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world_size);
    CHECK(provided >= MPI_THREAD_FUNNELED, "thread level %d", provided);
    long rounds = option(argc, argv, "--rounds", 100), pause = option(argc, argv, "--pause", 20);
    int threads = (int)option(argc, argv, "--threads", 3);
    omp_set_num_threads(threads);
    omp_set_dynamic(0);
    enum { CELLS = 60000 };
    uint64_t *cells = malloc(CELLS * sizeof *cells), hash = 0, halo = 0;
    for (int i = 0; i < CELLS; i++) cells[i] = fold((uint64_t)world_rank, (uint64_t)i);

#pragma omp parallel
    {
        own = fold((uint64_t)omp_get_thread_num(), 7);
        uint64_t kept = own; /* in a register or on the thread's stack */
        for (long round = 0; round < rounds; round++) {
#pragma omp for schedule(static)
            for (int i = 0; i < CELLS; i++) cells[i] = fold(cells[i], (uint64_t)round);
#pragma omp master
            {
                uint64_t mine = cells[CELLS - 1], sum;
                int right = (world_rank + 1) % world_size, left = (world_rank + world_size - 1) % world_size;
                MPI_Sendrecv(&mine, 1, MPI_UINT64_T, right, 1, &halo, 1, MPI_UINT64_T, left, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
                MPI_Allreduce(&cells[0], &sum, 1, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
                hash = fold(hash, fold(halo, sum));
                cells[0] ^= halo;
            }
            if (omp_get_thread_num() == 1) pause_ms(pause);
            kept = fold(kept, (uint64_t)round);
            own = fold(own, (uint64_t)round);
#pragma omp barrier
            CHECK(own == kept, "thread %d: its own variable is another's", omp_get_thread_num());
        }
#pragma omp critical
        hash += kept;
    }
    hash = fold(hash, hash_bytes(cells, CELLS * sizeof *cells));
    free(cells);
    return finish(hash);
}
