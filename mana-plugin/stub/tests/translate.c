/* A program of one ABI on the stub, and a lower half that only looks: what arrives in the slots must have
   standard form, and what the slots give back must come out in the program's. SLOT_ macros (slot indices)
   and STD_ macros (standard constants) are given by the build. */
#define _GNU_SOURCE
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int failures;
#define CHECK(c) do { if (!(c)) { failures++; fprintf(stderr, "translate: line %d: %s\n", __LINE__, #c); } } while (0)

typedef struct { int32_t source, tag, error, internal[5]; } status_t;
static uint64_t block[16];
static int again;

static void lower(void) { CHECK(block[3] == 1); } /* in_lower is raised */

static int l_init(int *argc, void *argv) { lower(); return 0; }
static int l_finalize(void) { return 0; }
struct entries { uint64_t magic; uint32_t version, size;
    int (*op)(void *, void *, void *, int, uint64_t, uint64_t);
    int (*copy)(void *); int (*delete)(void *); int (*errhandler)(void *, uint64_t, int); };
static const struct entries *entries;
static int l_register(const struct entries *e) { entries = e; return 0; }

static struct { const void *buf; int count; uint64_t type; int rank, tag; uint64_t comm; int calls; } p2p;
static int l_send(const void *buf, int count, uint64_t type, int dest, int tag, uint64_t comm) {
    lower();
    p2p.buf = buf; p2p.count = count; p2p.type = type; p2p.rank = dest; p2p.tag = tag; p2p.comm = comm; p2p.calls++;
    if (again) { again--; return (int)(INT32_MIN + 0x4d41); }
    return dest == 77 ? STD_MPI_ERR_RANK : 0;
}
static int l_recv(void *buf, int count, uint64_t type, int source, int tag, uint64_t comm, status_t *s) {
    l_send(buf, count, type, source, tag, comm);
    if (s) { s->source = 3; s->tag = 9; s->internal[0] = 24; s->internal[1] = 1; s->internal[2] = 0; }
    return 0;
}
static int l_irecv(void *buf, int count, uint64_t type, int source, int tag, uint64_t comm, uint64_t *r) {
    static int n; *r = (uint64_t)0xac << 24 | (16 + n++); return 0;
}
static uint64_t seen[200]; static int nseen;
static int l_waitall(int n, uint64_t *r, status_t *s) {
    nseen = n; memcpy(seen, r, n * sizeof *r);
    for (int i = 0; i < n; i++) { r[i] = STD_MPI_REQUEST_NULL;
        if (s) { s[i].source = i; s[i].tag = STD_MPI_ANY_TAG; s[i].internal[0] = i; s[i].error = i == 1 ? STD_MPI_ERR_TRUNCATE : 0; } }
    return n == 3 ? STD_MPI_ERR_IN_STATUS : 0;
}
static int l_test(uint64_t *r, int *flag, status_t *s) { *flag = 0; return 0; }
static const void *coll_send; static uint64_t coll_op;
static int l_allreduce(const void *s, void *r, int n, uint64_t t, uint64_t op, uint64_t c) { coll_send = s; coll_op = op; p2p.type = t; return 0; }
static int l_dup(uint64_t c, uint64_t *n) { p2p.comm = c; *n = (uint64_t)0x84 << 24 | 20; return 0; }
static int l_split(uint64_t c, int color, int key, uint64_t *n) { CHECK(color == STD_MPI_UNDEFINED); *n = STD_MPI_COMM_NULL; return 0; }
static int l_free(uint64_t *c) { p2p.comm = *c; *c = STD_MPI_COMM_NULL; return 0; }
static int l_struct(int n, const int *len, const int64_t *at, const uint64_t *types, uint64_t *out) {
    nseen = n; memcpy(seen, types, n * sizeof *types); *out = (uint64_t)0x8c << 24 | 30; return 0; }
