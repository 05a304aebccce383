/* A library with one event source and one event, for the tool interface: no MPI here has any. Preloaded before MPICH, it answers the
 * procedures of events itself. Reading the source's clock raises the event; every third time it is "lost" instead. */
#include <mpi.h>
#include <stddef.h>
#include <string.h>

struct MPIR_T_event_registration_s {
    int used;
    MPI_T_event_cb_function *call;
    void *data;
    MPI_T_cb_safety safety;
    MPI_T_event_dropped_cb_function *dropped;
    char hint[MPI_MAX_INFO_VAL];
};

struct MPIR_T_event_instance_s {
    MPI_Count stamp;
    int number;
    double half;
};

static struct MPIR_T_event_registration_s only;
static MPI_Count now;

static void text(char *to, int *room, const char *from)
{
    if (to && room && *room > 0) strncpy(to, from, (size_t)*room), to[*room - 1] = 0;
    if (room) *room = (int)strlen(from) + 1;
}

static void hints(MPI_Info *info, const char *value)
{
    if (!info) return;
    MPI_Info_create(info);
    MPI_Info_set(*info, "told", value);
}

static void take(MPI_Info info)
{
    int there = 0;
    if (info != MPI_INFO_NULL) MPI_Info_get(info, "told", MPI_MAX_INFO_VAL - 1, only.hint, &there);
}

int MPI_T_source_get_num(int *count) { return *count = 1, MPI_SUCCESS; }

int MPI_T_source_get_info(int source, char *name, int *name_len, char *desc, int *desc_len, MPI_T_source_order *order, MPI_Count *ticks,
                          MPI_Count *most, MPI_Info *info)
{
    if (source != 0) return MPI_T_ERR_INVALID_INDEX;
    text(name, name_len, "clock"), text(desc, desc_len, "counts how often it is read");
    *order = MPI_T_SOURCE_ORDERED, *ticks = 1000, *most = 1 << 30;
    hints(info, "a source");
    return MPI_SUCCESS;
}

int MPI_T_source_get_timestamp(int source, MPI_Count *stamp)
{
    if (source != 0) return MPI_T_ERR_INVALID_INDEX;
    struct MPIR_T_event_instance_s event = {++now, (int)now * 3, (double)now / 2};
    if (now % 3 == 0 && only.dropped) only.dropped(7, &only, 0, only.safety, only.data);
    if (now % 3 != 0 && only.call) only.call(&event, &only, only.safety, only.data);
    *stamp = now;
    return MPI_SUCCESS;
}

int MPI_T_event_get_num(int *count) { return *count = 1, MPI_SUCCESS; }

int MPI_T_event_get_info(int index, char *name, int *name_len, int *verbosity, MPI_Datatype types[], MPI_Aint places[], int *elements,
                         MPI_T_enum *values, MPI_Info *info, char *desc, int *desc_len, int *bind)
{
    if (index != 0) return MPI_T_ERR_INVALID_INDEX;
    text(name, name_len, "read"), text(desc, desc_len, "the clock was read");
    if (types && *elements >= 2) types[0] = MPI_INT, types[1] = MPI_DOUBLE;
    if (places && *elements >= 2)
        places[0] = offsetof(struct MPIR_T_event_instance_s, number), places[1] = offsetof(struct MPIR_T_event_instance_s, half);
    *elements = 2, *verbosity = MPI_T_VERBOSITY_USER_BASIC, *bind = MPI_T_BIND_NO_OBJECT;
    if (values) *values = MPI_T_ENUM_NULL;
    hints(info, "an event");
    return MPI_SUCCESS;
}

int MPI_T_event_get_index(const char *name, int *index) { return *index = 0, strcmp(name, "read") ? MPI_T_ERR_INVALID_NAME : MPI_SUCCESS; }

int MPI_T_event_handle_alloc(int index, void *object, MPI_Info info, MPI_T_event_registration *registration)
{
    if (index != 0 || object || only.used) return MPI_T_ERR_INVALID_INDEX;
    memset(&only, 0, sizeof only);
    only.used = 1;
    take(info);
    *registration = &only;
    return MPI_SUCCESS;
}

int MPI_T_event_handle_set_info(MPI_T_event_registration registration, MPI_Info info)
{
    return take(info), registration == &only ? MPI_SUCCESS : MPI_T_ERR_INVALID_HANDLE;
}

int MPI_T_event_handle_get_info(MPI_T_event_registration registration, MPI_Info *info)
{
    return hints(info, only.hint), registration == &only ? MPI_SUCCESS : MPI_T_ERR_INVALID_HANDLE;
}

int MPI_T_event_register_callback(MPI_T_event_registration registration, MPI_T_cb_safety safety, MPI_Info info, void *data,
                                  MPI_T_event_cb_function call)
{
    if (registration != &only) return MPI_T_ERR_INVALID_HANDLE;
    take(info);
    only.safety = safety, only.data = data, only.call = call;
    return MPI_SUCCESS;
}

int MPI_T_event_callback_set_info(MPI_T_event_registration registration, MPI_T_cb_safety safety, MPI_Info info)
{
    return take(info), registration == &only && safety == only.safety ? MPI_SUCCESS : MPI_T_ERR_INVALID_HANDLE;
}

int MPI_T_event_callback_get_info(MPI_T_event_registration registration, MPI_T_cb_safety safety, MPI_Info *info)
{
    return hints(info, only.hint), registration == &only && safety == only.safety ? MPI_SUCCESS : MPI_T_ERR_INVALID_HANDLE;
}

int MPI_T_event_set_dropped_handler(MPI_T_event_registration registration, MPI_T_event_dropped_cb_function call)
{
    if (registration != &only) return MPI_T_ERR_INVALID_HANDLE;
    only.dropped = call;
    return MPI_SUCCESS;
}

int MPI_T_event_handle_free(MPI_T_event_registration registration, void *data, MPI_T_event_free_cb_function call)
{
    if (registration != &only) return MPI_T_ERR_INVALID_HANDLE;
    if (call) call(registration, MPI_T_CB_REQUIRE_NONE, data);
    memset(&only, 0, sizeof only);
    return MPI_SUCCESS;
}

int MPI_T_event_read(MPI_T_event_instance event, int element, void *to)
{
    if (element == 0) memcpy(to, &event->number, sizeof event->number);
    if (element == 1) memcpy(to, &event->half, sizeof event->half);
    return element == 0 || element == 1 ? MPI_SUCCESS : MPI_T_ERR_INVALID_INDEX;
}

int MPI_T_event_copy(MPI_T_event_instance event, void *to) { return memcpy(to, event, sizeof *event), MPI_SUCCESS; }
int MPI_T_event_get_timestamp(MPI_T_event_instance event, MPI_Count *stamp) { return *stamp = event->stamp, MPI_SUCCESS; }
int MPI_T_event_get_source(MPI_T_event_instance event, int *source) { return (void)event, *source = 0, MPI_SUCCESS; }
int MPI_T_category_get_num_events(int category, int *count) { return *count = category == 0, MPI_SUCCESS; }
int MPI_T_category_get_events(int category, int room, int list[]) { return (void)(category == 0 && room > 0 && (list[0] = 0)), MPI_SUCCESS; }
