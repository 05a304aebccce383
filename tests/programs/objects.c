/* Communicators, groups, topologies, attributes, info, error handlers and names: made once, used and asked in every
 * round, so that a checkpoint or a restart between two rounds must keep all they are.
 *   objects [--rounds N] [--pause MS] */
#include "common.h"

static int copies, deletes, handled, handled_class, key, type_key;

static int copy_attribute(MPI_Comm comm, int keyval, void *extra, void *in, void *out, int *flag)
{
    (void)comm, (void)keyval;
    CHECK(extra == (void *)&copies, "the extra state changed");
    *(void **)out = (char *)in + 1;
    *flag = 1;
    copies++;
    return MPI_SUCCESS;
}

static int delete_attribute(MPI_Comm comm, int keyval, void *value, void *extra)
{
    (void)comm, (void)keyval, (void)value;
    CHECK(extra == (void *)&copies, "the extra state changed");
    deletes++;
    return MPI_SUCCESS;
}

/* Of MPI_COMM_SELF first, then of MPI_COMM_WORLD, in MPI_Finalize. */
static int ended, end_key;

static int delete_at_end(MPI_Comm comm, int keyval, void *value, void *extra)
{
    (void)keyval, (void)value, (void)extra;
    ended = ended * 10 + (comm == MPI_COMM_SELF ? 1 : comm == MPI_COMM_WORLD ? 2 : 3);
    return MPI_SUCCESS;
}

static void handle(MPI_Comm *comm, int *code, ...)
{
    (void)comm;
    handled++;
    MPI_Error_class(*code, &handled_class);
}

static char value[16];

static uint64_t ask_attributes(MPI_Comm marked, MPI_Comm copied, MPI_Datatype type)
{
    void *got;
    int flag, *bound;
    MPI_Comm_get_attr(marked, key, &got, &flag);
    CHECK(flag && got == (void *)value, "the attribute of the communicator");
    MPI_Comm_get_attr(copied, key, &got, &flag);
    CHECK(flag && got == (void *)(value + 1), "the attribute of its duplicate");
    MPI_Type_get_attr(type, type_key, &got, &flag);
    CHECK(flag && got == (void *)(value + 5), "the attribute of the datatype");
    MPI_Type_get_attr(MPI_DOUBLE, type_key, &got, &flag);
    CHECK(flag && got == (void *)(value + 6), "the attribute of a predefined datatype");
    MPI_Type_get_attr(MPI_CHAR, type_key, &got, &flag);
    CHECK(!flag, "an attribute of another predefined datatype");
    MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &bound, &flag);
    CHECK(flag && *bound >= 32767, "MPI_TAG_UB");
    static int *first;
    if (!first) first = bound;
    CHECK(first == bound, "the pointer to MPI_TAG_UB moved");
    int again_copies = copies, again_deletes = deletes;
    MPI_Comm third;
    MPI_Comm_dup(copied, &third);
    CHECK(copies == again_copies + 1, "the copy callback did not run");
    MPI_Comm_delete_attr(third, key);
    CHECK(deletes == again_deletes + 1, "the delete callback did not run");
    MPI_Comm_free(&third);
    CHECK(deletes == again_deletes + 1, "the delete callback ran again");
    return (uint64_t)copies;
}

static uint64_t ask_names(MPI_Comm marked, MPI_Datatype type)
{
    char name[MPI_MAX_OBJECT_NAME];
    int length;
    MPI_Comm_get_name(marked, name, &length);
    CHECK(strcmp(name, "the marked one") == 0, "name %s", name);
    MPI_Type_get_name(type, name, &length);
    CHECK(strcmp(name, "three doubles") == 0, "name %s", name);
    MPI_Comm_get_name(MPI_COMM_WORLD, name, &length);
    CHECK(strcmp(name, "MPI_COMM_WORLD") == 0, "name %s", name);
    MPI_Type_get_name(MPI_INT, name, &length);
    CHECK(strcmp(name, "MPI_INT") == 0, "name %s", name);
    MPI_Type_get_name(MPI_FLOAT, name, &length);
    CHECK(strcmp(name, "another name") == 0, "name %s", name);
    return (uint64_t)length;
}

