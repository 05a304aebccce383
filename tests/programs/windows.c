/* One-sided communication: windows of every flavour, every procedure, and epochs of every kind that stay open
 * over pauses, with operations issued and not yet completed, so that checkpoints find them there.
 *   windows [--rounds N] [--pause MS] */
#include "common.h"

enum { SLOTS = 64, BLOCK = 16 };

static int deleted, handled, handled_code;

static int copy(MPI_Win win, int key, void *extra, void *in, void *out, int *flag)
{
    (void)win, (void)key, (void)extra, (void)in, (void)out;
    *flag = 0;
    return MPI_SUCCESS;
}

static int on_delete(MPI_Win win, int key, void *value, void *extra)
{
    (void)win, (void)key;
    CHECK(*(int *)value == 17 && *(int *)extra == 18, "an attribute's delete function");
    deleted++;
    return MPI_SUCCESS;
}

static void on_error(MPI_Win *win, int *code, ...)
{
    (void)win;
    MPI_Error_class(*code, &handled_code);
    handled++;
}

static MPI_Group alone(MPI_Win win, int rank)
{
    MPI_Group all, one;
    MPI_Win_get_group(win, &all);
    MPI_Group_incl(all, 1, &rank, &one);
    MPI_Group_free(&all);
    return one;
}

/* What a window says of itself. */
static void attributes(MPI_Win win, void *base, MPI_Aint size, int unit, int flavor)
{
    int flag, *number;
    void *at;
    MPI_Aint *bytes;
    MPI_Win_get_attr(win, MPI_WIN_BASE, &at, &flag);
    CHECK(flag && at == base, "MPI_WIN_BASE: %p, not %p", at, base);
    MPI_Win_get_attr(win, MPI_WIN_SIZE, &bytes, &flag);
    CHECK(flag && *bytes == size, "MPI_WIN_SIZE: %ld", (long)*bytes);
    MPI_Win_get_attr(win, MPI_WIN_DISP_UNIT, &number, &flag);
    CHECK(flag && *number == unit, "MPI_WIN_DISP_UNIT: %d", *number);
    MPI_Win_get_attr(win, MPI_WIN_CREATE_FLAVOR, &number, &flag);
    CHECK(flag && *number == flavor, "MPI_WIN_CREATE_FLAVOR: %d", *number);
    MPI_Win_get_attr(win, MPI_WIN_MODEL, &number, &flag);
    CHECK(flag && *number == MPI_WIN_UNIFIED, "MPI_WIN_MODEL: %d", *number);
}

/* A key, an attribute, a handler and a name of a window: made in one round, asked in the next. */
static void changing(MPI_Win win, long round)
{
    static int key = MPI_KEYVAL_INVALID, marks[2];
    char name[MPI_MAX_OBJECT_NAME], expected[64];
    int flag, length, *got;
    MPI_Errhandler handler;
    if (key != MPI_KEYVAL_INVALID) {
        MPI_Win_get_attr(win, key, &got, &flag);
        CHECK(flag && got == &marks[(round - 1) % 2], "round %ld: an attribute of the last one", round);
        MPI_Win_delete_attr(win, key);
        MPI_Win_free_keyval(&key);
        CHECK(key == MPI_KEYVAL_INVALID, "a freed key");
        snprintf(expected, sizeof expected, "of round %ld", round - 1);
        MPI_Win_get_name(win, name, &length);
        CHECK(strcmp(name, expected) == 0, "name %s", name);
        int before = handled;
        MPI_Win_call_errhandler(win, MPI_ERR_ASSERT);
        CHECK(handled == before + 1 && handled_code == MPI_ERR_ASSERT, "class %d, %d times", handled_code, handled - before);
    }
    MPI_Win_create_keyval(MPI_WIN_NULL_COPY_FN, MPI_WIN_NULL_DELETE_FN, &key, NULL);
    MPI_Win_set_attr(win, key, &marks[round % 2]);
    MPI_Win_create_errhandler(on_error, &handler);
    MPI_Win_set_errhandler(win, handler);
    MPI_Errhandler_free(&handler);
    snprintf(expected, sizeof expected, "of round %ld", round);
    MPI_Win_set_name(win, expected);
}

