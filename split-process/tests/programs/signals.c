// Handlers with SA_SIGINFO, an alternate stack, masks, timers of every kind that sends a signal,
// sigsuspend, siglongjmp out of a handler, a handler reset by SA_RESETHAND, an ignored signal.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static volatile sig_atomic_t usr1, usr2, alarms, segv, on_alt;
static __thread int tls_seen;
static sigjmp_buf back;
static char alt[65536];
static void h1(int s, siginfo_t *i, void *u) {
    (void)s; (void)u;
    usr1++;
    tls_seen++;
    char here;
    if (&here >= alt && &here < alt + sizeof alt) on_alt++;
    if (i->si_code == SI_QUEUE && i->si_value.sival_int != 42) _exit(3);
    errno = 99;
}
static void h2(int s) { (void)s; usr2++; }
static void ha(int s) { (void)s; alarms++; }
static void hs(int s) { (void)s; segv++; siglongjmp(back, 1); }
static void *other(void *a) {
    while (!*(volatile int *)a) usleep(1000);
    return NULL;
}
int main(void) {
    stack_t ss = {.ss_sp = alt, .ss_size = sizeof alt};
    sigaltstack(&ss, NULL);
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_sigaction = h1; a.sa_flags = SA_SIGINFO | SA_ONSTACK; sigaction(SIGUSR1, &a, NULL);
    a.sa_flags = 0; a.sa_handler = h2; sigaction(SIGUSR2, &a, NULL);
    a.sa_handler = ha; a.sa_flags = SA_RESTART; sigaction(SIGALRM, &a, NULL);
    a.sa_handler = hs; a.sa_flags = SA_NODEFER; sigaction(SIGSEGV, &a, NULL);
    signal(SIGPIPE, SIG_IGN);
    int stop = 0;
    pthread_t t;
    sigset_t all, none;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &none); // from its first instruction: no signal is for the other thread
    pthread_create(&t, NULL, other, &stop);
    pthread_sigmask(SIG_SETMASK, &none, NULL);
    char *hole = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    long loops = 0;
    uint64_t sum = 0;
    for (int r = 0; r < 300; r++) {
        errno = 5;
        raise(SIGUSR1);
        sigqueue(getpid(), SIGUSR1, (union sigval){.sival_int = 42});
        errno = 5;
        sigset_t m, old;
        sigemptyset(&m);
        sigaddset(&m, SIGUSR2);
        sigprocmask(SIG_BLOCK, &m, &old);
        kill(getpid(), SIGUSR2);
        sigset_t p;
        sigpending(&p);
        if (!sigismember(&p, SIGUSR2)) { printf("not pending at %d\n", r); return 1; }
        sigsuspend(&old);
        sigprocmask(SIG_SETMASK, &old, NULL);
        if (!sigsetjmp(back, 1)) { *(volatile char *)hole = 1; }
        struct sigaction now;
        sigaction(SIGUSR2, NULL, &now);
        if (now.sa_handler != h2) { printf("handler lost\n"); return 1; }
        sigaction(SIGPIPE, NULL, &now);
        if (now.sa_handler != SIG_IGN) { printf("ignore lost\n"); return 1; }
        for (volatile int k = 0; k < 1000000; k++) sum += k;
        loops++;
    }
    stop = 1;
    pthread_join(t, NULL);
    printf("usr1 %d alt %d usr2 %d segv %d tls %d loops %ld sum %llu\n", usr1, on_alt, usr2, segv, tls_seen, loops,
           (unsigned long long)sum);
    return 0;
}
