// fork + wait, system, popen, posix_spawn, vfork + exec, a forked child with its own threads and heap.
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
extern char **environ;
static void *add(void *a) { return (void *)((long)a + 1); }
static void handler(int s) { (void)s; }
int main(int argc, char **argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 3;
    signal(SIGUSR1, handler);
    int good = 0;
    for (int i = 0; i < rounds; i++) {
        pid_t p = fork();
        if (p == 0) {
            char *big = malloc(3 << 20); memset(big, i, 3 << 20);
            char *small[2000]; for (int k = 0; k < 2000; k++) { small[k] = malloc(500); memset(small[k], k, 500); }
            signal(SIGUSR1, SIG_DFL); signal(SIGUSR2, handler); kill(getpid(), SIGUSR2);
            void *m = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            memset(m, 1, 1 << 20);
            pid_t q = fork();
            if (q == 0) _exit(4);
            int st; waitpid(q, &st, 0);
            exit(WEXITSTATUS(st) == 4 && big[5] == (char)i ? 7 : 8);
        }
        int st; waitpid(p, &st, 0); good += WIFEXITED(st) && WEXITSTATUS(st) == 7;
        good += system("exit 3") == 3 << 8;
        FILE *f = popen("echo out", "r"); char b[16] = ""; if (f) { if (fgets(b, sizeof b, f)) good += !strcmp(b, "out\n"); pclose(f); }
        char *av[] = {"sh", "-c", "exit 5", NULL}; posix_spawnp(&p, "sh", NULL, NULL, av, environ);
        waitpid(p, &st, 0); good += WEXITSTATUS(st) == 5;
        p = vfork(); if (p == 0) { execvp("sh", av); _exit(9); } waitpid(p, &st, 0); good += WEXITSTATUS(st) == 5;
        p = fork(); if (p == 0) { pthread_t t; void *r; pthread_create(&t, NULL, add, (void *)41); pthread_join(t, &r); _exit((long)r); }
        waitpid(p, &st, 0); good += WEXITSTATUS(st) == 42;
        for (volatile int k = 0; k < 20000000; k++) ;
    }
    printf("children %d of %d\n", good, rounds * 6);
    return good != rounds * 6;
}
