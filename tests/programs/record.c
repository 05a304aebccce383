/* Records which MPI procedures a program calls, and on objects of what age: a PMPI layer to preload, like a user's
 * profiler. Built for one MPI with the list of its procedures (PROCEDURES, generated from the table) and the name
 * of its library (LIBRARY):
 *
 *     X(name, "what", array, count)    what: two letters for each parameter: of a handle its kind, and < where it
 *                                      is given, > where it comes out, = for both; array, count: positions of an
 *                                      array of requests and of its length, or -1; k, a key of attributes, is an int
 *
 * MANA_RECORD names a directory; each process writes `<program>.<rank>.<pid>` there when it finalizes: name, calls,
 * first and last epoch of a call, calls on an object at least two epochs old, and how often an object that the
 * procedure made was found so old. The epoch is a number in the file MANA_RECORD_EPOCH, which grows when a
 * checkpoint was seen to be complete and when the program was started again: between two events whose epochs
 * differ by two or more there is a checkpoint. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <x86intrin.h>

#define ARGUMENTS 16
typedef long word;
typedef word function(word, word, word, word, word, word, word, word, word, word, word, word, word, word, word, word);

struct procedure {
    const char *name, *what;
    int array, count;
};

static const struct procedure table[] = {
#define X(name, what, array, count) {#name, what, array, count},
#include PROCEDURES
#undef X
};
enum { TOTAL = sizeof table / sizeof table[0] };

static struct tally {
    function *target;
    atomic_long calls, old, outlived;
    int first, last;
} tallies[TOTAL];

/* What is known of a handle: which procedure made it, when, and how often a procedure returned it: so often it is freed. A
 * place is shared by all that have its hash. */
static struct object {
    unsigned long key;
    int maker, birth, held;
} objects[1 << 16];

static atomic_flag busy = ATOMIC_FLAG_INIT;
static char directory[4096], epoch_file[4096];
static int rank = -1;

static void name(char *to, size_t room, const char *variable)
{
    const char *value = getenv(variable);
    snprintf(to, room, "%s", value ? value : "");
}

static int epoch(void)
{
    static int now;
    static unsigned long long looked;
    unsigned long long time = __rdtsc();
    if (time - looked > 20000000) {
        char text[32] = "";
        int file;
        looked = time;
        if (!directory[0]) {
            const char *number = getenv("OMPI_COMM_WORLD_RANK");
            if (!number) number = getenv("PMI_RANK");
            rank = number ? atoi(number) : 0;
            name(directory, sizeof directory, "MANA_RECORD");
            name(epoch_file, sizeof epoch_file, "MANA_RECORD_EPOCH");
        }
        file = open(epoch_file, O_RDONLY | O_CLOEXEC);
        if (file >= 0) {
            if (read(file, text, sizeof text - 1) > 0 && atoi(text) > now) now = atoi(text);
            close(file);
        }
    }
    return now;
}

static int is_int(char kind)
{
#ifdef HANDLES_ARE_INT
    return kind != 0;
#else
    return kind == 'k';
#endif
}

static word handle(char kind, word value) { return is_int(kind) ? (word)(unsigned)value : value; }

static word pointed(char kind, word pointer)
{
    if (!pointer) return 0;
    return is_int(kind) ? (word) * (unsigned *)pointer : *(word *)pointer;
}

static struct object *place(char kind, word value, unsigned long *key)
{
    *key = ((unsigned long)(kind | 0x20) << 56) ^ (unsigned long)value;
    return &objects[*key * 0x9e3779b97f4a7c15u >> 48];
}

static void lock(void) { while (atomic_flag_test_and_set_explicit(&busy, memory_order_acquire)) {} }
static void unlock(void) { atomic_flag_clear_explicit(&busy, memory_order_release); }

static void made(int maker, char kind, word value, int now)
{
    unsigned long key;
    struct object *object = place(kind, value, &key);
    if (!value) return;
    lock();
    if (object->key != key) {
        *object = (struct object){key, maker, now, 1};
    } else { /* it was asked for, not made */
        object->held += kind == 'e';
        if (object->birth + 2 <= now) {
            tallies[maker].old++;
            tallies[object->maker].outlived++;
        }
    }
    unlock();
}

static void gone(char kind, word value)
{
    unsigned long key;
    struct object *object = place(kind, value, &key);
    lock();
    if (object->key == key && --object->held <= 0) object->key = 0;
    unlock();
}

