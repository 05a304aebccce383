/* Input and output: every procedure on files, on files that stay open for the whole run, and on some that live
 * for a round. Counters in files are read, compared with memory and written back raised by one: a write that is
 * lost, or applied twice, is seen at once. With -DLARGE the forms with large counts.
 *   files [--rounds N] [--pause MS] */
#include "common.h"
#include <sys/stat.h>

#ifdef LARGE
#define MPI_File_get_type_extent(f, t, e) ({ MPI_Count e_; int rc_ = MPI_File_get_type_extent_c(f, t, &e_); *(e) = (MPI_Aint)e_; rc_; })
#define MPI_File_iread MPI_File_iread_c
#define MPI_File_iread_all MPI_File_iread_all_c
#define MPI_File_iread_at MPI_File_iread_at_c
#define MPI_File_iread_at_all MPI_File_iread_at_all_c
#define MPI_File_iread_shared MPI_File_iread_shared_c
#define MPI_File_iwrite MPI_File_iwrite_c
#define MPI_File_iwrite_all MPI_File_iwrite_all_c
#define MPI_File_iwrite_at MPI_File_iwrite_at_c
#define MPI_File_iwrite_at_all MPI_File_iwrite_at_all_c
#define MPI_File_iwrite_shared MPI_File_iwrite_shared_c
#define MPI_File_read MPI_File_read_c
#define MPI_File_read_all MPI_File_read_all_c
#define MPI_File_read_all_begin MPI_File_read_all_begin_c
#define MPI_File_read_at MPI_File_read_at_c
#define MPI_File_read_at_all MPI_File_read_at_all_c
#define MPI_File_read_at_all_begin MPI_File_read_at_all_begin_c
#define MPI_File_read_ordered MPI_File_read_ordered_c
#define MPI_File_read_ordered_begin MPI_File_read_ordered_begin_c
#define MPI_File_read_shared MPI_File_read_shared_c
#define MPI_File_write MPI_File_write_c
#define MPI_File_write_all MPI_File_write_all_c
#define MPI_File_write_all_begin MPI_File_write_all_begin_c
#define MPI_File_write_at MPI_File_write_at_c
#define MPI_File_write_at_all MPI_File_write_at_all_c
#define MPI_File_write_at_all_begin MPI_File_write_at_all_begin_c
#define MPI_File_write_ordered MPI_File_write_ordered_c
#define MPI_File_write_ordered_begin MPI_File_write_ordered_begin_c
#define MPI_File_write_shared MPI_File_write_shared_c
#endif

