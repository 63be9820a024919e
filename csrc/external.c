/* What is said about the outbound queue, and to it, by who moves its bytes.
 *
 * What belongs here: progress that a Python transport reports, and questions about what
 * waits.  What does not: encoding and writing (output.c).
 *
 * Everything here runs under write_mutex.
 */
#include "internal.h"

void syncws_output_consume(syncws_channel *channel, size_t length) {
    pthread_mutex_lock(&channel->write_mutex);
    if (length <= syncws_queue_size(&channel->output))
        syncws_queue_drop(&channel->output, length);
    pthread_mutex_unlock(&channel->write_mutex);
}

void syncws_output_progress(syncws_channel *channel, int taken) {
    struct syncws_output *output = &channel->output;
    pthread_mutex_lock(&channel->write_mutex);
    if (taken && output->refused)
        channel->drained++;
    output->refused = !taken;
    pthread_mutex_unlock(&channel->write_mutex);
}

uint64_t syncws_drained(syncws_channel *channel) {
    pthread_mutex_lock(&channel->write_mutex);
    uint64_t result = channel->drained;
    pthread_mutex_unlock(&channel->write_mutex);
    return result;
}

size_t syncws_output_size(syncws_channel *channel) {
    const struct syncws_output *output = &channel->output;
    pthread_mutex_lock(&channel->write_mutex);
    size_t result = 0;
    if (output->error == 0)
        result = syncws_queue_size(output) + (output->frame_left == 0 && syncws_has_controls(output) ? 1 : 0) +
                 (channel->external && output->refused ? 1 : 0);
    pthread_mutex_unlock(&channel->write_mutex);
    return result;
}

int syncws_output_idle(syncws_channel *channel) {
    const struct syncws_output *output = &channel->output;
    pthread_mutex_lock(&channel->write_mutex);
    int result = output->error != 0 ||
                 (syncws_queue_size(output) == 0 && output->frame_left == 0 && !syncws_has_controls(output) &&
                  !(channel->external && output->refused));
    pthread_mutex_unlock(&channel->write_mutex);
    return result;
}

void syncws_output_fail(syncws_channel *channel, int error_number) {
    struct syncws_output *output = &channel->output;
    pthread_mutex_lock(&channel->write_mutex);
    if (output->error == 0)
        output->error = error_number;
    syncws_queue_drop(output, syncws_queue_size(output));
    pthread_mutex_unlock(&channel->write_mutex);
}
