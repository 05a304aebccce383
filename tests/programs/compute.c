/* Long computation between rare collectives: a checkpoint finds the ranks far from any MPI call.
 *   compute [--rounds N] [--millions N] [--least MS]
 * A round takes --least milliseconds: what it computes is computed again until then. */
#include "common.h"

static double seconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 24), millions = option(argc, argv, "--millions", 10);
    double least = (double)option(argc, argv, "--least", 0) / 1000;
    uint64_t hash = (uint64_t)world_rank;
    double value = 0.5 + 0.01 * world_rank; /* floating-point state must survive too: a logistic map forgets nothing */

    for (long round = 0; round < rounds; round++) {
        uint64_t hash_before = hash;
        double value_before = value, begun = seconds();
        do {
            hash = hash_before, value = value_before;
            for (long i = 0; i < millions * 1000000; i++) {
                hash = hash * 6364136223846793005u + 1442695040888963407u;
                value = 3.99 * value * (1 - value);
            }
        } while (seconds() - begun < least);
        uint64_t sum, bits;
        memcpy(&bits, &value, sizeof bits);
        MPI_Allreduce(&hash, &sum, 1, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
        hash = fold(fold(hash, bits), sum);
    }
    return finish(hash);
}
