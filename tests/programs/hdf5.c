/* A parallel HDF5 file, open for the whole run: a data set that grows by a layer in each round, one that is overwritten, and groups
 * and attributes that come and go, so that the file's own tables are rewritten all the time. Everything is read back.
 *   hdf5 [--rounds N] [--pause MS] */
#include "common.h"
#include <hdf5.h>

enum { WIDE = 64, CELLS = 4096 };

static hid_t good(hid_t id, const char *what)
{
    CHECK(id >= 0, "%s", what);
    return id;
}

/* Writes or reads this rank's columns of layer `layer`. */
static void layer(hid_t set, hid_t transfer, hsize_t layer, double *data, int writing)
{
    hsize_t start[2] = {layer, (hsize_t)world_rank * WIDE}, count[2] = {1, WIDE};
    hid_t file = H5Dget_space(set), memory = H5Screate_simple(2, count, NULL);
    H5Sselect_hyperslab(file, H5S_SELECT_SET, start, NULL, count, NULL);
    herr_t rc = writing ? H5Dwrite(set, H5T_NATIVE_DOUBLE, memory, file, transfer, data) : H5Dread(set, H5T_NATIVE_DOUBLE, memory, file, transfer, data);
    CHECK(rc >= 0, "layer %d", (int)layer);
    H5Sclose(memory), H5Sclose(file);
}

static void cells(hid_t set, hid_t transfer, uint64_t *data, int writing)
{
    /* Every n-th cell: strided in the file. */
    hsize_t start = (hsize_t)world_rank, stride = (hsize_t)world_size, count = CELLS;
    hid_t file = H5Dget_space(set), memory = H5Screate_simple(1, &count, NULL);
    H5Sselect_hyperslab(file, H5S_SELECT_SET, &start, &stride, &count, NULL);
    herr_t rc = writing ? H5Dwrite(set, H5T_NATIVE_UINT64, memory, file, transfer, data) : H5Dread(set, H5T_NATIVE_UINT64, memory, file, transfer, data);
    CHECK(rc >= 0, "cells");
    H5Sclose(memory), H5Sclose(file);
}

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 20), pause = option(argc, argv, "--pause", 100);
    hid_t access = H5Pcreate(H5P_FILE_ACCESS), transfer = H5Pcreate(H5P_DATASET_XFER), create = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_fapl_mpio(access, MPI_COMM_WORLD, MPI_INFO_NULL);
    H5Pset_dxpl_mpio(transfer, H5FD_MPIO_COLLECTIVE);
    hid_t file = good(H5Fcreate("hdf5-data.h5", H5F_ACC_TRUNC, H5P_DEFAULT, access), "creating the file");
    hsize_t wide = (hsize_t)world_size * WIDE, none[2] = {0, wide}, most[2] = {H5S_UNLIMITED, wide}, chunk[2] = {4, WIDE}, all = (hsize_t)world_size * CELLS;
    H5Pset_chunk(create, 2, chunk);
    hid_t space = H5Screate_simple(2, none, most), line = H5Screate_simple(1, &all, NULL);
    hid_t layers = good(H5Dcreate2(file, "layers", H5T_NATIVE_DOUBLE, space, H5P_DEFAULT, create, H5P_DEFAULT), "layers");
    hid_t counters = good(H5Dcreate2(file, "counters", H5T_NATIVE_UINT64, line, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), "counters");
    uint64_t *mine = calloc(CELLS, sizeof *mine), *found = calloc(CELLS, sizeof *found), hash = (uint64_t)rounds;
    cells(counters, transfer, mine, 1);

    for (long round = 0; round < rounds; round++) {
        double out[WIDE], in[WIDE];
        hsize_t size[2] = {(hsize_t)round + 1, wide};
        H5Dset_extent(layers, size);
        for (int i = 0; i < WIDE; i++) out[i] = (double)(round * 1000 + world_rank * 100) + i / 64.0;
        layer(layers, transfer, (hsize_t)round, out, 1);
        pause_ms(pause / 2);

        cells(counters, transfer, found, 0);
        CHECK(memcmp(found, mine, CELLS * 8) == 0, "round %ld: the counters of the file are not those of memory", round);
        for (int i = 0; i < CELLS; i += 1 + (int)(round % 5)) mine[i] += (uint64_t)round + 1;
        cells(counters, transfer, mine, 1);

        char name[32];
        snprintf(name, sizeof name, "group-%ld", round);
        hid_t group = good(H5Gcreate2(file, name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), name), one = H5Screate(H5S_SCALAR);
        hid_t attribute = good(H5Acreate2(group, "round", H5T_NATIVE_LONG, one, H5P_DEFAULT, H5P_DEFAULT), "an attribute");
        H5Awrite(attribute, H5T_NATIVE_LONG, &round);
        H5Aclose(attribute), H5Sclose(one), H5Gclose(group);
        if (round % 2) {
            snprintf(name, sizeof name, "group-%ld", round - 1);
            CHECK(H5Ldelete(file, name, H5P_DEFAULT) >= 0, "deleting %s", name);
        }
        H5Fflush(file, H5F_SCOPE_GLOBAL);
        pause_ms(pause / 2);
        layer(layers, transfer, (hsize_t)(round / 2), in, 0);
        CHECK(in[1] == (double)(round / 2 * 1000 + world_rank * 100) + 1 / 64.0, "round %ld: an old layer", round);
        hash = fold(hash, hash_bytes(in, sizeof in));
    }
    H5Dclose(layers), H5Dclose(counters), H5Sclose(space), H5Sclose(line), H5Fclose(file);

    /* As anybody would find it. */
    file = good(H5Fopen("hdf5-data.h5", H5F_ACC_RDONLY, access), "opening the file");
    layers = good(H5Dopen2(file, "layers", H5P_DEFAULT), "layers"), counters = good(H5Dopen2(file, "counters", H5P_DEFAULT), "counters");
    for (long round = 0; round < rounds; round++) {
        double in[WIDE];
        char name[32];
        snprintf(name, sizeof name, "group-%ld", round);
        layer(layers, transfer, (hsize_t)round, in, 0);
        hash = fold(hash, hash_bytes(in, sizeof in));
        int there = H5Lexists(file, name, H5P_DEFAULT) > 0;
        CHECK(there == (round % 2 != 0 || round == rounds - 1), "%s: %d", name, there);
    }
    cells(counters, transfer, found, 0);
    CHECK(memcmp(found, mine, CELLS * 8) == 0, "the counters at the end");
    hash = fold(hash, hash_bytes(found, CELLS * 8));
    H5Dclose(layers), H5Dclose(counters), H5Fclose(file), H5Pclose(access), H5Pclose(transfer), H5Pclose(create);
    return finish(hash);
}
