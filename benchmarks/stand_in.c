/* Stands for the launchers of many nodes and all their workers, in one process that computes nothing.

   Usage: stand_in SECONDS SPREAD HEARTBEAT FD,FD,...

   Each descriptor is the stream of one node, whose greeting is in it already (see stand_in.py, which compiles this and
   hands it the numbers of frames as they are in hyperflow/wire/frames.py). A task lasts SECONDS * (1 +- SPREAD); with 0
   a frame of tasks is answered at once, by one frame. Every answer is None.

   Every 50 ms a line goes to stdout: the clock, then how many tasks have come, have been answered and are running, and
   how many workers have ever had one. A line "lose N K" on stdin ends the streams of N nodes when K more tasks have
   come; the end of stdin ends all.

   tests/test_stand_in.py gives a real launcher and this the same orders, and compares what they say. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#pragma pack(push, 1)
typedef struct { uint32_t begin; uint64_t length; uint8_t kind; uint32_t worker; } Header;
typedef struct { uint64_t task; uint32_t function; uint16_t buffers; uint64_t length; } Task;
typedef struct { uint64_t task; uint8_t outcome; float seconds; uint16_t buffers; uint64_t length; } Result;
typedef struct { float cpu; uint64_t memory, read, written; } Measured;
typedef struct { uint32_t function; uint64_t first; uint32_t count; } Batch; /* lengths and payloads follow */
typedef struct { uint64_t first; uint32_t count; } Range;
typedef struct { uint32_t worker, size; float age; } Answered;
#pragma pack(pop)
_Static_assert(sizeof(Header) == HEADER_SIZE && sizeof(Task) == TASK_SIZE && sizeof(Result) == RESULT_SIZE &&
               sizeof(Measured) == MEASURED_SIZE && sizeof(Batch) == BATCH_SIZE && sizeof(Range) == RANGE_SIZE &&
               sizeof(Answered) == ANSWERED_SIZE, "records as in hyperflow/wire/frames.py");

typedef struct {                  /* as a launcher sees a worker, and what its claim page says */
    uint64_t *queue;              /* tasks that have come; the first one runs */
    uint32_t first, count, room;
    uint64_t started, from, below;
    uint32_t node, next;          /* the next one on its node, 0 for none */
    uint32_t team, next_idle;     /* 0 for none; a member that has nothing to do is in the list of its team */
    uint64_t task;                /* that a member is in, 0 for none; its `started` counts no tasks of teams */
    uint8_t alive, fresh, retiring, manned;
} Worker;

typedef struct { uint8_t *data; size_t length, room; } Buffer;

typedef struct {
    Range *queue;                 /* what has come and was not handed out */
    uint32_t first, count, room;
    uint32_t node, number, members, idle, next; /* idle: the first one; next: the next team on its node */
    uint32_t parts;
    Buffer heads, records;        /* answers that wait for others, in so many parts, with the moment as their age */
    Buffer left;                  /* workers that serve it no more */
    uint8_t listed;
} Team;

typedef struct {
    int fd;                       /* -1: it has gone */
    Buffer in, out;
    uint8_t listed, blocked, closing;
    uint32_t workers;             /* the newest one on it, 0 for none; numbers begin at 1 */
    uint32_t teams;               /* the same */
    uint32_t alive;
    double last_sent, due;        /* when to write what may wait for more */
    double speak_by;              /* when to write what teams have answered */
    int64_t unheard;              /* frames of answers that the head has not read */
} Node;

typedef struct { double at; uint32_t worker; uint64_t started; } End; /* or of a wait: NO_WORKER, and the node; or: */
enum { SPEAKING = UINT32_MAX, LEAVING = UINT32_MAX - 1 }; /* with the node, with the team */

