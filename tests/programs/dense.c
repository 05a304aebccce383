/* The dense mixed program: random point to point in every mode, wildcards, overlapping communicators, blocking and
 * non-blocking collectives, user operations and derived types, all drawn from one seed that every rank holds.
 *   dense [--rounds N] [--seed N] [--messages N] [--pause MS] [--mixed SUM] [--files PREFIX]
 *         [--sabotage drop|duplicate|reorder|corrupt]
 * With --mixed also windows (1), files (2) and inter-communicators (4); each has a part of this program (dense/).
 *
 * Every message carries its stream (source, communicator, class), its number in the stream and a checksum. Receives
 * are accounted in the order they were posted, which for one stream is the order MPI promises. The hash of a stream
 * depends on every number and byte in order; streams are folded in a fixed order. So the final hash ignores which
 * source a wildcard took first, and nothing else: a lost message hangs the program or leaves a gap, a doubled,
 * reordered or altered one is reported and changes the hash; so is one that is left over. `--sabotage` does each of these to one message between
 * MPI and the accounting, to prove it.
 *
 * The plan of a round is drawn by all ranks alike; the tag carries the round (modulo 64, with a barrier every 32), so
 * a wildcard never takes a message of another round. */
#include "common.h"
#include "dense/files.h"
#include "dense/intercomm.h"
#include "dense/windows.h"

enum { COMMS = 5, LARGEST = 40000, MESSAGES = 64, OPEN = 4 };

/* How the receiver takes a message. All messages to one rank on one communicator in one class are taken alike. */
enum class {
    POSTED,      /* receives posted before the sends, in order, from their source */
    WILD,        /* the same from any source */
    PERSISTENT,  /* persistent receives, started before the sends */
    READY,       /* posted, and the sender told so: a ready send may come */
    BLOCKING,    /* MPI_Recv from any source, late */
    PROBED,      /* MPI_Probe or MPI_Iprobe, then MPI_Recv */
    MATCHED,     /* MPI_Mprobe or MPI_Improbe, then MPI_Mrecv or MPI_Imrecv */
    CLASSES
};

enum mode { STANDARD, SYNCHRONOUS, BUFFERED, ISTANDARD, ISYNCHRONOUS, IBUFFERED, PSTANDARD, PSYNCHRONOUS, MODES };

struct message {
    int from, to; /* ranks of the communicator */
    int comm, class, mode, words, typed;
};


struct communicator {
    MPI_Comm handle; /* MPI_COMM_NULL on ranks outside */
    int rank, size, *world; /* world rank of each member; known to all ranks */
};

struct stream {
    uint64_t sent, got, hash;
};

static struct communicator comms[COMMS];
static struct stream *streams; /* [source in world][communicator][class] */
static struct random plan;
static uint64_t errors, local_hash;
static MPI_Datatype comb; /* two words: one affine map */
static MPI_Op compose;
static int sabotage, sabotaged;
static unsigned char *attached;

static struct stream *stream_of(int world, int comm, int class)
{
    return &streams[(world * COMMS + comm) * CLASSES + class];
}

static void blame(const char *what, int world, int comm, int class, uint64_t number)
{
    errors++;
    fprintf(stderr, "rank %d: %s: from rank %d, communicator %d, class %d, number %llu\n", world_rank, what, world, comm,
            class, (unsigned long long)number);
}

/* --- communicators ------------------------------------------------------------------------------------------- */

static void adopt(int index, MPI_Comm handle, const int *members, int count)
{
    struct communicator *comm = &comms[index];
    comm->handle = handle;
    comm->size = count;
    comm->world = malloc((size_t)count * sizeof *comm->world);
    memcpy(comm->world, members, (size_t)count * sizeof *members);
    comm->rank = -1;
    for (int i = 0; i < count; i++)
        if (members[i] == world_rank) comm->rank = i;
    if (handle != MPI_COMM_NULL) {
        int rank, size;
        MPI_Comm_rank(handle, &rank);
        MPI_Comm_size(handle, &size);
        CHECK(rank == comm->rank && size == count, "communicator %d: rank %d of %d", index, rank, size);
    }
}