static void used(int user, char kind, word value, int now)
{
    unsigned long key;
    struct object *object = place(kind, value, &key);
    lock();
    if (value && object->key == key && object->birth + 2 <= now) {
        tallies[user].old++;
        tallies[object->maker].outlived++;
    }
    unlock();
}

static void report(void)
{
    char path[8192];
    FILE *file;
    if (!directory[0] || rank < 0) return;
    snprintf(path, sizeof path, "%s/%s.%d.%d", directory, program_invocation_short_name, rank, (int)getpid());
    file = fopen(path, "w");
    if (!file) return;
    for (int i = 0; i < TOTAL; i++)
        if (tallies[i].calls)
            fprintf(file, "%s %ld %d %d %ld %ld\n", table[i].name, (long)tallies[i].calls, tallies[i].first,
                    tallies[i].last, (long)tallies[i].old, (long)tallies[i].outlived);
    fclose(file);
}

static function *real(int i)
{
    if (!tallies[i].target) {
        char text[128];
        snprintf(text, sizeof text, "P%s", table[i].name);
        tallies[i].target = (function *)dlsym(RTLD_NEXT, text);
        /* Open MPI's extensions have no other name. */
        if (!tallies[i].target) tallies[i].target = (function *)dlsym(RTLD_NEXT, table[i].name);
        /* A module of Python has the library for itself. */
        if (!tallies[i].target) {
            void *library = dlopen(LIBRARY, RTLD_LAZY | RTLD_NOLOAD);
            tallies[i].target = library ? (function *)dlsym(library, text) : NULL;
        }
        if (!tallies[i].target) {
            fprintf(stderr, "record: there is no %s\n", text);
            abort();
        }
    }
    return tallies[i].target;
}

static void count(int i)
{
    int now = epoch();
    if (tallies[i].calls++ == 0) tallies[i].first = now;
    tallies[i].last = now;
}

/* The address of element k of an array of handles. */
static word element(word array, int k)
{
#ifdef HANDLES_ARE_INT
    return array + k * (word)sizeof(int);
#else
    return array + k * (word)sizeof(word);
#endif
}

static word call(int i, word *a)
{
    const struct procedure *p = &table[i];
    word before[ARGUMENTS] = {0}, several[64];
    int length = p->array >= 0 ? (int)a[p->count] : 0, now;
    word rc;
    count(i);
    now = tallies[i].last;
    if (length < 0 || length > 64 || (length && !a[p->array])) length = 0;
    for (int k = 0; p->what[2 * k]; k++) {
        char kind = p->what[2 * k], way = p->what[2 * k + 1];
        if (way == '<') used(i, kind, handle(kind, a[k]), now);
        if (way == '=') used(i, kind, before[k] = pointed(kind, a[k]), now);
    }
    for (int k = 0; k < length; k++) used(i, 'r', several[k] = pointed('r', element(a[p->array], k)), now);
    rc = real(i)(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]);
    for (int k = 0; p->what[2 * k]; k++) {
        char kind = p->what[2 * k], way = p->what[2 * k + 1];
        if (way == '>' && (int)rc == 0) made(i, kind, pointed(kind, a[k]), epoch());
        if (way == '=' && pointed(kind, a[k]) != before[k]) gone(kind, before[k]);
    }
    for (int k = 0; k < length; k++)
        if (pointed('r', element(a[p->array], k)) != several[k]) gone('r', several[k]);
    if (strcmp(p->name, "MPI_Finalize") == 0) report();
    return rc;
}

__attribute__((destructor)) static void end(void) { report(); }

/* Integers and pointers travel alike, and what a caller did not pass is not looked at. */
enum {
#define X(name, what, array, count) number_of_##name,
#include PROCEDURES
#undef X
};
#define X(name, what, array, count)                                                                                  \
    word name(word a, word b, word c, word d, word e, word f, word g, word h, word i, word j, word k, word l, word m, \
              word n, word o, word p)                                                                                \
    {                                                                                                                \
        word all[ARGUMENTS] = {a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p};                                      \
        return call(number_of_##name, all);                                                                          \
    }
#define MPI_Wtime generic_Wtime
#define MPI_Wtick generic_Wtick
#include PROCEDURES
#undef X
#undef MPI_Wtime
#undef MPI_Wtick

/* But for these two, whose result is no integer. */
double MPI_Wtime(void)
{
    count(number_of_MPI_Wtime);
    return ((double (*)(void))real(number_of_MPI_Wtime))();
}

double MPI_Wtick(void)
{
    count(number_of_MPI_Wtick);
    return ((double (*)(void))real(number_of_MPI_Wtick))();
}
