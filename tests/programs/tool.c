/* The tool interface: initialised before MPI, its variables and categories asked in every round with handles made anew; a handle of
 * before a restart is an error, not a crash.
 *   tool [--rounds N] [--pause MS] */
#include "common.h"

static uint64_t control(void)
{
    int count, seen = 0, written = 0;
    MPI_T_cvar_get_num(&count);
    CHECK(count > 0, "%d control variables", count);
    uint64_t hash = (uint64_t)count;
    for (int i = 0; i < count; i++) {
        char name[256], desc[1024];
        int name_len = sizeof name, desc_len = sizeof desc, verbosity, bind, scope, elements, found = -1;
        MPI_Datatype type;
        MPI_T_enum values;
        MPI_T_cvar_handle handle;
        if (MPI_T_cvar_get_info(i, name, &name_len, &verbosity, &type, &values, desc, &desc_len, &bind, &scope) != MPI_SUCCESS) continue;
        hash = fold(hash, hash_bytes(name, strlen(name)));
        if (i % 7 && verbosity != MPI_T_VERBOSITY_USER_BASIC) continue;
        CHECK(MPI_T_cvar_get_index(name, &found) == MPI_SUCCESS, "no variable %s", name);
        if (bind != MPI_T_BIND_NO_OBJECT || (type != MPI_INT && type != MPI_UNSIGNED)) continue;
        if (MPI_T_cvar_handle_alloc(i, NULL, &handle, &elements) != MPI_SUCCESS) continue;
        int value[64];
        if (elements == 1 && scope != MPI_T_SCOPE_CONSTANT && scope != MPI_T_SCOPE_READONLY && !written && MPI_T_cvar_read(handle, value) == MPI_SUCCESS)
            written = MPI_T_cvar_write(handle, value) == MPI_SUCCESS;
        if (elements == 1 && verbosity == MPI_T_VERBOSITY_USER_BASIC) CHECK(MPI_T_cvar_read(handle, value) == MPI_SUCCESS, "%s cannot be read", name);
        seen++;
        if (values != MPI_T_ENUM_NULL) {
            int items, length = sizeof desc, number;
            CHECK(MPI_T_enum_get_info(values, &items, desc, &length) == MPI_SUCCESS, "the values of %s", name);
            length = sizeof desc;
            if (items > 0) CHECK(MPI_T_enum_get_item(values, 0, &number, desc, &length) == MPI_SUCCESS, "a value of %s", name);
        }
        MPI_T_cvar_handle_free(&handle);
    }
    CHECK(seen > 0 && written, "no variable was read and written");
    return hash;
}

static uint64_t performance(void)
{
    int count;
    MPI_T_pvar_session session;
    MPI_T_pvar_get_num(&count);
    CHECK(MPI_T_pvar_session_create(&session) == MPI_SUCCESS, "no session");
    for (int i = 0; i < count; i++) {
        char name[256];
        int name_len = sizeof name, verbosity, class, bind, readonly, continuous, atomic, elements, found;
        MPI_Datatype type;
        MPI_T_enum values;
        MPI_T_pvar_handle handle;
        if (MPI_T_pvar_get_info(i, name, &name_len, &verbosity, &class, &type, &values, NULL, NULL, &bind, &readonly, &continuous, &atomic) != MPI_SUCCESS)
            continue;
        CHECK(MPI_T_pvar_get_index(name, class, &found) == MPI_SUCCESS, "no variable %s", name);
        /* Open MPI crashes in those of a network that is not there, if it was initialised before the tool interface. */
        if (bind != MPI_T_BIND_NO_OBJECT || strstr(name, "psm2")) continue;
        if (MPI_T_pvar_handle_alloc(session, i, NULL, &handle, &elements) != MPI_SUCCESS) continue;
        char value[4096];
        if (!continuous) {
            CHECK(MPI_T_pvar_start(session, handle) == MPI_SUCCESS, "%s cannot be started", name);
            CHECK(MPI_T_pvar_stop(session, handle) == MPI_SUCCESS, "%s cannot be stopped", name);
        } else {
            CHECK(MPI_T_pvar_start(session, handle) != MPI_SUCCESS, "%s, which is always running, was started", name);
            CHECK(MPI_T_pvar_stop(session, handle) != MPI_SUCCESS, "%s, which is always running, was stopped", name);
        }
        if (elements < 100) MPI_T_pvar_read(session, handle, value);
        if (elements < 100 && readonly) {
            CHECK(MPI_T_pvar_write(session, handle, value) != MPI_SUCCESS, "%s was written", name);
            CHECK(MPI_T_pvar_reset(session, handle) != MPI_SUCCESS, "%s was reset", name);
            CHECK(MPI_T_pvar_readreset(session, handle, value) != MPI_SUCCESS, "%s was read and reset", name);
        }
        MPI_T_pvar_handle_free(session, &handle);
    }
#ifdef OPEN_MPI /* MPICH 4.0.2, built without any such variable, crashes when asked for one */
    /* What there is not. */
    char name[64];
    int length = sizeof name, unknown, which;
    MPI_Datatype type;
    MPI_T_enum values;
    MPI_T_pvar_handle handle;
    CHECK(MPI_T_pvar_get_info(count, name, &length, &which, &which, &type, &values, NULL, NULL, &which, &which, &which, &which) != MPI_SUCCESS,
          "variable %d of %d", count, count);
    CHECK(MPI_T_pvar_get_index("no such variable", MPI_T_PVAR_CLASS_COUNTER, &unknown) != MPI_SUCCESS, "a variable without a name");
    CHECK(MPI_T_pvar_handle_alloc(session, count, NULL, &handle, &which) != MPI_SUCCESS, "variable %d of %d", count, count);
#endif
    MPI_T_pvar_session_free(&session);
    return (uint64_t)count;
}

