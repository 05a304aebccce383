/* Small answers of a library that programs may look at: its version, the environment of the job, what a procedure says where
 * there is nothing to be done; and more objects at once than a table is likely to have room for.
 *   answers [--rounds N] [--pause MS] [--objects N] [--show 1] */
#include "common.h"

static int show;

static uint64_t told(const char *what, const char *text)
{
    if (show && world_rank == 0) printf("%s: %s\n", what, text);
    return hash_bytes(text, strlen(text));
}

static uint64_t number(const char *what, long n)
{
    char text[32];
    snprintf(text, sizeof text, "%ld", n);
    return told(what, text);
}

static uint64_t environment(MPI_Info info)
{
    /* What does not depend on where and when the job runs. */
    static const char *const keys[] = {"command", "argv", "maxprocs", "soft", "arch", "thread_level", "ompi_num_apps", "ompi_np"};
    char value[MPI_MAX_INFO_VAL + 1];
    int flag;
    uint64_t hash = 0;
    for (unsigned i = 0; i < sizeof keys / sizeof *keys; i++) {
        MPI_Info_get(info, keys[i], MPI_MAX_INFO_VAL, value, &flag);
        hash = fold(hash, (uint64_t)flag);
        /* The arguments differ between the runs that are compared. */
        if (flag) hash = fold(hash, told(keys[i], strcmp(keys[i], "argv") ? value : strncmp(value, "--pause", 7) ? "?" : "--pause"));
    }
    MPI_Info_get(info, "wdir", MPI_MAX_INFO_VAL, value, &flag);
    char here[4096];
    CHECK(!flag || (getcwd(here, sizeof here) && strcmp(here, value) == 0), "a job in %s believes to be in %s", here, value);
    return hash;
}

static int query(void *extra, MPI_Status *status)
{
    MPI_Status_set_elements(status, MPI_INT, (int)(intptr_t)extra);
    MPI_Status_set_cancelled(status, 0);
    status->MPI_SOURCE = MPI_UNDEFINED, status->MPI_TAG = MPI_UNDEFINED;
    return MPI_SUCCESS;
}

static long freed;

static int release(void *extra) { return (void)extra, freed++, MPI_SUCCESS; }

static int cancel(void *extra, int complete) { return (void)extra, (void)complete, MPI_SUCCESS; }

static void smallest(void *in, void *inout, int *length, MPI_Datatype *type)
{
    (void)type;
    for (int i = 0; i < *length; i++)
        if (((int *)in)[i] < ((int *)inout)[i]) ((int *)inout)[i] = ((int *)in)[i];
}

static void largest(void *in, void *inout, int *length, MPI_Datatype *type)
{
    (void)type;
    for (int i = 0; i < *length; i++)
        if (((int *)in)[i] > ((int *)inout)[i]) ((int *)inout)[i] = ((int *)in)[i];
}

