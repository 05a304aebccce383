/* Part of dense.c: files that are open for the whole run, and some that live for a few rounds.
 *
 * Numbers in a file are read, compared with memory and written back raised by one, so that a write which is lost or
 * applied twice is seen at once. Requests and split collectives stay open over rounds. */
#ifndef MANA_TEST_DENSE_FILES_H
#define MANA_TEST_DENSE_FILES_H

#include "../common.h"

enum { FILE_CELLS = 4096, FILE_HALF = FILE_CELLS / 2, FILE_MOST = 48, FILE_BLOCK = 16, FILE_RECORD = 8 };

/* A call that must succeed. */
#define FILE_OK(call)                                                                                 \
    do {                                                                                              \
        int rc_ = (call);                                                                             \
        if (rc_ != MPI_SUCCESS) {                                                                     \
            char text_[MPI_MAX_ERROR_STRING];                                                         \
            int length_;                                                                              \
            MPI_Error_string(rc_, text_, &length_);                                                   \
            CHECK(0, "round %ld: %s: %s", file.round, #call, text_);                                  \
        }                                                                                             \
    } while (0)

static struct {
    struct random plan;
    const char *prefix;
    long round, records, splits;
    MPI_File cells, view, log, split, young;
    uint64_t *content, *moving; /* cells of this rank; the second half is written by a request */
    int moving_first, moving_count, splitting, wide;
    MPI_Request request;
    MPI_Offset elements;
    int split_out[FILE_BLOCK];
    long young_round;
    int youngs, atomic;
    uint64_t hash;
} file;

static const char *file_name(const char *what)
{
    static char name[4096];
    snprintf(name, sizeof name, "%s-%s", file.prefix, what);
    return name;
}

static void file_count(MPI_Status *status, MPI_Datatype type, int expected)
{
    int count;
    MPI_Get_count(status, type, &count);
    CHECK(count == expected, "round %ld: %d elements, not %d", file.round, count, expected);
}

static void file_open(const char *what, int mode, MPI_File *opened)
{
    FILE_OK(MPI_File_open(MPI_COMM_WORLD, file_name(what), mode, MPI_INFO_NULL, opened));
}

/* --- split collectives, a few rounds between their halves ------------------------------------------------------- */

static void file_split_end(void)
{
    int in[FILE_BLOCK];
    MPI_Status status;
    MPI_Offset at = (file.splits % 50 * world_size + world_rank) * FILE_BLOCK * 4;
    if (!file.splitting) return;
    FILE_OK(MPI_File_write_at_all_end(file.split, file.split_out, &status));
    file_count(&status, MPI_INT, FILE_BLOCK);
    FILE_OK(MPI_File_read_at_all_begin(file.split, at, in, FILE_BLOCK, MPI_INT));
    FILE_OK(MPI_File_read_at_all_end(file.split, in, &status));
    CHECK(memcmp(in, file.split_out, sizeof in) == 0, "round %ld: a split collective", file.round);
    file.splits++, file.splitting = 0;
}

static void file_split(void)
{
    file_split_end();
    for (int i = 0; i < FILE_BLOCK; i++) file.split_out[i] = (int)(file.round * 500 + world_rank * 100 + i);
    FILE_OK(MPI_File_write_at_all_begin(file.split, (file.splits % 50 * world_size + world_rank) * FILE_BLOCK * 4, file.split_out, FILE_BLOCK, MPI_INT));
    file.splitting = 1;
}

/* --- explicit offsets ------------------------------------------------------------------------------------------ */

/* What was begun some rounds ago has arrived. */
static void file_moved(void)
{
    MPI_Offset base = (MPI_Offset)world_rank * FILE_CELLS * 8;
    uint64_t found[FILE_MOST];
    MPI_Status status;
    if (!file.moving_count) return;
    FILE_OK(MPI_Wait(&file.request, &status));
    file_count(&status, MPI_UINT64_T, file.moving_count);
    FILE_OK(MPI_File_iread_at(file.cells, base + file.moving_first * 8, found, file.moving_count, MPI_UINT64_T, &file.request));
    FILE_OK(MPI_Wait(&file.request, &status));
    CHECK(memcmp(found, &file.content[file.moving_first], (size_t)file.moving_count * 8) == 0, "round %ld: written by a request", file.round);
    file.moving_count = 0;
}

static void file_raise(void)
{
    MPI_Offset base = (MPI_Offset)world_rank * FILE_CELLS * 8;
    uint64_t found[FILE_MOST];
    MPI_Status status;
    int first = (int)below(&file.plan, FILE_HALF - FILE_MOST), count = 1 + (int)below(&file.plan, FILE_MOST - 1);
    int moving = FILE_HALF + (int)below(&file.plan, FILE_HALF - FILE_MOST), wait = (int)below(&file.plan, 2);
    FILE_OK(MPI_File_read_at(file.cells, base + first * 8, found, count, MPI_UINT64_T, &status));
    file_count(&status, MPI_UINT64_T, count);
    for (int i = 0; i < count; i++) {
        CHECK(found[i] == file.content[first + i], "round %ld: cell %d is %llu, not %llu", file.round, first + i,
              (unsigned long long)found[i], (unsigned long long)file.content[first + i]);
        found[i] = ++file.content[first + i];
    }
    FILE_OK(MPI_File_write_at(file.cells, base + first * 8, found, count, MPI_UINT64_T, &status));
    file_count(&status, MPI_UINT64_T, count);
    if (wait) file_moved();
    if (!file.moving_count) {
        file.moving_first = moving, file.moving_count = count;
        for (int i = 0; i < count; i++) file.moving[i] = ++file.content[moving + i];
        FILE_OK(MPI_File_iwrite_at(file.cells, base + moving * 8, file.moving, count, MPI_UINT64_T, &file.request));
    }
}

/* All look at what the others have written. */
static void file_settle(void)
{
    int right = (world_rank + 1) % world_size, left = (world_rank + world_size - 1) % world_size, flag;
    uint64_t mine[4], theirs[4], read[4];
    MPI_Status status;
    /* No request may be open at MPI_File_sync, and with Open MPI none on any file. */
    file_moved();
    file_split_end();
    FILE_OK(MPI_File_write_at_all(file.cells, (MPI_Offset)world_rank * FILE_CELLS * 8, file.content, 4, MPI_UINT64_T, &status));
    FILE_OK(MPI_File_sync(file.cells));
    MPI_Barrier(MPI_COMM_WORLD);
    FILE_OK(MPI_File_sync(file.cells));
    FILE_OK(MPI_File_read_at_all(file.cells, (MPI_Offset)right * FILE_CELLS * 8, read, 4, MPI_UINT64_T, &status));
    memcpy(mine, file.content, sizeof mine);
    MPI_Sendrecv(mine, 4, MPI_UINT64_T, left, 5, theirs, 4, MPI_UINT64_T, right, 5, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    CHECK(memcmp(read, theirs, sizeof read) == 0, "round %ld: the neighbour's cells", file.round);
    FILE_OK(MPI_File_get_atomicity(file.cells, &flag));
    CHECK(flag == file.atomic, "round %ld: atomicity %d", file.round, flag);
    file.atomic = !file.atomic;
    FILE_OK(MPI_File_set_atomicity(file.cells, file.atomic));
    file.hash = fold(file.hash, theirs[1]);
}

/* --- a view with a derived type, and the individual pointer ---------------------------------------------------- */

/* Every rank has each n-th block; `wide`: and a gap of as many blocks follows. */
static void file_see(void)
{
    MPI_Datatype block, every;
    MPI_Type_contiguous(FILE_BLOCK, MPI_INT, &block);
    MPI_Type_create_resized(block, 0, (MPI_Aint)FILE_BLOCK * 4 * world_size * (1 + file.wide), &every);
    MPI_Type_commit(&every);
    FILE_OK(MPI_File_set_view(file.view, 64 + (MPI_Offset)world_rank * FILE_BLOCK * 4, MPI_INT, every, "native", MPI_INFO_NULL));
    MPI_Type_free(&block), MPI_Type_free(&every);
    file.elements = 0;
}

static void file_through_view(void)
{
    int data[2 * FILE_BLOCK], back[2 * FILE_BLOCK], change = below(&file.plan, 12) == 0;
    MPI_Status status;
    MPI_Offset at, byte;
    if (change) file.wide = !file.wide, file_see();
    FILE_OK(MPI_File_get_position(file.view, &at));
    CHECK(at == file.elements, "round %ld: the pointer of a view is at %lld, not %lld", file.round, (long long)at, (long long)file.elements);
    for (int i = 0; i < 2 * FILE_BLOCK; i++) data[i] = (int)(file.round * 10000 + world_rank * 1000 + i);
    FILE_OK(MPI_File_write_all(file.view, data, FILE_BLOCK, MPI_INT, &status));
    file_count(&status, MPI_INT, FILE_BLOCK);
    FILE_OK(MPI_File_write(file.view, data + FILE_BLOCK, FILE_BLOCK, MPI_INT, &status));
    FILE_OK(MPI_File_seek(file.view, -2 * FILE_BLOCK, MPI_SEEK_CUR));
    /* What was written by all together is read so too: with Open MPI another process may not have written it yet. */
    FILE_OK(MPI_File_read_all(file.view, back, FILE_BLOCK, MPI_INT, &status));
    FILE_OK(MPI_File_read(file.view, back + FILE_BLOCK, FILE_BLOCK, MPI_INT, &status));
    CHECK(memcmp(data, back, sizeof data) == 0, "round %ld: through a view", file.round);
    FILE_OK(MPI_File_get_byte_offset(file.view, file.elements, &byte));
    CHECK(byte == 64 + (file.elements / FILE_BLOCK * (1 + file.wide) * world_size + world_rank) * FILE_BLOCK * 4, "round %ld: byte %lld",
          file.round, (long long)byte);
    file.elements += 2 * FILE_BLOCK;
}

/* --- the shared pointer ----------------------------------------------------------------------------------------- */

static void file_record(uint64_t *record, long number, int rank)
{
    for (int i = 0; i < FILE_RECORD; i++) record[i] = mix((uint64_t)number * 1009 + (uint64_t)(rank * 10 + i));
}

static void file_append(void)
{
    uint64_t record[FILE_RECORD], back[FILE_RECORD];
    int ordered = below(&file.plan, 2) == 0 || file.records == 0, look = below(&file.plan, 6) == 0;
    MPI_Status status;
    MPI_Offset at;
    file_record(record, file.records, world_rank);
    if (ordered) FILE_OK(MPI_File_write_ordered(file.log, record, FILE_RECORD, MPI_UINT64_T, &status));
    else FILE_OK(MPI_File_write_shared(file.log, record, FILE_RECORD, MPI_UINT64_T, &status));
    file_count(&status, MPI_UINT64_T, FILE_RECORD);
    if (file.records++ == 0) MPI_Barrier(MPI_COMM_WORLD); /* the first ones lie side by side */
    if (!look) return;
    MPI_Barrier(MPI_COMM_WORLD);
    FILE_OK(MPI_File_get_position_shared(file.log, &at));
    CHECK(at == file.records * world_size * FILE_RECORD, "round %ld: the shared pointer is at %lld, after %ld records", file.round,
          (long long)at, file.records);
    MPI_Barrier(MPI_COMM_WORLD);
    FILE_OK(MPI_File_seek_shared(file.log, 0, MPI_SEEK_SET));
    FILE_OK(MPI_File_read_ordered(file.log, back, FILE_RECORD, MPI_UINT64_T, &status));
    file_record(record, 0, world_rank);
    CHECK(memcmp(record, back, sizeof record) == 0, "round %ld: the first records", file.round);
    MPI_Barrier(MPI_COMM_WORLD);
    FILE_OK(MPI_File_seek_shared(file.log, at, MPI_SEEK_SET));
}

/* --- a file that is made, stays open for some rounds, and goes -------------------------------------------------- */

static void file_young(void)
{
    uint64_t mark = fold((uint64_t)file.youngs, (uint64_t)world_rank), got;
    MPI_Status status;
    char what[32];
    if (file.young == MPI_FILE_NULL) {
        snprintf(what, sizeof what, "young-%d", ++file.youngs);
        mark = fold((uint64_t)file.youngs, (uint64_t)world_rank);
        file_open(what, MPI_MODE_RDWR | MPI_MODE_CREATE | MPI_MODE_EXCL | MPI_MODE_DELETE_ON_CLOSE, &file.young);
        FILE_OK(MPI_File_write_at(file.young, world_rank * 8, &mark, 1, MPI_UINT64_T, &status));
    } else {
        FILE_OK(MPI_File_read_at(file.young, world_rank * 8, &got, 1, MPI_UINT64_T, &status));
        CHECK(got == mark, "round %ld: a young file", file.round);
        FILE_OK(MPI_File_close(&file.young));
    }
}

/* --- all of it --------------------------------------------------------------------------------------------------- */

static void file_begin(uint64_t seed, const char *prefix)
{
    static const char *names[] = {"cells", "view", "log", "split"};
    int mode = MPI_MODE_CREATE | MPI_MODE_RDWR;
    file.prefix = prefix, file.plan.state = mix(seed + 202), file.round = -1;
    if (world_rank == 0) {
        for (unsigned i = 0; i < sizeof names / sizeof *names; i++) remove(file_name(names[i]));
        for (int i = 1; i < 10000; i++) {
            char what[32];
            snprintf(what, sizeof what, "young-%d", i);
            if (remove(file_name(what)) != 0 && i > 1) break;
        }
    }
    MPI_Barrier(MPI_COMM_WORLD);
    file_open(names[0], mode, &file.cells), file_open(names[1], mode, &file.view);
    file_open(names[2], mode, &file.log), file_open(names[3], mode, &file.split);
    FILE_OK(MPI_File_set_view(file.log, 0, MPI_UINT64_T, MPI_UINT64_T, "native", MPI_INFO_NULL));
    file_see();
    file.young = MPI_FILE_NULL;
    file.content = calloc(FILE_CELLS, 8), file.moving = calloc(FILE_MOST, 8);
    for (int i = 0; i < FILE_CELLS; i++) file.content[i] = (uint64_t)i * 3 + (uint64_t)world_rank;
    FILE_OK(MPI_File_write_at_all(file.cells, (MPI_Offset)world_rank * FILE_CELLS * 8, file.content, FILE_CELLS, MPI_UINT64_T, MPI_STATUS_IGNORE));
    MPI_Barrier(MPI_COMM_WORLD);
}

static void file_round(long round)
{
    file.round = round;
    switch (below(&file.plan, 10)) {
    case 0: file_through_view(); break;
    case 1: file_append(); break;
    case 2: file_split(); break;
    case 3: if (below(&file.plan, 3) == 0) file_young(); break;
    case 4: if (below(&file.plan, 3) == 0) file_settle(); break;
    default: file_raise();
    }
}

/* The hash of a file in pieces of `piece` bytes; `unordered`: whatever their order is. */
static uint64_t file_hash(const char *what, size_t piece, int unordered)
{
    FILE *stream = fopen(file_name(what), "rb");
    uint64_t hash = 0, found;
    char *bytes = malloc(piece);
    size_t length;
    CHECK(stream, "%s does not open", file_name(what));
    while ((length = fread(bytes, 1, piece, stream)) > 0) {
        found = hash_bytes(bytes, length);
        hash = unordered ? hash + found : fold(hash, found);
    }
    fclose(stream);
    free(bytes);
    return hash;
}

static uint64_t file_end(void)
{
    file_split_end();
    if (file.young != MPI_FILE_NULL) file_young();
    file_moved();
    FILE_OK(MPI_File_close(&file.cells));
    FILE_OK(MPI_File_close(&file.view));
    FILE_OK(MPI_File_close(&file.log));
    FILE_OK(MPI_File_close(&file.split));
    MPI_Barrier(MPI_COMM_WORLD);
    if (world_rank == 0) {
        file.hash = fold(file.hash, file_hash("cells", FILE_CELLS * 8, 0));
        file.hash = fold(file.hash, file_hash("view", 4096, 0));
        file.hash = fold(file.hash, file_hash("log", FILE_RECORD * 8, 1));
        file.hash = fold(file.hash, file_hash("split", 4096, 0));
    }
    file.hash = fold(file.hash, hash_bytes(file.content, FILE_CELLS * 8));
    free(file.content), free(file.moving);
    return file.hash;
}

#endif