static Node *nodes;
static int node_count, epoll, timer;
static Worker *workers;
static Team *teams;               /* their numbers are none of workers */
static uint32_t worker_room;
static uint32_t *touched, touched_count, touched_room; /* teams that something happened to */
static End *heap;                 /* when running tasks end, the next one first */
static size_t heap_count, heap_room;
static int *written, written_count; /* nodes that have something to write */
static double seconds, spread, heartbeat, began;
static uint64_t received, answered, running, manned;
static int to_lose;               /* nodes, when so many tasks have come: */
static uint64_t lose_at;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void add(Buffer *buffer, const void *data, size_t length) {
    if (buffer->length + length > buffer->room) {
        buffer->room = (buffer->length + length) * 2;
        buffer->data = realloc(buffer->data, buffer->room);
    }
    memcpy(buffer->data + buffer->length, data, length);
    buffer->length += length;
}

static void list(int node) {
    if (!nodes[node].listed) {
        nodes[node].listed = 1;
        written[written_count++] = node;
    }
}

/* ---- the clock of tasks: a heap ---- */

static double duration(void) {
    static uint64_t state = 88172645463325252ull; /* xorshift */
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return seconds * (1 + spread * ((state >> 11) * (2.0 / 9007199254740992.0) - 1));
}

static void push(End end) {
    if (heap_count == heap_room) {
        heap_room = heap_room ? heap_room * 2 : 1024;
        heap = realloc(heap, heap_room * sizeof(End));
    }
    size_t i = heap_count++;
    for (size_t parent; i && heap[parent = (i - 1) / 2].at > end.at; i = parent)
        heap[i] = heap[parent];
    heap[i] = end;
}

static End pop(void) {
    End first = heap[0], last = heap[--heap_count];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < heap_count) {
        if (child + 1 < heap_count && heap[child + 1].at < heap[child].at)
            child++;
        if (heap[child].at >= last.at)
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = last;
    return first;
}

/* ---- frames to the head ---- */

/* A frame that may wait until that moment, to be written with what comes meanwhile. */
static void send_by(int node, int kind, uint32_t worker, const void *body, size_t length, double by) {
    Header header = {BEGIN_WORD, length, kind, worker};
    uint32_t end = END_WORD;
    Node *each = &nodes[node];
    if (each->fd < 0)
        return;
    add(&each->out, &header, sizeof header);
    if (length)
        add(&each->out, body, length);
    add(&each->out, &end, sizeof end);
    if (each->out.length >= ENOUGH)
        by = 0;
    if (by < each->due) {
        each->due = by;
        if (by == 0)
            list(node);
        else
            push((End){by, NO_WORKER, node});
    }
}

static void send_frame(int node, int kind, uint32_t worker, const void *body, size_t length) {
    send_by(node, kind, worker, body, length, 0);
}

static void leave_team(uint32_t number);
static void speak(int node, int patient);
static void end_worker(uint32_t number, int status, const char *reason);

static Worker *grown(uint32_t number) {
    if (number >= worker_room) {
        uint32_t room = worker_room ? worker_room : 1024;
        while (room <= number)
            room *= 2;
        workers = realloc(workers, room * sizeof(Worker));
        memset(workers + worker_room, 0, (room - worker_room) * sizeof(Worker));
        teams = realloc(teams, room * sizeof(Team));
        memset(teams + worker_room, 0, (room - worker_room) * sizeof(Team));
        worker_room = room;
    }
    return &workers[number];
}

/* ---- teams ---- */

static void touch(uint32_t number) {
    Team *team = &teams[number];
    if (team->listed)
        return;
    team->listed = 1;
    if (touched_count == touched_room) {
        touched_room = touched_room ? touched_room * 2 : 64;
        touched = realloc(touched, touched_room * sizeof *touched);
    }
    touched[touched_count++] = number;
}

static void enqueue_range(Team *team, Range range) {
    if (team->count == team->room) {
        uint32_t room = team->room ? team->room * 2 : 4;
        Range *queue = malloc(room * sizeof *queue);
        for (uint32_t i = 0; i < team->count; i++)
            queue[i] = team->queue[(team->first + i) % team->room];
        free(team->queue);
        team->queue = queue, team->first = 0, team->room = room;
    }
    team->queue[(team->first + team->count++) % team->room] = range;
}

/* Take the next task from the queue, or so many at once. */
static Range take(Team *team, uint32_t most) {
    Range *first = &team->queue[team->first], found = {first->first, first->count < most ? first->count : most};
    first->first += found.count, first->count -= found.count;
    if (!first->count)
        team->first = (team->first + 1) % team->room, team->count--;
    return found;
}

