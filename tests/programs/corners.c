/* What the other programs leave out: memory of MPI, versions, addresses, large queries, maps and graphs, hints, non-blocking
 * duplicates, Fortran handles, types by precision, contents of types, and the procedures that MPI-3 removed.
 *   corners [--rounds N] [--pause MS] */
#include "common.h"

/* Under names of our own: the headers hide some and warn of others. */
extern int old_Attr_put(MPI_Comm, int, void *) __asm__("MPI_Attr_put");
extern int old_Attr_get(MPI_Comm, int, void *, int *) __asm__("MPI_Attr_get");
extern int old_Attr_delete(MPI_Comm, int) __asm__("MPI_Attr_delete");
extern int old_Keyval_create(MPI_Comm_copy_attr_function *, MPI_Comm_delete_attr_function *, int *, void *) __asm__("MPI_Keyval_create");
extern int old_Keyval_free(int *) __asm__("MPI_Keyval_free");
extern int old_Address(void *, MPI_Aint *) __asm__("MPI_Address");
extern int old_Type_extent(MPI_Datatype, MPI_Aint *) __asm__("MPI_Type_extent");
extern int old_Type_lb(MPI_Datatype, MPI_Aint *) __asm__("MPI_Type_lb");
extern int old_Type_ub(MPI_Datatype, MPI_Aint *) __asm__("MPI_Type_ub");
extern int old_Type_hvector(int, int, MPI_Aint, MPI_Datatype, MPI_Datatype *) __asm__("MPI_Type_hvector");
extern int old_Type_hindexed(int, int *, MPI_Aint *, MPI_Datatype, MPI_Datatype *) __asm__("MPI_Type_hindexed");
extern int old_Type_struct(int, int *, MPI_Aint *, MPI_Datatype *, MPI_Datatype *) __asm__("MPI_Type_struct");
extern int old_Errhandler_create(MPI_Comm_errhandler_function *, MPI_Errhandler *) __asm__("MPI_Errhandler_create");
extern int old_Errhandler_set(MPI_Comm, MPI_Errhandler) __asm__("MPI_Errhandler_set");
extern int old_Errhandler_get(MPI_Comm, MPI_Errhandler *) __asm__("MPI_Errhandler_get");

static int handled;

static void handle(MPI_Comm *comm, int *code, ...)
{
    (void)comm, (void)code;
    handled++;
}

/* What the rest works on is made at the beginning and freed at the end. */
static struct {
    MPI_Info info;
    MPI_Op op;
    MPI_Errhandler handler;
    MPI_Request request;
    MPI_Message message;
    MPI_Datatype real, integer, complex, matched, plain, old[3];
    int sent, got;
} lasting;

static void larger(void *in, void *inout, int *length, MPI_Datatype *type)
{
    (void)type;
    for (int i = 0; i < *length; i++)
        if (((int *)in)[i] > ((int *)inout)[i]) ((int *)inout)[i] = ((int *)in)[i];
}

/* Predefined types by what they hold. */
static void predefined(int now)
{
    MPI_Datatype found[4], *known[4] = {&lasting.real, &lasting.integer, &lasting.complex, &lasting.matched};
    static const int sizes[4] = {8, 4, 16, 8};
    MPI_Type_create_f90_real(15, MPI_UNDEFINED, &found[0]);
    MPI_Type_create_f90_integer(9, &found[1]);
    MPI_Type_create_f90_complex(15, MPI_UNDEFINED, &found[2]);
    MPI_Type_match_size(MPI_TYPECLASS_REAL, 8, &found[3]);
    for (int i = 0; i < 4; i++) {
        int size;
        MPI_Type_size(found[i], &size);
        CHECK(size == sizes[i], "size %d of type %d", size, i);
        if (now) *known[i] = found[i];
        CHECK(found[i] == *known[i], "another type %d than at the beginning", i);
    }
}

