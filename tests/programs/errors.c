/* What a program sees of its mistakes: the class of every error, through returned codes, handlers of its own on communicators,
 * and the texts of its own classes and codes. The result is the native one of the same library.
 *   errors [--rounds N] [--pause MS] [--show 1] */
#include "common.h"

static uint64_t hash;
static int handled, last_class, show;
static MPI_Comm comm;

static void handle(MPI_Comm *on, int *code, ...)
{
    CHECK(*on == comm, "the handler was called for another communicator");
    handled++;
    MPI_Error_class(*code, &last_class);
}

static void note(const char *what, int code)
{
    int class = -1;
    MPI_Error_class(code, &class);
    if (show && world_rank == 0) {
        char text[MPI_MAX_ERROR_STRING];
        int length;
        MPI_Error_string(code, text, &length);
        fprintf(stderr, "%-28s %d %s\n", what, class, text);
    }
    hash = fold(hash, (uint64_t)class);
}

#define TRY(call) note(#call, call)

static void mistakes(void)
{
    int data[4] = {0}, n, flag, bad[1] = {99};
    MPI_Status status;
    MPI_Request none = MPI_REQUEST_NULL, request;
    MPI_Comm fresh;
    MPI_Group all, some;
    MPI_Datatype type;
    int two[1] = {2}, periodic[1] = {0};
    TRY(MPI_Send(data, -1, MPI_INT, 0, 0, comm));
    TRY(MPI_Send(data, 1, MPI_INT, 99, 0, comm));
    TRY(MPI_Send(data, 1, MPI_INT, -77, 0, comm));
    TRY(MPI_Send(data, 1, MPI_INT, 0, -77, comm));
    TRY(MPI_Send(data, 1, MPI_DATATYPE_NULL, 0, 0, comm));
    TRY(MPI_Isend(data, 1, MPI_INT, 99, 0, comm, &request));
    TRY(MPI_Isend(data, -1, MPI_INT, 0, 0, comm, &request));
    TRY(MPI_Irecv(data, 1, MPI_INT, 99, 0, comm, &request));
    TRY(MPI_Irecv(data, 1, MPI_INT, 0, -77, comm, &request));
    TRY(MPI_Recv(data, 1, MPI_INT, 99, 0, comm, &status));
    TRY(MPI_Recv(data, -1, MPI_INT, 0, 0, comm, &status));
    TRY(MPI_Recv(data, 1, MPI_DATATYPE_NULL, 0, 0, comm, &status));
    TRY(MPI_Probe(99, 0, comm, &status));
    TRY(MPI_Iprobe(99, 0, comm, &flag, &status));
    TRY(MPI_Sendrecv(data, 1, MPI_INT, 99, 0, data + 1, 1, MPI_INT, 0, 0, comm, &status));
    TRY(MPI_Send_init(data, 1, MPI_INT, 99, 0, comm, &request));
    TRY(MPI_Recv_init(data, -1, MPI_INT, 0, 0, comm, &request));
    TRY(MPI_Start(&none));
    TRY(MPI_Cancel(&none));
    TRY(MPI_Bcast(data, 1, MPI_INT, 99, comm));
    TRY(MPI_Bcast(data, -1, MPI_INT, 0, comm));
    TRY(MPI_Reduce(data, data + 1, 1, MPI_INT, MPI_OP_NULL, 0, comm));
    TRY(MPI_Reduce(data, data + 1, 1, MPI_INT, MPI_SUM, 99, comm));
#ifndef MPICH_VERSION /* where it crashes */
    TRY(MPI_Allreduce(data, data + 1, -1, MPI_INT, MPI_SUM, comm));
#endif
    TRY(MPI_Allreduce(data, data + 1, 1, MPI_DATATYPE_NULL, MPI_SUM, comm));
    TRY(MPI_Gather(data, 1, MPI_INT, data, 1, MPI_INT, 99, comm));
    TRY(MPI_Comm_rank(MPI_COMM_NULL, &n));
    TRY(MPI_Comm_size(MPI_COMM_NULL, &n));
    TRY(MPI_Comm_dup(MPI_COMM_NULL, &fresh));
    TRY(MPI_Comm_remote_size(comm, &n));
    TRY(MPI_Cart_coords(comm, 0, 1, data));
    TRY(MPI_Cartdim_get(comm, &n));
    two[0] = 99;
    TRY(MPI_Cart_create(comm, 1, two, periodic, 0, &fresh));
    MPI_Comm_group(comm, &all);
    TRY(MPI_Group_incl(all, 1, bad, &some));
    MPI_Group_free(&all);
    TRY(MPI_Group_size(MPI_GROUP_NULL, &n));
    TRY(MPI_Type_contiguous(-1, MPI_INT, &type));
    TRY(MPI_Type_contiguous(1, MPI_DATATYPE_NULL, &type));
    TRY(MPI_Type_vector(1, -1, 1, MPI_INT, &type));
    type = MPI_INT;
    TRY(MPI_Type_free(&type));
    type = MPI_DATATYPE_NULL;
    TRY(MPI_Type_commit(&type));
    TRY(MPI_Type_size(MPI_DATATYPE_NULL, &n));
    MPI_Op op = MPI_SUM;
    TRY(MPI_Op_free(&op));
    TRY(MPI_Info_get_nkeys(MPI_INFO_NULL, &n));
    TRY(MPI_Error_class(MPI_SUCCESS, &n));
    TRY(MPI_Send(data, -1, MPI_INT, MPI_PROC_NULL, 0, comm));
    TRY(MPI_Send(data, 1, MPI_DATATYPE_NULL, MPI_PROC_NULL, 0, comm));
    TRY(MPI_Isend(data, 1, MPI_INT, MPI_PROC_NULL, -77, comm, &request));
    TRY(MPI_Recv(data, -1, MPI_INT, MPI_PROC_NULL, 0, comm, &status));
    TRY(MPI_Irecv(data, 1, MPI_INT, MPI_PROC_NULL, -77, comm, &request));
    TRY(MPI_Probe(MPI_PROC_NULL, -77, comm, &status));
    TRY(MPI_Send_init(data, 1, MPI_INT, 0, -77, comm, &request));
    TRY(MPI_Recv_init(data, 1, MPI_INT, 0, -77, comm, &request));
    TRY(MPI_Sendrecv_replace(data, 1, MPI_INT, 0, 0, 99, 0, comm, &status));
    TRY(MPI_Sendrecv_replace(data, 1, MPI_INT, 0, 0, 0, -77, comm, &status));
    TRY(MPI_Comm_set_errhandler(comm, MPI_ERRHANDLER_NULL));
    TRY(MPI_File_set_errhandler(MPI_FILE_NULL, MPI_ERRHANDLER_NULL));
    int dims[1] = {0};
    TRY(MPI_Dims_create(5, 1, dims));
    dims[0] = 2;
    TRY(MPI_Dims_create(5, 1, dims));
}

