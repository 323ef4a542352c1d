/* load: drives scripted mail dialogues against a server, many at once, and says how long they took.
 *
 * Invariant: a session is counted only when every reply was what the script expects; anything else (a refusal, a lost
 * connection, too few octets, octets that nobody asked for, also after the end) is an error, is counted, and the first
 * one is quoted.
 * One thread and one epoll loop, so that the generator takes as little of the machine as can be.
 *
 *     gcc -O2 -Wall -Wextra -o load load.c -lssl -lcrypto -lm            (Debian: gcc libc6-dev libssl-dev)
 *     load --port P [--host 127.0.0.1] [--source ADDRESS]
 *          [--tls | --starttls-pop3] [--resume]
 *          --connections N [--sessions M] [--seconds S] [--rate R]
 *          [--users FILE | --user-format 'u%d@example.com' --user-count K --password X]
 *          [--first I] [--random] [--share] [--fresh-every E --warm W [--fresh-first F]]
 *          [--hold SECONDS] [--timeout 60] [--max-errors 100] [--seed 1] SCRIPT
 *
 * N connections are open at once; each starts a new session (a new connection) as soon as one has ended. It ends after M
 * sessions or S seconds, whichever comes first (neither: one session for each connection). With --rate, R sessions a
 * second are begun at random distances instead, at most N at once, and a session's time runs from when it was due.
 *
 * Users: FILE has lines `address,password`; or K users numbered from 0. They are taken in turn from number I on, or at
 * random with --random; one who is in a session is passed over, unless --share. With --fresh-every E the users in
 * turn are the first W ones, and every E-th session takes the next one from number F on (W if not given), never twice.
 *
 * SCRIPT is a file, or `-` for standard input, with one instruction on a line, `#` begins a comment line:
 *     send TEXT        send TEXT and CR LF; %u user, %p password, %n number of the innermost loop, %s of the session,
 *                      %c count, %% a percent sign
 *     reply            wait for +OK..., `+ ...`, 2xx or 3xx (with its continuation lines)
 *     refused          wait for -ERR, 4xx or 5xx
 *     count            as reply, and the first number after +OK becomes `count` (STAT)
 *     multi [A [B]]    wait for a positive line and what follows up to the line `.`: at least A octets, at most B,
 *                      without the first line, with the last
 *     message [A [B]]  the same, and it counts as a message
 *     body N [M]       send a message of exactly N octets, and the final dot; N to M: at random, each doubling as likely
 *     stored           as reply, counts a message, and its time from the end of the body
 *     repeat A B       do what follows up to `end` with %n from A to B; B may be `count`
 *     chance P         do what follows up to `end` in P per cent of the cases
 *     user             go on with the next user (another recipient within the same session); a session that names
 *                      none has none, and has its first when it first does
 *     clock NAME       start the session's stopwatch
 *     stop             stop it, and record it under that name
 *     tls              begin TLS here (after STLS or STARTTLS)
 *     hold             with --hold: stay here until all sessions are here, then for SECONDS; otherwise nothing
 *     end              end of repeat or chance
 * What is sent goes out when a reply is waited for; so sends in a row are pipelined, and a loop with its own replies
 * makes round trips.
 *
 * With --hold, `held` is printed when all N sessions are there (or have failed); SIGTERM ends the holding early. Then
 * the rest of the script is run. SIGTERM at other times: no new sessions.
 *
 * It prints one JSON object: sessions, messages, octets (received), elapsed (seconds, to the last session's end),
 * sessions_per_second, messages_per_second, session_ms and message_ms (count, p50, p95, p99, max; session: connect to
 * last reply; message: end of body to reply), times (the same for each stopwatch), resumed (TLS handshakes that were),
 * errors, first_error, cpu (its own seconds). Exit status 0: no errors; 1: errors; 2: not understood.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { DEPTH = 4, LINE = 512, NAMES = 16, EVENTS = 256, PIECE = 1 << 18, LONGEST_SCRIPT = 1 << 16 };

enum kind { SEND, REPLY, REFUSED, COUNT, MULTI, MESSAGE, BODY, STORED, REPEAT, CHANCE, END, USER, CLOCK, STOP, TLS, HOLD };

static const char *const WORDS[] = {"send",   "reply",  "refused", "count", "multi", "message", "body", "stored",
                                    "repeat", "chance", "end",     "user",  "clock", "stop",    "tls",  "hold"};

struct op {
    enum kind kind;
    int line;    /* of the script, for error messages */
    char *text;  /* of send */
    long a, b;   /* numbers; b = -1: no upper bound, or `count` */
    int partner; /* repeat, chance: its end; end: its beginning; clock: its name's number */
};

enum state { CONNECTED, HANDSHAKE, HELD, LINGER };

struct loop {
    int at; /* the op that began it */
    long number, last;
};

