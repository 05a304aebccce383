/* Persistent collectives of every kind, made once, started in every round, some of them under way from one round to the next,
 * and freed at the end; also the neighbourhood forms, and an operation of the program.
 * MPICH 4.0.2 itself mixes up persistent collectives that are under way together: --single 1 has one at a time.
 * With -DLARGE by the large-count forms.
 *   persistent [--rounds N] [--pause MS] [--single 1] */
#include "common.h"
#if defined OPEN_MPI && OMPI_MAJOR_VERSION < 5
#include <mpi-ext.h>
#define INIT(name) MPIX_##name##_init
#elif defined LARGE
#define INIT(name) MPI_##name##_init_c
#define MPI_Barrier_init_c MPI_Barrier_init
#else
#define INIT(name) MPI_##name##_init
#endif

#ifdef LARGE /* counts and displacements of the large-count forms */
typedef MPI_Count C;
typedef MPI_Aint D;
#else
typedef int C, D;
#endif

enum { MOST = 8, KINDS = 17, NEAR = 5 };

/* Composition of x -> m x + a, which is associative and not commutative. */
static void compose(void *in, void *inout, int *length, MPI_Datatype *type)
{
    (void)type;
    for (int i = 0; i < *length; i++) {
        uint64_t *first = (uint64_t *)in + 2 * i, *then = (uint64_t *)inout + 2 * i;
        then[1] += first[1] * then[0];
        then[0] *= first[0];
    }
}

/* Start and complete one after the other. */
static void one_by_one(int count, MPI_Request *requests)
{
    for (int k = 0; k < count; k++) MPI_Start(&requests[k]), MPI_Wait(&requests[k], MPI_STATUS_IGNORE);
}

static uint64_t word(int from, int to, long round) { return mix((uint64_t)(from * 64 + to) ^ (uint64_t)round << 20); }

/* Buffers of one collective. */
struct buffers {
    uint64_t out[MOST * MOST], in[MOST * MOST];
};

static struct buffers b[KINDS + NEAR + 1];
static int n, me;

static void prepare(long round)
{
    for (int k = 0; k < KINDS; k++) {
        memset(b[k].in, 0, sizeof b[k].in);
        for (int i = 0; i < n; i++) b[k].out[i] = word(me, i, round + k);
    }
    for (int i = 0; i < MOST; i++) b[7].in[i] = me == 1 ? word(1, i, round) : 0; /* the broadcast is in place */
}

static uint64_t sum_of(int at, long seed)
{
    uint64_t sum = 0;
    for (int r = 0; r < n; r++) sum += word(r, at, seed);
    return sum;
}

static uint64_t verify(long round)
{
    uint64_t hash = 0, prefix = 0;
    for (int i = 0; i < n; i++) {
        CHECK(b[0].in[i] == word(i, 0, round), "Allgather, round %ld", round);
        CHECK(b[1].in[n - 1 - i] == word(i, 0, round + 1), "Allgatherv, round %ld", round);
        CHECK(b[3].in[i] == word(i, me, round + 3), "Alltoall, round %ld", round);
        CHECK(b[4].in[n - 1 - i] == word(i, me, round + 4), "Alltoallv, round %ld", round);
        CHECK(b[5].in[i] == word(i, me, round + 5), "Alltoallw, round %ld", round);
        if (me == 0) CHECK(b[8].in[i] == word(i, 0, round + 8), "Gather, round %ld", round);
        if (me == n - 1) CHECK(b[9].in[n - 1 - i] == word(i, 0, round + 9), "Gatherv, round %ld", round);
        CHECK(b[2].in[i] == sum_of(i, round + 2), "Allreduce, round %ld", round);
        if (me == 0) CHECK(b[10].in[i] == sum_of(i, round + 10), "Reduce, round %ld", round);
        hash = fold(hash, b[2].in[i]);
    }
    for (int i = 0; i < MOST; i++) CHECK(b[7].in[i] == word(1, i, round), "Bcast, round %ld", round);
    CHECK(b[11].in[0] == sum_of(me, round + 11), "Reduce_scatter, round %ld", round);
    CHECK(b[12].in[0] == sum_of(me, round + 12), "Reduce_scatter_block, round %ld", round);
    CHECK(b[13].in[0] == word(0, me, round + 13), "Scatter, round %ld", round);
    CHECK(b[14].in[0] == word(n - 1, n - 1 - me, round + 14), "Scatterv, round %ld", round);
    for (int r = 0; r <= me; r++) prefix += word(r, 0, round + 15);
    CHECK(b[15].in[0] == prefix, "Scan, round %ld", round);
    prefix = 0;
    for (int r = 0; r < me; r++) prefix += word(r, 0, round + 16);
    if (me > 0) CHECK(b[16].in[0] == prefix, "Exscan, round %ld", round);
    return fold(hash, b[11].in[0]);
}

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 150), pause = option(argc, argv, "--pause", 35), single_file = option(argc, argv, "--single", 0);
    CHECK(world_size >= 2 && world_size <= MOST, "needs 2 to 8 ranks");
    MPI_Comm comm, ring;
    MPI_Request all[KINDS], near[NEAR], single;
    MPI_Comm_dup(MPI_COMM_WORLD, &comm);
    n = world_size, me = world_rank;
    C ones[MOST], eights[MOST], counts[MOST];
    D forward[MOST], back[MOST], bytes[MOST];
    MPI_Datatype types[MOST], pair;
    MPI_Type_contiguous(8, MPI_BYTE, &pair);
    MPI_Type_commit(&pair);
    for (int i = 0; i < MOST; i++) ones[i] = 1, forward[i] = i, back[i] = n - 1 - i, eights[i] = i % 2 ? 8 : 1, bytes[i] = 8 * i, types[i] = i % 2 ? MPI_BYTE : pair;
    MPI_Datatype mine = me % 2 ? MPI_BYTE : pair, sent[MOST];
    for (int i = 0; i < MOST; i++) counts[i] = me % 2 ? 8 : 1, sent[i] = mine;
    (void)forward;

