// A VMM without a guest that does what a script says, good or evil: usage: vmm SCRIPT
//
// It listens on a unix socket as QEMU (a line of QMP is a request) or as a VMM with an HTTP API, and takes the actions of
// the first rule whose texts all occur in the request. The script is written by mod.rs, which documents the actions; each
// line holds fields apart by tabs, with \n, \r, \t and \\ escaped. In texts that are sent, %{NAME} stands for a variable,
// %{id} for the request's id and %{n} for a number that is another one each time.
//
// It ends when its standard input does. A line "NAME" that comes in there sets the variable NAME. What happens is told on
// standard output, a line for each request.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define MAX_FIELDS 12
#define MAX_REQUEST (1 << 20)
#define MAX_PAIRS 256

struct action {
    char *field[MAX_FIELDS];
    int fields;
    struct action *next;
};

struct rule {
    char *needle[MAX_FIELDS];
    int needles;
    char *key, *value;  // only while this variable has this value
    long left;          // how often it may still be used; negative: for ever
    struct action *actions;
    struct rule *next;
};

struct pair {
    char *name, *value;
};

struct conversation {
    int socket;
    char *request;
    int received;  // the descriptor that came last, or -1
};

static bool speaks_qmp;
static char *greeting;
static struct rule *rules;
static struct pair variables[MAX_PAIRS];
static struct { char *name; int fd; } slots[MAX_PAIRS];
static long number;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static pthread_mutex_t output = PTHREAD_MUTEX_INITIALIZER;

static void die(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    _exit(1);
}

static void say(const char *kind, const char *text) {
    pthread_mutex_lock(&output);
    printf("%s\t%s\n", kind, text);
    fflush(stdout);
    pthread_mutex_unlock(&output);
}

static void set(const char *name, const char *value) {
    pthread_mutex_lock(&lock);
    struct pair *pair = variables;
    while (pair->name && strcmp(pair->name, name)) pair++;
    if (pair - variables >= MAX_PAIRS - 1) die("too many variables");
    if (!pair->name) pair->name = strdup(name);
    pair->value = strdup(value);
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

// The lock is held.
static const char *get(const char *name) {
    for (struct pair *pair = variables; pair->name; pair++)
        if (!strcmp(pair->name, name)) return pair->value;
    return "";
}

static int slot(const char *name) {
    int fd = -1;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MAX_PAIRS && slots[i].name; i++)
        if (!strcmp(slots[i].name, name)) fd = slots[i].fd;
    pthread_mutex_unlock(&lock);
    return fd;
}

static void put_into_slot(const char *name, int fd) {
    pthread_mutex_lock(&lock);
    int i = 0;
    while (slots[i].name && strcmp(slots[i].name, name)) i++;
    if (i >= MAX_PAIRS - 1) die("too many descriptors");
    if (!slots[i].name) slots[i].name = strdup(name);
    slots[i].fd = fd;
    pthread_mutex_unlock(&lock);
}

// The text of a JSON member, a string or a number, in a request of which nobody expects more than these.
static bool member(const char *request, const char *name, char *value, size_t size) {
    char key[128];
    snprintf(key, sizeof key, "\"%s\":", name);
    const char *at = strstr(request, key);
    if (!at) return false;
    at += strlen(key);
    bool is_text = *at == '"';
    if (is_text) at++;
    size_t length = strcspn(at, is_text ? "\"" : ",}");
    if (length >= size) length = size - 1;
    memcpy(value, at, length);
    value[length] = 0;
    return true;
}

static char *expand(const char *text, const char *request) {
    size_t size = strlen(text) + 1, used = 0;
    char *out = malloc(size);
    while (*text) {
        char value[4096] = "";
        const char *insert = NULL, *end;
        if (text[0] == '%' && text[1] == '{' && (end = strchr(text, '}'))) {
            char name[128];
            snprintf(name, sizeof name, "%.*s", (int)(end - text - 2), text + 2);
            pthread_mutex_lock(&lock);
            if (!strcmp(name, "id")) {
                // The tool puts the request's own id last; its arguments may have one, too.
                const char *last = request ? strrchr(request, ',') : NULL;
                if (!last || !member(last, "id", value, sizeof value)) strcpy(value, "0");
                insert = value;
            } else if (!strcmp(name, "n")) {
                snprintf(value, sizeof value, "%ld", ++number);
                insert = value;
            } else {
                insert = strdup(get(name));
            }
            pthread_mutex_unlock(&lock);
            text = end + 1;
        }
        char one[2] = {insert ? 0 : *text, 0};
        if (!insert) { insert = one; text++; }
        size_t length = strlen(insert);
        if (used + length + 1 > size) out = realloc(out, size = 2 * (used + length + 1));
        memcpy(out + used, insert, length);
        used += length;
    }
    out[used] = 0;
    return out;
}

static bool transmit(int socket, const char *bytes, size_t length) {
    while (length > 0) {
        ssize_t sent = send(socket, bytes, length, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) return false;
        bytes += sent;
        length -= sent;
    }
    return true;
}

