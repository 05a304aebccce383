/* A file that is deleted while it is open through MPI, and used on; closed when the file `deleted-close` exists. Ends
 * when `deleted-go` does.
 *   deleted */
#include "common.h"
#include "waiting.h"

int main(int argc, char **argv)
{
    start(&argc, &argv);
    MPI_File file;
    uint64_t value = mix((uint64_t)world_rank), back = 0;
    MPI_File_open(MPI_COMM_WORLD, "deleted", MPI_MODE_CREATE | MPI_MODE_RDWR, MPI_INFO_NULL, &file);
    MPI_Barrier(MPI_COMM_WORLD);
    if (world_rank == 0) MPI_File_delete("deleted", MPI_INFO_NULL);
    make_file("deleted-ready");
    wait_for_file("deleted-close");
    MPI_File_write_at(file, world_rank * 8, &value, 1, MPI_UINT64_T, MPI_STATUS_IGNORE);
    MPI_File_read_at(file, world_rank * 8, &back, 1, MPI_UINT64_T, MPI_STATUS_IGNORE);
    CHECK(back == value, "%lu", (unsigned long)back);
    MPI_File_close(&file);
    make_file("deleted-closed");
    wait_for_file("deleted-go");
    return finish(back);
}
