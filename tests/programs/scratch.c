/* Files of each process in a directory of its node's own, which has the same path on all nodes: one that is overwritten
 * in every round, one that grows, one that is made, filled and deleted. What is read is compared with memory.
 *   scratch --dir DIR [--apart 1] [--rounds N] [--pause MS] [--until FILE]
 * --apart: the directory is one for all, and names have the rank in them. */
#include "common.h"
#include <sys/stat.h>

enum { CELLS = 300 * 1000, TOUCHED = 20, SPAN = 30 };

#define OK(call)                                                                                      \
    do {                                                                                              \
        int rc_ = (call);                                                                             \
        char text_[MPI_MAX_ERROR_STRING];                                                             \
        int len_;                                                                                     \
        if (rc_ != MPI_SUCCESS) {                                                                     \
            MPI_Error_string(rc_, text_, &len_);                                                      \
            CHECK(0, "round %ld: %s: %s", round_now, #call, text_);                                   \
        }                                                                                             \
    } while (0)

static long round_now = -1;
static char name[3][4096];
static uint64_t *cells, *found;

static MPI_File open_file(const char *path, int mode)
{
    MPI_File file;
    OK(MPI_File_open(MPI_COMM_SELF, path, mode, MPI_INFO_NULL, &file));
    return file;
}

static void all_cells(MPI_File file)
{
    OK(MPI_File_read_at(file, 0, found, CELLS, MPI_UINT64_T, MPI_STATUS_IGNORE));
    for (int i = 0; i < CELLS; i++)
        CHECK(found[i] == cells[i], "round %ld: cell %d is %lu, not %lu", round_now, i, (unsigned long)found[i], (unsigned long)cells[i]);
}

static void overwrite(MPI_File file)
{
    struct random random = {mix((uint64_t)round_now * 17 + (uint64_t)world_rank)};
    for (int i = 0; i < TOUCHED; i++) {
        unsigned first = below(&random, CELLS - SPAN);
        for (int k = 0; k < SPAN; k++) cells[first + k]++;
        OK(MPI_File_write_at(file, (MPI_Offset)first * 8, cells + first, SPAN, MPI_UINT64_T, MPI_STATUS_IGNORE));
    }
}

int main(int argc, char **argv)
{
    start(&argc, &argv);
    const char *dir = text_option(argc, argv, "--dir", ".");
    long rounds = option(argc, argv, "--rounds", 10), pause = option(argc, argv, "--pause", 0);
    long number = option(argc, argv, "--apart", 0) ? world_rank : 0;
    struct stat about;
    for (int i = 0; i < 3; i++) snprintf(name[i], sizeof name[i], "%s/scratch-%d-%ld", dir, i, number);
    cells = calloc(CELLS, sizeof *cells), found = calloc(CELLS, sizeof *found);
    for (int i = 0; i < CELLS; i++) cells[i] = (uint64_t)i + (uint64_t)world_rank * 1000000;
    for (int i = 0; i < 3; i++) MPI_File_delete(name[i], MPI_INFO_NULL);
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_File over = open_file(name[0], MPI_MODE_CREATE | MPI_MODE_EXCL | MPI_MODE_RDWR);
    OK(MPI_File_write_at(over, 0, cells, CELLS, MPI_UINT64_T, MPI_STATUS_IGNORE));
    for (round_now = 0; round_now < rounds; round_now++) {
        overwrite(over);
        all_cells(over);
        uint64_t mark = mix((uint64_t)round_now * 3 + (uint64_t)world_rank);
        MPI_File log = open_file(name[1], MPI_MODE_CREATE | MPI_MODE_WRONLY | MPI_MODE_APPEND);
        OK(MPI_File_write(log, &mark, 1, MPI_UINT64_T, MPI_STATUS_IGNORE));
        OK(MPI_File_close(&log));
        pause_ms(pause / 2);
        CHECK(stat(name[1], &about) == 0 && about.st_size == (round_now + 1) * 8, "round %ld: the log has %ld bytes", round_now, (long)about.st_size);
        if (round_now % 3 == 0) {
            /* It must not exist yet. */
            MPI_File young = open_file(name[2], MPI_MODE_CREATE | MPI_MODE_EXCL | MPI_MODE_RDWR);
            OK(MPI_File_write_at(young, 0, cells, 1000, MPI_UINT64_T, MPI_STATUS_IGNORE));
            OK(MPI_File_close(&young));
        } else if (round_now % 3 == 2) {
            OK(MPI_File_delete(name[2], MPI_INFO_NULL));
        }
        uint64_t mine = cells[7], sum;
        MPI_Allreduce(&mine, &sum, 1, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
        pause_ms(pause / 2);
    }
    all_cells(over);
    OK(MPI_File_close(&over));
    for (int i = 0; i < 3; i++) MPI_File_delete(name[i], MPI_INFO_NULL);
    return finish(hash_bytes(cells, CELLS * sizeof *cells));
}