static Result result(uint64_t task, int outcome, float took, uint64_t length) {
    return (Result){task, outcome, took, 0, length};
}

/* Add the answer to a task, as a part of a frame or to the last part of the same worker. */
static void answer_in_team(Team *team, uint32_t number, uint64_t task, double moment) {
    Measured measured = {seconds, 1 << 25};
    size_t beside = seconds > MEASURED_FROM ? sizeof measured : 0;
    Result head = result(task, VALUE, seconds ? seconds : 1e-6f, beside + sizeof NONE - 1);
    head.outcome |= beside ? IS_MEASURED : 0;
    size_t size = sizeof head + beside + sizeof NONE - 1;
    Answered *last = team->parts ? (Answered *)(team->heads.data + team->heads.length) - 1 : NULL;
    if (last && last->worker == number) {
        last->size += size;
    } else {
        Answered part = {number, size, moment - began};
        add(&team->heads, &part, sizeof part);
        team->parts++;
    }
    add(&team->records, &head, sizeof head);
    add(&team->records, &measured, beside);
    add(&team->records, NONE, sizeof NONE - 1);
    answered++;
}

/* Put what waits of a node's teams into frames: answers, then who has left. */
static void speak(int node, int patient) {
    double moment = now() - began;
    for (uint32_t number = nodes[node].teams; number; number = teams[number].next) {
        Team *team = &teams[number];
        if (team->parts) {
            if (patient && nodes[node].unheard >= MOST_UNHEARD)
                continue;
            nodes[node].unheard++;
            static Buffer body;
            body.length = 0;
            Answered *heads = (Answered *)team->heads.data;
            for (uint32_t i = 0; i < team->parts; i++)
                heads[i].age = fmax(moment - heads[i].age, 0);
            add(&body, &team->parts, sizeof team->parts);
            add(&body, team->heads.data, team->heads.length);
            add(&body, team->records.data, team->records.length);
            team->parts = team->heads.length = team->records.length = 0;
            send_frame(node, ANSWERS, number, body.data, body.length);
        }
        if (team->left.length) {
            send_frame(node, LEFT, number, team->left.data, team->left.length);
            team->left.length = 0;
        }
    }
}

/* Let what has been said to teams, or has ended in them, have its effect: idle members get tasks, or leave. */
static void settle(void) {
    while (touched_count) {
        uint32_t number = touched[--touched_count];
        Team *team = &teams[number];
        team->listed = 0;
        double moment = now();
        while (team->count && team->idle) {
            uint32_t member = team->idle;
            Worker *worker = &workers[member];
            manned += !worker->manned, worker->manned = 1;
            if (seconds > 0) {
                team->idle = worker->next_idle;
                worker->task = take(team, 1).first;
                running++;
                push((End){moment + duration(), member, worker->task});
                continue;
            }
            Range range = take(team, UINT32_MAX);
            for (uint32_t i = 0; i < range.count; i++)
                answer_in_team(team, member, range.first + i, moment);
        }
        double wait = fmax(fmin(seconds * JOIN_SHARE, JOIN_MOST), JOIN);
        int expected = wait * team->members > WORTH_JOINING * fmax(seconds, TEAM_WAKE);
        double by = seconds > 0 ? moment + wait : moment;
        if (team->parts && ((!team->count && !expected) || team->records.length >= ENOUGH))
            by = moment;
        int answers = team->parts;
        if (by <= moment)
            speak(team->node, 1);
        if (!team->count && team->idle && seconds == 0 && answers) {
            push((End){moment + JOIN, LEAVING, number}); /* a real one has more in its queue meanwhile */
        } else if (!team->count && team->idle && !team->parts) { /* else when their answers go */
            while (team->idle) {
                uint32_t member = team->idle;
                add(&team->left, &member, sizeof member);
                leave_team(member);
            }
            speak(team->node, 1);
        }
        if (team->parts && by > moment && by < nodes[team->node].speak_by)
            push((End){nodes[team->node].speak_by = by, SPEAKING, team->node});
    }
}

