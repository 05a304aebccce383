/* Every datatype constructor, used in messages, packed, taken apart again, in every round.
 *   types [--rounds N] [--pause MS] [--right 1: also where the library natively is not] */
#include "common.h"

enum { TYPES = 14, ROOM = 512 };

static MPI_Datatype types[TYPES];
static const int combiners[TYPES] = {
    MPI_COMBINER_CONTIGUOUS, MPI_COMBINER_VECTOR, MPI_COMBINER_HVECTOR, MPI_COMBINER_INDEXED, MPI_COMBINER_HINDEXED,
    MPI_COMBINER_INDEXED_BLOCK, MPI_COMBINER_HINDEXED_BLOCK, MPI_COMBINER_STRUCT, MPI_COMBINER_SUBARRAY,
    MPI_COMBINER_RESIZED, MPI_COMBINER_DUP, MPI_COMBINER_DARRAY, MPI_COMBINER_STRUCT, MPI_COMBINER_CONTIGUOUS,
};

static void make(void)
{
    int lengths[] = {2, 1, 3}, places[] = {0, 5, 9}, equal[] = {1, 6, 12};
    MPI_Aint bytes[] = {0, 40, 72}, spaced[] = {8, 48, 96};
    MPI_Type_contiguous(5, MPI_INT, &types[0]);
    MPI_Type_vector(4, 2, 5, MPI_INT, &types[1]);
    MPI_Type_create_hvector(3, 2, 28, MPI_INT, &types[2]);
    MPI_Type_indexed(3, lengths, places, MPI_INT, &types[3]);
    MPI_Type_create_hindexed(3, lengths, bytes, MPI_INT, &types[4]);
    MPI_Type_create_indexed_block(3, 2, equal, MPI_INT, &types[5]);
    MPI_Type_create_hindexed_block(3, 2, spaced, MPI_INT, &types[6]);
    MPI_Datatype mixed[] = {MPI_INT, MPI_DOUBLE, MPI_CHAR};
    MPI_Type_create_struct(3, lengths, bytes, mixed, &types[7]);
    int whole[] = {6, 8}, part[] = {3, 4}, from[] = {2, 1};
    MPI_Type_create_subarray(2, whole, part, from, MPI_ORDER_C, MPI_INT, &types[8]);
    MPI_Type_create_resized(types[1], -4, 120, &types[9]);
    MPI_Type_dup(types[3], &types[10]);
    int global[] = {8, 8}, how[] = {MPI_DISTRIBUTE_BLOCK, MPI_DISTRIBUTE_CYCLIC}, by[] = {MPI_DISTRIBUTE_DFLT_DARG, 2}, over[] = {2, 2};
    MPI_Type_create_darray(4, 1, 2, global, how, by, over, MPI_ORDER_FORTRAN, MPI_INT, &types[11]);
    MPI_Datatype nested[] = {types[7], types[1], MPI_SHORT};
    int once[] = {1, 2, 3};
    MPI_Aint apart[] = {0, 128, 400};
    MPI_Type_create_struct(3, once, apart, nested, &types[12]);
    MPI_Datatype temporary;
    MPI_Type_vector(2, 1, 3, MPI_INT, &temporary);
    MPI_Type_contiguous(3, temporary, &types[13]);
    MPI_Type_free(&temporary); /* freed, and alive inside the other */
    for (int i = 0; i < TYPES; i++) MPI_Type_commit(&types[i]);
}

/* Rows 0 to 3 of columns 2, 3, 6 and 7: whether a process's part of the distributed array is what the standard says. */
static int is_part(const unsigned char *whole, const unsigned char *packed)
{
    static const size_t columns[] = {2, 3, 6, 7};
    const size_t rows = 4 * sizeof(int);
    for (int i = 0; i < 4; i++)
        if (memcmp(packed + i * rows, whole + columns[i] * 2 * rows, rows) != 0) return 0;
    return 1;
}

static int strict;

