/* What waits to be written, and the calls that write.
 *
 * What belongs here: the bounded outbound queue, frame boundaries, control frames
 * between frames, non-blocking writes.  What does not: waiting (receive.c).
 *
 * Everything here runs under write_mutex.  What the queue holds is a copy: the caller's
 * memory is never referenced after a call returns.
 */
#include "internal.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum { PIECE = 65536, UNMASKED_PIECE = 1 << 20 };

static int fail(syncws_channel *channel, syncws_scratch *scratch, int error) {
    struct syncws_output *output = &channel->output;
    if (output->error == 0)
        output->error = error;
    syncws_queue_drop(output, syncws_queue_size(output));
    scratch->error_number = output->error;
    return SYNCWS_WRITE_FAILED;
}

/* Whether anything may be written: SYNCWS_OK, _CLOSED or _WRITE_FAILED. */
static int state(syncws_channel *channel, syncws_scratch *scratch) {
    if (channel->output.error != 0) {
        scratch->error_number = channel->output.error;
        return SYNCWS_WRITE_FAILED;
    }
    /* Without the mutex: who closes the descriptor has had write_mutex after this was set, so
     * that whoever writes later sees it. One who writes before may as well come too early. */
    return syncws_read_flags(channel) & SYNCWS_FLAG_GONE ? SYNCWS_CLOSED : SYNCWS_OK;
}

static ssize_t write_parts(int descriptor, struct iovec *parts, int count) {
    const int flags = MSG_DONTWAIT | MSG_NOSIGNAL;
    if (count == 1) /* cheaper than sendmsg() by a tenth */
        return send(descriptor, parts[0].iov_base, parts[0].iov_len, flags);
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)count};
    return sendmsg(descriptor, &message, flags);
}

/* Writes what waits and then `length` bytes at `data`; *taken counts the latter. */
static int write_through(syncws_channel *channel, syncws_scratch *scratch, const uint8_t *data,
                         size_t length, size_t *taken) {
    struct syncws_output *output = &channel->output;
    *taken = 0;
    while (!channel->external && (syncws_queue_size(output) > 0 || *taken < length)) {
        struct iovec parts[2];
        int count = 0;
        if (syncws_queue_size(output) > 0)
            parts[count++] = (struct iovec){.iov_base = output->data + output->start,
                                            .iov_len = syncws_queue_size(output)};
        if (*taken < length)
            /* sendmsg() reads through the pointer; iovec has no const form. */
            parts[count++] = (struct iovec){.iov_base = (void *)(uintptr_t)(data + *taken),
                                            .iov_len = length - *taken};
        ssize_t sent = write_parts(channel->descriptor, parts, count);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS)) {
            output->refused = 1;
            break;
        }
        if (sent < 0)
            return fail(channel, scratch, errno);
        if (output->refused) {
            output->refused = 0;
            channel->drained++;
        }
        size_t waiting = syncws_queue_size(output);
        size_t queued = (size_t)sent < waiting ? (size_t)sent : waiting;
        if (queued > 0)
            syncws_queue_drop(output, queued);
        *taken += (size_t)sent - queued;
    }
    return syncws_queue_size(output) > 0 || *taken < length ? SYNCWS_PENDING : SYNCWS_OK;
}

/* The size of the frame put at `frame`, which has room for 14 + length bytes; 0 with
 * errno if there is no masking key. */
static size_t encode(syncws_channel *channel, syncws_scratch *scratch, uint8_t *frame,
                     uint8_t first_byte, const uint8_t *data, size_t length) {
    uint8_t key[4];
    const uint8_t *mask = NULL;
    if (channel->side == SYNCWS_CLIENT) {
        if (syncws_mask_key(scratch, key) < 0)
            return 0;
        mask = key;
    }
    size_t size = syncws_encode_header(frame, first_byte, length, mask);
    if (mask != NULL)
        syncws_mask(frame + size, data, length, key, 0);
    else if (length > 0)
        memcpy(frame + size, data, length);
    return size + length;
}

