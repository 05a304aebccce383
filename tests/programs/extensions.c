/* MPICH's extensions: generalised requests that are polled, of a class and without one, begun in one round and complete in a later one;
 * error classes, codes and texts that are removed; what graphics processors support; data representations with large counts.
 *   extensions [--rounds N] [--pause MS] */
#include "common.h"
#if MPICH_NUMVERSION >= 40300000 || defined I_MPI_NUMVERSION /* MPI-4.1's names */
#define MPIX_Delete_error_string MPI_Remove_error_string
#define MPIX_Delete_error_code MPI_Remove_error_code
#define MPIX_Delete_error_class MPI_Remove_error_class
#endif

enum { WORK = 6 };

/* Something that takes a number of polls. */
struct work {
    MPI_Request request;
    int left, number, polls, waits, queries, frees, cancels;
};

static int query(void *state, MPI_Status *status)
{
    struct work *work = state;
    work->queries++;
    MPI_Status_set_elements(status, MPI_INT, work->number);
    MPI_Status_set_cancelled(status, work->cancels > 0);
    status->MPI_SOURCE = work->number + 1;
    status->MPI_TAG = work->number + 2;
    return MPI_SUCCESS;
}

static int release(void *state)
{
    ((struct work *)state)->frees++;
    return MPI_SUCCESS;
}

static int cancel(void *state, int complete)
{
    struct work *work = state;
    work->cancels++;
    if (!complete) work->left = 1;
    return MPI_SUCCESS;
}

static int poll(void *state, MPI_Status *status)
{
    struct work *work = state;
    (void)status;
    work->polls++;
    if (work->left > 0 && --work->left == 0) MPI_Grequest_complete(work->request);
    return MPI_SUCCESS;
}

static int wait_for(int count, void **states, double limit, MPI_Status *status)
{
    (void)limit, (void)status;
    for (int i = 0; i < count; i++) {
        struct work *work = states[i];
        work->waits++;
        if (work->left > 0) MPI_Grequest_complete(work->request);
        work->left = 0;
    }
    return MPI_SUCCESS;
}

static MPIX_Grequest_class class_of_work;

static void begin(struct work *work, int number, int polls)
{
    memset(work, 0, sizeof *work);
    work->number = number, work->left = polls;
    int code = number % 2 ? MPIX_Grequest_class_allocate(class_of_work, work, &work->request)
                          : MPIX_Grequest_start(query, release, cancel, poll, wait_for, work, &work->request);
    CHECK(code == MPI_SUCCESS && work->request != MPI_REQUEST_NULL, "request %d: %d", number, code);
}

static void ended(const struct work *work, const MPI_Status *status)
{
    int count, cancelled;
    CHECK(work->request == MPI_REQUEST_NULL, "request %d is still there", work->number);
    CHECK(work->frees == 1, "request %d: %d frees", work->number, work->frees);
    if (!status) return;
    CHECK(work->queries >= 1, "request %d was not asked", work->number);
    MPI_Get_count(status, MPI_INT, &count);
    MPI_Test_cancelled(status, &cancelled);
    CHECK(count == work->number && cancelled == (work->cancels > 0), "request %d: count %d, cancelled %d", work->number, count, cancelled);
    CHECK(status->MPI_SOURCE == work->number + 1 && status->MPI_TAG == work->number + 2, "request %d: source %d", work->number, status->MPI_SOURCE);
}

static uint64_t requests(int round)
{
    struct work work[WORK];
    MPI_Request all[WORK];
    MPI_Status status, statuses[WORK];
    int flag = 0, which, done, indices[WORK];
    uint64_t hash = 0;
    /* One, tested until it is complete: by its polls alone. */
    begin(&work[0], round, 5);
    MPI_Request_get_status(work[0].request, &flag, &status);
    CHECK(!flag, "complete too early");
    while (!flag) MPI_Test(&work[0].request, &flag, &status);
    CHECK(work[0].left == 0 && work[0].polls >= 5, "%d polls", work[0].polls);
    ended(&work[0], &status);
    /* One, waited for. */
    begin(&work[0], round + 1, 7);
    MPI_Wait(&work[0].request, &status);
    CHECK(work[0].left == 0, "%d polls to come", work[0].left);
    ended(&work[0], &status);
    /* Several, of which the first is cancelled; waited for together. */
    for (int i = 0; i < WORK; i++) begin(&work[i], i + round % 5, i + 2);
    MPI_Cancel(&work[0].request);
    for (int i = 0; i < WORK; i++) all[i] = work[i].request;
    MPI_Waitall(WORK, all, statuses);
    for (int i = 0; i < WORK; i++) {
        work[i].request = all[i];
        ended(&work[i], &statuses[i]);
        CHECK(work[i].waits <= 1, "request %d: %d waits", i, work[i].waits);
        hash = fold(hash, (uint64_t)work[i].queries);
    }
    /* Several, one after the other. */
    for (int i = 0; i < WORK; i++) begin(&work[i], i, WORK - i), all[i] = work[i].request;
    for (int i = 0; i < WORK / 2; i++) {
        MPI_Waitany(WORK, all, &which, &status);
        CHECK(which >= 0 && which < WORK, "index %d", which);
        work[which].request = all[which];
        ended(&work[which], &status);
    }
    for (int left = WORK - WORK / 2; left > 0; left -= done) {
        MPI_Waitsome(WORK, all, &done, indices, statuses);
        CHECK(done > 0 && done <= left, "%d done", done);
        for (int i = 0; i < done; i++) work[indices[i]].request = all[indices[i]], ended(&work[indices[i]], &statuses[i]);
    }
    for (int i = 0; i < WORK; i++) begin(&work[i], i, 2), all[i] = work[i].request;
    for (flag = 0; !flag;) MPI_Testall(WORK, all, &flag, statuses);
    for (int i = 0; i < WORK; i++) work[i].request = all[i], ended(&work[i], &statuses[i]);
    return hash;
}

