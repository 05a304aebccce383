/* Messages, collectives, persistent requests, datatypes, packing and operations: every kind is called in every round, some stay
 * under way from one round to the next, and what they make lives through the run. With the large-count procedures of MPI-4, or
 * (-DORDINARY) with those of MPI-3.
 *   large [--rounds N] [--pause MS] [--few 1] */
#include "common.h"

#ifdef ORDINARY
typedef int C;           /* a count */
typedef int D;           /* a displacement in elements */
typedef MPI_Aint A;      /* an address */
#include "ordinary.h"
#else
typedef MPI_Count C;
typedef MPI_Aint D;
typedef MPI_Count A;
#endif

enum { MOST = 8, WORDS = 100, KINDS = 17, NEAR = 5, MESSAGES = 4 };

#define U MPI_UINT64_T
static int n, me, left, right;
static C ones[MOST], bytes_of[MOST];
static D places[MOST], byte_places[MOST];
static MPI_Aint offsets[MOST];
static MPI_Datatype raw[MOST];

static uint64_t word(int from, int to, long seed) { return mix((uint64_t)(from * 64 + to) ^ (uint64_t)seed << 20); }

static void words(uint64_t *to, int count, int from, long seed)
{
    for (int i = 0; i < count; i++) to[i] = word(from, i, seed);
}

static void check_words(const uint64_t *got, int count, int from, long seed, const char *what)
{
    for (int i = 0; i < count; i++) CHECK(got[i] == word(from, i, seed), "%s, word %d, seed %ld", what, i, seed);
}

static uint64_t sum_of(int at, long seed)
{
    uint64_t sum = 0;
    for (int r = 0; r < n; r++) sum += word(r, at, seed);
    return sum;
}

struct buffers {
    uint64_t out[MOST * MOST], in[MOST * MOST];
};

static void prepare(struct buffers *b, int kinds, long seed)
{
    for (int k = 0; k < kinds; k++) {
        memset(b[k].in, 0, sizeof b[k].in);
        words(b[k].out, n, me, seed + k);
    }
    if (kinds == KINDS) words(b[7].in, MOST, 1, seed);
    if (kinds == KINDS && me != 1) memset(b[7].in, 0, sizeof b[7].in);
}

static uint64_t verify(const struct buffers *b, long seed, const char *form)
{
    uint64_t prefix = 0;
    for (int i = 0; i < n; i++) {
        CHECK(b[0].in[i] == word(i, 0, seed), "%s Allgather", form);
        CHECK(b[1].in[i] == word(i, 0, seed + 1), "%s Allgatherv", form);
        CHECK(b[2].in[i] == sum_of(i, seed + 2), "%s Allreduce", form);
        CHECK(b[3].in[i] == word(i, me, seed + 3), "%s Alltoall", form);
        CHECK(b[4].in[i] == word(i, me, seed + 4), "%s Alltoallv", form);
        CHECK(b[5].in[i] == word(i, me, seed + 5), "%s Alltoallw", form);
        if (me == 0) CHECK(b[8].in[i] == word(i, 0, seed + 8), "%s Gather", form);
        if (me == n - 1) CHECK(b[9].in[i] == word(i, 0, seed + 9), "%s Gatherv", form);
        if (me == 0) CHECK(b[10].in[i] == sum_of(i, seed + 10), "%s Reduce", form);
    }
    check_words(b[7].in, MOST, 1, seed, form);
    CHECK(b[11].in[0] == sum_of(me, seed + 11) && b[12].in[0] == sum_of(me, seed + 12), "%s Reduce_scatter", form);
    CHECK(b[13].in[0] == word(0, me, seed + 13) && b[14].in[0] == word(n - 1, me, seed + 14), "%s Scatter", form);
    for (int r = 0; r < me; r++) prefix += word(r, 0, seed + 16);
    if (me > 0) CHECK(b[16].in[0] == prefix, "%s Exscan", form);
    for (int r = prefix = 0; r <= me; r++) prefix += word(r, 0, seed + 15);
    CHECK(b[15].in[0] == prefix, "%s Scan", form);
    return fold(b[2].in[0], b[11].in[0]);
}

static uint64_t blocking(MPI_Comm comm, long seed)
{
    static struct buffers b[KINDS];
    prepare(b, KINDS, seed);
    MPI_Allgather_c(b[0].out, 1, U, b[0].in, 1, U, comm);
    MPI_Allgatherv_c(b[1].out, 1, U, b[1].in, ones, places, U, comm);
    MPI_Allreduce_c(b[2].out, b[2].in, n, U, MPI_SUM, comm);
    MPI_Alltoall_c(b[3].out, 1, U, b[3].in, 1, U, comm);
    MPI_Alltoallv_c(b[4].out, ones, places, U, b[4].in, ones, places, U, comm);
    MPI_Alltoallw_c(b[5].out, bytes_of, byte_places, raw, b[5].in, bytes_of, byte_places, raw, comm);
    MPI_Barrier(comm);
    MPI_Bcast_c(b[7].in, MOST, U, 1, comm);
    MPI_Gather_c(b[8].out, 1, U, b[8].in, 1, U, 0, comm);
    MPI_Gatherv_c(b[9].out, 1, U, b[9].in, me == n - 1 ? ones : NULL, me == n - 1 ? places : NULL, U, n - 1, comm);
    MPI_Reduce_c(b[10].out, b[10].in, n, U, MPI_SUM, 0, comm);
    MPI_Reduce_scatter_c(b[11].out, b[11].in, ones, U, MPI_SUM, comm);
    MPI_Reduce_scatter_block_c(b[12].out, b[12].in, 1, U, MPI_SUM, comm);
    MPI_Scatter_c(b[13].out, 1, U, b[13].in, 1, U, 0, comm);
    MPI_Scatterv_c(b[14].out, ones, places, U, b[14].in, 1, U, n - 1, comm);
    MPI_Scan_c(b[15].out, b[15].in, 1, U, MPI_SUM, comm);
    MPI_Exscan_c(b[16].out, b[16].in, 1, U, MPI_SUM, comm);
    return verify(b, seed, "blocking");
}

