/* Sessions: process sets, groups and communicators made from them, beside and without MPI_Init, error handlers and info of a
 * session; made before, used across and ended after a checkpoint.
 *   sessions [--rounds N] [--pause MS] */
#include "common.h"

static int handled;

static void handle(MPI_Session *session, int *code, ...)
{
    (void)session, (void)code;
    handled++;
}

static MPI_Comm from_set(MPI_Session session, const char *set, const char *tag)
{
    MPI_Group group;
    MPI_Comm comm;
    MPI_Group_from_session_pset(session, set, &group);
    MPI_Comm_create_from_group(group, tag, MPI_INFO_NULL, MPI_ERRORS_RETURN, &comm);
    MPI_Group_free(&group);
    return comm;
}

static void ask(MPI_Session session, int size)
{
    int sets, worlds = 0, selves = 0, hints;
    MPI_Info own;
    MPI_Session_get_info(session, &own);
    MPI_Info_get_nkeys(own, &hints);
    CHECK(hints >= 0, "%d hints", hints);
    MPI_Info_free(&own);
    MPI_Session_get_num_psets(session, MPI_INFO_NULL, &sets);
    for (int i = 0; i < sets; i++) {
        char name[MPI_MAX_PSET_NAME_LEN], text[16];
        int length = 0, flag, room = sizeof text;
        MPI_Info info;
        MPI_Session_get_nth_pset(session, MPI_INFO_NULL, i, &length, NULL);
        MPI_Session_get_nth_pset(session, MPI_INFO_NULL, i, &length, name);
        CHECK(length == (int)strlen(name) + 1, "length %d of %s", length, name);
        int world = strcmp(name, "mpi://WORLD") == 0, self = strcmp(name, "mpi://SELF") == 0;
        worlds += world, selves += self;
        MPI_Session_get_pset_info(session, name, &info);
        MPI_Info_get_string(info, "mpi_size", &room, text, &flag);
        /* Open MPI has one more, of the processes of a node. */
        int members = flag ? atoi(text) : 0, all = world || strcmp(name, "mpix://SHARED") == 0;
        CHECK(members == (all ? size : 1), "mpi_size %s of %s", text, name);
        CHECK(room == (int)strlen(text) + 1, "length %d", room);
        MPI_Info_free(&info);
    }
    CHECK(worlds == 1 && selves == 1, "%d and %d sets", worlds, selves);
}

int main(int argc, char **argv)
{
    long rounds = option(argc, argv, "--rounds", 60), pause = option(argc, argv, "--pause", 80);
    MPI_Session session;
    MPI_Errhandler handler;
    MPI_Info info;
    MPI_Info_create(&info);
    MPI_Info_set(info, "thread_level", "MPI_THREAD_SINGLE");
    MPI_Session_init(info, MPI_ERRORS_RETURN, &session);
    MPI_Session_create_errhandler(handle, &handler);
    MPI_Session_set_errhandler(session, handler);
    MPI_Info_free(&info);
    MPI_Comm comm = from_set(session, "mpi://WORLD", "tests.sessions"), own = from_set(session, "mpi://SELF", "tests.own"), inter;
    MPI_Comm_rank(comm, &world_rank);
    MPI_Comm_size(comm, &world_size);
    CHECK(world_size >= 2, "needs 2 ranks");
    MPI_Group all, low, high, set;
    MPI_Comm_group(comm, &all);
    MPI_Group_from_session_pset(session, "mpi://WORLD", &set);
    int first[1][3] = {{0, 0, 1}};
    MPI_Group_range_incl(all, 1, first, &low);
    MPI_Group_range_excl(all, 1, first, &high);
    MPI_Intercomm_create_from_groups(world_rank ? high : low, 0, world_rank ? low : high, 0, "tests.sides", MPI_INFO_NULL, MPI_ERRORS_RETURN,
                                     &inter);
    uint64_t hash = 0;
    for (long round = 0; round < rounds; round++) {
        MPI_Errhandler got;
        int sum = 0, one = 0, far = 0, before;
        ask(session, world_size);
        before = handled; /* Open MPI 5.0.11 calls it when asked about a process set, and returns MPI_SUCCESS */
        MPI_Session_get_errhandler(session, &got);
        CHECK(got == handler, "the session has another handler");
        MPI_Errhandler_free(&got);
        MPI_Session_set_errhandler(session, handler);
        MPI_Session_call_errhandler(session, MPI_ERR_OTHER);
        CHECK(handled == before + 1, "the session's handler was called %d times", handled - before);
#if (defined MPICH_VERSION && MPICH_NUMVERSION >= 40300000) || (defined OPEN_MPI && OMPI_MAJOR_VERSION >= 5)
        THROUGH_FORTRAN(Session, MPI_Session, session);
#endif
        int value = world_rank + (int)round;
        MPI_Allreduce(&value, &sum, 1, MPI_INT, MPI_SUM, comm);
        MPI_Allreduce(&value, &one, 1, MPI_INT, MPI_SUM, own);
        MPI_Allreduce(&value, &far, 1, MPI_INT, MPI_MAX, inter);
        CHECK(sum == world_size * (world_size - 1) / 2 + world_size * (int)round && one == value, "sum %d", sum);
        CHECK(far == (world_rank ? (int)round : world_size - 1 + (int)round), "across: %d", far);
        hash = fold(hash, (uint64_t)sum);
        int right = (world_rank + 1) % world_size, left = (world_rank + world_size - 1) % world_size, in;
        MPI_Sendrecv(&value, 1, MPI_INT, right, 1, &in, 1, MPI_INT, left, 1, comm, MPI_STATUS_IGNORE);
        CHECK(in == left + (int)round, "the neighbour sent %d", in);
        int relation;
        MPI_Group_compare(set, all, &relation);
        CHECK(relation == MPI_IDENT, "the group of the process set");
        if (round % 5 == 0) {
            MPI_Session second;
            MPI_Session_init(MPI_INFO_NULL, MPI_ERRORS_RETURN, &second);
            MPI_Errhandler young;
            MPI_Session_create_errhandler(handle, &young);
            MPI_Session_set_errhandler(second, young);
            MPI_Errhandler_free(&young);
            before = handled;
            MPI_Session_call_errhandler(second, MPI_ERR_OTHER);
            CHECK(handled == before + 1, "the second session's handler was called %d times", handled - before);
            MPI_Comm fresh = from_set(second, "mpi://WORLD", "tests.again");
            MPI_Barrier(fresh);
            MPI_Comm_free(&fresh);
            MPI_Session_finalize(&second);
        }
        pause_ms(pause);
    }
    uint64_t *hashes = calloc((size_t)world_size, sizeof *hashes), result = (uint64_t)world_size;
    MPI_Gather(&hash, 1, MPI_UINT64_T, hashes, 1, MPI_UINT64_T, 0, comm);
    for (int i = 0; world_rank == 0 && i < world_size; i++) result = fold(result, hashes[i]);
    if (world_rank == 0) printf("RESULT %016llx\n", (unsigned long long)result), fflush(stdout);
    free(hashes);
    MPI_Group_free(&set), MPI_Group_free(&all), MPI_Group_free(&low), MPI_Group_free(&high);
    MPI_Comm_free(&inter), MPI_Comm_free(&own), MPI_Comm_free(&comm);
    MPI_Errhandler_free(&handler);
    MPI_Session_finalize(&session);
    return 0;
}