/* A class and a code that live for a round, a text that does not even do that. */
struct numbers {
    int class, code;
};

static void add(struct numbers *n, long round)
{
    char text[64];
    MPI_Add_error_class(&n->class);
    MPI_Add_error_code(n->class, &n->code);
    snprintf(text, sizeof text, "class of round %ld", round);
    MPI_Add_error_string(n->class, text);
    snprintf(text, sizeof text, "code of round %ld", round);
    MPI_Add_error_string(n->code, text);
}

static int class_of(int code)
{
    int class = -1;
    MPI_Error_class(code, &class);
    return class;
}

static void take_away(const struct numbers *n, long round)
{
    char text[MPI_MAX_ERROR_STRING], expected[64];
    int length;
    snprintf(expected, sizeof expected, "code of round %ld", round);
    CHECK(class_of(n->code) == n->class, "the class of code %d", n->code);
    MPI_Error_string(n->code, text, &length);
    CHECK(strcmp(text, expected) == 0, "text %s", text);
    CHECK(MPIX_Delete_error_string(n->code) == MPI_SUCCESS, "the text of %d", n->code);
    MPI_Error_string(n->code, text, &length);
    CHECK(length == 0 && text[0] == 0, "text %s", text);
    CHECK(MPIX_Delete_error_string(n->class) == MPI_SUCCESS, "the text of %d", n->class);
    CHECK(MPIX_Delete_error_code(n->code) == MPI_SUCCESS, "code %d", n->code);
    CHECK(class_of(MPIX_Delete_error_code(n->code)) == MPI_ERR_OTHER, "code %d was removed twice", n->code);
    CHECK(MPIX_Delete_error_class(n->class) == MPI_SUCCESS, "class %d", n->class);
    CHECK(class_of(MPIX_Delete_error_class(n->class)) == MPI_ERR_OTHER, "class %d was removed twice", n->class);
}

static void processors(void)
{
    int supported = -1;
#ifdef I_MPI_NUMVERSION
    const int last = MPIX_GPU_SUPPORT_ZE;
#else
    const int last = MPIX_GPU_SUPPORT_HIP;
    CHECK(MPIX_Query_hip_support() == 0, "a graphics processor");
#endif
    for (int kind = MPIX_GPU_SUPPORT_CUDA; kind <= last; kind++)
        CHECK(MPIX_GPU_query_support(kind, &supported) == MPI_SUCCESS && supported == 0, "kind %d: %d", kind, supported);
#if MPICH_NUMVERSION < 40300000 && !defined I_MPI_NUMVERSION /* these answer nothing, and no error */
    CHECK(class_of(MPIX_GPU_query_support(17, &supported)) == MPI_ERR_ARG, "a kind that is none");
#endif
    CHECK(MPIX_Query_cuda_support() == 0 && MPIX_Query_ze_support() == 0, "a graphics processor");
}

/* Fault tolerance: MPICH 4.0.2 of Debian ends the job in every call that is right (see `ends.c`). */
static void failures(void)
{
    int flag = 1;
    MPI_Comm smaller;
    MPI_Group failed;
    CHECK(class_of(MPIX_Comm_agree(MPI_COMM_NULL, &flag)) == MPI_ERR_COMM, "agreed");
    CHECK(class_of(MPIX_Comm_shrink(MPI_COMM_NULL, &smaller)) == MPI_ERR_COMM, "shrunk");
    CHECK(class_of(MPIX_Comm_revoke(MPI_COMM_NULL)) == MPI_ERR_COMM, "revoked");
    CHECK(class_of(MPIX_Comm_failure_ack(MPI_COMM_NULL)) == MPI_ERR_COMM, "acknowledged");
    CHECK(class_of(MPIX_Comm_failure_get_acked(MPI_COMM_NULL, &failed)) == MPI_ERR_COMM, "acknowledged");
}

