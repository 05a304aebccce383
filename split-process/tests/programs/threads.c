// Threads with a mutex, a condition variable, a recursive mutex held for long, and thread-local
// storage; threads are made and joined all the time.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t recursive;
static pthread_cond_t turn = PTHREAD_COND_INITIALIZER;
static long counter, next_turn;
static __thread uint64_t local = 1;
static int rounds = 20000;
static void *worker(void *a) {
    long me = (long)a;
    uint64_t h = me;
    for (int i = 0; i < rounds; i++) {
        local = local * 6364136223846793005ULL + me;
        pthread_mutex_lock(&lock);
        counter++;
        pthread_mutex_unlock(&lock);
        if (i % 100 == 0) {
            pthread_mutex_lock(&recursive);
            pthread_mutex_lock(&recursive);
            for (volatile int k = 0; k < 10000; k++) ;
            pthread_mutex_unlock(&recursive);
            pthread_mutex_unlock(&recursive);
        }
        if (i % 1000 == 0) {
            pthread_mutex_lock(&lock);
            while (next_turn % 4 != me) pthread_cond_wait(&turn, &lock);
            next_turn++;
            pthread_cond_broadcast(&turn);
            pthread_mutex_unlock(&lock);
        }
    }
    h ^= local;
    return (void *)h;
}
static void *brief(void *a) { local += (long)a; return (void *)(long)local; }
int main(void) {
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&recursive, &attr);
    pthread_t t[4];
    uint64_t sum = 0;
    for (long i = 0; i < 4; i++) pthread_create(&t[i], NULL, worker, (void *)i);
    for (long i = 0; i < 2000; i++) {
        pthread_t b; void *r;
        if (pthread_create(&b, NULL, brief, (void *)i)) { puts("create failed"); return 1; }
        pthread_join(b, &r);
        sum += (uint64_t)r;
    }
    for (int i = 0; i < 4; i++) { void *r; pthread_join(t[i], &r); sum ^= (uint64_t)r; }
    printf("counter %ld turns %ld sum %016llx\n", counter, next_turn, (unsigned long long)sum);
    return 0;
}
