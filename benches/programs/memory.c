/* Memory of a given size for the cost of a checkpoint: touched, changed a little all the time, checked at the end.
 *   memory [--mib N] [--seconds S]
 * Each rank prints `STEP <ms>` at every step (of about 100 us) that took longer than all before it and than 2 ms. */
#include "common.h"

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long mib = option(argc, argv, "--mib", 64), seconds = option(argc, argv, "--seconds", 10);
    size_t words = (size_t)mib << 17;
    uint64_t *memory = malloc(words * sizeof *memory), state = (uint64_t)world_rank, sum = 0;
    for (size_t i = 0; i < words; i++) memory[i] = state = mix(state); /* does not compress, no two pages alike */
    MPI_Barrier(MPI_COMM_WORLD);

    double begin = MPI_Wtime(), last = begin, longest = 2e-3, now = begin;
    size_t place = 0, touched = 0;
    while (now - begin < (double)seconds) {
        for (int i = 0; i < 2000; i++) {
            place = (place + 4099) % words;
            memory[place] += 1;
            touched++;
        }
        now = MPI_Wtime();
        if (now - last > longest) {
            longest = now - last;
            printf("STEP %.3f\n", longest * 1e3);
            fflush(stdout);
            now = MPI_Wtime();
        }
        last = now;
    }
    state = (uint64_t)world_rank;
    for (size_t i = 0; i < words; i++) sum += memory[i] - (state = mix(state));
    CHECK(sum == touched, "memory lost %lld changes", (long long)(touched - sum));
    free(memory);
    MPI_Finalize();
    return 0;
}
