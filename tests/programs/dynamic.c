/* Dynamic processes: children are spawned and talked to, disconnected, then rounds in which checkpoints are possible, and at the
 * end children again, connections through a port and over a socket. While children are connected no checkpoint can be taken.
 *   dynamic [--rounds N] [--pause MS] [--connected MS] */
#include "common.h"
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

static MPI_Info hints; /* empty */

static int child(MPI_Comm parent)
{
    int rank, size, value, sum;
    MPI_Comm all;
    MPI_Comm_rank(parent, &rank);
    MPI_Comm_remote_size(parent, &size);
    MPI_Recv(&value, 1, MPI_INT, 0, 1, parent, MPI_STATUS_IGNORE);
    value = value * 2 + rank;
    MPI_Send(&value, 1, MPI_INT, 0, 2, parent);
    MPI_Bcast(&value, 1, MPI_INT, 0, parent);
    MPI_Intercomm_merge(parent, 1, &all);
    MPI_Allreduce(&value, &sum, 1, MPI_INT, MPI_SUM, all);
    MPI_Comm_free(&all);
    MPI_Comm_disconnect(&parent);
    MPI_Finalize();
    return 0;
}

static int spawned(char *program, int base, long hold, int several)
{
    MPI_Comm children, all;
    char *arguments[] = {(char *)"--child", (char *)"1", NULL};
    int codes[2] = {-1, -1}, size, got[2] = {0, 0}, flag, value, sum, out[2] = {base, base + 10};
    if (several) {
        char *programs[] = {program, program}, **all_arguments[] = {arguments, arguments};
        int one_each[] = {1, 1};
        MPI_Info infos[] = {MPI_INFO_NULL, MPI_INFO_NULL};
        MPI_Comm_spawn_multiple(2, programs, all_arguments, one_each, infos, 0, MPI_COMM_WORLD, &children, codes);
    } else {
        MPI_Comm_spawn(program, arguments, 2, MPI_INFO_NULL, 0, MPI_COMM_WORLD, &children, codes);
    }
    CHECK(codes[0] == MPI_SUCCESS && codes[1] == MPI_SUCCESS, "codes %d, %d", codes[0], codes[1]);
    MPI_Comm_test_inter(children, &flag);
    MPI_Comm_remote_size(children, &size);
    CHECK(flag && size == 2, "%d children", size);
    if (world_rank == 0)
        for (int i = 0; i < 2; i++) MPI_Send(&out[i], 1, MPI_INT, i, 1, children);
    pause_ms(hold);
    if (world_rank == 0)
        for (int i = 0; i < 2; i++) {
            MPI_Recv(&got[i], 1, MPI_INT, i, 2, children, MPI_STATUS_IGNORE);
            CHECK(got[i] == out[i] * 2 + i, "child %d answered %d", i, got[i]);
        }
    value = 100 + base;
    MPI_Bcast(&value, 1, MPI_INT, world_rank == 0 ? MPI_ROOT : MPI_PROC_NULL, children);
    MPI_Intercomm_merge(children, 0, &all);
    MPI_Comm_size(all, &size);
    CHECK(size == world_size + 2, "%d in all", size);
    MPI_Allreduce(&value, &sum, 1, MPI_INT, MPI_SUM, all);
    CHECK(sum == size * value, "sum %d", sum);
    MPI_Comm_free(&all);
    MPI_Comm_disconnect(&children);
    CHECK(children == MPI_COMM_NULL, "a handle is left");
    return sum;
}