#if MPI_VERSION >= 4
/* The forms with large counts, on windows that they have made at the beginning. */
static MPI_Win first, second, third;
static uint64_t *memory, own[4];

static void large_windows(void)
{
    uint64_t *shared;
    MPI_Win_allocate_c(64, 8, MPI_INFO_NULL, MPI_COMM_WORLD, &memory, &first);
    MPI_Win_allocate_shared_c(64, 8, MPI_INFO_NULL, MPI_COMM_WORLD, &shared, &second);
    MPI_Win_create_c(own, 32, 8, MPI_INFO_NULL, MPI_COMM_WORLD, &third);
}

static void large_counts(int right, int left)
{
    uint64_t *theirs, mark = 100 + (uint64_t)world_rank, got[4] = {0};
    MPI_Aint size, unit;
    MPI_Request requests[4];
    memset(memory, 0, 64), memset(own, 0, sizeof own);
    MPI_Win_shared_query_c(second, right, &size, &unit, &theirs);
    CHECK(size == 64 && unit == 8, "shared_query_c: %ld, %ld", (long)size, (long)unit);
    MPI_Win_fence(0, first);
    MPI_Put_c(&mark, 1, MPI_UINT64_T, right, 0, 1, MPI_UINT64_T, first);
    MPI_Accumulate_c(&mark, 1, MPI_UINT64_T, right, 1, 1, MPI_UINT64_T, MPI_SUM, first);
    MPI_Win_fence(0, first);
    MPI_Get_c(&got[0], 1, MPI_UINT64_T, right, 0, 1, MPI_UINT64_T, first);
    MPI_Get_accumulate_c(&mark, 1, MPI_UINT64_T, &got[1], 1, MPI_UINT64_T, right, 1, 1, MPI_UINT64_T, MPI_SUM, first);
    MPI_Win_fence(0, first);
    CHECK(got[0] == mark && got[1] == mark, "large counts: %lu %lu", (unsigned long)got[0], (unsigned long)got[1]);
    CHECK(memory[0] == 100 + (uint64_t)left && memory[1] == 2 * memory[0], "large counts, in memory");
    MPI_Win_lock_all(0, third);
    MPI_Rput_c(&mark, 1, MPI_UINT64_T, right, 0, 1, MPI_UINT64_T, third, &requests[0]);
    MPI_Raccumulate_c(&mark, 1, MPI_UINT64_T, right, 1, 1, MPI_UINT64_T, MPI_SUM, third, &requests[1]);
    MPI_Rget_accumulate_c(&mark, 1, MPI_UINT64_T, &got[2], 1, MPI_UINT64_T, right, 2, 1, MPI_UINT64_T, MPI_SUM, third, &requests[2]);
    MPI_Rget_c(&got[3], 1, MPI_UINT64_T, right, 3, 1, MPI_UINT64_T, third, &requests[3]);
    MPI_Waitall(4, requests, MPI_STATUSES_IGNORE);
    MPI_Win_unlock_all(third);
    MPI_Barrier(MPI_COMM_WORLD);
    CHECK(own[0] == 100 + (uint64_t)left && own[1] == own[0] && own[2] == own[0] && got[2] == 0, "large counts, requests");
}
#endif

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 12), pause = option(argc, argv, "--pause", 60);
    int n = world_size, me = world_rank, right = (me + 1) % n, left = (me + n - 1) % n;
    uint64_t hash = 0, one = 1;
    MPI_Comm comm;
    MPI_Comm_dup(MPI_COMM_WORLD, &comm);

    /* Windows of every flavour, with names, attributes, hints and handlers. */
    MPI_Win life, fenced, shared, dynamic, active, locked;
    MPI_Info info, used;
    MPI_Info_create(&info);
    MPI_Info_set(info, "same_disp_unit", "true");
    uint64_t *life_memory = calloc(SLOTS, 8), *fenced_memory, *shared_memory, *active_memory = calloc(SLOTS, 8),
             *locked_memory = calloc(SLOTS, 8), *pieces[2] = {calloc(BLOCK, 8), calloc(BLOCK, 8)};
    MPI_Win_create(life_memory, SLOTS * 8, 8, info, comm, &life);
    MPI_Win_allocate(SLOTS * 8, 8, MPI_INFO_NULL, comm, &fenced_memory, &fenced);
    MPI_Comm node;
    MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
    MPI_Win_allocate_shared((MPI_Aint)(BLOCK + me) * 8, 8, MPI_INFO_NULL, node, &shared_memory, &shared);
    MPI_Win_create_dynamic(MPI_INFO_NULL, comm, &dynamic);
    MPI_Win_create(active_memory, SLOTS * 8, 8, MPI_INFO_NULL, comm, &active);
    MPI_Win_create(locked_memory, SLOTS * 8, 1, MPI_INFO_NULL, comm, &locked);
    /* Windows outlive their communicator. (In Intel MPI 2021.19 a lock of one that has crashes.) */
    int outlived = !library_is("Intel");
    if (outlived) MPI_Comm_free(&comm);
    MPI_Info_free(&info);
    memset(fenced_memory, 0, SLOTS * 8);
    memset(shared_memory, 0, (size_t)(BLOCK + me) * 8);

    int key, value = 17, extra = 18;
    MPI_Win_create_keyval(copy, on_delete, &key, &extra);
    MPI_Win_set_attr(life, key, &value);
    MPI_Win_set_attr(fenced, key, &value);
    MPI_Errhandler handler;
    MPI_Win_create_errhandler(on_error, &handler);
    MPI_Win_set_errhandler(active, handler);
    MPI_Win_set_name(life, "life");
    MPI_Win_set_name(dynamic, "dynamic");

    MPI_Aint addresses[2], *theirs = calloc((size_t)n * 2, sizeof *theirs);
    for (int i = 0; i < 2; i++) MPI_Get_address(pieces[i], &addresses[i]);
    MPI_Allgather(addresses, 2, MPI_AINT, theirs, 2, MPI_AINT, MPI_COMM_WORLD);
    MPI_Win_attach(dynamic, pieces[0], BLOCK * 8);

    MPI_Datatype every_second;
    MPI_Type_vector(3, 1, 2, MPI_UINT64_T, &every_second);
    MPI_Type_commit(&every_second);
    MPI_Group to = alone(active, right), from = alone(active, left);
    MPI_Win_lock_all(0, life);
    MPI_Win_lock_all(MPI_MODE_NOCHECK, shared);
    MPI_Barrier(MPI_COMM_WORLD);
