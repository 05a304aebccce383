/* Microbenchmarks between two ranks; one line each: `BENCH <name> <value> <unit>`. Smaller is better for ns,
 * larger for MB/s.   micro [--seconds-per-part S in tenths]
 *
 * The first tenth of each part warms up and is not measured. */
#include "common.h"

enum { WINDOW = 64, LARGE = 1 << 20 };

static double tenths = 5;

static void report(const char *name, double value, const char *unit)
{
    if (world_rank == 0) printf("BENCH %s %.3f %s\n", name, value, unit);
    fflush(stdout);
}

/* Calls of `part(n)` are sized so that one takes about the part's time; all ranks agree on n. */
static double timed(void (*part)(long), long first)
{
    double took = 0;
    long count = first;
    for (;;) {
        MPI_Barrier(MPI_COMM_WORLD);
        double begin = MPI_Wtime();
        part(count);
        took = MPI_Wtime() - begin;
        MPI_Bcast(&took, 1, MPI_DOUBLE, 0, MPI_COMM_WORLD);
        if (took > tenths * 0.01) break;
        count *= 4;
    }
    count = (long)((double)count * tenths * 0.1 / took) + 1;
    MPI_Barrier(MPI_COMM_WORLD);
    double begin = MPI_Wtime();
    part(count);
    took = MPI_Wtime() - begin;
    MPI_Bcast(&took, 1, MPI_DOUBLE, 0, MPI_COMM_WORLD);
    return took / (double)count;
}

static void ranks(long count)
{
    int rank;
    for (long i = 0; i < count; i++) {
        MPI_Comm_rank(MPI_COMM_WORLD, &rank);
        __asm__ volatile("" : : "r"(rank) : "memory");
    }
}

static void sizes_of_types(long count)
{
    int size;
    for (long i = 0; i < count; i++) {
        MPI_Type_size(MPI_DOUBLE, &size);
        __asm__ volatile("" : : "r"(size) : "memory");
    }
}

static void pingpong(long count)
{
    uint64_t word = 0;
    for (long i = 0; i < count; i++) {
        if (world_rank == 0) {
            MPI_Send(&word, 8, MPI_BYTE, 1, 1, MPI_COMM_WORLD);
            MPI_Recv(&word, 8, MPI_BYTE, 1, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        } else if (world_rank == 1) {
            MPI_Recv(&word, 8, MPI_BYTE, 0, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            MPI_Send(&word, 8, MPI_BYTE, 0, 1, MPI_COMM_WORLD);
        }
    }
}

static void allreduce(long count)
{
    double word = 1, sum;
    for (long i = 0; i < count; i++) MPI_Allreduce(&word, &sum, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
}

static void window(long count)
{
    static uint64_t words[WINDOW];
    MPI_Request requests[WINDOW];
    MPI_Status statuses[WINDOW];
    char ready;
    for (long i = 0; i < count; i++) {
        for (int j = 0; j < WINDOW; j++) {
            if (world_rank == 0) MPI_Isend(&words[j], 8, MPI_BYTE, 1, 2, MPI_COMM_WORLD, &requests[j]);
            else MPI_Irecv(&words[j], 8, MPI_BYTE, 0, 2, MPI_COMM_WORLD, &requests[j]);
        }
        MPI_Waitall(WINDOW, requests, statuses);
        if (world_rank == 0) MPI_Recv(&ready, 1, MPI_BYTE, 1, 3, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        else MPI_Send(&ready, 1, MPI_BYTE, 0, 3, MPI_COMM_WORLD);
    }
}

static void stream(long count)
{
    static char data[LARGE];
    for (long i = 0; i < count; i++) {
        if (world_rank == 0) MPI_Send(data, LARGE, MPI_BYTE, 1, 4, MPI_COMM_WORLD);
        else if (world_rank == 1) MPI_Recv(data, LARGE, MPI_BYTE, 0, 4, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    }
    char done = 0;
    if (world_rank == 1) MPI_Send(&done, 1, MPI_BYTE, 0, 5, MPI_COMM_WORLD);
    else if (world_rank == 0) MPI_Recv(&done, 1, MPI_BYTE, 1, 5, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
}

int main(int argc, char **argv)
{
    start(&argc, &argv);
    CHECK(world_size == 2, "needs 2 ranks, has %d", world_size);
    tenths = (double)option(argc, argv, "--tenths", 5);
    report("comm_rank", timed(ranks, 10000) * 1e9, "ns");
    report("type_size", timed(sizes_of_types, 10000) * 1e9, "ns");
    report("pingpong_8B", timed(pingpong, 100) * 1e9 / 2, "ns");
    report("allreduce_8B", timed(allreduce, 100) * 1e9, "ns");
    report("message_window64", timed(window, 10) * 1e9 / WINDOW, "ns");
    report("bandwidth_1MiB", LARGE / timed(stream, 4) / 1e6, "MB/s");
    MPI_Finalize();
    return 0;
}
