/* Files under MPI_THREAD_MULTIPLE: several threads of each rank inside MPI-IO at once, each on a file of its own, on one that
 * the threads of its number share over all ranks (collective calls, shared pointer), and all of them on one file. Cells are
 * read, compared with memory and written back raised by one. Some threads are asleep, some with operations under way.
 *   files_threads [--rounds N] [--pause MS] [--threads N] */
#include "common.h"

#include <pthread.h>
#include <sched.h>

enum { THREADS = 8, CELLS = 4000, TOUCHED = 12, BLOCK = 32 };

/* MPICH hangs natively when two threads are in collective calls on files, whichever these are. Open MPI 4.1.4 ends with a
 * segmentation fault when one thread makes or frees a request of a file, also inside a collective call, while another is in a
 * call that waits or tests: its list of them has no lock. There one thread at a time is in such a call. */
#ifdef MPICH_VERSION
enum { ONE_AT_A_TIME = 0 };
#else
enum { ONE_AT_A_TIME = 1 };
#endif
static pthread_mutex_t requests = PTHREAD_MUTEX_INITIALIZER;

static void begin_alone(void)
{
    if (ONE_AT_A_TIME) pthread_mutex_lock(&requests);
}

static void end_alone(void)
{
    if (ONE_AT_A_TIME) pthread_mutex_unlock(&requests);
}

/* Nobody is kept out while the others are waited for. */
static void meet(MPI_Comm comm)
{
    MPI_Request request;
    int there = 0;
    if (!ONE_AT_A_TIME) {
        MPI_Barrier(comm);
        return;
    }
    begin_alone();
    MPI_Ibarrier(comm, &request);
    end_alone();
    while (!there) {
        begin_alone();
        MPI_Test(&request, &there, MPI_STATUS_IGNORE);
        end_alone();
        if (!there) sched_yield();
    }
}

static MPI_File shared, alones[THREADS], of_alls[THREADS], logs[THREADS];
static MPI_Comm own[THREADS];
static long rounds, pause_of_round;
static int threads;
static uint64_t hashes[THREADS];

