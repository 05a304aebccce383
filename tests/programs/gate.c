/* The deadlock of a gate that holds a message somebody needs.
 *   gate [--rounds N] [--pause MS]      (3 ranks take part)
 * Rank 0 starts a barrier on {0,1}, then sends to rank 2. Rank 2 needs that message before its reduction on {1,2},
 * in which rank 1 waits already; only then does rank 1 join the barrier. A safe point that stops rank 0 before the
 * barrier while rank 1 is inside the reduction never comes, unless a gate is opened. */
#include "common.h"

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 150), pause = option(argc, argv, "--pause", 30);
    CHECK(world_size >= 3, "needs 3 ranks, has %d", world_size);
    MPI_Comm first, second;
    MPI_Comm_split(MPI_COMM_WORLD, world_rank <= 1 ? 0 : MPI_UNDEFINED, world_rank, &first);
    MPI_Comm_split(MPI_COMM_WORLD, world_rank == 1 || world_rank == 2 ? 0 : MPI_UNDEFINED, world_rank, &second);
    uint64_t hash = 0;

    for (long round = 0; round < rounds; round++) {
        uint64_t word = fold((uint64_t)round, (uint64_t)world_rank), other = 0;
        MPI_Request request;
        switch (world_rank) {
        case 0:
            pause_ms(pause); /* a checkpoint finds rank 0 here, nearly always */
            MPI_Ibarrier(first, &request);
            MPI_Send(&word, 1, MPI_UINT64_T, 2, 1, MPI_COMM_WORLD);
            MPI_Wait(&request, MPI_STATUS_IGNORE);
            break;
        case 1:
            MPI_Allreduce(&word, &other, 1, MPI_UINT64_T, MPI_SUM, second);
            MPI_Ibarrier(first, &request);
            MPI_Wait(&request, MPI_STATUS_IGNORE);
            break;
        case 2:
            MPI_Recv(&other, 1, MPI_UINT64_T, 0, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            CHECK(other == fold((uint64_t)round, 0), "round %ld: another message", round);
            MPI_Allreduce(&word, &other, 1, MPI_UINT64_T, MPI_SUM, second);
            break;
        default: break;
        }
        if (world_rank == 1 || world_rank == 2)
            CHECK(other == fold((uint64_t)round, 1) + fold((uint64_t)round, 2), "round %ld: wrong sum", round);
        hash = fold(hash, other);
    }
    if (first != MPI_COMM_NULL) MPI_Comm_free(&first);
    if (second != MPI_COMM_NULL) MPI_Comm_free(&second);
    return finish(hash);
}
