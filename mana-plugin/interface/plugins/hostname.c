/* A plug-in that wraps a function: a program that asks for its host's name goes on seeing the one it was started on,
 * also after a restart elsewhere (some name their files after it), while $MANA_REAL_HOSTNAME=1 shows the real one.
 *
 *   gcc -shared -fPIC -I.../mana/include hostname.c -o hostname.so -ldl
 *   plugins = ["/path/hostname.so"]      in mana.conf */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <mana.h>
#include <stdlib.h>
#include <string.h>

typedef int gethostname_t(char *, size_t);

static char first[256]; /* the program's memory: it is in every image */

static int real(char *name, size_t length)
{
    gethostname_t *next = (gethostname_t *)dlsym(RTLD_NEXT, "gethostname");
    return next ? next(name, length) : -1;
}

int gethostname(char *name, size_t length)
{
    const char *wanted = getenv("MANA_REAL_HOSTNAME");
    if (!*first || (wanted && *wanted == '1')) return real(name, length);
    strncpy(name, first, length);
    return 0;
}

static void restarted(int event, void *data)
{
    char now[256] = "";
    (void)event, (void)data;
    real(now, sizeof now - 1);
    mana_publish("host after restart", now);
}

__attribute__((constructor)) static void load(void)
{
    real(first, sizeof first - 1);
    mana_publish("first host", first);
    mana_on(MANA_EVENT_RESTARTED, restarted, NULL);
}
