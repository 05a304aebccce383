/* What no other program has a place for: published names, functions of attributes called by the program, Fortran handles of windows,
 * the newest forms of duplicates, hints, buffers, persistent sends and contents of types.
 *   rest [--rounds N] [--pause MS] */
#include "common.h"
#ifdef OPEN_MPI
#include <mpi-ext.h>
#endif

enum { WORDS = 64 };

/* A name is known to today's mpirun only: after a restart it is published again. */
static void names(void)
{
    char port[MPI_MAX_PORT_NAME] = "a-port-of-rank-0", found[MPI_MAX_PORT_NAME];
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    int known = 0;
    for (int attempt = 0; attempt < 3 && !known; attempt++) {
        if (world_rank == 0) CHECK(MPI_Publish_name("mana-test", MPI_INFO_NULL, port) == MPI_SUCCESS, "not published");
        MPI_Barrier(MPI_COMM_WORLD);
        int mine = MPI_Lookup_name("mana-test", MPI_INFO_NULL, found) == MPI_SUCCESS;
        MPI_Allreduce(&mine, &known, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
        CHECK(!mine || strcmp(found, port) == 0, "found %s", found);
        int code = world_rank == 0 ? MPI_Unpublish_name("mana-test", MPI_INFO_NULL, port) : MPI_SUCCESS;
        CHECK(!known || code == MPI_SUCCESS, "not taken back");
    }
    CHECK(known, "the name is not known");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_ARE_FATAL);
}

static void ranges(MPI_Group all)
{
    int range[1][3] = {{0, world_size - 1, 2}}, size, rank;
    MPI_Group odd;
    MPI_Group_range_excl(all, 1, range, &odd);
    MPI_Group_size(odd, &size);
    MPI_Group_rank(odd, &rank);
    CHECK(size == world_size / 2, "%d odd ranks", size);
    CHECK(rank == (world_rank % 2 ? world_rank / 2 : MPI_UNDEFINED), "rank %d", rank);
    MPI_Group_free(&odd);
}

#ifdef OPEN_MPI /* elsewhere they are macros */
typedef int copy(void *, int, void *, void *, void *, int *);
typedef int delete(void *, int, void *, void *);

static void attribute_functions(MPI_Comm comm, MPI_Win win)
{
    copy *duplicates[] = {(copy *)MPI_COMM_DUP_FN, (copy *)MPI_TYPE_DUP_FN, (copy *)MPI_WIN_DUP_FN, (copy *)OMPI_C_MPI_DUP_FN};
    copy *nulls[] = {(copy *)MPI_COMM_NULL_COPY_FN, (copy *)MPI_TYPE_NULL_COPY_FN, (copy *)MPI_WIN_NULL_COPY_FN, (copy *)OMPI_C_MPI_NULL_COPY_FN};
    delete *deletes[] = {(delete *)MPI_COMM_NULL_DELETE_FN, (delete *)MPI_TYPE_NULL_DELETE_FN, (delete *)MPI_WIN_NULL_DELETE_FN,
                         (delete *)OMPI_C_MPI_NULL_DELETE_FN};
    void *objects[] = {comm, MPI_INT, win, comm};
    for (int i = 0; i < 4; i++) {
        int in, flag = -1;
        void *out = NULL;
        CHECK(duplicates[i](objects[i], 0, NULL, &in, &out, &flag) == MPI_SUCCESS && flag == 1 && out == &in, "duplicate %d", i);
        CHECK(nulls[i](objects[i], 0, NULL, &in, &out, &flag) == MPI_SUCCESS && flag == 0, "no copy %d", i);
        CHECK(deletes[i](objects[i], 0, &in, NULL) == MPI_SUCCESS, "no deletion %d", i);
    }
    CHECK(MPI_Win_f2c(MPI_Win_c2f(win)) == win, "a window through Fortran");
}
#endif

