/* Ways to split a communicator by what the processes share: those of the standard with their hints, and the library's own.
 * What a library does not have, or cannot tell, is an answer like others: it must be the one it gives without us.
 *   splits [--rounds N] [--pause MS] [--show 1] */
#include "common.h"

static uint64_t hash;
static int show;

/* The size of the part, what it was split by according to the library, or the class of the error. */
static void split(const char *what, MPI_Comm comm, int type, const char *key, const char *value)
{
    MPI_Comm part = MPI_COMM_NULL;
    MPI_Info info = MPI_INFO_NULL;
    char told[MPI_MAX_INFO_VAL + 1] = "";
    int flag = 0, size = 0, class = 0;
    if (key) {
        MPI_Info_create(&info);
        if (value) MPI_Info_set(info, key, value);
    }
    int code = MPI_Comm_split_type(comm, type, world_rank, info, &part);
    if (code != MPI_SUCCESS) MPI_Error_class(code, &class);
    if (part != MPI_COMM_NULL) {
        MPI_Comm_size(part, &size);
        int rank, sum, word = 1;
        MPI_Comm_rank(part, &rank);
        MPI_Allreduce(&word, &sum, 1, MPI_INT, MPI_SUM, part);
        CHECK(sum == size && rank < size, "%s: %d of %d", what, sum, size);
        MPI_Comm_free(&part);
    }
    if (key) {
        MPI_Info_get(info, key, MPI_MAX_INFO_VAL, told, &flag);
        MPI_Info_free(&info);
    }
    if (show && world_rank == 0) printf("%-24s size %d class %d %s\n", what, size, class, told);
    hash = fold(hash, (uint64_t)(size * 100 + class));
    hash = fold(hash, hash_bytes(told, strlen(told)));
}

static void all(MPI_Comm comm)
{
    split("undefined", comm, MPI_UNDEFINED, NULL, NULL);
    split("shared", comm, MPI_COMM_TYPE_SHARED, NULL, NULL);
#ifdef OPEN_MPI
    static const struct {
        const char *name;
        int type;
    } kinds[] = {{"hwthread", OMPI_COMM_TYPE_HWTHREAD}, {"core", OMPI_COMM_TYPE_CORE},       {"l1", OMPI_COMM_TYPE_L1CACHE},
                 {"l2", OMPI_COMM_TYPE_L2CACHE},        {"l3", OMPI_COMM_TYPE_L3CACHE},      {"socket", OMPI_COMM_TYPE_SOCKET},
                 {"numa", OMPI_COMM_TYPE_NUMA},         {"board", OMPI_COMM_TYPE_BOARD},     {"host", OMPI_COMM_TYPE_HOST},
                 {"cu", OMPI_COMM_TYPE_CU},             {"cluster", OMPI_COMM_TYPE_CLUSTER}, {"node", OMPI_COMM_TYPE_NODE}};
    for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++) split(kinds[i].name, comm, kinds[i].type, NULL, NULL);
#endif
#ifdef MPI_COMM_TYPE_HW_GUIDED
    split("guided, no hint", comm, MPI_COMM_TYPE_HW_GUIDED, NULL, NULL);
    split("guided, empty hints", comm, MPI_COMM_TYPE_HW_GUIDED, "mpi_hw_resource_type", NULL);
    static const char *const values[] = {"mpi_shared_memory", "machine", "package", "core", "no such thing"};
    for (int i = 0; i < 5; i++) split(values[i], comm, MPI_COMM_TYPE_HW_GUIDED, "mpi_hw_resource_type", values[i]);
    split("unguided", comm, MPI_COMM_TYPE_HW_UNGUIDED, "mpi_hw_resource_type", NULL);
    split("shared, by hint", comm, MPI_COMM_TYPE_SHARED, "shmem_topo", "machine");
#endif
#ifdef MPIX_COMM_TYPE_NEIGHBORHOOD
    split("neighborhood", comm, MPIX_COMM_TYPE_NEIGHBORHOOD, "network_topo", "switch_level:1");
#endif
}

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 20), pause = option(argc, argv, "--pause", 120);
    show = (int)option(argc, argv, "--show", 0);
    MPI_Comm comm;
    MPI_Comm_dup(MPI_COMM_WORLD, &comm);
    MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
    for (long round = 0; round < rounds; round++) {
        all(comm);
        show = 0;
        pause_ms(pause);
    }
    MPI_Comm_free(&comm);
    return finish(hash);
}
