/* The application interface of mana: for programs that want to know about their checkpoints.
 *
 * Nothing to link. Every function here looks for its counterpart in the running process and answers
 * MANA_ERR_NOT_RUNNING (mana_running: 0) where there is none: the same binary runs with and without mana.
 * Needs GNU C or clang on Linux x86-64; elsewhere everything answers "not running". C and C++.
 *
 * docs/guide/interface.md in full; MIT or Apache-2.0. */
#ifndef MANA_H
#define MANA_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Levels of a checkpoint. */
enum {
    MANA_LEVEL_HIGHEST = 0, /* the highest the job has */
    MANA_LEVEL_LOCAL = 1,
    MANA_LEVEL_PARTNER = 2,
    MANA_LEVEL_GROUP = 3,
    MANA_LEVEL_GLOBAL = 4
};

/* Flags of mana_checkpoint. */
enum {
    MANA_WAIT = 1 /* return when the checkpoint is complete on its level; collective in MPI programs */
};

/* Results of mana_checkpoint. */
enum {
    MANA_REQUESTED = 0, /* asked for (without MANA_WAIT) */
    MANA_CONTINUED = 1, /* taken; the program goes on */
    MANA_RESUMED = 2    /* this process was started from an image, and the call returns there */
};

/* Errors of all functions. */
enum {
    MANA_ERR_NOT_RUNNING = -1, /* not under mana (or in a forked child) */
    MANA_ERR_ARGUMENT = -2,
    MANA_ERR_FAILED = -3, /* the checkpoint was not taken; standard error says why */
    MANA_ERR_CLOSED = -4, /* no checkpoints now: before MPI_Init, after MPI_Finalize, or unprotected */
    MANA_ERR_BUSY = -5,   /* this thread holds checkpoints back, or runs a callback */
    MANA_ERR_FULL = -6    /* more than there is room for */
};

/* Events of mana_on. */
enum {
    MANA_EVENT_CHECKPOINT = 1, /* before the threads are stopped for an image */
    MANA_EVENT_CONTINUED = 2,  /* after it, in the same process; also when it was given up */
    MANA_EVENT_RESTARTED = 3   /* after it, in a process resumed from that image */
};

typedef void (*mana_callback)(int event, void *data);

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__)
/* The address of NAME in this process, or null: a weak reference through the global offset table, which
 * works in executables of every kind (one that is not position-independent would settle any other kind
 * of weak reference when it is linked). */
#define MANA_FIND_(name, into) \
    __asm__(".weak " #name "\n\tmovq " #name "@GOTPCREL(%%rip), %0" : "=r"(into))
#else
#define MANA_FIND_(name, into) ((into) = NULL)
#endif

/* Is this process under mana? 1 or 0. */
static inline int mana_running(void)
{
    int (*f)(void);
    MANA_FIND_(mana_1_running, f);
    return f ? f() : 0;
}

/* How often the program was resumed. */
static inline int mana_restarts(void)
{
    int (*f)(void);
    MANA_FIND_(mana_1_restarts, f);
    return f ? f() : MANA_ERR_NOT_RUNNING;
}

/* Asks for a checkpoint of LEVEL. Without flags returns MANA_REQUESTED at once (any thread of any rank).
 * With MANA_WAIT returns MANA_CONTINUED or MANA_RESUMED; in an MPI program all ranks call it, each on a
 * thread that may call MPI. */
static inline int mana_checkpoint(int level, int flags)
{
    int (*f)(int, int);
    MANA_FIND_(mana_1_checkpoint, f);
    return f ? f(level, flags) : MANA_ERR_NOT_RUNNING;
}

/* No checkpoint of the job until as many mana_release of this process. WHY (may be null) is what a
 * message says when a checkpoint waits for it. */
static inline int mana_hold(const char *why)
{
    int (*f)(const char *);
    MANA_FIND_(mana_1_hold, f);
    return f ? f(why) : MANA_ERR_NOT_RUNNING;
}

static inline int mana_release(void)
{
    int (*f)(void);
    MANA_FIND_(mana_1_release, f);
    return f ? f() : MANA_ERR_NOT_RUNNING;
}

/* Has CALLBACK(EVENT, DATA) called at every such event, on a thread of mana's own in this process. */
static inline int mana_on(int event, mana_callback callback, void *data)
{
    int (*f)(int, mana_callback, void *);
    MANA_FIND_(mana_1_on, f);
    return f ? f(event, callback, data) : MANA_ERR_NOT_RUNNING;
}

/* The whole pages of the range are left out of images and are zero after a restart. Unmapping ends it;
 * memory of malloc must be included again before it is freed. */
static inline int mana_exclude(const void *address, size_t length)
{
    int (*f)(const void *, size_t);
    MANA_FIND_(mana_1_exclude, f);
    return f ? f(address, length) : MANA_ERR_NOT_RUNNING;
}

/* Takes mana_exclude with the same arguments back. */
static inline int mana_include(const void *address, size_t length)
{
    int (*f)(const void *, size_t);
    MANA_FIND_(mana_1_include, f);
    return f ? f(address, length) : MANA_ERR_NOT_RUNNING;
}

/* Leaves a key (up to 100 bytes) and a value (up to 4000) for the report. */
static inline int mana_publish(const char *key, const char *value)
{
    int (*f)(const char *, const char *);
    MANA_FIND_(mana_1_publish, f);
    return f ? f(key, value) : MANA_ERR_NOT_RUNNING;
}

#undef MANA_FIND_

#ifdef __cplusplus
}
#endif
#endif
