/* Objects that come and go: communicators duplicated and freed, also by groups and of parts, windows, files, attribute keys,
 * operations. What has been freed everywhere must not be kept: neither memory nor handles may grow. One of the duplicates is
 * freed by one rank long before the others, and one never. Duplicates that are refused leave nothing behind either.
 *   churn [--rounds N] [--pause MS] [--inter N] [--windows N] [--files N] [--refusals N] [--most KIB] [--show 1] */
#include "common.h"

enum { PARTS = 4 };

static long most, show;

static void grown(const char *what, long before, int highest)
{
    long now = resident();
    if (show && world_rank == 0) fprintf(stderr, "%s: %ld KiB, then %ld; highest handle %d\n", what, before, now, highest);
    CHECK(now - before <= most, "%s: %ld KiB have become %ld", what, before, now);
    CHECK(highest < 256, "%s: a handle of number %d", what, highest);
}

/* The place of a handle among its kind, in the libraries and under us. */
static int place(MPI_Comm comm) { return MPI_Comm_c2f(comm) & 0xffff; }

static int largest(int a, int b) { return a > b ? a : b; }

/* One round: a duplicate, parts of it, one of a group of its. */
static uint64_t one(MPI_Comm comm, long round, int *highest)
{
    MPI_Comm copy, part, of_group;
    MPI_Group all, some;
    int ranks[] = {0, 1}, word = (int)round + world_rank, sum;
    MPI_Comm_dup(comm, &copy);
    MPI_Allreduce(&word, &sum, 1, MPI_INT, MPI_SUM, copy);
    *highest = largest(*highest, place(copy));
    if (round % 4 == 0) {
        MPI_Comm_split(copy, (world_rank + (int)round) % 2, 0, &part);
        *highest = largest(*highest, place(part));
        MPI_Comm_free(&part);
        MPI_Comm_group(copy, &all);
        MPI_Group_incl(all, 2, ranks, &some);
        if (world_rank < 2) {
            MPI_Comm_create_group(copy, some, 7, &of_group);
            MPI_Comm_free(&of_group);
        }
        MPI_Group_free(&some);
        MPI_Group_free(&all);
    }
    MPI_Comm_free(&copy);
    return (uint64_t)sum;
}

static int keep(MPI_Comm comm, int key, void *extra, void *value, void *out, int *flag)
{
    (void)comm, (void)key, (void)extra;
    *(void **)out = value;
    *flag = 1;
    return MPI_SUCCESS;
}

static int refuse(MPI_Comm comm, int key, void *extra, void *value, void *out, int *flag)
{
    (void)comm, (void)key, (void)extra, (void)value, (void)out, (void)flag;
    return MPI_ERR_TOPOLOGY;
}