#ifdef MPICH_VERSION
static void duplicate(MPI_Comm comm, long round)
{
    MPI_Info hints;
    MPI_Comm copy;
    MPI_Request request;
    int sum, value = world_rank + (int)round;
    MPI_Info_create(&hints);
    MPI_Info_set(hints, "mpi_assert_no_any_source", "true");
    MPI_Comm_idup_with_info(comm, hints, &copy, &request);
    MPI_Info_free(&hints);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    MPI_Allreduce(&value, &sum, 1, MPI_INT, MPI_SUM, copy);
    CHECK(sum == world_size * (world_size - 1) / 2 + world_size * (int)round, "sum %d", sum);
    MPI_Comm_free(&copy);
}

static void environment(void)
{
    MPI_Info info;
    int count;
    MPI_Info_create_env(0, NULL, &info);
    MPI_Info_get_nkeys(info, &count);
    CHECK(count >= 0, "%d hints of the environment", count);
    for (int i = 0; i < count; i++) {
        char key[MPI_MAX_INFO_KEY + 1];
        MPI_Info_get_nthkey(info, i, key);
        CHECK(key[0], "hint %d has no name", i);
    }
    MPI_Info_free(&info);
}

/* The buffer stays attached from round to round. */
static void buffered(MPI_Comm comm, long round, void *buffer, MPI_Count size)
{
    int right = (world_rank + 1) % world_size, left = (world_rank + world_size - 1) % world_size;
    uint64_t out[WORDS], in[WORDS];
    void *found;
    MPI_Count room;
    fill(out, sizeof out, (uint64_t)(round * 97 + world_rank));
    MPI_Bsend(out, WORDS, MPI_UINT64_T, right, 4, comm);
    MPI_Recv(in, WORDS, MPI_UINT64_T, left, 4, comm, MPI_STATUS_IGNORE);
    fill(out, sizeof out, (uint64_t)(round * 97 + left));
    CHECK(memcmp(in, out, sizeof in) == 0, "a buffered message");
    MPI_Buffer_detach_c(&found, &room);
    CHECK(found == buffer && room == size, "%lld bytes were attached", (long long)room);
    MPI_Buffer_attach_c(buffer, size);
}

static void contents(MPI_Datatype type)
{
    MPI_Count integers, addresses, counts, types, large[4];
    int combiner, small[4];
    MPI_Aint places[4];
    MPI_Datatype inside[2];
    MPI_Type_get_envelope_c(type, &integers, &addresses, &counts, &types, &combiner);
    CHECK(combiner == MPI_COMBINER_VECTOR && integers + counts == 3 && types == 1, "combiner %d", combiner);
    MPI_Type_get_contents_c(type, integers, addresses, counts, types, small, places, large, inside);
    MPI_Count number = counts ? large[0] : small[0], stride = counts ? large[2] : small[2];
    CHECK(number == 3 && stride == 2 && inside[0] == MPI_INT, "%lld blocks", (long long)number);
}
#endif

#if MPI_VERSION > 4 || (MPI_VERSION == 4 && MPI_SUBVERSION >= 1)
#define NEWER
/* Buffers of a communicator and of the process, emptied while they stay attached. */
static void flushed(MPI_Comm comm, long round, void *buffer, int size)
{
    int right = (world_rank + 1) % world_size, left = (world_rank + world_size - 1) % world_size, room;
    uint64_t out[WORDS], in[WORDS];
    void *found;
    MPI_Request request;
    for (int i = 0; i < 3; i++) {
        fill(out, sizeof out, (uint64_t)(round * 89 + world_rank + i));
        CHECK(MPI_Bsend(out, WORDS, MPI_UINT64_T, right, 6, comm) == MPI_SUCCESS, "no room for message %d", i);
        MPI_Recv(in, WORDS, MPI_UINT64_T, left, 6, comm, MPI_STATUS_IGNORE);
        fill(out, sizeof out, (uint64_t)(round * 89 + left + i));
        CHECK(memcmp(in, out, sizeof in) == 0, "a buffered message");
        if (i == 0) MPI_Comm_flush_buffer(comm);
        if (i == 1) MPI_Comm_iflush_buffer(comm, &request), MPI_Wait(&request, MPI_STATUS_IGNORE);
    }
    MPI_Buffer_flush();
    MPI_Buffer_iflush(&request);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    MPI_Comm_detach_buffer(comm, &found, &room);
    CHECK(found == buffer && room == size, "%d bytes were attached", room);
    MPI_Comm_attach_buffer(comm, buffer, size);
}