/* The values and keys of one info object change in every round. */
static void change_info(MPI_Info changing, long round)
{
    char text[64], expected[64];
    int flag, count;
    if (round > 0) {
        snprintf(expected, sizeof expected, "of round %ld", round - 1);
        MPI_Info_get(changing, "last", 63, text, &flag);
        CHECK(flag && strcmp(text, expected) == 0, "value %s", text);
        MPI_Info_delete(changing, round % 2 ? "even" : "odd");
#if MPI_VERSION >= 4 || (defined OPEN_MPI && OMPI_MAJOR_VERSION >= 5)
        int room = sizeof text;
        MPI_Info_get_string(changing, "last", &room, text, &flag);
        CHECK(flag && strcmp(text, expected) == 0 && room == (int)strlen(text) + 1, "value %s", text);
#endif
    }
    snprintf(text, sizeof text, "of round %ld", round);
    MPI_Info_set(changing, "last", text);
    MPI_Info_set(changing, round % 2 ? "odd" : "even", "set");
    MPI_Info_get_nkeys(changing, &count);
    CHECK(count == 2, "%d keys", count);
}

static uint64_t ask_info(MPI_Info info)
{
    char text[64], name[MPI_MAX_INFO_KEY + 1];
    int count, flag, length;
    MPI_Info other;
    MPI_Info_get_nkeys(info, &count);
    CHECK(count == 2, "%d keys", count);
    MPI_Info_get_nthkey(info, 1, name);
    CHECK(strcmp(name, "second") == 0, "key %s", name);
    MPI_Info_get(info, "first", 63, text, &flag);
    CHECK(flag && strcmp(text, "a value with spaces") == 0, "value %s", text);
    MPI_Info_get_valuelen(info, "second", &length, &flag);
    CHECK(flag && length == 3, "length %d", length);
    MPI_Info_dup(info, &other);
    MPI_Info_delete(other, "first");
    MPI_Info_get_nkeys(other, &count);
    CHECK(count == 1, "%d keys", count);
    MPI_Info_free(&other);
    return 2;
}

static uint64_t ask_errors(MPI_Comm lenient, MPI_Comm returning)
{
    int before = handled, byte = 0, code;
    char text[MPI_MAX_ERROR_STRING];
    int length;
    MPI_Send(&byte, 1, MPI_INT, world_size + 5, 0, lenient);
    CHECK(handled == before + 1 && handled_class == MPI_ERR_RANK, "class %d, called %d times", handled_class, handled - before);
    code = MPI_Send(&byte, -1, MPI_INT, 0, 0, returning);
    CHECK(code != MPI_SUCCESS, "a negative count was taken");
    MPI_Error_class(code, &code);
    CHECK(code == MPI_ERR_COUNT, "class %d", code);
    MPI_Error_string(MPI_ERR_TRUNCATE, text, &length);
    CHECK(length > 0, "no text");
    return (uint64_t)handled;
}

/* Classes and codes of the program: a class in every tenth round, a code of the latest class in every one. */
static void ask_own_errors(long round)
{
    enum { MOST = 1024 };
    static int class, classes[MOST], codes[MOST];
    char text[MPI_MAX_ERROR_STRING], expected[64];
    int at = (int)(round % MOST), found, length;
    if (round % 10 == 0) MPI_Add_error_class(&class);
    MPI_Add_error_code(class, &codes[at]);
    classes[at] = class;
    snprintf(expected, sizeof expected, "error %ld of this program", round);
    MPI_Add_error_string(codes[at], expected);
    for (int back = 0; back <= (round < 20 ? round : 20); back++) {
        int i = (int)((round - back) % MOST);
        MPI_Error_class(codes[i], &found);
        CHECK(found == classes[i], "class %d, not %d", found, classes[i]);
        MPI_Error_string(codes[i], text, &length);
        snprintf(expected, sizeof expected, "error %ld of this program", round - back);
        CHECK(strcmp(text, expected) == 0, "text %s", text);
    }
}

