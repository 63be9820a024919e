/* What a thread has of its own until it ends: a mark and its working memory.
 *
 * What belongs here: making, finding and freeing it.  What does not: what is in the memory
 * (scratch.c).
 *
 * The memory is not an object of Python's: a daemon thread may be inside a system call that
 * writes to it while the interpreter takes itself apart.
 */
#include "internal.h"

#include <pthread.h>
#include <stdlib.h>

/* A thread is known by the address of its own copy of this. */
static _Thread_local char mark;

/* Its working memory; NULL before it has any. */
static _Thread_local syncws_scratch *own;

/* How many threads have got one; the last one's number. */
static _Atomic uint64_t made;

/* Its destructor is called where a thread ends. */
static pthread_key_t key;
static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static int has_key;

static void free_own(void *scratch) {
    own = NULL;
    free(scratch);
}

static void make_key(void) { has_key = pthread_key_create(&key, free_own) == 0; }

uintptr_t syncws_this_thread(void) { return (uintptr_t)&mark; }

syncws_scratch *syncws_thread_scratch(void) { return own; }

syncws_scratch *syncws_make_thread_scratch(void) {
    pthread_once(&key_once, make_key);
    if (own != NULL || !has_key)
        return own;
    syncws_scratch *scratch = malloc(sizeof *scratch);
    if (scratch == NULL || pthread_setspecific(key, scratch) != 0) {
        free(scratch);
        return NULL;
    }
    syncws_scratch_init(scratch);
    scratch->number = atomic_fetch_add(&made, 1) + 1;
    own = scratch;
    return own;
}