static int place(syncws_channel *channel, syncws_scratch *scratch, struct syncws_slot *slot,
                 uint8_t opcode) {
    uint8_t frame[14 + 125];
    if (!slot->filled)
        return 0;
    size_t size = encode(channel, scratch, frame, (uint8_t)(0x80 | opcode), slot->payload,
                         slot->length);
    if (size == 0 || syncws_queue_append(&channel->output, frame, size) < 0)
        return -1;
    slot->filled = 0;
    return 0;
}

/* At a frame boundary the waiting control frames go out; never inside a frame. */
static int place_controls(syncws_channel *channel, syncws_scratch *scratch) {
    struct syncws_output *output = &channel->output;
    if (output->frame_left > 0 || !syncws_has_controls(output))
        return 0;
    if (place(channel, scratch, &output->pong, SYNCWS_PONG) < 0 ||
        place(channel, scratch, &output->ping, SYNCWS_PING) < 0 ||
        syncws_queue_place_kept(output) < 0 ||
        place(channel, scratch, &output->close, SYNCWS_CLOSE) < 0)
        return -1;
    return 0;
}

/* Tells the reader thread that bytes wait, unless a sender sees to them. */
static int settle(syncws_channel *channel, int result) {
    if (result == SYNCWS_PENDING && !channel->external) {
        pthread_mutex_lock(&channel->mutex);
        int alone = channel->users == 0 && !(channel->watched & SYNCWS_WRITE);
        pthread_mutex_unlock(&channel->mutex);
        if (alone)
            syncws_list(channel, 1);
    }
    return result;
}

static int flush_locked(syncws_channel *channel, syncws_scratch *scratch) {
    size_t taken;
    int result = state(channel, scratch);
    if (result != SYNCWS_OK)
        return result;
    if (place_controls(channel, scratch) < 0)
        return fail(channel, scratch, ENOMEM);
    return settle(channel, write_through(channel, scratch, NULL, 0, &taken));
}

int syncws_flush(syncws_channel *channel, syncws_scratch *scratch) {
    pthread_mutex_lock(&channel->write_mutex);
    int result = flush_locked(channel, scratch);
    pthread_mutex_unlock(&channel->write_mutex);
    return result;
}

/* Whether data may be sent at all: SYNCWS_OK, _CLOSED or _WRITE_FAILED. */
static int data_state(syncws_channel *channel, syncws_scratch *scratch) {
    int result = state(channel, scratch);
    return result == SYNCWS_OK && (channel->output.closing || channel->output.cut) ? SYNCWS_CLOSED
                                                                                   : result;
}

static int is_full(const struct syncws_output *output, size_t length) {
    return syncws_queue_size(output) > 0 &&
           syncws_queue_size(output) + length > output->high_water;
}

/* Payload bytes that a frame may have. RFC 6455 section 5.4: control frames are never cut. */
static size_t frame_limit(const struct syncws_output *output, int first_byte) {
    return first_byte & SYNCWS_CLOSE ? SIZE_MAX : output->frame_size;
}

/* Whether a message is more than one frame of at most a piece. */
static int is_large(const struct syncws_output *output, int first_byte, size_t length) {
    return length > PIECE || length > frame_limit(output, first_byte);
}

/* A whole frame of at most a piece, at a frame boundary. */
static int send_piece(syncws_channel *channel, syncws_scratch *scratch, int first_byte,
                      const char *data, size_t length) {
    struct syncws_output *output = &channel->output;
    if (place_controls(channel, scratch) < 0)
        return fail(channel, scratch, ENOMEM);
    size_t size = encode(channel, scratch, scratch->output, (uint8_t)first_byte,
                         (const uint8_t *)data, length);
    if (size == 0)
        return fail(channel, scratch, errno);
    size_t taken;
    int result = write_through(channel, scratch, scratch->output, size, &taken);
    if (result == SYNCWS_WRITE_FAILED)
        return result;
    if (syncws_queue_append(output, scratch->output + taken, size - taken) < 0)
        return fail(channel, scratch, ENOMEM);
    return settle(channel, result);
}

