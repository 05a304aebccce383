/* A computation that asks for its checkpoints itself, where its state is small.
 *
 *   gcc -I.../mana/include loop.c -o loop        (mpicc for an MPI program)
 *   mana_launch ./loop [STEPS [MILLISECONDS]]
 *
 * Without mana it runs as well. */
#include <mana.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static FILE *results;

/* Nothing of ours may be half written when an image is taken: callbacks run on a thread of their own. */
static void flush(int event, void *data)
{
    (void)event, (void)data;
    fflush(results);
}

int main(int argc, char **argv)
{
    int steps = argc > 1 ? atoi(argv[1]) : 100, pause = argc > 2 ? atoi(argv[2]) : 10;
    double *scratch = malloc(1 << 24), sum = 0;
    results = fopen("loop.results", "w");
    if (!scratch || !results) return 1;
    mana_on(MANA_EVENT_CHECKPOINT, flush, NULL);
    mana_exclude(scratch, 1 << 24); /* computed anew in every step: 16 MiB less in each image */
    for (int step = 0; step < steps; step++) {
        for (int i = 0; i < 1 << 21; i++) scratch[i] = 1.0 / (i + step + 1);
        for (int i = 0; i < 1 << 21; i++) sum += scratch[i];
        mana_hold("results of a step"); /* the two lines come together, or not at all */
        fprintf(results, "step %d\n", step);
        fprintf(results, "sum %.17g\n", sum);
        mana_release();
        if (step == steps / 2) {
            char text[40];
            snprintf(text, sizeof text, "%.6f", sum);
            mana_publish("sum", text);
            switch (mana_checkpoint(MANA_LEVEL_HIGHEST, MANA_WAIT)) {
            case MANA_CONTINUED: fprintf(stderr, "half way: checkpoint taken\n"); break;
            case MANA_RESUMED: fprintf(stderr, "half way: resumed\n"); break;
            case MANA_ERR_NOT_RUNNING: break;
            default: fprintf(stderr, "half way: no checkpoint\n");
            }
        }
        struct timespec time = {pause / 1000, pause % 1000 * 1000000L};
        nanosleep(&time, NULL);
    }
    fclose(results);
    mana_include(scratch, 1 << 24);
    free(scratch);
    printf("RESULT %.17g\n", sum);
    return 0;
}
