/* The program ./app of the guide: collectives and messages with pauses, until there is a file "hurry" in its directory
 * or some minutes are over. Its result is the same either way, and on any number of ranks. */
#include <mpi.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    int rank, size, mine, left;
    unsigned result = 1;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    for (int round = 0; round < 3000; round++) {
        mine = round % 97;
        MPI_Sendrecv(&mine, 1, MPI_INT, (rank + 1) % size, 1, &left, 1, MPI_INT, (rank + size - 1) % size, 1,
                     MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        MPI_Allreduce(MPI_IN_PLACE, &left, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
        result = result * 31 + (unsigned)left;
        if (access("hurry", F_OK) != 0) {
            struct timespec pause = {0, 100000000};
            nanosleep(&pause, NULL);
        }
    }
    if (rank == 0) printf("RESULT %u\n", result);
    MPI_Finalize();
    return 0;
}
