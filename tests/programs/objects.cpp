// C++: the deprecated MPI:: bindings where the library has them with their error handlers and exceptions, exceptions of the
// program, containers, static constructors.
//   objects_cxx [--rounds N] [--pause MS]
#include <mpi.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

std::map<std::string, long> options = {{"--rounds", 150}, {"--pause", 20}};

struct Early {
    std::vector<std::uint64_t> table;
    Early() { for (std::uint64_t i = 0; i < 1000; i++) table.push_back(i * i); }
} early;

std::uint64_t mix(std::uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

void add_all(const void *in, void *out, int length, const MPI::Datatype &)
{
    auto a = static_cast<const std::uint64_t *>(in);
    auto b = static_cast<std::uint64_t *>(out);
    for (int i = 0; i < length; i++) b[i] += 3 * a[i] - 2 * a[i];
}

// What the handlers were called for, and the last class.
int comm_errors, win_errors, file_errors, last_class;

// The bindings hand over objects of theirs; the handler for communicators asks it something.
void on_comm(MPI::Comm &comm, int *code, ...)
{
    comm_errors++;
    last_class = MPI::Get_error_class(*code) + 1000 * comm.Get_size();
}

void on_win(MPI::Win &win, int *code, ...)
{
    win_errors++;
    last_class = MPI::Get_error_class(*code) + 1000 * win.Get_group().Get_size();
}

void on_file(MPI::File &, int *code, ...)
{
    file_errors++;
    last_class = MPI::Get_error_class(*code);
}

void check(bool good, const char *what)
{
    if (good) return;
    std::fprintf(stderr, "objects_cxx: %s (class %d, %d %d %d)\n", what, last_class, comm_errors, win_errors, file_errors);
    MPI::COMM_WORLD.Abort(3);
}

// The class of the error that `wrong` makes under MPI::ERRORS_THROW_EXCEPTIONS; Open MPI is built without exceptions, and
// leaves the code in a variable.
template <typename Wrong> int class_of(Wrong wrong)
{
#ifdef OPEN_MPI
    MPI::mpi_errno = MPI::SUCCESS;
    wrong();
    return MPI::Get_error_class(MPI::mpi_errno);
#else
    try {
        wrong();
    } catch (MPI::Exception &error) {
        return error.Get_error_class();
    }
    return MPI::SUCCESS;
#endif
}

}  // namespace

int main(int argc, char **argv)
{
    MPI::Init(argc, argv);
    for (int i = 1; i + 1 < argc; i += 2) options[argv[i]] = std::atol(argv[i + 1]);
    auto world = MPI::COMM_WORLD.Dup();
    int me = world.Get_rank(), size = world.Get_size(), left = (me + size - 1) % size, right = (me + 1) % size;
    std::uint64_t hash = static_cast<std::uint64_t>(me) + early.table[999];
    MPI::Op sum;
    sum.Init(add_all, true);
    auto strided = MPI::UNSIGNED_LONG.Create_vector(50, 1, 2);
    strided.Commit();

    // Handlers live as long as the program, and are called before and after a checkpoint.
    int cell = 0;
    auto win = MPI::Win::Create(&cell, sizeof cell, sizeof cell, MPI::INFO_NULL, world);
    auto comm_handler = MPI::Comm::Create_errhandler(on_comm);
    auto win_handler = MPI::Win::Create_errhandler(on_win);
    auto file_handler = MPI::File::Create_errhandler(on_file);
    win.Set_errhandler(win_handler);
    auto careful = world.Dup();

    for (long round = 0; round < options["--rounds"]; round++) {
        careful.Set_errhandler(comm_handler);
        auto wrong_rank = [&] { careful.Send(&cell, 1, MPI::INT, 99, 1); };
        comm_errors = win_errors = file_errors = 0;
        wrong_rank();
        check(comm_errors > 0 && last_class == MPI::ERR_RANK + 1000 * size, "a handler of a communicator");
        careful.Set_errhandler(MPI::ERRORS_THROW_EXCEPTIONS);
        check(careful.Get_errhandler() == MPI::ERRORS_THROW_EXCEPTIONS, "another handler than was set");
        check(class_of(wrong_rank) == MPI::ERR_RANK, "an exception");
        win.Call_errhandler(MPI::ERR_OTHER);
        check(win_errors == 1 && last_class == MPI::ERR_OTHER + 1000 * size, "a handler of a window");
#ifdef OPEN_MPI  // MPICH takes no handler for files that it has made in C++
        MPI::FILE_NULL.Set_errhandler(file_handler);
        if (round % 8 == 0) {
            auto name = "objects_cxx." + std::to_string(size);
            auto file = MPI::File::Open(world, name.c_str(), MPI::MODE_CREATE | MPI::MODE_RDWR | MPI::MODE_DELETE_ON_CLOSE, MPI::INFO_NULL);
            file.Call_errhandler(MPI::ERR_IO);
            check(file_errors == 1 && last_class == MPI::ERR_IO, "a handler of a file");
            file.Close();
        }
#endif
        std::vector<std::uint64_t> out(100), in(100);
        for (auto &word : out) word = hash = mix(hash + 1);
        auto receive = world.Irecv(in.data(), 1, strided, left, 1);
        world.Send(out.data(), 1, strided, right, 1);
        MPI::Status status;
        receive.Wait(status);
        if (status.Get_count(strided) != 1 || status.Get_source() != left || in[1] != 0) MPI::COMM_WORLD.Abort(3);
        for (auto word : in) hash = mix(hash ^ word);
        std::uint64_t total = 0;
        world.Allreduce(&hash, &total, 1, MPI::UNSIGNED_LONG, sum);
        hash = mix(hash + total);
        try {  // unwinding must work wherever the program was mapped
            if (round % 3 == 0) throw std::runtime_error(std::to_string(round));
        } catch (const std::runtime_error &error) {
            hash = mix(hash + std::strlen(error.what()));
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(options["--pause"]));
    }
    std::vector<std::uint64_t> all(static_cast<std::size_t>(size));
    world.Gather(&hash, 1, MPI::UNSIGNED_LONG, all.data(), 1, MPI::UNSIGNED_LONG, 0);
    if (me == 0) {
        for (auto word : all) hash = mix(hash ^ word);
        std::printf("RESULT %016llx\n", static_cast<unsigned long long>(hash));
    }
    careful.Free();
    win.Free();
    comm_handler.Free(), win_handler.Free(), file_handler.Free();
    strided.Free();
    sum.Free();
    world.Free();
    MPI::Finalize();
}