/* A call that must succeed. */
#define OK(call)                                                                                      \
    do {                                                                                              \
        int rc_ = (call);                                                                             \
        if (rc_ != MPI_SUCCESS) {                                                                     \
            char text_[MPI_MAX_ERROR_STRING];                                                         \
            int len_;                                                                                 \
            MPI_Error_string(rc_, text_, &len_);                                                      \
            CHECK(0, "round %ld: %s: %s", round_now, #call, text_);                                   \
        }                                                                                             \
    } while (0)

enum { CELLS = 96 * 1024 + 3, TOUCHED = 24, BLOCK = 16, RECORD = 8 };

static long round_now = -1, pause_for;
static MPI_Info hints; /* empty */
static int handled, handled_code;

static void on_error(MPI_File *file, int *code, ...)
{
    (void)file;
    MPI_Error_class(*code, &handled_code);
    handled++;
}

static MPI_File open_file(MPI_Comm comm, const char *name, int mode)
{
    MPI_File file;
    OK(MPI_File_open(comm, name, mode, MPI_INFO_NULL, &file));
    return file;
}

static void counts(MPI_Status *status, MPI_Datatype type, int expected, const char *what)
{
    int count;
    MPI_Get_count(status, type, &count);
    CHECK(count == expected, "round %ld: %s: %d elements, not %d", round_now, what, count, expected);
}

static uint64_t content(const char *name)
{
    FILE *file = fopen(name, "rb");
    CHECK(file, "%s does not open", name);
    fseek(file, 0, SEEK_END);
    size_t length = (size_t)ftell(file);
    rewind(file);
    void *data = malloc(length + 1);
    CHECK(fread(data, 1, length, file) == length, "%s", name);
    fclose(file);
    uint64_t hash = hash_bytes(data, length);
    free(data);
    return hash;
}

static int exists(const char *name)
{
    struct stat found;
    return stat(name, &found) == 0;
}

/* Overwriting: cells of each rank side by side, a few of them raised in each round. */
static uint64_t *cells;
static void overwrite(MPI_File file)
{
    struct random random = {mix((uint64_t)round_now * 31 + (uint64_t)world_rank)};
    MPI_Offset base = (MPI_Offset)world_rank * CELLS * 8;
    MPI_Status status;
    for (int i = 0; i < TOUCHED; i++) {
        unsigned cell = below(&random, CELLS), length = 1 + below(&random, 40);
        uint64_t found[40];
        if (cell + length > CELLS) length = CELLS - cell;
        OK(MPI_File_read_at(file, base + cell * 8, found, (int)length, MPI_UINT64_T, &status));
        counts(&status, MPI_UINT64_T, (int)length, "read_at");
        for (unsigned k = 0; k < length; k++) {
            CHECK(found[k] == cells[cell + k], "round %ld: cell %u is %lu, not %lu", round_now, cell + k, (unsigned long)found[k], (unsigned long)cells[cell + k]);
            found[k] = ++cells[cell + k];
        }
        OK(MPI_File_write_at(file, base + cell * 8, found, (int)length, MPI_UINT64_T, &status));
        counts(&status, MPI_UINT64_T, (int)length, "write_at");
    }
    OK(MPI_File_sync(file));
    MPI_Barrier(MPI_COMM_WORLD);
    uint64_t mine = cells[5], theirs, right;
    OK(MPI_File_write_at_all(file, base + 5 * 8, &mine, 1, MPI_UINT64_T, &status));
    int next_rank = (world_rank + 1) % world_size, last = (world_rank + world_size - 1) % world_size;
    OK(MPI_File_sync(file));
    MPI_Barrier(MPI_COMM_WORLD);
    OK(MPI_File_read_at_all(file, (MPI_Offset)next_rank * CELLS * 8 + 5 * 8, &theirs, 1, MPI_UINT64_T, &status));
    counts(&status, MPI_UINT64_T, 1, "read_at_all");
    MPI_Sendrecv(&mine, 1, MPI_UINT64_T, last, 0, &right, 1, MPI_UINT64_T, next_rank, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    CHECK(theirs == right, "round %ld: the neighbour's cell", round_now);
}

/* Appending through the shared pointer, in order and not. */
static uint64_t append(MPI_File ordered, MPI_File unordered)
{
    uint64_t record[RECORD], back[RECORD];
    MPI_Status status;
    MPI_Offset at;
    for (int i = 0; i < RECORD; i++) record[i] = mix((uint64_t)(round_now * 1000 + world_rank * 10 + i));
    OK(MPI_File_write_ordered(ordered, record, RECORD, MPI_UINT64_T, &status));
    counts(&status, MPI_UINT64_T, RECORD, "write_ordered");
    MPI_Barrier(MPI_COMM_WORLD);
    OK(MPI_File_get_position_shared(ordered, &at));
    CHECK(at == (round_now + 1) * world_size * RECORD, "round %ld: the shared pointer is at %lld", round_now, (long long)at);
    OK(MPI_File_read_at(ordered, (round_now * world_size + world_rank) * RECORD, back, RECORD, MPI_UINT64_T, &status));
    CHECK(memcmp(record, back, sizeof record) == 0, "round %ld: an ordered record", round_now);
    if (round_now % 2) {
        /* All read again in order what all have written in order: the shared pointer is where it was. */
        OK(MPI_File_sync(ordered));
        MPI_Barrier(MPI_COMM_WORLD);
        OK(MPI_File_seek_shared(ordered, round_now * world_size * RECORD, MPI_SEEK_SET));
        memset(back, 0, sizeof back);
        OK(MPI_File_read_ordered(ordered, back, RECORD, MPI_UINT64_T, &status));
        counts(&status, MPI_UINT64_T, RECORD, "read_ordered");
        CHECK(memcmp(record, back, sizeof record) == 0, "round %ld: a record read in order", round_now);
        MPI_Barrier(MPI_COMM_WORLD);
        OK(MPI_File_seek_shared(ordered, round_now * world_size * RECORD, MPI_SEEK_SET));
        OK(MPI_File_read_shared(ordered, back, RECORD, MPI_UINT64_T, &status));
        counts(&status, MPI_UINT64_T, RECORD, "read_shared");
        uint64_t sums[2] = {record[3], back[3]}, all[2];
        MPI_Allreduce(sums, all, 2, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
        CHECK(all[0] == all[1], "round %ld: records read by the shared pointer", round_now);
        OK(MPI_File_get_position_shared(ordered, &at));
        CHECK(at == (round_now + 1) * world_size * RECORD, "round %ld: after the reads the shared pointer is at %lld", round_now, (long long)at);
        MPI_Barrier(MPI_COMM_WORLD);
    }
    OK(MPI_File_write_shared(unordered, record, RECORD, MPI_UINT64_T, &status));
    counts(&status, MPI_UINT64_T, RECORD, "write_shared");
    pause_ms(pause_for / 4);
    MPI_Barrier(MPI_COMM_WORLD);
    OK(MPI_File_get_position_shared(unordered, &at));
    CHECK(at == (round_now + 1) * world_size * RECORD * 8, "round %ld: the shared pointer of bytes is at %lld", round_now, (long long)at);
    return record[0];
}

/* A view: every rank has each n-th block; the individual pointer goes on from round to round. */
static void through_view(MPI_File file, long *elements)
{
    int data[2 * BLOCK], back[2 * BLOCK];
    MPI_Status status;
    MPI_Offset at, byte, size;
    OK(MPI_File_get_position(file, &at));
    CHECK(at == *elements, "round %ld: the pointer of a view is at %lld", round_now, (long long)at);
    for (int i = 0; i < 2 * BLOCK; i++) data[i] = (int)(round_now * 100000 + world_rank * 1000 + i);
    OK(MPI_File_write_all(file, data, BLOCK, MPI_INT, &status));
    counts(&status, MPI_INT, BLOCK, "write_all");
    OK(MPI_File_write(file, data + BLOCK, BLOCK, MPI_INT, &status));
    counts(&status, MPI_INT, BLOCK, "write");
    pause_ms(pause_for / 4);
    OK(MPI_File_seek(file, -2 * BLOCK, MPI_SEEK_CUR));
    OK(MPI_File_read_all(file, back, BLOCK, MPI_INT, &status));
    counts(&status, MPI_INT, BLOCK, "read_all");
    OK(MPI_File_read(file, back + BLOCK, BLOCK, MPI_INT, &status));
    CHECK(memcmp(data, back, sizeof data) == 0, "round %ld: through a view", round_now);
    OK(MPI_File_get_byte_offset(file, *elements, &byte));
    CHECK(byte == 64 + (*elements / BLOCK * world_size + world_rank) * BLOCK * 4, "round %ld: byte %lld", round_now, (long long)byte);
    *elements += 2 * BLOCK;
    OK(MPI_File_get_size(file, &size));
    CHECK(size > 64, "size");
}

/* What a file says of its view. */
static void view_is(MPI_File file, MPI_Offset disp, MPI_Datatype etype, int bytes, MPI_Aint reach)
{
    MPI_Offset found;
    MPI_Datatype e, f;
    MPI_Aint extent, lb;
    char datarep[MPI_MAX_DATAREP_STRING];
    int size, a, b, c, how;
    OK(MPI_File_get_view(file, &found, &e, &f, datarep));
    CHECK(found == disp && strcmp(datarep, "native") == 0, "view: %lld %s", (long long)found, datarep);
    CHECK(e == etype, "the elementary type");
    MPI_Type_get_envelope(f, &a, &b, &c, &how);
    MPI_Type_size(f, &size);
    MPI_Type_get_extent(f, &lb, &extent);
    CHECK(size == bytes && lb == 0 && extent == reach, "the file type: %d bytes, extent %ld", size, (long)extent);
    if (how != MPI_COMBINER_NAMED) MPI_Type_free(&f);
    OK(MPI_File_get_type_extent(file, MPI_DOUBLE, &extent));
    CHECK(extent == 8, "extent %ld", (long)extent);
}

/* Requests that are open over a pause. */
static void nonblocking(MPI_File file, MPI_File shared)
{
    enum { N = 6 };
    static uint64_t out[N][BLOCK], in[N][BLOCK];
    MPI_Request requests[N];
    MPI_Status statuses[N];
    MPI_Offset base = (MPI_Offset)world_rank * N * BLOCK * 8;
    for (int k = 0; k < N; k++)
        for (int i = 0; i < BLOCK; i++) out[k][i] = mix((uint64_t)(round_now * 7919 + world_rank * 101 + k * 17 + i)), in[k][i] = 0;
    OK(MPI_File_seek(file, base, MPI_SEEK_SET));
    OK(MPI_File_iwrite(file, out[0], BLOCK, MPI_UINT64_T, &requests[0]));
    OK(MPI_File_iwrite_at(file, base + BLOCK * 8, out[1], BLOCK, MPI_UINT64_T, &requests[1]));
    OK(MPI_File_iwrite_at_all(file, base + 2 * BLOCK * 8, out[2], BLOCK, MPI_UINT64_T, &requests[2]));
    pause_ms(pause_for / 4);
    OK(MPI_Waitall(3, requests, statuses));
    for (int k = 0; k < 3; k++) counts(&statuses[k], MPI_UINT64_T, BLOCK, "iwrite");
    OK(MPI_File_seek(file, base + 3 * BLOCK * 8, MPI_SEEK_SET));
    OK(MPI_File_iwrite_all(file, out[3], BLOCK, MPI_UINT64_T, &requests[3]));
    OK(MPI_File_iwrite_shared(shared, out[4], BLOCK, MPI_UINT64_T, &requests[4]));
    pause_ms(pause_for / 4);
    OK(MPI_Wait(&requests[3], &statuses[3]));
    int flag = 0;
    while (!flag) OK(MPI_Test(&requests[4], &flag, &statuses[4]));
    counts(&statuses[3], MPI_UINT64_T, BLOCK, "iwrite_all"), counts(&statuses[4], MPI_UINT64_T, BLOCK, "iwrite_shared");
    OK(MPI_File_sync(file));
    MPI_Barrier(MPI_COMM_WORLD);
    OK(MPI_File_seek(file, base, MPI_SEEK_SET));
    OK(MPI_File_iread(file, in[0], BLOCK, MPI_UINT64_T, &requests[0]));
    OK(MPI_File_iread_at(file, base + BLOCK * 8, in[1], BLOCK, MPI_UINT64_T, &requests[1]));
    OK(MPI_File_iread_at_all(file, base + 2 * BLOCK * 8, in[2], BLOCK, MPI_UINT64_T, &requests[2]));
    pause_ms(pause_for / 4);
    OK(MPI_Waitall(3, requests, statuses));
    for (int k = 0; k < 3; k++) counts(&statuses[k], MPI_UINT64_T, BLOCK, "iread");
    OK(MPI_File_seek(file, base + 3 * BLOCK * 8, MPI_SEEK_SET));
    OK(MPI_File_iread_all(file, in[3], BLOCK, MPI_UINT64_T, &requests[3]));
    pause_ms(pause_for / 4);
    OK(MPI_Waitany(1, &requests[3], &flag, &statuses[3]));
    counts(&statuses[3], MPI_UINT64_T, BLOCK, "iread_all");
    CHECK(memcmp(out, in, 4 * BLOCK * 8) == 0, "round %ld: non-blocking", round_now);
    /* What all have written through the shared pointer, read the same way. */
    OK(MPI_File_sync(shared));
    MPI_Barrier(MPI_COMM_WORLD);
    OK(MPI_File_seek_shared(shared, round_now * world_size * BLOCK * 8, MPI_SEEK_SET));
    OK(MPI_File_iread_shared(shared, in[5], BLOCK, MPI_UINT64_T, &requests[5]));
    OK(MPI_Wait(&requests[5], &statuses[5]));
    counts(&statuses[5], MPI_UINT64_T, BLOCK, "iread_shared");
    uint64_t sums[2] = {out[4][3], in[5][3]}, all[2];
    MPI_Allreduce(sums, all, 2, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
    CHECK(all[0] == all[1], "round %ld: non-blocking, shared", round_now);
}

/* Split collectives, a pause between their halves. */
static void split(MPI_File file)
{
    int out[3][BLOCK], in[3][BLOCK];
    MPI_Status status;
    int step = BLOCK * 4, part = world_size * step;
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < BLOCK; i++) out[k][i] = (int)(round_now * 7000 + world_rank * 300 + k * 20 + i);
    OK(MPI_File_seek(file, world_rank * step, MPI_SEEK_SET));
    OK(MPI_File_write_all_begin(file, out[0], BLOCK, MPI_INT));
    pause_ms(pause_for / 4);
    OK(MPI_File_write_all_end(file, out[0], &status));
    counts(&status, MPI_INT, BLOCK, "write_all_end");
    OK(MPI_File_write_at_all_begin(file, part + world_rank * step, out[1], BLOCK, MPI_INT));
    pause_ms(pause_for / 4);
    OK(MPI_File_write_at_all_end(file, out[1], &status));
    counts(&status, MPI_INT, BLOCK, "write_at_all_end");
    OK(MPI_File_seek_shared(file, 2 * part, MPI_SEEK_SET));
    OK(MPI_File_write_ordered_begin(file, out[2], BLOCK, MPI_INT));
    OK(MPI_File_write_ordered_end(file, out[2], &status));
    counts(&status, MPI_INT, BLOCK, "write_ordered_end");
    /* The end of the file is where the last of all writes ended. */
    OK(MPI_File_sync(file));
    MPI_Barrier(MPI_COMM_WORLD);
    OK(MPI_File_seek(file, world_rank * step, MPI_SEEK_SET));
    OK(MPI_File_read_all_begin(file, in[0], BLOCK, MPI_INT));
    OK(MPI_File_read_all_end(file, in[0], &status));
    counts(&status, MPI_INT, BLOCK, "read_all_end");
    OK(MPI_File_read_at_all_begin(file, part + world_rank * step, in[1], BLOCK, MPI_INT));
    OK(MPI_File_read_at_all_end(file, in[1], &status));
    counts(&status, MPI_INT, BLOCK, "read_at_all_end");
    OK(MPI_File_seek_shared(file, -part, MPI_SEEK_END));
    OK(MPI_File_read_ordered_begin(file, in[2], BLOCK, MPI_INT));
    pause_ms(pause_for / 4);
    OK(MPI_File_read_ordered_end(file, in[2], &status));
    counts(&status, MPI_INT, BLOCK, "read_ordered_end");
    CHECK(memcmp(out, in, sizeof out) == 0, "round %ld: split collectives", round_now);
}

/* A file that all read in order, one that lives for a round, and one that is deleted and made anew. */
static void short_lives(MPI_File log, MPI_Comm half, const char *reborn)
{
    uint64_t mark = mix((uint64_t)round_now), got;
    MPI_Status status;
    MPI_File file;
    MPI_Offset size;
    int mode, amode = MPI_MODE_RDWR | MPI_MODE_CREATE | MPI_MODE_EXCL | MPI_MODE_DELETE_ON_CLOSE;
    char name[64];
    /* MPICH names what it keeps beside the file by the second. */
    snprintf(name, sizeof name, "files-half-%d-%ld", world_rank % 2, round_now);
    file = open_file(half, name, amode);
    OK(MPI_File_get_amode(file, &mode));
    CHECK(mode == amode, "mode %d", mode);
    OK(MPI_File_write_shared(file, &mark, 1, MPI_UINT64_T, &status));
    pause_ms(pause_for / 4);
    OK(MPI_File_sync(file));
    MPI_Barrier(half);
    OK(MPI_File_seek_shared(file, 0, MPI_SEEK_SET));
    OK(MPI_File_read_ordered(file, &got, 1, MPI_UINT64_T, &status));
    counts(&status, MPI_UINT64_T, 1, "read_ordered");
    CHECK(got == mark, "round %ld: a young file", round_now);
    MPI_Barrier(half);
    OK(MPI_File_seek_shared(file, 0, MPI_SEEK_SET));
    OK(MPI_File_read_shared(file, &got, 1, MPI_UINT64_T, &status));
    counts(&status, MPI_UINT64_T, 1, "read_shared");
    OK(MPI_File_close(&file));
    CHECK(file == MPI_FILE_NULL && !exists(name), "round %ld: a closed file", round_now);

    /* The file of the last round is there with its content; every third time it is deleted. */
    if (round_now % 3 == 0) {
        if (world_rank == 0 && exists(reborn)) OK(MPI_File_delete(reborn, hints));
        MPI_Barrier(MPI_COMM_WORLD);
        file = open_file(MPI_COMM_WORLD, reborn, MPI_MODE_RDWR | MPI_MODE_CREATE | MPI_MODE_EXCL);
        OK(MPI_File_get_size(file, &size));
        CHECK(size == 0, "round %ld: a new file has %lld bytes", round_now, (long long)size);
        MPI_Barrier(MPI_COMM_WORLD);
    } else {
        file = open_file(MPI_COMM_WORLD, reborn, MPI_MODE_RDWR | MPI_MODE_APPEND);
        uint64_t before = mix((uint64_t)round_now - 1);
        OK(MPI_File_read_at(file, (round_now % 3 - 1) * 8 * world_size, &got, 1, MPI_UINT64_T, &status));
        CHECK(got == before, "round %ld: what was written before", round_now);
    }
    OK(MPI_File_write_at(file, (round_now % 3 * world_size + world_rank) * 8, &mark, 1, MPI_UINT64_T, &status));
    pause_ms(pause_for / 4);
    OK(MPI_File_close(&file));

    OK(MPI_File_write_shared(log, &mark, 1, MPI_UINT64_T, &status));
}

enum { OWN_MODE = MPI_MODE_CREATE | MPI_MODE_RDWR | MPI_MODE_DELETE_ON_CLOSE };

/* Lengths: a file that grows and is cut, and one whose space is taken before it is written. */
static void lengths(MPI_File file, MPI_File own)
{
    MPI_Offset size, wanted = 100000 + round_now % 5 * 300000;
    int flag;
    uint64_t mark = mix((uint64_t)round_now + 5), got;
    OK(MPI_File_set_size(file, wanted));
    OK(MPI_File_get_size(file, &size));
    CHECK(size == wanted, "round %ld: %lld bytes", round_now, (long long)size);
    MPI_Barrier(MPI_COMM_WORLD);
    OK(MPI_File_write_at(file, wanted - 8 * (1 + world_rank), &mark, 1, MPI_UINT64_T, MPI_STATUS_IGNORE));
    OK(MPI_File_sync(file));
    MPI_Barrier(MPI_COMM_WORLD);
    pause_ms(pause_for / 4);
    OK(MPI_File_read_at(file, wanted - 8 * world_size, &got, 1, MPI_UINT64_T, MPI_STATUS_IGNORE));
    CHECK(got == mark, "round %ld: the end of the file", round_now);
    OK(MPI_File_get_atomicity(file, &flag));
    CHECK(flag == (round_now > 0 && round_now % 2 == 0), "round %ld: atomicity %d", round_now, flag);
    OK(MPI_File_set_atomicity(file, round_now % 2));

    /* A file of each process: Open MPI takes more than it is asked for once there is something in it. */
    int mode;
    OK(MPI_File_get_amode(own, &mode));
    CHECK(mode == OWN_MODE, "mode %d", mode);
    OK(MPI_File_set_size(own, 0));
    OK(MPI_File_preallocate(own, 50000));
    OK(MPI_File_get_size(own, &size));
    CHECK(size == 50000, "round %ld: %lld bytes after preallocate", round_now, (long long)size);
}

/* Errors, handlers, hints, group. */
static void properties(MPI_File file, MPI_Errhandler *handler)
{
    MPI_File none;
    MPI_Errhandler found;
    MPI_Info info;
    MPI_Group group;
    int class, size, flag;
    char text[MPI_MAX_INFO_VAL];
    int rc = MPI_File_open(MPI_COMM_SELF, "files-none/x", MPI_MODE_RDONLY, MPI_INFO_NULL, &none);
    MPI_Error_class(rc, &class);
    CHECK(class == MPI_ERR_NO_SUCH_FILE, "opening what is not there: class %d", class);
    rc = MPI_File_delete("files-none/x", MPI_INFO_NULL);
    MPI_Error_class(rc, &class);
    CHECK(class == MPI_ERR_NO_SUCH_FILE, "deleting what is not there: class %d", class);
    int before = handled;
    OK(MPI_File_call_errhandler(file, MPI_ERR_QUOTA));
    CHECK(handled == before + 1 && handled_code == MPI_ERR_QUOTA, "the handler: %d times, class %d", handled - before, handled_code);
    OK(MPI_File_get_errhandler(file, &found));
    CHECK(found == *handler, "the handler");
    MPI_Errhandler_free(&found), MPI_Errhandler_free(handler);
    MPI_File_create_errhandler(on_error, handler); /* of the next round */
    OK(MPI_File_set_errhandler(file, *handler));
    CHECK(MPI_File_f2c(MPI_File_c2f(file)) == file && MPI_File_f2c(MPI_File_c2f(MPI_FILE_NULL)) == MPI_FILE_NULL, "Fortran handles");
    OK(MPI_File_get_errhandler(MPI_FILE_NULL, &found));
    CHECK(found == MPI_ERRORS_RETURN, "the handler of no file");
    OK(MPI_File_get_group(file, &group));
    MPI_Group_size(group, &size);
    MPI_Group_free(&group);
    CHECK(size == world_size, "a group of %d", size);
    MPI_Info_create(&info);
    OK(MPI_File_set_info(file, info));
    MPI_Info_set(info, "access_style", "random");
    OK(MPI_File_set_info(file, info));
    MPI_Info_free(&info);
    OK(MPI_File_get_info(file, &info));
    MPI_Info_get(info, "cb_buffer_size", 40, text, &flag);
    MPI_Info_free(&info);
}

static int no_conversion(void *user, MPI_Datatype type, int count, void *file, MPI_Offset position, void *extra)
{
    (void)user, (void)type, (void)count, (void)file, (void)position, (void)extra;
    return MPI_SUCCESS;
}

static int extent_in_file(MPI_Datatype type, MPI_Aint *extent, void *extra)
{
    (void)type, (void)extra;
    *extent = 8;
    return MPI_SUCCESS;
}

/* Neither library converts by functions of the program. */
static void representations(MPI_File file)
{
    int class;
    MPI_Errhandler world, self;
    /* It belongs to no object: MPI-4 raises it on MPI_COMM_SELF, libraries before on MPI_COMM_WORLD. */
    MPI_Comm_get_errhandler(MPI_COMM_WORLD, &world);
    MPI_Comm_get_errhandler(MPI_COMM_SELF, &self);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN);
    MPI_Error_class(MPI_Register_datarep("mine", no_conversion, no_conversion, extent_in_file, NULL), &class);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, world);
    MPI_Comm_set_errhandler(MPI_COMM_SELF, self);
    MPI_Errhandler_free(&world);
    MPI_Errhandler_free(&self);
    /* Open MPI says "other" from 4.1.8 on, MPICH "unsupported" from 5.0. */
    CHECK(class == MPI_ERR_CONVERSION || class == MPI_ERR_OTHER || class == MPI_ERR_UNSUPPORTED_DATAREP,
          "a representation with functions: class %d", class);
    int before = handled;
    MPI_File_set_view(file, 0, MPI_INT, MPI_INT, "mine", MPI_INFO_NULL);
    CHECK(handled == before + 1 && handled_code == MPI_ERR_UNSUPPORTED_DATAREP, "a view of it: class %d", handled_code);
}

int main(int argc, char **argv)
{
    static const char *names[] = {"files-over", "files-ordered", "files-unordered", "files-view", "files-requests", "files-shared",
                                  "files-split", "files-log", "files-lengths", "files-reborn"};
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 12), elements = 0;
    pause_for = option(argc, argv, "--pause", 100);
    if (world_rank == 0)
        for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
            if (exists(names[i])) OK(MPI_File_delete(names[i], MPI_INFO_NULL));
    for (long i = 0; i < 2 * rounds && world_rank == 0; i++) {
        char name[64];
        snprintf(name, sizeof name, "files-half-%ld-%ld", i % 2, i / 2);
        if (exists(name)) OK(MPI_File_delete(name, MPI_INFO_NULL));
    }
    MPI_Barrier(MPI_COMM_WORLD);

    int mode = MPI_MODE_CREATE | MPI_MODE_RDWR;
    MPI_File over = open_file(MPI_COMM_WORLD, names[0], mode), ordered = open_file(MPI_COMM_WORLD, names[1], mode);
    MPI_File unordered = open_file(MPI_COMM_WORLD, names[2], mode), view = open_file(MPI_COMM_WORLD, names[3], mode);
    MPI_File requests = open_file(MPI_COMM_WORLD, names[4], mode), shared = open_file(MPI_COMM_WORLD, names[5], mode | MPI_MODE_UNIQUE_OPEN);
    MPI_File halves = open_file(MPI_COMM_WORLD, names[6], mode);
    MPI_File log = open_file(MPI_COMM_WORLD, names[7], MPI_MODE_CREATE | MPI_MODE_WRONLY | MPI_MODE_SEQUENTIAL);
    MPI_File size = open_file(MPI_COMM_WORLD, names[8], mode);
    char space[64];
    snprintf(space, sizeof space, "files-space-%d", world_rank);
    MPI_File own = open_file(MPI_COMM_SELF, space, OWN_MODE);
    MPI_Errhandler handler;
    MPI_File_create_errhandler(on_error, &handler);
    OK(MPI_File_set_errhandler(over, handler));
    MPI_Errhandler lasting;
    MPI_File_create_errhandler(on_error, &lasting);
    OK(MPI_File_set_view(ordered, 0, MPI_UINT64_T, MPI_UINT64_T, "native", MPI_INFO_NULL));
    MPI_Datatype block, every;
    MPI_Type_contiguous(BLOCK, MPI_INT, &block);
    MPI_Type_create_resized(block, 0, (MPI_Aint)BLOCK * 4 * world_size, &every);
    MPI_Type_commit(&every);
    OK(MPI_File_set_view(view, 64 + (MPI_Offset)world_rank * BLOCK * 4, MPI_INT, every, "native", MPI_INFO_NULL));
    MPI_Type_free(&block), MPI_Type_free(&every);
    MPI_Info_create(&hints);
    MPI_Comm half;
    MPI_Comm_split(MPI_COMM_WORLD, world_rank % 2, world_rank, &half);
    representations(over);
    cells = calloc(CELLS, sizeof *cells);
    for (int i = 0; i < CELLS; i++) cells[i] = (uint64_t)i * 3 + (uint64_t)world_rank;
    OK(MPI_File_write_at(over, (MPI_Offset)world_rank * CELLS * 8, cells, CELLS, MPI_UINT64_T, MPI_STATUS_IGNORE));
    OK(MPI_File_sync(over));
    MPI_Barrier(MPI_COMM_WORLD);

    uint64_t hash = (uint64_t)rounds;
    for (round_now = 0; round_now < rounds; round_now++) {
        overwrite(over);
        hash = fold(hash, append(ordered, unordered));
        through_view(view, &elements);
        nonblocking(requests, shared);
        split(halves);
        short_lives(log, half, names[9]);
        lengths(size, own);
        properties(over, &handler);
    }

    view_is(view, 64 + (MPI_Offset)world_rank * BLOCK * 4, MPI_INT, BLOCK * 4, (MPI_Aint)BLOCK * 4 * world_size);
    view_is(ordered, 0, MPI_UINT64_T, 8, 8);
    representations(over);
    handled = 0;
    OK(MPI_File_set_errhandler(view, lasting));
    OK(MPI_File_call_errhandler(view, MPI_ERR_QUOTA));
    CHECK(handled == 1 && handled_code == MPI_ERR_QUOTA, "the handler of the whole run");
    MPI_Errhandler_free(&lasting);
    MPI_File *each[] = {&over, &ordered, &unordered, &view, &requests, &shared, &halves, &log, &size, &own};
    for (unsigned i = 0; i < sizeof each / sizeof *each; i++) OK(MPI_File_close(each[i]));
    MPI_Errhandler_free(&handler);
    MPI_Info_free(&hints);
    MPI_Comm_free(&half);
    MPI_Barrier(MPI_COMM_WORLD);
    if (world_rank == 0)
        for (int i = 0; i < 10; i++) {
            /* What is written through the shared pointer in no order has records in any order. */
            struct stat found;
            stat(names[i], &found);
            hash = fold(hash, i == 2 || i == 5 ? (uint64_t)found.st_size : content(names[i]));
        }
    return finish(hash);
}
