// owed ROUNDS [raise]
// A handler interrupts a wait that nothing else would end, again and again: the wait must always
// come back with EINTR, also if a park comes when the handler has just returned.
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static volatile sig_atomic_t seen;
static void count(int s) { (void)s; seen++; }
int main(int argc, char **argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 100000, wrong = 0;
    int raised = argc > 2; // for this thread alone
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_handler = count;
    sigaction(SIGUSR2, &a, NULL);
    sigset_t one, none;
    sigemptyset(&none);
    sigemptyset(&one);
    sigaddset(&one, SIGUSR2);
    sigprocmask(SIG_BLOCK, &one, NULL);
    for (int i = 0; i < rounds; i++) {
        if (raised) raise(SIGUSR2);
        else kill(getpid(), SIGUSR2);
        if (sigsuspend(&none) != -1 || errno != EINTR) wrong++;
    }
    printf("seen %d wrong %d\n", seen, wrong);
    return wrong;
}
