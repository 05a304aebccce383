/* Part of dense.c: one-sided operations, with epochs of every kind that stay open over rounds.
 *
 * All ranks draw every rank's operations from one plan, so each knows what any window must hold (the model). An origin
 * has cells of its own at every target; one that an operation may still be changing is flushed before the next. Cells
 * that all add to are only added to. At a settlement everything is complete, and memory is compared with the model. */
#ifndef MANA_TEST_DENSE_WINDOWS_H
#define MANA_TEST_DENSE_WINDOWS_H

#include "../common.h"

enum { WIN_PUT = 8, WIN_OWN = 12, WIN_COMMON = 4, WIN_POOL = 256, WIN_OPEN = 12, WIN_FENCED = 16, WIN_ACTIVE = 16 };
/* An origin's cells: 8 to put into, then one each for compare-and-swap, fetch-and-op and two get-accumulates. */
enum { WIN_CAS = 8, WIN_FETCH, WIN_GETACC, WIN_RGETACC };

/* A value that must have come once what brings it is complete. */
struct awaited {
    uint64_t *at, value;
};

static struct {
    struct random plan;
    int words; /* of a window: the cells of each origin, then the common ones */
    MPI_Win life, fenced, active, locked, shared, dynamic, young;
    MPI_Comm node;
    MPI_Datatype second;
    uint64_t *life_memory, *fenced_memory, *active_memory, *locked_memory, *shared_memory, *pieces[2];
    uint64_t **model, **fenced_model, *locked_model; /* of each rank's window */
    unsigned char *busy; /* [target][cell] of this origin */
    uint64_t pool[WIN_POOL];
    int used, awaiting, requests_open;
    struct awaited awaited[WIN_POOL];
    MPI_Request requests[WIN_OPEN];
    int fence_ops, active_shift, active_marks, locked_kind, locked_to, piece;
    long active_rounds[WIN_ACTIVE], young_round;
    MPI_Aint *addresses;
    uint64_t *young_memory, hash;
} win;

static uint64_t win_mark(long round, int rank, int which) { return fold(fold((uint64_t)round, (uint64_t)rank), (uint64_t)which); }

/* Everything this rank has begun on the window of its life is complete at its targets, and what it got is right. */
static void win_complete_all(void)
{
    MPI_Waitall(win.requests_open, win.requests, MPI_STATUSES_IGNORE);
    MPI_Win_flush_all(win.life);
    for (int i = 0; i < win.awaiting; i++)
        CHECK(*win.awaited[i].at == win.awaited[i].value, "one-sided: %llx, not %llx", (unsigned long long)*win.awaited[i].at,
              (unsigned long long)win.awaited[i].value);
    win.used = win.awaiting = win.requests_open = 0;
    memset(win.busy, 0, (size_t)(world_size * WIN_OWN));
}

/* Room that stays until all is complete. */
static uint64_t *win_room(int count)
{
    win.used += count;
    return &win.pool[win.used - count];
}

static uint64_t *win_await(uint64_t value)
{
    uint64_t *at = win_room(1);
    win.awaited[win.awaiting++] = (struct awaited){at, value};
    *at = ~value;
    return at;
}