static void leave_team(uint32_t number) {
    Worker *worker = &workers[number];
    if (!worker->team)
        return;
    Team *team = &teams[worker->team];
    for (uint32_t *at = &team->idle; *at; at = &workers[*at].next_idle)
        if (*at == number) {
            *at = worker->next_idle;
            break;
        }
    team->members--;
    worker->team = 0;
}

static void ended_in_team(uint32_t number, double moment) {
    Worker *worker = &workers[number];
    Team *team = &teams[worker->team];
    answer_in_team(team, number, worker->task, moment);
    worker->task = 0, running--;
    worker->next_idle = team->idle, team->idle = number;
    touch(worker->team);
}

static Team *team_of(int node, uint32_t number) {
    grown(number);
    Team *team = &teams[number];
    if (!team->number)
        *team = (Team){.node = node, .number = number, .next = nodes[node].teams}, nodes[node].teams = number;
    return team;
}

static void to_team(int node, const Header *header, const uint8_t *body) {
    Team *team = team_of(node, header->worker);
    Batch batch;
    Range range;
    uint32_t number;
    static Buffer recalled;
    touch(header->worker);
    recalled.length = 0;
    switch (header->kind) {
    case BATCH:
        memcpy(&batch, body, sizeof batch);
        enqueue_range(team, (Range){batch.first, batch.count});
        received += batch.count;
        return;
    case JOIN_TEAM:
        for (size_t at = 0; at < header->length; at += sizeof number) {
            memcpy(&number, body + at, sizeof number);
            if (number >= worker_room || !workers[number].alive || workers[number].team)
                continue;
            workers[number].team = header->worker;
            workers[number].next_idle = team->idle, team->idle = number;
            team->members++;
        }
        return;
    case RECALL:
        memcpy(&number, body, sizeof number);
        while (number && team->count) {
            Range *last = &team->queue[(team->first + team->count - 1) % team->room];
            range.count = last->count < number ? last->count : number;
            last->count -= range.count, number -= range.count;
            range.first = last->first + last->count;
            team->count -= !last->count;
            add(&recalled, &range, sizeof range);
        }
        break;
    case CANCEL:
        memcpy(&range, body, sizeof range);
        for (uint32_t i = team->count; i; i--) { /* once around the queue */
            Range each = take(team, UINT32_MAX);
            uint64_t end = each.first + each.count, cut_end = range.first + range.count;
            uint64_t from = each.first > range.first ? each.first : range.first, to = end < cut_end ? end : cut_end;
            Range gone = {from, from < to ? to - from : 0};
            if (!gone.count) {
                enqueue_range(team, each);
                continue;
            }
            add(&recalled, &gone, sizeof gone);
            if (from > each.first)
                enqueue_range(team, (Range){each.first, from - each.first});
            if (end > to)
                enqueue_range(team, (Range){to, end - to});
        }
        for (uint32_t each = nodes[node].workers; each; each = workers[each].next)
            if (workers[each].alive && workers[each].team == header->worker && range.first <= workers[each].task &&
                workers[each].task < range.first + range.count)
                end_worker(each, -15, CANCELLED);
        break;
    }
    speak(node, 0);
    send_frame(node, RECALLED, header->worker, recalled.data, recalled.length);
}

/* ---- workers ---- */

/* Until when an answer may wait for others; as Launcher.answer in launcher.py has it, which no test compares. */
static double joined(uint32_t number) {
    double wait = fmin(seconds * JOIN_SHARE, JOIN_MOST);
    if (workers[number].count >= SEVERAL)
        wait = fmax(wait, JOIN);
    int expected = wait * nodes[workers[number].node].alive > WORTH_JOINING * fmax(seconds, WAKE);
    return workers[number].count && wait >= JOIN && expected ? now() + wait : 0;
}

static void answer(uint32_t number, uint64_t task, int outcome, const void *payload, size_t length) {
    Measured measured = {seconds, 1 << 25};
    size_t beside = outcome == VALUE && seconds > MEASURED_FROM ? sizeof measured : 0;
    uint8_t record[sizeof(Result) + sizeof measured + 16];
    Result head = result(task, outcome, outcome == SKIPPED ? 0 : seconds, beside + length);
    head.outcome |= beside ? IS_MEASURED : 0;
    memcpy(record, &head, sizeof head);
    memcpy(record + sizeof head, &measured, beside);
    memcpy(record + sizeof head + beside, payload, length);
    send_by(workers[number].node, RESULTS, number, record, sizeof head + beside + length, joined(number));
    answered += outcome != SKIPPED;
}

