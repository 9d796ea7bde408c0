/* Loaded before libc (LD_PRELOAD): the wall clock, and whether fsync succeeds, are what the file CHAOS_LIES says.
   It holds two numbers of 64 bits: seconds to add to the wall clock, and the error of fsync (0: none). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
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

static int sync_as(const char *name, int fd)
{
    int (*real)(int) = dlsym(RTLD_NEXT, name);
    if (lies[1]) {
        errno = (int)lies[1];
        return -1;
    }
    return real(fd);
}

int fsync(int fd)
{
    return sync_as("fsync", fd);
}

int fdatasync(int fd)
{
    return sync_as("fdatasync", fd);
}
