/* Ranks at different collectives of overlapping communicators, some of them in long computation.
 *   skew [--rounds N] [--pause MS]
 * Communicator i joins ranks i and i+1 of a ring. A round performs a different number of collectives on each, the
 * root of a broadcast runs ahead, and non-blocking ones stay open over the next round. */
#include "common.h"

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 150), pause = option(argc, argv, "--pause", 15);
    MPI_Comm pair[2] = {MPI_COMM_NULL, MPI_COMM_NULL}; /* with the right neighbour, with the left one */
    MPI_Comm ring;
    MPI_Comm_dup(MPI_COMM_WORLD, &ring);
    for (int i = 0; i < world_size; i++) {
        int right = (i + 1) % world_size, member = world_rank == i || world_rank == right;
        MPI_Comm made;
        MPI_Comm_split(MPI_COMM_WORLD, member ? 0 : MPI_UNDEFINED, world_rank == i ? 0 : 1, &made);
        if (world_rank == i) pair[0] = made;
        else if (member) pair[1] = made;
    }
    uint64_t hash = 0, open_in = 0, open_out = 0;
    MPI_Request open = MPI_REQUEST_NULL;

    for (long round = 0; round < rounds; round++) {
        if ((round + world_rank) % 4 == 0) pause_ms(pause);
        if (open != MPI_REQUEST_NULL) {
            MPI_Wait(&open, MPI_STATUS_IGNORE);
            hash = fold(hash, open_out);
        }
        open_in = fold((uint64_t)round, (uint64_t)world_rank);
        MPI_Iallreduce(&open_in, &open_out, 1, MPI_UINT64_T, MPI_SUM, ring, &open);
        /* Even ranks go right first, odd ones left first; with an odd ring the last pair waits its turn. */
        for (int step = 0; step < 2; step++) {
            int side = (world_rank + step) % 2;
            if (world_size % 2 && world_rank == world_size - 1) side = 1 - step;
            if (pair[side] == MPI_COMM_NULL) continue;
            int left = side == 0 ? world_rank : (world_rank + world_size - 1) % world_size;
            for (int i = 0; i <= (round + left) % 3; i++) {
                uint64_t word = fold((uint64_t)round * 3 + (uint64_t)i, (uint64_t)left);
                uint64_t got = side == 0 ? word : 0;
                MPI_Bcast(&got, 1, MPI_UINT64_T, 0, pair[side]);
                CHECK(got == word, "round %ld: wrong word on the pair of %d", round, left);
                hash = fold(hash, got);
            }
            if (round % 5 == left % 5) MPI_Barrier(pair[side]);
        }
    }
    MPI_Wait(&open, MPI_STATUS_IGNORE);
    hash = fold(hash, open_out);
    MPI_Comm_free(&ring);
    /* In the order of the round: freeing may wait for the other member. */
    for (int step = 0; step < 2; step++) {
        int side = (world_rank + step) % 2;
        if (world_size % 2 && world_rank == world_size - 1) side = 1 - step;
        if (pair[side] != MPI_COMM_NULL) MPI_Comm_free(&pair[side]);
    }
    return finish(hash);
}
