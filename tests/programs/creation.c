/* MPI_THREAD_MULTIPLE: threads that make and free objects at once, each on a communicator of its own, which all ranks
 * meet in another order: inter-communicators, communicators of groups, duplicates, splits, datatypes, and operations that
 * ask for the size of what they are given. Some are asleep.
 *   creation [--rounds N] [--pause MS] [--threads N] */
#include "common.h"

#include <pthread.h>

enum { THREADS = 8, WORDS = 3, TOGETHER = 8 };

/* MPI_Comm_free of Open MPI (4.1.4, 5.0.11) on an inter-communicator whose context ID is lower than that of its local
 * communicator frees what has the ID afterwards once more: what another thread is making at that moment (ompi_comm_free,
 * EXTRA_RETAIN). There they are freed while no thread makes any. */
#ifdef MPICH_VERSION
enum { FREED_WHILE_MADE = 1 };
#else
enum { FREED_WHILE_MADE = 0 };
#endif
static pthread_barrier_t all_threads;
static MPI_Comm kept[THREADS][TOGETHER];

static MPI_Comm own[THREADS];
static long rounds, pause_of_round;
static int threads;
static uint64_t hashes[THREADS];

/* Every thread and round has an operation of another kind; all are commutative. */
#define OPERATION(name, expression)                                                            \
    static void name(void *in, void *inout, int *length, MPI_Datatype *type)                   \
    {                                                                                          \
        int bytes;                                                                             \
        MPI_Type_size(*type, &bytes);                                                          \
        uint64_t *from = in, *to = inout;                                                      \
        for (int i = 0; i < *length * bytes / 8; i++) {                                        \
            uint64_t a = from[i], b = to[i];                                                   \
            to[i] = expression;                                                                \
        }                                                                                      \
    }
OPERATION(sum, a + b)
OPERATION(either, a ^ b)
OPERATION(largest, a > b ? a : b)

static uint64_t reduce(int me, long round, MPI_Comm comm)
{
    static MPI_User_function *const functions[] = {sum, either, largest};
    int which = (int)((me + round) % 3), ranks;
    uint64_t mine[2 * WORDS], out[2 * WORDS], nonblocking[2 * WORDS], hash = 0;
    MPI_Datatype words;
    MPI_Op op;
    MPI_Request request;
    MPI_Comm_size(comm, &ranks);
    MPI_Type_contiguous(WORDS, MPI_UINT64_T, &words);
    MPI_Type_commit(&words);
    MPI_Op_create(functions[which], 1, &op);
    for (int i = 0; i < 2 * WORDS; i++) mine[i] = fold((uint64_t)(round * 64 + me * 8 + i), (uint64_t)world_rank);
    MPI_Iallreduce(mine, nonblocking, 2, words, op, comm, &request);
    MPI_Op another;
    MPI_Op_create(sum, 1, &another);
    MPI_Allreduce(mine, out, 2, words, op, comm);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    MPI_Op_free(&another);
    MPI_Op_free(&op);
    MPI_Type_free(&words);
    for (int i = 0; i < 2 * WORDS; i++) {
        uint64_t expected = 0;
        for (int rank = 0; rank < ranks; rank++) {
            uint64_t theirs = fold((uint64_t)(round * 64 + me * 8 + i), (uint64_t)rank);
            expected = which == 0 ? expected + theirs : which == 1 ? expected ^ theirs : expected > theirs ? expected : theirs;
        }
        CHECK(out[i] == expected, "thread %d, round %ld: a reduction", me, round);
        CHECK(nonblocking[i] == expected, "thread %d, round %ld: a non-blocking reduction", me, round);
        hash = fold(hash, out[i]);
    }
    return hash;
}