#if MPI_VERSION >= 4
    large_windows();
#endif

    for (long round = 0; round < rounds; round++) {
        uint64_t mark = fold(fold((uint64_t)round, 5), (uint64_t)me), theirs_mark = fold(fold((uint64_t)round, 5), (uint64_t)left);
        MPI_Win young;
        uint64_t young_memory[4] = {0, 0, 0, 0};
        MPI_Win_create(young_memory, sizeof young_memory, 8, MPI_INFO_NULL, MPI_COMM_WORLD, &young);

        /* One epoch for the whole life: operations are under way while we sleep. */
        uint64_t old, swapped, expected = (uint64_t)round, next_value = expected + 1, got[4] = {0, 0, 0, 0}, sum = mark & 0xff;
        MPI_Request requests[4];
        MPI_Fetch_and_op(&one, &old, MPI_UINT64_T, (int)(round % n), 0, MPI_SUM, life);
        MPI_Put(&mark, 1, MPI_UINT64_T, right, 1, 1, MPI_UINT64_T, life);
        MPI_Accumulate(&sum, 1, MPI_UINT64_T, right, 2, 1, MPI_UINT64_T, MPI_SUM, life);
        MPI_Compare_and_swap(&next_value, &expected, &swapped, MPI_UINT64_T, right, 3, life);
        MPI_Rput(&mark, 1, MPI_UINT64_T, right, 4, 1, MPI_UINT64_T, life, &requests[0]);
        MPI_Raccumulate(&one, 1, MPI_UINT64_T, right, 5, 1, MPI_UINT64_T, MPI_SUM, life, &requests[1]);
        MPI_Rget_accumulate(&one, 1, MPI_UINT64_T, &got[0], 1, MPI_UINT64_T, right, 6, 1, MPI_UINT64_T, MPI_SUM, life, &requests[2]);
        MPI_Rget(&got[1], 1, MPI_UINT64_T, right, 7, 1, MPI_UINT64_T, life, &requests[3]);
        if (round % 3 == 0) pause_ms(pause);
        MPI_Win_flush(right, life);
        CHECK(swapped == (uint64_t)round, "round %ld: swapped %lu", round, (unsigned long)swapped);
        MPI_Waitall(4, requests, MPI_STATUSES_IGNORE);
        CHECK(got[0] == (uint64_t)round, "round %ld: %lu additions", round, (unsigned long)got[0]);
        MPI_Win_flush_all(life);
        MPI_Get(&got[2], 1, MPI_UINT64_T, right, 1, 1, MPI_UINT64_T, life);
        MPI_Get_accumulate(NULL, 0, MPI_BYTE, &got[3], 1, MPI_UINT64_T, right, 4, 1, MPI_UINT64_T, MPI_NO_OP, life);
        MPI_Win_flush_local(right, life);
        MPI_Win_flush_local_all(life);
        CHECK(got[2] == mark && got[3] == mark, "round %ld: %lx %lx", round, (unsigned long)got[2], (unsigned long)got[3]);
        MPI_Barrier(MPI_COMM_WORLD);
        MPI_Win_sync(life);
        CHECK(life_memory[1] == theirs_mark && life_memory[5] == (uint64_t)round + 1, "round %ld: in memory", round);
        hash = fold(hash, life_memory[1]), hash = fold(hash, life_memory[2]);

        /* Fences: an epoch open over a pause, with a derived datatype on its way. */
        uint64_t rows[6];
        for (int i = 0; i < 6; i++) rows[i] = fold(mark, (uint64_t)i);
        MPI_Win_fence(MPI_MODE_NOPRECEDE, fenced);
        MPI_Put(rows, 1, every_second, right, 8, 1, every_second, fenced);
        MPI_Accumulate(&one, 1, MPI_UINT64_T, 0, 0, 1, MPI_UINT64_T, MPI_SUM, fenced);
        if (round % 3 == 1) pause_ms(pause);
        MPI_Win_fence(0, fenced);
        MPI_Get(&got[0], 1, MPI_UINT64_T, left, 8, 1, MPI_UINT64_T, fenced);
        MPI_Win_fence(MPI_MODE_NOSUCCEED, fenced);
        for (int i = 0; i < 3; i++)
            CHECK(fenced_memory[8 + 2 * i] == fold(theirs_mark, (uint64_t)(2 * i)), "round %ld: row %d", round, i);
        hash = fold(hash, got[0]);

        /* Post, start, complete, wait: exposed to the left neighbour, accessing the right one. */
        int flag = 0;
        MPI_Win_post(from, 0, active);
        if (round % 3 == 2 && me == 0) pause_ms(pause); /* the others are in start or in wait */
        MPI_Win_start(to, 0, active);
        MPI_Put(&mark, 1, MPI_UINT64_T, right, (MPI_Aint)(round % SLOTS), 1, MPI_UINT64_T, active);
        if (round % 3 == 0) pause_ms(pause);
        MPI_Win_complete(active);
        if (round % 2)
            MPI_Win_wait(active);
        else
            while (!flag) MPI_Win_test(active, &flag);
        CHECK(active_memory[round % SLOTS] == theirs_mark, "round %ld: post and start", round);

        /* A wrong rank and a missing epoch: the handler of the window is called. It is set again: the same. */
        int before = handled;
        MPI_Win_set_errhandler(active, handler);
        MPI_Win_fence(0, fenced);
        MPI_Win_start(MPI_GROUP_EMPTY, 0, active);
        MPI_Put(&mark, 1, MPI_UINT64_T, n + 3, 0, 1, MPI_UINT64_T, active);
        MPI_Win_complete(active);
        CHECK(handled == before + 1 && handled_code == MPI_ERR_RANK, "class %d, %d times", handled_code, handled - before);
        MPI_Win_fence(MPI_MODE_NOSUCCEED, fenced);

        /* A counter that only the exclusive lock protects, and readers that share. */
        uint64_t count;
        MPI_Win_lock(MPI_LOCK_EXCLUSIVE, 0, 0, locked);
        MPI_Get(&count, 1, MPI_UINT64_T, 0, 8, 1, MPI_UINT64_T, locked);
        MPI_Win_flush(0, locked);
        if (round % 3 == me % 3) pause_ms(pause / 2); /* the others wait for the lock */
        count++;
        MPI_Put(&count, 1, MPI_UINT64_T, 0, 8, 1, MPI_UINT64_T, locked);
        MPI_Win_unlock(0, locked);
        MPI_Win_lock(MPI_LOCK_SHARED, right, 0, locked);
        MPI_Put(&mark, 1, MPI_UINT64_T, right, 16 + 8 * (MPI_Aint)me, 1, MPI_UINT64_T, locked);
        if (round % 3 == 1) pause_ms(pause / 2);
        MPI_Win_unlock(right, locked);
        MPI_Barrier(MPI_COMM_WORLD);
        MPI_Win_lock_all(0, locked);
        MPI_Get(&count, 1, MPI_UINT64_T, 0, 8, 1, MPI_UINT64_T, locked);
        MPI_Get(&got[1], 1, MPI_UINT64_T, me, 16 + 8 * (MPI_Aint)left, 1, MPI_UINT64_T, locked);
        MPI_Win_unlock_all(locked);
        CHECK(count == (uint64_t)(round + 1) * (uint64_t)n, "round %ld: counted %lu", round, (unsigned long)count);
        CHECK(got[1] == theirs_mark, "round %ld: a shared lock", round);

        /* Shared memory, with loads and stores. */
        MPI_Aint size;
        int unit;
        uint64_t *neighbour;
        MPI_Win_shared_query(shared, right, &size, &unit, &neighbour);
        CHECK(size == (BLOCK + right) * 8 && unit == 8, "shared_query: %ld, %d", (long)size, unit);
        neighbour[BLOCK - 1 + right] = mark;
        MPI_Win_sync(shared);
        MPI_Barrier(MPI_COMM_WORLD);
        if (round % 3 == 2) pause_ms(pause);
        MPI_Win_sync(shared);
        CHECK(shared_memory[BLOCK - 1 + me] == theirs_mark, "round %ld: a store of the neighbour", round);
        MPI_Accumulate(&one, 1, MPI_UINT64_T, right, 0, 1, MPI_UINT64_T, MPI_SUM, shared);
        MPI_Win_flush(right, shared);
        MPI_Barrier(MPI_COMM_WORLD);
        MPI_Win_sync(shared);
        CHECK(shared_memory[0] == (uint64_t)round + 1, "round %ld: shared additions %lu", round, (unsigned long)shared_memory[0]);

        /* Memory that comes and goes. */
        int piece = (int)(round % 2);
        MPI_Win_lock(MPI_LOCK_SHARED, right, 0, dynamic);
        MPI_Put(&mark, 1, MPI_UINT64_T, right, MPI_Aint_add(theirs[2 * right + piece], 8), 1, MPI_UINT64_T, dynamic);
        MPI_Win_unlock(right, dynamic);
        MPI_Barrier(MPI_COMM_WORLD);
        CHECK(pieces[piece][1] == theirs_mark, "round %ld: attached memory", round);
        MPI_Win_detach(dynamic, pieces[piece]);
        MPI_Win_attach(dynamic, pieces[1 - piece], BLOCK * 8);
        MPI_Barrier(MPI_COMM_WORLD);

        changing(locked, round);
#if MPI_VERSION >= 4
        if (round % 3 == 0) large_counts(right, left);
#endif

        /* A window that lives for a round. */
        MPI_Win_fence(0, young);
        MPI_Put(&mark, 1, MPI_UINT64_T, right, 2, 1, MPI_UINT64_T, young);
        MPI_Win_fence(0, young);
        CHECK(young_memory[2] == theirs_mark, "round %ld: a young window", round);
        MPI_Win_free(&young);
        CHECK(young == MPI_WIN_NULL, "a freed window");
        hash = fold(hash, mark);
    }

    attributes(life, life_memory, SLOTS * 8, 8, MPI_WIN_FLAVOR_CREATE);
    attributes(fenced, fenced_memory, SLOTS * 8, 8, MPI_WIN_FLAVOR_ALLOCATE);
    attributes(shared, shared_memory, (BLOCK + me) * 8, 8, MPI_WIN_FLAVOR_SHARED);
    attributes(locked, locked_memory, SLOTS * 8, 1, MPI_WIN_FLAVOR_CREATE);
    int flag, length, *number;
    MPI_Win_get_attr(dynamic, MPI_WIN_CREATE_FLAVOR, &number, &flag);
    CHECK(flag && *number == MPI_WIN_FLAVOR_DYNAMIC, "the dynamic window's flavour");
    char name[MPI_MAX_OBJECT_NAME];
    MPI_Win_get_name(life, name, &length);
    CHECK(strcmp(name, "life") == 0 && length == 4, "name %s", name);
    int *attribute;
    MPI_Win_get_attr(life, key, &attribute, &flag);
    CHECK(flag && attribute == &value, "an attribute of the program");
    MPI_Win_delete_attr(fenced, key);
    CHECK(deleted == 1, "deleted %d times", deleted);
    MPI_Win_get_info(life, &used);
    MPI_Info_free(&used);
    MPI_Info_create(&info);
    MPI_Win_set_info(life, info);
    MPI_Info_free(&info);
    MPI_Errhandler now;
    MPI_Win_get_errhandler(active, &now);
    CHECK(now == handler, "the handler is another one");
    MPI_Errhandler_free(&now), MPI_Errhandler_free(&handler);
    MPI_Win_call_errhandler(active, MPI_ERR_OTHER);
    CHECK(handled_code == MPI_ERR_OTHER, "call_errhandler: class %d", handled_code);
    uint64_t total = 0, all;
    MPI_Win_flush_all(life);
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_Win_sync(life);
    total = life_memory[0];
    MPI_Allreduce(&total, &all, 1, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
    CHECK(all == (uint64_t)(rounds * n), "%lu tickets", (unsigned long)all);
    hash = fold(hash, hash_bytes(life_memory, SLOTS * 8));
    hash = fold(hash, hash_bytes(fenced_memory, SLOTS * 8));
    hash = fold(hash, hash_bytes(shared_memory, (size_t)(BLOCK + me) * 8));

    MPI_Win_unlock_all(shared);
    MPI_Win_unlock_all(life);
    MPI_Win_detach(dynamic, pieces[rounds % 2]);
    MPI_Group_free(&to), MPI_Group_free(&from);
    MPI_Type_free(&every_second);
    MPI_Win *each[] = {&life, &fenced, &shared, &dynamic, &active, &locked};
    for (int i = 0; i < 6; i++) MPI_Win_free(each[i]);
#if MPI_VERSION >= 4
    MPI_Win_free(&first), MPI_Win_free(&second), MPI_Win_free(&third);
#endif
    CHECK(deleted == 2, "deleted %d times", deleted);
    MPI_Win_free_keyval(&key);
    MPI_Comm_free(&node);
    if (!outlived) MPI_Comm_free(&comm);
    return finish(hash);
}
