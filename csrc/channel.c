/* Who may read a connection, and the calls that read it.
 *
 * What belongs here: the ownership protocol of docs/architecture.md ("Reading") and the
 * system calls that receive and wait.  What does not: writing (output.c).
 *
 * Invariant: nobody owns a channel and it is neither paused, parked nor gone => it is
 * armed in the reader's selector, or listed in the reader's mailbox.
 */
#include "internal.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>

enum {
    SETTABLE = SYNCWS_FLAG_PAUSED | SYNCWS_FLAG_PARKED | SYNCWS_FLAG_GONE | SYNCWS_FLAG_QUEUED |
               SYNCWS_FLAG_HANDED,
    UNREAD = SYNCWS_FLAG_PAUSED | SYNCWS_FLAG_PARKED | SYNCWS_FLAG_GONE
};

/* How long recv() itself may wait, once a call; poll() does the rest. Waiting in recv() saves
 * two system calls of three, and an idle thread wakes up for it once. */
enum { FIRST_WAIT_MS = 200 };

/* Whether recv() without MSG_DONTWAIT waits for FIRST_WAIT_MS at most. Every other call on the
 * descriptor says MSG_DONTWAIT, here and in Python. */
static int let_recv_wait(int descriptor) {
    const struct timeval limit = {.tv_usec = FIRST_WAIT_MS * 1000};
    int off = 0;
    return setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0 &&
           ioctl(descriptor, FIONBIO, &off) == 0;
}

syncws_channel *syncws_channel_new(syncws_mailbox *mailbox, uint64_t token, int descriptor,
                                   int side, int external, size_t high_water) {
    syncws_channel *channel = calloc(1, sizeof *channel);
    if (channel == NULL)
        return NULL;
    pthread_mutex_init(&channel->mutex, NULL);
    pthread_mutex_init(&channel->write_mutex, NULL);
    channel->mailbox = mailbox;
    channel->token = token;
    channel->descriptor = descriptor;
    channel->side = side;
    channel->external = external;
    channel->recv_waits = !external && let_recv_wait(descriptor);
    channel->output.high_water = high_water;
    syncws_mailbox_retain(mailbox);
    return channel;
}

void syncws_channel_free(syncws_channel *channel) {
    if (channel == NULL)
        return;
    syncws_mailbox_drop(channel->mailbox, channel);
    syncws_decoder_release(&channel->decoder);
    free(channel->output.data);
    pthread_mutex_destroy(&channel->mutex);
    pthread_mutex_destroy(&channel->write_mutex);
    free(channel);
}

size_t syncws_channel_size(void) { return sizeof(syncws_channel); }

syncws_decoder *syncws_channel_decoder(syncws_channel *channel) { return &channel->decoder; }

/* ---------------------------------------------------------------- ownership -- */

/* With the mutex held. */
static void list_locked(syncws_channel *channel, int urgent) {
    channel->flags |= SYNCWS_FLAG_LISTED;
    syncws_mailbox_push(channel->mailbox, channel, urgent);
}

/* With the mutex held. */
static int take_locked(syncws_channel *channel, int mode) {
    if (channel->owner == syncws_this_thread())
        return SYNCWS_OWN;
    if (mode == SYNCWS_TAKE_MESSAGE && (channel->flags & SYNCWS_FLAG_QUEUED))
        return SYNCWS_QUEUED;
    if (channel->flags & SYNCWS_FLAG_GONE)
        return SYNCWS_GONE;
    if (mode == SYNCWS_TAKE_EVENT &&
        (channel->owner != 0 || !(channel->flags & SYNCWS_FLAG_ARMED)))
        return SYNCWS_NOT_ARMED;
    /* Whoever owns it then only drains: nothing will come of that for others. */
    if ((channel->flags & SYNCWS_FLAG_PARKED) && mode != SYNCWS_TAKE_DRAIN)
        return SYNCWS_PARKED;
    if (channel->owner != 0)
        return SYNCWS_BUSY;
    if (mode == SYNCWS_TAKE_MESSAGE)
        channel->flags &= ~(unsigned)SYNCWS_FLAG_HANDED;
    channel->flags &= ~(unsigned)(SYNCWS_FLAG_ARMED | SYNCWS_FLAG_PAUSED);
    channel->owner = syncws_this_thread();
    return SYNCWS_OK;
}

