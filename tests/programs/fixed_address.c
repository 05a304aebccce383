/* A program that is not position independent: pointers to its data and functions, stored on the heap and on disk's
 * behalf in globals, must mean the same after a restart.   (built with -no-pie)
 *   fixed_address [--rounds N] [--pause MS] */
#include "common.h"

static uint64_t table[4096] = {1, 2, 3};
static uint64_t zeroes[1 << 16];

static uint64_t forward(uint64_t x) { return fold(x, 1); }
static uint64_t backward(uint64_t x) { return fold(x, 2); }

static uint64_t (*const steps[])(uint64_t) = {forward, backward};

int main(int argc, char **argv)
{
    start(&argc, &argv);
    CHECK((uintptr_t)&table < 0x10000000, "built position independent: the data is at %p", (void *)table);
    long rounds = option(argc, argv, "--rounds", 150), pause = option(argc, argv, "--pause", 20);
    uint64_t hash = 0, **pointers = malloc(64 * sizeof *pointers), (**chosen)(uint64_t) = malloc(64 * sizeof *chosen);
    for (int i = 0; i < 64; i++) pointers[i] = &table[i * 64], chosen[i] = steps[i % 2];

    for (long round = 0; round < rounds; round++) {
        uint64_t sum;
        for (int i = 0; i < 64; i++) *pointers[i] = chosen[i](*pointers[i] + (uint64_t)round);
        MPI_Allreduce(&table[64 * (round % 64)], &sum, 1, MPI_UINT64_T, MPI_BXOR, MPI_COMM_WORLD);
        zeroes[round % (1 << 16)] += sum;
        hash = fold(hash, sum);
        pause_ms(pause);
    }
    hash = fold(hash, fold(hash_bytes(table, sizeof table), hash_bytes(zeroes, sizeof zeroes)));
    free(pointers), free(chosen);
    return finish(hash);
}
