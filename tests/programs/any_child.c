// Makes one child after the other and waits for any, until the file argv[1] exists. Counts children that are
// not its own, and SIGCHLD beyond one for each child. SIGTERM does nothing.
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile sig_atomic_t signals;

static void ended(int signal) {
    (void)signal;
    signals++;
}

static void announced(int signal) { (void)signal; }

int main(int n, char **words) {
    struct sigaction action = {.sa_handler = ended, .sa_flags = SA_RESTART};
    sigaction(SIGCHLD, &action, NULL);
    action.sa_handler = announced;
    sigaction(SIGTERM, &action, NULL);
    int made = 0, strange = 0;
    while (n > 1 && access(words[1], F_OK)) {
        pid_t child = fork();
        if (child < 0) return 1;
        if (child == 0) {
            usleep(20000);
            _exit(0);
        }
        made++;
        for (;;) {
            pid_t got = waitpid(-1, NULL, 0);
            if (got == child) break;
            if (got < 0 && errno == EINTR) continue;
            if (got < 0) return 2;
            strange++;
        }
    }
    int extra = signals > made ? signals - made : 0;
    printf("RESULT %d strange children, %d signals too many\n", strange, extra);
    return 0;
}
