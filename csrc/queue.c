/* The bytes that wait for a socket: a growing queue.
 *
 * What belongs here: memory, also of what is to go into the queue later.  What does not:
 * what the bytes mean, and writing them (output.c).  Called under write_mutex.
 */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

/* An empty queue keeps no more than this. */
enum { KEPT_CAPACITY = 4096 };

/* Room for `length` more bytes at the end; 0 or -1. */
int syncws_queue_reserve(struct syncws_output *output, size_t length) {
    size_t used = syncws_queue_size(output);
    if (output->capacity - output->end >= length)
        return 0;
    if (output->start > 0 && output->capacity - used >= length) {
        memmove(output->data, output->data + output->start, used);
    } else {
        if (length > SIZE_MAX / 4 - used)
            return -1;
        size_t capacity = output->capacity < 256 ? 256 : output->capacity;
        while (capacity < used + length)
            capacity *= 2;
        uint8_t *data = malloc(capacity);
        if (data == NULL)
            return -1;
        if (used > 0)
            memcpy(data, output->data + output->start, used);
        free(output->data);
        output->data = data;
        output->capacity = capacity;
    }
    output->start = 0;
    output->end = used;
    return 0;
}

int syncws_queue_append(struct syncws_output *output, const uint8_t *data, size_t length) {
    if (length == 0)
        return 0;
    if (syncws_queue_reserve(output, length) < 0)
        return -1;
    memcpy(output->data + output->end, data, length);
    output->end += length;
    return 0;
}

void syncws_queue_drop(struct syncws_output *output, size_t length) {
    output->start += length;
    if (output->start < output->end)
        return;
    output->start = output->end = 0;
    if (output->capacity > KEPT_CAPACITY) {
        /* Idle connections keep no memory for their busiest moment. */
        free(output->data);
        output->data = NULL;
        output->capacity = 0;
    }
}

/* Keeps a control frame that must not go into the queue now; 0 or -1. */
int syncws_queue_keep(struct syncws_output *output, const uint8_t *frame, size_t size) {
    if (size > SYNCWS_KEPT_SIZE - output->kept_size)
        return -1;
    if (output->kept == NULL && (output->kept = malloc(SYNCWS_KEPT_SIZE)) == NULL)
        return -1;
    memcpy(output->kept + output->kept_size, frame, size);
    output->kept_size += size;
    return 0;
}

int syncws_queue_place_kept(struct syncws_output *output) {
    if (syncws_queue_append(output, output->kept, output->kept_size) < 0)
        return -1;
    free(output->kept);
    output->kept = NULL;
    output->kept_size = 0;
    return 0;
}
