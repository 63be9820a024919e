/* Makes calls of libc fail on demand, in a program started with LD_PRELOAD.
 *
 * What belongs here: the failures, one table entry per call, and the few functions by
 * which the program orders them (through ctypes).  What does not: deciding what fails.
 *
 * The calls of the C library's own allocator are told apart by who made them: only those
 * from the watched range of addresses, which is the extension module, are counted.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* The order is that of CALLS in shim.py. */
enum call {
    CALL_MALLOC,
    CALL_RECV,
    CALL_RECVMSG,
    CALL_SEND,
    CALL_SENDMSG,
    CALL_POLL,
    CALL_EPOLL_WAIT,
    CALL_EPOLL_CTL,
    CALL_ACCEPT,
    CALL_SOCKET,
    CALL_CONNECT,
    CALL_SETSOCKOPT,
    CALL_GETSOCKOPT,
    CALL_GETPEERNAME,
    CALL_GETSOCKNAME,
    CALL_SHUTDOWN,
    CALL_PTHREAD_CREATE,
    CALL_COUNT
};

static struct plan {
    atomic_long seen;      /* calls since the last order */
    atomic_long countdown; /* the call that reaches 0 is the first to fail */
    atomic_long times;     /* failures left */
    atomic_int error_number;
} plans[CALL_COUNT];

static atomic_uintptr_t watched_from, watched_to;
static atomic_long shortest;   /* bytes that one transfer may move; 0: no limit */
static atomic_long interrupts; /* every so manyth transfer or wait is interrupted; 0: none */
static atomic_long transfers;
static atomic_long clock_offset; /* seconds */

void faults_order(int call, long nth, long times, int error_number) {
    struct plan *plan = &plans[call];
    atomic_store(&plan->times, 0);
    atomic_store(&plan->seen, 0);
    atomic_store(&plan->countdown, nth);
    atomic_store(&plan->error_number, error_number);
    atomic_store(&plan->times, times);
}

long faults_seen(int call) { return atomic_load(&plans[call].seen); }

long faults_left(int call) { return atomic_load(&plans[call].times); }

void faults_watch(uintptr_t from, uintptr_t to) {
    atomic_store(&watched_from, from);
    atomic_store(&watched_to, to);
}

void faults_transfers(long most_bytes, long interrupt_every) {
    atomic_store(&shortest, most_bytes);
    atomic_store(&interrupts, interrupt_every);
}

void faults_shift_clock(long seconds) { atomic_store(&clock_offset, seconds); }

/* 1 with errno set: the call is to fail. */
static int fails(enum call call) {
    struct plan *plan = &plans[call];
    atomic_fetch_add(&plan->seen, 1);
    if (atomic_load(&plan->times) <= 0 || atomic_fetch_sub(&plan->countdown, 1) > 1)
        return 0;
    if (atomic_fetch_sub(&plan->times, 1) <= 0)
        return 0;
    errno = atomic_load(&plan->error_number);
    return 1;
}

static int interrupted(void) {
    long every = atomic_load(&interrupts);
    if (every <= 0 || atomic_fetch_add(&transfers, 1) % every != 0)
        return 0;
    errno = EINTR;
    return 1;
}

static size_t shortened(size_t size) {
    long most = atomic_load(&shortest);
    return most > 0 && size > (size_t)most ? (size_t)most : size;
}

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

/* --------------------------------------------------------------- memory -- */

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *memory, size_t size);

static int memory_fails(void *caller) {
    uintptr_t address = (uintptr_t)caller;
    if (address < atomic_load(&watched_from) || address >= atomic_load(&watched_to))
        return 0;
    return fails(CALL_MALLOC);
}

void *malloc(size_t size) {
    return memory_fails(__builtin_return_address(0)) ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
    return memory_fails(__builtin_return_address(0)) ? NULL : __libc_calloc(count, size);
}

void *realloc(void *memory, size_t size) {
    return memory_fails(__builtin_return_address(0)) ? NULL : __libc_realloc(memory, size);
}

/* ------------------------------------------------------------ transfers -- */

ssize_t recv(int descriptor, void *data, size_t size, int flags) {
    if (fails(CALL_RECV) || interrupted())
        return -1;
    return REAL(recv)(descriptor, data, shortened(size), flags);
}

