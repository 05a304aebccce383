// Timed and untimed waits, interrupted by parks: each must take its time (not less, not much more)
// and none may fail with EINTR.
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }
static int bad, pipes[2];
static double limit = 1.0;
static void check(const char *what, double start, double want, int failed) {
    double took = now() - start;
    if (failed) { printf("%s failed: %s\n", what, strerror(errno)); bad = 1; }
    if (took < want - 0.005 || took > want + limit) { printf("%s took %.3f s instead of %.3f\n", what, took, want); bad = 1; }
}
static void *reader(void *a) { char c; (void)a; ssize_t n = read(pipes[0], &c, 1); return (void *)(long)(n == 1 ? c : -1000 - errno); }
static sem_t sem;
static void *waiter(void *a) { (void)a; return (void *)(long)(sem_wait(&sem) ? errno : 0); }
int main(int argc, char **argv) {
    double d = argc > 1 ? atof(argv[1]) : 0.4;
    if (argc > 2) limit = atof(argv[2]);
    int ms = (int)(d * 1000);
    if (pipe(pipes)) return 1;
    pthread_t r, w;
    pthread_create(&r, NULL, reader, NULL);
    sem_init(&sem, 0, 0);
    pthread_create(&w, NULL, waiter, NULL);
    struct timespec ts = {(time_t)d, (long)((d - (time_t)d) * 1e9)};
    int dead[2]; if (pipe(dead)) return 1;
    struct pollfd p = {.fd = dead[0], .events = POLLIN};
    double s;
    s = now(); check("poll", s, d, poll(&p, 1, ms) != 0);
    s = now(); check("ppoll", s, d, ppoll(&p, 1, &ts, NULL) != 0);
    s = now(); { fd_set f; FD_ZERO(&f); FD_SET(dead[0], &f); struct timeval tv = {ts.tv_sec, ts.tv_nsec / 1000}; check("select", s, d, select(dead[0] + 1, &f, NULL, NULL, &tv) != 0); }
    s = now(); check("nanosleep", s, d, nanosleep(&ts, NULL) != 0);
    s = now(); check("clock_nanosleep", s, d, clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL) != 0);
    s = now(); check("usleep", s, d, usleep(ms * 1000) != 0);
    int e = epoll_create1(0); struct epoll_event ev = {.events = EPOLLIN}; epoll_ctl(e, EPOLL_CTL_ADD, dead[0], &ev);
    s = now(); check("epoll_wait", s, d, epoll_wait(e, &ev, 1, ms) != 0);
    sigset_t set; sigemptyset(&set); sigaddset(&set, SIGUSR1); sigprocmask(SIG_BLOCK, &set, NULL);
    s = now(); { int q = sigtimedwait(&set, NULL, &ts); check("sigtimedwait", s, d, !(q < 0 && errno == EAGAIN)); }
    s = now(); { pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER; pthread_cond_t c = PTHREAD_COND_INITIALIZER; struct timespec at; clock_gettime(CLOCK_REALTIME, &at); at.tv_sec += ts.tv_sec; at.tv_nsec += ts.tv_nsec; if (at.tv_nsec >= 1000000000) { at.tv_nsec -= 1000000000; at.tv_sec++; } pthread_mutex_lock(&m); int q = pthread_cond_timedwait(&c, &m, &at); check("cond_timedwait", s, d, q != ETIMEDOUT); }
    if (write(pipes[1], "x", 1) != 1) return 1;
    sem_post(&sem);
    void *a, *b; pthread_join(r, &a); pthread_join(w, &b);
    if ((long)a != 'x' || b) { printf("read %ld sem %ld\n", (long)a, (long)b); bad = 1; }
    puts(bad ? "waits bad" : "waits good");
    return bad;
}