struct conn {
    int fd, slot, pc, depth, user, name;
    enum state state;
    SSL *ssl;
    long session, count;
    struct loop loops[DEPTH];
    double start, active, ended_body, clock;
    bool wants_out, body_under_way, positive, line_start;
    int dots; /* of the closing line: 1 after `.`, 2 after `.` CR */
    char line[LINE];
    int line_length;
    long octets; /* of the reply that is waited for */
    char *out;
    size_t out_length, out_at, out_room;
    struct conn *next, **before;
};

struct times {
    float *ms;
    size_t count, room;
};

static struct op *ops;
static int op_count;
static char *names[NAMES];
static struct times named[NAMES], session_times, message_times;
static int name_count;

static struct sockaddr_in place, source;
static bool has_source, tls, starttls, resume, at_random, share;
static long connections = 1, session_limit = -1, user_count, first_user, fresh_every, warm, fresh_user = -1, max_errors = 100;
static double seconds = -1, rate, holding = -1, timeout = 60;
static char **addresses, **passwords, *user_format, *one_password;
static uint8_t *busy;

static SSL_CTX *context;
static SSL_SESSION **tickets; /* the last one of each slot */
static int poller, timer = -1;
static int *slots, free_slots; /* slots without a session */
static struct conn *living, *spare;
static long begun, open_sessions, held, lingering, messages, errors, octets, resumed, next_user;
static char first_error[1024];
static double begin, ended, now, due;
static volatile sig_atomic_t ending;
static char piece[PIECE];
static uint64_t dice = 0x9E3779B97F4A7C15u;

static double clock_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static uint64_t roll(void) /* xorshift: nothing here needs better chance */
{
    dice ^= dice << 13;
    dice ^= dice >> 7;
    dice ^= dice << 17;
    return dice;
}

static double unit(void) /* from 0 up to, but not including, 1 */
{
    return (double)(roll() >> 11) / 9007199254740992.0;
}

static void die(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, list);
    fputc('\n', stderr);
    va_end(list);
    exit(2);
}

static void *need(void *memory)
{
    if (!memory)
        die("out of memory");
    return memory;
}

static void record(struct times *times, double from)
{
    if (times->count == times->room) {
        times->room = times->room ? times->room * 2 : 1024;
        times->ms = need(realloc(times->ms, times->room * sizeof *times->ms));
    }
    times->ms[times->count++] = (float)((now - from) * 1e3);
}

/* ---- the script ---- */

