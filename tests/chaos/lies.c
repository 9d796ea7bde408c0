/* Loaded before libc (LD_PRELOAD): the wall clock, and whether fsync succeeds, are what the file CHAOS_LIES says.
   It holds two numbers of 64 bits: seconds to add to the wall clock, and the error of fsync (0: none).
   If there is a directory CHAOS_DURABLE, it gets a copy of each file that was synced, as it was then: what the loss of
   power would leave of it. The copy's name is the file's path, with % for each slash. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t none[2];
static volatile int64_t *lies = none;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("CHAOS_LIES");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *at = mmap(NULL, 16, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (at != MAP_FAILED)
        lies = at;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    static int (*real)(clockid_t, struct timespec *);
    if (!real)
        real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += lies[0];
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec precise;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return result;
}

time_t time(time_t *also)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (also)
        *also = now.tv_sec;
    return now.tv_sec;
}

static int copy(int from, const char *to)
{
    char piece[65536];
    ssize_t got;
    off_t at = 0;
    int fd = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    while (fd >= 0 && (got = pread(from, piece, sizeof piece, at)) > 0)
        at += write(fd, piece, (size_t)got);
    return fd >= 0 && close(fd) == 0 && got == 0;
}

static void keep(int fd)
{
    const char *place = getenv("CHAOS_DURABLE");
    char link[64], path[PATH_MAX], target[2 * PATH_MAX], draft[2 * PATH_MAX + 32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = place ? readlink(link, path, sizeof path - 1) : -1;
    if (length < 0)
        return;
    path[length] = 0;
    for (char *at = path; *at; at++)
        if (*at == '/')
            *at = '%';
    snprintf(target, sizeof target, "%s/%s", place, path);
    snprintf(draft, sizeof draft, "%s.%d", target, (int)gettid());
    int own = open(link, O_RDONLY | O_CLOEXEC); /* it may be open for writing only */
    if (own >= 0 && copy(own, draft))
        rename(draft, target);
    if (own >= 0)
        close(own);
}

static int sync_as(const char *name, int fd)
{
    int (*real)(int) = dlsym(RTLD_NEXT, name);
    if (lies[1]) {
        errno = (int)lies[1];
        return -1;
    }
    int result = real(fd);
    if (result == 0)
        keep(fd);
    return result;
}

int fsync(int fd)
{
    return sync_as("fsync", fd);
}

int fdatasync(int fd)
{
    return sync_as("fdatasync", fd);
}
