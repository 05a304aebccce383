/* Whose error handler a library calls for an error without an object: that of MPI_COMM_SELF (MPI 4.0, 9.3) or that of
 * MPI_COMM_WORLD (before). Which, is asked of the library itself: its versions differ. */
#include <mpi.h>

static int called;

static void note(MPI_Comm *comm, int *code, ...)
{
    (void)comm;
    (void)code;
    called = 1;
}

/* 1: MPI_COMM_SELF. Its handler is MPI_ERRORS_RETURN, before and after. */
int mana_no_object_is_self(void)
{
    MPI_Errhandler handler;
    int size;
    called = 0;
    if (MPI_Comm_create_errhandler(note, &handler) != MPI_SUCCESS) return 0;
    MPI_Comm_set_errhandler(MPI_COMM_SELF, handler);
    MPI_Type_size(MPI_DATATYPE_NULL, &size);
    MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN);
    MPI_Errhandler_free(&handler);
    return called;
}