static void make_communicators(void)
{
    int *members = malloc((size_t)world_size * sizeof *members), count;
    MPI_Comm made;
    MPI_Group all, some;

    for (int i = 0; i < world_size; i++) members[i] = i;
    MPI_Comm_dup(MPI_COMM_WORLD, &made);
    adopt(0, made, members, world_size);

    for (int i = 0; i < world_size; i++) members[i] = world_size - 1 - i;
    MPI_Comm_split(MPI_COMM_WORLD, 0, world_size - world_rank, &made);
    adopt(1, made, members, world_size);

    MPI_Comm_group(MPI_COMM_WORLD, &all);
    for (count = 0; count < world_size - 1; count++) members[count] = count; /* all but the last */
    if (count < 2) members[0] = 0, members[1] = 1 % world_size, count = world_size;
    MPI_Group_incl(all, count, members, &some);
    MPI_Comm_create(MPI_COMM_WORLD, some, &made);
    adopt(2, made, members, count);
    MPI_Group_free(&some);

    for (count = 0; count + 1 < world_size; count++) members[count] = count + 1; /* all but the first */
    if (count < 2) members[0] = 0, members[1] = 1 % world_size, count = world_size;
    MPI_Group_incl(all, count, members, &some);
    made = MPI_COMM_NULL;
    int mine;
    MPI_Group_rank(some, &mine);
    if (mine != MPI_UNDEFINED) MPI_Comm_create_group(MPI_COMM_WORLD, some, 77, &made);
    adopt(3, made, members, count);
    MPI_Group_free(&some);
    MPI_Group_free(&all);

    int periodic = 1, extent = world_size;
    for (int i = 0; i < world_size; i++) members[i] = i;
    MPI_Cart_create(MPI_COMM_WORLD, 1, &extent, &periodic, 0, &made);
    adopt(4, made, members, world_size);
    free(members);
}

/* --- user operation: composition of affine maps x -> a x + b, associative and not commutative ----------------- */

static void compose_maps(void *left, void *right, int *length, MPI_Datatype *type)
{
    (void)type;
    uint64_t *first = left, *second = right;
    for (int i = 0; i < *length; i++, first += 2, second += 2) {
        uint64_t a = first[0] * second[0], b = first[1] * second[0] + second[1];
        second[0] = a, second[1] = b;
    }
}

/* --- messages ------------------------------------------------------------------------------------------------ */

/* `words` words, every second place of the buffer. */
static MPI_Datatype comb_of(int words)
{
    MPI_Datatype type;
    MPI_Type_vector(words, 1, 2, MPI_UINT64_T, &type);
    MPI_Type_commit(&type);
    return type;
}

static void draw(struct message *message)
{
    static const int sizes[] = {3, 3, 4, 8, 16, 64, 200, 500, 1500, 4000, 9000, LARGEST};
    do {
        message->comm = (int)below(&plan, COMMS);
    } while (comms[message->comm].size < 2);
    int size = comms[message->comm].size;
    message->from = (int)below(&plan, (unsigned)size);
    message->to = (int)below(&plan, (unsigned)size);
    message->words = sizes[below(&plan, sizeof sizes / sizeof *sizes)];
    message->class = (int)below(&plan, CLASSES);
    message->typed = below(&plan, 3) == 0;
    /* A blocking send may wait for its receive: only where that is posted by then, or the message is buffered. */
    int posted = message->class <= READY;
    message->mode = posted ? (int)below(&plan, MODES) : ISTANDARD + (int)below(&plan, MODES - ISTANDARD);
}

/* The words of message `number` of a stream, at `stride` places each. */
static void write_words(uint64_t *buffer, int words, int stride, uint64_t stream, uint64_t number)
{
    uint64_t check = fold(stream, number);
    for (int i = 3; i < words; i++) check += buffer[i * stride] = mix(fold(stream, number) + (uint64_t)i);
    buffer[0] = stream, buffer[stride] = number, buffer[2 * stride] = mix(check);
}

