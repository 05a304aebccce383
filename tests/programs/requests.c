/* Requests in every state a checkpoint can find them in: inactive, started, finished and not yet asked for, freed
 * while active, generalised, cancelled; and buffers attached and detached.
 *   requests [--rounds N] [--pause MS] */
#include "common.h"

enum { SET = 6 };

static int queried, freed, cancelled;

static int query(void *extra, MPI_Status *status)
{
    MPI_Status_set_elements(status, MPI_INT, *(int *)extra);
    MPI_Status_set_cancelled(status, 0);
    status->MPI_SOURCE = 4, status->MPI_TAG = 5;
    queried++;
    return MPI_SUCCESS;
}

static int release(void *extra) { (void)extra; freed++; return MPI_SUCCESS; }

static int cancel(void *extra, int complete) { (void)extra, (void)complete; cancelled++; return MPI_SUCCESS; }

/* Sends that are cancelled: a send either is, and nobody receives it, or it completes and its message comes. Both MPIs do the
 * latter, and so do we. */
static void cancelled_sends(long round, long pause, int right, int left, int last)
{
    enum { LONG = 200000, KINDS = 5 };
    static uint64_t out[LONG], in[LONG];
    static MPI_Request sends[KINDS]; /* the persistent one is made once */
    MPI_Status status;
    int sizes[KINDS] = {1, LONG, 1, LONG, 1}, gone, theirs, count;
    uint64_t expected;
    fill(out, sizeof out, (uint64_t)(round * 7 + world_rank));
    fill(&expected, sizeof expected, (uint64_t)(round * 7 + left));
    MPI_Isend(out, sizes[0], MPI_UINT64_T, right, 70, MPI_COMM_WORLD, &sends[0]);
    MPI_Isend(out, sizes[1], MPI_UINT64_T, right, 71, MPI_COMM_WORLD, &sends[1]);
    MPI_Issend(out, sizes[2], MPI_UINT64_T, right, 72, MPI_COMM_WORLD, &sends[2]);
    if (round == 0) MPI_Send_init(out, sizes[3], MPI_UINT64_T, right, 73, MPI_COMM_WORLD, &sends[3]);
    MPI_Start(&sends[3]);
    MPI_Ibsend(out, sizes[4], MPI_UINT64_T, right, 74, MPI_COMM_WORLD, &sends[4]);
    for (int i = 0; i < KINDS; i++) CHECK(MPI_Cancel(&sends[i]) == MPI_SUCCESS, "send %d cannot be cancelled", i);
    pause_ms(pause);
    for (int i = 0; i < KINDS; i++) {
        /* Told first: a receive that nothing comes for would wait for ever. */
        int flag;
        gone = 0;
        MPI_Request_get_status(sends[i], &flag, &status);
        if (flag) MPI_Test_cancelled(&status, &gone);
        MPI_Sendrecv(&gone, 1, MPI_INT, right, 75, &theirs, 1, MPI_INT, left, 75, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        if (!theirs) {
            in[0] = 0;
            MPI_Recv(in, sizes[i], MPI_UINT64_T, left, 70 + i, MPI_COMM_WORLD, &status);
            MPI_Get_count(&status, MPI_UINT64_T, &count);
            CHECK(count == sizes[i], "%d words, not %d", count, sizes[i]);
            CHECK(in[0] == expected, "a cancelled send has other content");
        }
        int known = gone;
        MPI_Wait(&sends[i], &status);
        MPI_Test_cancelled(&status, &gone);
        CHECK(gone == known, "send %d: cancelled after its message was received", i);
    }
    if (last) MPI_Request_free(&sends[3]);
}

/* Persistent requests, completed in each way to ask about several. */
static void complete(int way, MPI_Request *requests)
{
    int flag = 0, count, index, indices[SET];
    switch (way) {
    case 0: MPI_Waitall(SET, requests, MPI_STATUSES_IGNORE); break;
    case 1:
        while (!flag) MPI_Testall(SET, requests, &flag, MPI_STATUSES_IGNORE);
        break;
    case 2:
        for (int seen = 0; seen < SET; seen += count) {
            MPI_Waitsome(SET, requests, &count, indices, MPI_STATUSES_IGNORE);
            CHECK(count > 0 && count <= SET - seen, "%d complete after %d", count, seen);
        }
        break;
    default:
        for (int seen = 0; seen < SET; seen += flag) {
            MPI_Testany(SET, requests, &index, &flag, MPI_STATUS_IGNORE);
            CHECK(!flag || (index >= 0 && index < SET), "index %d after %d", index, seen);
        }
    }
}

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 150), pause = option(argc, argv, "--pause", 20);
    int right = (world_rank + 1) % world_size, left = (world_rank + world_size - 1) % world_size;
    uint64_t hash = 0, out[SET], in[SET], freed_in = 0, freed_out, payload = 0;
    MPI_Request send[SET], receive[SET];
    MPI_Status statuses[SET];

    for (int i = 0; i < SET; i++) {
        MPI_Recv_init(&in[i], 1, MPI_UINT64_T, left, i, MPI_COMM_WORLD, &receive[i]);
        switch (i % 4) {
        case 0: MPI_Send_init(&out[i], 1, MPI_UINT64_T, right, i, MPI_COMM_WORLD, &send[i]); break;
        case 1: MPI_Ssend_init(&out[i], 1, MPI_UINT64_T, right, i, MPI_COMM_WORLD, &send[i]); break;
        case 2: MPI_Bsend_init(&out[i], 1, MPI_UINT64_T, right, i, MPI_COMM_WORLD, &send[i]); break;
        default: MPI_Rsend_init(&out[i], 1, MPI_UINT64_T, right, i, MPI_COMM_WORLD, &send[i]);
        }
    }
    int space = 16 * (8 + MPI_BSEND_OVERHEAD);
    void *buffer = malloc((size_t)space);
    MPI_Buffer_attach(buffer, space);

    /* A generalised request for the whole run. */
    MPI_Request lasting;
    int lasting_length = 8;
    MPI_Grequest_start(query, release, cancel, &lasting_length, &lasting);

    for (long round = 0; round < rounds; round++) {
        int flag, count, index, indices[SET];
        for (int i = 0; i < SET; i++) out[i] = fold(fold((uint64_t)round, (uint64_t)i), (uint64_t)world_rank), in[i] = 0;
        MPI_Startall(SET, receive);
        /* An asked-for request is active; an inactive one answers at once with an empty status. */
        MPI_Test(&send[0], &flag, &statuses[0]);
        CHECK(flag && statuses[0].MPI_SOURCE == MPI_ANY_SOURCE && statuses[0].MPI_TAG == MPI_ANY_TAG, "an inactive request");
        MPI_Barrier(MPI_COMM_WORLD); /* the ready sends' receives are posted everywhere */
        if (round % 2) pause_ms(pause);
        MPI_Startall(SET, send);
        if (round % 2 == 0) pause_ms(pause); /* finished, and nobody asked yet */
        for (int seen = 0; seen < SET;) {
            if (seen % 2) {
                MPI_Waitany(SET, receive, &index, statuses);
                seen++;
            } else {
                MPI_Testsome(SET, receive, &count, indices, statuses);
                if (count != MPI_UNDEFINED) seen += count;
            }
        }
        for (int i = 0; i < SET; i++) {
            CHECK(receive[i] != MPI_REQUEST_NULL, "a persistent request vanished");
            CHECK(in[i] == fold(fold((uint64_t)round, (uint64_t)i), (uint64_t)left), "round %ld: word %d", round, i);
            hash = fold(hash, in[i]);
        }
        complete((int)(round % 4), send);

        /* Get_status leaves the request; a freed active send and receive still take place. */
        MPI_Request one, other;
        freed_out = fold((uint64_t)round, 77);
        MPI_Irecv(&freed_in, 1, MPI_UINT64_T, left, 50, MPI_COMM_WORLD, &one);
        MPI_Isend(&freed_out, 1, MPI_UINT64_T, right, 50, MPI_COMM_WORLD, &other);
        MPI_Request_free(&other);
        for (flag = 0; !flag;) MPI_Request_get_status(one, &flag, &statuses[0]);
        CHECK(one != MPI_REQUEST_NULL, "get_status took the request");
        MPI_Wait(&one, &statuses[1]);
        CHECK(statuses[1].MPI_TAG == 50 && freed_in == freed_out, "round %ld: the freed send", round);
        static uint64_t quiet;
        quiet = 0;
        MPI_Irecv(&quiet, 1, MPI_UINT64_T, left, 51, MPI_COMM_WORLD, &one);
        MPI_Request_free(&one); /* a receive nobody will ask for */
        MPI_Send(&freed_out, 1, MPI_UINT64_T, right, 51, MPI_COMM_WORLD);
        MPI_Sendrecv_replace(&freed_out, 1, MPI_UINT64_T, right, 52, left, 52, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        MPI_Barrier(MPI_COMM_WORLD);

        /* A generalised request, completed by the program itself. */
        int length = (int)(round % 9) + 1, before = queried;
        MPI_Grequest_start(query, release, cancel, &length, &one);
        MPI_Test(&one, &flag, &statuses[0]);
        CHECK(!flag, "complete too early");
        pause_ms(pause / 4);
        MPI_Grequest_complete(one);
        MPI_Wait(&one, &statuses[0]);
        MPI_Get_count(&statuses[0], MPI_INT, &count);
        CHECK(count == length && statuses[0].MPI_TAG == 5 && queried == before + 1 && freed == (int)round + 1, "a generalised request");

        if (round % 5 == 0) cancelled_sends(round, pause, right, left, round + 5 >= rounds);

        /* The buffer is detached and attached again, while nothing is in it. */
        payload = fold((uint64_t)round, (uint64_t)world_rank);
        MPI_Bsend(&payload, 1, MPI_UINT64_T, right, 60, MPI_COMM_WORLD);
        MPI_Recv(&payload, 1, MPI_UINT64_T, left, 60, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        hash = fold(hash, payload);
        if (round % 10 == 9) {
            void *same;
            int size;
            MPI_Buffer_detach(&same, &size);
            CHECK(same == buffer && size == space, "another buffer: %d bytes", size);
            MPI_Buffer_attach(buffer, space);
        }
        /* MPI_PROC_NULL: complete at once, nothing moved. */
        MPI_Recv(&payload, 1, MPI_UINT64_T, MPI_PROC_NULL, 1, MPI_COMM_WORLD, &statuses[0]);
        CHECK(statuses[0].MPI_SOURCE == MPI_PROC_NULL, "source %d", statuses[0].MPI_SOURCE);
    }
    MPI_Grequest_complete(lasting);
    MPI_Wait(&lasting, &statuses[0]);
    MPI_Get_count(&statuses[0], MPI_INT, &lasting_length);
    CHECK(lasting_length == 8 && statuses[0].MPI_TAG == 5 && freed == (int)rounds + 1, "the lasting generalised request");
    for (int i = 0; i < SET; i++) MPI_Request_free(&send[i]), MPI_Request_free(&receive[i]);
    void *same;
    MPI_Buffer_detach(&same, &space);
    free(buffer);
    return finish(hash);
}
