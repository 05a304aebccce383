/* Ranks that wait: for a message of one that computes, for a message of one that waits, inside a collective.
 *   stall [--hold SECONDS | --held FILE] [--rounds N] [--pause MS]
 * The last rank computes for --hold, or until FILE exists, in the first round, and for --pause in the others. */
#include "common.h"

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long hold = option(argc, argv, "--hold", 0), rounds = option(argc, argv, "--rounds", 3);
    long pause = option(argc, argv, "--pause", 0);
    const char *held = text_option(argc, argv, "--held", NULL);
    int last = world_size - 1, word = 0;
    uint64_t hash = 1;
    for (long round = 0; round < rounds; round++) {
        int token = (int)(round * 1000 + world_rank);
        if (world_rank == last) {
            struct timespec until;
            clock_gettime(CLOCK_MONOTONIC, &until);
            if (round == 0) until.tv_sec += hold;
            while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL)) {}
            while (round == 0 && held && access(held, F_OK) != 0) usleep(20000);
            if (round > 0) pause_ms(pause);
            MPI_Send(&token, 1, MPI_INT, 0, 77, MPI_COMM_WORLD);
        } else if (world_rank == 0) {
            MPI_Recv(&word, 1, MPI_INT, last, 77, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            MPI_Send(&token, 1, MPI_INT, 1, 5, MPI_COMM_WORLD);
        } else if (world_rank == 1) {
            MPI_Request request;
            MPI_Irecv(&word, 1, MPI_INT, 0, 5, MPI_COMM_WORLD, &request);
            MPI_Wait(&request, MPI_STATUS_IGNORE);
        }
        int sum = 0;
        MPI_Allreduce(&word, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
        hash = fold(hash, (uint64_t)sum);
    }
    return finish(hash);
}
