// A handler without SA_RESTART must interrupt a read, also if a park came first. An alarm that goes
// off just before the read is lost, as it may be natively; the next one comes 200 ms later. A few of
// those are allowed for.
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static void h(int s) { (void)s; }
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }
int main(void) {
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_handler = h;
    sigaction(SIGALRM, &a, 0);
    int p[2], n = 0, late = 0;
    if (pipe(p)) return 1;
    for (int i = 0; i < 100; i++) {
        struct itimerval t = {{0, 200000}, {0, 40000}};
        double start = now();
        setitimer(ITIMER_REAL, &t, 0);
        char c;
        ssize_t r = read(p[0], &c, 1);
        if (r == -1 && errno == EINTR) n++;
        late += now() - start > 0.15;
    }
    printf("eintr %d %s\n", n, late < 30 ? "in time" : "late");
    return 0;
}
