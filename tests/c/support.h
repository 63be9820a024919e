/* What the C tests share: a check that ends the program, memory between guard
 * pages, and a generator that repeats itself.
 *
 * What does not belong here: anything that knows about frames.
 */
#ifndef SYNCWS_TEST_SUPPORT_H
#define SYNCWS_TEST_SUPPORT_H

#include "syncws.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CHECK(condition, ...)                                                                  \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);                    \
            fprintf(stderr, __VA_ARGS__);                                                      \
            fprintf(stderr, "\n");                                                             \
            exit(1);                                                                           \
        }                                                                                      \
    } while (0)

/* Readable and writable from start to end; the byte before and the byte after are
 * on pages that nobody may touch. */
typedef struct {
    uint8_t *start;
    uint8_t *end;
} guarded;

static inline guarded guarded_pages(size_t size)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t inside = (size + page - 1) / page * page;
    uint8_t *base = mmap(NULL, inside + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    guarded memory;

    CHECK(base != MAP_FAILED, "mmap of %zu bytes", inside);
    CHECK(mprotect(base + page, inside, PROT_READ | PROT_WRITE) == 0, "mprotect");
    memory.start = base + page;
    memory.end = base + page + inside;
    return memory;
}

static inline uint64_t next_random(uint64_t *state)
{
    uint64_t value = (*state += 0x9E3779B97F4A7C15u);

    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9u;
    value = (value ^ value >> 27) * 0x94D049BB133111EBu;
    return value ^ value >> 31;
}

static inline size_t random_below(uint64_t *state, size_t limit)
{
    return (size_t)(next_random(state) % limit);
}

/* The ISA levels that this machine has, one after the other. */
static inline int next_level(int level)
{
    for (level++; level <= SYNCWS_ISA_NEON; level++)
        if (syncws_set_isa(level) == level)
            return level;
    return -1;
}

#endif