/* Error classes and codes that live for a round. */
static void removed(void)
{
    int class, code, found;
    MPI_Add_error_class(&class);
    MPI_Add_error_code(class, &code);
    MPI_Add_error_string(code, "a code of this round");
    MPI_Error_class(code, &found);
    CHECK(found == class, "class %d", found);
    CHECK(MPI_Remove_error_string(code) == MPI_SUCCESS, "the text of %d", code);
    CHECK(MPI_Remove_error_code(code) == MPI_SUCCESS, "code %d", code);
    CHECK(MPI_Remove_error_class(class) == MPI_SUCCESS, "class %d", class);
}
#endif

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 30), pause = option(argc, argv, "--pause", 150);
    uint64_t hash = 0, board[4] = {0};
    MPI_Comm comm;
    MPI_Group all;
    MPI_Win win;
    MPI_Comm_dup(MPI_COMM_WORLD, &comm);
    MPI_Comm_group(comm, &all);
    MPI_Win_create(board, sizeof board, 8, MPI_INFO_NULL, comm, &win);
#ifdef MPICH_VERSION
    enum { ROOM = WORDS * 8 + MPI_BSEND_OVERHEAD };
    static char room[ROOM];
    int right = (world_rank + 1) % world_size, left = (world_rank + world_size - 1) % world_size;
    uint64_t out = 0, in = 0;
    MPI_Request ready[2];
    MPI_Datatype type;
    MPI_Type_vector_c(3, 1, 2, MPI_INT, &type);
    MPI_Type_commit(&type);
    MPI_Buffer_attach_c(room, ROOM);
    MPI_Rsend_init_c(&out, 1, MPI_UINT64_T, right, 5, comm, &ready[1]);
    MPI_Recv_init_c(&in, 1, MPI_UINT64_T, left, 5, comm, &ready[0]);
#endif
#ifdef NEWER
    /* Room for one message: each finds the one before gone. */
    enum { SMALL = WORDS * 8 + MPI_BSEND_OVERHEAD };
    static char small[SMALL];
    MPI_Comm own;
    MPI_Comm_dup(comm, &own);
    MPI_Comm_attach_buffer(own, small, SMALL);
#endif
    for (long round = 0; round < rounds; round++) {
        MPI_Comm parent = comm;
        MPI_Comm_get_parent(&parent);
        CHECK(parent == MPI_COMM_NULL, "a parent");
        names();
        ranges(all);
#ifdef OPEN_MPI
        attribute_functions(comm, win);
        CHECK(MPIX_Query_cuda_support() == 0, "a graphics processor");
#endif
#ifdef MPICH_VERSION
        CHECK(MPIX_Query_cuda_support() == 0, "a graphics processor");
        duplicate(comm, round);
        environment();
        buffered(comm, round, room, ROOM);
        contents(type);
        out = mix((uint64_t)(round * 31 + world_rank));
        MPI_Start(&ready[0]);
        MPI_Barrier(comm);
        MPI_Start(&ready[1]);
        MPI_Waitall(2, ready, MPI_STATUSES_IGNORE);
        CHECK(in == mix((uint64_t)(round * 31 + left)), "a ready message");
#endif
#ifdef NEWER
        flushed(own, round, small, SMALL);
        removed();
#endif
        uint64_t value = (uint64_t)(round + 1);
        MPI_Win_fence(0, win);
        MPI_Accumulate(&value, 1, MPI_UINT64_T, (world_rank + 1) % world_size, 1, 1, MPI_UINT64_T, MPI_SUM, win);
        MPI_Win_fence(0, win);
        hash = fold(hash, board[1]);
        pause_ms(pause);
    }
#ifdef NEWER
    void *last;
    int bytes;
    MPI_Comm_detach_buffer(own, &last, &bytes);
    MPI_Comm_free(&own);
#endif
#ifdef MPICH_VERSION
    void *found;
    MPI_Count size;
    MPI_Request_free(&ready[0]), MPI_Request_free(&ready[1]);
    MPI_Type_free(&type);
    MPI_Buffer_detach_c(&found, &size);
#endif
    MPI_Win_free(&win);
    MPI_Group_free(&all);
    MPI_Comm_free(&comm);
    return finish(hash);
}