/* With the mutex held, by the owner. */
static void leave_locked(syncws_channel *channel, unsigned flags) {
    channel->owner = 0;
    channel->flags |= flags & SETTABLE;
    channel->flags &= ~(unsigned)SYNCWS_FLAG_FOLLOWERS; /* the caller notifies them */
    if (flags & SYNCWS_FLAG_QUEUED)
        channel->generation++;
    if (channel->flags & SYNCWS_FLAG_GONE)
        list_locked(channel, 1);
    else if (flags & SYNCWS_FLAG_PARKED)
        list_locked(channel, 0); /* the reader acts on the end, if nobody else has by then */
    else if (!(channel->flags & (SYNCWS_FLAG_LISTED | UNREAD)))
        list_locked(channel, 0);
}

int syncws_take(syncws_channel *channel, int mode) {
    pthread_mutex_lock(&channel->mutex);
    int result = take_locked(channel, mode);
    pthread_mutex_unlock(&channel->mutex);
    return result;
}

int syncws_leave(syncws_channel *channel, int flags) {
    pthread_mutex_lock(&channel->mutex);
    unsigned followers = channel->flags & SYNCWS_FLAG_FOLLOWERS;
    if (channel->owner == syncws_this_thread())
        leave_locked(channel, (unsigned)flags);
    int result = (int)(channel->flags | followers);
    pthread_mutex_unlock(&channel->mutex);
    return result;
}

int syncws_finish(syncws_channel *channel, syncws_scratch *scratch, int flags) {
    pthread_mutex_lock(&channel->mutex);
    unsigned followers = channel->flags & SYNCWS_FLAG_FOLLOWERS;
    if (scratch == NULL)
        scratch = syncws_thread_scratch();
    if (scratch != NULL && scratch->unclaimed == 1) {
        /* Interrupted twice: messages are lost, and what follows must not be taken for what
         * the peer said next. */
        scratch->unclaimed = 0;
        flags |= SYNCWS_FLAG_GONE;
    }
    if (channel->owner == syncws_this_thread()) {
        leave_locked(channel, (unsigned)flags);
    } else if (flags & SYNCWS_FLAG_GONE) {
        channel->flags |= SYNCWS_FLAG_GONE;
        list_locked(channel, 1);
    }
    int result = (int)(channel->flags | followers);
    pthread_mutex_unlock(&channel->mutex);
    return result;
}

int syncws_is_mine(syncws_channel *channel) {
    pthread_mutex_lock(&channel->mutex);
    int result = channel->owner == syncws_this_thread();
    pthread_mutex_unlock(&channel->mutex);
    return result;
}

int syncws_follow(syncws_channel *channel, int mode) {
    pthread_mutex_lock(&channel->mutex);
    unsigned stop = SYNCWS_FLAG_GONE;
    if (mode != SYNCWS_TAKE_DRAIN)
        stop |= SYNCWS_FLAG_PARKED;
    if (mode == SYNCWS_TAKE_MESSAGE)
        stop |= SYNCWS_FLAG_QUEUED;
    int wait = channel->owner != 0 && !(channel->flags & stop);
    /* A flag and no count: who is interrupted here leaves nothing behind that lasts. */
    if (wait)
        channel->flags |= SYNCWS_FLAG_FOLLOWERS;
    pthread_mutex_unlock(&channel->mutex);
    return wait;
}

unsigned syncws_generation(syncws_channel *channel) {
    pthread_mutex_lock(&channel->mutex);
    unsigned result = channel->generation;
    pthread_mutex_unlock(&channel->mutex);
    return result;
}

void syncws_seen_empty(syncws_channel *channel, unsigned generation) {
    pthread_mutex_lock(&channel->mutex);
    /* A delivery since then would be lost from sight. */
    if (channel->generation == generation)
        channel->flags &= ~(unsigned)SYNCWS_FLAG_QUEUED;
    pthread_mutex_unlock(&channel->mutex);
}

int syncws_flags(syncws_channel *channel) {
    pthread_mutex_lock(&channel->mutex);
    int result = (int)channel->flags;
    pthread_mutex_unlock(&channel->mutex);
    return result;
}

