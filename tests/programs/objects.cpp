// C++: the deprecated MPI:: bindings where the library has them, exceptions, containers, static constructors.
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

    for (long round = 0; round < options["--rounds"]; round++) {
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
    strided.Free();
    sum.Free();
    world.Free();
    MPI::Finalize();
}
