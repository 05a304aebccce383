/* Preloaded into an application that works on and on: lets MANA_SLOW_MS milliseconds pass before each of its reductions, until
 * the file MANA_SLOW_UNTIL exists. So it is at work when something happens, on every machine, and over soon afterwards. */
#include <mpi.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int MPI_Allreduce(const void *in, void *out, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm)
{
    const char *text = getenv("MANA_SLOW_MS"), *until = getenv("MANA_SLOW_UNTIL");
    long milliseconds = text && !(until && access(until, F_OK) == 0) ? atol(text) : 0;
    struct timespec left = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    while (milliseconds > 0 && nanosleep(&left, &left) != 0) {}
    return PMPI_Allreduce(in, out, count, type, op, comm);
}