/* One operation of `origin`, drawn by all and done by it. */
static void win_operation(int origin)
{
    int kind = (int)below(&win.plan, 10), target = (int)below(&win.plan, (unsigned)world_size), cell = (int)below(&win.plan, WIN_PUT - 3);
    uint64_t value = next(&win.plan), before;
    int own = origin * WIN_OWN, common = world_size * WIN_OWN + cell % WIN_COMMON, mine = origin == world_rank, first = cell, last = cell;
    if (kind == 4 && target == origin) target = (target + 1) % world_size; /* Open MPI 4.1's own crashes */
    uint64_t *model = win.model[target];
    switch (kind) {
    case 0: last = cell + 2; break;
    case 3: first = last = WIN_FETCH; break;
    case 4: first = last = WIN_CAS; break;
    case 5: first = last = WIN_GETACC; break;
    case 9: first = last = WIN_RGETACC; break;
    }
    if (mine) {
        if (win.used + 4 > WIN_POOL || win.requests_open == WIN_OPEN) win_complete_all();
        int wait = 0;
        for (int i = first; i <= last; i++) wait |= win.busy[target * WIN_OWN + i];
        if (wait && kind != 1 && kind != 8) {
            if (kind == 6 || kind == 7) win_complete_all();
            MPI_Win_flush(target, win.life);
            for (int i = 0; i < WIN_OWN; i++) win.busy[target * WIN_OWN + i] = 0;
        }
        if (kind != 1 && kind != 8)
            for (int i = first; i <= last; i++) win.busy[target * WIN_OWN + i] = 1;
    }
    MPI_Request *request = &win.requests[win.requests_open];
    uint64_t *from, *to;
    switch (kind) {
    case 0: /* two words, one left out between them */
        model[own + cell] = value, model[own + cell + 2] = mix(value);
        if (!mine) break;
        from = win_room(3), from[0] = value, from[2] = mix(value);
        MPI_Put(from, 1, win.second, target, own + cell, 1, win.second, win.life);
        break;
    case 1:
        model[common] += value;
        if (!mine) break;
        from = win_room(1), *from = value;
        MPI_Accumulate(from, 1, MPI_UINT64_T, target, common, 1, MPI_UINT64_T, MPI_SUM, win.life);
        break;
    case 2:
        if (mine) MPI_Get(win_await(model[own + cell]), 1, MPI_UINT64_T, target, own + cell, 1, MPI_UINT64_T, win.life);
        break;
    case 3:
        before = model[own + WIN_FETCH], model[own + WIN_FETCH] += value;
        if (!mine) break;
        from = win_room(1), *from = value;
        MPI_Fetch_and_op(from, win_await(before), MPI_UINT64_T, target, own + WIN_FETCH, MPI_SUM, win.life);
        break;
    case 4:
        before = model[own + WIN_CAS], model[own + WIN_CAS] = value;
        if (!mine) break;
        from = win_room(2), from[0] = value, from[1] = before;
        MPI_Compare_and_swap(&from[0], &from[1], win_await(before), MPI_UINT64_T, target, own + WIN_CAS, win.life);
        break;
    case 5:
        before = model[own + WIN_GETACC], model[own + WIN_GETACC] += value; /* Open MPI 5.0.11's own leaves MPI_BXOR out */
        if (!mine) break;
        from = win_room(1), *from = value;
        MPI_Get_accumulate(from, 1, MPI_UINT64_T, win_await(before), 1, MPI_UINT64_T, target, own + WIN_GETACC, 1, MPI_UINT64_T, MPI_SUM, win.life);
        break;
    case 6:
        model[own + cell] = value;
        if (!mine) break;
        from = win_room(1), *from = value;
        MPI_Rput(from, 1, MPI_UINT64_T, target, own + cell, 1, MPI_UINT64_T, win.life, request), win.requests_open++;
        break;
    case 7:
        if (!mine) break;
        MPI_Rget(win_await(model[own + cell]), 1, MPI_UINT64_T, target, own + cell, 1, MPI_UINT64_T, win.life, request), win.requests_open++;
        break;
    case 8:
        model[common] += value;
        if (!mine) break;
        from = win_room(1), *from = value;
        MPI_Raccumulate(from, 1, MPI_UINT64_T, target, common, 1, MPI_UINT64_T, MPI_SUM, win.life, request), win.requests_open++;
        break;
    default:
        before = model[own + WIN_RGETACC], model[own + WIN_RGETACC] += value;
        if (!mine) break;
        from = win_room(1), *from = value, to = win_await(before);
        MPI_Rget_accumulate(from, 1, MPI_UINT64_T, to, 1, MPI_UINT64_T, target, own + WIN_RGETACC, 1, MPI_UINT64_T, MPI_SUM, win.life, request);
        win.requests_open++;
    }
}

/* Fences: an epoch is closed and the next one opened every few rounds. */
static void win_fence(int close)
{
    if (win.fence_ops == WIN_FENCED || close) {
        MPI_Win_fence(0, win.fenced);
        CHECK(memcmp(win.fenced_memory, win.fenced_model[world_rank], (size_t)(world_size * WIN_FENCED) * 8) == 0, "what fences brought");
        win.hash = fold(win.hash, hash_bytes(win.fenced_memory, (size_t)(world_size * WIN_FENCED) * 8));
        win.fence_ops = 0;
        MPI_Win_fence(close > 1 ? MPI_MODE_NOSUCCEED : 0, win.fenced);
    }
}

