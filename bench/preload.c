/* What one process is told by its C library: LD_PRELOAD this, and FORERUN_SURROUNDINGS names a file of two numbers of
   eight bytes. The first one is the nanoseconds by which the process's wall clock is ahead; its monotonic clock goes on,
   as it does when a real clock is set. The second one is the most bytes of an aligned piece of memory, such as torch
   takes for its tensors; 0: there is no such limit. A larger one is refused as where there is no memory. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL

static volatile int64_t *told;
static int (*real_clock_gettime)(clockid_t, struct timespec *);

static int (*real_posix_memalign)(void **, size_t, size_t);

static void forget(void) { told = NULL; }

__attribute__((constructor)) static void begin(void) {
    real_clock_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    real_posix_memalign = (int (*)(void **, size_t, size_t))dlsym(RTLD_NEXT, "posix_memalign");
    pthread_atfork(NULL, NULL, forget); /* a copy of a process has a clock of its own */
}

static int64_t number(int place) {
    if (!told) {
        const char *name = getenv("FORERUN_SURROUNDINGS");
        int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
        if (file < 0) return 0;
        void *page = mmap(NULL, 2 * sizeof *told, PROT_READ, MAP_SHARED, file, 0);
        close(file);
        if (page == MAP_FAILED) return 0;
        told = page;
    }
    return told[place];
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!real_clock_gettime) begin();
    int failed = real_clock_gettime(clock, now);
    if (failed || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)) return failed;
    int64_t ns = now->tv_sec * SECOND + now->tv_nsec + number(0);
    now->tv_sec = ns / SECOND;
    now->tv_nsec = ns % SECOND;
    return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &precise)) return -1;
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec precise;
    if (clock_gettime(CLOCK_REALTIME, &precise)) return (time_t)-1;
    if (now) *now = precise.tv_sec;
    return precise.tv_sec;
}

int posix_memalign(void **piece, size_t alignment, size_t size) {
    int64_t most = number(1);
    if (most && size > (size_t)most) return ENOMEM;
    if (!real_posix_memalign) begin();
    return real_posix_memalign(piece, alignment, size);
}