/* A key, an attribute and names of a datatype and a communicator: made in one round, asked in the next. */
static void ask_young(MPI_Comm comm, MPI_Datatype type, long round)
{
    static int young = MPI_KEYVAL_INVALID;
    char name[MPI_MAX_OBJECT_NAME], expected[64];
    int flag, length;
    void *got;
    if (young != MPI_KEYVAL_INVALID) {
        MPI_Type_get_attr(type, young, &got, &flag);
        CHECK(flag && got == (void *)(value + (round - 1) % 16), "round %ld: an attribute of the last one", round);
        MPI_Type_delete_attr(type, young);
        MPI_Type_free_keyval(&young);
        CHECK(young == MPI_KEYVAL_INVALID, "a freed key");
        snprintf(expected, sizeof expected, "of round %ld", round - 1);
        MPI_Comm_get_name(comm, name, &length);
        CHECK(strcmp(name, expected) == 0 && length == (int)strlen(expected), "name %s", name);
        MPI_Type_get_name(type, name, &length);
        CHECK(strcmp(name, expected) == 0 && length == (int)strlen(expected), "name %s", name);
    }
    MPI_Type_create_keyval(MPI_TYPE_NULL_COPY_FN, MPI_TYPE_NULL_DELETE_FN, &young, NULL);
    MPI_Type_set_attr(type, young, value + round % 16);
    snprintf(expected, sizeof expected, "of round %ld", round);
    MPI_Comm_set_name(comm, expected);
    MPI_Type_set_name(type, expected);
}

/* A message longer than its receive is an error; both sides go on. */
static uint64_t truncate_one(MPI_Comm returning, int rank, int size)
{
    int out[4] = {1, 2, 3, 4}, in[2] = {0, 0}, class;
    MPI_Request request;
    MPI_Status status;
    MPI_Isend(out, 4, MPI_INT, (rank + 1) % size, 3, returning, &request);
    int code = MPI_Recv(in, 2, MPI_INT, (rank + size - 1) % size, 3, returning, &status);
    MPI_Error_class(code, &class);
    CHECK(class == MPI_ERR_TRUNCATE, "class %d", class);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    return (uint64_t)class != 0;
}

static uint64_t ask_topologies(MPI_Comm grid, MPI_Comm row, MPI_Comm graph, MPI_Comm adjacent, const int *extents)
{
    int dims[2], periods[2], place[2], rank, left, right, kind, count, degree, weighted;
    uint64_t hash = 0;
    MPI_Topo_test(grid, &kind);
    CHECK(kind == MPI_CART, "topology %d", kind);
    MPI_Cart_get(grid, 2, dims, periods, place);
    CHECK(dims[0] == extents[0] && dims[1] == extents[1] && periods[0] && !periods[1], "grid %d x %d", dims[0], dims[1]);
    MPI_Cart_rank(grid, place, &rank);
    MPI_Comm_rank(grid, &kind);
    CHECK(kind == rank, "rank %d at the place of %d", kind, rank);
    int there[2];
    MPI_Cart_coords(grid, rank, 2, there);
    CHECK(there[0] == place[0] && there[1] == place[1], "rank %d at %d, %d", rank, there[0], there[1]);
    for (int axis = 0; axis < 2; axis++) {
        MPI_Cart_shift(grid, axis, 1, &left, &right);
        int out = rank * 10 + axis, in = -1;
        MPI_Sendrecv(&out, 1, MPI_INT, right, axis, &in, 1, MPI_INT, left, axis, grid, MPI_STATUS_IGNORE);
        CHECK(in == (left == MPI_PROC_NULL ? -1 : left * 10 + axis), "neighbour %d said %d", left, in);
        hash = fold(hash, (uint64_t)(in + 1));
    }
    MPI_Cartdim_get(row, &count);
    MPI_Comm_size(row, &rank);
    CHECK(count == 1 && rank == extents[1], "row of %d", rank);
    int sum;
    MPI_Allreduce(&place[1], &sum, 1, MPI_INT, MPI_SUM, row);
    CHECK(sum == extents[1] * (extents[1] - 1) / 2, "sum %d", sum);

    MPI_Topo_test(graph, &kind);
    CHECK(kind == MPI_GRAPH, "topology %d", kind);
    MPI_Graph_neighbors_count(graph, world_rank, &count);
    int near[2], got[2] = {-1, -1};
    CHECK(count == 2, "%d neighbours", count);
    MPI_Graph_neighbors(graph, world_rank, 2, near);
    MPI_Neighbor_allgather(&world_rank, 1, MPI_INT, got, 1, MPI_INT, graph);
    CHECK(got[0] == near[0] && got[1] == near[1], "neighbours said %d, %d", got[0], got[1]);

    MPI_Topo_test(adjacent, &kind);
    CHECK(kind == MPI_DIST_GRAPH, "topology %d", kind);
    MPI_Dist_graph_neighbors_count(adjacent, &count, &degree, &weighted);
    CHECK(count == 1 && degree == 1 && weighted, "%d in, %d out, weighted %d", count, degree, weighted);
    int source, weight_in, target, weight_out;
    MPI_Dist_graph_neighbors(adjacent, 1, &source, &weight_in, 1, &target, &weight_out);
    CHECK(weight_out == world_rank + 1 && weight_in == source + 1, "weights %d, %d", weight_in, weight_out);
    MPI_Request request;
    int out[1] = {world_rank * 3}, in[1] = {-1};
    MPI_Ineighbor_alltoall(out, 1, MPI_INT, in, 1, MPI_INT, adjacent, &request);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    CHECK(in[0] == source * 3, "the neighbour said %d", in[0]);
    return hash;
}

