/* A task of an array that writes into a ledger when it begins and when it ends: ledger FILE MENDED NUMBER MICROSECONDS.
 *
 * Each entry is one write() to a file that was opened for appending, so that entries of several processes never mix, and
 * none is lost that a process has written before it was killed. Every hundredth number fails until the file MENDED exists.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static void note(int ledger, const char *what, const char *number) {
    struct timespec now;
    char line[160];
    clock_gettime(CLOCK_REALTIME, &now);
    int length = snprintf(line, sizeof line, "%s %s %ld %ld.%09ld\n", what, number, (long)getpid(), (long)now.tv_sec, now.tv_nsec);
    if (write(ledger, line, (size_t)length) != length)
        _exit(9);
}

int main(int count, char **words) {
    if (count != 5)
        return 2;
    int ledger = open(words[1], O_WRONLY | O_APPEND | O_CREAT, 0644);
    if (ledger < 0)
        return 8;
    note(ledger, "began", words[3]);
    usleep((useconds_t)atol(words[4]));
    if (atol(words[3]) % 100 == 0 && access(words[2], F_OK) != 0) {
        fprintf(stderr, "task %s: there is no %s\n", words[3], words[2]);
        note(ledger, "failed", words[3]);
        return 3;
    }
    printf("result %s\n", words[3]);
    fflush(stdout);
    note(ledger, "done", words[3]);
    return 0;
}