static void initiate(struct buffers *b, MPI_Comm comm, MPI_Request *q, long seed)
{
    prepare(b, KINDS, seed);
    MPI_Iallgather_c(b[0].out, 1, U, b[0].in, 1, U, comm, &q[0]);
    MPI_Iallgatherv_c(b[1].out, 1, U, b[1].in, ones, places, U, comm, &q[1]);
    MPI_Iallreduce_c(b[2].out, b[2].in, n, U, MPI_SUM, comm, &q[2]);
    MPI_Ialltoall_c(b[3].out, 1, U, b[3].in, 1, U, comm, &q[3]);
    MPI_Ialltoallv_c(b[4].out, ones, places, U, b[4].in, ones, places, U, comm, &q[4]);
    MPI_Ialltoallw_c(b[5].out, bytes_of, byte_places, raw, b[5].in, bytes_of, byte_places, raw, comm, &q[5]);
    MPI_Ibarrier(comm, &q[6]);
    MPI_Ibcast_c(b[7].in, MOST, U, 1, comm, &q[7]);
    MPI_Igather_c(b[8].out, 1, U, b[8].in, 1, U, 0, comm, &q[8]);
    MPI_Igatherv_c(b[9].out, 1, U, b[9].in, ones, places, U, n - 1, comm, &q[9]);
    MPI_Ireduce_c(b[10].out, b[10].in, n, U, MPI_SUM, 0, comm, &q[10]);
    MPI_Ireduce_scatter_c(b[11].out, b[11].in, ones, U, MPI_SUM, comm, &q[11]);
    MPI_Ireduce_scatter_block_c(b[12].out, b[12].in, 1, U, MPI_SUM, comm, &q[12]);
    MPI_Iscatter_c(b[13].out, 1, U, b[13].in, 1, U, 0, comm, &q[13]);
    MPI_Iscatterv_c(b[14].out, ones, places, U, b[14].in, 1, U, n - 1, comm, &q[14]);
    MPI_Iscan_c(b[15].out, b[15].in, 1, U, MPI_SUM, comm, &q[15]);
    MPI_Iexscan_c(b[16].out, b[16].in, 1, U, MPI_SUM, comm, &q[16]);
}

/* The ring's neighbours, blocking and not. */
static uint64_t neighbours(MPI_Comm ring, long seed)
{
    static struct buffers b[2 * NEAR];
    MPI_Request q[NEAR];
    for (int k = 0; k < 2 * NEAR; k++) memset(b[k].in, 0, sizeof b[k].in), words(b[k].out, 2, me, seed + k);
    MPI_Ineighbor_allgather_c(b[0].out, 1, U, b[0].in, 1, U, ring, &q[0]);
    MPI_Ineighbor_allgatherv_c(b[1].out, 1, U, b[1].in, ones, places, U, ring, &q[1]);
    MPI_Ineighbor_alltoall_c(b[2].out, 1, U, b[2].in, 1, U, ring, &q[2]);
    MPI_Ineighbor_alltoallv_c(b[3].out, ones, places, U, b[3].in, ones, places, U, ring, &q[3]);
    MPI_Ineighbor_alltoallw_c(b[4].out, bytes_of, offsets, raw, b[4].in, bytes_of, offsets, raw, ring, &q[4]);
    MPI_Waitall(NEAR, q, MPI_STATUSES_IGNORE);
    MPI_Neighbor_allgather_c(b[5].out, 1, U, b[5].in, 1, U, ring);
    MPI_Neighbor_allgatherv_c(b[6].out, 1, U, b[6].in, ones, places, U, ring);
    MPI_Neighbor_alltoall_c(b[7].out, 1, U, b[7].in, 1, U, ring);
    MPI_Neighbor_alltoallv_c(b[8].out, ones, places, U, b[8].in, ones, places, U, ring);
    MPI_Neighbor_alltoallw_c(b[9].out, bytes_of, offsets, raw, b[9].in, bytes_of, offsets, raw, ring);
    for (int k = 0; k < 2 * NEAR; k++) {
        int gathers = k % NEAR < 2;
        CHECK(b[k].in[0] == word(left, !gathers, seed + k) && b[k].in[1] == word(right, 0, seed + k), "neighbours, form %d", k);
    }
    return b[0].in[0];
}

struct types {
    MPI_Datatype all[12];
};

