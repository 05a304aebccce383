/* Collectives of more bytes than an int counts, blocking, non-blocking and persistent, on two ranks of 2 GiB each (the library takes
 * as much again; for MPI_Iallgatherv, which is left out, MPICH 4.0.2 takes 12 GiB a rank). With pauses while they are under way.
 *   beyond [--pause MS] [--only KIND] [--all 1]    (the last kind is more than MPICH 4.0.2 can do) */
#include "common.h"

#define B MPI_UINT8_T
static const MPI_Count N = ((MPI_Count)1 << 31) + 5;
static uint8_t *data;
static long pause_of;

static uint8_t byte(int rank, MPI_Count i, int seed) { return (uint8_t)((i >> 3) * 5 + (i >> 29) * 77 + i * 3 + rank * 101 + seed); }

static void set(MPI_Count from, MPI_Count n, int rank, int seed)
{
    for (MPI_Count i = 0; i < n; i++) data[from + i] = byte(rank, i, seed);
}

static uint64_t check(MPI_Count from, MPI_Count n, int rank, int seed, const char *what)
{
    MPI_Count wrong = 0;
    for (MPI_Count i = 0; i < n; i++) wrong += data[from + i] != byte(rank, i, seed);
    CHECK(wrong == 0, "%s: %lld bytes are wrong", what, (long long)wrong);
    return mix((uint64_t)seed + data[from + n - 1]);
}

/* What both ranks had, added or folded. */
static uint64_t check_both(int seed, int folded, const char *what)
{
    MPI_Count wrong = 0;
    for (MPI_Count i = 0; i < N; i++) {
        uint8_t a = byte(0, i, seed), b = byte(1, i, seed);
        wrong += data[i] != (uint8_t)(folded ? a ^ b : a + b);
    }
    CHECK(wrong == 0, "%s: %lld bytes are wrong", what, (long long)wrong);
    return mix((uint64_t)seed + data[N - 1]);
}

static void fuse(void *in, void *inout, MPI_Count *length, MPI_Datatype *type)
{
    CHECK(*type == B, "another datatype");
    for (MPI_Count i = 0; i < *length; i++) ((uint8_t *)inout)[i] ^= ((uint8_t *)in)[i];
}

static const char *only;

static int turn(const char *what) { return !*only || strcmp(only, what) == 0; }

static void complete(MPI_Request *q)
{
    pause_ms(pause_of);
    MPI_Wait(q, MPI_STATUS_IGNORE);
}

int main(int argc, char **argv)
{
    start(&argc, &argv);
    pause_of = option(argc, argv, "--pause", 0), only = text_option(argc, argv, "--only", "");
    CHECK(world_size == 2, "needs 2 ranks");
    data = malloc((size_t)N + 16);
    CHECK(data != NULL, "no memory");
    MPI_Comm comm = MPI_COMM_WORLD;
    int me = world_rank;
    uint64_t hash = 0;
    MPI_Op op;
    MPI_Request q;
    MPI_Op_create_c(fuse, 1, &op);

    MPI_Count three[2] = {3, N}, parts[2] = {N - 2, 2};
    MPI_Count much[2] = {0, me == 0 ? N : 0}, little[2] = {me == 1 ? N : 0, 0};
    MPI_Aint behind[2] = {N, 0}, none[2] = {0, 0};
    MPI_Datatype types[2] = {B, B};
    const char *what;

    if (turn(what = "Allreduce")) {
        set(0, N, me, 1);
        MPI_Allreduce_c(MPI_IN_PLACE, data, N, B, MPI_SUM, comm);
        hash = fold(hash, check_both(1, 0, what));
    }
    if (turn(what = "Iallreduce")) {
        set(0, N, me, 2);
        MPI_Iallreduce_c(MPI_IN_PLACE, data, N, B, op, comm, &q);
        complete(&q);
        hash = fold(hash, check_both(2, 1, what));
    }
    if (turn(what = "Allreduce_init")) {
        MPI_Allreduce_init_c(MPI_IN_PLACE, data, N, B, op, comm, MPI_INFO_NULL, &q);
        set(0, N, me, 3);
        pause_ms(pause_of);
        MPI_Start(&q);
        complete(&q);
        MPI_Request_free(&q);
        hash = fold(hash, check_both(3, 1, what));
    }
    /* The second rank's block is the large one: with arrays on the first one only. */
    if (turn(what = "Gatherv")) {
        set(0, N, me, 4);
        if (me == 0) memmove(data + N, data, 3);
        MPI_Gatherv_c(me == 0 ? MPI_IN_PLACE : data, N, B, data, three, behind, B, 0, comm);
        if (me == 0) check(N, 3, 0, 4, what);
        hash = fold(hash, check(0, N, 1, 4, what));
    }
    if (turn(what = "Iscatterv")) {
        set(0, N, me, 5);
        MPI_Iscatterv_c(data, me == 0 ? three : NULL, me == 0 ? behind : NULL, B, me == 0 ? MPI_IN_PLACE : data, N, B, 0, comm, &q);
        complete(&q);
        hash = fold(hash, check(0, N, 0, 5, what));
    }
    /* All of one to the other, which has nothing for it: with one datatype and with two. */
    if (turn(what = "Alltoallv")) {
        set(0, N, me, 7);
        MPI_Alltoallv_c(data, much, none, B, data, little, none, B, comm);
        hash = fold(hash, check(0, N, 0, 7, what));
    }
    if (turn(what = "Ialltoallw")) {
        set(0, N, me, 8);
        MPI_Ialltoallw_c(data, much, none, types, data, little, none, types, comm, &q);
        complete(&q);
        hash = fold(hash, check(0, N, 0, 8, what));
    }
    /* The two counts have no divisor in common. */
    if (option(argc, argv, "--all", 0) && turn(what = "Ireduce_scatter")) {
        MPI_Count first = me == 0 ? 0 : parts[0], wrong = 0;
        set(0, N, me, 9);
        MPI_Ireduce_scatter_c(MPI_IN_PLACE, data, parts, B, MPI_SUM, comm, &q);
        complete(&q);
        for (MPI_Count i = 0; i < parts[me]; i++) wrong += data[i] != (uint8_t)(byte(0, first + i, 9) + byte(1, first + i, 9));
        CHECK(wrong == 0, "%s: %lld bytes are wrong", what, (long long)wrong);
    }
    MPI_Op_free(&op);
    free(data);
    return finish(hash);
}
