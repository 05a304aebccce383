/* Files written through MPI that are no longer open, or never closed, when a checkpoint comes: one that stays open,
 * one that was closed, one that was closed and renamed, one that was closed and deleted. Then it waits, writing nothing,
 * until the file `stored-go` exists, and compares what is in them.
 *   stored */
#include "common.h"
#include "waiting.h"

enum { BYTES = 300 * 1000 };

static const char *names[] = {"stored-open", "stored-closed", "stored-renamed", "stored-deleted"};
static unsigned char out[BYTES], in[BYTES];

static MPI_File written(const char *name)
{
    MPI_File file;
    MPI_File_open(MPI_COMM_WORLD, name, MPI_MODE_CREATE | MPI_MODE_RDWR, MPI_INFO_NULL, &file);
    fill(out, BYTES, hash_bytes(name, strlen(name)) + (uint64_t)world_rank);
    MPI_File_write_at_all(file, (MPI_Offset)world_rank * BYTES, out, BYTES, MPI_BYTE, MPI_STATUS_IGNORE);
    return file;
}

int main(int argc, char **argv)
{
    MPI_File files[4];
    MPI_Offset size;
    uint64_t hash = 1;
    start(&argc, &argv);
    for (int i = 0; i < 4; i++) {
        files[i] = written(names[i]);
        if (i > 0) MPI_File_close(&files[i]);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    if (world_rank == 0) {
        CHECK(rename("stored-renamed", "stored-new") == 0, "rename");
        MPI_File_delete("stored-deleted", MPI_INFO_NULL);
    }
    make_file("stored-ready");
    wait_for_file("stored-go");
    MPI_File_open(MPI_COMM_WORLD, "stored-closed", MPI_MODE_RDONLY, MPI_INFO_NULL, &files[1]);
    MPI_File_open(MPI_COMM_WORLD, "stored-new", MPI_MODE_RDONLY, MPI_INFO_NULL, &files[2]);
    for (int i = 0; i < 3; i++) {
        MPI_File_get_size(files[i], &size);
        CHECK(size == (MPI_Offset)world_size * BYTES, "%s has %lld bytes", names[i], (long long)size);
        fill(out, BYTES, hash_bytes(names[i], strlen(names[i])) + (uint64_t)world_rank);
        MPI_File_read_at(files[i], (MPI_Offset)world_rank * BYTES, in, BYTES, MPI_BYTE, MPI_STATUS_IGNORE);
        CHECK(memcmp(in, out, BYTES) == 0, "%s", names[i]);
        hash = fold(hash, hash_bytes(in, BYTES));
        MPI_File_close(&files[i]);
    }
    return finish(hash);
}