ssize_t send(int descriptor, const void *data, size_t size, int flags) {
    if (fails(CALL_SEND) || interrupted())
        return -1;
    return REAL(send)(descriptor, data, shortened(size), flags);
}

/* A message cut to its first part that is not empty. */
static struct iovec first_part(const struct msghdr *message) {
    struct iovec part = {NULL, 0};
    for (size_t index = 0; index < message->msg_iovlen && part.iov_len == 0; index++)
        part = message->msg_iov[index];
    part.iov_len = shortened(part.iov_len);
    return part;
}

ssize_t recvmsg(int descriptor, struct msghdr *message, int flags) {
    if (fails(CALL_RECVMSG) || interrupted())
        return -1;
    if (atomic_load(&shortest) <= 0)
        return REAL(recvmsg)(descriptor, message, flags);
    struct iovec part = first_part(message);
    return REAL(recv)(descriptor, part.iov_base, part.iov_len, flags);
}

ssize_t sendmsg(int descriptor, const struct msghdr *message, int flags) {
    if (fails(CALL_SENDMSG) || interrupted())
        return -1;
    if (atomic_load(&shortest) <= 0)
        return REAL(sendmsg)(descriptor, message, flags);
    struct iovec part = first_part(message);
    return REAL(send)(descriptor, part.iov_base, part.iov_len, flags);
}

/* ---------------------------------------------------------------- waits -- */

int poll(struct pollfd *entries, nfds_t count, int timeout) {
    if (fails(CALL_POLL) || interrupted())
        return -1;
    return REAL(poll)(entries, count, timeout);
}

int epoll_wait(int descriptor, struct epoll_event *events, int room, int timeout) {
    if (fails(CALL_EPOLL_WAIT) || interrupted())
        return -1;
    return REAL(epoll_wait)(descriptor, events, room, timeout);
}

int epoll_ctl(int descriptor, int operation, int target, struct epoll_event *event) {
    return fails(CALL_EPOLL_CTL) ? -1 : REAL(epoll_ctl)(descriptor, operation, target, event);
}

/* -------------------------------------------------------------- sockets -- */

int accept4(int descriptor, struct sockaddr *address, socklen_t *size, int flags) {
    return fails(CALL_ACCEPT) ? -1 : REAL(accept4)(descriptor, address, size, flags);
}

int socket(int family, int type, int protocol) {
    return fails(CALL_SOCKET) ? -1 : REAL(socket)(family, type, protocol);
}

int connect(int descriptor, const struct sockaddr *address, socklen_t size) {
    return fails(CALL_CONNECT) ? -1 : REAL(connect)(descriptor, address, size);
}

int setsockopt(int descriptor, int level, int name, const void *value, socklen_t size) {
    return fails(CALL_SETSOCKOPT) ? -1 : REAL(setsockopt)(descriptor, level, name, value, size);
}

int getsockopt(int descriptor, int level, int name, void *value, socklen_t *size) {
    return fails(CALL_GETSOCKOPT) ? -1 : REAL(getsockopt)(descriptor, level, name, value, size);
}

int getpeername(int descriptor, struct sockaddr *address, socklen_t *size) {
    return fails(CALL_GETPEERNAME) ? -1 : REAL(getpeername)(descriptor, address, size);
}

int getsockname(int descriptor, struct sockaddr *address, socklen_t *size) {
    return fails(CALL_GETSOCKNAME) ? -1 : REAL(getsockname)(descriptor, address, size);
}

int shutdown(int descriptor, int how) {
    return fails(CALL_SHUTDOWN) ? -1 : REAL(shutdown)(descriptor, how);
}

/* -------------------------------------------------------------- threads -- */

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                   void *(*function)(void *), void *argument) {
    if (fails(CALL_PTHREAD_CREATE))
        return errno;
    return REAL(pthread_create)(thread, attributes, function, argument);
}

/* --------------------------------------------------------------- clocks -- */

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = REAL(clock_gettime)(clock, now);
    if (result == 0 && clock == CLOCK_REALTIME)
        now->tv_sec += atomic_load(&clock_offset);
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int result = REAL(gettimeofday)(now, zone);
    if (result == 0)
        now->tv_sec += atomic_load(&clock_offset);
    return result;
}

time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result != NULL)
        *result = now.tv_sec;
    return now.tv_sec;
}