static void write_at(int fd, off_t at, const char *bytes, size_t length) {
    while (length > 0) {
        ssize_t written = pwrite(fd, bytes, length, at);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) {
            say("failed", strerror(errno));
            return;
        }
        bytes += written;
        at += written;
        length -= written;
    }
}

struct background {
    struct conversation conversation;
    struct action *actions;
};

static bool act(struct conversation *c, struct action *actions);

static void *background(void *argument) {
    struct background *work = argument;
    act(&work->conversation, work->actions);
    return NULL;
}

// Takes the actions; false when the connection shall end.
static bool act(struct conversation *c, struct action *actions) {
    for (struct action *a = actions; a; a = a->next) {
        char **f = a->field;
        if (!strcmp(f[0], "send")) {
            char *text = expand(f[1], c->request);
            bool sent = transmit(c->socket, text, strlen(text));
            free(text);
            if (!sent) return false;
        } else if (!strcmp(f[0], "http")) {
            char *body = expand(f[2], c->request), head[160];
            snprintf(head, sizeof head, "HTTP/1.1 %s Whatever\r\nContent-Type: application/json\r\n", f[1]);
            if (strcmp(f[1], "204")) snprintf(head + strlen(head), 80, "Content-Length: %zu\r\n", strlen(body));
            bool sent = transmit(c->socket, head, strlen(head)) && transmit(c->socket, "\r\n", 2)
                && transmit(c->socket, body, strlen(body));
            free(body);
            if (!sent) return false;
        } else if (!strcmp(f[0], "repeat")) {
            // In large pieces, and nothing in them is replaced.
            size_t length = strlen(f[2]), many = length < 65536 ? 65536 / length : 1;
            long left = atol(f[1]);
            char *piece = malloc(many * length);
            for (size_t i = 0; i < many; i++) memcpy(piece + i * length, f[2], length);
            for (; left > 0; left -= many) {
                size_t now = left < (long)many ? (size_t)left : many;
                if (!transmit(c->socket, piece, now * length)) {
                    free(piece);
                    return false;
                }
            }
            free(piece);
        } else if (!strcmp(f[0], "drip")) {
            char *text = expand(f[2], c->request);
            for (char *at = text; *at; at++) {
                usleep(1000 * atol(f[1]));
                if (!transmit(c->socket, at, 1)) return false;
            }
        } else if (!strcmp(f[0], "sleep")) {
            usleep(1000 * atol(f[1]));
        } else if (!strcmp(f[0], "hang")) {
            for (;;) pause();
        } else if (!strcmp(f[0], "close")) {
            return false;
        } else if (!strcmp(f[0], "set")) {
            set(f[1], f[2]);
        } else if (!strcmp(f[0], "await")) {
            pthread_mutex_lock(&lock);
            while (!*get(f[1])) pthread_cond_wait(&changed, &lock);
            pthread_mutex_unlock(&lock);
        } else if (!strcmp(f[0], "take")) {
            put_into_slot(f[1], c->received);
        } else if (!strcmp(f[0], "open")) {
            char path[4096] = "", *plain = path;
            member(c->request, f[2], path, sizeof path);
            if (!strncmp(plain, "file://", 7)) plain += 7;
            if (*f[3]) strcat(strcat(plain, "/"), f[3]);
            int fd = open(plain, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
            if (fd < 0) say("failed", plain);
            put_into_slot(f[1], fd);
        } else if (!strcmp(f[0], "write")) {
            write_at(slot(f[1]), atoll(f[2]), f[3], strlen(f[3]));
        } else if (!strcmp(f[0], "drop")) {
            int fd = slot(f[1]);
            if (fd >= 0) close(fd);
            put_into_slot(f[1], -1);
        } else if (!strcmp(f[0], "run")) {
            if (system(f[1]) != 0) say("failed", f[1]);
        } else if (!strcmp(f[0], "say")) {
            say("said", f[1]);
        } else if (!strcmp(f[0], "later")) {
            struct background *work = malloc(sizeof *work);
            work->conversation = *c;
            work->conversation.request = strdup(c->request);
            work->actions = a->next;
            pthread_t thread;
            if (pthread_create(&thread, NULL, background, work)) die("pthread_create");
            pthread_detach(thread);
            return true;
        } else if (!strcmp(f[0], "exit")) {
            _exit(0);
        } else {
            errno = EINVAL;
            die(f[0]);
        }
    }
    return true;
}

static bool answer(struct conversation *c) {
    say("request", c->request);
    struct rule *found = NULL;
    pthread_mutex_lock(&lock);
    for (struct rule *rule = rules; rule && !found; rule = rule->next) {
        bool fits = rule->left != 0 && (!*rule->key || !strcmp(get(rule->key), rule->value));
        for (int i = 0; i < rule->needles; i++) fits = fits && strstr(c->request, rule->needle[i]);
        if (fits) found = rule;
    }
    if (found && found->left > 0) found->left--;
    pthread_mutex_unlock(&lock);
    if (!found) {
        say("unknown", c->request);
        return true;
    }
    return act(c, found->actions);
}

// The length of the whole request at the beginning of `buffer`, and where its interesting part ends; 0 when it is not
// there yet. In HTTP the head but for its first line is cut out.
static size_t whole_request(char *buffer, size_t used) {
    buffer[used] = 0;
    if (speaks_qmp) {
        char *end = memchr(buffer, '\n', used);
        if (!end) return 0;
        *end = 0;
        return end - buffer + 1;
    }
    char *end = strstr(buffer, "\r\n\r\n");
    if (!end) return 0;
    size_t head = end - buffer + 4;
    char *field = strcasestr(buffer, "\r\nContent-Length:");
    size_t body = field && field < end ? strtoul(field + 17, NULL, 10) : 0;
    if (used < head + body) return 0;
    return head + body;
}

static void *serve(void *argument) {
    struct conversation c = {(int)(long)argument, NULL, -1};
    char *buffer = malloc(MAX_REQUEST + 1);
    size_t used = 0;
    bool goes_on = true;
    if (greeting) {
        char *text = expand(greeting, NULL);
        goes_on = transmit(c.socket, text, strlen(text));
    }
    while (goes_on) {
        char control[CMSG_SPACE(sizeof(int))];
        struct iovec space = {buffer + used, MAX_REQUEST - used};
        struct msghdr message = {.msg_iov = &space, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
        ssize_t got = recvmsg(c.socket, &message, MSG_CMSG_CLOEXEC);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        if (header && header->cmsg_type == SCM_RIGHTS) memcpy(&c.received, CMSG_DATA(header), sizeof(int));
        used += got;
        size_t length;
        while (goes_on && (length = whole_request(buffer, used)) > 0) {
            char *rest = strndup(buffer, length);
            if (!speaks_qmp) {
                // "PUT /path HTTP/1.1", the head, the body: "PUT /path " and the body are left.
                char *version = strstr(rest, " HTTP/1.");
                char *body = strstr(rest, "\r\n\r\n");
                if (version && body) {
                    char *short_one;
                    if (asprintf(&short_one, "%.*s %s", (int)(version - rest), rest, body + 4) < 0) die("asprintf");
                    free(rest);
                    rest = short_one;
                }
            }
            c.request = rest;
            goes_on = answer(&c);
            memmove(buffer, buffer + length, used - length);
            used -= length;
        }
    }
    // Threads of "later" may still use the descriptor: it is not closed, so that its number isn't taken again.
    shutdown(c.socket, SHUT_RDWR);
    return NULL;
}

static void *obey(void *argument) {
    (void)argument;
    char line[256];
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        set(line, "1");
    }
    _exit(0);
}

static char *unescape(char *text) {
    char *to = text;
    for (char *from = text; *from; from++) {
        if (*from == '\\') {
            from++;
            *to++ = *from == 'n' ? '\n' : *from == 'r' ? '\r' : *from == 't' ? '\t' : *from;
        } else {
            *to++ = *from;
        }
    }
    *to = 0;
    return text;
}

static int listener(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 16)) die(path);
    return fd;
}

