/* Errors of requests on files and windows: which handler is called, with which class, what is returned, and that what is under
 * way beside them goes on. The result is the native one of the same library. Errors that come when such a request is completed
 * are not here: Open MPI 4.1.4 crashes in them, MPICH 4.0.2 waits for ever, both without us too.
 *   failures [--rounds N] [--pause MS] [--show 1] */
#include "common.h"

static uint64_t hash;
static int show;
static int of_file, of_window, of_world, class_told;

static int class_of(int code)
{
    int class = -1;
    MPI_Error_class(code, &class);
    return class;
}

static void file_told(MPI_File *file, int *code, ...)
{
    (void)file;
    of_file++, class_told = class_of(*code);
}

static void window_told(MPI_Win *win, int *code, ...)
{
    (void)win;
    of_window++, class_told = class_of(*code);
}

static void world_told(MPI_Comm *comm, int *code, ...)
{
    (void)comm;
    of_world++, class_told = class_of(*code);
}

static void note(const char *call, int code)
{
    if (show && world_rank == 0)
        fprintf(stderr, "%-76s class %d, file %d, window %d, world %d, told %d\n", call, class_of(code), of_file, of_window, of_world, class_told);
    /* MPICH calls the handler of a file twice for a request. */
    int all[] = {class_of(code), of_file > 0, of_window, of_world, class_told};
    hash = fold(hash, hash_bytes(all, sizeof all));
    of_file = of_window = of_world = class_told = 0;
}

#define TRY(call) note(#call, call)

static void on_files(MPI_File readable, MPI_File writable, MPI_File list)
{
    int data[4] = {0};
    MPI_Request request;
    MPI_Status status;
    TRY(MPI_File_iwrite(readable, data, 1, MPI_INT, &request));
    TRY(MPI_File_iwrite_at(readable, 0, data, 1, MPI_INT, &request));
#ifdef MPICH_VERSION /* what the other one of them starts all the same is left out */
    TRY(MPI_File_iread_at(readable, -8, data, 1, MPI_INT, &request));
    TRY(MPI_File_iwrite_at(list, 0, data, 1, MPI_INT, &request));
#else
    TRY(MPI_File_iwrite_shared(readable, data, 1, MPI_INT, &request));
#endif
    TRY(MPI_File_iread(writable, data, 1, MPI_INT, &request));
    TRY(MPI_File_iread_at(writable, 0, data, 1, MPI_INT, &request));
    TRY(MPI_File_iread_at(readable, 0, data, -1, MPI_INT, &request));
    TRY(MPI_File_iread_at(readable, 0, data, 1, MPI_DATATYPE_NULL, &request));
    TRY(MPI_File_iread_at(MPI_FILE_NULL, 0, data, 1, MPI_INT, &request));
    TRY(MPI_File_write_at(readable, 0, data, 1, MPI_INT, &status));
}

static void on_windows(MPI_Win win)
{
    long word = 1, got = 0;
    MPI_Request request;
    TRY(MPI_Rput(&word, 1, MPI_LONG, 99, 0, 1, MPI_LONG, win, &request));
    TRY(MPI_Rget(&got, 1, MPI_LONG, 99, 0, 1, MPI_LONG, win, &request));
    TRY(MPI_Rput(&word, -1, MPI_LONG, 0, 0, 1, MPI_LONG, win, &request));
    TRY(MPI_Rget(&got, 1, MPI_DATATYPE_NULL, 0, 0, 1, MPI_LONG, win, &request));
    TRY(MPI_Raccumulate(&word, 1, MPI_LONG, 99, 0, 1, MPI_LONG, MPI_SUM, win, &request));
    TRY(MPI_Rget_accumulate(&word, 1, MPI_LONG, &got, 1, MPI_LONG, 99, 0, 1, MPI_LONG, MPI_SUM, win, &request));
}

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 60), pause = option(argc, argv, "--pause", 70);
    show = (int)option(argc, argv, "--show", 0);
    MPI_Errhandler of_files, of_windows, of_comms;
    MPI_File writable, readable, list;
    MPI_Win win;
    long memory[4] = {0};
    int right = (world_rank + 1) % world_size, left = (world_rank + world_size - 1) % world_size;
    MPI_File_create_errhandler(file_told, &of_files);
    MPI_Win_create_errhandler(window_told, &of_windows);
    MPI_Comm_create_errhandler(world_told, &of_comms);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, of_comms), MPI_Comm_set_errhandler(MPI_COMM_SELF, of_comms);
    MPI_File_open(MPI_COMM_WORLD, "failures-1", MPI_MODE_CREATE | MPI_MODE_WRONLY, MPI_INFO_NULL, &writable);
    MPI_File_open(MPI_COMM_WORLD, "failures-1", MPI_MODE_RDONLY, MPI_INFO_NULL, &readable);
    MPI_File_open(MPI_COMM_WORLD, "failures-2", MPI_MODE_CREATE | MPI_MODE_WRONLY | MPI_MODE_SEQUENTIAL, MPI_INFO_NULL, &list);
    MPI_File *files[] = {&writable, &readable, &list};
    for (int i = 0; i < 3; i++) MPI_File_set_errhandler(*files[i], of_files);
    MPI_Win_create(memory, sizeof memory, sizeof *memory, MPI_INFO_NULL, MPI_COMM_WORLD, &win);
    MPI_Win_set_errhandler(win, of_windows);
    MPI_Win_lock_all(0, win);
    MPI_Barrier(MPI_COMM_WORLD);
    for (long round = 0; round < rounds; round++) {
        long word = round * 10 + world_rank, found = -1;
        MPI_Request put, write;
        MPI_Rput(&word, 1, MPI_LONG, right, 1, 1, MPI_LONG, win, &put);
        MPI_File_iwrite_at(writable, 8 * world_rank, &word, 1, MPI_LONG, &write);
        on_files(readable, writable, list);
        on_windows(win);
        pause_ms(pause);
        CHECK(MPI_Wait(&put, MPI_STATUS_IGNORE) == MPI_SUCCESS && MPI_Wait(&write, MPI_STATUS_IGNORE) == MPI_SUCCESS, "round %ld: requests", round);
        MPI_Win_flush_all(win);
        MPI_Barrier(MPI_COMM_WORLD);
        MPI_Win_sync(win);
        CHECK(memory[1] == round * 10 + left, "round %ld: %ld in the window", round, memory[1]);
        MPI_File_read_at(readable, 8 * left, &found, 1, MPI_LONG, MPI_STATUS_IGNORE);
        CHECK(found == round * 10 + left, "round %ld: %ld in the file", round, found);
        MPI_Barrier(MPI_COMM_WORLD);
        show = 0;
    }
    MPI_Win_unlock_all(win);
    MPI_Win_free(&win);
    for (int i = 0; i < 3; i++) MPI_File_close(files[i]);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_ARE_FATAL), MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_ARE_FATAL);
    MPI_Errhandler_free(&of_files), MPI_Errhandler_free(&of_windows), MPI_Errhandler_free(&of_comms);
    return finish(hash);
}
