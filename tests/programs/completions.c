/* Errors of requests: whose handler is called when a message is too long for its receive, with which class, what the
 * procedure returns, and what becomes of the requests and statuses beside it; in rounds by turns with receives that wait for
 * their messages, and with messages that wait for their receives (and are drained, if a checkpoint comes). The result is the
 * native one of the same library.
 *   completions [--rounds N] [--pause MS] [--show 1] */
#include "common.h"

enum { REQUESTS = 3, LONG = 1 };

static uint64_t hash;
static int show;
static MPI_Comm comm;
static int of_world, of_comm, class_told;
static int late; /* messages come before their receives, and pauses between */
static long pause_for;

static void told(MPI_Comm *on, int *code, ...)
{
    if (*on == comm) of_comm++;
    else of_world++;
    MPI_Error_class(*code, &class_told);
}

static void note(const char *what, int value)
{
    if (show && world_rank == 0) fprintf(stderr, " %s %d", what, value);
    hash = fold(hash, (uint64_t)(int64_t)value);
}

static int class_of(int code)
{
    int class = -1;
    MPI_Error_class(code, &class);
    return class;
}

/* What a call has done: its code, the handlers, the requests and the statuses. */
static void report(const char *call, int code, int count, const MPI_Request *requests, int statuses, const MPI_Status *status)
{
    if (show && world_rank == 0) fprintf(stderr, "%-16s", call);
    note("returns", class_of(code));
    note("world", of_world), note("comm", of_comm), note("told", class_told);
    for (int i = 0; i < count; i++) note("null", requests[i] == MPI_REQUEST_NULL);
    for (int i = 0; i < statuses; i++) note("error", class_of(status[i].MPI_ERROR));
    if (show && world_rank == 0) fputc('\n', stderr);
    of_world = of_comm = class_told = 0;
}

static void post(MPI_Request *requests, int (*data)[4])
{
    for (int i = 0; i < REQUESTS; i++)
        MPI_Irecv(data[i], 2, MPI_INT, 1 - world_rank, i, comm, &requests[i]);
    MPI_Barrier(comm);
}

static void messages(void)
{
    int out[4] = {1, 2, 3, 4};
    MPI_Request sends[REQUESTS];
    for (int i = 0; i < REQUESTS; i++)
        MPI_Isend(out, i == LONG ? 4 : 2, MPI_INT, 1 - world_rank, i, comm, &sends[i]);
    MPI_Waitall(REQUESTS, sends, MPI_STATUSES_IGNORE);
    MPI_Barrier(comm);
}

/* Three messages from the other rank, the middle one too long; they have arrived when it returns. */
static void receives(MPI_Request *requests, int (*data)[4])
{
    if (late) {
        messages();
        pause_ms(pause_for);
        post(requests, data);
    } else {
        post(requests, data);
        messages();
    }
}

static void finish_all(MPI_Request *requests)
{
    for (int i = 0; i < REQUESTS; i++)
        if (requests[i] != MPI_REQUEST_NULL) MPI_Wait(&requests[i], MPI_STATUS_IGNORE);
    of_world = of_comm = class_told = 0;
}

static void one_round(void)
{
    MPI_Request requests[REQUESTS];
    MPI_Status statuses[REQUESTS];
    int data[REQUESTS][4], indices[REQUESTS], n, flag, code;
    memset(statuses, 0, sizeof statuses);

    receives(requests, data);
    code = MPI_Wait(&requests[LONG], statuses);
    report("Wait", code, REQUESTS, requests, 0, statuses);
    finish_all(requests);

    receives(requests, data);
    do code = MPI_Test(&requests[LONG], &flag, statuses);
    while (code == MPI_SUCCESS && !flag);
    report("Test", code, REQUESTS, requests, 0, statuses);
    finish_all(requests);

    receives(requests, data);
    code = MPI_Waitall(REQUESTS, requests, statuses);
    report("Waitall", code, REQUESTS, requests, REQUESTS, statuses);
    finish_all(requests);

#if !defined OPEN_MPI || OMPI_MAJOR_VERSION < 5 /* 5.0.11 says nothing of the error here, to no one */
    receives(requests, data);
    code = MPI_Waitall(REQUESTS, requests, MPI_STATUSES_IGNORE);
    report("Waitall ignore", code, 0, requests, 0, statuses);
    finish_all(requests);
#endif

    receives(requests, data);
    do code = MPI_Testall(REQUESTS, requests, &flag, statuses);
    while (code == MPI_SUCCESS && !flag);
    report("Testall", code, REQUESTS, requests, REQUESTS, statuses);
    finish_all(requests);

    receives(requests, data);
    code = MPI_Waitany(1, &requests[LONG], &n, statuses);
    note("index", n);
    report("Waitany", code, REQUESTS, requests, 0, statuses);
    finish_all(requests);

    receives(requests, data);
    do code = MPI_Testany(1, &requests[LONG], &n, &flag, statuses);
    while (code == MPI_SUCCESS && !flag);
    note("index", n);
    report("Testany", code, REQUESTS, requests, 0, statuses);
    finish_all(requests);

    receives(requests, data);
    for (int i = 0; i < REQUESTS; i++) /* all are there */
        for (flag = 0; !flag;) MPI_Request_get_status(requests[i], &flag, MPI_STATUS_IGNORE);
    of_world = of_comm = class_told = 0;
    code = MPI_Waitsome(REQUESTS, requests, &n, indices, statuses);
    note("done", n);
    report("Waitsome", code, REQUESTS, requests, n > 0 ? n : 0, statuses);
    finish_all(requests);

    receives(requests, data);
    for (int i = 0; i < REQUESTS; i++)
        for (flag = 0; !flag;) MPI_Request_get_status(requests[i], &flag, MPI_STATUS_IGNORE);
    of_world = of_comm = class_told = 0;
    code = MPI_Testsome(REQUESTS, requests, &n, indices, statuses);
    note("done", n);
    report("Testsome", code, REQUESTS, requests, n > 0 ? n : 0, statuses);
    finish_all(requests);

    receives(requests, data);
    code = MPI_Recv(data[0], 1, MPI_INT, MPI_PROC_NULL, 0, comm, statuses);
    report("Recv nothing", code, REQUESTS, requests, 0, statuses);
    finish_all(requests);
    MPI_Barrier(MPI_COMM_WORLD);
}

