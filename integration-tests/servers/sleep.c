/* Sleep by the system's own clock. libfaketime 0.9.10 has this fail with EINVAL for any moment of a clock that it
   leaves alone, as Python's time.sleep asks for: always in some processes, never in others. */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *time, struct timespec *left) {
  return syscall(SYS_clock_nanosleep, clock, flags, time, left) == 0 ? 0 : errno;
}