static uint64_t categories(void)
{
    int count, stamp;
    MPI_T_category_get_num(&count);
    CHECK(MPI_T_category_changed(&stamp) == MPI_SUCCESS, "the categories");
    uint64_t hash = (uint64_t)count;
    for (int i = 0; i < count; i++) {
        char name[256], desc[1024];
        int name_len = sizeof name, desc_len = sizeof desc, controls, performances, below, found, *list;
        if (MPI_T_category_get_info(i, name, &name_len, desc, &desc_len, &controls, &performances, &below) != MPI_SUCCESS) continue;
        CHECK(MPI_T_category_get_index(name, &found) == MPI_SUCCESS && found == i, "no category %s", name);
        list = calloc((size_t)(controls + performances + below + 1), sizeof *list);
        MPI_T_category_get_cvars(i, controls, list);
        MPI_T_category_get_pvars(i, performances, list), MPI_T_category_get_categories(i, below, list);
        free(list);
        hash = fold(hash, hash_bytes(name, strlen(name)));
    }
    return hash;
}

#ifdef MPICH_VERSION
/* Events: MPICH 4.0.2 of Debian has no source and no event. What there is is asked, and what there is not is an error. */
static uint64_t events(void)
{
    int sources = -1, count = -1, categories = -1, number, index, verbosity, bind;
    char name[256], desc[1024];
    MPI_T_source_order order;
    MPI_Count ticks, most, stamp;
    MPI_Info info;
    MPI_T_event_registration handle = NULL;
    CHECK(MPI_T_source_get_num(&sources) == MPI_SUCCESS && sources >= 0, "%d sources", sources);
    for (int i = 0; i <= sources; i++) {
        int name_len = sizeof name, desc_len = sizeof desc;
        int code = MPI_T_source_get_info(i, name, &name_len, desc, &desc_len, &order, &ticks, &most, &info);
        CHECK((code == MPI_SUCCESS) == (i < sources), "source %d of %d: %d", i, sources, code);
        if (code == MPI_SUCCESS) MPI_Info_free(&info);
        code = MPI_T_source_get_timestamp(i, &stamp);
        CHECK((code == MPI_SUCCESS) == (i < sources), "the clock of source %d of %d: %d", i, sources, code);
    }
    CHECK(MPI_T_event_get_num(&count) == MPI_SUCCESS && count >= 0, "%d events", count);
    for (int i = 0; i <= count; i++) {
        int name_len = sizeof name, desc_len = sizeof desc;
        MPI_T_enum values;
        number = 0;
        int code = MPI_T_event_get_info(i, name, &name_len, &verbosity, NULL, NULL, &number, &values, &info, desc, &desc_len, &bind);
        CHECK((code == MPI_SUCCESS) == (i < count), "event %d of %d: %d", i, count, code);
        if (code != MPI_SUCCESS) {
            CHECK(MPI_T_event_handle_alloc(i, NULL, MPI_INFO_NULL, &handle) != MPI_SUCCESS, "event %d of %d has a handle", i, count);
            continue;
        }
        MPI_Info_free(&info);
        CHECK(MPI_T_event_get_index(name, &index) == MPI_SUCCESS && index == i, "no event %s", name);
    }
    CHECK(MPI_T_event_get_index("no such event", &index) != MPI_SUCCESS, "an event without a name");
    MPI_T_category_get_num(&categories);
    for (int i = 0; i <= categories; i++) {
        int code = MPI_T_category_get_num_events(i, &number);
        CHECK((code == MPI_SUCCESS) == (i < categories), "events of category %d of %d: %d", i, categories, code);
        int *list = calloc((size_t)count + 1, sizeof *list);
        code = MPI_T_category_get_events(i, count, list);
        CHECK((code == MPI_SUCCESS) == (i < categories), "events of category %d of %d: %d", i, categories, code);
        free(list);
    }
    return fold((uint64_t)sources, (uint64_t)count);
}
#endif

int main(int argc, char **argv)
{
    int level, elements, made = 0;
    CHECK(MPI_T_init_thread(MPI_THREAD_SINGLE, &level) == MPI_SUCCESS, "no tool interface");
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 60), pause = option(argc, argv, "--pause", 80);
    /* A handle that may be of a library that is gone when it is used. */
    MPI_T_cvar_handle old;
    int which, count;
    MPI_T_cvar_get_num(&count);
    for (which = 0; which < count && !made; which++) made = MPI_T_cvar_handle_alloc(which, NULL, &old, &elements) == MPI_SUCCESS && elements == 1;
    uint64_t hash = 0;
    for (long round = 0; round < rounds; round++) {
        char value[4096];
        if (made) MPI_T_cvar_read(old, value);
        control(), performance(), categories(); /* after a restart they may be others */
#ifdef MPICH_VERSION
        events();
#endif
        /* Once more, and back. */
        CHECK(MPI_T_init_thread(MPI_THREAD_SINGLE, &elements) == MPI_SUCCESS && elements >= MPI_THREAD_SINGLE, "level %d", elements);
        CHECK(MPI_T_finalize() == MPI_SUCCESS && MPI_T_cvar_get_num(&count) == MPI_SUCCESS, "the tool interface has ended");
        int sum;
        MPI_Allreduce(&world_rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
        hash = fold(hash, (uint64_t)sum);
        pause_ms(pause);
    }
    MPI_T_finalize();
    return finish(hash);
}