static struct types make_types(void)
{
    struct types t;
    A far[2] = {0, 32};
    C two[2] = {2, 1}, at[2] = {0, 3}, sizes[2] = {4, 4}, sub[2] = {2, 2}, starts[2] = {1, 1};
    int distribs[2] = {MPI_DISTRIBUTE_BLOCK, MPI_DISTRIBUTE_BLOCK}, dargs[2] = {MPI_DISTRIBUTE_DFLT_DARG, MPI_DISTRIBUTE_DFLT_DARG};
    int grid[2] = {2, 1};
    MPI_Datatype parts[2] = {U, U};
    MPI_Type_contiguous_c(4, U, &t.all[0]);
    MPI_Type_vector_c(2, 1, 3, U, &t.all[1]);
    MPI_Type_create_hvector_c(2, 1, 24, U, &t.all[2]);
    MPI_Type_indexed_c(2, two, at, U, &t.all[3]);
    MPI_Type_create_hindexed_c(2, two, far, U, &t.all[4]);
    MPI_Type_create_indexed_block_c(2, 1, at, U, &t.all[5]);
    MPI_Type_create_hindexed_block_c(2, 1, far, U, &t.all[6]);
    MPI_Type_create_struct_c(2, two, far, parts, &t.all[7]);
    MPI_Type_create_resized_c(U, 0, 16, &t.all[8]);
    MPI_Type_create_subarray_c(2, sizes, sub, starts, MPI_ORDER_C, U, &t.all[9]);
    MPI_Type_create_darray_c(2, 0, 2, sizes, distribs, dargs, grid, MPI_ORDER_C, U, &t.all[10]);
    MPI_Type_create_resized_c(t.all[3], 0, 64, &t.all[11]);
    for (int i = 0; i < 12; i++) MPI_Type_commit(&t.all[i]);
    return t;
}

static uint64_t ask_types(struct types *t, MPI_Comm comm, long seed)
{
    static const C sizes[12] = {32, 16, 16, 24, 24, 16, 16, 24, 8, 32, 64, 24};
    static const C extents[12] = {32, 32, 32, 32, 40, 32, 40, 40, 16, 128, 128, 64};
    uint64_t out[64], in[64], packed[80], hash = 0;
    for (int i = 0; i < 12; i++) {
        A lb, extent, true_lb, true_extent, external, place;
        C size, room, at = 0, count, elements;
        MPI_Status status;
        MPI_Type_size_c(t->all[i], &size);
        MPI_Type_get_extent_c(t->all[i], &lb, &extent);
        MPI_Type_get_true_extent_c(t->all[i], &true_lb, &true_extent);
        CHECK(size == sizes[i] && extent == extents[i] && lb == 0 && true_lb >= 0 && true_extent > 0, "type %d: %lld, %lld", i, (long long)size, (long long)extent);
        words(out, 64, me, seed + i), memset(in, 0, sizeof in);
        MPI_Sendrecv_c(out, 2, t->all[i], right, 40 + i, in, 2, t->all[i], left, 40 + i, comm, &status);
        MPI_Get_count_c(&status, t->all[i], &count);
        MPI_Get_elements_c(&status, t->all[i], &elements);
        CHECK(count == 2 && elements == 2 * size / 8, "%lld of type %d", (long long)elements, i);
        hash = fold(hash, hash_bytes(in, sizeof in));
        /* Packed and unpacked again, it is what came in one message. */
        MPI_Pack_size_c(2, t->all[i], comm, &room);
        CHECK(room >= 2 * size && room <= (C)sizeof packed, "room %lld", (long long)room);
        MPI_Pack_c(in, 2, t->all[i], packed, sizeof packed, &at, comm);
        CHECK(at == 2 * size, "packed %lld", (long long)at);
        uint64_t again[64] = {0};
        C from = 0;
        MPI_Unpack_c(packed, at, &from, again, 2, t->all[i], comm);
        CHECK(from == at && memcmp(again, in, sizeof in) == 0, "unpacked type %d", i);
        A start = place = 0;
        MPI_Pack_external_size_c("external32", 2, t->all[i], &external);
        memset(again, 0, sizeof again);
        MPI_Pack_external_c("external32", in, 2, t->all[i], packed, sizeof packed, &place);
        MPI_Unpack_external_c("external32", packed, place, &start, again, 2, t->all[i]);
        CHECK(place == external && start == place && memcmp(again, in, sizeof in) == 0, "external32, type %d", i);
    }
    return hash;
}

#ifndef ORDINARY
/* Types beyond what an int counts, which need no such memory: they stay, are asked what they are, and two of them carry messages. */
enum { BEYOND = 10 };
static const C far_away = 3000000000;

static void make_beyond(MPI_Datatype *t)
{
    C sizes[2] = {far_away, 4}, subsizes[2] = {2, 2}, starts[2] = {far_away - 2, 1}, lengths[2] = {far_away, 1}, at[2] = {0, 2 * far_away};
    C near[2] = {far_away, far_away + 2}, bytes[2] = {0, 16 * far_away};
    MPI_Datatype parts[2] = {MPI_SHORT, U};
    int distribs[2] = {MPI_DISTRIBUTE_BLOCK, MPI_DISTRIBUTE_CYCLIC}, dargs[2] = {MPI_DISTRIBUTE_DFLT_DARG, 1}, grid[2] = {1000000000, 2};
    MPI_Type_contiguous_c(far_away, U, &t[0]);
    MPI_Type_vector_c(3, 2, far_away, U, &t[1]);
    MPI_Type_create_hvector_c(far_away, far_away, far_away, MPI_BYTE, &t[2]);
    MPI_Type_indexed_c(2, lengths, at, MPI_INT, &t[3]);
    MPI_Type_create_hindexed_c(2, lengths, bytes, MPI_INT, &t[4]);
    MPI_Type_create_hindexed_block_c(2, far_away, bytes, MPI_SHORT, &t[5]);
    MPI_Type_create_struct_c(2, lengths, bytes, parts, &t[6]);
    MPI_Type_create_indexed_block_c(2, 1, near, U, &t[7]);
    MPI_Type_create_subarray_c(2, sizes, subsizes, starts, MPI_ORDER_C, U, &t[8]);
    /* Of the last three rows every second word. */
    MPI_Type_create_darray_c(2000000000, 1999999999, 2, sizes, distribs, dargs, grid, MPI_ORDER_C, U, &t[9]);
    for (int i = 0; i < BEYOND; i++) MPI_Type_commit(&t[i]);
}