int main(int count, char **arguments) {
    if (count != 2) {
        fprintf(stderr, "usage: %s SCRIPT\n", arguments[0]);
        return 2;
    }
    FILE *script = fopen(arguments[1], "r");
    if (!script) die(arguments[1]);
    int socket = -1;
    struct rule *rule = NULL, **next_rule = &rules;
    struct action **next_action = NULL;
    char *line = NULL;
    size_t size = 0;
    while (getline(&line, &size, script) > 0) {
        line[strcspn(line, "\n")] = 0;
        struct action *a = calloc(1, sizeof *a);
        char *rest = strdup(line), *field;
        while ((field = strsep(&rest, "\t")) && a->fields < MAX_FIELDS) a->field[a->fields++] = unescape(field);
        char **f = a->field;
        if (!strcmp(f[0], "listen")) {
            socket = listener(f[1]);
        } else if (!strcmp(f[0], "qmp")) {
            speaks_qmp = true;
            greeting = f[1];
        } else if (!strcmp(f[0], "hold")) {
            if (open(f[2], (strcmp(f[1], "r") ? O_RDWR : O_RDONLY) | O_CLOEXEC) < 0) die(f[2]);
        } else if (!strcmp(f[0], "let")) {
            set(f[1], f[2]);
        } else if (!strcmp(f[0], "rule")) {
            rule = calloc(1, sizeof *rule);
            rule->left = atol(f[1]);
            rule->key = f[2];
            rule->value = f[3];
            for (int i = 4; i < a->fields; i++) rule->needle[rule->needles++] = f[i];
            *next_rule = rule;
            next_rule = &rule->next;
            next_action = &rule->actions;
        } else if (next_action) {
            *next_action = a;
            next_action = &a->next;
        }
    }
    if (socket < 0) die("no socket to listen at");
    pthread_t thread;
    if (pthread_create(&thread, NULL, obey, NULL)) die("pthread_create");
    say("ready", "");
    for (;;) {
        int connection = accept4(socket, NULL, NULL, SOCK_CLOEXEC);
        if (connection < 0) continue;
        if (pthread_create(&thread, NULL, serve, (void *)(long)connection)) die("pthread_create");
        pthread_detach(thread);
    }
}