static void begin_lasting(MPI_Comm comm)
{
    int lengths[2] = {1, 2};
    MPI_Aint at[2] = {0, 16};
    MPI_Datatype parts[2] = {MPI_INT, MPI_INT};
    MPI_Request sent;
    MPI_Info_create(&lasting.info);
    MPI_Op_create(larger, 1, &lasting.op);
    old_Errhandler_create(handle, &lasting.handler);
    MPI_Recv_init(&lasting.got, 1, MPI_INT, world_rank, 3, comm, &lasting.request);
    lasting.sent = 4711;
    MPI_Isend(&lasting.sent, 1, MPI_INT, world_rank, 4, comm, &sent);
    MPI_Mprobe(world_rank, 4, comm, &lasting.message, MPI_STATUS_IGNORE);
    MPI_Wait(&sent, MPI_STATUS_IGNORE);
    old_Type_hvector(2, 1, 12, MPI_INT, &lasting.old[0]), old_Type_hindexed(2, lengths, at, MPI_INT, &lasting.old[1]);
    old_Type_struct(2, lengths, at, parts, &lasting.old[2]);
    MPI_Type_dup(MPI_INT, &lasting.plain);
    predefined(1);
}

static void end_lasting(MPI_Comm comm)
{
    int size, all, mine = world_rank * 3;
    MPI_Mrecv(&lasting.got, 1, MPI_INT, &lasting.message, MPI_STATUS_IGNORE);
    CHECK(lasting.got == 4711, "the message that was matched at the beginning: %d", lasting.got);
    MPI_Allreduce(&mine, &all, 1, MPI_INT, lasting.op, comm);
    CHECK(all == 3 * (world_size - 1), "the operation: %d", all);
    MPI_Type_size(lasting.real, &size), MPI_Type_size(lasting.integer, &all);
    CHECK(size == 8 && all == 4, "sizes %d, %d", size, all);
    MPI_Type_size(lasting.complex, &size), MPI_Type_size(lasting.matched, &all);
    CHECK(size == 16 && all == 8, "sizes %d, %d", size, all);
    predefined(0);
    for (int i = 0; i < 3; i++) MPI_Type_free(&lasting.old[i]);
    MPI_Type_free(&lasting.plain);
    MPI_Request_free(&lasting.request);
    MPI_Errhandler_free(&lasting.handler), MPI_Op_free(&lasting.op), MPI_Info_free(&lasting.info);
}

static uint64_t memory(long round)
{
    static unsigned char *kept;
    static uint64_t expected;
    if (kept) {
        CHECK(hash_bytes(kept, 100000) == expected, "memory of MPI has changed");
        MPI_Free_mem(kept);
    }
    MPI_Alloc_mem(100000, lasting.info, &kept);
    fill(kept, 100000, (uint64_t)round);
    return expected = hash_bytes(kept, 100000);
}

static void facts(void)
{
    char text[MPI_MAX_LIBRARY_VERSION_STRING];
    int length, version, minor, flag, level;
    MPI_Get_library_version(text, &length);
    CHECK(length > 0 && text[0], "length %d", length);
    MPI_Get_processor_name(text, &length);
    CHECK(length == (int)strlen(text) && length > 0, "length %d", length);
    MPI_Get_version(&version, &minor);
    CHECK(version >= 3, "version %d", version);
    MPI_Initialized(&flag);
    CHECK(flag, "not initialised");
    MPI_Finalized(&flag);
    CHECK(!flag, "finalised");
    MPI_Query_thread(&level);
    MPI_Is_thread_main(&flag);
    CHECK(flag && level >= MPI_THREAD_SINGLE, "thread level %d", level);
    CHECK(MPI_Wtick() > 0 && MPI_Wtime() >= 0, "the clock");
    MPI_Pcontrol(1);
    MPI_Pcontrol(2, "more");
}

