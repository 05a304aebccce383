/* Non-blocking duplication: it goes on while the program does. One rank begins it and then waits for a message that another
 * one sends before it duplicates; several are under way at once, of intra- and inter-communicators, some over a pause in
 * which a checkpoint may come; attributes and topology are copied at once, messages and collectives go on after the wait.
 *   idup [--rounds N] [--pause MS] */
#include "common.h"

static int copied;

static int copy_attribute(MPI_Comm comm, int key, void *extra, void *value, void *out, int *flag)
{
    (void)comm, (void)key, (void)extra;
    *(intptr_t *)out = (intptr_t)value + 1;
    *flag = 1;
    copied++;
    return MPI_SUCCESS;
}

/* What the duplicate is good for. */
static uint64_t use(MPI_Comm comm, long round)
{
    int right, left, rank, size;
    uint64_t mine, theirs = 0, sum;
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &size);
    right = (rank + 1) % size, left = (rank + size - 1) % size;
    mine = fold((uint64_t)round, (uint64_t)rank);
    MPI_Sendrecv(&mine, 1, MPI_UINT64_T, right, 1, &theirs, 1, MPI_UINT64_T, left, 1, comm, MPI_STATUS_IGNORE);
    CHECK(theirs == fold((uint64_t)round, (uint64_t)left), "round %ld: a message", round);
    MPI_Allreduce(&theirs, &sum, 1, MPI_UINT64_T, MPI_SUM, comm);
    return sum;
}

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 30), pause = option(argc, argv, "--pause", 100);
    CHECK(world_size >= 2, "needs 2 ranks");
    MPI_Comm comm, grid, half, inter;
    int key, flag, dims[1] = {world_size}, periods[1] = {1};
    void *value;
    MPI_Comm_dup(MPI_COMM_WORLD, &comm);
    MPI_Cart_create(comm, 1, dims, periods, 0, &grid);
    MPI_Comm_split(comm, world_rank % 2, world_rank, &half);
    MPI_Intercomm_create(half, 0, comm, 1 - world_rank % 2, 5, &inter);
    MPI_Comm_create_keyval(copy_attribute, MPI_COMM_NULL_DELETE_FN, &key, NULL);
    MPI_Comm_set_attr(comm, key, (void *)(intptr_t)41);
    uint64_t hash = 0;
    for (long round = 0; round < rounds; round++) {
        MPI_Comm made[3];
        MPI_Request requests[3];
        int word = -1, before = copied, topology, other;
        /* This one does not wait for the others, who duplicate after it has gone on. */
        if (world_rank == 0) {
            MPI_Comm_idup(comm, &made[0], &requests[0]);
            CHECK(copied == before + 1, "round %ld: %d attributes copied", round, copied - before);
            word = (int)round;
            for (int rank = 1; rank < world_size; rank++) MPI_Send(&word, 1, MPI_INT, rank, 2, comm);
        } else {
            if (round % 4 == world_rank) pause_ms(pause);
            MPI_Recv(&word, 1, MPI_INT, 0, 2, comm, MPI_STATUS_IGNORE);
            CHECK(word == (int)round, "round %ld: %d", round, word);
            MPI_Comm_idup(comm, &made[0], &requests[0]);
        }
        MPI_Comm_idup(grid, &made[1], &requests[1]);
        MPI_Comm_idup(inter, &made[2], &requests[2]);
        if (round % 4 == 3) pause_ms(pause);
        if (round % 3 == 0) MPI_Waitall(3, requests, MPI_STATUSES_IGNORE);
        else if (round % 3 == 1)
            for (int i = 2; i >= 0; i--) MPI_Wait(&requests[i], MPI_STATUS_IGNORE);
        else
            for (int done = 0, all = 0; all < 3; all += done) {
                int at;
                MPI_Testany(3, requests, &at, &done, MPI_STATUS_IGNORE);
            }
        MPI_Comm_get_attr(made[0], key, &value, &flag);
        CHECK(flag && (intptr_t)value == 42, "round %ld: attribute %ld", round, (long)(intptr_t)value);
        MPI_Topo_test(made[1], &topology);
        CHECK(topology == MPI_CART, "round %ld: topology %d", round, topology);
        MPI_Comm_remote_size(made[2], &other);
        CHECK(other == (world_size + world_rank % 2) / 2, "round %ld: %d on the other side", round, other);
        hash = fold(hash, use(made[0], round));
        hash = fold(hash, use(made[1], round));
        MPI_Comm merged;
        MPI_Intercomm_merge(made[2], world_rank % 2, &merged);
        hash = fold(hash, use(merged, round));
        MPI_Comm_free(&merged);
        for (int i = 0; i < 3; i++) MPI_Comm_free(&made[i]);
    }
    MPI_Comm_free_keyval(&key);
    MPI_Comm_free(&inter);
    MPI_Comm_free(&half);
    MPI_Comm_free(&grid);
    MPI_Comm_free(&comm);
    return finish(hash);
}
