/* Inter-communicators: made before, used across and freed after checkpoints. Every collective form on them, messages that
 * stay in flight from one round to the next, duplicates, splits, subsets, merges, and a new one in every round.
 *   intercomm [--rounds N] [--pause MS] */
#include "common.h"

enum { WORDS = 300, SIDES = 2 };

static int side, rank, size, far_size; /* of the first inter-communicator */

static uint64_t value(int of_side, int of_rank, long round, int at)
{
    return mix((uint64_t)(of_side * 1000003 + of_rank * 4099 + at) ^ (uint64_t)round << 24);
}

static void words(uint64_t *to, int count, int of_side, int of_rank, long round)
{
    for (int i = 0; i < count; i++) to[i] = value(of_side, of_rank, round, i);
}

static void check_words(const uint64_t *got, int count, int of_side, int of_rank, long round, const char *what)
{
    for (int i = 0; i < count; i++)
        CHECK(got[i] == value(of_side, of_rank, round, i), "%s, round %ld, word %d of rank %d of side %d", what, round, i, of_rank,
              of_side);
}

/* The root as this process has to name it. */
static int root_of(int root_side, int root)
{
    if (side != root_side) return root;
    return rank == root ? MPI_ROOT : MPI_PROC_NULL;
}

static uint64_t rooted(MPI_Comm inter, long round)
{
    static uint64_t mine[WORDS * 8], all[WORDS * 8];
    uint64_t hash = 0;
    for (int root_side = 0; root_side < SIDES; root_side++) {
        int roots = side == root_side ? size : far_size, root = (int)(round % roots), named = root_of(root_side, root);
        int others = side == root_side ? far_size : size, is_root = named == MPI_ROOT, takes = side != root_side;

        if (is_root) words(all, WORDS, root_side, root, round);
        MPI_Bcast(all, WORDS, MPI_UINT64_T, named, inter);
        if (takes) check_words(all, WORDS, root_side, root, round, "MPI_Bcast"), hash = fold(hash, hash_bytes(all, sizeof(uint64_t) * WORDS));

        if (takes) words(mine, 5, side, rank, round);
        memset(all, 0, sizeof all);
        MPI_Gather(mine, 5, MPI_UINT64_T, all, 5, MPI_UINT64_T, named, inter);
        for (int i = 0; is_root && i < others; i++) check_words(all + 5 * i, 5, 1 - side, i, round, "MPI_Gather");

        int counts[8], places[8], far_side = 1 - root_side;
        for (int i = 0, at = 0; i < others && i < 8; i++) counts[i] = 3 + i, places[i] = at, at += 4 + i;
        if (takes) words(mine, 3 + rank, side, rank, round);
        MPI_Gatherv(mine, 3 + rank, MPI_UINT64_T, all, counts, places, MPI_UINT64_T, named, inter);
        for (int i = 0; is_root && i < others; i++) check_words(all + places[i], counts[i], far_side, i, round, "MPI_Gatherv");

        for (int i = 0; is_root && i < others; i++) words(all + 5 * i, 5, root_side, i, round);
        MPI_Scatter(all, 5, MPI_UINT64_T, mine, 5, MPI_UINT64_T, named, inter);
        if (takes) check_words(mine, 5, root_side, rank, round, "MPI_Scatter"), hash = fold(hash, mine[0]);

        for (int i = 0; is_root && i < others; i++) words(all + places[i], counts[i], root_side, i, round + 7);
        MPI_Scatterv(all, counts, places, MPI_UINT64_T, mine, 3 + rank, MPI_UINT64_T, named, inter);
        if (takes) check_words(mine, 3 + rank, root_side, rank, round + 7, "MPI_Scatterv");

        uint64_t part[2] = {(uint64_t)(rank + 1), (uint64_t)round}, sum[2] = {0, 0};
        MPI_Reduce(part, sum, 2, MPI_UINT64_T, MPI_SUM, named, inter);
        if (is_root) {
            CHECK(sum[0] == (uint64_t)(others * (others + 1) / 2) && sum[1] == (uint64_t)(others * round), "MPI_Reduce: %llu",
                  (unsigned long long)sum[0]);
            hash = fold(hash, sum[0]);
        }
    }
    return hash;
}