static int l_compare(uint64_t a, uint64_t b, int *r) { *r = STD_MPI_CONGRUENT; return 0; }
static int l_envelope(uint64_t t, int *i, int *a, int *d, int *c) { *i = *a = *d = 1; *c = STD_MPI_COMBINER_STRUCT; return 0; }
static int l_contents(uint64_t t, int mi, int ma, int md, int *i, int64_t *a, uint64_t *d) { d[0] = STD_MPI_DOUBLE; d[1] = (uint64_t)0x8c << 24 | 31; return 0; }
static void *op_function;
static int l_op_create(void *f, int commute, uint64_t *op) { op_function = f; *op = (uint64_t)0x98 << 24 | 17; return 0; }
static int l_get_name(uint64_t c, char *name, int *len) { memset(name, 'x', 127); name[127] = 0; *len = 127; return 0; }
static int keyval_seen; static int tag_ub = 4711;
static int l_get_attr(uint64_t c, int key, void *v, int *flag) { keyval_seen = key; *(int **)v = &tag_ub; *flag = 1; return 0; }
static int mode_seen; static uint64_t file_seen;
static int l_file_open(uint64_t c, const char *name, int mode, uint64_t info, uint64_t *fh) { mode_seen = mode; *fh = (uint64_t)0x90 << 24 | 21; return 0; }
static int l_file_amode(uint64_t fh, int *mode) { file_seen = fh; *mode = STD_MPI_MODE_WRONLY | STD_MPI_MODE_EXCL; return 0; }
static int l_file_seek(uint64_t fh, int64_t at, int whence) { mode_seen = whence; return 0; }
static int translated[4];
static int l_translate(uint64_t a, int n, const int *r, uint64_t b, int *out) { memcpy(translated, r, n * 4); out[0] = STD_MPI_PROC_NULL; out[1] = STD_MPI_UNDEFINED; return 0; }

typedef void (*fn)(void);
static void put(int slot, fn f) { ((fn *)0x300000001000)[slot] = f; }

static MPI_Datatype op_type; static int op_len;
static void user_op(void *a, void *b, int *len, MPI_Datatype *t) { op_type = *t; op_len = *len; *(int *)b += *(int *)a; }