static void short_ones(int (*data)[4])
{
    for (int i = 0; i < REQUESTS; i++)
        if (i != LONG) {
            MPI_Recv(data[i], 2, MPI_INT, 1 - world_rank, i, comm, MPI_STATUS_IGNORE);
            CHECK(data[i][0] == 1 && data[i][1] == 2, "message %d: %d %d", i, data[i][0], data[i][1]);
        }
}

/* The other ways to receive, which find their messages there. */
static void received_late(void)
{
    MPI_Request request;
    MPI_Message message;
    MPI_Status status;
    int data[REQUESTS][4], count, flag, code, other = 1 - world_rank;

    messages();
    pause_ms(pause_for);
    code = MPI_Recv(data[LONG], 2, MPI_INT, MPI_ANY_SOURCE, LONG, comm, &status);
    report("Recv", code, 0, NULL, 0, NULL);
    short_ones(data);

    messages();
    pause_ms(pause_for);
    code = MPI_Sendrecv(data[0], 1, MPI_INT, other, 9, data[LONG], 2, MPI_INT, other, LONG, comm, &status);
    report("Sendrecv", code, 0, NULL, 0, NULL);
    MPI_Recv(data[0], 1, MPI_INT, other, 9, comm, MPI_STATUS_IGNORE);
    short_ones(data);

    messages();
    MPI_Mprobe(other, LONG, comm, &message, &status);
    MPI_Get_count(&status, MPI_INT, &count);
    note("long", count);
    pause_ms(pause_for);
    code = MPI_Mrecv(data[LONG], 2, MPI_INT, &message, &status);
    report("Mrecv", code, 0, NULL, 0, NULL);
    short_ones(data);

    messages();
    do MPI_Improbe(other, LONG, comm, &flag, &message, &status);
    while (!flag);
    pause_ms(pause_for);
    code = MPI_Imrecv(data[LONG], 2, MPI_INT, &message, &request);
    if (code == MPI_SUCCESS) code = MPI_Wait(&request, &status);
    report("Imrecv", code, 0, NULL, 0, NULL);
    short_ones(data);

    messages();
    MPI_Recv_init(data[LONG], 2, MPI_INT, other, LONG, comm, &request);
    pause_ms(pause_for);
    MPI_Start(&request);
    code = MPI_Wait(&request, &status);
    report("persistent", code, 0, NULL, 0, NULL);
    if (request != MPI_REQUEST_NULL) MPI_Request_free(&request); /* Open MPI has done it */
    short_ones(data);
    MPI_Barrier(comm);
}

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 60), pause = option(argc, argv, "--pause", 50);
    show = (int)option(argc, argv, "--show", 0);
    MPI_Errhandler handler;
    MPI_Comm_dup(MPI_COMM_WORLD, &comm);
    MPI_Comm_create_errhandler(told, &handler);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, handler);
    MPI_Comm_set_errhandler(comm, handler);
    for (long round = 0; round < rounds; round++) {
        late = round % 2 == 1;
        pause_for = round % 10 == 1 ? pause : 0;
        one_round();
        if (late) received_late();
        pause_ms(pause_for ? 0 : pause);
    }
    MPI_Errhandler_free(&handler);
    MPI_Comm_free(&comm);
    return finish(hash);
}