static uint64_t addresses(MPI_Datatype type)
{
    int array[10], two;
    MPI_Aint from, to, extent;
    MPI_Count size, lb, wide, elements;
    MPI_Status status;
    MPI_Get_address(&array[1], &from);
    MPI_Get_address(&array[4], &to);
    CHECK(MPI_Aint_diff(to, from) == 12 && MPI_Aint_add(from, 12) == to, "addresses");
    MPI_Type_size_x(type, &size);
    MPI_Type_get_extent_x(type, &lb, &wide);
    CHECK(size == 12 && lb == 0 && wide == 20, "size %lld, extent %lld", (long long)size, (long long)wide);
    MPI_Type_get_true_extent_x(type, &lb, &wide);
    CHECK(wide == 20, "true extent %lld", (long long)wide);
    for (int i = 0; i < 10; i++) array[i] = i;
    MPI_Sendrecv(array, 1, type, world_rank, 1, array + 5, 3, MPI_INT, world_rank, 1, MPI_COMM_WORLD, &status);
    MPI_Get_elements_x(&status, type, &elements);
    CHECK(elements == 3 && array[6] == 2 && array[7] == 4, "received %d, %d", array[6], array[7]);
    MPI_Status_set_elements_x(&status, MPI_INT, 5);
    MPI_Get_count(&status, MPI_INT, &two);
    CHECK(two == 5, "count %d", two);
    MPI_Status_set_elements(&status, lasting.plain, 6);
    MPI_Get_count(&status, lasting.plain, &two);
    CHECK(two == 6, "count %d", two);
    MPI_Status_set_elements_x(&status, lasting.plain, 9);
    MPI_Get_count(&status, lasting.plain, &two);
    CHECK(two == 9, "count %d", two);
    MPI_Type_get_extent(type, &from, &extent);
    return (uint64_t)extent;
}

static uint64_t graphs(MPI_Comm comm, MPI_Comm graph, MPI_Comm spread)
{
    int nodes, edges, index[16], to[32], place, dims[1] = {world_size}, periods[1] = {1}, in, out, weighted;
    MPI_Graphdims_get(graph, &nodes, &edges);
    CHECK(nodes == world_size && edges == 2 * world_size, "%d nodes, %d edges", nodes, edges);
    MPI_Graph_get(graph, nodes, edges, index, to);
    CHECK(index[nodes - 1] == edges && to[1] == 1 % world_size, "the graph");
    MPI_Graph_map(comm, nodes, index, to, &place);
    CHECK(place >= 0 && place < world_size, "place %d", place);
    MPI_Cart_map(comm, 1, dims, periods, &place);
    CHECK(place >= 0 && place < world_size, "place %d", place);
    MPI_Dist_graph_neighbors_count(spread, &in, &out, &weighted);
    CHECK(in == (world_rank ? 1 : 0) && out == (world_rank ? 0 : world_size - 1) && !weighted, "%d in, %d out", in, out);
    int value = world_rank * 7 + 3, got[16] = {-1};
    MPI_Neighbor_allgather(&value, 1, MPI_INT, got, 1, MPI_INT, spread);
    CHECK(world_rank == 0 || got[0] == 3, "the root said %d", got[0]);
    return (uint64_t)edges;
}

static void hints(MPI_Comm comm)
{
    MPI_Info info, used;
    char text[32];
    int flag, count;
    MPI_Comm_get_info(comm, &info);
    MPI_Info_get_nkeys(info, &count);
    CHECK(count >= 0, "%d hints", count);
    MPI_Info_free(&info);
    MPI_Info_create(&info);
    MPI_Info_set(info, "mpi_assert_no_any_tag", "false");
    MPI_Comm_set_info(comm, info);
    MPI_Info_free(&info);
    MPI_Comm_get_info(comm, &used);
    MPI_Info_get(used, "mpi_assert_no_any_tag", 31, text, &flag);
    CHECK(!flag || strcmp(text, "false") == 0, "hint %s", text);
    MPI_Info_free(&used);
}

static uint64_t duplicates(MPI_Comm comm)
{
    MPI_Comm one;
    MPI_Request request;
    int sum, index, flag;
    MPI_Comm_idup(comm, &one, &request);
    do MPI_Testany(1, &request, &index, &flag, MPI_STATUS_IGNORE);
    while (!flag);
    MPI_Allreduce(&world_rank, &sum, 1, MPI_INT, MPI_SUM, one);
    MPI_Comm_free(&one);
    return (uint64_t)sum;
}

