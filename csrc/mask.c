#include "codec.h"

void syncws_mask(uint8_t *destination, const uint8_t *source, size_t length,
                 const uint8_t *key, size_t phase)
{
    for (size_t i = 0; i < length; i++)
        destination[i] = (uint8_t)(source[i] ^ key[(phase + i) % 4]);
}

#include <string.h>
#include <sys/random.h>

void syncws_scratch_init(syncws_scratch *scratch)
{
    scratch->record_count = 0;
    scratch->unclaimed = 0;
    scratch->keys_left = 0;
    scratch->rest = NULL;
    scratch->rest_length = 0;
    scratch->data = NULL;
    scratch->length = 0;
    if (getentropy(scratch->separator, 4) != 0)
        memcpy(scratch->separator, "\xF5\xC1\x9D\x83", 4);
    for (int i = 1; i < 4; i++)
        if (scratch->separator[i] == scratch->separator[0])
            scratch->separator[i] ^= 0x55;
}

int syncws_mask_key(syncws_scratch *scratch, uint8_t *key)
{
    if (scratch->keys_left < 4) {
        if (getentropy(scratch->keys, sizeof scratch->keys) != 0)
            return -1;
        scratch->keys_left = sizeof scratch->keys;
    }
    memcpy(key, scratch->keys + sizeof scratch->keys - scratch->keys_left, 4);
    scratch->keys_left -= 4;
    return 0;
}