void syncws_set_flags(syncws_channel *channel, int set, int clear) {
    pthread_mutex_lock(&channel->mutex);
    channel->flags |= (unsigned)set & SETTABLE;
    channel->flags &= ~((unsigned)clear & SETTABLE & ~(unsigned)SYNCWS_FLAG_GONE);
    if ((unsigned)set & SYNCWS_FLAG_QUEUED)
        channel->generation++;
    if ((unsigned)set & SYNCWS_FLAG_PAUSED)
        channel->flags &= ~(unsigned)SYNCWS_FLAG_ARMED;
    /* One that is gone was listed by whoever ended it. */
    if (((unsigned)clear & SYNCWS_FLAG_PAUSED) && !(channel->flags & SYNCWS_FLAG_GONE))
        list_locked(channel, 1);
    pthread_mutex_unlock(&channel->mutex);
}

void syncws_list(syncws_channel *channel, int urgent) {
    pthread_mutex_lock(&channel->mutex);
    list_locked(channel, urgent);
    pthread_mutex_unlock(&channel->mutex);
}

int syncws_look(syncws_channel *channel) {
    /* Read before the mutex: whoever makes output wait lists the channel afterwards. */
    size_t waiting = syncws_output_size(channel);
    pthread_mutex_lock(&channel->mutex);
    channel->flags &= ~(unsigned)SYNCWS_FLAG_LISTED;
    int wanted = 0;
    if (!(channel->flags & SYNCWS_FLAG_GONE)) {
        if (channel->owner == 0 && !(channel->flags & UNREAD)) {
            channel->flags |= SYNCWS_FLAG_ARMED;
            wanted |= SYNCWS_READ;
        }
        if (waiting > 0 && channel->users == 0)
            wanted |= SYNCWS_WRITE;
    }
    int result = -1;
    if (wanted & ~channel->watched) {
        /* A one-shot watch is replaced as a whole. */
        channel->watched |= wanted;
        result = channel->watched;
    }
    pthread_mutex_unlock(&channel->mutex);
    return result;
}

void syncws_unwatched(syncws_channel *channel) {
    pthread_mutex_lock(&channel->mutex);
    channel->watched = 0;
    pthread_mutex_unlock(&channel->mutex);
}

/* -------------------------------------------------------------------- ends -- */

int syncws_abort(syncws_channel *channel) {
    pthread_mutex_lock(&channel->mutex);
    if (!(channel->flags & SYNCWS_FLAG_GONE)) {
        channel->flags |= SYNCWS_FLAG_GONE;
        /* close() would not wake a thread in poll(), and the number could be reused
         * under it; shutdown() does wake it, and the last one out closes. */
        if (channel->owner != 0 || channel->users > 0)
            shutdown(channel->descriptor, SHUT_RDWR);
    }
    list_locked(channel, 1);
    int result = (int)channel->flags;
    pthread_mutex_unlock(&channel->mutex);
    return result;
}

int syncws_claim_close(syncws_channel *channel) {
    /* write_mutex: no writer is inside a system call on the descriptor. */
    pthread_mutex_lock(&channel->write_mutex);
    pthread_mutex_lock(&channel->mutex);
    int claimed = (channel->flags & SYNCWS_FLAG_GONE) && channel->owner == 0 &&
                  channel->users == 0 && !(channel->flags & SYNCWS_FLAG_CLOSED);
    if (claimed)
        channel->flags |= SYNCWS_FLAG_CLOSED;
    pthread_mutex_unlock(&channel->mutex);
    pthread_mutex_unlock(&channel->write_mutex);
    return claimed;
}

int syncws_end(syncws_channel *channel) {
    /* write_mutex: as in syncws_claim_close(). */
    pthread_mutex_lock(&channel->write_mutex);
    pthread_mutex_lock(&channel->mutex);
    int claimed = channel->owner == syncws_this_thread() && channel->users == 0 &&
                  !(channel->flags & SYNCWS_FLAG_CLOSED);
    if (claimed) {
        channel->owner = 0;
        channel->flags |= SYNCWS_FLAG_GONE | SYNCWS_FLAG_CLOSED;
        channel->flags &= ~(unsigned)(SYNCWS_FLAG_ARMED | SYNCWS_FLAG_FOLLOWERS);
        list_locked(channel, 0); /* the caller does all that is left, if nothing stops it */
    }
    pthread_mutex_unlock(&channel->mutex);
    pthread_mutex_unlock(&channel->write_mutex);
    return claimed;
}

