/* A file of each process and one of all, overwritten in place by pwrite(2), without MPI's knowledge. What is read
 * is compared with memory.
 *   in_place [--rounds N] [--pause MS] */
#include "common.h"
#include <fcntl.h>
#include <sys/stat.h>

enum { CELLS = 300 * 1000, TOUCHED = 20, SPAN = 30 };

static uint64_t *cells[2], *found;
static int file[2];

static void whole(int which, long round)
{
    CHECK(pread(file[which], found, CELLS * 8, 0) == CELLS * 8, "round %ld: file %d is short", round, which);
    for (int i = 0; i < CELLS; i++)
        CHECK(found[i] == cells[which][i], "round %ld: cell %d of file %d is %lu, not %lu", round, i, which,
              (unsigned long)found[i], (unsigned long)cells[which][i]);
}

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 10), pause = option(argc, argv, "--pause", 0);
    char name[64];
    found = malloc(CELLS * 8);
    for (int which = 0; which < 2; which++) {
        snprintf(name, sizeof name, "in-place-%d", which ? -1 : world_rank);
        cells[which] = calloc(CELLS, 8);
        for (int i = 0; i < CELLS; i++) cells[which][i] = (uint64_t)i + (which ? 0 : (uint64_t)world_rank * 1000000);
        file[which] = open(name, O_RDWR | O_CREAT, 0600);
        CHECK(file[which] >= 0, "%s", name);
        CHECK(pwrite(file[which], cells[which], CELLS * 8, 0) == CELLS * 8, "%s", name);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    for (long round = 0; round < rounds; round++) {
        struct random own = {mix((uint64_t)round * 17 + (uint64_t)world_rank)}, common = {mix((uint64_t)round)};
        for (int k = 0; k < 2 * TOUCHED; k++) {
            int which = k % 2;
            unsigned first = below(which ? &common : &own, CELLS - SPAN);
            for (int i = 0; i < SPAN; i++) cells[which][first + i]++;
            /* All know what is in the file of all; each writes its part of it. */
            if (which == 0 || k / 2 % world_size == world_rank)
                CHECK(pwrite(file[which], cells[which] + first, SPAN * 8, first * 8) == SPAN * 8, "round %ld", round);
            /* What is written later may overlap. */
            if (which == 1) MPI_Barrier(MPI_COMM_WORLD);
        }
        pause_ms(pause / 2);
        whole(0, round), whole(1, round);
        MPI_Barrier(MPI_COMM_WORLD);
        pause_ms(pause / 2);
    }
    for (int which = 0; which < 2; which++) close(file[which]);
    return finish(fold(hash_bytes(cells[0], CELLS * 8), hash_bytes(cells[1], CELLS * 8)));
}
