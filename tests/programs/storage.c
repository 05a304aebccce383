/* Preloaded beside the MPI: notes in the file $STORAGE_NOTES what is brought to stable storage, and when.
 *   <nanoseconds since 1970> <call> <device>:<inode> <path> */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void note(const char *call, int fd)
{
    const char *notes = getenv("STORAGE_NOTES");
    char link[64], path[1024] = "", line[1200];
    struct stat found;
    struct timespec now;
    if (!notes || fstat(fd, &found) != 0) return;
    snprintf(link, sizeof link, "/proc/thread-self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length > 0 ? length : 0] = 0;
    clock_gettime(CLOCK_REALTIME, &now);
    int n = snprintf(line, sizeof line, "%lld%09ld %s %lx:%lu %s\n", (long long)now.tv_sec, now.tv_nsec, call,
                     (unsigned long)found.st_dev, (unsigned long)found.st_ino, path);
    int out = (int)syscall(SYS_openat, AT_FDCWD, notes, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (out < 0) return;
    syscall(SYS_write, out, line, (size_t)n);
    syscall(SYS_close, out);
}

/* Noted when it has succeeded. */
static int called(long number, const char *call, int fd)
{
    int result = (int)syscall(number, fd);
    if (result == 0) note(call, fd);
    return result;
}

int fdatasync(int fd) { return called(SYS_fdatasync, "fdatasync", fd); }
int fsync(int fd) { return called(SYS_fsync, "fsync", fd); }
int syncfs(int fd) { return called(SYS_syncfs, "syncfs", fd); }