static void account(const uint64_t *words, int count, int world, int comm, int class)
{
    struct stream *stream = stream_of(world, comm, class);
    uint64_t name = (uint64_t)(stream - streams), check, wrong = 0;
    if (words[0] != name) blame("a message of another stream", world, comm, class, words[1]);
    if (words[1] != stream->got) blame("not the next number", world, comm, class, words[1]);
    check = fold(words[0], words[1]);
    for (int i = 3; i < count; i++) {
        wrong |= words[i] ^ mix(fold(words[0], words[1]) + (uint64_t)i);
        check += words[i];
    }
    if (wrong || mix(check) != words[2]) blame("altered content", world, comm, class, words[1]);
    stream->got = words[1] + 1;
    stream->hash = fold(stream->hash, fold(hash_bytes(words, (size_t)count * sizeof *words), (uint64_t)count));
}

/* One received message, perhaps mistreated once. */
static void take(uint64_t *words, MPI_Status *status, int comm, int class)
{
    static uint64_t kept[LARGEST];
    static int kept_count, kept_world, holding;
    int count, world = comms[comm].world[status->MPI_SOURCE];
    MPI_Get_count(status, MPI_UINT64_T, &count);
    int now = sabotage && !sabotaged && stream_of(world, comm, class)->got >= 5 && world_rank == world_size - 1;
    if (now && sabotage == 'd') { sabotaged = 1; return; }
    if (now && sabotage == 'c') { words[count / 2] ^= 1; sabotaged = 1; }
    if (now && sabotage == 'u') { sabotaged = 1; account(words, count, world, comm, class); }
    if (now && sabotage == 'r') { /* hold it back behind the next of its stream */
        sabotaged = 1, holding = 1 + comm * CLASSES + class, kept_world = world, kept_count = count;
        memcpy(kept, words, (size_t)count * sizeof *words);
        return;
    }
    account(words, count, world, comm, class);
    if (holding == 1 + comm * CLASSES + class && kept_world == world) {
        holding = 0;
        account(kept, kept_count, world, comm, class);
    }
}

static int tag_of(long round, int class) { return class * 64 + (int)(round % 64); }

struct transfer {
    MPI_Request request;
    uint64_t *buffer;
    MPI_Datatype type; /* MPI_DATATYPE_NULL: plain words */
    int words, persistent;
};

static void prepare(struct transfer *transfer, int words, int typed)
{
    transfer->words = words;
    transfer->buffer = calloc((size_t)words * (typed ? 2 : 1), sizeof(uint64_t));
    transfer->type = typed ? comb_of(words) : MPI_DATATYPE_NULL;
    transfer->request = MPI_REQUEST_NULL;
    transfer->persistent = 0;
}

static void dispose(struct transfer *transfer)
{
    if (transfer->persistent) MPI_Request_free(&transfer->request);
    if (transfer->type != MPI_DATATYPE_NULL) MPI_Type_free(&transfer->type);
    free(transfer->buffer);
}

