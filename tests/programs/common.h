/* What the test programs share: arguments, a seeded generator, a hash, checks and the closing line.
 *
 * Every program is deterministic: its last line, `RESULT <hash>` printed by rank 0, depends on its arguments and
 * the number of ranks only. A failed check is reported on stderr and ends the job with exit code 3. */
#ifndef MANA_TEST_COMMON_H
#define MANA_TEST_COMMON_H

#ifndef MPI_H /* of a program that is also built without */
#include <mpi.h>
#endif
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int world_rank, world_size;

#define CHECK(condition, ...)                                                                         \
    do {                                                                                              \
        if (!(condition)) {                                                                           \
            fprintf(stderr, "rank %d: %s:%d: %s: ", world_rank, __FILE__, __LINE__, #condition);      \
            fprintf(stderr, __VA_ARGS__);                                                             \
            fputc('\n', stderr);                                                                      \
            MPI_Abort(MPI_COMM_WORLD, 3);                                                             \
        }                                                                                             \
    } while (0)

/* A handle through Fortran by the functions of the library, where its header has macros of the same names. */
#define THROUGH_FORTRAN(name, type, handle)                                                           \
    do {                                                                                              \
        MPI_Fint(MPI_##name##_c2f)(type);                                                             \
        type(MPI_##name##_f2c)(MPI_Fint);                                                             \
        CHECK((MPI_##name##_f2c)((MPI_##name##_c2f)(handle)) == (handle), #name " through Fortran");  \
    } while (0)

/* The value of `--name VALUE` among the arguments, else `otherwise`. */
static inline const char *text_option(int argc, char **argv, const char *name, const char *otherwise)
{
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], name) == 0) return argv[i + 1];
    return otherwise;
}

static inline long option(int argc, char **argv, const char *name, long otherwise)
{
    const char *text = text_option(argc, argv, name, NULL);
    return text ? atol(text) : otherwise;
}

#ifdef MPI_MAX_LIBRARY_VERSION_STRING
/* Whether the MPI has this in its name. */
static inline int library_is(const char *name)
{
    char version[MPI_MAX_LIBRARY_VERSION_STRING];
    int length;
    MPI_Get_library_version(version, &length);
    return strstr(version, name) != NULL;
}
#endif

/* KiB of this process that are its own: what the libraries share between processes is not counted. */
static inline long resident(void)
{
    long anonymous = -1;
    char line[200];
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status)) sscanf(line, "RssAnon: %ld kB", &anonymous);
    if (status) fclose(status);
    return anonymous;
}

/* splitmix64: also the mixing function of every hash below. */
static inline uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static inline uint64_t fold(uint64_t hash, uint64_t value) { return mix(hash ^ mix(value)); }

static inline uint64_t hash_bytes(const void *data, size_t length)
{
    const unsigned char *byte = data;
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < length; i++) hash = (hash ^ byte[i]) * 0x100000001b3u;
    return mix(hash ^ length);
}

/* A generator that all ranks can hold in step. */
struct random {
    uint64_t state;
};

static inline uint64_t next(struct random *random)
{
    random->state += 0x9e3779b97f4a7c15u;
    return mix(random->state);
}

static inline unsigned below(struct random *random, unsigned bound) { return (unsigned)(next(random) % bound); }

static inline void fill(void *data, size_t length, uint64_t seed)
{
    unsigned char *byte = data;
    uint64_t word = 0;
    for (size_t i = 0; i < length; i++) {
        if (i % 8 == 0) word = mix(seed + i);
        byte[i] = (unsigned char)(word >> (8 * (i % 8)));
    }
}

/* Pauses are over once this file exists (`--until FILE`): who waits for something lets the program end quickly then. */
static const char *pauses_end;

/* Let `milliseconds` pass, asleep. A handler or a checkpoint in between does not shorten it. */
static inline void pause_ms(long milliseconds)
{
    if (pauses_end && access(pauses_end, F_OK) == 0) return;
    struct timespec left = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    while (milliseconds > 0 && nanosleep(&left, &left) != 0) {}
}

static inline void start(int *argc, char ***argv)
{
    pauses_end = text_option(*argc, *argv, "--until", NULL);
    MPI_Init(argc, argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &world_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world_size);
}

/* Who kills the program does not race with its end: it waits for this file, if MANA_TEST_GO names one. */
static inline void wait_to_end(void)
{
    const char *go = getenv("MANA_TEST_GO");
    while (go && access(go, F_OK) != 0) usleep(20000);
}

/* Fold the ranks' hashes in rank order, print the closing line and finalize. */
static inline int finish(uint64_t hash)
{
    wait_to_end();
    uint64_t *all = calloc((size_t)world_size, sizeof *all);
    MPI_Gather(&hash, 1, MPI_UINT64_T, all, 1, MPI_UINT64_T, 0, MPI_COMM_WORLD);
    if (world_rank == 0) {
        uint64_t result = (uint64_t)world_size;
        for (int i = 0; i < world_size; i++) result = fold(result, all[i]);
        printf("RESULT %016llx\n", (unsigned long long)result);
        fflush(stdout);
    }
    free(all);
    MPI_Finalize();
    return 0;
}

#endif
