// Children that borrow this process's memory for most of the time (vfork), and then execute a program.
// usage: borrowed ROUNDS PAUSE    (milliseconds that each borrows it)
#define _DEFAULT_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int main(int n, char **words) {
    if (n < 3) return 2;
    int rounds = atoi(words[1]), ended = 0;
    long pause = atol(words[2]);
    struct timespec nap = {pause / 1000, pause % 1000 * 1000000};
    for (int i = 0; i < rounds; i++) {
        pid_t child = vfork();
        if (child < 0) return 1;
        if (child == 0) {
            nanosleep(&nap, NULL);
            signal(SIGTERM, SIG_DFL); // as shells do
            execl("/bin/sh", "sh", "-c", "exit 3", (char *)NULL);
            _exit(127);
        }
        int status = 0;
        if (waitpid(child, &status, 0) == child && WIFEXITED(status)) ended += WEXITSTATUS(status);
    }
    // See common.h.
    const char *go = getenv("MANA_TEST_GO");
    while (go && access(go, F_OK)) usleep(10000);
    printf("RESULT %d\n", ended);
    return 0;
}
