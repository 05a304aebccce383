/* Preloaded into programs that are too quick for a checkpoint: lets some time pass before each of their steps in files and before each
 * barrier, so that checkpoints find them there. MANA_SLOW_MS is how much. */
#include <mpi.h>
#include <stdlib.h>
#include <time.h>

static void wait_a_little(void)
{
    const char *text = getenv("MANA_SLOW_MS");
    long milliseconds = text ? atol(text) : 0;
    struct timespec left = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    while (milliseconds > 0 && nanosleep(&left, &left) != 0) {}
}

#define SLOW(name, parameters, arguments) \
    int MPI_##name parameters             \
    {                                     \
        wait_a_little();                  \
        return PMPI_##name arguments;     \
    }

SLOW(Barrier, (MPI_Comm comm), (comm))
SLOW(File_open, (MPI_Comm comm, const char *name, int mode, MPI_Info info, MPI_File *file), (comm, name, mode, info, file))
SLOW(File_close, (MPI_File *file), (file))
SLOW(File_sync, (MPI_File file), (file))
SLOW(File_set_size, (MPI_File file, MPI_Offset size), (file, size))
SLOW(File_set_view, (MPI_File file, MPI_Offset at, MPI_Datatype element, MPI_Datatype type, const char *form, MPI_Info info),
     (file, at, element, type, form, info))
SLOW(File_read_at, (MPI_File file, MPI_Offset at, void *data, int count, MPI_Datatype type, MPI_Status *status),
     (file, at, data, count, type, status))
SLOW(File_read_at_all, (MPI_File file, MPI_Offset at, void *data, int count, MPI_Datatype type, MPI_Status *status),
     (file, at, data, count, type, status))
SLOW(File_write_at, (MPI_File file, MPI_Offset at, const void *data, int count, MPI_Datatype type, MPI_Status *status),
     (file, at, data, count, type, status))
SLOW(File_write_at_all, (MPI_File file, MPI_Offset at, const void *data, int count, MPI_Datatype type, MPI_Status *status),
     (file, at, data, count, type, status))