static void win_fenced(void)
{
    static uint64_t values[WIN_FENCED];
    win_fence(below(&win.plan, 5) == 0);
    int shift = (int)below(&win.plan, (unsigned)world_size), cell = win.fence_ops++;
    for (int origin = 0; origin < world_size; origin++) {
        uint64_t value = next(&win.plan);
        int target = (origin + shift) % world_size;
        win.fenced_model[target][origin * WIN_FENCED + cell] = value;
        if (origin != world_rank) continue;
        values[cell] = value;
        MPI_Put(&values[cell], 1, MPI_UINT64_T, target, origin * WIN_FENCED + cell, 1, MPI_UINT64_T, win.fenced);
    }
}

/* Post, start, complete, wait: exposed to one rank and accessing another over several rounds. */
static void win_active_close(int test)
{
    int from = (world_rank + world_size - win.active_shift) % world_size, flag = 0;
    if (!win.active_shift) return;
    MPI_Win_complete(win.active);
    if (test)
        while (!flag) MPI_Win_test(win.active, &flag);
    else
        MPI_Win_wait(win.active);
    for (int i = 0; i < win.active_marks; i++)
        CHECK(win.active_memory[i] == win_mark(win.active_rounds[i], from, 3), "post and start, round %ld", win.active_rounds[i]);
    win.hash = fold(win.hash, hash_bytes(win.active_memory, (size_t)win.active_marks * 8));
    win.active_shift = win.active_marks = 0;
}

static void win_active(long round)
{
    static uint64_t marks[WIN_ACTIVE];
    int choice = (int)below(&win.plan, 4), shift = 1 + (int)below(&win.plan, (unsigned)world_size - 1);
    if (choice == 0 || win.active_marks == WIN_ACTIVE) win_active_close((int)(round % 2));
    if (!win.active_shift) {
        MPI_Group all, one;
        int to = (world_rank + shift) % world_size, from = (world_rank + world_size - shift) % world_size;
        MPI_Win_get_group(win.active, &all);
        MPI_Group_incl(all, 1, &from, &one);
        MPI_Win_post(one, 0, win.active);
        MPI_Group_free(&one);
        MPI_Group_incl(all, 1, &to, &one);
        MPI_Win_start(one, 0, win.active);
        MPI_Group_free(&one), MPI_Group_free(&all);
        win.active_shift = shift;
    }
    int at = win.active_marks++;
    win.active_rounds[at] = round;
    marks[at] = win_mark(round, world_rank, 3);
    MPI_Put(&marks[at], 1, MPI_UINT64_T, (world_rank + win.active_shift) % world_size, at, 1, MPI_UINT64_T, win.active);
}

/* Locks that are held over rounds: everyone alone on a target of its own, or all sharing. */
static void win_locked(void)
{
    int choice = (int)below(&win.plan, 4), kind = 1 + (int)below(&win.plan, 2), shift = (int)below(&win.plan, (unsigned)world_size);
    static uint64_t count, one = 1;
    if (choice) return;
    if (win.locked_kind) {
        MPI_Win_unlock(win.locked_to, win.locked);
        MPI_Barrier(MPI_COMM_WORLD);
    }
    win.locked_kind = kind, win.locked_to = (world_rank + shift) % world_size;
    if (kind == 1) {
        MPI_Win_lock(MPI_LOCK_EXCLUSIVE, win.locked_to, 0, win.locked);
        MPI_Get(&count, 1, MPI_UINT64_T, win.locked_to, 0, 1, MPI_UINT64_T, win.locked);
        MPI_Win_flush(win.locked_to, win.locked);
        CHECK(count == win.locked_model[win.locked_to], "under a lock: %llu, not %llu", (unsigned long long)count,
              (unsigned long long)win.locked_model[win.locked_to]);
        count++;
        MPI_Put(&count, 1, MPI_UINT64_T, win.locked_to, 0, 1, MPI_UINT64_T, win.locked);
        for (int i = 0; i < world_size; i++) win.locked_model[i]++;
    } else {
        MPI_Win_lock(MPI_LOCK_SHARED, win.locked_to, 0, win.locked);
        MPI_Accumulate(&one, 1, MPI_UINT64_T, win.locked_to, 1, 1, MPI_UINT64_T, MPI_SUM, win.locked);
    }
    win.hash = fold(win.hash, win.locked_model[0]);
}

