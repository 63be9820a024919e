/* The struct behind a channel, shared by the files that work on one.
 * Nothing else includes this: Python and the C tests use syncws.h only. */
#ifndef SYNCWS_INTERNAL_H
#define SYNCWS_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "syncws.h"

enum { SYNCWS_NOWHERE = 0, SYNCWS_LAZY = 1, SYNCWS_URGENT = 2 };

/* How long recv() itself may wait, once a call; poll() does the rest. Waiting in recv() saves
 * two system calls of three, and an idle thread wakes up for it once. */
enum { SYNCWS_FIRST_WAIT_MS = 200 };

/* Bytes of control frames of extensions that may wait for the end of a data frame. */
enum { SYNCWS_KEPT_SIZE = 4096 };

/* A control frame that waits for a frame boundary; the newest of its kind wins. */
struct syncws_slot {
    uint8_t filled;
    uint8_t length;
    uint8_t payload[125];
};

/* While it is not NONE, no other data frame may start. */
enum syncws_progress {
    SYNCWS_PROGRESS_NONE = 0,
    SYNCWS_PROGRESS_OPEN = 1,  /* nothing of it is queued yet */
    SYNCWS_PROGRESS_BEGUN = 2, /* a frame is, and not its last one */
    SYNCWS_PROGRESS_LAST = 3   /* its last frame is begun */
};

struct syncws_output {
    uintptr_t writer;   /* the thread in the middle of a message in several steps */
    uint8_t *data;      /* malloc'd; bytes [start, end) wait for the socket */
    size_t start, end, capacity;
    size_t high_water;  /* bytes; above it senders wait */
    size_t frame_size;  /* payload bytes that a data frame may have */
    uint64_t frame_left; /* payload bytes of the frame begun with frame_begin */
    uint64_t frame_phase;
    uint8_t key[4];
    uint8_t message;      /* enum syncws_progress, of a message in several steps */
    uint8_t cut;          /* such a message was left unfinished: no data frame may follow */
    uint8_t closing;      /* a close frame was asked for: no data, pings or pongs after it */
    uint8_t refused;      /* the socket refused bytes since it last accepted some */
    uint8_t *kept;        /* malloc'd while in use: whole control frames of extensions, which
                           * wait for the end of a data frame, in their order */
    size_t kept_size;
    int error;            /* errno of the write that failed; nothing is written any more */
    struct syncws_slot pong, ping, close;
};

struct syncws_channel {
    pthread_mutex_t mutex;       /* guards owner, flags, users, generation, streams, handed_at,
                                  * watched */
    pthread_mutex_t write_mutex; /* guards output; held across one non-blocking write;
                                  * taken before mutex, which is taken before the mailbox's */
    uintptr_t owner;             /* the thread that may read and decode; 0: nobody */
    _Atomic unsigned flags;      /* also read without the mutex */
    unsigned users;              /* threads waiting for writability: the descriptor stays open */
    unsigned generation;         /* counts deliveries to the inbound queue */
    unsigned streams;            /* counts messages in pieces */
    int64_t handed_at;           /* coarse_ms() when HANDED was set; 0: not known. See the mutex */
    int watched;                 /* the interest the reader's selector holds */
    int descriptor;
    int side;
    int external;                /* bytes are moved by Python (TLS, SYNCWS_IO=python) */
    size_t encode_from;          /* longer messages, and those of this size, are for extensions */
    int recv_waits;              /* recv() without MSG_DONTWAIT waits, but not for long */
    _Atomic uint64_t received;   /* bytes read; written by the owner, read by anyone */
    uint64_t drained;            /* times the socket accepted bytes after refusing some */
    syncws_mailbox *mailbox;
    syncws_channel *next;        /* in the mailbox's lists; guarded by its mutex */
    int place;                   /* which list */
    uint64_t token;
    struct syncws_output output;
    syncws_decoder decoder;
};

/* Bytes that wait. */
static inline size_t syncws_queue_size(const struct syncws_output *output) {
    return output->end - output->start;
}

/* Without the mutex: some recent ones. */
static inline unsigned syncws_read_flags(const syncws_channel *channel) {
    return atomic_load_explicit(&channel->flags, memory_order_relaxed);
}

/* Whether the message under way could not be left as it is. */
static inline int syncws_is_unfinished(const struct syncws_output *output) {
    return output->message == SYNCWS_PROGRESS_BEGUN ||
           (output->message == SYNCWS_PROGRESS_LAST && output->frame_left > 0);
}

/* Whether control frames wait for a frame boundary. */
static inline int syncws_has_controls(const struct syncws_output *output) {
    return output->pong.filled || output->ping.filled || output->close.filled ||
           output->kept_size > 0;
}

/* A number that no other thread has while the calling one lives. */
uintptr_t syncws_this_thread(void);
/* channel.c, with the mutex held. What syncws_take(), _leave() and _list() do. */
int syncws_take_locked(syncws_channel *channel, int mode);
void syncws_leave_locked(syncws_channel *channel, unsigned flags);
void syncws_list_locked(syncws_channel *channel, int urgent);

/* queue.c; 0, or -1 without memory, or without room for what is to be kept. */
int syncws_queue_reserve(struct syncws_output *output, size_t length);
int syncws_queue_append(struct syncws_output *output, const uint8_t *data, size_t length);
void syncws_queue_drop(struct syncws_output *output, size_t length);
int syncws_queue_keep(struct syncws_output *output, const uint8_t *frame, size_t size);
int syncws_queue_place_kept(struct syncws_output *output);

void syncws_mailbox_retain(syncws_mailbox *mailbox);
void syncws_mailbox_drop(syncws_mailbox *mailbox, syncws_channel *channel);
void syncws_mailbox_push(syncws_mailbox *mailbox, syncws_channel *channel, int urgent);

#endif
