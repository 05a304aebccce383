/* Partitioned communication: requests made once; partitions are declared ready one by one, by list and by range, some before
 * and some after a pause in which a checkpoint may come; two of the same envelope; also across an inter-communicator. At the
 * end so many between each pair that any two could be taken for each other, received in another order than sent, and some
 * received before the other side has made them.
 * Open MPI 5.0.11 itself starts nothing of this by MPI_Startall, and says in MPI_Test that a send is complete before its last
 * partition is ready: --single 1 does without both.
 *   partitioned [--rounds N] [--pause MS] [--many N] [--single 1] */
#include "common.h"

enum { PARTS = 6, EACH = 50, CHANNELS = 4 };

static int single;

static void start_all(int count, MPI_Request *requests)
{
    if (!single) MPI_Startall(count, requests);
    for (int i = 0; single && i < count; i++) MPI_Start(&requests[i]);
}

static uint64_t word(int from, long seed, int at) { return mix((uint64_t)(from * 100003 + at) ^ (uint64_t)seed << 24); }

/* `n` requests each way, of one word: all that are received are started first, and made first on one rank. */
static uint64_t many(MPI_Comm comm, int n, int right, int left, long pause)
{
    MPI_Request *all = malloc(2 * (size_t)n * sizeof *all), *sends = all + n;
    uint64_t *words = malloc(2 * (size_t)n * sizeof *words), *out = words + n, hash = 0;
    for (int i = 0; i < n; i++) MPI_Precv_init(&words[i], 1, 1, MPI_UINT64_T, left, i / 2, comm, MPI_INFO_NULL, &all[i]);
    if (world_rank == 0) {
        start_all(n, all);
        pause_ms(pause);
    }
    for (int i = 0; i < n; i++) MPI_Psend_init(&out[i], 1, 1, MPI_UINT64_T, right, i / 2, comm, MPI_INFO_NULL, &sends[i]);
    for (int time = 0; time < 2; time++) {
        if (world_rank > 0 || time) start_all(n, all);
        for (int i = n - 1; i >= 0; i--) {
            out[i] = word(world_rank, 70 + time, i);
            MPI_Start(&sends[i]);
            MPI_Pready(0, sends[i]);
        }
        if (time == 0 && world_rank == 1) pause_ms(pause);
        MPI_Waitall(2 * n, all, MPI_STATUSES_IGNORE);
        for (int i = 0; i < n; i++) {
            CHECK(words[i] == word(left, 70 + time, i), "request %d of many, started %d times", i, time + 1);
            hash = fold(hash, words[i]);
        }
    }
    for (int i = 0; i < 2 * n; i++) MPI_Request_free(&all[i]);
    free(all), free(words);
    return hash;
}

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 60), pause = option(argc, argv, "--pause", 80);
    int several = (int)option(argc, argv, "--many", 3000);
    CHECK(world_size >= 2, "needs 2 ranks");
    single = (int)option(argc, argv, "--single", 0);
    int right = (world_rank + 1) % world_size, left = (world_rank + world_size - 1) % world_size;
    static uint64_t out[CHANNELS][PARTS * EACH], in[CHANNELS][PARTS * EACH];
    MPI_Request sends[CHANNELS], receives[CHANNELS];
    MPI_Comm comm, local, inter;
    MPI_Comm_dup(MPI_COMM_WORLD, &comm);
    MPI_Comm_split(comm, world_rank == 0, 0, &local);
    MPI_Intercomm_create(local, 0, comm, world_rank == 0, 3, &inter);
    /* Two with the same envelope match in the order they are made; the third has other partitions on each side. */
    for (int c = 0; c < 2; c++) {
        MPI_Psend_init(out[c], PARTS, EACH, MPI_UINT64_T, right, 5, comm, MPI_INFO_NULL, &sends[c]);
        MPI_Precv_init(in[c], PARTS, EACH, MPI_UINT64_T, left, 5, comm, MPI_INFO_NULL, &receives[c]);
    }
    MPI_Psend_init(out[2], PARTS, EACH, MPI_UINT64_T, right, 6, comm, MPI_INFO_NULL, &sends[2]);
    MPI_Precv_init(in[2], 1, PARTS * EACH, MPI_UINT64_T, left, 6, comm, MPI_INFO_NULL, &receives[2]);
    int across = world_rank < 2; /* world ranks 0 and 1 are the first of their sides */
    int channels = across ? CHANNELS : CHANNELS - 1;
    if (across) {
        MPI_Psend_init(out[3], PARTS, EACH, MPI_UINT64_T, 0, 7, inter, MPI_INFO_NULL, &sends[3]);
        MPI_Precv_init(in[3], PARTS, EACH, MPI_UINT64_T, 0, 7, inter, MPI_INFO_NULL, &receives[3]);
    }

    uint64_t hash = 0;
    for (long round = 0; round < rounds; round++) {
        for (int c = 0; c < CHANNELS; c++) memset(in[c], 0, sizeof in[c]);
        if (round % 2) start_all(channels, receives);
        start_all(channels, sends);
        for (int p = 0; p < PARTS; p++) {
            int part = (p * 5 + (int)round) % PARTS; /* in another order each time */
            for (int c = 0; c < CHANNELS; c++)
                for (int i = 0; i < EACH; i++) out[c][part * EACH + i] = word(world_rank, round * 8 + c, part * EACH + i);
            MPI_Pready(part, sends[0]);
            if (p == PARTS / 2) pause_ms(pause);
        }
        if (round % 2 == 0) start_all(channels, receives);
        int list[PARTS - 2] = {5, 0, 2, 4}, flag = 0;
        MPI_Pready_list(PARTS - 2, list, sends[1]);
        MPI_Pready(1, sends[1]);
        if (!single) MPI_Test(&sends[1], &flag, MPI_STATUS_IGNORE);
        CHECK(!flag, "complete without its last partition");
        MPI_Pready(3, sends[1]);
        MPI_Pready_range(0, 2, sends[2]), MPI_Pready_range(3, PARTS - 1, sends[2]);
        if (across) MPI_Pready_range(0, PARTS - 1, sends[3]);
        do MPI_Parrived(receives[0], PARTS - 1, &flag);
        while (!flag);
        CHECK(in[0][PARTS * EACH - 1] == word(left, round * 8, PARTS * EACH - 1), "a partition that has arrived");
        MPI_Waitall(channels, receives, MPI_STATUSES_IGNORE);
        MPI_Waitall(channels, sends, MPI_STATUSES_IGNORE);
        for (int c = 0; c < channels; c++) {
            int from = c < 3 ? left : 1 - world_rank;
            for (int i = 0; i < PARTS * EACH; i++)
                CHECK(in[c][i] == word(from, round * 8 + c, i), "channel %d, word %d, round %ld", c, i, round);
            hash = fold(hash, in[c][0]);
        }
    }
    for (int c = 0; c < channels; c++) MPI_Request_free(&sends[c]), MPI_Request_free(&receives[c]);
    hash = fold(hash, many(comm, several, right, left, 20 * pause));
    MPI_Comm_free(&inter), MPI_Comm_free(&local), MPI_Comm_free(&comm);
    return finish(hash);
}
