/* Events of the tool interface, on the library of `events_library.c`: functions of the program are called by what it raises. A
 * registration that is of a library before a restart is an error, and made anew.
 *   events [--rounds N] [--pause MS] */
#include "common.h"

static MPI_T_event_registration mine;
static int happened, lost, freed, places_known;
static char data[] = "the program's data";
static MPI_Aint places[2];

struct copy {
    MPI_Count stamp;
    int number;
    double half;
};

static void happen(MPI_T_event_instance event, MPI_T_event_registration registration, MPI_T_cb_safety safety, void *user)
{
    int number, source = -1;
    double half;
    MPI_Count stamp;
    struct copy copy;
    CHECK(registration == mine && safety == MPI_T_CB_REQUIRE_MPI_RESTRICTED && user == data, "other arguments");
    CHECK(MPI_T_event_read(event, 0, &number) == MPI_SUCCESS && MPI_T_event_read(event, 1, &half) == MPI_SUCCESS, "it cannot be read");
    CHECK(MPI_T_event_copy(event, &copy) == MPI_SUCCESS && copy.number == number && copy.half == half, "the copy is another");
    CHECK(places_known && memcmp((char *)&copy + places[0], &number, sizeof number) == 0, "element 0 is not where it should be");
    CHECK(MPI_T_event_get_timestamp(event, &stamp) == MPI_SUCCESS && stamp == copy.stamp && number == 3 * (int)stamp, "stamp %lld", (long long)stamp);
    CHECK(MPI_T_event_get_source(event, &source) == MPI_SUCCESS && source == 0, "source %d", source);
    CHECK(half == number / 6.0, "%d and %g", number, half);
    happened++;
}

static void lose(MPI_Count count, MPI_T_event_registration registration, int source, MPI_T_cb_safety safety, void *user)
{
    CHECK(count == 7 && registration == mine && source == 0 && safety == MPI_T_CB_REQUIRE_MPI_RESTRICTED && user == data, "other arguments");
    lost++;
}

static void gone(MPI_T_event_registration registration, MPI_T_cb_safety safety, void *user)
{
    CHECK(registration == mine && safety == MPI_T_CB_REQUIRE_NONE && user == data + 1, "other arguments");
    freed++;
}

static void told(MPI_Info info, const char *expected)
{
    char value[MPI_MAX_INFO_VAL + 1];
    int there = 0;
    MPI_Info_get(info, "told", MPI_MAX_INFO_VAL, value, &there);
    CHECK(there && strcmp(value, expected) == 0, "it says %s", there ? value : "nothing");
    MPI_Info_free(&info);
}

static MPI_Info say(const char *value)
{
    MPI_Info info;
    MPI_Info_create(&info);
    MPI_Info_set(info, "told", value);
    return info;
}

static void begin(void)
{
    MPI_Info info = say("a handle");
    CHECK(MPI_T_event_handle_alloc(0, NULL, info, &mine) == MPI_SUCCESS, "no handle");
    MPI_Info_free(&info);
    CHECK(MPI_T_event_handle_get_info(mine, &info) == MPI_SUCCESS, "a handle without hints");
    told(info, "a handle");
    CHECK(MPI_T_event_register_callback(mine, MPI_T_CB_REQUIRE_MPI_RESTRICTED, MPI_INFO_NULL, data, happen) == MPI_SUCCESS, "not registered");
    CHECK(MPI_T_event_set_dropped_handler(mine, lose) == MPI_SUCCESS, "no handler");
}