static void send_one(struct transfer *transfer, const struct message *message, long round)
{
    struct communicator *comm = &comms[message->comm];
    struct stream *stream = stream_of(world_rank, message->comm, message->class);
    /* Numbers run per receiver: the stream of a pair. */
    uint64_t name = (uint64_t)(stream - streams);
    static uint64_t *numbers;
    if (!numbers) numbers = calloc((size_t)world_size * COMMS * CLASSES, sizeof *numbers);
    uint64_t *number = &numbers[(comm->world[message->to] * COMMS + message->comm) * CLASSES + message->class];

    int stride = message->typed ? 2 : 1, tag = tag_of(round, message->class), to = message->to;
    prepare(transfer, message->words, message->typed);
    write_words(transfer->buffer, message->words, stride, name, (*number)++);
    void *buffer = transfer->buffer;
    MPI_Datatype type = message->typed ? transfer->type : MPI_UINT64_T;
    int count = message->typed ? 1 : message->words;
    if (message->class == READY) { /* the receive is posted: we were told */
        char go;
        MPI_Recv(&go, 1, MPI_CHAR, to, 1000 + (int)(round % 64), comm->handle, MPI_STATUS_IGNORE);
        if (message->mode % 2) MPI_Rsend(buffer, count, type, to, tag, comm->handle);
        else MPI_Irsend(buffer, count, type, to, tag, comm->handle, &transfer->request);
        return;
    }
    switch (message->mode) {
    case STANDARD: MPI_Send(buffer, count, type, to, tag, comm->handle); break;
    case SYNCHRONOUS: MPI_Ssend(buffer, count, type, to, tag, comm->handle); break;
    case BUFFERED: MPI_Bsend(buffer, count, type, to, tag, comm->handle); break;
    case ISTANDARD: MPI_Isend(buffer, count, type, to, tag, comm->handle, &transfer->request); break;
    case ISYNCHRONOUS: MPI_Issend(buffer, count, type, to, tag, comm->handle, &transfer->request); break;
    case IBUFFERED: MPI_Ibsend(buffer, count, type, to, tag, comm->handle, &transfer->request); break;
    case PSTANDARD:
    case PSYNCHRONOUS:
        (message->mode == PSTANDARD ? MPI_Send_init : MPI_Ssend_init)(buffer, count, type, to, tag, comm->handle,
                                                                      &transfer->request);
        transfer->persistent = 1;
        MPI_Start(&transfer->request);
        break;
    }
}

/* Post the receive of a message that is taken by a posted one. */
static void post_one(struct transfer *transfer, const struct message *message, long round)
{
    struct communicator *comm = &comms[message->comm];
    int wild = message->class == WILD, tag = tag_of(round, message->class);
    int words = message->class == POSTED ? message->words : LARGEST;
    if (message->class == POSTED && message->typed) {
        prepare(transfer, words, 1);
        MPI_Irecv(transfer->buffer, 1, transfer->type, message->from, tag, comm->handle, &transfer->request);
        return;
    }
    prepare(transfer, words, 0);
    int from = wild ? MPI_ANY_SOURCE : message->from;
    if (message->class == PERSISTENT) {
        MPI_Recv_init(transfer->buffer, words, MPI_UINT64_T, from, tag, comm->handle, &transfer->request);
        transfer->persistent = 1;
        MPI_Start(&transfer->request);
    } else {
        MPI_Irecv(transfer->buffer, words, MPI_UINT64_T, from, tag, comm->handle, &transfer->request);
    }
    if (message->class == READY) MPI_Send("g", 1, MPI_CHAR, message->from, 1000 + (int)(round % 64), comm->handle);
}

/* Take a message that no receive was posted for. */
static void take_late(const struct message *message, long round, int turn, uint64_t *words)
{
    struct communicator *comm = &comms[message->comm];
    int tag = tag_of(round, message->class), flag = 0;
    MPI_Status status;
    MPI_Message matched;
    switch (message->class) {
    case BLOCKING: MPI_Recv(words, LARGEST, MPI_UINT64_T, MPI_ANY_SOURCE, tag, comm->handle, &status); break;
    case PROBED:
        if (turn % 2) MPI_Probe(MPI_ANY_SOURCE, tag, comm->handle, &status);
        else
            while (!flag) MPI_Iprobe(MPI_ANY_SOURCE, tag, comm->handle, &flag, &status);
        MPI_Recv(words, LARGEST, MPI_UINT64_T, status.MPI_SOURCE, tag, comm->handle, &status);
        break;
    default:
        if (turn % 2) MPI_Mprobe(MPI_ANY_SOURCE, tag, comm->handle, &matched, &status);
        else
            while (!flag) MPI_Improbe(MPI_ANY_SOURCE, tag, comm->handle, &flag, &matched, &status);
        if (turn % 3) {
            MPI_Mrecv(words, LARGEST, MPI_UINT64_T, &matched, &status);
        } else {
            MPI_Request request;
            MPI_Imrecv(words, LARGEST, MPI_UINT64_T, &matched, &request);
            MPI_Wait(&request, &status);
        }
    }
    take(words, &status, message->comm, message->class);
}

