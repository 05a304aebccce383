/* Neighbours exchange messages of growing sizes and check every byte.
 *   pingpong [--rounds N] [--pause MS] */
#include "common.h"

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 200), pause = option(argc, argv, "--pause", 20);
    static const int sizes[] = {0, 1, 8, 100, 1024, 4096, 12000, 65536, 300000};
    char *out = malloc(300000), *in = malloc(300000);
    uint64_t hash = 0;
    int peer = world_rank ^ 1;

    for (long round = 0; round < rounds && peer < world_size; round++) {
        int size = sizes[round % (long)(sizeof sizes / sizeof *sizes)], count = -1;
        MPI_Status status;
        if (world_rank < peer) {
            fill(out, (size_t)size, (uint64_t)round);
            MPI_Send(out, size, MPI_BYTE, peer, (int)(round % 1000), MPI_COMM_WORLD);
            MPI_Recv(in, 300000, MPI_BYTE, peer, (int)(round % 1000), MPI_COMM_WORLD, &status);
        } else {
            MPI_Recv(in, 300000, MPI_BYTE, peer, (int)(round % 1000), MPI_COMM_WORLD, &status);
            memcpy(out, in, (size_t)size);
            MPI_Send(out, size, MPI_BYTE, peer, (int)(round % 1000), MPI_COMM_WORLD);
        }
        MPI_Get_count(&status, MPI_BYTE, &count);
        CHECK(count == size, "round %ld: %d bytes came, %d expected", round, count, size);
        CHECK(memcmp(in, out, (size_t)size) == 0, "round %ld: another content came", round);
        hash = fold(hash, hash_bytes(in, (size_t)size));
        pause_ms(pause);
    }
    free(out);
    free(in);
    return finish(hash);
}
