// Pure computation for about a second; prints a hash that any disturbance of a register changes.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv) {
    long rounds = argc > 1 ? atol(argv[1]) : 200000000L;
    uint64_t h = 0x9e3779b97f4a7c15ULL;
    double x = 1.0;
    for (long i = 0; i < rounds; i++) {
        h ^= h << 13; h ^= h >> 7; h ^= h << 17;
        x = x * 1.0000000001 + (double)(h & 7) * 1e-9;
    }
    printf("%016llx %.17g\n", (unsigned long long)h, x);
    return 0;
}
