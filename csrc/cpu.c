/* Which instruction set is in use.
 *
 * What belongs here: finding out what the processor can do and the one mutable
 * global of the codec, the level in force.  What does not: any kernel.
 */
#include "codec.h"

#include <stdatomic.h>

/* The level in force plus one; 0 before the first call.  Threads that race for
 * the first call store the same value. */
static atomic_int level_in_force;

static int available(int level)
{
    switch (level) {
    case SYNCWS_ISA_PORTABLE:
        return 1;
#if SYNCWS_X86
    case SYNCWS_ISA_SSE2: /* part of every x86-64 */
        return 1;
    case SYNCWS_ISA_AVX2: /* this includes the operating system's support */
        return __builtin_cpu_supports("avx2") != 0;
#elif SYNCWS_NEON
    case SYNCWS_ISA_NEON: /* part of every AArch64 */
        return 1;
#endif
    default:
        return 0;
    }
}

int syncws_set_isa(int level)
{
    if (level > SYNCWS_ISA_NEON)
        level = SYNCWS_ISA_NEON;
    while (level > SYNCWS_ISA_PORTABLE && !available(level))
        level--;
    if (level < SYNCWS_ISA_PORTABLE)
        level = SYNCWS_ISA_PORTABLE;
    atomic_store_explicit(&level_in_force, level + 1, memory_order_relaxed);
    return level;
}

int syncws_isa(void)
{
    int stored = atomic_load_explicit(&level_in_force, memory_order_relaxed);
    return stored ? stored - 1 : syncws_set_isa(SYNCWS_ISA_NEON);
}