/* What the library says of an error beyond its class, if it does, and a code that stays that error's. */
static void explanations(void)
{
    static int first;
    static char said[MPI_MAX_ERROR_STRING];
    char text[MPI_MAX_ERROR_STRING];
    int data = 0, length, class;
    MPI_File file;
    int code = MPI_Bcast(&data, 1, MPI_INT, 99, comm);
    MPI_Error_string(code, text, &length);
    hash = fold(hash, strstr(text, "99") != NULL);
    if (!first) {
        first = code;
        strcpy(said, text);
    }
    MPI_Error_class(first, &class);
    CHECK(class == MPI_ERR_ROOT, "class %d of an error of before", class);
    MPI_Error_string(first, text, &length);
    CHECK(strncmp(text, said, 12) == 0, "text of an error of before: %s, it was %s", text, said);
    code = MPI_Recv(&data, 1, MPI_INT, 0, -77, comm, MPI_STATUS_IGNORE);
    MPI_Error_string(code, text, &length);
    hash = fold(hash, strstr(text, "-77") != NULL);
    code = MPI_File_open(MPI_COMM_SELF, "no-such-file", MPI_MODE_RDONLY, MPI_INFO_NULL, &file);
    MPI_Error_string(code, text, &length);
    hash = fold(hash, strstr(text, "no-such-file") != NULL);
}

