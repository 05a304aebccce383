/* The largest tag of the MPI it begins on, which another one may not have.
 *   tags [--posted 1] [--rounds N] [--pause MS] [--until FILE]
 * With --posted a receive with that tag waits from the beginning. Says whether a message with it can be sent. */
#include "common.h"

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 100), pause = option(argc, argv, "--pause", 0);
    int posted = (int)option(argc, argv, "--posted", 0), found = 0, *bound = NULL, word = 0, class = MPI_SUCCESS;
    MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &bound, &found);
    CHECK(found, "no MPI_TAG_UB");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    int tag = *bound;
    MPI_Request request = MPI_REQUEST_NULL;
    if (posted && world_rank == 1) MPI_Irecv(&word, 1, MPI_INT, 0, tag, MPI_COMM_WORLD, &request);
    for (long round = 0; round < rounds; round++) {
        MPI_Barrier(MPI_COMM_WORLD);
        pause_ms(pause);
    }
    if (world_rank == 0) {
        word = 4711;
        MPI_Error_class(MPI_Send(&word, 1, MPI_INT, 1, tag, MPI_COMM_WORLD), &class);
        if (class == MPI_SUCCESS) printf("the tag %d is sent\n", tag);
        else printf("the tag %d is refused: %s\n", tag, class == MPI_ERR_TAG ? "MPI_ERR_TAG" : "another error");
        fflush(stdout);
    }
    MPI_Bcast(&class, 1, MPI_INT, 0, MPI_COMM_WORLD);
    if (world_rank == 1 && class == MPI_SUCCESS) {
        if (!posted) MPI_Irecv(&word, 1, MPI_INT, 0, tag, MPI_COMM_WORLD, &request);
        MPI_Wait(&request, MPI_STATUS_IGNORE);
    }
    return finish((uint64_t)(class == MPI_SUCCESS ? word : 1) * (world_rank < 2));
}
