/* Programs that wait for the test, and tell it how far they are: by files in their directory. After common.h. */
#ifndef MANA_TEST_WAITING_H
#define MANA_TEST_WAITING_H

/* Until a file is there. All see it, or none: who asks alone may go where the others do not. */
static inline void wait_for_file(const char *name)
{
    for (int there = 0; !there;) {
        pause_ms(20);
        there = access(name, F_OK) == 0;
        MPI_Bcast(&there, 1, MPI_INT, 0, MPI_COMM_WORLD);
    }
}

/* All have come here: a file says so. */
static inline void make_file(const char *name)
{
    MPI_Barrier(MPI_COMM_WORLD);
    if (world_rank == 0) fclose(fopen(name, "w"));
}

#endif
