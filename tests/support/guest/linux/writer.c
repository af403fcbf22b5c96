/*
 * What the real Linux guest does all the time, and what holds it against its word: transactions in an SQLite database
 * and lines of a log of its own, both with a counter and both synced, and small files that are replaced and not synced.
 *
 *   writer run DIR     writes until it is told to stop on standard input, one command a line:
 *                        sync      everything to the disk, then "synced N"
 *                        check     as below, from the disk and not from the page cache, and against what is in RAM
 *                        poweroff  ends, after a sync
 *                      says "tick N" from time to time
 *   writer check DIR   says "CHECK ok database=N log=N", or "CHECK failed: WHY" and exits 1; for a disk at rest, on the
 *                      host too
 *
 * Line N of the log is written once transaction N is on the disk. So at each instant the database holds 1 … N, and the
 * log 1 … N or 1 … N-1.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    FILES = 16,              /* small files that are replaced in turn */
    FILE_WORDS = 1024,       /* each holds its counter that many times */
    ITERATION_US = 5 * 1000, /* pause between two transactions: other work needs the processor */
    TICK = 10,               /* transactions between two "tick" lines */
};

static const char *dir;
static sqlite3 *db;
static int log_file = -1;
static unsigned counter;
/* What the files must hold: in RAM alone, so that RAM and disk of different instants are told apart. */
static unsigned file_holds[FILES];

static void say(const char *format, ...)
{
    va_list rest;
    va_start(rest, format);
    vprintf(format, rest);
    va_end(rest);
    printf("\n");
    fflush(stdout);
}

static void fatal(const char *what, const char *why)
{
    say("FATAL %s: %s", what, why);
    exit(1);
}

static char *in_dir(char *path, size_t size, const char *name)
{
    snprintf(path, size, "%s/%s", dir, name);
    return path;
}

static void sql(const char *statement)
{
    char *why = NULL;
    if (sqlite3_exec(db, statement, NULL, NULL, &why) != SQLITE_OK)
        fatal(statement, why ? why : "?");
}

/* The first column of the first row of `query` as text, in `answer`; false when there is none. */
static bool ask(const char *query, char *answer, size_t size)
{
    sqlite3_stmt *statement;
    bool found = false;
    if (sqlite3_prepare_v2(db, query, -1, &statement, NULL) != SQLITE_OK)
        return false;
    if (sqlite3_step(statement) == SQLITE_ROW) {
        const unsigned char *text = sqlite3_column_text(statement, 0);
        snprintf(answer, size, "%s", text ? (const char *)text : "0");
        found = true;
    }
    sqlite3_finalize(statement);
    return found;
}

static unsigned ask_number(const char *query)
{
    char answer[64];
    if (!ask(query, answer, sizeof answer))
        fatal(query, sqlite3_errmsg(db));
    return (unsigned)strtoul(answer, NULL, 10);
}

static void open_database(void)
{
    char path[4096];
    if (sqlite3_open(in_dir(path, sizeof path, "data.db"), &db) != SQLITE_OK)
        fatal(path, sqlite3_errmsg(db));
    sql("PRAGMA synchronous = FULL");
}

static bool refuse(const char *format, ...)
{
    va_list rest;
    printf("CHECK failed: ");
    va_start(rest, format);
    vprintf(format, rest);
    va_end(rest);
    printf("\n");
    fflush(stdout);
    return false;
}

/* The number of the log's last line, when its lines are 1, 2, 3 …; -1 when they are not. */
static long last_in_log(void)
{
    char path[4096], line[64];
    long last = 0;
    FILE *file = fopen(in_dir(path, sizeof path, "log"), "r");
    if (!file)
        return errno == ENOENT ? 0 : -1;
    while (last >= 0 && fgets(line, sizeof line, file)) {
        char *end;
        unsigned long number = strtoul(line, &end, 10);
        /* The last line may be there in part: it is not synced yet then. */
        if (*end == '\0' && feof(file))
            break;
        last = (*end == '\n' && number == (unsigned long)last + 1) ? last + 1 : -1;
    }
    if (ferror(file))
        last = -1;
    fclose(file);
    return last;
}

static bool check_file(int index, bool against_ram)
{
    char name[32], path[4096];
    unsigned words[FILE_WORDS];
    snprintf(name, sizeof name, "file%d", index);
    int file = open(in_dir(path, sizeof path, name), O_RDONLY);
    if (file < 0) {
        if (errno == ENOENT && (!against_ram || file_holds[index] == 0))
            return true;
        return refuse("%s: %s", path, strerror(errno));
    }
    ssize_t size = read(file, words, sizeof words);
    close(file);
    if (size != (ssize_t)sizeof words)
        return refuse("%s: has %zd bytes", path, size);
    for (int at = 1; at < FILE_WORDS; at++)
        if (words[at] != words[0])
            return refuse("%s: holds both %u and %u", path, words[0], words[at]);
    if (against_ram && words[0] != file_holds[index])
        return refuse("%s: holds %u, RAM says %u", path, words[0], file_holds[index]);
    return true;
}