/* A call that must succeed. */
#define OK(call)                                                     \
    do {                                                             \
        int rc_ = (call);                                            \
        char text_[MPI_MAX_ERROR_STRING] = "";                       \
        int len_;                                                    \
        if (rc_ != MPI_SUCCESS) MPI_Error_string(rc_, text_, &len_); \
        CHECK(rc_ == MPI_SUCCESS, "%s: %s", #call, text_);           \
    } while (0)

static void counts(MPI_Status *status, int expected, const char *what)
{
    int count;
    MPI_Get_count(status, MPI_UINT64_T, &count);
    CHECK(count == expected, "%s: %d words, not %d", what, count, expected);
}

/* Cells of this thread in the file of all threads, a few of them raised. */
static void raise_cells(int me, long round, uint64_t *cells)
{
    struct random random = {mix((uint64_t)round * 31 + (uint64_t)(world_rank * THREADS + me))};
    MPI_Offset base = (MPI_Offset)(world_rank * threads + me) * CELLS * 8;
    uint64_t found[40];
    MPI_Status status;
    MPI_Request request;
    for (int i = 0; i < TOUCHED; i++) {
        unsigned cell = below(&random, CELLS), length = 1 + below(&random, 40);
        if (cell + length > CELLS) length = CELLS - cell;
        OK(MPI_File_read_at(shared, base + cell * 8, found, (int)length, MPI_UINT64_T, &status));
        counts(&status, (int)length, "read_at");
        for (unsigned k = 0; k < length; k++) {
            CHECK(found[k] == cells[cell + k], "thread %d, round %ld: cell %u is %lu, not %lu", me, round, cell + k, (unsigned long)found[k],
                  (unsigned long)cells[cell + k]);
            found[k] = ++cells[cell + k];
        }
        if (i % 3) {
            OK(MPI_File_write_at(shared, base + cell * 8, found, (int)length, MPI_UINT64_T, &status));
        } else {
            begin_alone();
            OK(MPI_File_iwrite_at(shared, base + cell * 8, found, (int)length, MPI_UINT64_T, &request));
            end_alone();
            if (i == 0 && round % 8 == 2 * me) pause_ms(pause_of_round);
            begin_alone();
            OK(MPI_Wait(&request, &status));
            end_alone();
        }
        counts(&status, (int)length, "write_at");
    }
}

/* A file of this thread: appended to through its pointer, and read again. */
static void append(MPI_File file, int me, long round)
{
    uint64_t out[BLOCK], in[BLOCK];
    MPI_Status status;
    MPI_Offset at;
    fill(out, sizeof out, (uint64_t)(round * 100 + world_rank * 10 + me));
    OK(MPI_File_get_position(file, &at));
    CHECK(at == round * BLOCK * 8, "thread %d, round %ld: the pointer is at %lld", me, round, (long long)at);
    OK(MPI_File_write(file, out, BLOCK, MPI_UINT64_T, &status));
    counts(&status, BLOCK, "write");
    if (round % 8 == 2 * me + 1) pause_ms(pause_of_round);
    OK(MPI_File_seek(file, -BLOCK * 8, MPI_SEEK_CUR));
    OK(MPI_File_read(file, in, BLOCK, MPI_UINT64_T, &status));
    counts(&status, BLOCK, "read");
    CHECK(memcmp(out, in, sizeof in) == 0, "thread %d, round %ld: what was appended", me, round);
}

/* A file of the threads of this number: blocks side by side written by all at once, the neighbour's read. */
static void together(MPI_File file, int me, long round)
{
    uint64_t out[BLOCK], in[BLOCK], theirs[BLOCK];
    int right = (world_rank + 1) % world_size;
    MPI_Offset row = round % 5 * world_size;
    MPI_Status status;
    fill(out, sizeof out, (uint64_t)(round * 1000 + world_rank * 10 + me));
    fill(theirs, sizeof theirs, (uint64_t)(round * 1000 + right * 10 + me));
    begin_alone();
    if (round % 2) {
        OK(MPI_File_write_at_all(file, (row + world_rank) * BLOCK * 8, out, BLOCK, MPI_UINT64_T, &status));
    } else {
        OK(MPI_File_write_at_all_begin(file, (row + world_rank) * BLOCK * 8, out, BLOCK, MPI_UINT64_T));
        if (round % 8 == 2 * me) pause_ms(pause_of_round);
        OK(MPI_File_write_at_all_end(file, out, &status));
    }
    end_alone();
    counts(&status, BLOCK, "write_at_all");
    meet(own[me]); /* Open MPI synchronises no file while a thread has an operation under way on any */
    begin_alone();
    OK(MPI_File_read_at_all(file, (row + right) * BLOCK * 8, in, BLOCK, MPI_UINT64_T, &status));
    end_alone();
    counts(&status, BLOCK, "read_at_all");
    CHECK(memcmp(theirs, in, sizeof in) == 0, "thread %d, round %ld: the neighbour's block", me, round);
    meet(own[me]);
}

static MPI_File open_file(MPI_Comm comm, const char *kind, int one, int other)
{
    char name[64];
    MPI_File file;
    snprintf(name, sizeof name, "threads-%s-%d-%d", kind, one, other);
    OK(MPI_File_open(comm, name, MPI_MODE_CREATE | MPI_MODE_RDWR, MPI_INFO_NULL, &file));
    return file;
}

static void *work(void *argument)
{
    int me = (int)(intptr_t)argument;
    uint64_t *cells = calloc(CELLS, sizeof *cells), hash = (uint64_t)me, record[2];
    MPI_File alone = alones[me], of_all = of_alls[me], log = logs[me];
    MPI_Offset at;
    for (int i = 0; i < CELLS; i++) cells[i] = (uint64_t)i * 3 + (uint64_t)me;
    OK(MPI_File_write_at(shared, (MPI_Offset)(world_rank * threads + me) * CELLS * 8, cells, CELLS, MPI_UINT64_T, MPI_STATUS_IGNORE));
    for (long round = 0; round < rounds; round++) {
        raise_cells(me, round, cells);
        append(alone, me, round);
        hash = fold(hash, (uint64_t)round);
        if (me == 0) together(of_all, me, round);
        record[0] = (uint64_t)round, record[1] = hash;
        OK(MPI_File_write_shared(log, record, 2, MPI_UINT64_T, MPI_STATUS_IGNORE));
        if (round % 4 == 3) {
            meet(own[me]);
            OK(MPI_File_get_position_shared(log, &at));
            CHECK(at == (round + 1) * world_size * 16, "thread %d, round %ld: the shared pointer is at %lld", me, round, (long long)at);
            meet(own[me]);
        }
        if (round % 4 == me) { /* a file that lives for a moment */
            begin_alone();
            MPI_File young = open_file(MPI_COMM_SELF, "young", world_rank, me);
            end_alone();
            OK(MPI_File_write(young, record, 2, MPI_UINT64_T, MPI_STATUS_IGNORE));
            OK(MPI_File_get_size(young, &at));
            CHECK(at == 16, "thread %d, round %ld: a young file has %lld bytes", me, round, (long long)at);
            begin_alone();
            OK(MPI_File_close(&young));
            end_alone();
        }
    }
    hashes[me] = fold(hash, hash_bytes(cells, CELLS * sizeof *cells));
    free(cells);
    return NULL;
}

static uint64_t content(const char *kind, int one, int other)
{
    char name[64];
    snprintf(name, sizeof name, "threads-%s-%d-%d", kind, one, other);
    FILE *file = fopen(name, "rb");
    CHECK(file, "%s does not open", name);
    fseek(file, 0, SEEK_END);
    size_t length = (size_t)ftell(file);
    rewind(file);
    void *data = malloc(length + 1);
    CHECK(fread(data, 1, length, file) == length, "%s", name);
    fclose(file);
    uint64_t hash = strcmp(kind, "log") == 0 ? (uint64_t)length : hash_bytes(data, length); /* its records are in any order */
    free(data);
    return hash;
}

int main(int argc, char **argv)
{
    int provided;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &world_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world_size);
    CHECK(provided == MPI_THREAD_MULTIPLE, "thread level %d", provided);
    rounds = option(argc, argv, "--rounds", 32), pause_of_round = option(argc, argv, "--pause", 100);
    threads = (int)option(argc, argv, "--threads", 3);
    CHECK(threads > 0 && threads <= THREADS, "1 to %d threads", THREADS);
    shared = open_file(MPI_COMM_WORLD, "shared", 0, 0);
    for (int i = 0; i < threads; i++) {
        MPI_Comm_dup(MPI_COMM_WORLD, &own[i]);
        alones[i] = open_file(MPI_COMM_SELF, "own", world_rank, i);
        of_alls[i] = open_file(own[i], "all", i, 0), logs[i] = open_file(own[i], "log", i, 0);
    }
    pthread_t others[THREADS];
    for (int i = 1; i < threads; i++) pthread_create(&others[i], NULL, work, (void *)(intptr_t)i);
    work((void *)(intptr_t)0);
    uint64_t hash = 0;
    for (int i = 0; i < threads; i++) {
        if (i) pthread_join(others[i], NULL);
        hash = fold(hash, hashes[i]);
        OK(MPI_File_close(&logs[i]));
        OK(MPI_File_close(&of_alls[i]));
        OK(MPI_File_close(&alones[i]));
        MPI_Comm_free(&own[i]);
    }
    OK(MPI_File_close(&shared));
    MPI_Barrier(MPI_COMM_WORLD);
    if (world_rank == 0) {
        hash = fold(hash, content("shared", 0, 0));
        for (int i = 0; i < threads; i++) {
            if (i == 0) hash = fold(hash, content("all", i, 0));
            hash = fold(hash, content("log", i, 0));
            for (int rank = 0; rank < world_size; rank++) hash = fold(hash, content("own", rank, i));
        }
    }
    return finish(hash);
}