static void ask(void)
{
    int count, name_len, desc_len, verbosity, bind, elements = 2, index = -1, list[2] = {-1, -1};
    char name[64], desc[64];
    MPI_T_source_order order;
    MPI_Count ticks, most;
    MPI_Info info;
    MPI_T_enum values;
    MPI_Datatype types[2] = {MPI_DATATYPE_NULL, MPI_DATATYPE_NULL};
    CHECK(MPI_T_source_get_num(&count) == MPI_SUCCESS && count == 1, "%d sources", count);
    name_len = sizeof name, desc_len = sizeof desc;
    CHECK(MPI_T_source_get_info(0, name, &name_len, desc, &desc_len, &order, &ticks, &most, &info) == MPI_SUCCESS, "no source");
    CHECK(strcmp(name, "clock") == 0 && order == MPI_T_SOURCE_ORDERED && ticks == 1000 && most == 1 << 30, "source %s", name);
    told(info, "a source");
    CHECK(MPI_T_event_get_num(&count) == MPI_SUCCESS && count == 1, "%d events", count);
    name_len = sizeof name, desc_len = sizeof desc;
    CHECK(MPI_T_event_get_info(0, name, &name_len, &verbosity, types, places, &elements, &values, &info, desc, &desc_len, &bind) == MPI_SUCCESS,
          "no event");
    CHECK(strcmp(name, "read") == 0 && strcmp(desc, "the clock was read") == 0 && elements == 2, "event %s", name);
    CHECK(types[0] == MPI_INT && types[1] == MPI_DOUBLE && bind == MPI_T_BIND_NO_OBJECT, "elements of other types");
    told(info, "an event");
    places_known = 1;
    CHECK(MPI_T_event_get_index("read", &index) == MPI_SUCCESS && index == 0, "index %d", index);
    CHECK(MPI_T_event_get_index("written", &index) == MPI_T_ERR_INVALID_NAME, "an event without a name");
    CHECK(MPI_T_category_get_num_events(0, &count) == MPI_SUCCESS && count == 1, "%d in the category", count);
    CHECK(MPI_T_category_get_events(0, 2, list) == MPI_SUCCESS && list[0] == 0, "event %d in the category", list[0]);
}

int main(int argc, char **argv)
{
    int level;
    MPI_T_init_thread(MPI_THREAD_SINGLE, &level);
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 40), pause = option(argc, argv, "--pause", 110);
    uint64_t hash = 0;
    ask();
    begin();
    for (long round = 0; round < rounds; round++) {
        MPI_Info info, hints = say("a registration");
        MPI_Count stamp;
        int before, lost_before;
        ask();
        do {
            /* A registration of a library that is gone is an error, not a crash. */
            if (MPI_T_event_callback_set_info(mine, MPI_T_CB_REQUIRE_MPI_RESTRICTED, hints) != MPI_SUCCESS) {
                CHECK(MPI_T_event_handle_set_info(mine, hints) == MPI_T_ERR_INVALID_HANDLE, "half a handle");
                CHECK(MPI_T_event_handle_free(mine, NULL, NULL) == MPI_T_ERR_INVALID_HANDLE, "half a handle");
                begin();
                CHECK(MPI_T_event_callback_set_info(mine, MPI_T_CB_REQUIRE_MPI_RESTRICTED, hints) == MPI_SUCCESS, "no hints");
            }
            /* Three readings: two events and a loss, unless the library goes in between. */
            before = happened, lost_before = lost;
            for (int i = 0; i < 3; i++) CHECK(MPI_T_source_get_timestamp(0, &stamp) == MPI_SUCCESS, "no clock");
        } while (MPI_T_event_callback_get_info(mine, MPI_T_CB_REQUIRE_MPI_RESTRICTED, &info) != MPI_SUCCESS);
        told(info, "a registration");
        CHECK(happened == before + 2 && lost == lost_before + 1, "%d events, %d lost", happened - before, lost - lost_before);
        MPI_Info_free(&hints);
        int sum;
        before = happened - before;
        MPI_Allreduce(&before, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
        hash = fold(hash, (uint64_t)sum);
        pause_ms(pause);
    }
    if (MPI_T_event_handle_set_info(mine, MPI_INFO_NULL) != MPI_SUCCESS) begin();
    CHECK(MPI_T_event_handle_free(mine, data + 1, gone) == MPI_SUCCESS && freed == 1, "%d freed", freed);
    MPI_T_finalize();
    return finish(hash);
}