static int name_number(const char *name)
{
    for (int n = 0; n < name_count; n++)
        if (!strcmp(names[n], name))
            return n;
    if (name_count == NAMES || !*name || strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-_") != strlen(name))
        die("at most %d names of small letters, digits, - and _: '%s'", NAMES, name);
    names[name_count] = need(strdup(name));
    return name_count++;
}

static void add_op(struct op op)
{
    ops = need(realloc(ops, (size_t)(op_count + 1) * sizeof *ops));
    ops[op_count++] = op;
}

static void read_op(char *text, int line, int *stack, int *depth)
{
    struct op op = {.line = line, .b = -1};
    size_t length = strcspn(text, " \t");
    size_t word;
    char *rest = text + length + strspn(text + length, " \t");
    int given;

    for (word = 0; word < sizeof WORDS / sizeof *WORDS; word++)
        if (strlen(WORDS[word]) == length && !strncmp(WORDS[word], text, length))
            break;
    if (word == sizeof WORDS / sizeof *WORDS)
        die("line %d of the script is not understood: %s", line, text);
    op.kind = (enum kind)word;
    given = sscanf(rest, "%ld %ld", &op.a, &op.b);
    if (op.kind == SEND)
        op.text = need(strdup(rest));
    if (op.kind == BODY && (given < 1 || op.a < 128 || (given == 2 && op.b < op.a)))
        die("line %d of the script: body takes a size of at least 128 octets, or two", line);
    if (op.kind == REPEAT && given != 2 && !(given == 1 && strstr(rest, "count")))
        die("line %d of the script: repeat takes two numbers, or a number and `count`", line);
    if (op.kind == CHANCE && (given != 1 || op.a < 0 || op.a > 100))
        die("line %d of the script: chance takes a percentage", line);
    if (op.kind == CLOCK)
        op.partner = name_number(rest);
    if (op.kind == REPEAT || op.kind == CHANCE) {
        if (*depth == DEPTH)
            die("line %d of the script: at most %d blocks in one another", line, DEPTH);
        stack[(*depth)++] = op_count;
    }
    if (op.kind == END) {
        if (!*depth)
            die("line %d of the script: nothing to end", line);
        op.partner = stack[--*depth];
        ops[op.partner].partner = op_count;
    }
    add_op(op);
}

static void read_script(const char *path)
{
    static char text[LONGEST_SCRIPT];
    FILE *file = strcmp(path, "-") ? fopen(path, "r") : stdin;
    int stack[DEPTH], depth = 0, line = 0;
    bool skip_greeting = starttls;

    if (!file)
        die("%s: %s", path, strerror(errno));
    if (starttls) { /* in place of the script's greeting */
        add_op((struct op){.kind = REPLY, .b = -1});
        add_op((struct op){.kind = SEND, .text = "STLS", .b = -1});
        add_op((struct op){.kind = REPLY, .b = -1});
        add_op((struct op){.kind = TLS, .b = -1});
    }
    while (fgets(text, sizeof text, file)) {
        char *start = text + strspn(text, " \t");
        start[strcspn(start, "\r\n")] = 0;
        line++;
        if (!*start || *start == '#')
            continue;
        if (skip_greeting) {
            if (strcmp(start, "reply"))
                die("with --starttls-pop3 the script has to begin with the greeting: reply");
            skip_greeting = false;
            continue;
        }
        read_op(start, line, stack, &depth);
    }
    if (depth)
        die("the script lacks an end");
    if (file != stdin)
        fclose(file);
}

/* ---- users ---- */

static void read_users(const char *path)
{
    FILE *file = fopen(path, "r");
    char line[1024];
    size_t room = 0;

    if (!file)
        die("%s: %s", path, strerror(errno));
    while (fgets(line, sizeof line, file)) {
        char *comma = strchr(line, ',');
        if (!comma)
            die("%s: a line is not `address,password`", path);
        *comma = 0;
        comma[1 + strcspn(comma + 1, "\r\n")] = 0;
        if ((size_t)user_count == room) {
            room = room ? room * 2 : 1024;
            addresses = need(realloc(addresses, room * sizeof *addresses));
            passwords = need(realloc(passwords, room * sizeof *passwords));
        }
        addresses[user_count] = need(strdup(line));
        passwords[user_count++] = need(strdup(comma + 1));
    }
    fclose(file);
}

/* Return the number of the next user, who is in a session from now on. There are some. */
static int take_user(long session)
{
    long range = warm ? warm : user_count, user;

    if (fresh_every && (session + 1) % fresh_every == 0) {
        if (fresh_user >= user_count)
            die("no fresh users are left");
        busy[fresh_user] = 1;
        return (int)fresh_user++;
    }
    user = at_random ? (long)(roll() % (uint64_t)range) : next_user++ % range;
    for (long tries = 0; tries < range; tries++) {
        if (share || !busy[user]) {
            busy[user] = 1;
            return (int)user;
        }
        user = at_random ? (user + 1) % range : next_user++ % range;
    }
    die("all %ld users are in a session; more users or --share are needed", range);
    return -1;
}

/* ---- sending ---- */

static void fail(struct conn *c, const char *format, ...);
static void go_on(struct conn *c);

static char *room_for(struct conn *c, size_t length)
{
    char *end;
    if (c->out_at == c->out_length)
        c->out_at = c->out_length = 0;
    if (c->out_length + length > c->out_room) {
        c->out_room = (c->out_length + length) * 2;
        c->out = need(realloc(c->out, c->out_room));
    }
    end = c->out + c->out_length;
    c->out_length += length;
    return end;
}

static void put(struct conn *c, const char *text, size_t length)
{
    memcpy(room_for(c, length), text, length);
}

static void put_number(struct conn *c, long number)
{
    char text[24];
    put(c, text, (size_t)snprintf(text, sizeof text, "%ld", number));
}

static void need_user(struct conn *c)
{
    if (!user_count)
        die("the script names a user and there are none; give --users or --user-count");
    if (c->user < 0)
        c->user = take_user(c->session);
}

static void put_user(struct conn *c)
{
    char text[256];
    need_user(c);
    if (addresses)
        put(c, addresses[c->user], strlen(addresses[c->user]));
    else
        put(c, text, (size_t)snprintf(text, sizeof text, user_format, c->user));
}

static void put_line(struct conn *c, const char *text)
{
    for (const char *mark; (mark = strchr(text, '%')); text = mark + 2) {
        put(c, text, (size_t)(mark - text));
        switch (mark[1]) {
        case 'u':
            put_user(c);
            break;
        case 'p': {
            const char *password;
            need_user(c);
            password = passwords ? passwords[c->user] : one_password;
            put(c, password, strlen(password));
            break;
        }
        case 'n':
            put_number(c, c->depth ? c->loops[c->depth - 1].number : 0);
            break;
        case 's':
            put_number(c, c->session);
            break;
        case 'c':
            put_number(c, c->count);
            break;
        case '%':
            put(c, "%", 1);
            break;
        default:
            die("%%%c means nothing in a script", mark[1] ? mark[1] : ' ');
        }
    }
    put(c, text, strlen(text));
    put(c, "\r\n", 2);
}

/* A message of exactly `size` octets, in lines of at most 78 with their ends; no line begins with a dot. */
static void put_body(struct conn *c, long size)
{
    static long serial;
    static char pattern[4096];
    char head[128];
    int used = snprintf(head, sizeof head, "From: load@example.net\r\nMessage-ID: <%08lx.%010ld@example.net>\r\n\r\n",
                        (long)getpid(), serial++);
    char *at;

    if (!pattern[0])
        for (size_t n = 0; n < sizeof pattern; n++)
            pattern[n] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 -"[roll() % 64];
    at = room_for(c, (size_t)size + 3);
    memcpy(at, head, (size_t)used);
    for (long left = size - used, n = 0; left > 0; n++) {
        long line = left < 78 ? left : left - 78 == 1 ? 77 : 78; /* what is left after it holds its CR LF */
        if (line > 2)
            memcpy(at + size - left, pattern + (n * 61) % 4000, (size_t)line - 2);
        memcpy(at + size - left + line - 2, "\r\n", 2);
        left -= line;
    }
    memcpy(at + size, ".\r\n", 3);
    c->body_under_way = true;
}

static void watch(struct conn *c, bool wants_out)
{
    struct epoll_event event = {.events = EPOLLIN | (wants_out ? EPOLLOUT : 0u), .data.ptr = c};
    if (c->wants_out != wants_out) {
        c->wants_out = wants_out;
        epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
    }
}

/* Send what is waiting. Returns false when the session has failed. */
static bool flush(struct conn *c)
{
    while (c->out_at < c->out_length) {
        ssize_t sent;
        if (c->ssl) {
            int wanted;
            ERR_clear_error();
            sent = SSL_write(c->ssl, c->out + c->out_at, (int)(c->out_length - c->out_at));
            wanted = sent > 0 ? SSL_ERROR_NONE : SSL_get_error(c->ssl, (int)sent);
            if (wanted == SSL_ERROR_WANT_WRITE || wanted == SSL_ERROR_WANT_READ) {
                watch(c, wanted == SSL_ERROR_WANT_WRITE);
                return true;
            }
        } else {
            sent = send(c->fd, c->out + c->out_at, c->out_length - c->out_at, MSG_NOSIGNAL);
            if (sent < 0 && errno == EAGAIN) {
                watch(c, true);
                return true;
            }
        }
        if (sent <= 0) {
            fail(c, "the connection was lost while sending: %s", strerror(errno));
            return false;
        }
        c->out_at += (size_t)sent;
    }
    watch(c, false);
    if (c->body_under_way) {
        c->body_under_way = false;
        c->ended_body = clock_now();
    }
    return true;
}

/* ---- sessions ---- */

static void release(struct conn *c)
{
    if (c->ssl) {
        SSL_set_quiet_shutdown(c->ssl, 1); /* else its ticket would count as spoilt */
        SSL_shutdown(c->ssl);
        SSL_free(c->ssl);
        c->ssl = NULL;
    }
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    if (c->next)
        c->next->before = c->before;
    *c->before = c->next;
    c->next = spare;
    spare = c;
}

static void leave(struct conn *c) /* the session's slot and user are free again */
{
    if (c->state == HELD)
        held--;
    if (c->user >= 0)
        busy[c->user] = 0;
    slots[free_slots++] = c->slot;
    open_sessions--;
}

static void fail(struct conn *c, const char *format, ...)
{
    if (!errors++) {
        va_list list;
        int used = c->pc < op_count ? snprintf(first_error, sizeof first_error, "line %d of the script: ", ops[c->pc].line)
                                    : snprintf(first_error, sizeof first_error, "after the script: ");
        va_start(list, format);
        vsnprintf(first_error + used, sizeof first_error - (size_t)used, format, list);
        va_end(list);
    }
    if (errors >= max_errors)
        ending = 1;
    if (c->state == LINGER)
        lingering--;
    else
        leave(c);
    release(c);
}

static void complete(struct conn *c)
{
    now = clock_now();
    record(&session_times, c->start);
    leave(c);
    c->state = LINGER; /* until the server closes too; the slot's next session does not wait for that */
    lingering++;
    ended = now;
    if (c->ssl) { /* as clients do; without it a server may wait for the rest */
        SSL_shutdown(c->ssl);
        shutdown(c->fd, SHUT_WR);
    }
}

static int keep_ticket(SSL *ssl, SSL_SESSION *ticket)
{
    struct conn *c = SSL_get_app_data(ssl);
    SSL_SESSION_free(tickets[c->slot]);
    tickets[c->slot] = ticket;
    return 1;
}

static void begin_tls(struct conn *c)
{
    c->ssl = need(SSL_new(context));
    SSL_set_app_data(c->ssl, c);
    SSL_set_fd(c->ssl, c->fd);
    SSL_set_connect_state(c->ssl);
    if (resume && tickets[c->slot])
        SSL_set_session(c->ssl, tickets[c->slot]);
    c->state = HANDSHAKE;
}

/* Take the handshake further. Returns false when the session has failed or the handshake waits. */
static bool shake(struct conn *c)
{
    int result, wanted;
    ERR_clear_error();
    result = SSL_do_handshake(c->ssl);
    if (result == 1) {
        resumed += SSL_session_reused(c->ssl);
        c->state = CONNECTED;
        watch(c, false);
        return true;
    }
    wanted = SSL_get_error(c->ssl, result);
    if (wanted == SSL_ERROR_WANT_READ || wanted == SSL_ERROR_WANT_WRITE) {
        watch(c, wanted == SSL_ERROR_WANT_WRITE);
        return false;
    }
    fail(c, "the TLS handshake failed: %s", ERR_peek_error() ? ERR_reason_error_string(ERR_peek_error()) : strerror(errno));
    return false;
}

static void begin_session(double start)
{
    struct conn *c = spare;
    struct epoll_event event = {.events = EPOLLIN};
    int one = 1;
    char *out = NULL;
    size_t room = 0;

    if (c) {
        spare = c->next;
        out = c->out;
        room = c->out_room;
    } else {
        c = need(malloc(sizeof *c));
    }
    memset(c, 0, sizeof *c);
    c->out = out;
    c->out_room = room;
    c->next = living;
    c->before = &living;
    if (living)
        living->before = &c->next;
    living = c;
    c->slot = slots[--free_slots];
    c->session = begun++;
    c->user = -1; /* until the script names one */
    c->start = c->active = start;
    c->line_start = true;
    open_sessions++;
    event.data.ptr = c;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) {
        fail(c, "no socket: %s", strerror(errno));
        return;
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (has_source && bind(c->fd, (struct sockaddr *)&source, sizeof source)) {
        fail(c, "cannot bind: %s", strerror(errno));
        return;
    }
    if (connect(c->fd, (struct sockaddr *)&place, sizeof place) && errno != EINPROGRESS) {
        fail(c, "cannot connect: %s", strerror(errno));
        return;
    }
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
    if (tls) {
        begin_tls(c);
        if (shake(c))
            go_on(c);
    } else {
        go_on(c);
    }
}

/* Go on with the script up to the next reply, handshake, hold, or its end. */
static void go_on(struct conn *c)
{
    for (; c->pc < op_count; c->pc++) {
        const struct op *op = &ops[c->pc];
        struct loop *loop = c->depth ? &c->loops[c->depth - 1] : NULL;
        switch (op->kind) {
        case SEND:
            put_line(c, op->text);
            break;
        case BODY:
            put_body(c, op->b < 0 ? op->a : (long)((double)op->a * pow((double)op->b / (double)op->a, unit())));
            break;
        case REPEAT:
            c->loops[c->depth++] = (struct loop){c->pc, op->a, op->b < 0 ? c->count : op->b};
            if (op->a > c->loops[c->depth - 1].last) {
                c->depth--;
                c->pc = op->partner;
            }
            break;
        case CHANCE:
            if ((long)(roll() % 100) >= op->a)
                c->pc = op->partner;
            break;
        case END:
            if (ops[op->partner].kind == REPEAT) {
                if (loop->number++ < loop->last)
                    c->pc = loop->at;
                else
                    c->depth--;
            }
            break;
        case USER:
            if (c->user >= 0)
                busy[c->user] = 0;
            c->user = -1;
            need_user(c);
            break;
        case CLOCK:
            c->name = op->partner;
            c->clock = clock_now();
            break;
        case STOP:
            now = clock_now();
            record(&named[c->name], c->clock);
            break;
        case TLS:
            if (!flush(c))
                return;
            c->pc++;
            begin_tls(c);
            if (!shake(c))
                return;
            c->pc--;
            break;
        case HOLD:
            if (holding < 0)
                break;
            if (!flush(c))
                return;
            c->pc++;
            c->state = HELD;
            held++;
            return;
        case REPLY:
        case REFUSED:
        case COUNT:
        case MULTI:
        case MESSAGE:
        case STORED:
            c->positive = false;
            c->octets = 0;
            c->line_length = 0;
            flush(c);
            return;
        }
    }
    if (flush(c))
        complete(c);
}

/* The first or only line of a reply is here. Returns whether the reply is complete; false also when it failed. */
static bool judge(struct conn *c, bool *failed)
{
    enum kind kind = ops[c->pc].kind;
    const char *line = c->line;
    bool digits = c->line_length >= 4 && strspn(line, "0123456789") >= 3;
    bool yes = !strncmp(line, "+OK", 3) || !strncmp(line, "+ ", 2) || (digits && (line[0] == '2' || line[0] == '3'));
    bool no = !strncmp(line, "-ERR", 4) || (digits && (line[0] == '4' || line[0] == '5'));

    if (!(kind == REFUSED ? no : yes)) {
        fail(c, "the reply is '%.*s'", (int)strcspn(line, "\r\n"), line);
        *failed = true;
        return false;
    }
    if (digits && line[3] == '-') {
        c->line_length = 0;
        return false;
    }
    if (kind == COUNT && sscanf(line, "+OK %ld", &c->count) != 1) {
        fail(c, "there is no number in '%.*s'", (int)strcspn(line, "\r\n"), line);
        *failed = true;
        return false;
    }
    c->positive = true;
    c->line_start = true;
    c->dots = 0;
    return kind != MULTI && kind != MESSAGE;
}

/* Take octets of a multi-line reply. Returns how many; *whole when its last line was among them. */
static size_t take_multi(struct conn *c, const char *data, size_t length, bool *whole)
{
    size_t at = 0;
    while (at < length) {
        const char *end;
        if (c->line_start && data[at] == '.') {
            c->line_start = false;
            c->dots = 1;
            at++;
        } else if (c->dots == 1 && data[at] == '\r') {
            c->dots = 2;
            at++;
        } else if (c->dots == 2 && data[at] == '\n') {
            *whole = true;
            return at + 1;
        } else {
            c->dots = 0;
            end = memchr(data + at, '\n', length - at);
            c->line_start = end != NULL;
            at = end ? (size_t)(end - data) + 1 : length;
        }
    }
    return at;
}

/* What a whole reply means for the counts. Returns false when it was not what the script wants. */
static bool settle(struct conn *c)
{
    const struct op *op = &ops[c->pc];
    if (op->kind == MULTI || op->kind == MESSAGE) {
        if (c->octets < op->a || (op->b >= 0 && c->octets > op->b)) {
            fail(c, "the reply has %ld octets", c->octets);
            return false;
        }
        messages += op->kind == MESSAGE;
    } else if (op->kind == STORED) {
        messages++;
        now = clock_now();
        record(&message_times, c->ended_body);
    }
    return true;
}

/* Take what the server sent. Returns false when the session is over. */
static bool take(struct conn *c, const char *data, size_t length)
{
    octets += (long)length;
    while (length) {
        size_t used;
        bool whole = false, failed = false;
        if (c->state != CONNECTED || c->pc >= op_count) {
            fail(c, "the server sent '%.*s' unasked", (int)(length < 60 ? length : 60), data);
            return false;
        }
        if (!c->positive) {
            const char *end = memchr(data, '\n', length);
            size_t kept;
            used = end ? (size_t)(end - data) + 1 : length;
            kept = (size_t)c->line_length + used < LINE ? used : (size_t)(LINE - 1 - c->line_length);
            memcpy(c->line + c->line_length, data, kept);
            c->line_length += (int)kept;
            c->line[c->line_length] = 0;
            if (end)
                whole = judge(c, &failed);
            if (failed)
                return false;
        } else {
            used = take_multi(c, data, length, &whole);
            c->octets += (long)used;
        }
        data += used;
        length -= used;
        if (whole) {
            if (!settle(c))
                return false;
            c->pc++;
            go_on(c);
            if (c->fd < 0 || (c->state == LINGER && !length))
                return false;
        }
    }
    return true;
}

static void receive_tls(struct conn *c)
{
    do {
        int got, wanted;
        ERR_clear_error();
        got = SSL_read(c->ssl, piece, sizeof piece);
        if (got > 0) {
            if (!take(c, piece, (size_t)got))
                return;
            continue;
        }
        wanted = SSL_get_error(c->ssl, got);
        if (wanted == SSL_ERROR_WANT_READ)
            return;
        if (wanted == SSL_ERROR_WANT_WRITE) {
            watch(c, true);
            return;
        }
        fail(c, "the connection was closed");
        return;
    } while (SSL_has_pending(c->ssl));
}

static void receive(struct conn *c)
{
    ssize_t got;
    if (c->ssl && c->state != LINGER) {
        receive_tls(c);
        return;
    }
    got = recv(c->fd, piece, sizeof piece, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (c->state == LINGER) {
        if (got > 0 && c->ssl)
            return; /* its farewell */
        if (got > 0) {
            fail(c, "the server sent '%.*s' after its last reply", got < 60 ? (int)got : 60, piece);
            return;
        }
        lingering--;
        release(c);
    } else if (got > 0) {
        take(c, piece, (size_t)got);
    } else {
        fail(c, "the connection was %s", got ? strerror(errno) : "closed");
    }
}

static void serve(struct conn *c, uint32_t events)
{
    c->active = clock_now();
    if (c->state == HANDSHAKE) {
        if (!shake(c))
            return;
        go_on(c);
        if (c->fd < 0 || c->state == LINGER)
            return;
        if (SSL_has_pending(c->ssl))
            receive(c);
        return;
    }
    if ((events & EPOLLOUT) && c->state != LINGER && !flush(c))
        return;
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        receive(c);
}

/* ---- the run ---- */

static bool may_begin(void)
{
    if (ending || (session_limit >= 0 && begun >= session_limit))
        return false;
    return seconds < 0 || (rate > 0 ? due : clock_now()) - begin < seconds;
}

static void begin_what_is_due(void)
{
    if (rate <= 0) {
        while (free_slots && may_begin())
            begin_session(clock_now());
        return;
    }
    now = clock_now();
    while (free_slots && may_begin() && due <= now) {
        begin_session(due);
        due += -log(1.0 - unit()) / rate;
    }
    if (may_begin()) {
        struct itimerspec at = {.it_value = {(time_t)due, (long)((due - floor(due)) * 1e9)}};
        timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
    }
}

static void sweep(void) /* sessions that hang, and servers that do not close */
{
    now = clock_now();
    for (struct conn *c = living, *next; c; c = next) {
        next = c->next;
        if (c->state != HELD && now - c->active > timeout)
            fail(c, c->state == LINGER ? "the server does not close the connection" : "no answer within the time");
    }
}

static void release_held(void)
{
    holding = -1;
    for (struct conn *c = living, *next; c; c = next) {
        next = c->next;
        if (c->state != HELD)
            continue;
        c->state = CONNECTED;
        c->active = clock_now();
        held--;
        go_on(c);
    }
}

static void run(void)
{
    struct epoll_event events[EVENTS];
    double swept = begin, held_since = -1;

    for (;;) {
        bool all_there;
        int count, wait = 200;
        begin_what_is_due();
        all_there = holding >= 0 && held == open_sessions && !may_begin();
        if (all_there && held_since < 0) {
            puts("held");
            fflush(stdout);
            held_since = clock_now();
        }
        if (held_since >= 0 && holding >= 0 && (ending || clock_now() - held_since >= holding)) {
            release_held();
            continue;
        }
        if (!open_sessions && !lingering && !may_begin())
            return;
        count = epoll_wait(poller, events, EVENTS, wait);
        for (int n = 0; n < count; n++) {
            struct conn *c = events[n].data.ptr;
            uint64_t ticks;
            if (c)
                serve(c, events[n].events);
            else if (read(timer, &ticks, sizeof ticks) < 0)
                continue;
        }
        if (clock_now() - swept > 1) {
            swept = clock_now();
            sweep();
        }
    }
}

static int in_order(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double part(const struct times *times, double share_below) /* nearest rank */
{
    size_t rank = (size_t)ceil(share_below * (double)times->count);
    return times->ms[rank ? rank - 1 : 0];
}

static void print_times(const char *name, struct times *times)
{
    printf("\"%s\": {\"count\": %zu", name, times->count);
    if (times->count) {
        qsort(times->ms, times->count, sizeof *times->ms, in_order);
        printf(", \"p50\": %.3f, \"p95\": %.3f, \"p99\": %.3f, \"max\": %.3f", part(times, 0.50), part(times, 0.95),
               part(times, 0.99), part(times, 1));
    }
    fputs("}", stdout);
}

static void print_text(const char *text)
{
    putchar('"');
    for (; *text; text++)
        if (*text == '"' || *text == '\\')
            printf("\\%c", *text);
        else if ((unsigned char)*text < 32 || (unsigned char)*text > 126)
            printf("\\u%04x", (unsigned char)*text);
        else
            putchar(*text);
    putchar('"');
}

static void report(double elapsed)
{
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    printf("{\"sessions\": %zu, \"messages\": %ld, \"octets\": %ld, \"elapsed\": %.6f, ", session_times.count, messages, octets,
           elapsed);
    printf("\"sessions_per_second\": %.3f, \"messages_per_second\": %.3f, ", (double)session_times.count / elapsed,
           (double)messages / elapsed);
    print_times("session_ms", &session_times);
    fputs(", ", stdout);
    print_times("message_ms", &message_times);
    fputs(", \"times\": {", stdout);
    for (int n = 0; n < name_count; n++) {
        if (n)
            fputs(", ", stdout);
        print_times(names[n], &named[n]);
    }
    printf("}, \"resumed\": %ld, \"errors\": %ld, \"first_error\": ", resumed, errors);
    if (errors)
        print_text(first_error);
    else
        fputs("null", stdout);
    printf(", \"cpu\": %.6f}\n", (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
                                     (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6);
}

static void stop(int number)
{
    (void)number;
    ending = 1;
}

static void read_options(int count, char **words)
{
    enum { HOST = 1, PORT, SOURCE, TLS_, STARTTLS, RESUME, CONNECTIONS, SESSIONS, SECONDS, RATE, USERS, FORMAT, USER_COUNT, PASSWORD,
           FIRST, RANDOM, SHARE, FRESH_EVERY, WARM, FRESH_FIRST, HOLD_, TIMEOUT, MAX_ERRORS, SEED };
    static const struct option options[] = {
        {"host", 1, 0, HOST}, {"port", 1, 0, PORT}, {"source", 1, 0, SOURCE}, {"tls", 0, 0, TLS_},
        {"starttls-pop3", 0, 0, STARTTLS}, {"resume", 0, 0, RESUME}, {"connections", 1, 0, CONNECTIONS},
        {"sessions", 1, 0, SESSIONS}, {"seconds", 1, 0, SECONDS}, {"rate", 1, 0, RATE}, {"users", 1, 0, USERS},
        {"user-format", 1, 0, FORMAT}, {"user-count", 1, 0, USER_COUNT}, {"password", 1, 0, PASSWORD},
        {"first", 1, 0, FIRST}, {"random", 0, 0, RANDOM}, {"share", 0, 0, SHARE}, {"fresh-every", 1, 0, FRESH_EVERY},
        {"warm", 1, 0, WARM}, {"fresh-first", 1, 0, FRESH_FIRST}, {"hold", 1, 0, HOLD_}, {"timeout", 1, 0, TIMEOUT},
        {"max-errors", 1, 0, MAX_ERRORS}, {"seed", 1, 0, SEED}, {0, 0, 0, 0}};
    const char *users = NULL, *mark;
    int option;

    place.sin_family = source.sin_family = AF_INET;
    place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    one_password = "";
    while ((option = getopt_long(count, words, "", options, NULL)) != -1)
        switch (option) {
        case HOST:
            if (inet_pton(AF_INET, optarg, &place.sin_addr) != 1)
                die("--host takes an IPv4 address");
            break;
        case SOURCE:
            if (inet_pton(AF_INET, optarg, &source.sin_addr) != 1)
                die("--source takes an IPv4 address");
            has_source = true;
            break;
        case PORT: place.sin_port = htons((uint16_t)atoi(optarg)); break;
        case TLS_: tls = true; break;
        case STARTTLS: starttls = true; break;
        case RESUME: resume = true; break;
        case CONNECTIONS: connections = atol(optarg); break;
        case SESSIONS: session_limit = atol(optarg); break;
        case SECONDS: seconds = atof(optarg); break;
        case RATE: rate = atof(optarg); break;
        case USERS: users = optarg; break;
        case FORMAT: user_format = optarg; break;
        case USER_COUNT: user_count = atol(optarg); break;
        case PASSWORD: one_password = optarg; break;
        case FIRST: first_user = atol(optarg); break;
        case RANDOM: at_random = true; break;
        case SHARE: share = true; break;
        case FRESH_EVERY: fresh_every = atol(optarg); break;
        case WARM: warm = atol(optarg); break;
        case FRESH_FIRST: fresh_user = atol(optarg); break;
        case HOLD_: holding = atof(optarg); break;
        case TIMEOUT: timeout = atof(optarg); break;
        case MAX_ERRORS: max_errors = atol(optarg); break;
        case SEED: dice ^= (uint64_t)atol(optarg) * 0xD1342543DE82EF95u; break;
        default: exit(2);
        }
    if (optind != count - 1)
        die("give one script");
    if (!place.sin_port || connections < 1)
        die("--port and --connections are needed");
    if (tls && starttls)
        die("--tls or --starttls-pop3, not both");
    if (users && user_count)
        die("--users or --user-count, not both");
    if (users)
        read_users(users);
    else if (user_count && (!user_format || !(mark = strstr(user_format, "%d")) || strchr(user_format, '%') != mark || strchr(mark + 1, '%')))
        die("--user-format needs %%d once, and no other %%");
    if (warm > user_count || (fresh_every && !warm))
        die("--warm takes a number of users, and --fresh-every needs it");
    if (fresh_user < 0)
        fresh_user = warm;
    if (session_limit < 0 && (seconds < 0 || holding >= 0))
        session_limit = connections;
    next_user = first_user;
    read_script(words[optind]);
}

int main(int count, char **words)
{
    struct rlimit files;
    struct sigaction action = {.sa_handler = stop};
    struct epoll_event event = {.events = EPOLLIN};

    read_options(count, words);
    if (!getrlimit(RLIMIT_NOFILE, &files)) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    signal(SIGPIPE, SIG_IGN);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    context = need(SSL_CTX_new(TLS_client_method()));
    SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL); /* the server is measured, not trusted */
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    if (resume) {
        SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(context, keep_ticket);
    }
    if (holding < 0) { /* one system call for several records */
        SSL_CTX_set_read_ahead(context, 1);
        SSL_CTX_set_default_read_buffer_len(context, 1 << 17);
    }
    busy = need(calloc((size_t)user_count + 1, 1));
    tickets = need(calloc((size_t)connections, sizeof *tickets));
    slots = need(calloc((size_t)connections, sizeof *slots));
    for (long n = connections; n > 0; n--)
        slots[free_slots++] = (int)n - 1;
    poller = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (poller < 0 || timer < 0)
        die("no poller: %s", strerror(errno));
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event);
    begin = due = clock_now();
    run();
    report((ended > begin ? ended : clock_now()) - begin);
    return errors ? 1 : 0;
}