static int send_locked(syncws_channel *channel, syncws_scratch *scratch, int first_byte,
                       const char *data, size_t length) {
    struct syncws_output *output = &channel->output;
    int result = data_state(channel, scratch);
    if (result != SYNCWS_OK)
        return result;
    if (output->message != SYNCWS_PROGRESS_NONE)
        return SYNCWS_UNFINISHED;
    if (is_large(output, first_byte, length))
        return SYNCWS_LARGE;
    if (is_full(output, length))
        return SYNCWS_FULL;
    return send_piece(channel, scratch, first_byte, data, length);
}

void syncws_encode_from(syncws_channel *channel, size_t length) { channel->encode_from = length; }

void syncws_keep_frames(syncws_channel *channel) { channel->output.frame_size = SIZE_MAX; }

int syncws_send(syncws_channel *channel, int first_byte, const char *data, size_t length) {
    if (length >= channel->encode_from && !(first_byte & SYNCWS_ENCODED))
        return SYNCWS_UNENCODED;
    syncws_scratch *scratch = syncws_thread_scratch();
    if (scratch == NULL)
        return SYNCWS_NO_SCRATCH;
    pthread_mutex_lock(&channel->write_mutex);
    int result = send_locked(channel, scratch, first_byte, data, length);
    pthread_mutex_unlock(&channel->write_mutex);
    return result;
}

static int control_locked(syncws_channel *channel, syncws_scratch *scratch, int opcode,
                          const char *data, size_t length) {
    struct syncws_output *output = &channel->output;
    int result = state(channel, scratch);
    if (result != SYNCWS_OK)
        return result;
    if (output->closing || length > 125)
        return SYNCWS_CLOSED;
    struct syncws_slot *slot = opcode == SYNCWS_CLOSE  ? &output->close
                               : opcode == SYNCWS_PING ? &output->ping
                                                       : &output->pong;
    slot->filled = 1;
    slot->length = (uint8_t)length;
    if (length > 0)
        memcpy(slot->payload, data, length);
    if (opcode == SYNCWS_CLOSE)
        output->closing = 1; /* RFC 6455 section 5.5.1: no data after it */
    /* Behind a full socket they wait in their slots, where the newest wins. */
    if (syncws_queue_size(output) > 0 && opcode != SYNCWS_CLOSE)
        return settle(channel, SYNCWS_PENDING);
    return flush_locked(channel, scratch);
}

int syncws_send_control(syncws_channel *channel, syncws_scratch *scratch, int opcode,
                        const char *data, size_t length) {
    pthread_mutex_lock(&channel->write_mutex);
    int result = control_locked(channel, scratch, opcode, data, length);
    pthread_mutex_unlock(&channel->write_mutex);
    return result;
}

/* Queues a whole message of any size, in as many frames as it needs, and writes what it can. */
static int post_large(syncws_channel *channel, syncws_scratch *scratch, int first_byte,
                      const char *data, size_t length) {
    struct syncws_output *output = &channel->output;
    const size_t limit = frame_limit(output, first_byte);
    const size_t most = length / limit + 1; /* frames */
    if (place_controls(channel, scratch) < 0 || most > (SIZE_MAX - length) / 14 ||
        syncws_queue_reserve(output, length + 14 * most) < 0)
        return fail(channel, scratch, ENOMEM);
    for (size_t done = 0, part; done < length; done += part) {
        part = length - done < limit ? length - done : limit;
        int first = done == 0 ? first_byte & 0x7F : SYNCWS_CONTINUATION;
        int fin = done + part == length ? first_byte & 0x80 : 0;
        size_t size = encode(channel, scratch, output->data + output->end,
                             (uint8_t)(fin | first), (const uint8_t *)data + done, part);
        if (size == 0)
            return fail(channel, scratch, errno);
        output->end += size;
    }
    return flush_locked(channel, scratch);
}

/* A control frame of an extension: between two frames at once, whether a message is open or
 * not (RFC 6455 section 5.4), and otherwise when the frame under way has ended. */
static int post_control(syncws_channel *channel, syncws_scratch *scratch, int first_byte,
                        const char *data, size_t length) {
    struct syncws_output *output = &channel->output;
    uint8_t frame[14 + 125];
    int result = data_state(channel, scratch);
    if (result != SYNCWS_OK)
        return result;
    if (length > 125 || (output->frame_left == 0 && is_full(output, length)))
        return SYNCWS_FULL;
    if (output->frame_left == 0)
        return send_piece(channel, scratch, first_byte, data, length);
    size_t size =
        encode(channel, scratch, frame, (uint8_t)first_byte, (const uint8_t *)data, length);
    if (size == 0)
        return fail(channel, scratch, errno);
    return syncws_queue_keep(output, frame, size) < 0 ? SYNCWS_FULL : SYNCWS_OK;
}