static uint64_t round_of(long round, int index)
{
    /* Room on both sides: a resized type starts below its buffer. */
    static unsigned char out[2 * ROOM], in[2 * ROOM], packed[2 * ROOM], mask[2 * ROOM], ones[2 * ROOM];
    MPI_Datatype type = types[index];
    int right = (world_rank + 1) % world_size, left = (world_rank + world_size - 1) % world_size;
    int size, got, elements, position = 0, integers, addresses, datatypes, combiner;
    MPI_Aint low, extent;
    MPI_Status status;
    uint64_t seed = fold(fold((uint64_t)round, (uint64_t)index), (uint64_t)left);

    MPI_Type_size(type, &size);
    MPI_Type_get_extent(type, &low, &extent);
    fill(out, sizeof out, fold(fold((uint64_t)round, (uint64_t)index), (uint64_t)world_rank));
    memset(in, 0, sizeof in);
    MPI_Request request;
    MPI_Irecv(in + 64, 1, type, left, index, MPI_COMM_WORLD, &request);
    MPI_Send(out + 64, 1, type, right, index, MPI_COMM_WORLD);
    MPI_Wait(&request, &status);
    MPI_Get_count(&status, type, &got);
    MPI_Get_elements(&status, type, &elements);
    CHECK(got == 1 && elements > 0, "type %d: count %d, %d elements", index, got, elements);

    /* The mask of the type's own bytes, from unpacking ones. */
    memset(ones, 0xff, sizeof ones);
    memset(mask, 0, sizeof mask);
    MPI_Unpack(ones, size + 64, &position, mask + 64, 1, type, MPI_COMM_WORLD);
    size_t covered = 0;
    fill(packed, sizeof packed, seed);
    for (size_t i = 0; i < sizeof in; i++) {
        covered += mask[i] == 0xff;
        CHECK(in[i] == (mask[i] ? packed[i] : 0), "type %d: byte %zu of rank %d's message", index, i, left);
    }
    CHECK(covered == (size_t)size, "type %d: %zu bytes covered, size %d", index, covered, size);

    MPI_Pack_size(1, type, MPI_COMM_WORLD, &got);
    CHECK(got >= size, "type %d: pack size %d", index, got);
    position = 0;
    MPI_Pack(in + 64, 1, type, packed, sizeof packed, &position, MPI_COMM_WORLD);
    uint64_t hash = 0;
    if (index != 11)
        hash = hash_bytes(packed, (size_t)position);
    else /* Intel MPI 2021.19 takes columns of eight rows. */
        CHECK(is_part(in + 64, packed) || (!strict && library_is("Intel")), "a part of a distributed array");
    memset(out, 0, sizeof out);
    int end = position;
    position = 0;
    MPI_Unpack(packed, end, &position, out + 64, 1, type, MPI_COMM_WORLD);
    CHECK(memcmp(in, out, sizeof in) == 0, "type %d: unpacked otherwise", index);

    MPI_Type_get_envelope(type, &integers, &addresses, &datatypes, &combiner);
    CHECK(combiner == combiners[index], "type %d: combiner %d", index, combiner);
    int ints[32];
    MPI_Aint aints[32];
    MPI_Datatype inner[8];
    MPI_Type_get_contents(type, integers, addresses, datatypes, ints, aints, inner);
    for (int i = 0; i < integers; i++)
        if (index != 11 && index != 8) hash = fold(hash, (uint64_t)ints[i]); /* MPI_ORDER_* and the like differ */
    for (int i = 0; i < addresses; i++) hash = fold(hash, (uint64_t)aints[i]);
    for (int i = 0; i < datatypes; i++) {
        int a, b, c;
        MPI_Type_get_envelope(inner[i], &a, &b, &c, &combiner);
        if (combiner != MPI_COMBINER_NAMED) MPI_Type_free(&inner[i]);
    }
    MPI_Aint true_low, true_extent;
    MPI_Type_get_true_extent(type, &true_low, &true_extent);
    hash = fold(fold(hash, (uint64_t)low), (uint64_t)extent);
    return fold(fold(hash, (uint64_t)true_low), (uint64_t)true_extent);
}

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 150), pause = option(argc, argv, "--pause", 30);
    strict = (int)option(argc, argv, "--right", 0);
    uint64_t hash = 0;
    make();
    /* Made here, committed and first used at the end. */
    MPI_Datatype late;
    MPI_Type_vector(3, 1, 2, MPI_INT, &late);
    for (long round = 0; round < rounds; round++) {
        for (int i = 0; i < TYPES; i++) hash = fold(hash, round_of(round, i));
        /* Made, used and freed between two checkpoints, and across one. */
        MPI_Datatype passing;
        int in[6] = {0}, out[6] = {1, 2, 3, 4, 5, 6};
        MPI_Type_vector(3, 1, 2, MPI_INT, &passing);
        MPI_Type_commit(&passing);
        MPI_Request request;
        int self = world_rank;
        MPI_Irecv(in, 1, passing, self, 99, MPI_COMM_WORLD, &request);
        MPI_Type_free(&passing); /* legal: the pending receive keeps it */
        pause_ms(pause);
        MPI_Send(out, 3, MPI_INT, self, 99, MPI_COMM_WORLD);
        MPI_Wait(&request, MPI_STATUS_IGNORE);
        CHECK(in[0] == 1 && in[2] == 2 && in[4] == 3 && in[1] == 0, "a freed type was lost");
    }
    int spread[6] = {1, 0, 2, 0, 3, 0}, close[3] = {0};
    MPI_Type_commit(&late);
    MPI_Sendrecv(spread, 1, late, world_rank, 98, close, 3, MPI_INT, world_rank, 98, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    CHECK(close[0] == 1 && close[1] == 2 && close[2] == 3, "a type that was committed late");
    MPI_Type_free(&late);
    for (int i = 0; i < TYPES; i++) MPI_Type_free(&types[i]);
    return finish(hash);
}