static void fortran(MPI_Comm comm, MPI_Datatype type, MPI_Group group)
{
    MPI_Status status, back;
    MPI_Fint plain[16];
    int byte = 5, in = 0;
    CHECK(MPI_Comm_f2c(MPI_Comm_c2f(comm)) == comm && MPI_Comm_f2c(MPI_Comm_c2f(MPI_COMM_WORLD)) == MPI_COMM_WORLD, "communicators");
    CHECK(MPI_Type_f2c(MPI_Type_c2f(type)) == type && MPI_Type_f2c(MPI_Type_c2f(MPI_DOUBLE)) == MPI_DOUBLE, "datatypes");
    CHECK(MPI_Group_f2c(MPI_Group_c2f(group)) == group, "groups");
    CHECK(MPI_Op_f2c(MPI_Op_c2f(MPI_MAX)) == MPI_MAX && MPI_Op_f2c(MPI_Op_c2f(lasting.op)) == lasting.op, "operations");
    CHECK(MPI_Errhandler_f2c(MPI_Errhandler_c2f(MPI_ERRORS_RETURN)) == MPI_ERRORS_RETURN, "error handlers");
    CHECK(MPI_Errhandler_f2c(MPI_Errhandler_c2f(lasting.handler)) == lasting.handler, "error handlers");
    CHECK(MPI_Message_f2c(MPI_Message_c2f(MPI_MESSAGE_NULL)) == MPI_MESSAGE_NULL, "messages");
    CHECK(MPI_Message_f2c(MPI_Message_c2f(lasting.message)) == lasting.message, "messages");
    CHECK(MPI_Info_f2c(MPI_Info_c2f(lasting.info)) == lasting.info, "info");
    CHECK(MPI_Request_f2c(MPI_Request_c2f(lasting.request)) == lasting.request, "requests");
#if defined MPICH_VERSION && MPICH_NUMVERSION >= 40300000
    THROUGH_FORTRAN(Comm, MPI_Comm, comm);
    THROUGH_FORTRAN(Type, MPI_Datatype, type);
    THROUGH_FORTRAN(Group, MPI_Group, group);
    THROUGH_FORTRAN(Op, MPI_Op, lasting.op);
    THROUGH_FORTRAN(Errhandler, MPI_Errhandler, lasting.handler);
    THROUGH_FORTRAN(Message, MPI_Message, lasting.message);
    THROUGH_FORTRAN(Info, MPI_Info, lasting.info);
    THROUGH_FORTRAN(Request, MPI_Request, lasting.request);
#endif
    MPI_Start(&lasting.request);
    MPI_Send(&byte, 1, MPI_INT, world_rank, 3, comm);
    MPI_Wait(&lasting.request, &status);
    in = lasting.got;
    MPI_Status_c2f(&status, plain);
    MPI_Status_f2c(plain, &back);
    CHECK(back.MPI_SOURCE == world_rank && back.MPI_TAG == 3 && in == 5, "status");
}

static uint64_t contents(MPI_Datatype type)
{
    int integers, addresses, types, combiner, values[8];
    MPI_Aint places[8];
    MPI_Datatype parts[8];
    MPI_Type_get_envelope(type, &integers, &addresses, &types, &combiner);
    CHECK(combiner == MPI_COMBINER_VECTOR && integers == 3 && addresses == 0 && types == 1, "combiner %d", combiner);
    MPI_Type_get_contents(type, integers, addresses, types, values, places, parts);
    CHECK(values[0] == 3 && values[1] == 1 && values[2] == 2 && parts[0] == MPI_INT, "contents");
    return (uint64_t)integers;
}

