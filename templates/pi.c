/* An ordinary MPI program to try mana with: it knows nothing of it.
 *
 *   mpicc pi.c -o pi
 *   mpirun -n 2 ./pi [STEPS]        half a second a step, 120 steps unless told otherwise
 *
 * Each step adds a million terms a rank to the Leibniz series; the last line is the same however the job was run. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int main(int argc, char **argv)
{
    const long terms = 1000000;
    int rank, size, steps = argc > 1 ? atoi(argv[1]) : 120;
    double own = 0, all = 0;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    for (int step = 1; step <= steps; step++) {
        long first = ((long)(step - 1) * size + rank) * terms;
        for (long k = first; k < first + terms; k++) own += (k % 2 ? -4.0 : 4.0) / (2.0 * k + 1.0);
        MPI_Allreduce(&own, &all, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
        if (rank == 0) {
            printf("step %d of %d\n", step, steps);
            fflush(stdout);
        }
        struct timespec pause = {0, 500000000};
        nanosleep(&pause, NULL);
    }
    if (rank == 0) printf("pi is about %.15f\n", all);
    MPI_Finalize();
    return 0;
}