static void ask_beyond(MPI_Datatype *t, MPI_Comm comm, long seed)
{
    const C f = far_away, sizes[BEYOND] = {8 * f, 48, f * f, 4 * f + 4, 4 * f + 4, 4 * f, 2 * f + 8, 16, 32, 48};
    const C extents[BEYOND] = {8 * f, 16 * f + 16, f * f, 8 * f + 4, 16 * f + 4, 18 * f, 16 * f + 8, 24, 32 * f, 32 * f};
    const C lowest[BEYOND] = {0, 0, 0, 0, 0, 0, 0, 8 * f, 8 * (4 * (f - 2) + 1), 8 * (4 * (f - 3) + 1)};
    uint64_t out[16], in[16];
    for (int i = 0; i < BEYOND; i++) {
        C size, lb, extent, true_lb, true_extent;
        MPI_Type_size_c(t[i], &size);
        MPI_Type_get_extent_c(t[i], &lb, &extent);
        MPI_Type_get_true_extent_c(t[i], &true_lb, &true_extent);
        CHECK(size == sizes[i] && extent == extents[i] && true_lb == lowest[i], "type %d beyond an int: %lld, %lld from %lld, %lld", i,
              (long long)size, (long long)extent, (long long)lb, (long long)true_lb);
    }
    for (int i = 7; i < BEYOND; i++) {
        MPI_Status status;
        C elements;
        words(out, 16, me, seed + i), memset(in, 0, sizeof in);
        /* Where the buffer would begin. */
        char *from = (char *)out - lowest[i], *to = (char *)in - lowest[i];
        MPI_Sendrecv_c(from, 1, t[i], right, 60 + i, to, 1, t[i], left, 60 + i, comm, &status);
        MPI_Get_elements_c(&status, t[i], &elements);
        int second = i == 8 ? 1 : 2;
        CHECK(elements == sizes[i] / 8 && in[0] == word(left, 0, seed + i) && in[second] == word(left, second, seed + i), "a message of type %d", i);
        CHECK(in[3 - second] == 0, "type %d: a gap", i);
        CHECK(i < 9 || in[10] == word(left, 10, seed + i), "the end of type %d", i);
    }
}

/* Arrays of numbers beyond an int. A buffer is said to begin far before the memory that is used, on some ranks only: each must be able
 * to decide alone. (Where the MPI below has no such procedures, the places must have a divisor in common: all are multiples of 3.) Their kinds: allgatherv, alltoallv, alltoallw, gatherv, scatterv. */
enum { FAR = 5 };
static D away[MOST], bytes_away[MOST], near[MOST], bytes_near[MOST];
static MPI_Datatype nothing;
static C many[MOST];
#define BEFORE(p) ((char *)(p) - 8 * far_away)

static void make_far(void)
{
    for (int i = 0; i < MOST; i++) near[i] = 3 * i, bytes_near[i] = 8 * near[i], many[i] = far_away + i;
    for (int i = 0; i < MOST; i++) away[i] = far_away + near[i], bytes_away[i] = 8 * away[i];
    MPI_Type_contiguous(0, U, &nothing);
    MPI_Type_commit(&nothing);
}

static void prepare_far(struct buffers *b, long seed)
{
    for (int k = 0; k < FAR; k++) memset(b[k].in, 0, sizeof b[k].in), words(b[k].out, 3 * n, me, seed + k);
}

static uint64_t verify_far(const struct buffers *b, long seed, const char *form)
{
    for (int i = 0; i < n; i++) {
        CHECK(b[0].in[3 * i] == word(i, 0, seed), "%s Allgatherv from afar", form);
        CHECK(b[1].in[3 * i] == word(i, 3 * me, seed + 1), "%s Alltoallv from afar", form);
        CHECK(b[2].in[3 * i] == word(i, 3 * me, seed + 2), "%s Alltoallw from afar", form);
        if (me == 1) CHECK(b[3].in[3 * i] == word(i, 0, seed + 3), "%s Gatherv from afar", form);
    }
    CHECK(b[4].in[0] == word(1, 3 * me, seed + 4), "%s Scatterv from afar", form);
    return fold(b[0].in[3 * n - 3], b[1].in[0]);
}

static uint64_t far_blocking(MPI_Comm comm, MPI_Comm ring, long seed)
{
    static struct buffers b[FAR + 2];
    int odd = me % 2;
    prepare_far(b, seed);
    MPI_Allgatherv_c(b[0].out, 1, U, odd ? BEFORE(b[0].in) : (char *)b[0].in, ones, odd ? away : near, U, comm);
    MPI_Alltoallv_c(odd ? (char *)b[1].out : BEFORE(b[1].out), ones, odd ? near : away, U, odd ? BEFORE(b[1].in) : (char *)b[1].in, ones,
                    odd ? away : near, U, comm);
    MPI_Alltoallw_c(odd ? (char *)b[2].out : BEFORE(b[2].out), bytes_of, odd ? bytes_near : bytes_away, raw,
                    odd ? BEFORE(b[2].in) : (char *)b[2].in, bytes_of, odd ? bytes_away : bytes_near, raw, comm);
    MPI_Gatherv_c(b[3].out, 1, U, BEFORE(b[3].in), me == 1 ? ones : NULL, me == 1 ? away : NULL, U, 1, comm);
    MPI_Scatterv_c(BEFORE(b[4].out), ones, away, U, b[4].in, 1, U, 1, comm);
    memset(b[5].in, 0, sizeof b[5].in), memset(b[6].in, 0, sizeof b[6].in), words(b[6].out, 4, me, seed + 6);
    MPI_Neighbor_allgatherv_c(b[0].out, 1, U, BEFORE(b[5].in), ones, away, U, ring);
    MPI_Neighbor_alltoallv_c(BEFORE(b[6].out), ones, away, U, b[6].in, ones, places, U, ring);
    CHECK(b[5].in[0] == word(left, 0, seed) && b[5].in[3] == word(right, 0, seed), "neighbours from afar");
    CHECK(b[6].in[0] == word(left, 3, seed + 6) && b[6].in[1] == word(right, 0, seed + 6), "neighbours from afar");
    MPI_Datatype nothings[MOST];
    for (int i = 0; i < MOST; i++) nothings[i] = nothing;
    MPI_Neighbor_alltoallw_c(b[0].out, many, offsets, nothings, b[0].in, many + 1, offsets, nothings, ring);
    return verify_far(b, seed, "blocking");
}

