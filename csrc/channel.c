/* Who may read a connection.
 *
 * What belongs here: the ownership protocol of docs/architecture.md ("Reading") and the end of
 * a channel.  What does not: reading (receive.c) and writing (output.c).
 *
 * Invariant: nobody owns a channel and it is neither paused, parked nor gone => it is
 * armed in the reader's selector, or listed in the reader's mailbox.
 */
#include "internal.h"

#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>

enum {
    SETTABLE = SYNCWS_FLAG_PAUSED | SYNCWS_FLAG_PARKED | SYNCWS_FLAG_GONE | SYNCWS_FLAG_QUEUED |
               SYNCWS_FLAG_HANDED | SYNCWS_FLAG_STREAMED,
    UNREAD = SYNCWS_FLAG_PAUSED | SYNCWS_FLAG_PARKED | SYNCWS_FLAG_GONE
};

/* Whether recv() without MSG_DONTWAIT waits for SYNCWS_FIRST_WAIT_MS at most. Every other call
 * on the descriptor says MSG_DONTWAIT, here and in Python. */
static int let_recv_wait(int descriptor) {
    const struct timeval limit = {.tv_usec = SYNCWS_FIRST_WAIT_MS * 1000};
    int off = 0;
    return setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0 &&
           ioctl(descriptor, FIONBIO, &off) == 0;
}

syncws_channel *syncws_channel_new(syncws_mailbox *mailbox, uint64_t token, int descriptor,
                                   int side, int external, size_t high_water,
                                   uint64_t frame_size) {
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
    channel->output.frame_size = frame_size < SIZE_MAX ? (size_t)frame_size : SIZE_MAX;
    channel->encode_from = SIZE_MAX;
    syncws_mailbox_retain(mailbox);
    return channel;
}

void syncws_channel_free(syncws_channel *channel) {
    if (channel == NULL)
        return;
    syncws_mailbox_drop(channel->mailbox, channel);
    syncws_decoder_release(&channel->decoder);
    free(channel->output.data);
    free(channel->output.kept);
    pthread_mutex_destroy(&channel->mutex);
    pthread_mutex_destroy(&channel->write_mutex);
    free(channel);
}

size_t syncws_channel_size(void) { return sizeof(syncws_channel); }

syncws_decoder *syncws_channel_decoder(syncws_channel *channel) { return &channel->decoder; }

/* ---------------------------------------------------------------- ownership -- */

/* With the mutex held: no other thread writes them. */
static void write_flags(syncws_channel *channel, unsigned flags) {
    atomic_store_explicit(&channel->flags, flags, memory_order_relaxed);
}

/* With the mutex held. */
void syncws_list_locked(syncws_channel *channel, int urgent) {
    channel->flags |= SYNCWS_FLAG_LISTED;
    syncws_mailbox_push(channel->mailbox, channel, urgent);
}

/* With the mutex held. */
int syncws_take_locked(syncws_channel *channel, int mode) {
    const uintptr_t caller = syncws_this_thread();
    unsigned flags = syncws_read_flags(channel);
    if (channel->owner == caller)
        return SYNCWS_OWN;
    if (mode == SYNCWS_TAKE_MESSAGE && (flags & SYNCWS_FLAG_STREAMED) &&
        !(flags & SYNCWS_FLAG_GONE))
        return SYNCWS_STREAMED;
    if (mode == SYNCWS_TAKE_MESSAGE && (flags & SYNCWS_FLAG_QUEUED))
        return SYNCWS_QUEUED;
    if (flags & SYNCWS_FLAG_GONE)
        return SYNCWS_GONE;
    if (mode == SYNCWS_TAKE_EVENT && (channel->owner != 0 || !(flags & SYNCWS_FLAG_ARMED)))
        return SYNCWS_NOT_ARMED;
    /* Whoever owns it then only drains: nothing will come of that for others. */
    if ((flags & SYNCWS_FLAG_PARKED) && mode != SYNCWS_TAKE_DRAIN)
        return SYNCWS_PARKED;
    if (channel->owner != 0)
        return SYNCWS_BUSY;
    if (mode == SYNCWS_TAKE_MESSAGE)
        flags &= ~(unsigned)SYNCWS_FLAG_HANDED;
    write_flags(channel, flags & ~(unsigned)(SYNCWS_FLAG_ARMED | SYNCWS_FLAG_PAUSED));
    channel->owner = caller;
    return SYNCWS_OK;
}