static int post_locked(syncws_channel *channel, syncws_scratch *scratch, int first_byte,
                       const char *data, size_t length) {
    if (first_byte & 8) /* an opcode of control frames */
        return post_control(channel, scratch, first_byte, data, length);
    int result = send_locked(channel, scratch, first_byte, data, length);
    if (result != SYNCWS_LARGE)
        return result;
    return is_full(&channel->output, length)
               ? SYNCWS_FULL
               : post_large(channel, scratch, first_byte, data, length);
}

int syncws_post(syncws_channel *channel, syncws_scratch *scratch, int first_byte,
                const char *data, size_t length) {
    pthread_mutex_lock(&channel->write_mutex);
    int result = post_locked(channel, scratch, first_byte, data, length);
    pthread_mutex_unlock(&channel->write_mutex);
    return result;
}

/* ---------------------------------------------------- messages in steps -- */

int syncws_message_open(syncws_channel *channel) {
    struct syncws_output *output = &channel->output;
    pthread_mutex_lock(&channel->write_mutex);
    int result = output->closing || output->cut            ? SYNCWS_CLOSED
                 : output->message != SYNCWS_PROGRESS_NONE ? SYNCWS_UNFINISHED
                                                           : SYNCWS_OK;
    if (result == SYNCWS_OK) {
        output->message = SYNCWS_PROGRESS_OPEN;
        output->writer = syncws_this_thread();
    }
    pthread_mutex_unlock(&channel->write_mutex);
    return result;
}

void syncws_message_close(syncws_channel *channel) {
    struct syncws_output *output = &channel->output;
    pthread_mutex_lock(&channel->write_mutex);
    if (output->message != SYNCWS_PROGRESS_NONE && output->writer == syncws_this_thread()) {
        if (syncws_is_unfinished(output)) {
            output->cut = 1;
            syncws_list(channel, 1); /* the reader thread fails the connection */
        }
        output->message = SYNCWS_PROGRESS_NONE;
        output->writer = 0;
    }
    pthread_mutex_unlock(&channel->write_mutex);
}

static int frame_begin_locked(syncws_channel *channel, syncws_scratch *scratch, int first_byte,
                              uint64_t length) {
    struct syncws_output *output = &channel->output;
    uint8_t header[14];
    int result = state(channel, scratch);
    if (result != SYNCWS_OK)
        return result;
    if (output->closing)
        return SYNCWS_CLOSED;
    if (output->frame_left > 0)
        return SYNCWS_UNFINISHED;
    int masked = channel->side == SYNCWS_CLIENT;
    if (place_controls(channel, scratch) < 0 ||
        (masked && syncws_mask_key(scratch, output->key) < 0))
        return fail(channel, scratch, ENOMEM);
    size_t size =
        syncws_encode_header(header, (uint8_t)first_byte, length, masked ? output->key : NULL);
    if (syncws_queue_append(output, header, size) < 0)
        return fail(channel, scratch, ENOMEM);
    output->frame_left = length;
    output->frame_phase = 0;
    if (output->message != SYNCWS_PROGRESS_NONE)
        output->message = first_byte & 0x80 ? SYNCWS_PROGRESS_LAST : SYNCWS_PROGRESS_BEGUN;
    /* The header leaves together with the first payload bytes. */
    return length > 0 ? SYNCWS_OK : flush_locked(channel, scratch);
}

int syncws_frame_begin(syncws_channel *channel, syncws_scratch *scratch, int first_byte,
                       uint64_t length) {
    pthread_mutex_lock(&channel->write_mutex);
    int result = frame_begin_locked(channel, scratch, first_byte, length);
    pthread_mutex_unlock(&channel->write_mutex);
    return result;
}