/* Both halves of the ranks, joined; a message across; merged again. */
static uint64_t across(int me, long round, MPI_Comm comm)
{
    MPI_Comm half, inter, merged;
    int side = world_rank % 2, ranks, rank, other;
    MPI_Comm_split(comm, side, world_rank, &half);
    MPI_Intercomm_create(half, 0, comm, 1 - side, me, &inter);
    MPI_Comm_remote_size(inter, &other);
    CHECK(other == (world_size + side) / 2, "thread %d, round %ld: %d on the other side", me, round, other);
    uint64_t mine = fold((uint64_t)round, (uint64_t)(me * 2 + side)), theirs = 0;
    MPI_Comm_rank(half, &rank);
    if (rank == 0)
        MPI_Sendrecv(&mine, 1, MPI_UINT64_T, 0, me, &theirs, 1, MPI_UINT64_T, 0, me, inter, MPI_STATUS_IGNORE);
    MPI_Bcast(&theirs, 1, MPI_UINT64_T, 0, half);
    CHECK(theirs == fold((uint64_t)round, (uint64_t)(me * 2 + 1 - side)), "thread %d, round %ld: what came across", me, round);
    if (round % 16 == me) pause_ms(pause_of_round);
    MPI_Intercomm_merge(inter, side, &merged);
    MPI_Comm_size(merged, &ranks);
    CHECK(ranks == world_size, "thread %d, round %ld: %d merged", me, round, ranks);
    MPI_Comm_free(&merged);
    if (FREED_WHILE_MADE)
        MPI_Comm_free(&inter);
    else
        kept[me][round % TOGETHER] = inter;
    MPI_Comm_free(&half);
    return theirs ^ mine;
}

static void of_groups(int me, long round, MPI_Comm comm)
{
    MPI_Group all, first;
    MPI_Comm of_group, of_all, copy;
    int two[2] = {0, 1}, ranks;
    MPI_Comm_group(comm, &all);
    MPI_Group_incl(all, 2, two, &first);
    MPI_Comm_create(comm, first, &of_all);
    CHECK((of_all != MPI_COMM_NULL) == (world_rank < 2), "thread %d, round %ld: MPI_Comm_create", me, round);
    if (world_rank < 2) {
        MPI_Comm_create_group(comm, first, me, &of_group);
        MPI_Comm_size(of_group, &ranks);
        CHECK(ranks == 2, "thread %d, round %ld: %d of two", me, round, ranks);
        MPI_Comm_free(&of_group);
        MPI_Comm_free(&of_all);
    }
    MPI_Comm_dup(comm, &copy);
    MPI_Barrier(copy);
    MPI_Comm_free(&copy);
    MPI_Group_free(&first);
    MPI_Group_free(&all);
}

static void free_kept(int me)
{
    pthread_barrier_wait(&all_threads);
    for (int i = 0; i < TOGETHER; i++)
        if (kept[me][i] != MPI_COMM_NULL) MPI_Comm_free(&kept[me][i]);
    pthread_barrier_wait(&all_threads);
}

static void *work(void *argument)
{
    int me = (int)(intptr_t)argument;
    uint64_t hash = (uint64_t)me;
    for (long round = 0; round < rounds; round++) {
        hash = fold(hash, across(me, round, own[me]));
        hash = fold(hash, reduce(me, round, own[me]));
        of_groups(me, round, own[me]);
        if (!FREED_WHILE_MADE && (round % TOGETHER == TOGETHER - 1 || round == rounds - 1)) free_kept(me);
        if (round % 8 == 2 * me) pause_ms(pause_of_round);
    }
    hashes[me] = hash;
    return NULL;
}

int main(int argc, char **argv)
{
    int provided;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &world_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world_size);
    CHECK(provided == MPI_THREAD_MULTIPLE, "thread level %d", provided);
    rounds = option(argc, argv, "--rounds", 60), pause_of_round = option(argc, argv, "--pause", 30);
    threads = (int)option(argc, argv, "--threads", 3);
    CHECK(threads > 0 && threads <= THREADS && world_size > 1, "1 to %d threads, two ranks and more", THREADS);
    pthread_barrier_init(&all_threads, NULL, (unsigned)threads);
    for (int i = 0; i < threads; i++) {
        MPI_Comm_dup(MPI_COMM_WORLD, &own[i]);
        for (int j = 0; j < TOGETHER; j++) kept[i][j] = MPI_COMM_NULL;
    }
    pthread_t others[THREADS];
    for (int i = 1; i < threads; i++) pthread_create(&others[i], NULL, work, (void *)(intptr_t)i);
    work((void *)(intptr_t)0);
    uint64_t hash = 0;
    for (int i = 0; i < threads; i++) {
        if (i) pthread_join(others[i], NULL);
        hash = fold(hash, hashes[i]);
        MPI_Comm_free(&own[i]);
    }
    return finish(hash);
}
