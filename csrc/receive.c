/* The calls that read a connection, and those that wait for its descriptor.
 *
 * What belongs here: system calls that receive and wait, and what they return.  What does not:
 * who may read (channel.c), and what bytes mean (decoder.c).
 */
#include "internal.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

uint64_t syncws_received(syncws_channel *channel) {
    return atomic_load_explicit(&channel->received, memory_order_relaxed);
}

static void count_received(syncws_channel *channel, uint64_t bytes) {
    /* Not an atomic addition, which costs what a lock does: only the owner adds. */
    atomic_store_explicit(&channel->received, syncws_received(channel) + bytes,
                          memory_order_relaxed);
}

static int64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Milliseconds of the same clock, a few too few: what it costs counts for each message. */
static int64_t coarse_ms(void) {
#ifdef CLOCK_MONOTONIC_COARSE
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
#else
    return now_ms();
#endif
}

int syncws_handed_ago(syncws_channel *channel) {
    int64_t now = coarse_ms();
    pthread_mutex_lock(&channel->mutex);
    int64_t handed_at = channel->handed_at;
    int handed = (channel->flags & SYNCWS_FLAG_HANDED) != 0;
    pthread_mutex_unlock(&channel->mutex);
    if (!handed || handed_at == 0 || now <= handed_at)
        return 0;
    return now - handed_at < INT_MAX ? (int)(now - handed_at) : INT_MAX;
}

static int wait_for(int descriptor, short events, int timeout_ms) {
    struct pollfd entry = {.fd = descriptor, .events = events};
    int ready = poll(&entry, 1, timeout_ms);
    if (ready < 0)
        /* ENOMEM is as passing as a signal. */
        return SYNCWS_INTERRUPTED;
    return ready == 0 ? SYNCWS_TIMED_OUT : SYNCWS_OK;
}

int syncws_wait_readable(syncws_channel *channel, int timeout_ms) {
    return wait_for(channel->descriptor, POLLIN, timeout_ms);
}

int syncws_wait_writable(syncws_channel *channel, int timeout_ms) {
    pthread_mutex_lock(&channel->mutex);
    if (channel->flags & SYNCWS_FLAG_GONE) {
        pthread_mutex_unlock(&channel->mutex);
        return SYNCWS_GONE;
    }
    channel->users++;
    pthread_mutex_unlock(&channel->mutex);
    int result = wait_for(channel->descriptor, POLLOUT, timeout_ms);
    pthread_mutex_lock(&channel->mutex);
    channel->users--;
    if (channel->flags & SYNCWS_FLAG_GONE)
        result = SYNCWS_GONE;
    /* What still waits is the reader's again. */
    syncws_list_locked(channel, channel->users == 0);
    pthread_mutex_unlock(&channel->mutex);
    return result;
}

/* Bytes received into the decoder's window and the scratch: > 0, 0 at the end of the
 * stream, -1 with errno. */