static void far_initiate(struct buffers *b, MPI_Comm comm, MPI_Request *q, long seed)
{
    int odd = me % 2;
    prepare_far(b, seed);
    MPI_Iallgatherv_c(b[0].out, 1, U, odd ? BEFORE(b[0].in) : (char *)b[0].in, ones, odd ? away : near, U, comm, &q[0]);
    MPI_Ialltoallv_c(odd ? (char *)b[1].out : BEFORE(b[1].out), ones, odd ? near : away, U, odd ? BEFORE(b[1].in) : (char *)b[1].in, ones,
                     odd ? away : near, U, comm, &q[1]);
    MPI_Ialltoallw_c(odd ? (char *)b[2].out : BEFORE(b[2].out), bytes_of, odd ? bytes_near : bytes_away, raw,
                     odd ? BEFORE(b[2].in) : (char *)b[2].in, bytes_of, odd ? bytes_away : bytes_near, raw, comm, &q[2]);
    MPI_Igatherv_c(b[3].out, 1, U, BEFORE(b[3].in), ones, away, U, 1, comm, &q[3]);
    MPI_Iscatterv_c(BEFORE(b[4].out), ones, away, U, b[4].in, 1, U, 1, comm, &q[4]);
}

static void far_persistent(struct buffers *b, MPI_Comm comm, MPI_Request *q)
{
    int odd = me % 2;
    MPI_Info i = MPI_INFO_NULL;
    MPI_Allgatherv_init_c(b[0].out, 1, U, odd ? BEFORE(b[0].in) : (char *)b[0].in, ones, odd ? away : near, U, comm, i, &q[0]);
    MPI_Alltoallv_init_c(odd ? (char *)b[1].out : BEFORE(b[1].out), ones, odd ? near : away, U, odd ? BEFORE(b[1].in) : (char *)b[1].in,
                         ones, odd ? away : near, U, comm, i, &q[1]);
    MPI_Alltoallw_init_c(odd ? (char *)b[2].out : BEFORE(b[2].out), bytes_of, odd ? bytes_near : bytes_away, raw,
                         odd ? BEFORE(b[2].in) : (char *)b[2].in, bytes_of, odd ? bytes_away : bytes_near, raw, comm, i, &q[2]);
    MPI_Gatherv_init_c(b[3].out, 1, U, BEFORE(b[3].in), ones, away, U, 1, comm, i, &q[3]);
    MPI_Scatterv_init_c(BEFORE(b[4].out), ones, away, U, b[4].in, 1, U, 1, comm, i, &q[4]);
}

/* Reductions beyond an int need memory, but of what is nothing: the program's operation sees how much it is applied to. */
static C applied;
static MPI_Datatype summed;
/* (Open MPI takes seconds for a thousand million elements, of whatever size: these are one block.) */
static const C prime = 2147483659;
/* How many, and how many in each part of a scattered one: see make_sums. */
static C many_sums, many_parts;
/* MPICH 4.0.2 refuses some of them. */
static int refused;

static void tally(void *in, void *inout, C *length, MPI_Datatype *type)
{
    (void)in, (void)inout;
    CHECK(*type == summed, "another datatype");
    applied += *length;
}

enum { SUMS = 6 };

/* The last two kinds are MPI_Reduce_scatter's: Open MPI's non-blocking ones take no elements without extent. */
static int sums(void) { return library_is("Open MPI") ? SUMS - 2 : SUMS; }

/* Intel MPI divides by the size of what is reduced: there it is a few bytes, and nothing beyond an int. A job that is to go
 * on under it is told (--few). */
static void make_sums(int few)
{
    many_sums = few ? 2 : prime, many_parts = few ? 2 : far_away;
    MPI_Type_contiguous(few, MPI_BYTE, &summed);
    MPI_Type_commit(&summed);
}

/* Some ranks may only hand on; two elements may go ways of their own. */
static void check_applied(MPI_Comm comm, C each)
{
    C all;
    if (each == 2) each = 1;
    MPI_Allreduce(&applied, &all, 1, MPI_COUNT, MPI_SUM, comm);
    CHECK(applied % each == 0 && all > 0, "applied to %lld", (long long)applied);
}

static void reduce_nothing(MPI_Comm comm, MPI_Op op)
{
    uint64_t in[4], out[4];
    C all[MOST], each[MOST];
    for (int i = 0; i < MOST; i++) all[i] = 2 * many_parts, each[i] = many_parts * (i + 1);
    applied = 0;
    MPI_Reduce_local_c(in, out, many_parts + 1, summed, op);
    CHECK(applied == many_parts + 1, "applied to %lld", (long long)applied);
    applied = 0;
    MPI_Reduce_c(in, out, many_sums, summed, op, 0, comm);
    MPI_Allreduce_c(in, out, many_sums, summed, op, comm);
    MPI_Scan_c(in, out, many_sums, summed, op, comm);
    MPI_Exscan_c(in, out, many_sums, summed, op, comm);
    check_applied(comm, many_sums);
    if (refused || sums() < SUMS) return;
    applied = 0;
    MPI_Reduce_scatter_block_c(in, out, many_parts, summed, op, comm);
    MPI_Reduce_scatter_c(in, out, all, summed, op, comm);
    MPI_Reduce_scatter_c(in, out, each, summed, op, comm);
    check_applied(comm, many_parts);
}