void syncws_channel_after_fork(syncws_channel *channel) {
    pthread_mutex_init(&channel->mutex, NULL);
    pthread_mutex_init(&channel->write_mutex, NULL);
    channel->flags |= SYNCWS_FLAG_GONE | SYNCWS_FLAG_CLOSED;
    channel->owner = 0;
    channel->users = 0;
    channel->output.writer = 0;
    /* Another thread may have been in the middle of changing these: better lost than freed
     * twice. */
    channel->place = SYNCWS_NOWHERE;
    channel->next = NULL;
    channel->output.data = NULL;
    channel->output.start = channel->output.end = channel->output.capacity = 0;
    channel->decoder.buffer = NULL;
    channel->decoder.handed_out = NULL;
}

uint64_t syncws_received(syncws_channel *channel) {
    return atomic_load_explicit(&channel->received, memory_order_relaxed);
}

void syncws_count_received(syncws_channel *channel, uint64_t bytes) {
    atomic_fetch_add_explicit(&channel->received, bytes, memory_order_relaxed);
}

/* ----------------------------------------------------------------- reading -- */

static int64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
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
    list_locked(channel, channel->users == 0);
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

static int decoded(syncws_scratch *scratch, int result) {
    scratch->unclaimed = 1;
    scratch->code = result == SYNCWS_MORE     ? SYNCWS_RECORDS_MORE
                    : result == SYNCWS_FAILED ? SYNCWS_RECORDS_FAILED
                                              : SYNCWS_RECORDS;
    return (int)scratch->code;
}

static int read_and_decode(syncws_channel *channel, syncws_scratch *scratch, int timeout_ms) {
    int64_t deadline = -1;
    int recv_waits = channel->recv_waits && (timeout_ms < 0 || timeout_ms >= FIRST_WAIT_MS);
    for (;;) {
        size_t direct;
        ssize_t received =
            receive_some(channel, scratch, &direct, recv_waits ? 0 : MSG_DONTWAIT);
        if (received > 0) {
            syncws_count_received(channel, (uint64_t)received);
            return decoded(scratch, syncws_decode(&channel->decoder, scratch, direct,
                                                  scratch->input, (size_t)received - direct));
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
            timeout_ms -= FIRST_WAIT_MS;
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
    syncws_count_received(channel, length);
    return decoded(scratch,
                   syncws_decode(&channel->decoder, scratch, 0, scratch->input, length));
}

int syncws_decode_rest(syncws_channel *channel, syncws_scratch *scratch) {
    return decoded(scratch, syncws_decode(&channel->decoder, scratch, 0, scratch->rest,
                                          (size_t)scratch->rest_length));
}

/* Whether the scratch holds one whole message that stays valid without ownership. */
static int is_single(const syncws_channel *channel, const syncws_scratch *scratch, int result) {
    const syncws_record *record = &scratch->records[0];
    return result == SYNCWS_RECORDS && scratch->record_count == 1 &&
           record->kind == SYNCWS_MESSAGE && !(record->flags & SYNCWS_IN_DECODER) &&
           !channel->decoder.in_message && !channel->decoder.in_frame;
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
    int result = take_locked(channel, SYNCWS_TAKE_MESSAGE);
    pthread_mutex_unlock(&channel->mutex);
    if (result != SYNCWS_OK)
        return result;
    result = read_and_decode(channel, scratch, timeout_ms);
    int single = is_single(channel, scratch, result);
    if (!single && result != SYNCWS_TIMED_OUT && result != SYNCWS_INTERRUPTED)
        return result;
    pthread_mutex_lock(&channel->mutex);
    if (channel->flags & (SYNCWS_FLAG_FOLLOWERS | SYNCWS_FLAG_GONE)) {
        /* Leaving must be seen by others: Python does it. */
        pthread_mutex_unlock(&channel->mutex);
        return result;
    }
    leave_locked(channel, single ? SYNCWS_FLAG_HANDED : 0);
    pthread_mutex_unlock(&channel->mutex);
    if (!single)
        return result;
    scratch->data = (char *)scratch->records[0].data;
    scratch->length = scratch->records[0].length;
    scratch->code = scratch->records[0].opcode == SYNCWS_TEXT ? SYNCWS_GOT_TEXT : SYNCWS_GOT_BINARY;
    if (!own || scratch->data != (char *)scratch->packed || scratch->length > SYNCWS_LENGTH_MASK)
        return scratch->code;
    /* Reading fields of a struct costs Python more than shifting a number. */
    return (int64_t)(scratch->number << SYNCWS_NUMBER_SHIFT |
                     (uint64_t)scratch->code << SYNCWS_RESULT_SHIFT | scratch->length);
}
