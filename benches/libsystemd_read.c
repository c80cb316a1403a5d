/* Reads the messages of matching entries through libsystemd, to compare with. Prints the seconds of each round on
 * standard output; with 0 rounds, the messages. What was read is told on standard error.
 * Usage: libsystemd_read ROUNDS LINES MATCH...; a match is FIELD=value, or + between alternatives; LINES is how many of
 * the newest, or 0 for all. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include <systemd/sd-journal.h>

static void check(int result, const char *what) {
        if (result < 0) {
                fprintf(stderr, "libsystemd_read: %s: %s\n", what, strerror(-result));
                exit(1);
        }
}

static double now(void) {
        struct timespec time;
        clock_gettime(CLOCK_MONOTONIC, &time);
        return (double) time.tv_sec + (double) time.tv_nsec / 1e9;
}

int main(int count, char **arguments) {
        if (count < 4) {
                fprintf(stderr, "usage: libsystemd_read ROUNDS LINES MATCH...\n");
                return 2;
        }
        long rounds = atol(arguments[1]), newest = atol(arguments[2]), lines = 0, bytes = 0;
        int print = rounds == 0;
        for (long round = 0; round < rounds + print; round++) {
                double start = now();
                sd_journal *journal;
                lines = bytes = 0;
                check(sd_journal_open(&journal, SD_JOURNAL_LOCAL_ONLY), "open");
                check(sd_journal_set_data_threshold(journal, 0), "data threshold");
                for (int match = 3; match < count; match++)
                        if (strcmp(arguments[match], "+") == 0)
                                check(sd_journal_add_disjunction(journal), "alternative");
                        else
                                check(sd_journal_add_match(journal, arguments[match], 0), "match");
                int more;
                if (newest > 0) {
                        check(sd_journal_seek_tail(journal), "seek");
                        check(more = sd_journal_previous_skip(journal, (uint64_t) newest), "skip");
                } else {
                        check(sd_journal_seek_head(journal), "seek");
                        check(more = sd_journal_next(journal), "next");
                }
                while (more > 0) {
                        const void *data;
                        size_t length;
                        const size_t name = strlen("MESSAGE=");
                        int found = sd_journal_get_data(journal, "MESSAGE", &data, &length);
                        if (found != -ENOENT)
                                check(found, "message");
                        if (found >= 0) {
                                bytes += (long) (length - name);
                                if (print) {
                                        fwrite((const char *) data + name, 1, length - name, stdout);
                                        putchar('\n');
                                }
                        }
                        lines++;
                        check(more = sd_journal_next(journal), "next");
                }
                sd_journal_close(journal);
                if (!print)
                        printf("%.6f\n", now() - start);
        }
        struct rusage usage;
        getrusage(RUSAGE_SELF, &usage);
        fprintf(stderr, "%ld lines, %ld bytes, at the most %.1f MiB of memory\n", lines, bytes,
                (double) usage.ru_maxrss / 1024);
        return 0;
}