/* `n` of each kind at once. The pause is in the middle of their life. */
static uint64_t many(MPI_Comm comm, int n, long pause)
{
    MPI_Request *requests = malloc(3 * (size_t)n * sizeof *requests);
    MPI_Datatype *types = malloc((size_t)n * sizeof *types);
    MPI_Op *ops = malloc((size_t)n * sizeof *ops);
    int *keys = malloc((size_t)n * sizeof *keys), *words = malloc(2 * (size_t)n * sizeof *words);
    MPI_Errhandler *handlers = malloc((size_t)n * sizeof *handlers);
    int right = (world_rank + 1) % world_size, left = (world_rank + world_size - 1) % world_size, flag, count;
    uint64_t hash = 0;
    for (int i = 0; i < n; i++) {
        CHECK(MPI_Grequest_start(query, release, cancel, (void *)(intptr_t)i, &requests[i]) == MPI_SUCCESS, "request %d", i);
        MPI_Irecv(&words[n + i], 1, MPI_INT, left, i, comm, &requests[n + i]);
        MPI_Type_contiguous(i + 1, MPI_BYTE, &types[i]);
        MPI_Comm_create_keyval(MPI_COMM_NULL_COPY_FN, MPI_COMM_NULL_DELETE_FN, &keys[i], NULL);
        MPI_Comm_set_attr(comm, keys[i], &words[i]);
        CHECK(MPI_Op_create(i % 2 ? largest : smallest, 1, &ops[i]) == MPI_SUCCESS, "operation %d", i);
    }
    pause_ms(pause);
    for (int i = 0; i < n; i++) {
        words[i] = i * 10 + world_rank;
        MPI_Isend(&words[i], 1, MPI_INT, right, i, comm, &requests[2 * n + i]);
        MPI_Grequest_complete(requests[n - 1 - i]);
    }
    for (int i = 0; i < n; i++) {
        MPI_Status status;
        int bytes, from = i, to = -1;
        void *value;
        MPI_Wait(&requests[i], &status);
        MPI_Get_count(&status, MPI_INT, &count);
        CHECK(count == i, "request %d has %d", i, count);
        MPI_Type_size(types[i], &bytes);
        CHECK(bytes == i + 1, "type %d has %d bytes", i, bytes);
        MPI_Comm_get_attr(comm, keys[i], &value, &flag);
        CHECK(flag && value == &words[i], "attribute %d", i);
        if (i % 50 == 0) {
            from = i + world_rank;
            MPI_Allreduce(&from, &to, 1, MPI_INT, ops[i], comm);
            CHECK(to == (i % 2 ? i + world_size - 1 : i), "operation %d: %d", i, to);
        }
        MPI_Type_free(&types[i]);
        MPI_Comm_delete_attr(comm, keys[i]);
        MPI_Comm_free_keyval(&keys[i]);
        MPI_Op_free(&ops[i]);
    }
    MPI_Waitall(2 * n, requests + n, MPI_STATUSES_IGNORE);
    for (int i = 0; i < n; i++) CHECK(words[n + i] == i * 10 + left, "message %d", i);
    hash = fold(hash, hash_bytes(words + n, (size_t)n * sizeof *words));
    free(requests), free(types), free(ops), free(keys), free(words), free(handlers);
    return hash;
}

/* What depends on the library: its version, and what it says of a buffer where none is attached. */
static uint64_t of_library(void)
{
    int version, subversion;
    MPI_Get_version(&version, &subversion);
    uint64_t hash = fold(number("version", version), number("subversion", subversion));
    char here;
    void *buffer = &here;
    int size = 7, code = MPI_Buffer_detach(&buffer, &size);
    hash = fold(hash, number("detached", (code != MPI_SUCCESS) * 100 + (code == MPI_SUCCESS ? size : 0)));
    return fold(hash, number("buffer", code == MPI_SUCCESS && buffer == NULL));
}

int main(int argc, char **argv)
{
    int version, subversion, class, length;
    char library[MPI_MAX_LIBRARY_VERSION_STRING], now[MPI_MAX_LIBRARY_VERSION_STRING];
    MPI_Get_version(&version, &subversion);
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 3), pause = option(argc, argv, "--pause", 1200);
    int objects = (int)option(argc, argv, "--objects", 3000);
    show = (int)option(argc, argv, "--show", 0);
    uint64_t hash = fold(number("version", version), number("subversion", subversion));
    MPI_Comm comm;
    MPI_Comm_dup(MPI_COMM_WORLD, &comm);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN);
    MPI_Get_library_version(library, &length);
    uint64_t at_first = of_library();
    hash = fold(hash, at_first);
    for (long round = 0; round < rounds; round++) {
        hash = fold(hash, environment(MPI_INFO_ENV));
        MPI_Info copy;
        int keys, copied;
        MPI_Info_dup(MPI_INFO_ENV, &copy);
        MPI_Info_get_nkeys(MPI_INFO_ENV, &keys);
        MPI_Info_get_nkeys(copy, &copied);
        CHECK(keys == copied, "%d keys, %d in a copy", keys, copied);
        hash = fold(hash, (uint64_t)keys);
        MPI_Info_free(&copy);
        /* Under another library than at first it may differ. */
        uint64_t answers = of_library();
        MPI_Get_library_version(now, &length);
        CHECK(strcmp(library, now) != 0 || answers == at_first, "the answers of %s have changed", now);
        freed = 0;
        hash = fold(hash, many(comm, objects, pause));
        CHECK(freed == objects, "%ld requests freed", freed);
        MPI_Error_class(MPI_ERR_OTHER, &class);
        CHECK(class == MPI_ERR_OTHER, "class %d", class);
        show = 0;
    }
    MPI_Comm_free(&comm);
    return finish(hash);
}
