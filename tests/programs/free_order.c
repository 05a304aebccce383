/* Communicators freed in an order that differs between their members: MPI's own libraries free without waiting, so
 * programs do this and end; a library in between must not wait for the other members either.
 *   free_order [--rounds N] [--pause MS] */
#include "common.h"

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 100), pause = option(argc, argv, "--pause", 30);
    uint64_t hash = 0;
    for (long round = 0; round < rounds; round++) {
        MPI_Comm pair[2] = {MPI_COMM_NULL, MPI_COMM_NULL}; /* with the right neighbour, with the left one */
        for (int i = 0; i < world_size; i++) {
            int right = (i + 1) % world_size, member = world_rank == i || world_rank == right;
            MPI_Comm made;
            MPI_Comm_split(MPI_COMM_WORLD, member ? 0 : MPI_UNDEFINED, world_rank == i ? 0 : 1, &made);
            if (world_rank == i) pair[0] = made;
            else if (member) pair[1] = made;
        }
        /* Every rank frees the one with its right neighbour first: a circle. */
        for (int side = 0; side < 2; side++)
            if (pair[side] != MPI_COMM_NULL) MPI_Comm_free(&pair[side]);
        hash = fold(hash, (uint64_t)round);
        pause_ms(pause);
    }
    return finish(hash);
}