static ssize_t receive_some(syncws_channel *channel, syncws_scratch *scratch, size_t *direct,
                            int flags) {
    uint8_t *window = NULL;
    size_t room = syncws_decoder_window(&channel->decoder, &window);
    *direct = 0;
    if (room == 0)
        return recv(channel->descriptor, scratch->input, sizeof scratch->input, flags);
    struct iovec parts[2] = {{.iov_base = window, .iov_len = room},
                             {.iov_base = scratch->input, .iov_len = sizeof scratch->input}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    ssize_t received = recvmsg(channel->descriptor, &message, flags);
    if (received > 0)
        *direct = (size_t)received < room ? (size_t)received : room;
    return received;
}

static int decoded(const syncws_channel *channel, syncws_scratch *scratch, int result) {
    scratch->unclaimed = SYNCWS_UNCLAIMED;
    scratch->channel = channel;
    scratch->code = result == SYNCWS_MORE     ? SYNCWS_RECORDS_MORE
                    : result == SYNCWS_FAILED ? SYNCWS_RECORDS_FAILED
                                              : SYNCWS_RECORDS;
    return (int)scratch->code;
}

static int read_and_decode(syncws_channel *channel, syncws_scratch *scratch, int timeout_ms) {
    if (channel->decoder.backlog) {
        /* It comes before what the socket has. */
        scratch->record_count = 0;
        return decoded(channel, scratch, SYNCWS_DECODED);
    }
    int64_t deadline = -1;
    int recv_waits = channel->recv_waits && (timeout_ms < 0 || timeout_ms >= SYNCWS_FIRST_WAIT_MS);
    for (;;) {
        size_t direct;
        ssize_t received =
            receive_some(channel, scratch, &direct, recv_waits ? 0 : MSG_DONTWAIT);
        if (received > 0) {
            count_received(channel, (uint64_t)received);
            return decoded(channel, scratch,
                           syncws_decode(&channel->decoder, scratch, direct, scratch->input,
                                         (size_t)received - direct));
        }
        if (received == 0)
            return SYNCWS_END_OF_STREAM;
        if (errno == EINTR)
            return SYNCWS_INTERRUPTED;
        if (errno != EAGAIN && errno != EWOULDBLOCK) {
            scratch->error_number = errno;
            return SYNCWS_READ_FAILED;
        }
        /* It has waited its whole time: no clock is read where a message comes before. */
        if (recv_waits && timeout_ms > 0)
            timeout_ms -= SYNCWS_FIRST_WAIT_MS;
        recv_waits = 0;
        int left = timeout_ms;
        if (timeout_ms > 0) {
            int64_t now = now_ms();
            if (deadline < 0)
                deadline = now + timeout_ms;
            left = now < deadline ? (int)(deadline - now) : 0;
        }
        if (left == 0)
            return SYNCWS_TIMED_OUT;
        int result = wait_for(channel->descriptor, POLLIN, left);
        if (result != SYNCWS_OK)
            return result;
    }
}

int syncws_read(syncws_channel *channel, syncws_scratch *scratch, int timeout_ms) {
    if (scratch->unclaimed)
        return SYNCWS_SCRATCH_BUSY;
    return read_and_decode(channel, scratch, timeout_ms);
}

int syncws_decode_input(syncws_channel *channel, syncws_scratch *scratch, size_t length) {
    count_received(channel, length);
    return decoded(channel, scratch,
                   syncws_decode(&channel->decoder, scratch, 0, scratch->input, length));
}

int syncws_decode_rest(syncws_channel *channel, syncws_scratch *scratch) {
    return decoded(channel, scratch,
                   syncws_decode(&channel->decoder, scratch, 0, scratch->rest,
                                 (size_t)scratch->rest_length));
}

/* Whether the scratch holds one whole message that stays valid without ownership. */
static int is_single(const syncws_channel *channel, const syncws_scratch *scratch, int result) {
    const syncws_record *record = &scratch->records[0];
    return result == SYNCWS_RECORDS && scratch->record_count == 1 &&
           record->kind == SYNCWS_MESSAGE && !(record->flags & SYNCWS_IN_DECODER) &&
           !channel->decoder.in_message && !channel->decoder.in_frame &&
           !channel->decoder.dropping;
}

int syncws_hand_over(syncws_channel *channel, syncws_scratch *scratch, int result) {
    const int single = is_single(channel, scratch, result);
    if (!single && result != SYNCWS_TIMED_OUT && result != SYNCWS_INTERRUPTED)
        return result;
    pthread_mutex_lock(&channel->mutex);
    /* QUEUED: an interrupted call has put back a message, which comes before this one. */
    const unsigned others = SYNCWS_FLAG_FOLLOWERS | SYNCWS_FLAG_GONE |
                            (single ? (unsigned)SYNCWS_FLAG_QUEUED : 0u);
    if ((channel->flags & others) || channel->owner != syncws_this_thread()) {
        /* Leaving must be seen by others, so Python does it; or a signal handler's call has
         * left for this one, and it is another thread's by now. */
        pthread_mutex_unlock(&channel->mutex);
        return result;
    }
    syncws_leave_locked(channel, single ? SYNCWS_FLAG_HANDED : 0);
    if (single)
        channel->handed_at = coarse_ms();
    pthread_mutex_unlock(&channel->mutex);
    if (!single)
        return result;
    scratch->data = (char *)scratch->records[0].data;
    scratch->length = scratch->records[0].length;
    const int is_text = scratch->records[0].opcode == SYNCWS_TEXT;
    scratch->code = is_text ? SYNCWS_GOT_TEXT : SYNCWS_GOT_BINARY;
    return (int)scratch->code;
}

int64_t syncws_receive(syncws_channel *channel, syncws_scratch *scratch, int timeout_ms) {
    if (channel->external)
        return SYNCWS_EXTERNAL;
    const int own = scratch == NULL;
    if (own)
        scratch = syncws_thread_scratch();
    if (scratch == NULL)
        return SYNCWS_NO_SCRATCH;
    if (scratch->unclaimed)
        return SYNCWS_SCRATCH_BUSY;
    if (scratch->slice_ms > 0 && (timeout_ms < 0 || timeout_ms > scratch->slice_ms))
        timeout_ms = scratch->slice_ms;
    pthread_mutex_lock(&channel->mutex);
    int result = syncws_take_locked(channel, SYNCWS_TAKE_MESSAGE);
    pthread_mutex_unlock(&channel->mutex);
    if (result != SYNCWS_OK)
        return result;
    result = syncws_hand_over(channel, scratch, read_and_decode(channel, scratch, timeout_ms));
    if (!own || (result != SYNCWS_GOT_TEXT && result != SYNCWS_GOT_BINARY) ||
        scratch->data != (char *)scratch->packed || scratch->length > SYNCWS_LENGTH_MASK)
        return result;
    const int is_text = result == SYNCWS_GOT_TEXT;
    /* Reading fields of a struct costs Python more than shifting a number, least of all one
     * below 2 ** 30: those of the first 8191 threads. */
    return (int64_t)(scratch->number << SYNCWS_NUMBER_SHIFT |
                     (uint64_t)is_text << SYNCWS_MEMORY_SHIFT | scratch->length);
}

int64_t syncws_receive_next(syncws_channel *channel) { return syncws_receive(channel, NULL, -1); }