static int frame_write_locked(syncws_channel *channel, syncws_scratch *scratch,
                              const uint8_t *data, size_t length) {
    struct syncws_output *output = &channel->output;
    int masked = channel->side == SYNCWS_CLIENT;
    int result = state(channel, scratch);
    if (result != SYNCWS_OK)
        return result;
    if (length > output->frame_left)
        length = (size_t)output->frame_left;
    while (length > 0 && syncws_queue_size(output) <= output->high_water) {
        size_t limit = masked || channel->external ? PIECE : UNMASKED_PIECE;
        size_t piece = length < limit ? length : limit;
        const uint8_t *source = data;
        if (masked) {
            syncws_mask(scratch->output, data, piece, output->key,
                        (size_t)(output->frame_phase & 3));
            source = scratch->output;
        }
        size_t taken;
        result = write_through(channel, scratch, source, piece, &taken);
        if (result == SYNCWS_WRITE_FAILED)
            return result;
        if (masked || channel->external) {
            if (syncws_queue_append(output, source + taken, piece - taken) < 0)
                return fail(channel, scratch, ENOMEM);
            taken = piece;
        }
        data += taken;
        length -= taken;
        output->frame_left -= taken;
        output->frame_phase += taken;
        if (result == SYNCWS_PENDING && !channel->external)
            break;
    }
    if (output->frame_left == 0 && syncws_has_controls(output))
        result = flush_locked(channel, scratch);
    if (output->frame_left == 0 && output->closing)
        syncws_list(channel, 1); /* the reader half-closes behind the close frame */
    if (syncws_queue_size(output) > 0 || length > 0)
        result = SYNCWS_PENDING;
    return settle(channel, result);
}

int syncws_frame_write(syncws_channel *channel, syncws_scratch *scratch, const char *data,
                       size_t length) {
    pthread_mutex_lock(&channel->write_mutex);
    int result = frame_write_locked(channel, scratch, (const uint8_t *)data, length);
    pthread_mutex_unlock(&channel->write_mutex);
    return result;
}

static int frame_send_locked(syncws_channel *channel, syncws_scratch *scratch, int first_byte,
                             const char *data, size_t length, int any_size) {
    struct syncws_output *output = &channel->output;
    int result = data_state(channel, scratch);
    if (result != SYNCWS_OK)
        return result;
    if (output->message == SYNCWS_PROGRESS_NONE || output->writer != syncws_this_thread() ||
        output->frame_left > 0)
        return SYNCWS_UNFINISHED;
    if (length > PIECE && !any_size)
        return SYNCWS_LARGE;
    if (is_full(output, length))
        return SYNCWS_FULL;
    /* Before anything is written: whoever is told that it failed must not find it whole. */
    output->message = first_byte & 0x80 ? SYNCWS_PROGRESS_LAST : SYNCWS_PROGRESS_BEGUN;
    return any_size && is_large(output, first_byte, length)
               ? post_large(channel, scratch, first_byte, data, length)
               : send_piece(channel, scratch, first_byte, data, length);
}

int syncws_frame_send(syncws_channel *channel, syncws_scratch *scratch, int first_byte,
                      const char *data, size_t length, int any_size) {
    pthread_mutex_lock(&channel->write_mutex);
    int result = frame_send_locked(channel, scratch, first_byte, data, length, any_size);
    pthread_mutex_unlock(&channel->write_mutex);
    return result;
}

/* --------------------------------------------------- for Python transports -- */

size_t syncws_output_peek(syncws_channel *channel, syncws_scratch *scratch, uint8_t *copy,
                          size_t room) {
    struct syncws_output *output = &channel->output;
    pthread_mutex_lock(&channel->write_mutex);
    size_t length = 0;
    if (state(channel, scratch) == SYNCWS_OK) {
        /* Behind bytes that wait they stay in their slots, where the newest wins. */
        if (syncws_queue_size(output) == 0 && place_controls(channel, scratch) < 0)
            fail(channel, scratch, ENOMEM);
        length = syncws_queue_size(output) < room ? syncws_queue_size(output) : room;
        if (length > 0)
            memcpy(copy, output->data + output->start, length);
    }
    pthread_mutex_unlock(&channel->write_mutex);
    return length;
}
