/* A file that is written through MPI under another name, and gets its own when it is whole. The first half is there
 * when `renamed-ready` is made; it goes on when `renamed-on` exists, and ends when `renamed-go` does.
 *   renamed */
#include "common.h"
#include "waiting.h"

enum { BYTES = 300 * 1000 };

static unsigned char out[BYTES], in[BYTES];

static void write_half(MPI_File file, int half)
{
    fill(out, BYTES, (uint64_t)(world_rank + 10 * half));
    MPI_File_write_at_all(file, (MPI_Offset)(2 * world_rank + half) * BYTES, out, BYTES, MPI_BYTE, MPI_STATUS_IGNORE);
}

int main(int argc, char **argv)
{
    MPI_File file;
    uint64_t hash = 1;
    start(&argc, &argv);
    MPI_File_open(MPI_COMM_WORLD, "whole.tmp", MPI_MODE_CREATE | MPI_MODE_RDWR, MPI_INFO_NULL, &file);
    write_half(file, 0);
    make_file("renamed-ready");
    wait_for_file("renamed-on");
    write_half(file, 1);
    MPI_File_close(&file);
    MPI_Barrier(MPI_COMM_WORLD);
    if (world_rank == 0) CHECK(rename("whole.tmp", "whole") == 0, "rename");
    make_file("renamed-done");
    wait_for_file("renamed-go");
    MPI_File_open(MPI_COMM_WORLD, "whole", MPI_MODE_RDONLY, MPI_INFO_NULL, &file);
    for (int half = 0; half < 2; half++) {
        fill(out, BYTES, (uint64_t)(world_rank + 10 * half));
        MPI_File_read_at(file, (MPI_Offset)(2 * world_rank + half) * BYTES, in, BYTES, MPI_BYTE, MPI_STATUS_IGNORE);
        CHECK(memcmp(in, out, BYTES) == 0, "half %d", half);
        hash = fold(hash, hash_bytes(in, BYTES));
    }
    MPI_File_close(&file);
    return finish(hash);
}