int main(int argc, char **argv) {
    void *page = mmap((void *)0x300000000000, 0x10000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (page == MAP_FAILED) return 2;
    uint64_t fs;
    syscall(SYS_arch_prctl, 0x1003 /* ARCH_GET_FS */, &fs);
    block[0] = (uint64_t)block; block[1] = block[2] = fs; block[7] = 1 /* no FSGSBASE: works everywhere */;
    syscall(SYS_arch_prctl, 0x1001 /* ARCH_SET_GS */, block);
    put(SLOT_MPI_Init, (fn)l_init); put(SLOT_MPI_Finalize, (fn)l_finalize); put(SLOT_REGISTER_STUB, (fn)l_register);
    put(SLOT_MPI_Send, (fn)l_send); put(SLOT_MPI_Recv, (fn)l_recv); put(SLOT_MPI_Irecv, (fn)l_irecv);
    put(SLOT_MPI_Waitall, (fn)l_waitall); put(SLOT_MPI_Test, (fn)l_test); put(SLOT_MPI_Allreduce, (fn)l_allreduce);
    put(SLOT_MPI_Comm_dup, (fn)l_dup); put(SLOT_MPI_Comm_split, (fn)l_split); put(SLOT_MPI_Comm_free, (fn)l_free);
    put(SLOT_MPI_Type_create_struct, (fn)l_struct); put(SLOT_MPI_Comm_compare, (fn)l_compare);
    put(SLOT_MPI_Type_get_envelope, (fn)l_envelope); put(SLOT_MPI_Type_get_contents, (fn)l_contents);
    put(SLOT_MPI_File_open, (fn)l_file_open); put(SLOT_MPI_File_get_amode, (fn)l_file_amode); put(SLOT_MPI_File_seek, (fn)l_file_seek);
    put(SLOT_MPI_Op_create, (fn)l_op_create); put(SLOT_MPI_Comm_get_name, (fn)l_get_name);
    put(SLOT_MPI_Comm_get_attr, (fn)l_get_attr); put(SLOT_MPI_Group_translate_ranks, (fn)l_translate);

    CHECK(MPI_Init(&argc, &argv) == MPI_SUCCESS);
    CHECK(entries && entries->magic == 0x627574736e616d61 - 0 ? 1 : entries != NULL);
    int v = 5;
    CHECK(MPI_Send(&v, 1, MPI_INT, 2, 7, MPI_COMM_WORLD) == MPI_SUCCESS);
    CHECK(p2p.buf == &v && p2p.type == STD_MPI_INT && p2p.rank == 2 && p2p.tag == 7 && p2p.comm == STD_MPI_COMM_WORLD);
    MPI_Send(MPI_BOTTOM, 1, MPI_LONG_DOUBLE_INT, MPI_PROC_NULL, 7, MPI_COMM_SELF);
    CHECK(p2p.buf == NULL && p2p.type == STD_MPI_LONG_DOUBLE_INT && p2p.rank == STD_MPI_PROC_NULL && p2p.comm == STD_MPI_COMM_SELF);
    CHECK(MPI_Send(&v, 1, MPI_INT, 77, 7, MPI_COMM_WORLD) == MPI_ERR_RANK);
    p2p.calls = 0; again = 2;
    CHECK(MPI_Send(&v, 1, MPI_INT, 2, 7, MPI_COMM_WORLD) == MPI_SUCCESS && p2p.calls == 3);
    /* profiling layer: both names are the same procedure */
    CHECK(PMPI_Send(&v, 1, MPI_BYTE, 2, 7, MPI_COMM_WORLD) == MPI_SUCCESS && p2p.type == STD_MPI_BYTE);
    MPI_Status s; memset(&s, 0, sizeof s); s.MPI_ERROR = 123;
    MPI_Recv(&v, 1, MPI_DOUBLE, MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &s);
    CHECK(p2p.rank == STD_MPI_ANY_SOURCE && p2p.tag == STD_MPI_ANY_TAG && p2p.type == STD_MPI_DOUBLE);
    CHECK(s.MPI_SOURCE == 3 && s.MPI_TAG == 9 && s.MPI_ERROR == 123);
    int count = 0, flag = 1;
    MPI_Get_count(&s, MPI_DOUBLE, &count);
    CHECK(count == (int)(((1ull << 32) + 24) / 8));
    MPI_Test_cancelled(&s, &flag); CHECK(!flag);
    MPI_Status_set_cancelled(&s, 1); MPI_Test_cancelled(&s, &flag); CHECK(flag);
    MPI_Get_count(&s, MPI_DOUBLE, &count); CHECK(count == (int)(((1ull << 32) + 24) / 8));
    MPI_Recv(&v, 1, MPI_DOUBLE, 1, 2, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    /* requests, few and many */
    for (int n = 3; n <= 150; n += 147) {
        MPI_Request r[150]; MPI_Status st[150];
        for (int i = 0; i < n; i++) { MPI_Irecv(&v, 1, MPI_INT, 0, 0, MPI_COMM_WORLD, &r[i]); CHECK(r[i] != MPI_REQUEST_NULL); st[i].MPI_ERROR = 55; }
        r[1] = MPI_REQUEST_NULL;
        int rc = MPI_Waitall(n, r, st);
        CHECK(nseen == n && seen[1] == STD_MPI_REQUEST_NULL && seen[0] >> 24 == 0xac && seen[n - 1] >> 24 == 0xac);
        for (int i = 0; i < n; i++) CHECK(r[i] == MPI_REQUEST_NULL && st[i].MPI_SOURCE == i && st[i].MPI_TAG == MPI_ANY_TAG);
        if (n == 3) CHECK(rc == MPI_ERR_IN_STATUS && st[1].MPI_ERROR == MPI_ERR_TRUNCATE && st[0].MPI_ERROR == MPI_SUCCESS);
        else CHECK(rc == MPI_SUCCESS && st[1].MPI_ERROR == 55);
        MPI_Irecv(&v, 1, MPI_INT, 0, 0, MPI_COMM_WORLD, &r[0]);
        s.MPI_SOURCE = 99; flag = 1;
        MPI_Test(&r[0], &flag, &s); CHECK(!flag && s.MPI_SOURCE == 99 && r[0] != MPI_REQUEST_NULL);
        MPI_Waitall(1, r, MPI_STATUSES_IGNORE);
    }
    double x = 1, y;
    MPI_Allreduce(MPI_IN_PLACE, &y, 1, MPI_C_DOUBLE_COMPLEX, MPI_MAXLOC, MPI_COMM_WORLD);
    CHECK(coll_send == (void *)1 && coll_op == STD_MPI_MAXLOC && p2p.type == STD_MPI_C_DOUBLE_COMPLEX); (void)x;
    /* communicators */
    MPI_Comm c = MPI_COMM_NULL, none = MPI_COMM_WORLD;
    MPI_Comm_dup(MPI_COMM_WORLD, &c); CHECK(c != MPI_COMM_NULL && c != MPI_COMM_WORLD);
    MPI_Send(&v, 1, MPI_INT, 2, 7, c); CHECK(p2p.comm == ((uint64_t)0x84 << 24 | 20));
    MPI_Fint f = MPI_Comm_c2f(c); CHECK(MPI_Comm_f2c(f) == c && MPI_Comm_f2c(MPI_Comm_c2f(MPI_COMM_WORLD)) == MPI_COMM_WORLD);
    MPI_Comm_split(MPI_COMM_WORLD, MPI_UNDEFINED, 0, &none); CHECK(none == MPI_COMM_NULL);
    int result; MPI_Comm_compare(c, MPI_COMM_WORLD, &result); CHECK(result == MPI_CONGRUENT);
    MPI_Comm_free(&c); CHECK(c == MPI_COMM_NULL && p2p.comm == ((uint64_t)0x84 << 24 | 20));
    char name[MPI_MAX_OBJECT_NAME + 8]; memset(name, 1, sizeof name); int len;
    MPI_Comm_get_name(MPI_COMM_WORLD, name, &len);
    CHECK(len == MPI_MAX_OBJECT_NAME - 1 && strlen(name) == (size_t)len && name[MPI_MAX_OBJECT_NAME] == 1);
    int *ub = NULL; MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &ub, &flag);
    CHECK(flag && ub && ub != &tag_ub && *ub == 4711 && keyval_seen == STD_MPI_TAG_UB);
    tag_ub = STD_MPI_ANY_SOURCE; MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_IO, &ub, &flag); CHECK(*ub == MPI_ANY_SOURCE && keyval_seen == STD_MPI_IO);
    int ranks[2] = {MPI_PROC_NULL, 1}, out[2];
    MPI_Group_translate_ranks(MPI_GROUP_EMPTY, 2, ranks, MPI_GROUP_EMPTY, out);
    CHECK(translated[0] == STD_MPI_PROC_NULL && translated[1] == 1 && out[0] == MPI_PROC_NULL && out[1] == MPI_UNDEFINED);
    /* datatypes */
    MPI_Datatype t = MPI_DATATYPE_NULL, types[2] = {MPI_FLOAT, MPI_2INT}; int lens[2] = {1, 1}; MPI_Aint at[2] = {0, 8};
    MPI_Type_create_struct(2, lens, at, types, &t);
    CHECK(seen[0] == STD_MPI_FLOAT && seen[1] == STD_MPI_2INT && t != MPI_DATATYPE_NULL);
    int a, b, d, combiner; MPI_Type_get_envelope(t, &a, &b, &d, &combiner); CHECK(combiner == MPI_COMBINER_STRUCT);
    MPI_Type_get_contents(t, 1, 1, 2, lens, at, types); CHECK(types[0] == MPI_DOUBLE && types[1] != MPI_DOUBLE);
    CHECK(MPI_Type_f2c(MPI_Type_c2f(t)) == t && MPI_Type_f2c(MPI_Type_c2f(MPI_DOUBLE)) == MPI_DOUBLE);
    int size; MPI_Type_size(MPI_LONG_DOUBLE, &size); CHECK(size == sizeof(long double));
    /* the program's operation, called back */
    MPI_Op op; MPI_Op_create(user_op, 1, &op); CHECK(op != MPI_OP_NULL);
    int in = 40, inout = 2;
    entries->op(op_function, &in, &inout, 1, STD_MPI_INT, (uint64_t)0x98 << 24 | 17);
    CHECK(inout == 42 && op_type == MPI_INT && op_len == 1);
    entries->op(op_function, &in, &inout, 1, (uint64_t)0x8c << 24 | 30, (uint64_t)0x98 << 24 | 17); CHECK(op_type == t);
    /* files: handles are pointers in both ABIs */
    MPI_File fh = MPI_FILE_NULL; int mode;
    CHECK(MPI_File_open(MPI_COMM_SELF, "name", MPI_MODE_RDWR | MPI_MODE_CREATE, MPI_INFO_NULL, &fh) == MPI_SUCCESS);
    CHECK(mode_seen == (STD_MPI_MODE_RDWR | STD_MPI_MODE_CREATE) && fh != MPI_FILE_NULL && MPI_File_f2c(MPI_File_c2f(fh)) == fh);
    CHECK(MPI_File_f2c(MPI_File_c2f(MPI_FILE_NULL)) == MPI_FILE_NULL);
    MPI_File_get_amode(fh, &mode); CHECK(file_seen == ((uint64_t)0x90 << 24 | 21) && mode == (MPI_MODE_WRONLY | MPI_MODE_EXCL));
    MPI_File_seek(fh, 1, MPI_SEEK_END); CHECK(mode_seen == STD_MPI_SEEK_END);
    /* the published rank and size */
    ((int *)0x300000008000)[0] = 6; ((int *)0x300000008000)[1] = 8;
    int rank; MPI_Comm_rank(MPI_COMM_WORLD, &rank); MPI_Comm_size(MPI_COMM_WORLD, &size); CHECK(rank == 6 && size == 8);
    double t0 = MPI_Wtime(); CHECK(MPI_Wtime() >= t0);
    if (argc > 1) { /* cost */
        block[7] = 0;
        struct timespec s0, s1; long n = 20000000;
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &s0);
        for (long i = 0; i < n; i++) MPI_Send(&v, 1, MPI_INT, 2, 7, MPI_COMM_WORLD);
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &s1);
        printf("MPI_Send through the stub: %.2f ns\n", ((s1.tv_sec - s0.tv_sec) * 1e9 + s1.tv_nsec - s0.tv_nsec) / n);
    }
    CHECK(MPI_Finalize() == MPI_SUCCESS && block[3] == 0);
    if (!failures) puts("translate: all as expected");
    return failures != 0;
}