static uint64_t symmetric(MPI_Comm inter, long round)
{
    static uint64_t mine[64 * 8], all[64 * 8];
    int far = 1 - side, ones[8], places[8], bytes[8], byte_places[8];
    MPI_Datatype types[8];
    words(mine, 4, side, rank, round);
    MPI_Allgather(mine, 4, MPI_UINT64_T, all, 4, MPI_UINT64_T, inter);
    for (int i = 0; i < far_size; i++) check_words(all + 4 * i, 4, far, i, round, "MPI_Allgather");
    uint64_t hash = hash_bytes(all, sizeof(uint64_t) * 4 * (size_t)far_size);

    for (int i = 0, at = 0; i < far_size; i++) ones[i] = i + 1, places[i] = at, at += i + 2;
    MPI_Allgatherv(mine, rank + 1, MPI_UINT64_T, all, ones, places, MPI_UINT64_T, inter);
    for (int i = 0; i < far_size; i++) check_words(all + places[i], i + 1, far, i, round, "MPI_Allgatherv");

    for (int i = 0; i < far_size; i++) mine[i] = value(side, rank, round, 100 + i);
    MPI_Alltoall(mine, 1, MPI_UINT64_T, all, 1, MPI_UINT64_T, inter);
    for (int i = 0; i < far_size; i++) CHECK(all[i] == value(far, i, round, 100 + rank), "MPI_Alltoall, round %ld", round);
    memset(all, 0, sizeof all);
    for (int i = 0; i < far_size; i++) ones[i] = 1, places[i] = i;
    MPI_Alltoallv(mine, ones, places, MPI_UINT64_T, all, ones, places, MPI_UINT64_T, inter);
    for (int i = 0; i < far_size; i++) CHECK(all[i] == value(far, i, round, 100 + rank), "MPI_Alltoallv, round %ld", round);
    memset(all, 0, sizeof all);
    for (int i = 0; i < far_size; i++) bytes[i] = 8, byte_places[i] = 8 * i, types[i] = MPI_BYTE;
    MPI_Alltoallw(mine, bytes, byte_places, types, all, bytes, byte_places, types, inter);
    for (int i = 0; i < far_size; i++) CHECK(all[i] == value(far, i, round, 100 + rank), "MPI_Alltoallw, round %ld", round);

    int least = rank + (int)(round % 3) * 10, found = -1;
    MPI_Allreduce(&least, &found, 1, MPI_INT, MPI_MAX, inter);
    CHECK(found == far_size - 1 + (int)(round % 3) * 10, "MPI_Allreduce: %d", found);

    /* Each side scatters what the other side has reduced: the total length is the same on both. */
    int total = size * far_size, counts[8];
    for (int i = 0; i < size; i++) counts[i] = far_size;
    for (int i = 0; i < total; i++) mine[i] = (uint64_t)(rank + 1) * (uint64_t)(i + 1);
    MPI_Reduce_scatter(mine, all, counts, MPI_UINT64_T, MPI_SUM, inter);
    for (int i = 0; i < far_size; i++)
        CHECK(all[i] == (uint64_t)(far_size * (far_size + 1) / 2 * (rank * far_size + i + 1)), "MPI_Reduce_scatter: %llu",
              (unsigned long long)all[i]);
    memset(all, 0, sizeof all);
    MPI_Reduce_scatter_block(mine, all, far_size, MPI_UINT64_T, MPI_SUM, inter);
    for (int i = 0; i < far_size; i++)
        CHECK(all[i] == (uint64_t)(far_size * (far_size + 1) / 2 * (rank * far_size + i + 1)), "MPI_Reduce_scatter_block: %llu",
              (unsigned long long)all[i]);
    MPI_Barrier(inter);
    return fold(hash, (uint64_t)found);
}

/* Non-blocking collectives that are started in one round and completed in the next. */
struct open {
    MPI_Request requests[4];
    uint64_t sent[4], gathered[8], sum_in, sum_out;
    long round;
    int active;
};

static void open_some(struct open *o, MPI_Comm inter, long round)
{
    o->round = round, o->active = 1;
    int root_side = (int)(round % 2), named = root_of(root_side, 0);
    if (named == MPI_ROOT) words(o->sent, 2, root_side, 0, round);
    MPI_Ibcast(o->sent, 2, MPI_UINT64_T, named, inter, &o->requests[0]);
    words(o->sent + 2, 1, side, rank, round);
    MPI_Iallgather(o->sent + 2, 1, MPI_UINT64_T, o->gathered, 1, MPI_UINT64_T, inter, &o->requests[1]);
    o->sum_in = (uint64_t)(rank + 1) * (uint64_t)(round + 1);
    MPI_Iallreduce(&o->sum_in, &o->sum_out, 1, MPI_UINT64_T, MPI_SUM, inter, &o->requests[2]);
    MPI_Ibarrier(inter, &o->requests[3]);
}

static uint64_t close_all(struct open *o)
{
    if (!o->active) return 0;
    o->active = 0;
    MPI_Waitall(4, o->requests, MPI_STATUSES_IGNORE);
    if (side != (int)(o->round % 2)) check_words(o->sent, 2, 1 - side, 0, o->round, "MPI_Ibcast");
    for (int i = 0; i < far_size; i++) check_words(o->gathered + i, 1, 1 - side, i, o->round, "MPI_Iallgather");
    CHECK(o->sum_out == (uint64_t)(far_size * (far_size + 1) / 2) * (uint64_t)(o->round + 1), "MPI_Iallreduce");
    return o->sum_out;
}