/* Memory shared on a node, and memory that comes and goes. */
static void win_other(long round)
{
    int rank, size, unit, choice = (int)below(&win.plan, 6), piece = win.piece;
    uint64_t *theirs, mark = win_mark(round, world_rank, 4);
    MPI_Aint bytes;
    if (choice == 0) {
        MPI_Comm_rank(win.node, &rank);
        MPI_Comm_size(win.node, &size);
        MPI_Win_shared_query(win.shared, (rank + 1) % size, &bytes, &unit, &theirs);
        CHECK(bytes == 64 && unit == 8, "shared_query: %ld, %d", (long)bytes, unit);
        theirs[round % 8] = fold((uint64_t)round, (uint64_t)rank);
        MPI_Win_sync(win.shared);
        MPI_Barrier(win.node);
        MPI_Win_sync(win.shared);
        CHECK(win.shared_memory[round % 8] == fold((uint64_t)round, (uint64_t)((rank + size - 1) % size)), "shared memory, round %ld", round);
        MPI_Barrier(win.node);
    } else if (choice == 1) {
        int right = (world_rank + 1) % world_size, left = (world_rank + world_size - 1) % world_size;
        MPI_Win_lock(MPI_LOCK_SHARED, right, 0, win.dynamic);
        MPI_Put(&mark, 1, MPI_UINT64_T, right, MPI_Aint_add(win.addresses[2 * right + piece], 8), 1, MPI_UINT64_T, win.dynamic);
        MPI_Win_unlock(right, win.dynamic);
        MPI_Barrier(MPI_COMM_WORLD);
        CHECK(win.pieces[piece][1] == win_mark(round, left, 4), "attached memory, round %ld", round);
        win.hash = fold(win.hash, win.pieces[piece][1]);
        MPI_Win_detach(win.dynamic, win.pieces[piece]);
        MPI_Win_attach(win.dynamic, win.pieces[1 - piece], 64);
        win.piece = 1 - piece;
        MPI_Barrier(MPI_COMM_WORLD);
    } else if (choice == 2 && below(&win.plan, 3) == 0) { /* a window that lives for some rounds, in an epoch */
        static uint64_t value;
        int right = (world_rank + 1) % world_size, left = (world_rank + world_size - 1) % world_size;
        if (win.young != MPI_WIN_NULL) {
            MPI_Win_unlock_all(win.young);
            MPI_Barrier(MPI_COMM_WORLD);
            CHECK(win.young_memory[1] == win_mark(win.young_round, left, 5), "a young window, round %ld", round);
            MPI_Win_free(&win.young);
        } else {
            MPI_Win_create(win.young_memory, 16, 8, MPI_INFO_NULL, MPI_COMM_WORLD, &win.young);
            MPI_Win_lock_all(0, win.young);
            win.young_round = round, value = win_mark(round, world_rank, 5);
            MPI_Put(&value, 1, MPI_UINT64_T, right, 1, 1, MPI_UINT64_T, win.young);
        }
    }
}

/* All operations of all ranks are complete: memory is what the model says. */
static void win_settle(void)
{
    win_complete_all();
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_Win_sync(win.life);
    for (int i = 0; i < win.words; i++)
        CHECK(win.life_memory[i] == win.model[world_rank][i], "word %d of %d of a window: %llx, not %llx", i, win.words,
              (unsigned long long)win.life_memory[i], (unsigned long long)win.model[world_rank][i]);
    win.hash = fold(win.hash, hash_bytes(win.life_memory, (size_t)win.words * 8));
    MPI_Barrier(MPI_COMM_WORLD);
}