#define U MPI_UINT64_T
    INIT(Allgather)(b[0].out, 1, U, b[0].in, 1, U, comm, MPI_INFO_NULL, &all[0]);
    INIT(Allgatherv)(b[1].out, 1, U, b[1].in, ones, back, U, comm, MPI_INFO_NULL, &all[1]);
    INIT(Allreduce)(b[2].out, b[2].in, n, U, MPI_SUM, comm, MPI_INFO_NULL, &all[2]);
    INIT(Alltoall)(b[3].out, 1, U, b[3].in, 1, U, comm, MPI_INFO_NULL, &all[3]);
    INIT(Alltoallv)(b[4].out, ones, forward, U, b[4].in, ones, back, U, comm, MPI_INFO_NULL, &all[4]);
    INIT(Alltoallw)(b[5].out, counts, bytes, sent, b[5].in, eights, bytes, types, comm, MPI_INFO_NULL, &all[5]);
    INIT(Barrier)(comm, MPI_INFO_NULL, &all[6]);
    INIT(Bcast)(b[7].in, MOST, U, 1, comm, MPI_INFO_NULL, &all[7]);
#if defined MPICH_VERSION && MPICH_NUMVERSION < 40300000 /* 4.0.2 itself gathers what was there at the initialisation, and fails in the other one */
    INIT(Gatherv)(b[8].out, 1, U, b[8].in, ones, forward, U, 0, comm, MPI_INFO_NULL, &all[8]);
    INIT(Scatterv)(b[13].out, ones, forward, U, b[13].in, 1, U, 0, comm, MPI_INFO_NULL, &all[13]);
#else
    INIT(Gather)(b[8].out, 1, U, b[8].in, 1, U, 0, comm, MPI_INFO_NULL, &all[8]);
    INIT(Scatter)(b[13].out, 1, U, b[13].in, 1, U, 0, comm, MPI_INFO_NULL, &all[13]);