/* Messages of a round are received in the next one. Those of an even tag are received by name, the others by wildcard. */
static void send_all(MPI_Comm inter, long round, MPI_Request *requests, uint64_t (*data)[WORDS])
{
    for (int to = 0; to < far_size; to++) {
        words(data[to], WORDS, side, rank, round);
        int length = to % 2 ? WORDS : 8;
        if (round % 3 == 0)
            MPI_Issend(data[to], length, MPI_UINT64_T, to, (int)(round % 2), inter, &requests[to]);
        else
            MPI_Isend(data[to], length, MPI_UINT64_T, to, (int)(round % 2), inter, &requests[to]);
    }
}

static uint64_t receive_all(MPI_Comm inter, long round)
{
    static uint64_t got[WORDS];
    uint64_t hash = 0;
    int seen[8] = {0};
    for (int i = 0; i < far_size; i++) {
        MPI_Status status;
        int length;
        if (round % 2) {
            MPI_Probe(MPI_ANY_SOURCE, (int)(round % 2), inter, &status);
            MPI_Recv(got, WORDS, MPI_UINT64_T, status.MPI_SOURCE, (int)(round % 2), inter, &status);
        } else if (round % 4) {
            MPI_Message message;
            MPI_Mprobe(i, MPI_ANY_TAG, inter, &message, &status);
            MPI_Mrecv(got, WORDS, MPI_UINT64_T, &message, &status);
        } else {
            MPI_Recv(got, WORDS, MPI_UINT64_T, i, MPI_ANY_TAG, inter, &status);
        }
        CHECK(status.MPI_SOURCE >= 0 && status.MPI_SOURCE < far_size && status.MPI_TAG == (int)(round % 2), "source %d, tag %d",
              status.MPI_SOURCE, status.MPI_TAG);
        CHECK(seen[status.MPI_SOURCE]++ == 0, "two messages of rank %d in round %ld", status.MPI_SOURCE, round);
        MPI_Get_count(&status, MPI_UINT64_T, &length);
        CHECK(length == (rank % 2 ? WORDS : 8), "length %d", length);
        check_words(got, length, 1 - side, status.MPI_SOURCE, round, "a message");
        hash += got[0]; /* the order of arrival is free */
    }
    return mix(hash);
}