/* --- completion, by every call there is ----------------------------------------------------------------------- */

static void complete(MPI_Request *requests, MPI_Status *statuses, int count, unsigned way)
{
    int done = 0, flag = 0, index, some;
    int *indices = malloc((size_t)(count + 1) * sizeof *indices);
    MPI_Status *batch = malloc((size_t)(count + 1) * sizeof *batch), one;
    int active = 0;
    for (int i = 0; i < count; i++) active += requests[i] != MPI_REQUEST_NULL;
    switch (way % 7) {
    case 0: MPI_Waitall(count, requests, statuses); break;
    case 1:
        for (int i = 0; i < count; i++) MPI_Wait(&requests[i], &statuses[i]);
        break;
    case 2:
        while (done < active) {
            MPI_Waitany(count, requests, &index, &one);
            if (index == MPI_UNDEFINED) break;
            statuses[index] = one, done++;
        }
        break;
    case 3:
        while (done < active) {
            MPI_Waitsome(count, requests, &some, indices, batch);
            if (some == MPI_UNDEFINED) break;
            for (int i = 0; i < some; i++) statuses[indices[i]] = batch[i];
            done += some;
        }
        break;
    case 4:
        while (!flag) MPI_Testall(count, requests, &flag, statuses);
        break;
    case 5:
        while (done < active) {
            MPI_Testsome(count, requests, &some, indices, batch);
            if (some == MPI_UNDEFINED) break;
            for (int i = 0; i < some; i++) statuses[indices[i]] = batch[i];
            done += some;
        }
        break;
    default:
        for (int i = 0; i < count; i++)
            for (flag = 0; !flag;) MPI_Test(&requests[i], &flag, &statuses[i]);
    }
    free(indices), free(batch);
}

static void cancelled_receive(int comm)
{
    uint64_t never;
    int flag;
    MPI_Request request;
    MPI_Status status;
    MPI_Irecv(&never, 1, MPI_UINT64_T, MPI_ANY_SOURCE, 30000, comms[comm].handle, &request);
    MPI_Cancel(&request);
    MPI_Wait(&request, &status);
    MPI_Test_cancelled(&status, &flag);
    if (!flag) blame("a receive nobody sends to was not cancelled", 0, comm, 0, 0);
}

/* --- collectives ---------------------------------------------------------------------------------------------- */

struct collective {
    MPI_Request request;
    int kind, comm, words, root;
    uint64_t salt, *in, *out;
};

enum { KINDS = 14 };

static uint64_t contribution(const struct collective *c, int rank, int i) { return fold(c->salt + (uint64_t)rank, (uint64_t)i); }

/* What this rank must find in out[i]; every member can compute it. */
static uint64_t expected(const struct collective *c, int rank, int size, int i)
{
    uint64_t sum = 0, a, b, composed[2] = {1, 0};
    switch (c->kind) {
    case 0: return contribution(c, c->root, i);                                     /* bcast */
    case 1: for (int r = 0; r < size; r++) sum += contribution(c, r, i); return sum;  /* allreduce */
    case 2: for (int r = 0; r < size; r++) sum ^= contribution(c, r, i); return sum;  /* reduce */
    case 3: return contribution(c, i / c->words, i % c->words);                     /* allgather */
    case 4: return contribution(c, i / c->words, i % c->words);                     /* gather */
    case 5: return contribution(c, c->root, rank * c->words + i);                   /* scatter */
    case 6: return contribution(c, i / c->words, rank * c->words + i % c->words);   /* alltoall */
    case 7: for (int r = 0; r <= rank; r++) sum += contribution(c, r, i); return sum; /* scan */
    case 8: for (int r = 0; r < rank; r++) sum += contribution(c, r, i); return sum;  /* exscan */
    case 9: for (int r = 0; r < size; r++) sum += contribution(c, r, rank * c->words + i); return sum; /* reduce_scatter_block */
    case 10:                                                                        /* user operation */
        for (int r = 0; r < size; r++) {
            a = contribution(c, r, i & ~1), b = contribution(c, r, i | 1);
            composed[1] = composed[1] * a + b, composed[0] *= a;
        }
        return composed[i & 1];
    case 11: return contribution(c, i / c->words, i % c->words);                    /* allgatherv */
    case 12: return contribution(c, i / c->words, rank * c->words + i % c->words);  /* alltoallv */
    default: return 0;                                                              /* barrier */
    }
}