static void end_worker(uint32_t number, int status, const char *reason) {
    Worker *worker = &workers[number];
    char body[400];
    int length = snprintf(body, sizeof body, ENDED_FORMAT, status, (unsigned long long)worker->started, reason,
                          (unsigned long long)worker->task);
    leave_team(number);
    speak(worker->node, 0);
    send_frame(worker->node, ENDED, number, body, length);
    running -= worker->count > 0 || worker->task;
    nodes[worker->node].alive--;
    worker->alive = worker->count = worker->task = 0;
}

/* Start the first task of the queue that may be started; skip those before it. */
static void start(uint32_t number) {
    Worker *worker = &workers[number];
    while (worker->count) {
        uint64_t seq = ++worker->started;
        if (!(worker->from <= seq && seq < worker->below)) {
            push((End){now() + duration(), number, seq});
            return;
        }
        uint64_t task = worker->queue[worker->first];
        worker->first = (worker->first + 1) % worker->room, worker->count--;
        running -= worker->count == 0;
        answer(number, task, SKIPPED, &seq, sizeof seq);
    }
    if (worker->retiring)
        end_worker(number, 0, "");
}

static void ended(End end) {
    if (end.worker == NO_WORKER) {
        if (nodes[end.started].due <= now())
            list(end.started);
        return;
    }
    if (end.worker == LEAVING) {
        touch(end.started);
        return;
    }
    if (end.worker == SPEAKING) {
        nodes[end.started].speak_by = INFINITY;
        speak(end.started, 1);
        for (uint32_t number = nodes[end.started].teams; number; number = teams[number].next)
            touch(number);
        return;
    }
    Worker *worker = &workers[end.worker];
    if (worker->task) {
        if (worker->alive && worker->task == end.started)
            ended_in_team(end.worker, end.at);
        return;
    }
    if (!worker->alive || worker->started != end.started || !worker->count)
        return; /* it was killed meanwhile, or its node is lost */
    uint64_t task = worker->queue[worker->first];
    worker->first = (worker->first + 1) % worker->room, worker->count--;
    running -= worker->count == 0;
    answer(end.worker, task, VALUE, NONE, sizeof NONE - 1);
    if (worker->fresh)
        end_worker(end.worker, 0, "");
    else
        start(end.worker);
}

static void enqueue(Worker *worker, uint64_t task) {
    if (worker->count == worker->room) {
        uint32_t room = worker->room ? worker->room * 2 : 2;
        uint64_t *queue = malloc(room * sizeof *queue);
        for (uint32_t i = 0; i < worker->count; i++)
            queue[i] = worker->queue[(worker->first + i) % worker->room];
        free(worker->queue);
        worker->queue = queue, worker->first = 0, worker->room = room;
    }
    worker->queue[(worker->first + worker->count++) % worker->room] = task;
}

static void on_tasks(uint32_t number, const uint8_t *body, size_t length) {
    static Buffer records;
    Worker *worker = &workers[number];
    int was_idle = worker->count == 0;
    manned += !worker->manned, worker->manned = 1;
    records.length = 0;
    for (size_t at = 0; at < length;) {
        Task task;
        memcpy(&task, body + at, sizeof task);
        at += sizeof task + task.length;
        received++;
        if (seconds > 0 || worker->fresh) {
            enqueue(worker, task.task);
        } else {
            Result head = result(task.task, VALUE, 1e-6f, sizeof NONE - 1);
            add(&records, &head, sizeof head);
            add(&records, NONE, sizeof NONE - 1);
            worker->started++, answered++;
        }
    }
    if (records.length)
        send_frame(worker->node, RESULTS, number, records.data, records.length);
    if (was_idle && worker->count) {
        running++;
        start(number);
    }
}

/* ---- what comes from the head ---- */