static void sum_nothing(MPI_Comm comm, MPI_Op op, MPI_Request *q)
{
    static uint64_t in[4], out[4];
    static C each[MOST];
    for (int i = 0; i < MOST; i++) each[i] = many_parts * (i + 1);
    MPI_Ireduce_c(in, out, many_sums, summed, op, 0, comm, &q[0]);
    MPI_Iallreduce_c(in, out, many_sums, summed, op, comm, &q[1]);
    MPI_Iscan_c(in, out, many_sums, summed, op, comm, &q[2]);
    MPI_Iexscan_c(in, out, many_sums, summed, op, comm, &q[3]);
    q[4] = q[5] = MPI_REQUEST_NULL;
    if (sums() < SUMS) return;
    MPI_Ireduce_scatter_block_c(in, out, many_parts, summed, op, comm, &q[4]);
    MPI_Ireduce_scatter_c(in, out, each, summed, op, comm, &q[5]);
}

static void keep_nothing(MPI_Comm comm, MPI_Op op, MPI_Request *q)
{
    static uint64_t in[4], out[4];
    static C each[MOST];
    MPI_Info i = MPI_INFO_NULL;
    for (int i = 0; i < MOST; i++) each[i] = many_parts * (i + 1);
    MPI_Reduce_init_c(in, out, many_sums, summed, op, 0, comm, i, &q[0]);
    MPI_Allreduce_init_c(in, out, many_sums, summed, op, comm, i, &q[1]);
    MPI_Scan_init_c(in, out, many_sums, summed, op, comm, i, &q[2]);
    MPI_Exscan_init_c(in, out, many_sums, summed, op, comm, i, &q[3]);
    MPI_Reduce_scatter_block_init_c(in, out, many_parts, summed, op, comm, i, &q[4]);
    MPI_Reduce_scatter_init_c(in, out, each, summed, op, comm, i, &q[5]);
}
#endif

static void fuse(void *in, void *inout, C *length, MPI_Datatype *type)
{
    CHECK(*type == U, "another datatype");
    for (C i = 0; i < *length; i++) ((uint64_t *)inout)[i] ^= ((uint64_t *)in)[i];
}

/* Messages that are sent in one round and received in the next. */
struct flight {
    uint64_t out[MESSAGES][WORDS];
    MPI_Request sends[MESSAGES];
};

static void take_off(struct flight *f, MPI_Comm comm, long seed)
{
    for (int i = 0; i < MESSAGES; i++) words(f->out[i], WORDS, me, seed + i);
    MPI_Isend_c(f->out[0], WORDS, U, right, 1, comm, &f->sends[0]);
    MPI_Issend_c(f->out[1], WORDS, U, right, 2, comm, &f->sends[1]);
    MPI_Ibsend_c(f->out[2], WORDS, U, right, 3, comm, &f->sends[2]);
    f->sends[3] = MPI_REQUEST_NULL;
    MPI_Bsend_c(f->out[3], WORDS, U, right, 4, comm);
}

static uint64_t land(struct flight *f, MPI_Comm comm, long seed)
{
    uint64_t in[MESSAGES][WORDS];
    MPI_Message message;
    MPI_Request request;
    MPI_Recv_c(in[0], WORDS, U, left, 1, comm, MPI_STATUS_IGNORE);
    MPI_Irecv_c(in[1], WORDS, U, left, 2, comm, &request);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    MPI_Mprobe(left, 3, comm, &message, MPI_STATUS_IGNORE);
    MPI_Mrecv_c(in[2], WORDS, U, &message, MPI_STATUS_IGNORE);
    MPI_Mprobe(MPI_ANY_SOURCE, 4, comm, &message, MPI_STATUS_IGNORE);
    MPI_Imrecv_c(in[3], WORDS, U, &message, &request);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    for (int i = 0; i < MESSAGES; i++) check_words(in[i], WORDS, left, seed + i, "a message");
    MPI_Waitall(MESSAGES, f->sends, MPI_STATUSES_IGNORE);
    return in[3][7];
}

/* Messages that are matched at the beginning and received at the end. */
struct held {
    uint64_t out[2][WORDS];
    MPI_Request sends[2];
    MPI_Message matched[2];
};

static void match(struct held *h, MPI_Comm comm)
{
    for (int i = 0; i < 2; i++) {
        words(h->out[i], WORDS, me, 9000 + i);
        MPI_Isend_c(h->out[i], WORDS, U, right, 20 + i, comm, &h->sends[i]);
        MPI_Mprobe(left, 20 + i, comm, &h->matched[i], MPI_STATUS_IGNORE);
    }
}

static void receive_matched(struct held *h)
{
    uint64_t in[2][WORDS];
    MPI_Request request;
    MPI_Mrecv_c(in[0], WORDS, U, &h->matched[0], MPI_STATUS_IGNORE);
    MPI_Imrecv_c(in[1], WORDS, U, &h->matched[1], &request);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    for (int i = 0; i < 2; i++) check_words(in[i], WORDS, left, 9000 + i, "a message matched long ago");
    MPI_Waitall(2, h->sends, MPI_STATUSES_IGNORE);
}

