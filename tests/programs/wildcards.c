/* Receives from any source and with any tag, between collectives of every common kind.
 *   wildcards [--rounds N] [--pause MS] [--until FILE]
 * The hash of a round sums the messages' hashes, so the legal order of arrival does not enter it. */
#include "common.h"

enum { LENGTH = 3000 };

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 200), pause = option(argc, argv, "--pause", 20);
    uint64_t hash = 0, *in = malloc(LENGTH * sizeof *in), *out = malloc(LENGTH * sizeof *out);
    uint64_t *all = malloc((size_t)world_size * sizeof *all), *from = malloc((size_t)world_size * sizeof *from);
    MPI_Request *sent = malloc((size_t)world_size * sizeof *sent);

    for (long round = 0; round < rounds; round++) {
        uint64_t sum = 0;
        int length = 1 + (int)(mix((uint64_t)round) % LENGTH);
        fill(out, (size_t)length * sizeof *out, fold((uint64_t)round, (uint64_t)world_rank));
        for (int i = 0; i < world_size; i++)
            MPI_Isend(out, i == world_rank ? 0 : length, MPI_UINT64_T, i, world_rank * 7, MPI_COMM_WORLD, &sent[i]);
        /* Late on purpose on some ranks: the messages wait, unexpected, when a checkpoint comes. */
        if ((round + world_rank) % 3 == 0) pause_ms(pause);
        for (int i = 0; i < world_size; i++) {
            MPI_Status status;
            int count;
            MPI_Recv(in, LENGTH, MPI_UINT64_T, MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &status);
            MPI_Get_count(&status, MPI_UINT64_T, &count);
            CHECK(status.MPI_TAG == status.MPI_SOURCE * 7, "tag %d from %d", status.MPI_TAG, status.MPI_SOURCE);
            CHECK(count == (status.MPI_SOURCE == world_rank ? 0 : length), "%d words from %d", count, status.MPI_SOURCE);
            for (int j = 0; j < count; j++) {
                uint64_t expected;
                if (j == 0) fill(&expected, 8, fold((uint64_t)round, (uint64_t)status.MPI_SOURCE));
                CHECK(j > 0 || in[0] == expected, "round %ld: a message of another round from %d", round, status.MPI_SOURCE);
            }
            sum += fold((uint64_t)status.MPI_SOURCE, hash_bytes(in, (size_t)count * sizeof *in));
        }
        for (int i = 0; i < world_size; i++) MPI_Wait(&sent[i], MPI_STATUS_IGNORE);
        hash = fold(hash, sum);

        uint64_t word = fold(hash, (uint64_t)world_rank), result = 0;
        MPI_Allreduce(&word, &result, 1, MPI_UINT64_T, MPI_BXOR, MPI_COMM_WORLD);
        hash = fold(hash, result);
        MPI_Bcast(&word, 1, MPI_UINT64_T, (int)(round % world_size), MPI_COMM_WORLD);
        hash = fold(hash, word);
        MPI_Allgather(&word, 1, MPI_UINT64_T, all, 1, MPI_UINT64_T, MPI_COMM_WORLD);
        MPI_Alltoall(all, 1, MPI_UINT64_T, from, 1, MPI_UINT64_T, MPI_COMM_WORLD);
        hash = fold(hash, hash_bytes(from, (size_t)world_size * sizeof *from));
        /* No message of the next round may be taken by this round's wildcards. */
        MPI_Barrier(MPI_COMM_WORLD);
        if ((round + world_rank) % 3 == 1) pause_ms(pause);
    }
    free(in), free(out), free(all), free(from), free(sent);
    return finish(hash);
}
