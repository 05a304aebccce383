/* Preloaded into the scripts and tools that stand between the launcher and the program (`srun mana_launch
 * ./wrapper.sh`, `mpirun mana_launch numactl ./app`): what they execute goes through `mana wrapped`, which puts MPI
 * programs under control and executes everything else as it is. See mana-plugin/commands/src/wrapper.rs.
 *
 * Ordinary processes, not the split one. Runs in children of vfork too: no allocation, no locks, only the stack.
 * A target that is missing or may not be executed goes to the real call, so that its error is the usual one. */
#define _GNU_SOURCE
#include <alloca.h>
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LAUNCHER "MANA_WRAPPER="

typedef int execve_t(const char *, char *const *, char *const *);
typedef int spawn_t(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *,
                    char *const *, char *const *);

static execve_t *next_execve;
static spawn_t *next_spawn;
static int in_launcher; /* this is `mana` itself, which knows what it executes */

__attribute__((constructor)) static void find_next(void)
{
    char own[PATH_MAX];
    const char *launcher = getenv("MANA_WRAPPER");
    ssize_t n = readlink("/proc/self/exe", own, sizeof own);
    in_launcher = launcher && n > 0 && strlen(launcher) == (size_t)n && memcmp(own, launcher, (size_t)n) == 0;
    next_execve = (execve_t *)dlsym(RTLD_NEXT, "execve");
    next_spawn = (spawn_t *)dlsym(RTLD_NEXT, "posix_spawn");
}

/* The path of `mana` in an environment; null where the program was not told about us, or no longer wants to know. */
static const char *launcher_of(char *const *environment)
{
    for (; environment && *environment; environment++)
        if (strncmp(*environment, LAUNCHER, sizeof LAUNCHER - 1) == 0) return *environment + sizeof LAUNCHER - 1;
    return NULL;
}

static size_t length(char *const *argv)
{
    size_t n = 0;
    while (argv && argv[n]) n++;
    return n;
}

/* Whether `path` is to go through the launcher. */
static int diverted(const char *launcher, const char *path)
{
    return launcher && path && !in_launcher && access(path, X_OK) == 0;
}

/* launcher wrapped ARGV0 PATH ARGUMENTS... ; `out` has room for five more words than argv. */
static void divert(const char *launcher, const char *path, char *const *argv, const char **out)
{
    size_t n = length(argv);
    out[0] = launcher, out[1] = "wrapped", out[2] = n ? argv[0] : path, out[3] = path;
    for (size_t i = 1; i < n; i++) out[3 + i] = argv[i];
    out[n ? 3 + n : 4] = NULL;
}

/* The file that execvp would execute. */
static const char *on_path(const char *name, char *room)
{
    const char *path = getenv("PATH");
    if (strchr(name, '/')) return name;
    if (!path) path = "/bin:/usr/bin";
    while (*path) {
        size_t n = strcspn(path, ":");
        if (snprintf(room, PATH_MAX, "%.*s/%s", n ? (int)n : 1, n ? path : ".", name) < PATH_MAX &&
            access(room, X_OK) == 0)
            return room;
        path += n + (path[n] == ':');
    }
    return NULL;
}

int execve(const char *path, char *const argv[], char *const environment[])
{
    const char *launcher = launcher_of(environment);
    if (!diverted(launcher, path)) return next_execve(path, argv, environment);
    const char **words = alloca((length(argv) + 5) * sizeof *words);
    divert(launcher, path, argv, words);
    return next_execve(launcher, (char *const *)words, environment);
}

int execv(const char *path, char *const argv[]) { return execve(path, argv, environ); }

int execvpe(const char *name, char *const argv[], char *const environment[])
{
    char room[PATH_MAX];
    const char *path = on_path(name, room);
    if (!path) {
        errno = ENOENT;
        return -1;
    }
    return execve(path, argv, environment);
}

int execvp(const char *name, char *const argv[]) { return execvpe(name, argv, environ); }

int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
                const posix_spawnattr_t *attributes, char *const argv[], char *const environment[])
{
    const char *launcher = launcher_of(environment);
    if (!diverted(launcher, path)) return next_spawn(pid, path, actions, attributes, argv, environment);
    const char **words = alloca((length(argv) + 5) * sizeof *words);
    divert(launcher, path, argv, words);
    return next_spawn(pid, launcher, actions, attributes, (char *const *)words, environment);
}

int posix_spawnp(pid_t *pid, const char *name, const posix_spawn_file_actions_t *actions,
                 const posix_spawnattr_t *attributes, char *const argv[], char *const environment[])
{
    char room[PATH_MAX];
    const char *path = on_path(name, room);
    return path ? posix_spawn(pid, path, actions, attributes, argv, environment) : ENOENT;
}