static void win_begin(uint64_t seed)
{
    int n = world_size;
    MPI_Aint mine[2];
    win.plan.state = mix(seed + 101);
    win.words = n * WIN_OWN + WIN_COMMON;
    win.model = calloc((size_t)n, sizeof *win.model), win.fenced_model = calloc((size_t)n, sizeof *win.fenced_model);
    for (int i = 0; i < n; i++) win.model[i] = calloc((size_t)win.words, 8), win.fenced_model[i] = calloc((size_t)(n * WIN_FENCED), 8);
    win.locked_model = calloc((size_t)n, 8), win.busy = calloc((size_t)(n * WIN_OWN), 1);
    win.life_memory = calloc((size_t)win.words, 8), win.active_memory = calloc(WIN_ACTIVE, 8), win.locked_memory = calloc(2, 8), win.young_memory = calloc(2, 8);
    win.pieces[0] = calloc(8, 8), win.pieces[1] = calloc(8, 8);
    MPI_Win_create(win.life_memory, win.words * 8, 8, MPI_INFO_NULL, MPI_COMM_WORLD, &win.life);
    MPI_Win_allocate(n * WIN_FENCED * 8, 8, MPI_INFO_NULL, MPI_COMM_WORLD, &win.fenced_memory, &win.fenced);
    memset(win.fenced_memory, 0, (size_t)(n * WIN_FENCED) * 8);
    MPI_Win_create(win.active_memory, WIN_ACTIVE * 8, 8, MPI_INFO_NULL, MPI_COMM_WORLD, &win.active);
    MPI_Win_create(win.locked_memory, 16, 8, MPI_INFO_NULL, MPI_COMM_WORLD, &win.locked);
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, world_rank, MPI_INFO_NULL, &win.node);
    MPI_Win_allocate_shared(64, 8, MPI_INFO_NULL, win.node, &win.shared_memory, &win.shared);
    MPI_Win_create_dynamic(MPI_INFO_NULL, MPI_COMM_WORLD, &win.dynamic);
    win.addresses = calloc((size_t)n * 2, sizeof *win.addresses);
    for (int i = 0; i < 2; i++) MPI_Get_address(win.pieces[i], &mine[i]);
    MPI_Allgather(mine, 2, MPI_AINT, win.addresses, 2, MPI_AINT, MPI_COMM_WORLD);
    MPI_Win_attach(win.dynamic, win.pieces[0], 64);
    MPI_Type_vector(2, 1, 2, MPI_UINT64_T, &win.second);
    MPI_Type_commit(&win.second);
    win.young = MPI_WIN_NULL;
    MPI_Win_lock_all(0, win.life);
    MPI_Win_lock_all(0, win.shared);
    MPI_Win_fence(MPI_MODE_NOPRECEDE, win.fenced);
    MPI_Barrier(MPI_COMM_WORLD);
}

static void win_round(long round)
{
    int count = (int)below(&win.plan, 3);
    for (int origin = 0; origin < world_size; origin++)
        for (int i = 0; i < count; i++) win_operation(origin);
    switch (below(&win.plan, 4)) {
    case 0: win_fenced(); break;
    case 1: win_active(round); break;
    case 2: win_locked(); break;
    default: win_other(round);
    }
    if (below(&win.plan, 12) == 0) win_settle();
}

static uint64_t win_end(void)
{
    win_settle();
    win_fence(2);
    win_active_close(0);
    if (win.locked_kind) MPI_Win_unlock(win.locked_to, win.locked);
    if (win.young != MPI_WIN_NULL) MPI_Win_unlock_all(win.young), MPI_Win_free(&win.young);
    MPI_Win_unlock_all(win.life), MPI_Win_unlock_all(win.shared);
    MPI_Win_detach(win.dynamic, win.pieces[win.piece]);
    MPI_Win *each[] = {&win.life, &win.fenced, &win.active, &win.locked, &win.shared, &win.dynamic};
    for (unsigned i = 0; i < sizeof each / sizeof *each; i++) MPI_Win_free(each[i]);
    /* Freed by all: every addition under a shared lock has arrived. */
    win.hash = fold(win.hash, fold(win.locked_memory[0], win.locked_memory[1]));
    MPI_Type_free(&win.second), MPI_Comm_free(&win.node);
    for (int i = 0; i < world_size; i++) free(win.model[i]), free(win.fenced_model[i]);
    free(win.model), free(win.fenced_model), free(win.locked_model), free(win.busy), free(win.addresses);
    free(win.life_memory), free(win.active_memory), free(win.locked_memory), free(win.young_memory), free(win.pieces[0]), free(win.pieces[1]);
    return win.hash;
}

#endif