static int extent(MPI_Datatype type, MPI_Aint *bytes, void *state)
{
    (void)type, (void)state;
    *bytes = 1;
    return MPI_SUCCESS;
}

static int convert(void *user, MPI_Datatype type, MPI_Count count, void *file, MPI_Offset at, void *state)
{
    (void)user, (void)type, (void)count, (void)file, (void)at, (void)state;
    return MPI_SUCCESS;
}

static void representations(long round)
{
    char name[MPI_MAX_DATAREP_STRING];
    snprintf(name, sizeof name, "of-round-%ld", round);
    CHECK(MPI_Register_datarep_c(name, MPI_CONVERSION_FN_NULL_C, MPI_CONVERSION_FN_NULL_C, extent, NULL) == MPI_SUCCESS, "%s", name);
    CHECK(class_of(MPI_Register_datarep_c(name, MPI_CONVERSION_FN_NULL_C, MPI_CONVERSION_FN_NULL_C, extent, NULL)) == MPI_ERR_DUP_DATAREP,
          "%s twice", name);
    CHECK(class_of(MPI_Register_datarep_c("of-round-0", MPI_CONVERSION_FN_NULL_C, MPI_CONVERSION_FN_NULL_C, extent, NULL)) ==
              MPI_ERR_DUP_DATAREP, "the first one is forgotten");
    int converts = class_of(MPI_Register_datarep_c("one that converts", convert, convert, extent, NULL));
    CHECK(converts == MPI_ERR_CONVERSION || (MPICH_NUMVERSION >= 50000000 && converts == MPI_ERR_UNSUPPORTED_DATAREP), "it converts: class %d", converts);
    CHECK(class_of(MPI_Register_datarep_c("", MPI_CONVERSION_FN_NULL_C, MPI_CONVERSION_FN_NULL_C, extent, NULL)) == MPI_ERR_ARG, "no name");
    if (round == 0) CHECK(MPI_Register_datarep_c("native", MPI_CONVERSION_FN_NULL_C, MPI_CONVERSION_FN_NULL_C, extent, NULL) == MPI_SUCCESS, "no second native");
    CHECK(class_of(MPI_Register_datarep_c("native", MPI_CONVERSION_FN_NULL_C, MPI_CONVERSION_FN_NULL_C, extent, NULL)) == MPI_ERR_DUP_DATAREP, "a third native");
}

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 40), pause = option(argc, argv, "--pause", 110);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN);
    CHECK(MPIX_Grequest_class_create(query, release, cancel, poll, wait_for, &class_of_work) == MPI_SUCCESS, "no class");
    MPI_Request none;
    CHECK(class_of(MPIX_Grequest_start(query, release, cancel, poll, NULL, NULL, &none)) == MPI_ERR_ARG, "a request without a wait function");
    /* What lives from one round to the next. */
    static struct work long_lived[2];
    struct numbers numbers;
    static struct work lasting[2]; /* of each kind, for the whole run */
    add(&numbers, 0);
    begin(&lasting[0], 3, 1000000), begin(&lasting[1], 4, 1000000);
    begin(&long_lived[0], 1, 1000000), begin(&long_lived[1], 2, 1000000);
    uint64_t hash = 0;
    for (long round = 0; round < rounds; round++) {
        MPI_Status status;
        int flag;
        hash = fold(hash, requests((int)round));
        processors();
        failures();
        representations(round);
        pause_ms(pause);
        if (round % 4 == 2) /* requests of the old class are under way */
            CHECK(MPIX_Grequest_class_create(query, release, cancel, poll, wait_for, &class_of_work) == MPI_SUCCESS, "no class");
        take_away(&numbers, round);
        add(&numbers, round + 1);
        /* Begun in the round before, complete in this one. */
        struct work *work = &long_lived[round % 2];
        int before = work->polls;
        MPI_Test(&work->request, &flag, &status);
        CHECK(!flag && work->polls > before, "flag %d, %d polls", flag, work->polls - before);
        work->left = 1;
        MPI_Wait(&work->request, &status);
        ended(work, &status);
        begin(work, (int)round % 1000, 1000000);
        /* One that is given up, and then complete. */
        struct work *other = &long_lived[(round + 1) % 2];
        if (round % 4 == 3) {
            MPI_Request handle = other->request;
            MPI_Request_free(&other->request);
            CHECK(other->request == MPI_REQUEST_NULL, "still there");
            MPI_Grequest_complete(handle);
            ended(other, NULL);
            begin(other, (int)round % 1000 + 1, 1000000);
        }
        hash = fold(hash, (uint64_t)(round + work->number));
        MPI_Barrier(MPI_COMM_WORLD);
    }
    for (int i = 0; i < 4; i++) {
        struct work *work = i < 2 ? &long_lived[i] : &lasting[i - 2];
        work->left = 0;
        MPI_Grequest_complete(work->request);
        MPI_Wait(&work->request, MPI_STATUS_IGNORE);
        ended(work, NULL);
    }
    return finish(hash);
}
