/* A plug-in that only listens: it publishes how long each checkpoint kept the program from running on (from the
 * first callback before it to the callback after it) and counts restarts.
 *
 *   gcc -shared -fPIC -I.../mana/include timing.c -o timing.so
 *   plugins = ["/path/timing.so"]        in mana.conf
 *
 * A plug-in is a library that is loaded into the program before all others. It registers in its constructor what it
 * wants to hear of; the program knows nothing of it. */
#include <mana.h>
#include <stdio.h>
#include <time.h>

static struct timespec since;
static int taken, restarted;

static void told(int event, void *data)
{
    char text[100];
    struct timespec now;
    (void)data;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (event == MANA_EVENT_CHECKPOINT) {
        since = now;
        return;
    }
    /* The clock goes on from the image: time between an end and a resume is not in it. */
    double seconds = (double)(now.tv_sec - since.tv_sec) + 1e-9 * (double)(now.tv_nsec - since.tv_nsec);
    if (event == MANA_EVENT_CONTINUED) taken++;
    else restarted++;
    snprintf(text, sizeof text, "%.6f s, %d taken, %d restarts", seconds, taken, restarted);
    mana_publish("timing", text);
}

__attribute__((constructor)) static void load(void)
{
    for (int event = MANA_EVENT_CHECKPOINT; event <= MANA_EVENT_RESTARTED; event++) mana_on(event, told, NULL);
}
