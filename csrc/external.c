/* What is said about the outbound queue, and to it, by who moves its bytes, and what is asked.
 *
 * What belongs here: progress that a Python transport reports, and questions about what
 * waits and about the message under way.  What does not: encoding and writing (output.c).
 *
 * Everything here runs under write_mutex.
 */
#include "internal.h"

/* With write_mutex held. */
static size_t size_of(const syncws_channel *channel) {
    const struct syncws_output *output = &channel->output;
    if (output->error != 0)
        return 0;
    return syncws_queue_size(output) +
           (output->frame_left == 0 && syncws_has_controls(output) ? 1 : 0) +
           (channel->external && output->refused ? 1 : 0);
}

size_t syncws_output_moved(syncws_channel *channel, size_t length, int progress, int idle) {
    struct syncws_output *output = &channel->output;
    pthread_mutex_lock(&channel->write_mutex);
    if (length <= syncws_queue_size(output))
        syncws_queue_drop(output, length);
    if (progress && output->refused)
        channel->drained++;
    output->refused = !idle;
    size_t result = size_of(channel);
    pthread_mutex_unlock(&channel->write_mutex);
    return result;
}

uint64_t syncws_drained(syncws_channel *channel) {
    pthread_mutex_lock(&channel->write_mutex);
    uint64_t result = channel->drained;
    pthread_mutex_unlock(&channel->write_mutex);
    return result;
}

size_t syncws_output_size(syncws_channel *channel) {
    pthread_mutex_lock(&channel->write_mutex);
    size_t result = size_of(channel);
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

int syncws_message_is_mine(syncws_channel *channel) {
    pthread_mutex_lock(&channel->write_mutex);
    int result = channel->output.writer == syncws_this_thread();
    pthread_mutex_unlock(&channel->write_mutex);
    return result;
}

int syncws_message_cut(syncws_channel *channel) {
    const struct syncws_output *output = &channel->output;
    pthread_mutex_lock(&channel->write_mutex);
    int mine = output->writer == syncws_this_thread();
    int cut = output->cut || (mine && syncws_is_unfinished(output));
    int result = !cut                     ? SYNCWS_NOT_CUT
                 : output->frame_left > 0 ? SYNCWS_CUT_IN_FRAME
                                          : SYNCWS_CUT_BETWEEN_FRAMES;
    pthread_mutex_unlock(&channel->write_mutex);
    return result;
}

int syncws_message_begun(syncws_channel *channel) {
    pthread_mutex_lock(&channel->write_mutex);
    int result = channel->output.cut || syncws_is_unfinished(&channel->output);
    pthread_mutex_unlock(&channel->write_mutex);
    return result;
}

uint64_t syncws_frame_left(syncws_channel *channel) {
    pthread_mutex_lock(&channel->write_mutex);
    uint64_t result = channel->output.frame_left;
    pthread_mutex_unlock(&channel->write_mutex);
    return result;
}
