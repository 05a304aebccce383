/* What no other program has a place for: published names, functions of attributes called by the program, Fortran handles of windows,
 * the newest forms of duplicates, hints, buffers, persistent sends and contents of types; and of libraries that have it, what came
 * with MPI-4.1 and 5.0: buffers of communicators, fields of statuses, looks at several requests, handles as integers.
 *   rest [--rounds N] [--pause MS] [--growth KIB] */
#include "common.h"
#ifdef OPEN_MPI
#include <mpi-ext.h>
#endif
/* Open MPI 5 has much of MPI-4, and says that it has not. */
#if MPI_VERSION >= 4 || (defined OPEN_MPI && OMPI_MAJOR_VERSION >= 5)
#define FOUR
#endif

enum { WORDS = 64 };

/* A name is known to today's mpirun only: after a restart it is published again. */
static void names(MPI_Info hints)
{
    char port[MPI_MAX_PORT_NAME] = "a-port-of-rank-0", found[MPI_MAX_PORT_NAME];
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    int known = 0;
    for (int attempt = 0; attempt < 3 && !known; attempt++) {
        if (world_rank == 0) CHECK(MPI_Publish_name("mana-test", hints, port) == MPI_SUCCESS, "not published");
        MPI_Barrier(MPI_COMM_WORLD);
        int mine = MPI_Lookup_name("mana-test", hints, found) == MPI_SUCCESS;
        MPI_Allreduce(&mine, &known, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
        CHECK(!mine || strcmp(found, port) == 0, "found %s", found);
        int code = world_rank == 0 ? MPI_Unpublish_name("mana-test", hints, port) : MPI_SUCCESS;
        /* Between the two it may have been resumed. */
        MPI_Bcast(&code, 1, MPI_INT, 0, MPI_COMM_WORLD);
        if (code != MPI_SUCCESS) known = 0;
    }
    CHECK(known, "the name is not known, or not taken back");
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

#ifdef FOUR
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

static void environment(MPI_Info first)
{
    MPI_Info info;
    int count, before;
    MPI_Info_create_env(0, NULL, &info);
    MPI_Info_get_nkeys(info, &count);
    MPI_Info_get_nkeys(first, &before);
    CHECK(count == before, "%d hints of the environment were %d", count, before);
    CHECK(count >= 0, "%d hints of the environment", count);
    for (int i = 0; i < count; i++) {
        char key[MPI_MAX_INFO_KEY + 1];
        MPI_Info_get_nthkey(info, i, key);
        CHECK(key[0], "hint %d has no name", i);
    }
    MPI_Info_free(&info);
}

/* Sends and receives in one, two under way together. */
static void exchanged(MPI_Comm comm, long round)
{
    int right = (world_rank + 1) % world_size, left = (world_rank + world_size - 1) % world_size;
    uint64_t out[WORDS], in[WORDS], kept[WORDS];
    MPI_Request requests[2];
    fill(out, sizeof out, (uint64_t)(round * 101 + world_rank));
    memcpy(kept, out, sizeof kept);
    MPI_Isendrecv(out, WORDS, MPI_UINT64_T, right, 11, in, WORDS, MPI_UINT64_T, left, 11, comm, &requests[0]);
    MPI_Isendrecv_replace(kept, WORDS, MPI_UINT64_T, right, 12, left, 12, comm, &requests[1]);
    MPI_Waitall(2, requests, MPI_STATUSES_IGNORE);
    fill(out, sizeof out, (uint64_t)(round * 101 + left));
    CHECK(memcmp(in, out, sizeof in) == 0, "an exchanged message");
    CHECK(memcmp(kept, out, sizeof kept) == 0, "a replaced message");
}
#endif

#ifdef OMPI_HAVE_MPI_EXT_FTMPI
/* Where no process has failed all agree, nobody is missing, and what is revoked fails. (A revoked communicator that is shrunk hangs
 * in Open MPI 5.0.11 unless its launcher is given --with-ft.) */
static void agreed(MPI_Comm comm, long round)
{
    int flag = world_rank == round % world_size ? 6 : 7, size, sum, one = 1, class = MPI_SUCCESS;
    MPI_Comm copy, smaller;
    MPI_Group failed;
    CHECK(MPIX_Comm_agree(comm, &flag) == MPI_SUCCESS && flag == 6, "agreed on %d", flag);
    MPIX_Comm_failure_ack(comm);
    MPIX_Comm_failure_get_acked(comm, &failed);
    MPI_Group_size(failed, &size);
    CHECK(size == 0, "%d have failed", size);
    MPI_Group_free(&failed);
    MPIX_Comm_shrink(comm, &smaller);
    MPI_Allreduce(&one, &sum, 1, MPI_INT, MPI_SUM, smaller);
    CHECK(sum == world_size, "%d are left", sum);
    MPI_Comm_free(&smaller);
    MPI_Comm_dup(comm, &copy);
    MPI_Comm_set_errhandler(copy, MPI_ERRORS_RETURN);
    MPIX_Comm_revoke(copy);
    MPI_Error_class(MPI_Barrier(copy), &class);
    CHECK(class == MPIX_ERR_REVOKED, "class %d on a revoked communicator", class);
    MPI_Comm_free(&copy);
}
#endif

#ifdef MPICH_VERSION
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

#if MPI_VERSION >= 5 || defined I_MPI_NUMVERSION /* Intel MPI 2021 has MPI 4.1, and these of 5.0 */
#define INTEGERS
#endif
#if MPI_VERSION > 4 || (MPI_VERSION == 4 && MPI_SUBVERSION >= 1)
#define NEWER
static void around(MPI_Comm comm, uint64_t seed, int tag)
{
    int right = (world_rank + 1) % world_size, left = (world_rank + world_size - 1) % world_size;
    uint64_t out[WORDS], in[WORDS];
    fill(out, sizeof out, seed + (uint64_t)world_rank);
    CHECK(MPI_Bsend(out, WORDS, MPI_UINT64_T, right, tag, comm) == MPI_SUCCESS, "no room for a message");
    MPI_Recv(in, WORDS, MPI_UINT64_T, left, tag, comm, MPI_STATUS_IGNORE);
    fill(out, sizeof out, seed + (uint64_t)left);
    CHECK(memcmp(in, out, sizeof in) == 0, "a buffered message");
}

/* Of the process's buffer: begun in one round and complete in the next. */
static MPI_Request later = MPI_REQUEST_NULL;

/* Buffers of a communicator and of the process, emptied while they stay attached. */
static void flushed(MPI_Comm comm, long round, void *buffer, int size)
{
    int room;
    void *found;
    MPI_Request request;
    for (int i = 0; i < 3; i++) {
        around(comm, (uint64_t)(round * 89 + i), 6);
        if (i == 0) MPI_Comm_flush_buffer(comm);
        if (i == 1) MPI_Comm_iflush_buffer(comm, &request), MPI_Wait(&request, MPI_STATUS_IGNORE);
    }
    MPI_Buffer_flush();
    MPI_Wait(&later, MPI_STATUS_IGNORE);
    MPI_Buffer_iflush(&later);
    MPI_Comm_detach_buffer(comm, &found, &room);
    CHECK(found == buffer && room == size, "%d bytes were attached", room);
    MPI_Comm_attach_buffer_c(comm, buffer, size);
    MPI_Count large;
    MPI_Comm_detach_buffer_c(comm, &found, &large);
    CHECK(found == buffer && large == size, "%lld bytes were attached", (long long)large);
    MPI_Comm_attach_buffer(comm, buffer, size);
}

/* Room for one message: each finds the one before gone. */
enum { SMALL = WORDS * 8 + MPI_BSEND_OVERHEAD };

enum { LATE = 50000 };

/* A session with a buffer, and a communicator that stems from it. */
struct apart {
    MPI_Session session;
    MPI_Comm comm;
    char room[SMALL], much[8 * LATE + MPI_BSEND_OVERHEAD];
};

static void set_apart(struct apart *a)
{
    MPI_Group all;
    MPI_Comm first;
    MPI_Session_init(MPI_INFO_NULL, MPI_ERRORS_ARE_FATAL, &a->session);
    MPI_Group_from_session_pset(a->session, "mpi://WORLD", &all);
    MPI_Comm_create_from_group(all, "rest", MPI_INFO_NULL, MPI_ERRORS_ARE_FATAL, &first);
    MPI_Comm_split(first, 0, world_rank, &a->comm);
    MPI_Comm_free(&first), MPI_Group_free(&all);
    MPI_Session_attach_buffer(a->session, a->room, SMALL);
}

/* A message that is received late: the buffer is waited for. */
static void late(struct apart *a, long round, long pause)
{
    static uint64_t words[LATE];
    MPI_Count size;
    void *found;
    int first = (int)round % world_size, second = (first + 1) % world_size;
    MPI_Session_attach_buffer_c(a->session, a->much, sizeof a->much);
    if (world_rank == first) {
        for (int i = 0; i < LATE; i++) words[i] = mix((uint64_t)(round * LATE + i));
        MPI_Bsend(words, LATE, MPI_UINT64_T, second, 11, a->comm);
        MPI_Session_flush_buffer(a->session);
    } else if (world_rank == second) {
        pause_ms(pause);
        MPI_Recv(words, LATE, MPI_UINT64_T, first, 11, a->comm, MPI_STATUS_IGNORE);
        for (int i = 0; i < LATE; i++) CHECK(words[i] == mix((uint64_t)(round * LATE + i)), "word %d of a late message", i);
    }
    MPI_Session_detach_buffer_c(a->session, &found, &size);
    CHECK(found == a->much && size == sizeof a->much, "%lld bytes were attached", (long long)size);
}

static void flushed_apart(struct apart *a, long round, long pause)
{
    int room;
    MPI_Count large;
    void *found;
    MPI_Request request;
    for (int i = 0; i < 3; i++) {
        around(a->comm, (uint64_t)(round * 97 + i), 7);
        if (i == 0) MPI_Session_flush_buffer(a->session);
        if (i == 1) MPI_Session_iflush_buffer(a->session, &request), MPI_Wait(&request, MPI_STATUS_IGNORE);
    }
    MPI_Session_detach_buffer(a->session, &found, &room);
    CHECK(found == a->room && room == SMALL, "%d bytes were attached", room);
    MPI_Session_attach_buffer_c(a->session, a->room, SMALL - 8);
    MPI_Session_detach_buffer_c(a->session, &found, &large);
    CHECK(found == a->room && large == SMALL - 8, "%lld bytes were attached", (long long)large);
    late(a, round, pause);
    MPI_Session_attach_buffer(a->session, a->room, SMALL);
}

static void join(struct apart *a)
{
    void *found;
    int room;
    MPI_Session_detach_buffer(a->session, &found, &room);
    MPI_Comm_free(&a->comm);
    MPI_Session_finalize(&a->session);
}

/* A buffer that is as large as is needed: what has been sent is not kept. A resumed process has more memory of its own. */
static void automatic(MPI_Comm comm, long round, long rounds, long most)
{
    enum { MESSAGES = 40, LONG = 12500 };
    static uint64_t out[LONG], in[LONG];
    static long before;
    int right = (world_rank + 1) % world_size, left = (world_rank + world_size - 1) % world_size;
    for (int i = 0; i < MESSAGES; i++) {
        out[0] = mix((uint64_t)(round * 83 + world_rank + i));
        CHECK(MPI_Bsend(out, LONG, MPI_UINT64_T, right, 8, comm) == MPI_SUCCESS, "no room for message %d", i);
        MPI_Recv(in, LONG, MPI_UINT64_T, left, 8, comm, MPI_STATUS_IGNORE);
        CHECK(in[0] == mix((uint64_t)(round * 83 + left + i)), "a buffered message");
    }
    if (round == 3) before = resident();
    if (round == rounds - 1) CHECK(resident() - before < most, "%ld KiB have become %ld", before, resident());
}

/* The fields of a status as procedures, and requests that are asked about several at once. */
static uint64_t looked_at(MPI_Comm comm, MPI_Datatype type, long round)
{
    enum { SEVERAL = 4 };
    int right = (world_rank + 1) % world_size, left = (world_rank + world_size - 1) % world_size, in[SEVERAL], out[SEVERAL];
    int source, tag, error, flag = -1, index = -7, count = -7, indices[SEVERAL], cancelled;
    MPI_Count elements;
    MPI_Request requests[2 * SEVERAL], none[2] = {MPI_REQUEST_NULL, MPI_REQUEST_NULL};
    MPI_Status status, statuses[2 * SEVERAL];
    memset(&status, 0, sizeof status);
    MPI_Status_set_source(&status, 3), MPI_Status_set_tag(&status, 17), MPI_Status_set_error(&status, MPI_ERR_OTHER);
    MPI_Status_set_elements_c(&status, MPI_INT, 5);
    MPI_Status_set_cancelled(&status, 0);
    MPI_Status_get_source(&status, &source), MPI_Status_get_tag(&status, &tag), MPI_Status_get_error(&status, &error);
    MPI_Get_elements_c(&status, MPI_INT, &elements);
    MPI_Test_cancelled(&status, &cancelled);
    CHECK(source == 3 && status.MPI_SOURCE == 3 && tag == 17 && status.MPI_TAG == 17 && error == MPI_ERR_OTHER && elements == 5 && !cancelled,
          "a status of %d, %d, %d, %lld", source, tag, error, (long long)elements);
    MPI_Status_set_elements_c(&status, type, 6);
    MPI_Get_elements_c(&status, type, &elements);
    uint64_t told = (uint64_t)elements; /* 18 of MPICH 4.3 and Intel MPI, 6 of MPICH 5.0 */
    for (int i = 0; i < SEVERAL; i++) MPI_Irecv(&in[i], 1, MPI_INT, left, i, comm, &requests[i]);
    MPI_Request_get_status_all(SEVERAL, requests, &flag, MPI_STATUSES_IGNORE);
    CHECK(flag == 0, "complete before anything was sent");
    MPI_Request_get_status_any(SEVERAL, requests, &index, &flag, &status);
    CHECK(flag == 0 && index == MPI_UNDEFINED, "request %d complete before anything was sent", index);
    MPI_Request_get_status_some(SEVERAL, requests, &count, indices, statuses);
    CHECK(count == 0, "%d complete before anything was sent", count);
    MPI_Barrier(comm);
    out[2] = (int)round * 10 + 2;
    MPI_Send(&out[2], 1, MPI_INT, right, 2, comm);
    do MPI_Request_get_status_any(SEVERAL, requests, &index, &flag, &status);
    while (!flag);
    MPI_Status_get_source(&status, &source), MPI_Status_get_tag(&status, &tag);
    CHECK(index == 2 && source == left && tag == 2, "request %d from %d, tag %d", index, source, tag);
    MPI_Request_get_status_some(SEVERAL, requests, &count, indices, statuses);
    CHECK(count == 1 && indices[0] == 2 && statuses[0].MPI_TAG == 2, "%d are complete, the first is %d", count, indices[0]);
    MPI_Barrier(comm);
    for (int i = 0; i < SEVERAL; i++) {
        if (i == 2) continue;
        out[i] = (int)round * 10 + i;
        MPI_Send(&out[i], 1, MPI_INT, right, i, comm);
    }
    do MPI_Request_get_status_all(SEVERAL, requests, &flag, statuses);
    while (!flag);
    for (int i = 0; i < SEVERAL; i++) CHECK(statuses[i].MPI_TAG == i && in[i] == (int)round * 10 + i, "request %d: %d", i, in[i]);
    MPI_Waitall(SEVERAL, requests, MPI_STATUSES_IGNORE);
    MPI_Request_get_status_all(2, none, &flag, statuses);
    CHECK(flag == 1, "requests that are none");
    MPI_Request_get_status_any(2, none, &index, &flag, &status);
    CHECK(flag == 1 && index == MPI_UNDEFINED, "one of none: %d", index);
    MPI_Request_get_status_some(2, none, &count, indices, statuses);
    CHECK(count == MPI_UNDEFINED, "some of none: %d", count);
    return told;
}

/* Types of a value and an index by their parts, and what the library may say of the hardware. */
static void found(MPI_Comm comm)
{
    struct {
        double value;
        int index;
    } mine = {1.0 / (world_rank + 1), world_rank}, least;
    MPI_Datatype pair;
    MPI_Info info;
    int keys;
    MPI_Type_get_value_index(MPI_DOUBLE, MPI_INT, &pair);
    CHECK(pair == MPI_DOUBLE_INT, "another type of a double and an index");
    MPI_Allreduce(&mine, &least, 1, pair, MPI_MINLOC, comm);
    CHECK(least.index == world_size - 1, "the least is that of %d", least.index);
    MPI_Get_hw_resource_info(&info);
    CHECK(MPI_Info_get_nkeys(info, &keys) == MPI_SUCCESS && keys >= 0, "%d keys", keys);
    MPI_Info_free(&info);
}

#ifdef INTEGERS
/* What lives for the whole run. */
struct lasting {
    MPI_Info info;
    MPI_Op op;
    MPI_Datatype type;
    MPI_Errhandler handler;
    MPI_Session session;
    MPI_Request request;
};

static int told;

static void tell(MPI_Comm *comm, int *code, ...)
{
    (void)comm, (void)code;
    told++;
}

static void least(void *in, void *inout, int *length, MPI_Datatype *type)
{
    (void)type;
    for (int i = 0; i < *length; i++)
        if (((int *)in)[i] < ((int *)inout)[i]) ((int *)inout)[i] = ((int *)in)[i];
}

static void begin(struct lasting *l, MPI_Comm comm)
{
    MPI_Info_create(&l->info);
    MPI_Op_create(least, 1, &l->op);
    MPI_Type_contiguous(3, MPI_INT, &l->type);
    MPI_Comm_create_errhandler(tell, &l->handler);
    MPI_Session_init(MPI_INFO_NULL, MPI_ERRORS_RETURN, &l->session);
    MPI_Recv_init(NULL, 0, MPI_INT, MPI_PROC_NULL, 0, comm, &l->request);
}

static void end(struct lasting *l)
{
    MPI_Info_free(&l->info);
    MPI_Op_free(&l->op);
    MPI_Type_free(&l->type);
    MPI_Errhandler_free(&l->handler);
    MPI_Session_finalize(&l->session);
    MPI_Request_free(&l->request);
}

/* Handles as integers, and back. */
static void integers(MPI_Comm comm, MPI_Group group, MPI_Win win, const struct lasting *l)
{
    MPI_Message message;
    MPI_File file = MPI_FILE_NULL;
    MPI_Request request;
    MPI_Comm own;
    int word = 1, got = 0, keys = 0, major = 0, minor = -1, rank = (world_rank + 1) % world_size;
    CHECK(MPI_Comm_fromint(MPI_Comm_toint(comm)) == comm && MPI_Comm_fromint(MPI_Comm_toint(MPI_COMM_WORLD)) == MPI_COMM_WORLD, "communicators");
    CHECK(MPI_Group_fromint(MPI_Group_toint(group)) == group, "groups");
    CHECK(MPI_Win_fromint(MPI_Win_toint(win)) == win, "windows");
    CHECK(MPI_Info_fromint(MPI_Info_toint(l->info)) == l->info, "info objects");
    CHECK(MPI_Op_fromint(MPI_Op_toint(l->op)) == l->op && MPI_Op_fromint(MPI_Op_toint(MPI_SUM)) == MPI_SUM, "operations");
    CHECK(MPI_Type_fromint(MPI_Type_toint(l->type)) == l->type && MPI_Type_fromint(MPI_Type_toint(MPI_DOUBLE)) == MPI_DOUBLE, "datatypes");
    CHECK(MPI_Errhandler_fromint(MPI_Errhandler_toint(l->handler)) == l->handler, "error handlers");
    CHECK(MPI_File_fromint(MPI_File_toint(file)) == file, "files");
    CHECK(MPI_Session_fromint(MPI_Session_toint(l->session)) == l->session, "sessions");
    CHECK(MPI_Request_fromint(MPI_Request_toint(l->request)) == l->request, "requests");
    MPI_Isend(&word, 1, MPI_INT, rank, 9, comm, &request);
    MPI_Mprobe(MPI_ANY_SOURCE, 9, comm, &message, MPI_STATUS_IGNORE);
    CHECK(MPI_Message_fromint(MPI_Message_toint(message)) == message, "messages");
    MPI_Mrecv(&got, 1, MPI_INT, &message, MPI_STATUS_IGNORE);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    CHECK(got == 1, "received %d", got);
    MPI_Comm_dup(comm, &own);
    MPI_Comm_set_errhandler(own, l->handler);
    told = 0;
    MPI_Comm_call_errhandler(own, MPI_ERR_OTHER);
    CHECK(told == 1, "the handler was called %d times", told);
    MPI_Comm_free(&own);
    MPI_Abi_get_version(&major, &minor);
    CHECK(major != 0 && minor >= -1, "an ABI of version %d.%d", major, minor);
    MPI_Info abi;
    MPI_Abi_get_info(&abi);
    CHECK(abi == MPI_INFO_NULL || (MPI_Info_get_nkeys(abi, &keys) == MPI_SUCCESS && keys >= 0), "%d keys", keys);
    if (abi != MPI_INFO_NULL) MPI_Info_free(&abi);
}
#endif

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
    MPI_Info hints;
    MPI_Info_create(&hints);
    MPI_Win_create(board, sizeof board, 8, MPI_INFO_NULL, comm, &win);
#ifdef FOUR
    MPI_Info started_with;
    MPI_Info_create_env(0, NULL, &started_with);
#endif
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
    long growth = option(argc, argv, "--growth", 30000);
    static char small[SMALL];
    MPI_Comm own;
    MPI_Comm_dup(comm, &own);
    MPI_Comm_attach_buffer(own, small, SMALL);
    MPI_Comm roomy;
    MPI_Comm_dup(comm, &roomy);
    MPI_Comm_attach_buffer(roomy, MPI_BUFFER_AUTOMATIC, 0);
    static struct apart apart;
    set_apart(&apart);
#ifdef INTEGERS
    struct lasting lasting;
    begin(&lasting, comm);
#endif
#endif
    for (long round = 0; round < rounds; round++) {
        MPI_Comm parent = comm;
        MPI_Comm_get_parent(&parent);
        CHECK(parent == MPI_COMM_NULL, "a parent");
        names(hints);
        ranges(all);
#ifdef OPEN_MPI
        attribute_functions(comm, win);
        CHECK(MPIX_Query_cuda_support() == 0, "a graphics processor");
#endif
#ifdef FOUR
        duplicate(comm, round);
        environment(started_with);
        exchanged(comm, round);
#endif
#ifdef OMPI_HAVE_MPI_EXT_FTMPI
        agreed(comm, round);
#endif
#ifdef MPICH_VERSION
        CHECK(MPIX_Query_cuda_support() == 0, "a graphics processor");
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
        flushed_apart(&apart, round, pause);
        automatic(roomy, round, rounds, growth);
        hash = fold(hash, looked_at(comm, type, round));
#if MPICH_NUMVERSION >= 40300000
        THROUGH_FORTRAN(Win, MPI_Win, win);
#endif
        found(comm);
        removed();
#ifdef INTEGERS
        integers(comm, all, win, &lasting);
#endif
#endif
        uint64_t value = (uint64_t)(round + 1);
        MPI_Win_fence(0, win);
        MPI_Accumulate(&value, 1, MPI_UINT64_T, (world_rank + 1) % world_size, 1, 1, MPI_UINT64_T, MPI_SUM, win);
        MPI_Win_fence(0, win);
        hash = fold(hash, board[1]);
        pause_ms(pause);
    }
#ifdef NEWER
#ifdef INTEGERS
    end(&lasting);
#endif
    join(&apart);
    MPI_Wait(&later, MPI_STATUS_IGNORE);
    void *last;
    int bytes;
    MPI_Comm_detach_buffer(roomy, &last, &bytes);
    MPI_Comm_free(&roomy);
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
#ifdef FOUR
    MPI_Info_free(&started_with);
#endif
    MPI_Info_free(&hints);
    MPI_Win_free(&win);
    MPI_Group_free(&all);
    MPI_Comm_free(&comm);
    return finish(hash);
}
