/* Collectives that the dense program leaves out: in place, with counts and types per rank, neighbourhoods, MINLOC
 * and MAXLOC, user operations that must be called with the program's own datatype, Reduce_local and Op_commutative.
 *   inplace [--rounds N] [--pause MS] */
#include "common.h"

static MPI_Datatype expected_type;
static int calls;

/* Matrices of 2 x 2 modulo 2^64: associative, not commutative. */
static void multiply(void *left, void *right, int *length, MPI_Datatype *type)
{
    CHECK(*type == expected_type, "the operation was called with another datatype");
    calls++;
    uint64_t *a = left, *b = right;
    for (int i = 0; i < *length; i++, a += 4, b += 4) {
        uint64_t product[4] = {a[0] * b[0] + a[1] * b[2], a[0] * b[1] + a[1] * b[3],
                               a[2] * b[0] + a[3] * b[2], a[2] * b[1] + a[3] * b[3]};
        memcpy(b, product, sizeof product);
    }
}

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 150), pause = option(argc, argv, "--pause", 30);
    int n = world_size, *counts = malloc(4 * (size_t)n * sizeof *counts), *places = counts + n, *bytes = places + n, *swapped = bytes + n;
    uint64_t hash = 0, *a = malloc((size_t)(n * n + n) * 8 * sizeof *a), *b = malloc((size_t)(n * n + n) * 8 * sizeof *b);
    MPI_Datatype matrix, *types = malloc((size_t)n * sizeof *types);
    MPI_Op product;
    MPI_Type_contiguous(4, MPI_UINT64_T, &matrix);
    MPI_Type_commit(&matrix);
    expected_type = matrix;
    MPI_Op_create(multiply, 0, &product);
    MPI_Comm ring;
    int extent = n, periodic = 1;
    MPI_Cart_create(MPI_COMM_WORLD, 1, &extent, &periodic, 0, &ring);
    for (int i = 0, at = 0; i < n; at += i + 1, i++) counts[i] = i + 1, places[i] = at, types[i] = MPI_UINT64_T;
    int total = places[n - 1] + counts[n - 1];

    for (long round = 0; round < rounds; round++) {
        int root = (int)(round % n), me = world_rank, nonblocking = round % 2 == 1;
        MPI_Request request;
#define DO(name, lower, ...) (nonblocking ? (MPI_I##lower(__VA_ARGS__, MPI_COMM_WORLD, &request), MPI_Wait(&request, MPI_STATUS_IGNORE)) : MPI_##name(__VA_ARGS__, MPI_COMM_WORLD))
        for (int i = 0; i < 4 * n; i++) a[i] = fold(fold((uint64_t)round, (uint64_t)me), (uint64_t)i);
        DO(Allreduce, allreduce, MPI_IN_PLACE, a, 4 * n, MPI_UINT64_T, MPI_SUM);
        hash = fold(hash, hash_bytes(a, 32 * (size_t)n));

        a[0] = fold((uint64_t)round, (uint64_t)me);
        DO(Gather, gather, me == root ? MPI_IN_PLACE : (void *)a, 1, MPI_UINT64_T, b, 1, MPI_UINT64_T, root);
        if (me == root)
            for (int i = 0; i < n; i++) CHECK(i == me || b[i] == fold((uint64_t)round, (uint64_t)i), "gather from %d", i);
        for (int i = 0; i < counts[me]; i++) a[i] = fold((uint64_t)me, (uint64_t)(round + i));
        DO(Gatherv, gatherv, a, counts[me], MPI_UINT64_T, b, counts, places, MPI_UINT64_T, root);
        if (me == root)
            for (int i = 0; i < n; i++)
                for (int j = 0; j < counts[i]; j++) CHECK(b[places[i] + j] == fold((uint64_t)i, (uint64_t)(round + j)), "gatherv from %d", i);
        memset(a, 0, (size_t)n * 8);
        DO(Scatterv, scatterv, b, counts, places, MPI_UINT64_T, a, counts[me], MPI_UINT64_T, root);
        for (int j = 0; j < counts[me]; j++) CHECK(a[j] == fold((uint64_t)me, (uint64_t)(round + j)), "scatterv");

        for (int i = 0; i < total; i++) b[i] = 0;
        for (int j = 0; j < counts[me]; j++) b[places[me] + j] = fold((uint64_t)me, (uint64_t)j);
        DO(Allgatherv, allgatherv, MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, b, counts, places, MPI_UINT64_T);
        hash = fold(hash, hash_bytes(b, (size_t)total * 8));

        for (int i = 0; i < n; i++) bytes[i] = 8 * i, swapped[i] = 1;
        for (int i = 0; i < n; i++) a[i] = fold((uint64_t)me * 64 + (uint64_t)i, (uint64_t)round);
        DO(Alltoallw, alltoallw, a, swapped, bytes, types, b, swapped, bytes, types);
        for (int i = 0; i < n; i++) CHECK(b[i] == fold((uint64_t)i * 64 + (uint64_t)me, (uint64_t)round), "alltoallw from %d", i);

        for (int i = 0; i < total; i++) a[i] = fold((uint64_t)i, (uint64_t)me);
        DO(Reduce_scatter, reduce_scatter, a, b, counts, MPI_UINT64_T, MPI_BXOR);
        hash = fold(hash, hash_bytes(b, (size_t)counts[me] * 8));

        struct { double value; int place; } pair = {(double)(mix((uint64_t)round + (uint64_t)me) % 1000), me}, best;
        DO(Allreduce, allreduce, &pair, &best, 1, MPI_DOUBLE_INT, MPI_MAXLOC);
        hash = fold(hash, (uint64_t)best.place);

        for (int i = 0; i < 8; i++) a[i] = fold((uint64_t)round, (uint64_t)(me * 8 + i));
        DO(Scan, scan, a, b, 2, matrix, product);
        hash = fold(hash, hash_bytes(b, 64));
        DO(Reduce, reduce, a, b, 2, matrix, product, root);
        if (me == root) hash = fold(hash, hash_bytes(b, 64));
        memcpy(b, a, 64);
        MPI_Reduce_local(a, b, 2, matrix, product);
        hash = fold(hash, hash_bytes(b, 64));
        int commutes;
        MPI_Op_commutative(product, &commutes);
        CHECK(!commutes && calls > 0, "the operation commutes now");

        uint64_t mine[2] = {fold((uint64_t)me, 1), fold((uint64_t)me, 2)}, near[2] = {0, 0};
        int left = (me + n - 1) % n, right = (me + 1) % n;
        if (nonblocking) MPI_Ineighbor_alltoall(mine, 1, MPI_UINT64_T, near, 1, MPI_UINT64_T, ring, &request), MPI_Wait(&request, MPI_STATUS_IGNORE);
        else MPI_Neighbor_alltoall(mine, 1, MPI_UINT64_T, near, 1, MPI_UINT64_T, ring);
        /* With two ranks both neighbours are one and the standard leaves the pairing to the library. */
        if (n > 2) CHECK(near[0] == fold((uint64_t)left, 2) && near[1] == fold((uint64_t)right, 1), "neighbours");
        pause_ms(pause);
    }
    MPI_Comm_free(&ring);
    MPI_Op_free(&product);
    MPI_Type_free(&matrix);
    free(counts), free(a), free(b), free(types);
    return finish(hash);
}
