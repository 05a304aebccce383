// Libraries opened late: constructors, thread-local storage of their own, symbols, closed and opened
// again; the C library's own plug-ins (iconv) too. Compiled twice: as the program, and with -DPART
// as a library.
#ifdef PART
#include <stdint.h>
static __thread uint64_t mine = 17;
static __thread char wide[30000];
static uint64_t made;
__attribute__((constructor)) static void begin(void) { made = 3; }
uint64_t step(uint64_t x) {
    mine = mine * 6364136223846793005ULL + x + made;
    wide[x % sizeof wide]++;
    return mine ^ (unsigned char)wide[7];
}
#else
#include <dlfcn.h>
#include <iconv.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
static const char *path;
static int rounds = 25;
static void *worker(void *a) {
    uint64_t hash = (uint64_t)a;
    void *library = dlopen(path, RTLD_NOW);
    uint64_t (*step)(uint64_t) = library ? (uint64_t (*)(uint64_t))dlsym(library, "step") : 0;
    if (!step) { puts(dlerror()); return 0; }
    for (int r = 0; r < rounds; r++) {
        for (int i = 0; i < 200000; i++) hash ^= step(hash);
        void *again = dlopen(path, RTLD_NOW);
        if (again != library || dlclose(again)) return 0;
    }
    return (void *)hash;
}
int main(int argc, char **argv) {
    if (argc < 2) return 2;
    path = argv[1];
    pthread_t t[2];
    uint64_t hash = 0;
    for (long i = 0; i < 2; i++) pthread_create(&t[i], NULL, worker, (void *)(i + 1));
    for (int r = 0; r < rounds; r++) {
        void *math = dlopen("libm.so.6", RTLD_NOW);
        double (*cosine)(double) = math ? (double (*)(double))dlsym(math, "cos") : 0;
        if (!cosine) { puts(dlerror()); return 1; }
        double value = cosine(r);
        memcpy(&hash, &value, sizeof hash);
        dlclose(math);
        iconv_t conversion = iconv_open("UTF-8", "ISO-8859-15");
        char in[] = "\244", out[8] = "", *from = in, *to = out;
        size_t left = 1, room = sizeof out;
        if (conversion == (iconv_t)-1 || iconv(conversion, &from, &left, &to, &room)) { perror("iconv"); return 1; }
        iconv_close(conversion);
        if (strcmp(out, "\xe2\x82\xac")) return 1;
        for (volatile int k = 0; k < 2000000; k++) ;
    }
    for (int i = 0; i < 2; i++) { void *r; pthread_join(t[i], &r); hash = hash * 31 + (uint64_t)r; }
    printf("%016llx\n", (unsigned long long)hash);
    return 0;
}
#endif