static uint64_t ask_groups(MPI_Comm marked, MPI_Group all, MPI_Group odd)
{
    int size, rank, relation, members[1] = {0}, translated[1];
    MPI_Group joined, rest, common;
    MPI_Group_size(odd, &size);
    CHECK(size == world_size / 2, "%d odd ranks", size);
    MPI_Group_rank(odd, &rank);
    CHECK(rank == (world_rank % 2 ? world_rank / 2 : MPI_UNDEFINED), "rank %d", rank);
    MPI_Group_translate_ranks(odd, 1, members, all, translated);
    CHECK(translated[0] == 1, "translated to %d", translated[0]);
    MPI_Group_difference(all, odd, &rest);
    MPI_Group_union(odd, rest, &joined);
    MPI_Group_intersection(joined, odd, &common);
    MPI_Group_compare(common, odd, &relation);
    CHECK(relation == MPI_IDENT, "relation %d", relation);
    MPI_Group_compare(joined, all, &relation);
    CHECK(relation == (world_size > 1 ? MPI_SIMILAR : MPI_IDENT), "relation %d", relation);
    MPI_Group_free(&rest), MPI_Group_free(&joined), MPI_Group_free(&common);
    MPI_Comm_compare(marked, MPI_COMM_WORLD, &relation);
    CHECK(relation == MPI_CONGRUENT, "relation %d", relation);
    return (uint64_t)size;
}

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 150), pause = option(argc, argv, "--pause", 30);
    CHECK(world_size >= 2, "needs 2 ranks");
    uint64_t hash = 0;

    MPI_Comm marked, copied, lenient, returning, grid, row, graph, adjacent, shared;
    MPI_Datatype type, young;
    MPI_Info info, changing;
    MPI_Errhandler handler;
    MPI_Group all, odd;
    MPI_Comm_dup(MPI_COMM_WORLD, &marked);
    MPI_Comm_set_name(marked, "the marked one");
    MPI_Comm_create_keyval(copy_attribute, delete_attribute, &key, &copies);
    MPI_Comm_set_attr(marked, key, value);
    MPI_Comm_dup(marked, &copied);
    MPI_Type_contiguous(3, MPI_DOUBLE, &type);
    MPI_Type_set_name(type, "three doubles");
    MPI_Type_create_keyval(MPI_TYPE_NULL_COPY_FN, MPI_TYPE_NULL_DELETE_FN, &type_key, NULL);
    MPI_Type_set_attr(type, type_key, value + 5);
    MPI_Type_commit(&type);
    MPI_Type_dup(MPI_INT, &young);
    MPI_Type_set_attr(MPI_DOUBLE, type_key, value + 6);
    MPI_Type_set_name(MPI_FLOAT, "another name");
    MPI_Comm_create_keyval(MPI_COMM_NULL_COPY_FN, delete_at_end, &end_key, NULL);
    MPI_Comm_set_attr(MPI_COMM_WORLD, end_key, value);
    MPI_Comm_set_attr(MPI_COMM_SELF, end_key, value);
    MPI_Info_create(&info);
    MPI_Info_set(info, "first", "a value with spaces");
    MPI_Info_set(info, "second", "two");
    MPI_Info_create(&changing);
    MPI_Comm_dup(MPI_COMM_WORLD, &lenient);
    MPI_Comm_create_errhandler(handle, &handler);
    MPI_Comm_set_errhandler(lenient, handler);
    MPI_Comm_dup_with_info(MPI_COMM_WORLD, info, &returning);
    MPI_Comm_set_errhandler(returning, MPI_ERRORS_RETURN);
    int extents[2] = {0, 0}, periods[2] = {1, 0}, keep[2] = {0, 1};
    MPI_Dims_create(world_size, 2, extents);
    MPI_Cart_create(MPI_COMM_WORLD, 2, extents, periods, 1, &grid);
    MPI_Cart_sub(grid, keep, &row);
    int *index = malloc((size_t)world_size * sizeof *index), *edges = malloc(2 * (size_t)world_size * sizeof *edges);
    for (int i = 0; i < world_size; i++) {
        index[i] = 2 * (i + 1);
        edges[2 * i] = (i + world_size - 1) % world_size, edges[2 * i + 1] = (i + 1) % world_size;
    }
    MPI_Graph_create(MPI_COMM_WORLD, world_size, index, edges, 0, &graph);
    free(index), free(edges);
    int source = (world_rank + world_size - 1) % world_size, target = (world_rank + 1) % world_size;
    int weight_in = source + 1, weight_out = world_rank + 1;
    MPI_Dist_graph_create_adjacent(MPI_COMM_WORLD, 1, &source, &weight_in, 1, &target, &weight_out, MPI_INFO_NULL, 0, &adjacent);
    MPI_Comm_group(MPI_COMM_WORLD, &all);
    int range[1][3] = {{1, world_size % 2 ? world_size - 2 : world_size - 1, 2}};
    MPI_Group_range_incl(all, 1, range, &odd);
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, world_rank, MPI_INFO_NULL, &shared);

    for (long round = 0; round < rounds; round++) {
        hash = fold(hash, ask_attributes(marked, copied, type));
        ask_names(marked, type); /* the length of a predefined name is the library's own */
        hash = fold(hash, ask_info(info));
        change_info(changing, round);
        hash = fold(hash, ask_errors(lenient, returning));
        ask_own_errors(round);
        ask_young(lenient, young, round);
        hash = fold(hash, truncate_one(returning, world_rank, world_size));
        hash = fold(hash, ask_topologies(grid, row, graph, adjacent, extents));
        hash = fold(hash, ask_groups(marked, all, odd));
        double out[3] = {world_rank, round, 0.5}, in[3];
        MPI_Sendrecv(out, 1, type, target, 9, in, 1, type, source, 9, copied, MPI_STATUS_IGNORE);
        CHECK(in[0] == source && in[1] == (double)round, "round %ld: other doubles", round);
        MPI_Barrier(shared);
        pause_ms(pause);
    }
    MPI_Comm_free(&copied), MPI_Comm_free(&marked), MPI_Comm_free(&lenient), MPI_Comm_free(&returning);
    MPI_Comm_free(&grid), MPI_Comm_free(&row), MPI_Comm_free(&graph), MPI_Comm_free(&adjacent), MPI_Comm_free(&shared);
    MPI_Type_delete_attr(MPI_DOUBLE, type_key);
    MPI_Comm_free_keyval(&end_key), MPI_Comm_free_keyval(&key), MPI_Type_free_keyval(&type_key), MPI_Type_free(&type), MPI_Type_free(&young), MPI_Info_free(&info), MPI_Info_free(&changing);
    MPI_Errhandler_free(&handler), MPI_Group_free(&all), MPI_Group_free(&odd);
    CHECK(deletes == copies + 1, "%d copies, %d deletions", copies, deletes);
    int code = finish(hash);
    int right = ended == 12;
#if defined OPEN_MPI && OMPI_MAJOR_VERSION >= 5 /* 5.0.11 leaves what MPI_COMM_WORLD has */
    right = right || ended == 1;
#endif
    if (!right) fprintf(stderr, "rank %d: deletions at the end: %d\n", world_rank, ended);
    return right ? code : 3;
}