static uint64_t in_pairs(MPI_Comm comm, long seed)
{
    uint64_t out[WORDS], in[WORDS];
    MPI_Request q[2];
    words(out, WORDS, me, seed);
#ifndef ORDINARY
    MPI_Isendrecv_c(out, WORDS, U, right, 7, in, WORDS, U, left, 7, comm, &q[0]);
    MPI_Wait(&q[0], MPI_STATUS_IGNORE);
    check_words(in, WORDS, left, seed, "MPI_Isendrecv_c");
    MPI_Isendrecv_replace_c(in, WORDS, U, right, 8, left, 8, comm, &q[0]);
    MPI_Wait(&q[0], MPI_STATUS_IGNORE);
    check_words(in, WORDS, (left + n - 1) % n, seed, "MPI_Isendrecv_replace_c");
    MPI_Sendrecv_replace_c(in, WORDS, U, left, 9, right, 9, comm, MPI_STATUS_IGNORE);
    check_words(in, WORDS, left, seed, "MPI_Sendrecv_replace_c");
    MPI_Isendrecv(out, 3, U, right, 17, in, 3, U, left, 17, comm, &q[0]);
    MPI_Isendrecv_replace(out + 3, 3, U, right, 18, left, 18, comm, &q[1]);
    MPI_Waitall(2, q, MPI_STATUSES_IGNORE);
    check_words(in, 3, left, seed, "MPI_Isendrecv");
    CHECK(out[3] == word(left, 3, seed), "MPI_Isendrecv_replace");
#else
    memcpy(in, out, sizeof in), q[0] = q[1] = MPI_REQUEST_NULL;
    MPI_Sendrecv_replace(in, WORDS, U, right, 9, left, 9, comm, MPI_STATUS_IGNORE);
    check_words(in, WORDS, left, seed, "MPI_Sendrecv_replace");
#endif
    /* A ready send has its receive: the barrier says so. */
    MPI_Irecv_c(in, WORDS, U, left, 10, comm, &q[0]);
    MPI_Barrier(comm);
    words(out, WORDS, me, seed + 1);
    if (seed % 2)
        MPI_Rsend_c(out, WORDS, U, right, 10, comm), q[1] = MPI_REQUEST_NULL;
    else
        MPI_Irsend_c(out, WORDS, U, right, 10, comm, &q[1]);
    MPI_Waitall(2, q, MPI_STATUSES_IGNORE);
    check_words(in, WORDS, left, seed + 1, "MPI_Rsend_c");
    if (me % 2 == 0) {
        MPI_Send_c(out, WORDS, U, right, 11, comm), MPI_Ssend_c(out, WORDS, U, right, 12, comm);
        MPI_Recv_c(in, WORDS, U, left, 11, comm, MPI_STATUS_IGNORE), MPI_Recv_c(in, WORDS, U, left, 12, comm, MPI_STATUS_IGNORE);
    } else {
        MPI_Recv_c(in, WORDS, U, left, 11, comm, MPI_STATUS_IGNORE), MPI_Recv_c(in, WORDS, U, left, 12, comm, MPI_STATUS_IGNORE);
        MPI_Send_c(out, WORDS, U, right, 11, comm), MPI_Ssend_c(out, WORDS, U, right, 12, comm);
    }
    check_words(in, WORDS, left, seed + 1, "MPI_Ssend_c");
    return in[5];
}

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 40), pause = option(argc, argv, "--pause", 120);
    CHECK(world_size >= 3 && world_size <= MOST, "needs 3 to 8 ranks");
    n = world_size, me = world_rank, left = (me + n - 1) % n, right = (me + 1) % n;
    for (int i = 0; i < MOST; i++) ones[i] = 1, places[i] = i, bytes_of[i] = 8, offsets[i] = byte_places[i] = 8 * i, raw[i] = MPI_BYTE;
    MPI_Comm comm, ring;
    int dims[1] = {n}, periods[1] = {1};
    MPI_Comm_dup(MPI_COMM_WORLD, &comm);
    MPI_Cart_create(comm, 1, dims, periods, 0, &ring);
    static char buffer[1 << 16];
#ifdef ORDINARY
    MPI_Buffer_attach(buffer, sizeof buffer);
#else
    /* (Its beginning will do.) */
    MPI_Buffer_attach_c(buffer, far_away);
#endif
    struct types types = make_types();
    MPI_Op op;
    MPI_Op_create_c(fuse, 1, &op);
#ifndef ORDINARY
    MPI_Datatype beyond[BEYOND];
    make_beyond(beyond);
    MPI_Op counts;
    MPI_Op_create_c(tally, 1, &counts);
    make_far(), make_sums((int)option(argc, argv, "--few", library_is("Intel")));
    refused = option(argc, argv, "--refused", 0);
    static struct buffers distant[FAR], repeated[FAR];
    MPI_Request far_q[FAR], far_p[FAR], open_sums[SUMS], kept[SUMS];
    far_persistent(repeated, comm, far_p);
    keep_nothing(comm, counts, kept);
    far_initiate(distant, comm, far_q, 2000);
    sum_nothing(comm, counts, open_sums);
#endif

    static struct buffers open[KINDS];
    static struct flight flight;
    static uint64_t fixed[5][WORDS];
    MPI_Request q[KINDS], persistent[5], sum;
    uint64_t sum_in[2], sum_out[2], hash = 0;
    MPI_Send_init_c(fixed[0], WORDS, U, right, 30, comm, &persistent[0]);
    MPI_Ssend_init_c(fixed[1], WORDS, U, right, 31, comm, &persistent[1]);
    MPI_Bsend_init_c(fixed[2], WORDS, U, right, 32, comm, &persistent[2]);
    MPI_Recv_init_c(fixed[3], WORDS, U, left, 30, comm, &persistent[3]);
    MPI_Recv_init_c(fixed[4], WORDS, U, left, 31, comm, &persistent[4]);