static int contains(const uint8_t *body, size_t length, const char *text) {
    return memmem(body, length, text, strlen(text)) != NULL;
}

static void handle(int node, const Header *header, const uint8_t *body) {
    uint32_t number = header->worker;
    size_t length = header->length;
    Worker *worker = number < worker_room && workers[number].alive ? &workers[number] : NULL;
    switch (header->kind) {
    case SETUP:
        send_frame(node, READY, NO_WORKER, READY_BODY, sizeof READY_BODY - 1);
        break;
    case FORK:
        worker = grown(number);
        *worker = (Worker){.node = node, .next = nodes[node].workers, .alive = 1};
        worker->fresh = contains(body, length, "\"fresh\": true");
        nodes[node].workers = number;
        nodes[node].alive++;
        break;
    case CLOSE:
        nodes[node].closing = 1;
        for (uint32_t each = nodes[node].workers; each; each = workers[each].next)
            if (workers[each].alive)
                end_worker(each, 0, "");
        list(node);
        break;
    case TASKS:
        if (worker)
            on_tasks(number, body, length);
        break;
    case JOIN_TEAM: case BATCH: case RECALL: case CANCEL:
        to_team(node, header, body);
        break;
    case HEARD: {
        uint32_t count;
        memcpy(&count, body, sizeof count);
        nodes[node].unheard -= count;
        speak(node, 1);
        for (uint32_t each = nodes[node].teams; each; each = teams[each].next)
            touch(each);
        break;
    }
    case RETRACT:
        if (worker) {
            uint64_t answer[2];
            memcpy(&answer[1], body, sizeof answer[1]);
            int forbidden = worker->from <= worker->started && worker->started < worker->below;
            worker->from = forbidden ? worker->started : worker->started + 1;
            worker->below = answer[1];
            answer[0] = worker->started + 1;
            send_frame(node, RETRACTED, number, answer, sizeof answer);
        }
        break;
    case KILL:
        if (worker)
            end_worker(number, -15, CANCELLED);
        break;
    case RETIRE:
        if (worker && worker->count)
            worker->retiring = 1;
        else if (worker)
            end_worker(number, 0, "");
        break;
    case DEFINE: case GIVE: case FORGET: case NAMED: case BLOCK: case CONTENT: case TAKEN: case PATH: case ALIVE:
    case FACTS: case ENDS: case LIMIT_MEMORY: case MORE:
    case FILE_COMES: case FILE_HERE: case FILE_HOLD: case FILE_PULL: case FILE_RELEASED: /* its workers ask for none */
        break;
    default:
        fprintf(stderr, "the stand-in does not know frames of kind %d\n", header->kind);
        exit(1);
    }
}

static void lose(int node) {
    close(nodes[node].fd);
    nodes[node].fd = -1;
    for (uint32_t each = nodes[node].workers; each; each = workers[each].next)
        if (workers[each].alive) {
            running -= workers[each].count > 0 || workers[each].task;
            workers[each].alive = workers[each].task = 0;
        }
}

static void read_from(int node) {
    static uint8_t piece[1 << 20];
    Buffer *in = &nodes[node].in;
    ssize_t got = read(nodes[node].fd, piece, sizeof piece);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN)
            lose(node);
        return;
    }
    add(in, piece, got);
    size_t at = 0;
    Header header;
    while (in->length - at >= sizeof header) {
        memcpy(&header, in->data + at, sizeof header);
        if (header.begin != BEGIN_WORD) {
            fprintf(stderr, "what came from the head is no frame\n");
            exit(1);
        }
        if (in->length - at < sizeof header + header.length + 4)
            break;
        handle(node, &header, in->data + at + sizeof header);
        at += sizeof header + header.length + 4;
    }
    memmove(in->data, in->data + at, in->length - at);
    in->length -= at;
}

static void watch(int node, uint32_t events) {
    struct epoll_event event = {events, {.u32 = node}};
    epoll_ctl(epoll, EPOLL_CTL_MOD, nodes[node].fd, &event);
}