/* Rank 0 accepts on a port what the last rank connects to. */
static int connected(void)
{
    char port[MPI_MAX_PORT_NAME];
    MPI_Comm other;
    int value = 41 + world_rank, got = 0, last = world_size - 1;
    if (world_rank == 0) {
        MPI_Open_port(hints, port);
        MPI_Send(port, MPI_MAX_PORT_NAME, MPI_CHAR, last, 9, MPI_COMM_WORLD);
        MPI_Comm_accept(port, MPI_INFO_NULL, 0, MPI_COMM_SELF, &other);
        MPI_Close_port(port);
    } else if (world_rank == last) {
        MPI_Recv(port, MPI_MAX_PORT_NAME, MPI_CHAR, 0, 9, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        MPI_Comm_connect(port, MPI_INFO_NULL, 0, MPI_COMM_SELF, &other);
    } else {
        return 0;
    }
    MPI_Sendrecv(&value, 1, MPI_INT, 0, 3, &got, 1, MPI_INT, 0, 3, other, MPI_STATUS_IGNORE);
    CHECK(got == 41 + (world_rank ? 0 : last), "the other side sent %d", got);
    MPI_Comm_disconnect(&other);
    return got;
}

enum { MOST = 8 };
static MPI_Comm pair[MOST], merged[MOST];

/* Rank 0 accepts each of the others in turn; these connections within the job stay, over checkpoints. */
static void pair_up(void)
{
    char port[MPI_MAX_PORT_NAME];
    for (int other = 1; other < world_size; other++) {
        if (world_rank == 0) {
            MPI_Open_port(hints, port);
            MPI_Send(port, MPI_MAX_PORT_NAME, MPI_CHAR, other, 9, MPI_COMM_WORLD);
            MPI_Comm_accept(port, MPI_INFO_NULL, 0, MPI_COMM_SELF, &pair[other]);
            MPI_Close_port(port);
            MPI_Intercomm_merge(pair[other], 0, &merged[other]);
        } else if (world_rank == other) {
            MPI_Recv(port, MPI_MAX_PORT_NAME, MPI_CHAR, 0, 9, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            MPI_Comm_connect(port, MPI_INFO_NULL, 0, MPI_COMM_SELF, &pair[0]);
            MPI_Intercomm_merge(pair[0], 1, &merged[0]);
        }
    }
}

static int in_pairs(int end)
{
    int total = 0;
    for (int other = 1; other < world_size; other++) {
        int index = world_rank == 0 ? other : 0, value = 100 * world_rank + other, got = 0, sum = 0;
        if (world_rank != 0 && world_rank != other) continue;
        MPI_Sendrecv(&value, 1, MPI_INT, 0, 3, &got, 1, MPI_INT, 0, 3, pair[index], MPI_STATUS_IGNORE);
        CHECK(got == (world_rank ? other : 101 * other), "of pair %d: %d", other, got);
        MPI_Allreduce(&value, &sum, 1, MPI_INT, MPI_SUM, merged[index]);
        CHECK(sum == 102 * other, "sum of pair %d: %d", other, sum);
        total += sum;
        if (end) MPI_Comm_free(&merged[index]), MPI_Comm_disconnect(&pair[index]);
    }
    return total;
}

/* Rank 0 and the last one are joined over a socket they have made. */
static int joined(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    MPI_Comm other;
    int value = 61 + world_rank, got = 0, last = world_size - 1, port, end;
    if (world_rank == 0) {
        int listener = socket(AF_INET, SOCK_STREAM, 0);
        CHECK(bind(listener, (struct sockaddr *)&address, sizeof address) == 0 && listen(listener, 1) == 0, "no port");
        getsockname(listener, (struct sockaddr *)&address, &length);
        port = address.sin_port;
        MPI_Send(&port, 1, MPI_INT, last, 9, MPI_COMM_WORLD);
        end = accept(listener, NULL, NULL);
        close(listener);
    } else if (world_rank == last) {
        MPI_Recv(&port, 1, MPI_INT, 0, 9, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        address.sin_port = (in_port_t)port;
        end = socket(AF_INET, SOCK_STREAM, 0);
        CHECK(connect(end, (struct sockaddr *)&address, sizeof address) == 0, "no connection");
    } else {
        return 0;
    }
    CHECK(MPI_Comm_join(end, &other) == MPI_SUCCESS && other != MPI_COMM_NULL, "not joined");
    MPI_Sendrecv(&value, 1, MPI_INT, 0, 3, &got, 1, MPI_INT, 0, 3, other, MPI_STATUS_IGNORE);
    CHECK(got == 61 + (world_rank ? 0 : last), "the other side sent %d", got);
    MPI_Comm_disconnect(&other);
    close(end);
    return got;
}

int main(int argc, char **argv)
{
    MPI_Comm parent;
    start(&argc, &argv);
    MPI_Comm_get_parent(&parent);
    if (parent != MPI_COMM_NULL) return child(parent);
    CHECK(option(argc, argv, "--child", 0) == 0, "a child without a parent");
    long rounds = option(argc, argv, "--rounds", 100), pause = option(argc, argv, "--pause", 50);
    MPI_Info_create(&hints);
    uint64_t hash = (uint64_t)spawned(argv[0], 5, option(argc, argv, "--connected", 2500), 0);
    CHECK(world_size <= MOST, "%d ranks", world_size);
    pair_up();
    for (long round = 0; round < rounds; round++) {
        int sum;
        hash = fold(hash, (uint64_t)in_pairs(0));
        MPI_Allreduce(&world_rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
        hash = fold(hash, (uint64_t)(sum + round));
        pause_ms(pause);
    }
    hash = fold(hash, (uint64_t)in_pairs(1));
    hash = fold(hash, (uint64_t)spawned(argv[0], 7, 0, 1));
    hash = fold(hash, (uint64_t)connected());
    hash = fold(hash, (uint64_t)joined());
    MPI_Info_free(&hints);
    return finish(hash);
}
