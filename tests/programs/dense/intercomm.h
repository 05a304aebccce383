/* Part of dense.c: two sides and an inter-communicator between them. Messages of one round are received in the next
 * one, non-blocking collectives stay open over rounds, communicators are made of it and freed. */
#ifndef MANA_TEST_DENSE_INTERCOMM_H
#define MANA_TEST_DENSE_INTERCOMM_H

#include "../common.h"

enum { INTER_MOST = 8, INTER_WORDS = 200 };

static struct {
    struct random plan;
    int side, rank, size, far; /* of this side; ranks on the other */
    MPI_Comm local, both, copy, merged, halves;
    MPI_Request sends[INTER_MOST], open[3], persistent[2];
    uint64_t data[INTER_MOST][INTER_WORDS], out[4], in[4];
    uint64_t word, words[INTER_MOST], sum_in, sum_out;
    long sent, opened; /* round, or -1 */
    int partner;
    uint64_t hash;
} inter;

static uint64_t inter_value(int side, int rank, long round, int at)
{
    return mix((uint64_t)(side * 1000003 + rank * 4099 + at) ^ (uint64_t)round << 24);
}

static void inter_write(uint64_t *to, int count, int side, int rank, long round)
{
    for (int i = 0; i < count; i++) to[i] = inter_value(side, rank, round, i);
}

static void inter_check(const uint64_t *got, int count, int side, int rank, long round, const char *what)
{
    for (int i = 0; i < count; i++)
        CHECK(got[i] == inter_value(side, rank, round, i), "%s between the sides, round %ld, word %d of rank %d of side %d", what, round,
              i, rank, side);
}

static void inter_send(long round)
{
    for (int to = 0; to < inter.far; to++) {
        inter_write(inter.data[to], INTER_WORDS, inter.side, inter.rank, round);
        int count = to % 2 ? INTER_WORDS : 3, tag = (int)(round % 100);
        if (round % 3 == 0) MPI_Issend(inter.data[to], count, MPI_UINT64_T, to, tag, inter.both, &inter.sends[to]);
        else MPI_Isend(inter.data[to], count, MPI_UINT64_T, to, tag, inter.both, &inter.sends[to]);
    }
    inter.sent = round;
}

static void inter_receive(void)
{
    static uint64_t got[INTER_WORDS];
    long round = inter.sent;
    int tag = (int)(round % 100), seen[INTER_MOST] = {0};
    if (round < 0) return;
    for (int i = 0; i < inter.far; i++) {
        MPI_Status status;
        MPI_Message message;
        int count;
        switch (round % 4) {
        case 0: MPI_Recv(got, INTER_WORDS, MPI_UINT64_T, i, MPI_ANY_TAG, inter.both, &status); break;
        case 1: MPI_Recv(got, INTER_WORDS, MPI_UINT64_T, MPI_ANY_SOURCE, tag, inter.both, &status); break;
        case 2:
            MPI_Probe(MPI_ANY_SOURCE, tag, inter.both, &status);
            MPI_Recv(got, INTER_WORDS, MPI_UINT64_T, status.MPI_SOURCE, tag, inter.both, &status);
            break;
        default:
            MPI_Mprobe(MPI_ANY_SOURCE, tag, inter.both, &message, &status);
            MPI_Mrecv(got, INTER_WORDS, MPI_UINT64_T, &message, &status);
        }
        MPI_Get_count(&status, MPI_UINT64_T, &count);
        CHECK(status.MPI_TAG == tag && count == (inter.rank % 2 ? INTER_WORDS : 3), "tag %d, %d words", status.MPI_TAG, count);
        CHECK(seen[status.MPI_SOURCE]++ == 0, "two messages of rank %d", status.MPI_SOURCE);
        inter_check(got, count, 1 - inter.side, status.MPI_SOURCE, round, "a message");
        inter.hash += got[0]; /* in any order */
    }
    MPI_Waitall(inter.far, inter.sends, MPI_STATUSES_IGNORE);
    inter.sent = -1;
}