#endif
    INIT(Gatherv)(b[9].out, 1, U, b[9].in, me == n - 1 ? ones : NULL, me == n - 1 ? back : NULL, U, n - 1, comm, MPI_INFO_NULL, &all[9]);
    INIT(Reduce)(b[10].out, b[10].in, n, U, MPI_SUM, 0, comm, MPI_INFO_NULL, &all[10]);
    INIT(Reduce_scatter)(b[11].out, b[11].in, ones, U, MPI_SUM, comm, MPI_INFO_NULL, &all[11]);
    INIT(Reduce_scatter_block)(b[12].out, b[12].in, 1, U, MPI_SUM, comm, MPI_INFO_NULL, &all[12]);
    INIT(Scatterv)(b[14].out, ones, back, U, b[14].in, 1, U, n - 1, comm, MPI_INFO_NULL, &all[14]);
    INIT(Scan)(b[15].out, b[15].in, 1, U, MPI_SUM, comm, MPI_INFO_NULL, &all[15]);
    INIT(Exscan)(b[16].out, b[16].in, 1, U, MPI_SUM, comm, MPI_INFO_NULL, &all[16]);
    memset(ones + n, 0, sizeof *ones * (size_t)(MOST - n));

    /* The two neighbours of a ring; with two processes both are the same. */
    int dims[1] = {n}, periods[1] = {1};
    MPI_Cart_create(comm, 1, dims, periods, 0, &ring);
    struct buffers *near_b = b + KINDS;
    C two[2] = {1, 1};
    D places[2] = {0, 1};
    MPI_Aint far[2] = {0, 8};
    MPI_Datatype both[2] = {U, U};
    INIT(Neighbor_allgather)(near_b[0].out, 1, U, near_b[0].in, 1, U, ring, MPI_INFO_NULL, &near[0]);
    INIT(Neighbor_allgatherv)(near_b[1].out, 1, U, near_b[1].in, two, places, U, ring, MPI_INFO_NULL, &near[1]);
    INIT(Neighbor_alltoall)(near_b[2].out, 1, U, near_b[2].in, 1, U, ring, MPI_INFO_NULL, &near[2]);
    INIT(Neighbor_alltoallv)(near_b[3].out, two, places, U, near_b[3].in, two, places, U, ring, MPI_INFO_NULL, &near[3]);
    INIT(Neighbor_alltoallw)(near_b[4].out, two, far, both, near_b[4].in, two, far, both, ring, MPI_INFO_NULL, &near[4]);

    /* An operation of the program on a datatype of the program. */
    MPI_Op op;
    MPI_Datatype map;
    MPI_Op_create(compose, 0, &op);
    MPI_Type_contiguous(2, U, &map);
    MPI_Type_commit(&map);
    struct buffers *own = near_b + NEAR;
    INIT(Allreduce)(own->out, own->in, 2, map, op, comm, MPI_INFO_NULL, &single);

    uint64_t hash = 0;
    for (long round = 0; round < rounds; round++) {
        prepare(round);
        int group = (int)(round % 3);
        if (single_file)
            one_by_one(KINDS, all);
        else if (group == 0)
            for (int k = 0; k < KINDS; k++) MPI_Start(&all[k]);
        else
            MPI_Startall(KINDS, all);
        int left = (me + n - 1) % n, right = (me + 1) % n;
        for (int k = 0; k < NEAR; k++)
            for (int i = 0; i < 2; i++) near_b[k].out[i] = word(me, i, round + 50 + k), near_b[k].in[i] = 0;
        if (single_file)
            one_by_one(NEAR, near);
        else
            MPI_Startall(NEAR, near);
        for (int i = 0; i < 4; i++) own->out[i] = word(me, i, round + 90);
        MPI_Start(&single);
        if (round % 2) pause_ms(pause); /* all of them under way */
        if (group == 0)
            MPI_Waitall(KINDS, all, MPI_STATUSES_IGNORE);
        else if (group == 1)
            for (int k = KINDS - 1; k >= 0; k--) MPI_Wait(&all[k], MPI_STATUS_IGNORE);
        else
            for (int done = 0, which; done < KINDS; done++) {
                MPI_Waitany(KINDS, all, &which, MPI_STATUS_IGNORE);
                CHECK(which != MPI_UNDEFINED || single_file, "only %d of them were active", done);
            }
        hash = fold(hash, verify(round));
        MPI_Waitall(NEAR, near, MPI_STATUSES_IGNORE);
        for (int k = 0; k < NEAR; k++) {
            int gathers = k < 2;
            CHECK(near_b[k].in[0] == word(left, gathers || n > 2 ? !gathers : 1, round + 50 + k) || n == 2, "neighbour %d, round %ld", k, round);
            CHECK(near_b[k].in[1] == word(right, 0, round + 50 + k) || n == 2, "neighbour %d, round %ld", k, round);
            if (n > 2) hash = fold(hash, near_b[k].in[0]);
        }
        MPI_Wait(&single, MPI_STATUS_IGNORE);
        for (int i = 0; i < 4; i += 2) {
            uint64_t by = word(0, i, round + 90), plus = word(0, i + 1, round + 90);
            for (int r = 1; r < n; r++) {
                uint64_t then = word(r, i, round + 90);
                plus = plus * then + word(r, i + 1, round + 90), by *= then;
            }
            CHECK(own->in[i] == by && own->in[i + 1] == plus, "the operation of the program, round %ld", round);
        }
        if (round % 2 == 0) pause_ms(pause);
    }
    for (int k = 0; k < KINDS; k++) MPI_Request_free(&all[k]);
    for (int k = 0; k < NEAR; k++) MPI_Request_free(&near[k]);
    MPI_Request_free(&single);
    MPI_Op_free(&op), MPI_Type_free(&map), MPI_Type_free(&pair);
    MPI_Comm_free(&ring), MPI_Comm_free(&comm);
    return finish(hash);
}