static int produced(const struct collective *c, int rank, int size)
{
    switch (c->kind) {
    case 2: return rank == c->root ? c->words : 0;
    case 4: return rank == c->root ? c->words * size : 0;
    case 3: case 6: case 11: case 12: return c->words * size;
    case 8: return rank ? c->words : 0;
    case 10: return c->words & ~1;
    case 13: return 0;
    default: return c->words;
    }
}

static void draw_collective(struct collective *c)
{
    c->kind = (int)below(&plan, KINDS);
    c->comm = (int)below(&plan, COMMS);
    c->words = 2 + (int)below(&plan, below(&plan, 8) ? 30 : 3000);
    c->root = (int)below(&plan, (unsigned)comms[c->comm].size);
    c->salt = next(&plan);
    c->request = MPI_REQUEST_NULL;
}

static void start_collective(struct collective *c, int blocking)
{
    struct communicator *comm = &comms[c->comm];
    if (comm->rank < 0) return;
    int n = c->words, size = comm->size, *counts = malloc(2 * (size_t)size * sizeof *counts), *places = counts + size;
    MPI_Comm on = comm->handle;
    MPI_Datatype word = MPI_UINT64_T;
    c->in = malloc((size_t)(n * size) * sizeof *c->in);
    c->out = calloc((size_t)(n * size), sizeof *c->out);
    uint64_t *in = c->in, *out = c->out;
    for (int i = 0; i < n * size; i++) in[i] = contribution(c, comm->rank, i);
    for (int i = 0; i < size; i++) counts[i] = n, places[i] = i * n;
    MPI_Request *r = &c->request;
    int root = c->root;
    if (c->kind == 0 && comm->rank == root) memcpy(out, in, (size_t)n * sizeof *in);
    switch (c->kind) {
    case 0: if (blocking) MPI_Bcast(out, n, word, root, on); else MPI_Ibcast(out, n, word, root, on, r); break;
    case 1: if (blocking) MPI_Allreduce(in, out, n, word, MPI_SUM, on); else MPI_Iallreduce(in, out, n, word, MPI_SUM, on, r); break;
    case 2: if (blocking) MPI_Reduce(in, out, n, word, MPI_BXOR, root, on); else MPI_Ireduce(in, out, n, word, MPI_BXOR, root, on, r); break;
    case 3: if (blocking) MPI_Allgather(in, n, word, out, n, word, on); else MPI_Iallgather(in, n, word, out, n, word, on, r); break;
    case 4: if (blocking) MPI_Gather(in, n, word, out, n, word, root, on); else MPI_Igather(in, n, word, out, n, word, root, on, r); break;
    case 5: if (blocking) MPI_Scatter(in, n, word, out, n, word, root, on); else MPI_Iscatter(in, n, word, out, n, word, root, on, r); break;
    case 6: if (blocking) MPI_Alltoall(in, n, word, out, n, word, on); else MPI_Ialltoall(in, n, word, out, n, word, on, r); break;
    case 7: if (blocking) MPI_Scan(in, out, n, word, MPI_SUM, on); else MPI_Iscan(in, out, n, word, MPI_SUM, on, r); break;
    case 8: if (blocking) MPI_Exscan(in, out, n, word, MPI_SUM, on); else MPI_Iexscan(in, out, n, word, MPI_SUM, on, r); break;
    case 9:
        if (blocking) MPI_Reduce_scatter_block(in, out, n, word, MPI_SUM, on);
        else MPI_Ireduce_scatter_block(in, out, n, word, MPI_SUM, on, r);
        break;
    case 10: if (blocking) MPI_Allreduce(in, out, n / 2, comb, compose, on); else MPI_Iallreduce(in, out, n / 2, comb, compose, on, r); break;
    case 11: if (blocking) MPI_Allgatherv(in, n, word, out, counts, places, word, on); else MPI_Iallgatherv(in, n, word, out, counts, places, word, on, r); break;
    case 12:
        if (blocking) MPI_Alltoallv(in, counts, places, word, out, counts, places, word, on);
        else MPI_Ialltoallv(in, counts, places, word, out, counts, places, word, on, r), MPI_Wait(r, MPI_STATUS_IGNORE);
        break;
    default: if (blocking) MPI_Barrier(on); else MPI_Ibarrier(on, r);
    }
    if (c->kind == 11 && !blocking) MPI_Wait(r, MPI_STATUS_IGNORE); /* the counts must outlive the call */
    free(counts);
}

