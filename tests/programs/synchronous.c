/* Synchronous sends complete when their receive has begun, and not before: also those that a checkpoint finds in flight.
 *   synchronous [--rounds N] [--pause MS]
 * Rank 0 has synchronous sends of every kind under way among others with the same tag, and tells rank 1, whenever asked,
 * which are complete. Rank 1 receives them one after the other, with pauses between. Rank 2 blocks in MPI_Ssend. */
#include "common.h"

enum { SAME = 5, PERSISTENT = 6, BLOCKING = 7, QUESTION = 8, ANSWER = 9, DONE = 10 };
enum { SENDS = 3, WORDS = 20000 };

static MPI_Comm work;

static int ask(void)
{
    int question = 1, complete;
    MPI_Send(&question, 1, MPI_INT, 0, QUESTION, MPI_COMM_WORLD);
    MPI_Recv(&complete, 1, MPI_INT, 0, ANSWER, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    return complete;
}

/* Until send `which` is complete; those above it must not be. */
static void completes(int which, long round)
{
    for (int complete = 0; !(complete & 1 << which);) {
        complete = ask();
        CHECK(complete >> (which + 1) == 0, "round %ld: complete %x while only %d is received", round, complete, which);
        pause_ms(1);
    }
}

static uint64_t receive(int source, int tag, uint64_t *data, long count)
{
    MPI_Status status;
    int got;
    MPI_Recv(data, WORDS, MPI_UINT64_T, source, tag, work, &status);
    MPI_Get_count(&status, MPI_UINT64_T, &got);
    CHECK(got == count, "%d words, %ld expected", got, count);
    return hash_bytes(data, (size_t)got * sizeof *data);
}

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 12), pause = option(argc, argv, "--pause", 20);
    static uint64_t out[4][WORDS], data[WORDS];
    uint64_t hash = 0;
    MPI_Comm_dup(MPI_COMM_WORLD, &work);
    MPI_Request persistent = MPI_REQUEST_NULL;
    if (world_rank == 0) MPI_Ssend_init(out[3], 100, MPI_UINT64_T, 1, PERSISTENT, work, &persistent);

    for (long round = 0; round < rounds; round++) {
        long large = round % 2 ? WORDS : 10, words[4] = {1, large, 2, WORDS - large + 10};
        for (int i = 0; i < 4; i++) fill(out[i], sizeof out[i], (uint64_t)(round * 4 + i));
        if (world_rank == 0) {
            MPI_Request send[SENDS], plain;
            MPI_Send(out[0], 1, MPI_UINT64_T, 1, SAME, work);
            MPI_Issend(out[1], (int)words[1], MPI_UINT64_T, 1, SAME, work, &send[0]);
            MPI_Isend(out[2], 2, MPI_UINT64_T, 1, SAME, work, &plain);
            MPI_Issend(out[3], (int)words[3], MPI_UINT64_T, 1, SAME, work, &send[1]);
            MPI_Start(&persistent);
            send[2] = persistent;
            for (int complete = 0; complete != (1 << SENDS) - 1;) {
                int asked, question;
                MPI_Iprobe(1, QUESTION, MPI_COMM_WORLD, &asked, MPI_STATUS_IGNORE);
                if (!asked) {
                    pause_ms(1);
                    continue;
                }
                MPI_Recv(&question, 1, MPI_INT, 1, QUESTION, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
                for (int i = 0; i < SENDS; i++) {
                    int done;
                    MPI_Request_get_status(send[i], &done, MPI_STATUS_IGNORE);
                    complete |= done << i;
                }
                MPI_Send(&complete, 1, MPI_INT, 1, ANSWER, MPI_COMM_WORLD);
            }
            MPI_Wait(&plain, MPI_STATUS_IGNORE);
            MPI_Waitall(SENDS, send, MPI_STATUSES_IGNORE);
            CHECK(send[2] == persistent, "the persistent request has changed");
        } else if (world_rank == 1) {
            int early;
            pause_ms(pause);
            int complete = ask();
            CHECK(complete == 0, "round %ld: complete %x before any receive", round, complete);
            MPI_Iprobe(2, DONE, MPI_COMM_WORLD, &early, MPI_STATUS_IGNORE);
            CHECK(!early, "round %ld: MPI_Ssend has returned before its receive", round);
            hash = fold(hash, receive(0, SAME, data, words[0]));
            pause_ms(pause);
            CHECK(ask() == 0, "round %ld: complete after the receive of another message", round);
            hash = fold(hash, receive(0, SAME, data, words[1]));
            completes(0, round);
            hash = fold(hash, receive(MPI_ANY_SOURCE, SAME, data, words[2]));
            pause_ms(pause);
            completes(0, round);
            MPI_Message message;
            MPI_Mprobe(0, MPI_ANY_TAG, work, &message, MPI_STATUS_IGNORE);
            pause_ms(pause);
            MPI_Mrecv(data, WORDS, MPI_UINT64_T, &message, MPI_STATUS_IGNORE);
            hash = fold(hash, hash_bytes(data, (size_t)words[3] * sizeof *data));
            completes(1, round);
            MPI_Iprobe(2, DONE, MPI_COMM_WORLD, &early, MPI_STATUS_IGNORE);
            CHECK(!early, "round %ld: MPI_Ssend has returned before its receive", round);
            MPI_Request request;
            MPI_Irecv(data, WORDS, MPI_UINT64_T, 0, PERSISTENT, work, &request);
            MPI_Wait(&request, MPI_STATUS_IGNORE);
            hash = fold(hash, hash_bytes(data, 100 * sizeof *data));
            completes(2, round);
            hash = fold(hash, receive(2, BLOCKING, data, large));
            MPI_Recv(&early, 1, MPI_INT, 2, DONE, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        } else if (world_rank == 2) {
            int done = 1;
            MPI_Ssend(out[0], (int)large, MPI_UINT64_T, 1, BLOCKING, work);
            MPI_Send(&done, 1, MPI_INT, 1, DONE, MPI_COMM_WORLD);
        }
    }
    if (world_rank == 0) MPI_Request_free(&persistent);
    MPI_Comm_free(&work);
    return finish(hash);
}