#ifndef ORDINARY
    MPI_Allreduce_init_c(sum_in, sum_out, 2, U, MPI_SUM, comm, MPI_INFO_NULL, &sum);
#endif
    static struct held held;
    match(&held, comm);
    take_off(&flight, comm, 0);
    initiate(open, comm, q, 1000);
    for (long round = 0; round < rounds; round++) {
        long seed = round * 100;
        hash = fold(hash, blocking(comm, seed + 50));
        hash = fold(hash, neighbours(ring, seed + 70));
        hash = fold(hash, ask_types(&types, comm, seed + 20));
#ifndef ORDINARY
        ask_beyond(beyond, comm, seed + 40);
        hash = fold(hash, far_blocking(comm, ring, seed + 80));
        reduce_nothing(comm, counts);
        prepare_far(repeated, 3000 + seed);
        MPI_Startall(FAR, far_p), MPI_Startall(sums(), kept);
#endif
        for (int i = 0; i < 3; i++) words(fixed[i], WORDS, me, seed + 5 + i);
        sum_in[0] = (uint64_t)me, sum_in[1] = (uint64_t)round;
        MPI_Startall(5, persistent);
#ifdef ORDINARY
        MPI_Iallreduce(sum_in, sum_out, 2, U, MPI_SUM, comm, &sum);
#else
        MPI_Start(&sum);
#endif
        pause_ms(pause);
        hash = fold(hash, land(&flight, comm, seed));
        take_off(&flight, comm, seed + 100);
        MPI_Waitall(KINDS, q, MPI_STATUSES_IGNORE);
        hash = fold(hash, verify(open, 1000 + seed, "non-blocking"));
        initiate(open, comm, q, 1000 + seed + 100);
#ifndef ORDINARY
        MPI_Waitall(FAR, far_q, MPI_STATUSES_IGNORE), MPI_Waitall(FAR, far_p, MPI_STATUSES_IGNORE);
        hash = fold(hash, verify_far(distant, 2000 + seed, "non-blocking"));
        hash = fold(hash, verify_far(repeated, 3000 + seed, "persistent"));
        far_initiate(distant, comm, far_q, 2000 + seed + 100);
        MPI_Waitall(SUMS, kept, MPI_STATUSES_IGNORE), MPI_Waitall(SUMS, open_sums, MPI_STATUSES_IGNORE);
        sum_nothing(comm, counts, open_sums);
#endif
        MPI_Waitall(5, persistent, MPI_STATUSES_IGNORE), MPI_Wait(&sum, MPI_STATUS_IGNORE);
        check_words(fixed[3], WORDS, left, seed + 5, "a persistent message");
        check_words(fixed[4], WORDS, left, seed + 6, "a persistent message");
        MPI_Recv_c(fixed[3], WORDS, U, left, 32, comm, MPI_STATUS_IGNORE);
        check_words(fixed[3], WORDS, left, seed + 7, "a persistent message");
        CHECK(sum_out[0] == (uint64_t)(n * (n - 1) / 2) && sum_out[1] == (uint64_t)(n * round), "the persistent sum");
        hash = fold(hash, in_pairs(comm, seed + 30 + round % 2));
        uint64_t all = 0, mine = word(me, 0, seed), other = word(me, 1, seed), by_hand = mine ^ other;
        MPI_Reduce_local_c(&mine, &other, 1, U, op);
        CHECK(other == by_hand, "MPI_Reduce_local_c");
        MPI_Allreduce_c(&mine, &all, 1, U, op, comm);
        for (int r = 0; r < n; r++) all ^= word(r, 0, seed);
        CHECK(all == 0, "the operation of the program");
    }
    hash = fold(hash, land(&flight, comm, rounds * 100));
    receive_matched(&held);
    MPI_Waitall(KINDS, q, MPI_STATUSES_IGNORE);
    hash = fold(hash, verify(open, 1000 + rounds * 100, "non-blocking"));
    for (int i = 0; i < 5; i++) MPI_Request_free(&persistent[i]);
#ifndef ORDINARY
    MPI_Request_free(&sum);
    MPI_Waitall(FAR, far_q, MPI_STATUSES_IGNORE), MPI_Waitall(SUMS, open_sums, MPI_STATUSES_IGNORE);
    hash = fold(hash, verify_far(distant, 2000 + rounds * 100, "non-blocking"));
    for (int i = 0; i < FAR; i++) MPI_Request_free(&far_p[i]);
    for (int i = 0; i < SUMS; i++) MPI_Request_free(&kept[i]);
    MPI_Op_free(&counts), MPI_Type_free(&nothing), MPI_Type_free(&summed);
#endif
    MPI_Op_free(&op);
    for (int i = 0; i < 12; i++) MPI_Type_free(&types.all[i]);
#ifndef ORDINARY
    for (int i = 0; i < BEYOND; i++) MPI_Type_free(&beyond[i]);
#endif
    void *address;
#ifdef ORDINARY
    int length;
    MPI_Buffer_detach(&address, &length);
    CHECK(address == buffer && length == sizeof buffer, "another buffer");
#else
    C length;
    MPI_Buffer_detach_c(&address, &length);
    CHECK(address == buffer && length == far_away, "another buffer");
#endif
    MPI_Comm_free(&ring), MPI_Comm_free(&comm);
    return finish(hash);
}