/* The root as this process has to name it. */
static int inter_root(int side, int root)
{
    if (inter.side != side) return root;
    return inter.rank == root ? MPI_ROOT : MPI_PROC_NULL;
}

static void inter_collective(long round)
{
    uint64_t mine[8 * INTER_MOST], all[8 * INTER_MOST], sum[2] = {(uint64_t)inter.rank + 1, (uint64_t)round}, found[2] = {0, 0};
    int kind = (int)below(&inter.plan, 7), side = (int)below(&inter.plan, 2), roots = inter.side == side ? inter.size : inter.far;
    int root = (int)(next(&inter.plan) % (unsigned)roots), named = inter_root(side, root), takes = inter.side != side;
    int is_root = named == MPI_ROOT, others = inter.far;
    memset(all, 0, sizeof all);
    inter_write(mine, 8, inter.side, inter.rank, round);
    switch (kind) {
    case 0:
        if (is_root) memcpy(all, mine, 64);
        MPI_Bcast(all, 8, MPI_UINT64_T, named, inter.copy);
        if (takes) inter_check(all, 8, side, root, round, "MPI_Bcast");
        break;
    case 1:
        MPI_Gather(mine, 5, MPI_UINT64_T, all, 5, MPI_UINT64_T, named, inter.copy);
        for (int i = 0; is_root && i < others; i++) inter_check(all + 5 * i, 5, 1 - side, i, round, "MPI_Gather");
        break;
    case 2:
        for (int i = 0; is_root && i < others; i++) inter_write(all + 5 * i, 5, side, i, round);
        MPI_Scatter(all, 5, MPI_UINT64_T, mine, 5, MPI_UINT64_T, named, inter.copy);
        if (takes) inter_check(mine, 5, side, inter.rank, round, "MPI_Scatter");
        break;
    case 3:
        MPI_Reduce(sum, found, 2, MPI_UINT64_T, MPI_SUM, named, inter.copy);
        if (is_root) CHECK(found[0] == (uint64_t)(others * (others + 1) / 2) && found[1] == (uint64_t)(others * round), "MPI_Reduce");
        break;
    case 4:
        MPI_Allgather(mine, 4, MPI_UINT64_T, all, 4, MPI_UINT64_T, inter.copy);
        for (int i = 0; i < others; i++) inter_check(all + 4 * i, 4, 1 - inter.side, i, round, "MPI_Allgather");
        break;
    case 5:
        MPI_Allreduce(sum, found, 2, MPI_UINT64_T, MPI_SUM, inter.copy);
        CHECK(found[0] == (uint64_t)(others * (others + 1) / 2) && found[1] == (uint64_t)(others * round), "MPI_Allreduce");
        break;
    default:
        for (int i = 0; i < others; i++) mine[i] = inter_value(inter.side, inter.rank, round, 100 + i);
        MPI_Alltoall(mine, 1, MPI_UINT64_T, all, 1, MPI_UINT64_T, inter.copy);
        for (int i = 0; i < others; i++) CHECK(all[i] == inter_value(1 - inter.side, i, round, 100 + inter.rank), "MPI_Alltoall");
    }
    inter.hash = fold(inter.hash, fold(hash_bytes(all, sizeof all), found[0]));
}

static void inter_close(void)
{
    if (inter.opened < 0) return;
    MPI_Waitall(3, inter.open, MPI_STATUSES_IGNORE);
    for (int i = 0; i < inter.far; i++) inter_check(&inter.words[i], 1, 1 - inter.side, i, inter.opened, "MPI_Iallgather");
    CHECK(inter.sum_out == (uint64_t)(inter.far * (inter.far + 1) / 2) * (uint64_t)(inter.opened + 1), "MPI_Iallreduce between the sides");
    inter.hash = fold(inter.hash, inter.sum_out);
    inter.opened = -1;
}