static void end_collective(struct collective *c)
{
    struct communicator *comm = &comms[c->comm];
    if (comm->rank < 0) return;
    MPI_Wait(&c->request, MPI_STATUS_IGNORE);
    int count = produced(c, comm->rank, comm->size);
    for (int i = 0; i < count; i++)
        if (c->out[i] != expected(c, comm->rank, comm->size, i)) {
            blame("wrong result of a collective", c->kind, c->comm, c->words, (uint64_t)i);
            break;
        }
    local_hash = fold(local_hash, hash_bytes(c->out, (size_t)count * sizeof *c->out));
    free(c->in), free(c->out);
}

/* --- a round ------------------------------------------------------------------------------------------------- */

static void messages_of(long round, int count)
{
    struct message messages[MESSAGES];
    struct transfer sends[MESSAGES], receives[MESSAGES];
    int origin[MESSAGES], sent = 0, posted = 0;
    unsigned way = (unsigned)next(&plan);
    static uint64_t late[LARGEST];

    for (int i = 0; i < count; i++) draw(&messages[i]);
    for (int i = 0; i < count; i++) {
        struct message *message = &messages[i];
        if (message->class <= READY && comms[message->comm].rank == message->to) {
            origin[posted] = i;
            post_one(&receives[posted++], message, round);
        }
    }
    for (int i = 0; i < count; i++)
        if (comms[messages[i].comm].rank == messages[i].from) send_one(&sends[sent++], &messages[i], round);
    if ((way >> 8) % 4 == 0) cancelled_receive((int)((way >> 10) % 2));
    for (int i = 0; i < count; i++)
        if (messages[i].class > READY && comms[messages[i].comm].rank == messages[i].to)
            take_late(&messages[i], round, (int)(way >> 4) + i, late);

    MPI_Request requests[MESSAGES];
    MPI_Status statuses[MESSAGES];
    for (int i = 0; i < posted; i++) requests[i] = receives[i].request;
    complete(requests, statuses, posted, way + (unsigned)world_rank);
    for (int i = 0; i < posted; i++) receives[i].request = requests[i];
    for (int i = 0; i < posted; i++) {
        struct message *message = &messages[origin[i]];
        if (receives[i].type != MPI_DATATYPE_NULL) /* close the comb */
            for (int j = 0; j < receives[i].words; j++) receives[i].buffer[j] = receives[i].buffer[2 * j];
        take(receives[i].buffer, &statuses[i], message->comm, message->class);
        dispose(&receives[i]);
    }
    for (int i = 0; i < sent; i++) requests[i] = sends[i].request;
    complete(requests, statuses, sent, way / 7 + (unsigned)world_rank);
    for (int i = 0; i < sent; i++) {
        sends[i].request = requests[i];
        dispose(&sends[i]);
    }
}

