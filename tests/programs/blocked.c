/* Every blocking call that a checkpoint may find a rank in: the last rank holds all others in it for a while.
 *   blocked [--rounds N] [--hold MS] [--at CALL]     CALL: recv, any, send, ssend, wait, waitany, probe, mprobe, sendrecv, barrier */
#include "common.h"

enum { LARGE = 1 << 20 };

static const char *const calls[] = {"recv", "any", "send", "ssend", "wait", "waitany", "probe", "mprobe", "sendrecv", "barrier"};
enum { CALLS = sizeof calls / sizeof *calls };

static int is(int call, const char *name) { return strcmp(calls[call], name) == 0; }

static uint64_t word(long round, int call, int from) { return fold(fold((uint64_t)round, (uint64_t)call), (uint64_t)from); }

/* Any rank but the last. */
static uint64_t held(long round, int call, int holder, unsigned char *large)
{
    uint64_t in = 0, out = word(round, call, world_rank);
    MPI_Status status;
    MPI_Request request[2] = {MPI_REQUEST_NULL, MPI_REQUEST_NULL};
    MPI_Message message;
    int which, count;
    if (is(call, "recv")) {
        MPI_Recv(&in, 1, MPI_UINT64_T, holder, call, MPI_COMM_WORLD, &status);
    } else if (is(call, "any")) {
        MPI_Recv(&in, 1, MPI_UINT64_T, MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &status);
        CHECK(status.MPI_SOURCE == holder && status.MPI_TAG == call, "from %d tag %d", status.MPI_SOURCE, status.MPI_TAG);
    } else if (is(call, "send")) {
        fill(large, LARGE, out);
        MPI_Send(large, LARGE, MPI_BYTE, holder, call, MPI_COMM_WORLD);
    } else if (is(call, "ssend")) {
        MPI_Ssend(&out, 1, MPI_UINT64_T, holder, call, MPI_COMM_WORLD);
    } else if (is(call, "wait")) {
        MPI_Irecv(&in, 1, MPI_UINT64_T, holder, call, MPI_COMM_WORLD, &request[0]);
        MPI_Wait(&request[0], &status);
        CHECK(request[0] == MPI_REQUEST_NULL, "the request is still there");
    } else if (is(call, "waitany")) {
        uint64_t never = 0;
        MPI_Irecv(&never, 1, MPI_UINT64_T, holder, 9999, MPI_COMM_WORLD, &request[0]);
        MPI_Irecv(&in, 1, MPI_UINT64_T, holder, call, MPI_COMM_WORLD, &request[1]);
        MPI_Waitany(2, request, &which, &status);
        CHECK(which == 1, "request %d came first", which);
        MPI_Cancel(&request[0]);
        MPI_Wait(&request[0], &status);
        MPI_Test_cancelled(&status, &which);
        CHECK(which, "the receive was not cancelled");
    } else if (is(call, "probe")) {
        MPI_Probe(MPI_ANY_SOURCE, call, MPI_COMM_WORLD, &status);
        MPI_Get_count(&status, MPI_UINT64_T, &count);
        CHECK(count == 1 && status.MPI_SOURCE == holder, "%d words from %d", count, status.MPI_SOURCE);
        MPI_Recv(&in, 1, MPI_UINT64_T, status.MPI_SOURCE, status.MPI_TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    } else if (is(call, "mprobe")) {
        MPI_Mprobe(holder, MPI_ANY_TAG, MPI_COMM_WORLD, &message, &status);
        if (round % 2) pause_ms(200); /* a checkpoint between the two finds an extracted message */
        MPI_Mrecv(&in, 1, MPI_UINT64_T, &message, &status);
        CHECK(message == MPI_MESSAGE_NULL && status.MPI_TAG == call, "tag %d", status.MPI_TAG);
    } else if (is(call, "sendrecv")) {
        MPI_Sendrecv(&out, 1, MPI_UINT64_T, holder, call, &in, 1, MPI_UINT64_T, holder, call, MPI_COMM_WORLD, &status);
    } else {
        MPI_Barrier(MPI_COMM_WORLD);
    }
    return in;
}

/* The last rank: late, then whatever lets the others go on. */
static uint64_t hold(long round, int call, long milliseconds, unsigned char *large, unsigned char *expected)
{
    uint64_t hash = 0;
    pause_ms(milliseconds);
    for (int i = 0; i < world_size - 1; i++) {
        uint64_t out = word(round, call, world_rank), in = 0;
        if (is(call, "send")) {
            MPI_Recv(large, LARGE, MPI_BYTE, i, call, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            fill(expected, LARGE, word(round, call, i));
            CHECK(memcmp(large, expected, LARGE) == 0, "other bytes from %d", i);
            hash = fold(hash, hash_bytes(large, LARGE));
        } else if (is(call, "ssend") || is(call, "sendrecv")) {
            MPI_Recv(&in, 1, MPI_UINT64_T, i, call, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            CHECK(in == word(round, call, i), "another word from %d", i);
            hash = fold(hash, in);
        }
        if (!is(call, "send") && !is(call, "ssend") && !is(call, "barrier"))
            MPI_Send(&out, 1, MPI_UINT64_T, i, call, MPI_COMM_WORLD);
    }
    if (is(call, "barrier")) MPI_Barrier(MPI_COMM_WORLD);
    return hash;
}

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 2), milliseconds = option(argc, argv, "--hold", 700);
    const char *only = text_option(argc, argv, "--at", "");
    CHECK(world_size >= 2, "needs 2 ranks");
    unsigned char *large = malloc(LARGE), *expected = malloc(LARGE);
    uint64_t hash = 0;
    int holder = world_size - 1;

    for (long round = 0; round < rounds; round++)
        for (int call = 0; call < CALLS; call++) {
            if (*only && strcmp(only, calls[call]) != 0) continue;
            uint64_t got = world_rank == holder ? hold(round, call, milliseconds, large, expected) : held(round, call, holder, large);
            if (world_rank != holder && got != 0) CHECK(got == word(round, call, holder), "%s: another word", calls[call]);
            hash = fold(hash, got);
        }
    free(large), free(expected);
    return finish(hash);
}