static void write_to(int node, double moment) {
    Node *each = &nodes[node];
    each->listed = 0;
    each->due = INFINITY;
    if (each->fd < 0 || each->blocked)
        return;
    size_t sent = 0;
    while (sent < each->out.length) {
        ssize_t more = write(each->fd, each->out.data + sent, each->out.length - sent);
        if (more < 0)
            break;
        sent += more;
    }
    memmove(each->out.data, each->out.data + sent, each->out.length - sent);
    each->out.length -= sent;
    each->last_sent = moment;
    if (each->out.length) {
        each->blocked = 1;
        watch(node, EPOLLIN | EPOLLOUT);
    } else if (each->closing) {
        lose(node);
    }
}

/* Return whether the one who started us is still there. */
static int command(void) {
    char line[100];
    ssize_t got = read(0, line, sizeof line - 1);
    if (got <= 0)
        return 0;
    line[got] = 0;
    unsigned long long more = 0;
    if (sscanf(line, "lose %d %llu", &to_lose, &more) == 2)
        lose_at = received + more;
    return 1;
}

int main(int argc, char **argv) {
    enum { COMMANDS = 1 << 30, TIMER };
    if (argc != 5)
        return 2;
    seconds = atof(argv[1]), spread = atof(argv[2]), heartbeat = atof(argv[3]);
    began = now();
    node_count = 1;
    for (char *at = argv[4]; *at; at++)
        node_count += *at == ',';
    nodes = calloc(node_count, sizeof(Node));
    written = calloc(node_count, sizeof(int));
    epoll = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event from_stdin = {EPOLLIN, {.u32 = COMMANDS}}, from_timer = {EPOLLIN, {.u32 = TIMER}};
    epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &from_stdin);
    epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &from_timer);
    int i = 0;
    for (char *word = strtok(argv[4], ","); word; word = strtok(NULL, ","), i++) {
        nodes[i].fd = atoi(word);
        nodes[i].last_sent = now();
        nodes[i].due = nodes[i].speak_by = INFINITY;
        fcntl(nodes[i].fd, F_SETFL, O_NONBLOCK);
        struct epoll_event event = {EPOLLIN, {.u32 = i}};
        epoll_ctl(epoll, EPOLL_CTL_ADD, nodes[i].fd, &event);
    }
    double sample = now(), beat = now() + heartbeat;
    for (int there = 1; there;) {
        double moment = now();
        while (heap_count && heap[0].at <= moment)
            ended(pop());
        settle();
        if (moment >= beat) {
            for (i = 0; i < node_count; i++)
                if (nodes[i].fd >= 0 && moment - nodes[i].last_sent >= heartbeat)
                    send_frame(i, ALIVE, NO_WORKER, NULL, 0);
            beat = moment + heartbeat / 4;
        }
        if (to_lose && received >= lose_at)
            for (i = 0; i < node_count && to_lose; i++)
                if (nodes[i].fd >= 0)
                    lose(i), to_lose--;
        while (written_count)
            write_to(written[--written_count], moment);
        if (moment >= sample) {
            printf("%.6f %llu %llu %llu %llu\n", moment, (unsigned long long)received, (unsigned long long)answered,
                   (unsigned long long)running, (unsigned long long)manned);
            fflush(stdout);
            sample = moment + 0.05;
        }
        double next = heap_count && heap[0].at < sample ? heap[0].at : sample;
        next = next > moment ? next : moment + 1e-9;
        struct itimerspec when = {{0, 0}, {(time_t)next, (long)((next - (time_t)next) * 1e9)}};
        timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
        struct epoll_event events[1024];
        int count = epoll_wait(epoll, events, 1024, -1);
        for (int k = 0; k < count; k++) {
            uint32_t node = events[k].data.u32;
            if (node == TIMER) {
                uint64_t times;
                there &= read(timer, &times, sizeof times) != 0;
            } else if (node == COMMANDS) {
                there &= command();
            } else if (nodes[node].fd >= 0) {
                if (events[k].events & EPOLLOUT) {
                    nodes[node].blocked = 0;
                    watch(node, EPOLLIN);
                    list(node);
                }
                if (events[k].events & (EPOLLIN | EPOLLHUP))
                    read_from(node);
            }
        }
    }
    return 0;
}
