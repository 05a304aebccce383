/* Without MPI: counts with pauses until there is a file, or some minutes are over.
 *
 *   serial FILE */
#include <stdio.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    unsigned result = 1;
    for (int round = 0; round < 3000; round++) {
        result = result * 31 + (unsigned)round % 97;
        if (argc < 2 || access(argv[1], F_OK) != 0) {
            struct timespec pause = {0, 100000000};
            nanosleep(&pause, NULL);
        }
    }
    printf("RESULT %u\n", result);
    return 0;
}
