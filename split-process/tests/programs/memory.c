// Memory of many kinds, changed at random and hashed: malloc of every size, break, anonymous maps,
// partial unmaps, mremap, mprotect (also to PROT_NONE), a private file map, a deep stack.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
static uint64_t state = 12345;
static uint64_t rnd(void) { state ^= state << 13; state ^= state >> 7; state ^= state << 17; return state; }
static uint64_t hash = 1469598103934665603ULL;
static void mix(const unsigned char *p, size_t n, size_t step) { for (size_t i = 0; i < n; i += step) hash = (hash ^ p[i]) * 1099511628211ULL; }
static uint64_t deep(int n) { volatile char pad[4096]; pad[n % 4096] = (char)n; return n == 0 ? 0 : deep(n - 1) + (uint64_t)(unsigned char)pad[n % 4096]; }
#define N 400
int main(void) {
    unsigned char *m[N] = {0}; size_t len[N]; int map[N];
    for (int r = 0; r < 6000; r++) {
        int i = rnd() % N;
        if (m[i]) {
            mix(m[i], len[i], 509);
            if (rnd() % 3 == 0) {
                size_t n = (rnd() % 40 + 1) * 4096;
                if (map[i]) { m[i] = mremap(m[i], len[i], n, MREMAP_MAYMOVE); if (m[i] == MAP_FAILED) { perror("mremap"); return 1; } }
                else m[i] = realloc(m[i], n);
                if (n > len[i]) memset(m[i] + len[i], (int)rnd(), n - len[i]);
                len[i] = n;
            } else if (map[i]) {
                if (len[i] > 8192 && rnd() % 2) { munmap(m[i], 4096); munmap(m[i] + 4096, len[i] - 4096); }
                else munmap(m[i], len[i]);
                m[i] = NULL;
            } else { free(m[i]); m[i] = NULL; }
        } else {
            map[i] = rnd() % 2;
            len[i] = map[i] ? (rnd() % 700 + 1) * 4096 : rnd() % 200000 + 16;
            m[i] = map[i] ? mmap(NULL, len[i], PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) : malloc(len[i]);
            if (!m[i] || m[i] == MAP_FAILED) { perror("alloc"); return 1; }
            for (size_t k = 0; k < len[i]; k += 251) m[i][k] = (unsigned char)rnd();
            if (!map[i]) memset(m[i], (int)rnd(), len[i]);
        }
        if (r % 500 == 0) hash ^= deep(300);
        if (r % 100 == 0) {
            char *b = sbrk(8192);
            if (b == (char *)-1) { perror("sbrk"); return 1; }
            memset(b, r, 8192); mix((unsigned char *)b, 8192, 1000);
        }
    }
    unsigned char *guard = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(guard, 0x5a, 16384);
    mprotect(guard, 16384, PROT_NONE);
    int fd = open("/proc/self/exe", O_RDONLY);
    char name[256]; ssize_t n = readlink("/proc/self/exe", name, sizeof name - 1); name[n > 0 ? n : 0] = 0;
    if (!strstr(name, "memory")) { printf("own path is %s\n", name); return 1; }
    close(fd);
    fd = open(name, O_RDONLY);
    unsigned char *file = mmap(NULL, 100000, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    close(fd);
    file[5] = 77;
    uint64_t x = 0;
    for (volatile long k = 0; k < 100000000; k++) x += k;
    mprotect(guard, 16384, PROT_READ);
    mix(guard, 16384, 64); mix(file, 64, 1);
    for (int i = 0; i < N; i++) if (m[i]) mix(m[i], len[i], 13);
    printf("%016llx %llu\n", (unsigned long long)hash, (unsigned long long)x);
    return 0;
}
