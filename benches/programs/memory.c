/* Memory of a given size for the cost of a checkpoint: touched, changed a little all the time, checked at the end.
 *   memory [--mib N] [--seconds S]
 * Prints `PAUSE <ms>`: the longest time rank 0 saw between two of its steps of about 100 us. */
#include "common.h"

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long mib = option(argc, argv, "--mib", 64), seconds = option(argc, argv, "--seconds", 10);
    size_t words = (size_t)mib << 17;
    uint64_t *memory = malloc(words * sizeof *memory), state = (uint64_t)world_rank, sum = 0;
    for (size_t i = 0; i < words; i++) memory[i] = state = mix(state); /* does not compress, no two pages alike */
    MPI_Barrier(MPI_COMM_WORLD);

    double begin = MPI_Wtime(), last = begin, longest = 0, now = begin;
    size_t place = 0, touched = 0;
    while (now - begin < (double)seconds) {
        for (int i = 0; i < 2000; i++) {
            place = (place + 4099) % words;
            memory[place] += 1;
            touched++;
        }
        now = MPI_Wtime();
        if (now - last > longest) longest = now - last;
        last = now;
    }
    state = (uint64_t)world_rank;
    for (size_t i = 0; i < words; i++) sum += memory[i] - (state = mix(state));
    CHECK(sum == touched, "memory lost %lld changes", (long long)(touched - sum));
    double most;
    MPI_Reduce(&longest, &most, 1, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
    if (world_rank == 0) printf("PAUSE %.3f\n", most * 1e3);
    free(memory);
    MPI_Finalize();
    return 0;
}