static MPI_Comm handled_for;

static void note_communicator(MPI_Comm *on, int *code, ...)
{
    (void)code;
    handled_for = *on;
}

/* Whose handler is called for an error without an object: libraries differ. */
static void without_object(void)
{
    MPI_Errhandler handler;
    MPI_Request request = MPI_REQUEST_NULL;
    int n;
    MPI_Comm_create_errhandler(note_communicator, &handler);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, handler);
    MPI_Comm_set_errhandler(MPI_COMM_SELF, handler);
    MPI_Errhandler_free(&handler);
#define WHOSE(call)                                             \
    handled_for = MPI_COMM_NULL;                                \
    call;                                                       \
    hash = fold(hash, (uint64_t)(handled_for == MPI_COMM_WORLD)); \
    hash = fold(hash, (uint64_t)(handled_for == MPI_COMM_SELF))
    WHOSE(MPI_Type_size(MPI_DATATYPE_NULL, &n));
    WHOSE(MPI_Comm_size(MPI_COMM_NULL, &n));
    WHOSE(MPI_Group_size(MPI_GROUP_NULL, &n));
    WHOSE(MPI_Info_get_nkeys(MPI_INFO_NULL, &n));
    WHOSE(MPI_Start(&request));
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN);
}

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 100), pause = option(argc, argv, "--pause", 50);
    show = (int)option(argc, argv, "--show", 0);
    MPI_Errhandler own, got;
    MPI_Comm_dup(MPI_COMM_WORLD, &comm);
    MPI_Comm_create_errhandler(handle, &own);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN);
    int class, code, length, found;
    char text[MPI_MAX_ERROR_STRING];
    MPI_Add_error_class(&class);
    MPI_Add_error_code(class, &code);
    MPI_Add_error_string(class, "a class of this program");
    MPI_Add_error_string(code, "a code of this program");
    for (long round = 0; round < rounds; round++) {
        MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
        mistakes();
        explanations();
        without_object();
        show = 0;
        MPI_Comm_set_errhandler(comm, own);
        int before = handled, byte = 0;
        MPI_Send(&byte, 1, MPI_INT, 99, 0, comm);
        CHECK(handled == before + 1 && last_class == MPI_ERR_RANK, "handled %d, class %d", handled - before, last_class);
        MPI_Comm_call_errhandler(comm, code);
        CHECK(handled == before + 2 && last_class == class, "handled %d, class %d", handled - before, last_class);
        MPI_Comm_get_errhandler(comm, &got);
        CHECK(got == own, "another handler");
        MPI_Errhandler_free(&got);
        MPI_Error_class(code, &found);
        CHECK(found == class, "class %d", found);
        MPI_Error_string(code, text, &length);
        CHECK(strcmp(text, "a code of this program") == 0 && length == (int)strlen(text), "text %s", text);
        MPI_Error_string(class, text, &length);
        CHECK(strcmp(text, "a class of this program") == 0, "text %s", text);
        for (int c = 1; c < 20; c++) {
            MPI_Error_string(c, text, &length);
            hash = fold(hash, hash_bytes(text, (size_t)length));
        }
        int *last, flag;
        MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_LASTUSEDCODE, &last, &flag);
        CHECK(flag && *last >= class, "last used code %d, my class %d", *last, class); /* MPICH counts classes only */
        MPI_Barrier(MPI_COMM_WORLD);
        pause_ms(pause);
    }
    MPI_Errhandler_free(&own);
    MPI_Comm_free(&comm);
    return finish(hash);
}