static bool check(bool against_ram)
{
    char answer[512];
    if (!ask("PRAGMA integrity_check", answer, sizeof answer))
        return refuse("integrity_check: %s", sqlite3_errmsg(db));
    if (strcmp(answer, "ok") != 0)
        return refuse("integrity_check: %s", answer);
    unsigned last = ask_number("SELECT max(n) FROM entry");
    unsigned count = ask_number("SELECT count(*) FROM entry");
    unsigned total = ask_number("SELECT n FROM total");
    long logged = last_in_log();
    if (count != last || total != last)
        return refuse("the database has %u entries up to %u and a total of %u", count, last, total);
    if (logged < 0)
        return refuse("the log has a gap or can't be read");
    if ((unsigned long)logged != last && (unsigned long)logged + 1 != last)
        return refuse("the log ends at %ld, the database at %u", logged, last);
    if (against_ram && (last != counter || (unsigned long)logged != last))
        return refuse("database at %u, log at %ld, RAM at %u", last, logged, counter);
    for (int index = 0; index < FILES; index++)
        if (!check_file(index, against_ram))
            return false;
    say("CHECK ok database=%u log=%ld", last, logged);
    return true;
}

static void drop_caches(void)
{
    int file = open("/proc/sys/vm/drop_caches", O_WRONLY);
    if (file < 0 || write(file, "3", 1) != 1)
        fatal("drop_caches", strerror(errno));
    close(file);
}

static void replace_file(void)
{
    char name[32], from[4096], to[4096];
    unsigned words[FILE_WORDS];
    int index = (int)(counter % FILES);
    for (int at = 0; at < FILE_WORDS; at++)
        words[at] = counter;
    snprintf(name, sizeof name, "file%d", index);
    in_dir(to, sizeof to, name);
    in_dir(from, sizeof from, "new");
    int file = open(from, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (file < 0 || write(file, words, sizeof words) != (ssize_t)sizeof words)
        fatal(from, strerror(errno));
    close(file);
    if (rename(from, to) != 0)
        fatal(to, strerror(errno));
    file_holds[index] = counter;
}

static void transaction(void)
{
    char text[256];
    counter++;
    snprintf(text, sizeof text,
             "BEGIN; INSERT INTO entry VALUES (%u, randomblob(200)); UPDATE total SET n = n + 1; COMMIT", counter);
    sql(text);
    int length = snprintf(text, sizeof text, "%u\n", counter);
    if (write(log_file, text, (size_t)length) != length || fsync(log_file) != 0)
        fatal("log", strerror(errno));
    replace_file();
    if (counter % TICK == 0)
        say("tick %u", counter);
}

/* Obeys a command if one is there; false when it is time to end. */
static bool obey(void)
{
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    char line[64];
    if (poll(&input, 1, 0) <= 0 || !fgets(line, sizeof line, stdin))
        return true;
    line[strcspn(line, "\r\n")] = '\0';
    if (strcmp(line, "sync") == 0) {
        sync();
        say("synced %u", counter);
    } else if (strcmp(line, "check") == 0) {
        sync();
        drop_caches();
        /* A new connection: the old one has pages of its own. */
        sqlite3_close(db);
        open_database();
        check(true);
    } else if (strcmp(line, "poweroff") == 0) {
        sqlite3_close(db);
        sync();
        say("ends at %u", counter);
        return false;
    } else if (line[0] != '\0') {
        say("no command %s", line);
    }
    return true;
}

static void run(void)
{
    char path[4096];
    open_database();
    sql("CREATE TABLE IF NOT EXISTS entry (n INTEGER PRIMARY KEY, filling BLOB)");
    sql("CREATE TABLE IF NOT EXISTS total (n INTEGER)");
    sql("INSERT INTO total SELECT 0 WHERE NOT EXISTS (SELECT * FROM total)");
    if (!check(false))
        exit(1);
    counter = ask_number("SELECT max(n) FROM entry");
    log_file = open(in_dir(path, sizeof path, "log"), O_RDWR | O_CREAT | O_APPEND, 0600);
    if (log_file < 0)
        fatal(path, strerror(errno));
    /* A host that crashed may have left transaction N without its line. */
    if (last_in_log() + 1 == (long)counter)
        dprintf(log_file, "%u\n", counter);
    for (int index = 0; index < FILES; index++) {
        char name[32];
        snprintf(name, sizeof name, "file%d", index);
        unlink(in_dir(path, sizeof path, name));
    }
    setvbuf(stdin, NULL, _IONBF, 0);
    say("boot %u", counter);
    while (obey()) {
        transaction();
        usleep(ITERATION_US);
    }
}

int main(int count, char **words)
{
    if (count != 3) {
        fprintf(stderr, "usage: %s run|check DIR\n", words[0]);
        return 2;
    }
    dir = words[2];
    if (strcmp(words[1], "run") == 0) {
        run();
        return 0;
    }
    open_database();
    return check(false) ? 0 : 1;
}