static uint64_t ask(MPI_Comm inter, MPI_Comm copy, MPI_Comm local, MPI_Group far_group, int key)
{
    int flag, found, relation, *attribute;
    MPI_Group group;
    char name[MPI_MAX_OBJECT_NAME];
    MPI_Comm_test_inter(inter, &flag);
    CHECK(flag, "no inter-communicator");
    MPI_Comm_test_inter(local, &flag);
    CHECK(!flag, "an intra-communicator is none");
    MPI_Comm_rank(inter, &found);
    CHECK(found == rank, "rank %d", found);
    MPI_Comm_size(inter, &found);
    CHECK(found == size, "size %d", found);
    MPI_Comm_remote_size(inter, &found);
    CHECK(found == far_size, "remote size %d", found);
    MPI_Comm_remote_group(inter, &group);
    MPI_Group_compare(group, far_group, &relation);
    CHECK(relation == MPI_IDENT, "remote group: %d", relation);
    MPI_Group_free(&group);
    MPI_Comm_group(inter, &group);
    MPI_Group_size(group, &found);
    MPI_Group_compare(group, far_group, &relation);
    CHECK(found == size && relation == MPI_UNEQUAL, "local group of %d", found);
    MPI_Group_free(&group);
    MPI_Comm_compare(inter, copy, &relation);
    CHECK(relation == MPI_CONGRUENT, "compared: %d", relation);
    MPI_Comm_compare(inter, local, &relation);
    CHECK(relation == MPI_UNEQUAL, "compared: %d", relation);
    MPI_Comm_get_name(inter, name, &found);
    CHECK(strcmp(name, "both sides") == 0, "name %s", name);
    MPI_Comm_get_attr(copy, key, &attribute, &flag);
    CHECK(flag && attribute == &side, "the attribute of the duplicate");
    return (uint64_t)relation != 0;
}

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 120), pause = option(argc, argv, "--pause", 40);
    CHECK(world_size >= 2 && world_size <= 8, "needs 2 to 8 ranks");
    MPI_Comm local, inter, copy, halves, subset, low, high;
    MPI_Group far_group, group, chosen;
    int key, found;

    side = world_rank % 2;
    MPI_Comm_split(MPI_COMM_WORLD, side, -world_rank, &local); /* ranks in reverse */
    MPI_Comm_rank(local, &rank);
    MPI_Comm_size(local, &size);
    far_size = world_size - size;
    int leader = size - 1, far_leader = 1 - side; /* world ranks 0 and 1 are the last of their sides */
    /* and the first ones are the largest world ranks of each parity */
    int far_first = world_size - 1 - ((world_size - 1) % 2 != 1 - side);
    MPI_Intercomm_create(local, leader, MPI_COMM_WORLD, far_leader, 5, &inter);
    MPI_Comm_set_name(inter, "both sides");
    MPI_Comm_create_keyval(MPI_COMM_DUP_FN, MPI_COMM_NULL_DELETE_FN, &key, NULL);
    MPI_Comm_set_attr(inter, key, &side);
    MPI_Comm_dup(inter, &copy);
    MPI_Comm_remote_group(inter, &far_group);
    MPI_Comm_split(inter, 0, rank, &halves);
    MPI_Comm_group(inter, &group);
    int first[1] = {0};
    MPI_Group_incl(group, 1, first, &chosen);
    MPI_Comm_create(inter, chosen, &subset); /* the first of each side */
    CHECK((subset != MPI_COMM_NULL) == (rank == 0), "the subset");
    MPI_Intercomm_merge(inter, side == 1, &low);
    MPI_Intercomm_merge(copy, side == 0, &high);
    MPI_Comm_rank(low, &found);
    CHECK(found == (side == 0 ? rank : far_size + rank), "rank %d in the merged one", found);

    uint64_t hash = 0;
    struct open open = {.active = 0};
    MPI_Request sends[8], persistent[2];
    static uint64_t data[8][WORDS], fixed_out[4], fixed_in[4];
    int partner = rank % far_size, has_partner = rank < far_size && rank < size;
    MPI_Send_init(fixed_out, 4, MPI_UINT64_T, has_partner ? partner : MPI_PROC_NULL, 77, copy, &persistent[0]);
    MPI_Recv_init(fixed_in, 4, MPI_UINT64_T, has_partner ? partner : MPI_PROC_NULL, 77, copy, &persistent[1]);
    send_all(inter, 0, sends, data);
    for (long round = 0; round < rounds; round++) {
        words(fixed_out, 4, side, rank, round);
        MPI_Startall(2, persistent);
        hash = fold(hash, ask(inter, copy, local, far_group, key));
        hash = fold(hash, receive_all(inter, round));
        MPI_Waitall(far_size, sends, MPI_STATUSES_IGNORE);
        send_all(inter, round + 1, sends, data);
        hash = fold(hash, rooted(copy, round));
        hash = fold(hash, symmetric(inter, round));
        hash = fold(hash, close_all(&open));
        open_some(&open, halves, round);
        MPI_Waitall(2, persistent, MPI_STATUSES_IGNORE);
        if (has_partner) check_words(fixed_in, 4, 1 - side, partner, round, "a persistent message");
        if (subset != MPI_COMM_NULL) {
            int out = rank + (int)round, in = -1;
            MPI_Sendrecv(&out, 1, MPI_INT, 0, 3, &in, 1, MPI_INT, 0, 3, subset, MPI_STATUS_IGNORE);
            CHECK(in == (int)round, "in the subset: %d", in);
        }
        int scanned;
        MPI_Scan(&world_rank, &scanned, 1, MPI_INT, MPI_SUM, round % 2 ? low : high);
        hash = fold(hash, (uint64_t)scanned);
        if (round % 4 == 0) {
            MPI_Comm fresh, merged;
            MPI_Intercomm_create(local, 0, MPI_COMM_WORLD, far_first, 6, &fresh);
            MPI_Intercomm_merge(fresh, 0, &merged);
            MPI_Barrier(merged);
            MPI_Comm_free(&fresh), MPI_Comm_free(&merged);
        }
        pause_ms(pause);
    }
    hash = fold(hash, close_all(&open));
    hash = fold(hash, receive_all(inter, rounds));
    MPI_Waitall(far_size, sends, MPI_STATUSES_IGNORE);
    MPI_Request_free(&persistent[0]), MPI_Request_free(&persistent[1]);
    MPI_Comm_free(&halves), MPI_Comm_free(&low), MPI_Comm_free(&high);
    if (subset != MPI_COMM_NULL) MPI_Comm_free(&subset);
    MPI_Comm_free(&copy);
    MPI_Comm_delete_attr(inter, key);
    MPI_Comm_free_keyval(&key);
    MPI_Comm_disconnect(&inter);
    MPI_Comm_free(&local);
    MPI_Group_free(&far_group), MPI_Group_free(&group), MPI_Group_free(&chosen);
    return finish(hash);
}
