/* The random parts of a thread's working memory.
 *
 * What belongs here: masking keys and the separator of runs, both from the
 * kernel's generator.  What does not: any other use of the scratch.
 *
 * A forked child must not repeat its parent's keys: Python calls
 * syncws_scratch_init() again there (os.register_at_fork).
 */
#include "codec.h"

#include <string.h>
#include <sys/random.h>
#include <unistd.h>

void syncws_scratch_init(syncws_scratch *scratch)
{
    size_t i;

    scratch->record_count = 0;
    scratch->unclaimed = SYNCWS_CLAIMED;
    scratch->keys_left = 0;
    scratch->rest = NULL;
    scratch->rest_length = 0;
    scratch->channel = NULL;
    scratch->data = NULL;
    scratch->length = 0;
    scratch->code = 0;
    scratch->error_number = 0;
    scratch->slice_ms = 0;
    scratch->number = 0;
    /* Unpredictable so that a peer cannot make runs fail, which would only be
     * slow: a separator that occurs in a message is found before it is used. */
    if (getentropy(scratch->separator, sizeof scratch->separator) != 0)
        memcpy(scratch->separator, "\xE7\x1B\x9C\x52", sizeof scratch->separator);
    /* The first byte occurs once, so separators cannot overlap. */
    for (i = 1; i < sizeof scratch->separator; i++)
        if (scratch->separator[i] == scratch->separator[0])
            scratch->separator[i] ^= 0x55;
}

int syncws_mask_key(syncws_scratch *scratch, uint8_t *key)
{
    if (scratch->keys_left < 4) {
        /* RFC 6455 section 10.3: "derived from a strong source of entropy". */
        if (getentropy(scratch->keys, sizeof scratch->keys) != 0)
            return -1;
        scratch->keys_left = sizeof scratch->keys;
    }
    memcpy(key, scratch->keys + (sizeof scratch->keys - scratch->keys_left), 4);
    scratch->keys_left -= 4;
    return 0;
}