/* Between two barriers every message was received: one that is still there came twice. */
static void expect_silence(void)
{
    MPI_Barrier(MPI_COMM_WORLD);
    for (int i = 0; i < COMMS; i++) {
        int flag = 0;
        MPI_Status status;
        if (comms[i].handle == MPI_COMM_NULL) continue;
        MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, comms[i].handle, &flag, &status);
        if (flag) blame("a message nobody sent", comms[i].world[status.MPI_SOURCE], i, status.MPI_TAG / 64, 0);
    }
    MPI_Barrier(MPI_COMM_WORLD);
}

int main(int argc, char **argv)
{
    start(&argc, &argv);
    long rounds = option(argc, argv, "--rounds", 300), pause = option(argc, argv, "--pause", 10);
    int count = (int)option(argc, argv, "--messages", 24);
    const char *how = text_option(argc, argv, "--sabotage", "");
    long mixed = option(argc, argv, "--mixed", 0), seed = option(argc, argv, "--seed", 1);
    sabotage = strcmp(how, "duplicate") == 0 ? 'u' : how[0];
    CHECK(count <= MESSAGES && world_size >= 2, "at most %d messages, at least 2 ranks", MESSAGES);
    plan.state = (uint64_t)seed;
    streams = calloc((size_t)world_size * COMMS * CLASSES, sizeof *streams);
    make_communicators();
    MPI_Type_contiguous(2, MPI_UINT64_T, &comb);
    MPI_Type_commit(&comb);
    MPI_Op_create(compose_maps, 0, &compose);
    int space = MESSAGES * 2 * (LARGEST * 8 + MPI_BSEND_OVERHEAD);
    attached = malloc((size_t)space);
    MPI_Buffer_attach(attached, space);
    if (mixed & 1) win_begin((uint64_t)seed);
    if (mixed & 2) file_begin((uint64_t)seed, text_option(argc, argv, "--files", "dense"));
    if (mixed & 4) inter_begin((uint64_t)seed);

    struct collective open[OPEN];
    int opened = 0;
    for (long round = 0; round < rounds; round++) {
        struct collective now;
        int blocking = (int)below(&plan, 3), more = (int)below(&plan, OPEN);
        unsigned idle = below(&plan, (unsigned)world_size * 2);

        for (int i = 0; i < blocking; i++) {
            draw_collective(&now);
            start_collective(&now, 1);
            end_collective(&now);
        }
        /* Opened before the messages, closed after them: the drain meets both at once. */
        for (int i = 0; i < more; i++) {
            draw_collective(&open[opened]);
            start_collective(&open[opened++], 0);
        }
        if (mixed & 1) win_round(round);
        if (mixed & 2) file_round(round);
        if (mixed & 4) inter_round(round);
        if (idle == (unsigned)world_rank) pause_ms(pause);
        messages_of(round, count);
        while (opened) end_collective(&open[--opened]);
        if (round % 32 == 31) expect_silence();
        if (world_rank == 0 && (round + 1) % 1000 == 0) fprintf(stderr, "dense: round %ld\n", round + 1);
    }
    expect_silence();
    for (int i = 0; i < world_size * COMMS * CLASSES; i++) local_hash = fold(local_hash, fold(streams[i].got, streams[i].hash));
    local_hash = fold(local_hash, errors);
    if (mixed & 1) local_hash = fold(local_hash, win_end());
    if (mixed & 2) local_hash = fold(local_hash, file_end());
    if (mixed & 4) local_hash = fold(local_hash, inter_end());

    uint64_t total = 0;
    MPI_Allreduce(&errors, &total, 1, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
    void *detached;
    MPI_Buffer_detach(&detached, &space);
    CHECK(detached == (void *)attached, "another buffer was detached");
    free(attached), free(streams);
    MPI_Op_free(&compose);
    MPI_Type_free(&comb);
    for (int i = 0; i < COMMS; i++) {
        if (comms[i].handle != MPI_COMM_NULL) MPI_Comm_free(&comms[i].handle);
        free(comms[i].world);
    }
    finish(local_hash);
    return total ? 3 : 0;
}