static void inter_open(long round)
{
    inter.opened = round, inter.word = inter_value(inter.side, inter.rank, round, 0);
    MPI_Iallgather(&inter.word, 1, MPI_UINT64_T, inter.words, 1, MPI_UINT64_T, inter.halves, &inter.open[0]);
    inter.sum_in = (uint64_t)(inter.rank + 1) * (uint64_t)(round + 1);
    MPI_Iallreduce(&inter.sum_in, &inter.sum_out, 1, MPI_UINT64_T, MPI_SUM, inter.halves, &inter.open[1]);
    MPI_Ibarrier(inter.halves, &inter.open[2]);
}

static void inter_begin(uint64_t seed)
{
    int n = world_size, rank;
    inter.plan.state = mix(seed + 303), inter.sent = inter.opened = -1;
    inter.side = world_rank % 2;
    MPI_Comm_split(MPI_COMM_WORLD, inter.side, -world_rank, &inter.local); /* ranks in reverse */
    MPI_Comm_rank(inter.local, &inter.rank);
    MPI_Comm_size(inter.local, &inter.size);
    inter.far = n - inter.size;
    CHECK(n >= 2 && n <= INTER_MOST, "2 to %d ranks", INTER_MOST);
    MPI_Intercomm_create(inter.local, inter.size - 1, MPI_COMM_WORLD, 1 - inter.side, 7, &inter.both); /* world ranks 0 and 1 lead */
    MPI_Comm_dup(inter.both, &inter.copy);
    MPI_Comm_split(inter.both, 0, inter.rank, &inter.halves);
    MPI_Intercomm_merge(inter.both, inter.side == 1, &inter.merged);
    MPI_Comm_rank(inter.merged, &rank);
    CHECK(rank == (inter.side == 0 ? inter.rank : inter.far + inter.rank), "rank %d of the merged ones", rank);
    inter.partner = inter.rank < inter.far ? inter.rank : MPI_PROC_NULL;
    MPI_Send_init(inter.out, 4, MPI_UINT64_T, inter.partner, 77, inter.copy, &inter.persistent[0]);
    MPI_Recv_init(inter.in, 4, MPI_UINT64_T, inter.partner, 77, inter.copy, &inter.persistent[1]);
}

static void inter_round(long round)
{
    MPI_Comm fresh;
    int found;
    if (below(&inter.plan, 2)) return;
    inter_receive();
    inter_send(round);
    inter_write(inter.out, 4, inter.side, inter.rank, round);
    MPI_Startall(2, inter.persistent);
    inter_collective(round);
    if (below(&inter.plan, 3) == 0) inter_close(), inter_open(round);
    MPI_Waitall(2, inter.persistent, MPI_STATUSES_IGNORE);
    if (inter.partner != MPI_PROC_NULL) inter_check(inter.in, 4, 1 - inter.side, inter.partner, round, "a persistent message");
    if (below(&inter.plan, 8) == 0) {
        MPI_Scan(&world_rank, &found, 1, MPI_INT, MPI_SUM, inter.merged);
        inter.hash = fold(inter.hash, (uint64_t)found);
    }
    if (below(&inter.plan, 24) == 0) {
        MPI_Comm_dup(inter.both, &fresh);
        MPI_Comm_remote_size(fresh, &found);
        CHECK(found == inter.far, "%d ranks on the other side", found);
        MPI_Comm_free(&fresh);
    }
}

static uint64_t inter_end(void)
{
    inter_close();
    inter_receive();
    MPI_Request_free(&inter.persistent[0]), MPI_Request_free(&inter.persistent[1]);
    MPI_Comm_free(&inter.halves), MPI_Comm_free(&inter.merged), MPI_Comm_free(&inter.copy), MPI_Comm_free(&inter.both);
    MPI_Comm_free(&inter.local);
    return inter.hash;
}

#endif