static uint64_t removed(MPI_Comm comm, int key, MPI_Datatype type, long round)
{
    static int young = MPI_KEYVAL_INVALID, marks[2];
    void *got;
    int flag, lengths[2] = {1, 2};
    if (young != MPI_KEYVAL_INVALID) {
        old_Attr_get(comm, young, &got, &flag);
        CHECK(flag && got == &marks[(round - 1) % 2], "round %ld: the attribute of the last one", round);
        old_Attr_delete(comm, young);
        old_Keyval_free(&young);
        CHECK(young == MPI_KEYVAL_INVALID, "a freed key");
    }
    old_Keyval_create(MPI_COMM_NULL_COPY_FN, MPI_COMM_NULL_DELETE_FN, &young, NULL);
    old_Attr_put(comm, young, &marks[round % 2]);
    MPI_Aint at[2] = {0, 16}, extent = 0, bound = -1;
    old_Attr_get(comm, key, &got, &flag);
    CHECK(flag && got == &handled, "the attribute");
    MPI_Datatype made[3], parts[2] = {MPI_INT, MPI_INT};
    MPI_Errhandler old, now;
    old_Address(&handled, &bound);
    old_Type_extent(type, &extent);
    old_Type_hvector(2, 1, 12, MPI_INT, &made[0]), old_Type_hindexed(2, lengths, at, MPI_INT, &made[1]);
    old_Type_struct(2, lengths, at, parts, &made[2]);
    old_Errhandler_get(comm, &old), old_Errhandler_set(comm, lasting.handler);
    CHECK(bound == (MPI_Aint)&handled && extent == 20, "extent %ld", (long)extent);
    int before = handled, byte = 0;
    MPI_Send(&byte, 1, MPI_INT, 99, 0, comm);
    CHECK(handled == before + 1, "the handler was not called");
    MPI_Comm_get_errhandler(comm, &now);
    CHECK(now == lasting.handler, "another handler");
    MPI_Comm_set_errhandler(comm, old);
    MPI_Errhandler_free(&now), MPI_Errhandler_free(&old);
    static const MPI_Aint ends[3] = {16, 24, 24};
    for (int i = 0; i < 3; i++) {
        old_Type_ub(made[i], &bound), old_Type_lb(made[i], &extent);
        CHECK(bound == ends[i] && extent == 0, "type %d ends at %ld", i, (long)bound);
        MPI_Type_free(&made[i]);
        old_Type_ub(lasting.old[i], &bound), old_Type_lb(lasting.old[i], &extent);
        CHECK(bound == ends[i] && extent == 0, "lasting type %d ends at %ld", i, (long)bound);
    }
    return (uint64_t)bound;
}

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 100), pause = option(argc, argv, "--pause", 50);
    CHECK(world_size >= 2 && world_size <= 16, "needs 2 to 16 ranks");
    MPI_Comm comm, graph, spread;
    MPI_Datatype type;
    MPI_Group group, all;
    int key, type_key, index[16], edges[32], zero[1] = {0}, degree[1] = {world_size - 1}, others[16];
    MPI_Comm_dup(MPI_COMM_WORLD, &comm);
    MPI_Type_vector(3, 1, 2, MPI_INT, &type);
    MPI_Type_commit(&type);
    old_Keyval_create(MPI_COMM_NULL_COPY_FN, MPI_COMM_NULL_DELETE_FN, &key, NULL);
    old_Attr_put(comm, key, &handled);
    MPI_Type_create_keyval(MPI_TYPE_DUP_FN, MPI_TYPE_NULL_DELETE_FN, &type_key, NULL);
    for (int i = 0; i < world_size; i++) {
        index[i] = 2 * (i + 1), edges[2 * i] = (i + world_size - 1) % world_size, edges[2 * i + 1] = (i + 1) % world_size;
        others[i] = i + 1;
    }
    MPI_Graph_create(comm, world_size, index, edges, 0, &graph);
    MPI_Dist_graph_create(comm, world_rank == 0, zero, degree, others, MPI_UNWEIGHTED, MPI_INFO_NULL, 0, &spread);
    MPI_Comm_group(comm, &all);
    MPI_Group_excl(all, 1, zero, &group);
    begin_lasting(comm);
    uint64_t hash = 0;
    for (long round = 0; round < rounds; round++) {
        int count, flag;
        void *got;
        hash = fold(hash, memory(round));
        facts();
        hash = fold(hash, addresses(type));
        hash = fold(hash, graphs(comm, graph, spread));
        hints(comm);
        hash = fold(hash, duplicates(comm));
        fortran(comm, type, group);
        hash = fold(hash, contents(type));
        hash = fold(hash, removed(comm, key, type, round));
        MPI_Group_size(group, &count);
        CHECK(count == world_size - 1, "%d in the group", count);
        MPI_Type_set_attr(type, type_key, &hash);
        MPI_Type_get_attr(type, type_key, &got, &flag);
        CHECK(flag && got == &hash, "the attribute of the type");
        MPI_Type_delete_attr(type, type_key);
        MPI_Type_get_attr(type, type_key, &got, &flag);
        CHECK(!flag, "the attribute of the type is still there");
        pause_ms(pause);
    }
    end_lasting(comm);
    old_Attr_delete(comm, key);
    old_Keyval_free(&key);
    MPI_Type_free_keyval(&type_key);
    MPI_Group_free(&group), MPI_Group_free(&all);
    MPI_Type_free(&type);
    MPI_Comm_free(&spread), MPI_Comm_free(&graph), MPI_Comm_free(&comm);
    return finish(hash);
}
