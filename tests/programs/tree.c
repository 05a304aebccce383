/* A process tree without MPI: a child that computes what the parent asks for through a pipe, a
 * grandchild that counts in shared memory under a semaphore, children that end and are waited for
 * late, a group of its own, a socket pair, a file position that two processes share.
 *
 * usage: tree ROUNDS PAUSE    (milliseconds between rounds)
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct shared {
    sem_t lock;
    uint64_t sum;
    uint64_t turns;
};

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void fetch(int fd, void *to, size_t n) {
    for (size_t done = 0; done < n;) {
        ssize_t got = read(fd, (char *)to + done, n - done);
        if (got == 0) exit(40);
        if (got < 0 && errno != EINTR) die("read");
        if (got > 0) done += got;
    }
}

static void put(int fd, const void *from, size_t n) {
    for (size_t done = 0; done < n;) {
        ssize_t sent = write(fd, (const char *)from + done, n - done);
        if (sent < 0 && errno != EINTR) die("write");
        if (sent > 0) done += sent;
    }
}

static uint64_t mix(uint64_t x) {
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdu;
    x ^= x >> 33;
    x *= 0xc4ceb9fe1a85ec53u;
    return x ^ x >> 33;
}

static uint64_t compute(uint64_t seed) {
    for (int i = 0; i < 200000; i++) seed = mix(seed + i);
    return seed;
}

static void nap(long ms) {
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&t, &t) < 0 && errno == EINTR) {}
}

static volatile sig_atomic_t nudged;
static void nudge(int s) {
    (void)s;
    nudged++;
}

/* Adds to shared memory for every byte it is sent, until the other end is closed. */
static void grandchild(struct shared *shared, int fd) {
    uint64_t own = 1;
    unsigned char byte;
    for (;;) {
        ssize_t got = read(fd, &byte, 1);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        own = mix(own + byte);
        sem_wait(&shared->lock);
        shared->sum += own;
        shared->turns++;
        sem_post(&shared->lock);
        put(fd, &byte, 1);
    }
    _exit(own % 50);
}

static void child(int in, int out, struct shared *shared, int log) {
    int pair[2], status;
    pid_t self = getpid(), parent = getppid();
    char *heap = malloc(1 << 20);
    memset(heap, 7, 1 << 20);
    if (setpgid(0, 0) != 0) die("setpgid");
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) die("socketpair");
    pid_t below = fork();
    if (below == 0) {
        close(pair[0]);
        close(in);
        close(out);
        grandchild(shared, pair[1]);
    }
    close(pair[1]);
    uint64_t asked, state = 0;
    for (;;) {
        fetch(in, &asked, sizeof asked);
        if (asked == 0) break;
        state = compute(state ^ asked ^ heap[asked % (1 << 20)]);
        heap[state % (1 << 20)]++;
        unsigned char byte = state, back = 0;
        put(pair[0], &byte, 1);
        fetch(pair[0], &back, 1);
        if (back != byte) _exit(41);
        if (getpid() != self || getppid() != parent || getpgrp() != self) _exit(42);
        if (kill(below, 0) != 0) _exit(43);
        dprintf(log, "%d", (int)(state % 10));
        kill(parent, SIGUSR1);
        put(out, &state, sizeof state);
    }
    close(pair[0]);
    if (waitpid(below, &status, 0) != below || !WIFEXITED(status)) _exit(44);
    uint64_t end = mix(state + WEXITSTATUS(status));
    put(out, &end, sizeof end);
    exit(17);
}

int main(int argc, char **argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 20, wait_ms = argc > 2 ? atoi(argv[2]) : 0;
    struct shared *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED || sem_init(&shared->lock, 1, 1) != 0) die("shared memory");
    struct sigaction action = {.sa_handler = nudge, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    char path[64];
    snprintf(path, sizeof path, "tree.log.%d", (int)getpid());
    int log = open(path, O_CREAT | O_TRUNC | O_RDWR, 0600), to[2], from[2], status;
    if (log < 0 || pipe(to) != 0 || pipe(from) != 0) die("descriptors");
    pid_t worker = fork();
    if (worker == 0) {
        close(to[1]);
        close(from[0]);
        child(to[0], from[1], shared, log);
    }
    close(to[0]);
    close(from[1]);
    /* Both have ended, and are not waited for until the end. */
    pid_t early = fork();
    if (early == 0) _exit(5);
    pid_t killed = fork();
    if (killed == 0) for (;;) pause();
    kill(killed, SIGKILL);
    siginfo_t told;
    if (waitid(P_PID, early, &told, WEXITED | WNOWAIT) != 0 || told.si_pid != early) die("waitid");
    uint64_t hash = 1;
    for (int i = 1; i <= rounds; i++) {
        uint64_t asked = mix(hash + i) | 1, answer;
        put(to[1], &asked, sizeof asked);
        dprintf(log, ".");
        if (wait_ms) nap(wait_ms);
        fetch(from[0], &answer, sizeof answer);
        hash = mix(hash ^ answer);
        pid_t quick = fork();
        if (quick == 0) {
            if (wait_ms) nap(wait_ms / 4);
            _exit((int)(hash % 100));
        }
        pid_t found;
        while ((found = waitpid(quick, &status, 0)) < 0 && errno == EINTR) {}
        if (found != quick || !WIFEXITED(status)) die("waitpid");
        hash = mix(hash + WEXITSTATUS(status));
    }
    const char *go = getenv("MANA_TEST_GO"); /* see common.h */
    while (go && access(go, F_OK) != 0) nap(20);
    uint64_t none = 0, end;
    put(to[1], &none, sizeof none);
    fetch(from[0], &end, sizeof end);
    int codes = 0;
    pid_t gone;
    while ((gone = wait(&status)) > 0 || errno == EINTR) {
        if (gone == worker && WIFEXITED(status) && WEXITSTATUS(status) == 17) codes += 1;
        else if (gone == early && WIFEXITED(status) && WEXITSTATUS(status) == 5) codes += 10;
        else if (gone == killed && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) codes += 100;
        else if (gone > 0) codes += 1000;
        errno = 0;
    }
    off_t length = lseek(log, 0, SEEK_CUR);
    unlink(path);
    printf("RESULT %016llx %016llx %016llx %llu codes %d log %ld\n", (unsigned long long)hash,
           (unsigned long long)end, (unsigned long long)shared->sum, (unsigned long long)shared->turns, codes,
           (long)length);
    return nudged == 0;
}
