/* Ends the job in one of many ways; the launcher's exit code is what is compared.
 *   ends --how WAY [--by RANK] */
#include "common.h"

#include <signal.h>

static void handle(MPI_Comm *comm, int *code, ...)
{
    int class;
    MPI_Error_class(*code, &class);
    MPI_Abort(*comm, class == MPI_ERR_TAG ? 21 : 22);
}

int main(int argc, char **argv)
{
    const char *how = text_option(argc, argv, "--how", "well");
    int value = 1, other[4] = {0};
    MPI_Errhandler handler;
    MPI_Request request;
    MPI_Comm self;
    start(&argc, &argv);
    MPI_Barrier(MPI_COMM_WORLD);
    if (world_rank == option(argc, argv, "--by", 0)) {
        if (!strcmp(how, "abort")) MPI_Abort(MPI_COMM_WORLD, 37);
        if (!strcmp(how, "abort-zero")) MPI_Abort(MPI_COMM_WORLD, 0);
        if (!strcmp(how, "abort-large")) MPI_Abort(MPI_COMM_WORLD, 300);
        if (!strcmp(how, "abort-self")) MPI_Abort(MPI_COMM_SELF, 38);
        if (!strcmp(how, "abort-code")) {
            MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
            MPI_Abort(MPI_COMM_WORLD, MPI_Send(&value, 1, MPI_INT, 99, 1, MPI_COMM_WORLD));
        }
        if (!strcmp(how, "root")) MPI_Bcast(&value, 1, MPI_INT, 99, MPI_COMM_SELF);
        if (!strcmp(how, "rank")) MPI_Send(&value, 1, MPI_INT, 99, 1, MPI_COMM_WORLD);
        if (!strcmp(how, "tag")) MPI_Send(&value, 1, MPI_INT, 0, -5, MPI_COMM_WORLD);
        if (!strcmp(how, "type")) MPI_Send(&value, 1, MPI_DATATYPE_NULL, 0, 1, MPI_COMM_WORLD);
        if (!strcmp(how, "count")) MPI_Send(&value, -1, MPI_INT, 0, 1, MPI_COMM_WORLD);
        if (!strcmp(how, "comm")) MPI_Comm_rank(MPI_COMM_NULL, &value);
        if (!strcmp(how, "truncate")) {
            MPI_Isend(other, 4, MPI_INT, 0, 1, MPI_COMM_SELF, &request);
            MPI_Recv(&value, 1, MPI_INT, 0, 1, MPI_COMM_SELF, MPI_STATUS_IGNORE);
        }
        if (!strcmp(how, "op")) MPI_Allreduce(&value, other, 1, MPI_INT, MPI_OP_NULL, MPI_COMM_SELF);
        if (!strcmp(how, "group")) MPI_Group_size(MPI_GROUP_NULL, &value);
        if (!strcmp(how, "derived")) {
            MPI_Comm_dup(MPI_COMM_SELF, &self);
            MPI_Send(&value, 1, MPI_INT, 99, 1, self);
        }
        if (!strcmp(how, "handler")) {
            MPI_Comm_create_errhandler(handle, &handler);
            MPI_Comm_set_errhandler(MPI_COMM_WORLD, handler);
            MPI_Send(&value, 1, MPI_INT, 0, -5, MPI_COMM_WORLD);
        }
        if (!strcmp(how, "call")) MPI_Comm_call_errhandler(MPI_COMM_WORLD, MPI_ERR_OTHER);
        if (!strcmp(how, "exit")) exit(9);
        if (!strncmp(how, "signal-", 7)) raise(atoi(how + 7));
#if MPI_VERSION * 10 + MPI_SUBVERSION > 40 || (defined(OMPI_MAJOR_VERSION) && OMPI_MAJOR_VERSION >= 5)
        if (!strncmp(how, "errors-abort", 12)) {
            MPI_Comm_dup(MPI_COMM_SELF, &self);
            MPI_Comm_set_errhandler(strcmp(how, "errors-abort") ? self : MPI_COMM_WORLD, MPI_ERRORS_ABORT);
            MPI_Send(&value, 1, MPI_INT, 99, 1, strcmp(how, "errors-abort") ? self : MPI_COMM_WORLD);
        }
#endif
#ifdef MPICH_VERSION
        /* Of fault tolerance MPICH 4 has the names. */
        MPI_Comm smaller;
        MPI_Group failed;
        if (!strcmp(how, "agree")) MPIX_Comm_agree(MPI_COMM_WORLD, &value);
        if (!strcmp(how, "shrink")) MPIX_Comm_shrink(MPI_COMM_WORLD, &smaller);
        if (!strcmp(how, "revoke")) MPIX_Comm_revoke(MPI_COMM_WORLD);
        if (!strcmp(how, "acknowledge")) MPIX_Comm_failure_ack(MPI_COMM_WORLD);
        if (!strcmp(how, "acknowledged")) MPIX_Comm_failure_get_acked(MPI_COMM_WORLD, &failed);
#endif
    }
    if (!strcmp(how, "all")) {
        MPI_Finalize();
        return 11;
    }
    MPI_Barrier(MPI_COMM_WORLD);
    return finish(1);
}
