// Arguments, environment, stdio, exit code.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(int argc, char **argv) {
    printf("hello");
    for (int i = 1; i < argc; i++) printf(" %s", argv[i]);
    printf(" HOME=%d\n", getenv("HOME") != NULL);
    return argc == 1 ? 0 : atoi(argv[1]);
}