static void add(void *in, void *inout, int *length, MPI_Datatype *type)
{
    (void)type;
    for (int i = 0; i < *length; i++) ((int *)inout)[i] += ((int *)in)[i];
}

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 2500), pause = option(argc, argv, "--pause", 30);
    long inter_rounds = option(argc, argv, "--inter", 3000), windows = option(argc, argv, "--windows", 200), files = option(argc, argv, "--files", 200);
    long refusals = option(argc, argv, "--refusals", 2200);
    most = option(argc, argv, "--most", library_is("Intel") ? 2500 : 1000), show = option(argc, argv, "--show", 0);
    CHECK(world_size >= 2, "needs 2 ranks");
    MPI_Comm comm, early, never, inter, half;
    MPI_Comm_dup(MPI_COMM_WORLD, &comm);
    MPI_Comm_dup(comm, &early);
    MPI_Comm_dup(comm, &never);
    if (world_rank == 1) MPI_Comm_free(&early);
    uint64_t hash = 0;
    int highest = 0;
    long before = 0;
    for (long round = 0; round < rounds; round++) {
        if (round == rounds / 6) before = resident();
        hash = fold(hash, one(comm, round, &highest));
        if (round % (rounds / 40 + 1) == 0) pause_ms(pause);
    }
    grown("communicators", before, highest);
    if (world_rank != 1) MPI_Comm_free(&early);

    /* Inter-communicators. With three ranks one of them is a side by itself. */
    MPI_Comm_split(comm, world_rank % 2, 0, &half);
    for (long round = 0; round < inter_rounds; round++) {
        if (round == inter_rounds / 6) before = resident();
        MPI_Intercomm_create(half, 0, comm, 1 - world_rank % 2, 3, &inter);
        highest = largest(highest, place(inter));
        MPI_Comm_free(&inter);
    }
    MPI_Comm_free(&half);
    grown("inter-communicators", before, highest);

    /* Windows: each has a communicator of its own under us. */
    for (long round = 0; round < windows; round++) {
        MPI_Win win;
        static int cell[4];
        if (round == windows / 4) before = resident();
        MPI_Win_create(cell, sizeof cell, sizeof *cell, MPI_INFO_NULL, comm, &win);
        MPI_Win_fence(0, win);
        int word = (int)round;
        MPI_Put(&word, 1, MPI_INT, (world_rank + 1) % world_size, 1, 1, MPI_INT, win);
        MPI_Win_fence(0, win);
        CHECK(cell[1] == word, "%d in round %ld", cell[1], round);
        highest = largest(highest, MPI_Win_c2f(win) & 0xffff);
        MPI_Win_free(&win);
        if (round % (windows / 8 + 1) == 0) pause_ms(pause);
    }
    grown("windows", before, highest);

    /* Files: the same. */
    char name[64];
    snprintf(name, sizeof name, "churn.%d", world_size);
    for (long round = 0; round < files; round++) {
        MPI_File file;
        int word = (int)round * 10 + world_rank, back = -1;
        if (round == files / 4) before = resident();
        MPI_File_open(comm, name, MPI_MODE_CREATE | MPI_MODE_RDWR, MPI_INFO_NULL, &file);
        MPI_File_write_at(file, 4 * world_rank, &word, 1, MPI_INT, MPI_STATUS_IGNORE);
        MPI_File_read_at(file, 4 * world_rank, &back, 1, MPI_INT, MPI_STATUS_IGNORE);
        CHECK(back == word, "%d read in round %ld", back, round);
        MPI_File_close(&file);
        if (round % (files / 8 + 1) == 0) pause_ms(pause);
    }
    grown("files", before, highest);
    MPI_Barrier(comm);
    if (world_rank == 0) unlink(name);

    /* Keys, operations. */
    for (long round = 0; round < rounds; round++) {
        int key, flag, word = 1, sum;
        void *value;
        MPI_Op op;
        if (round == rounds / 6) before = resident();
        MPI_Comm_create_keyval(keep, MPI_COMM_NULL_DELETE_FN, &key, NULL);
        MPI_Comm_set_attr(comm, key, &word);
        MPI_Comm_get_attr(comm, key, &value, &flag);
        CHECK(flag && value == &word, "an attribute in round %ld", round);
        MPI_Comm_delete_attr(comm, key);
        MPI_Comm_free_keyval(&key);
        MPI_Op_create(add, 1, &op);
        if (round % 16 == 0) {
            MPI_Allreduce(&word, &sum, 1, MPI_INT, op, comm);
            CHECK(sum == world_size, "%d of %d", sum, world_size);
        }
        MPI_Op_free(&op);
    }
    grown("keys and operations", before, highest);

    /* Duplicates that are refused by the function that copies an attribute: more than MPICH can have communicators. */
    int refused;
    MPI_Comm_create_keyval(refuse, MPI_COMM_NULL_DELETE_FN, &refused, NULL);
    MPI_Comm_set_attr(never, refused, &hash);
    MPI_Comm_set_errhandler(never, MPI_ERRORS_RETURN);
    for (long round = 0; round < refusals; round++) {
        MPI_Comm copy = never;
        MPI_Request request = MPI_REQUEST_NULL;
        if (round == refusals / 6) before = resident();
        int code = round % 8 ? MPI_Comm_dup(never, &copy) : MPI_Comm_idup(never, &copy, &request);
        CHECK(code == MPI_ERR_TOPOLOGY && copy == MPI_COMM_NULL && request == MPI_REQUEST_NULL, "duplicate %ld: code %d", round, code);
    }
    MPI_Comm_set_errhandler(never, MPI_ERRORS_ARE_FATAL);
    MPI_Comm_delete_attr(never, refused);
    MPI_Comm_free_keyval(&refused);
    grown("refused duplicates", before, highest);
    hash = fold(hash, one(never, 1, &highest));
    MPI_Comm_free(&comm);
    return finish(hash);
}