/* With the mutex held, by the owner. */
void syncws_leave_locked(syncws_channel *channel, unsigned flags) {
    unsigned all = syncws_read_flags(channel) | (flags & SETTABLE);
    channel->owner = 0;
    write_flags(channel, all & ~(unsigned)SYNCWS_FLAG_FOLLOWERS); /* the caller notifies them */
    if (flags & SYNCWS_FLAG_HANDED)
        channel->handed_at = 0;
    if (flags & SYNCWS_FLAG_QUEUED)
        channel->generation++;
    if (flags & SYNCWS_FLAG_STREAMED)
        channel->streams++;
    if (all & SYNCWS_FLAG_GONE)
        syncws_list_locked(channel, 1);
    else if (flags & SYNCWS_FLAG_PARKED)
        syncws_list_locked(channel, 0); /* the reader acts on the end, if nobody else has by then */
    else if (!(all & (SYNCWS_FLAG_LISTED | UNREAD)))
        syncws_list_locked(channel, 0);
}

int syncws_take(syncws_channel *channel, int mode) {
    pthread_mutex_lock(&channel->mutex);
    int result = syncws_take_locked(channel, mode);
    pthread_mutex_unlock(&channel->mutex);
    return result;
}

int syncws_leave(syncws_channel *channel, int flags) {
    pthread_mutex_lock(&channel->mutex);
    unsigned followers = channel->flags & SYNCWS_FLAG_FOLLOWERS;
    if (channel->owner == syncws_this_thread())
        syncws_leave_locked(channel, (unsigned)flags);
    int result = (int)(channel->flags | followers);
    pthread_mutex_unlock(&channel->mutex);
    return result;
}

int syncws_finish(syncws_channel *channel, syncws_scratch *scratch, int flags) {
    pthread_mutex_lock(&channel->mutex);
    unsigned followers = channel->flags & SYNCWS_FLAG_FOLLOWERS;
    if (scratch == NULL)
        scratch = syncws_thread_scratch();
    if (scratch != NULL && (scratch->unclaimed & 1) && scratch->channel == channel) {
        /* Interrupted twice: messages are lost, and what follows must not be taken for what
         * the peer said next. */
        scratch->unclaimed = SYNCWS_CLAIMED;
        flags |= SYNCWS_FLAG_GONE;
    }
    if (channel->owner == syncws_this_thread()) {
        syncws_leave_locked(channel, (unsigned)flags);
    } else if (flags & SYNCWS_FLAG_GONE) {
        channel->flags |= SYNCWS_FLAG_GONE;
        syncws_list_locked(channel, 1);
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
        stop |= SYNCWS_FLAG_QUEUED | SYNCWS_FLAG_STREAMED;
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

unsigned syncws_stream_count(syncws_channel *channel) {
    pthread_mutex_lock(&channel->mutex);
    unsigned result = channel->streams;
    pthread_mutex_unlock(&channel->mutex);
    return result;
}

void syncws_stream_end(syncws_channel *channel, unsigned count, int taken) {
    pthread_mutex_lock(&channel->mutex);
    if (channel->streams == count) {
        channel->flags &= ~(unsigned)SYNCWS_FLAG_STREAMED;
        if (taken) {
            channel->flags |= SYNCWS_FLAG_HANDED;
            channel->handed_at = 0;
        }
    }
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
    if ((unsigned)set & SYNCWS_FLAG_HANDED)
        channel->handed_at = 0;
    if ((unsigned)set & SYNCWS_FLAG_PAUSED)
        channel->flags &= ~(unsigned)SYNCWS_FLAG_ARMED;
    /* One that is gone was listed by whoever ended it. */
    if (((unsigned)clear & SYNCWS_FLAG_PAUSED) && !(channel->flags & SYNCWS_FLAG_GONE))
        syncws_list_locked(channel, 1);
    pthread_mutex_unlock(&channel->mutex);
}

void syncws_list(syncws_channel *channel, int urgent) {
    pthread_mutex_lock(&channel->mutex);
    syncws_list_locked(channel, urgent);
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
    syncws_list_locked(channel, 1);
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
        syncws_list_locked(channel, 0); /* the caller does all that is left, if nothing stops it */
    }
    pthread_mutex_unlock(&channel->mutex);
    pthread_mutex_unlock(&channel->write_mutex);
    return claimed;
}

int syncws_channel_after_fork(syncws_channel *channel) {
    int gone = (channel->flags & SYNCWS_FLAG_GONE) != 0;
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
    channel->output.kept = NULL;
    channel->output.kept_size = 0;
    channel->decoder.buffer = NULL;
    channel->decoder.handed_out = NULL;
    return gone;
}
