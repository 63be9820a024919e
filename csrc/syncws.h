/* The whole C interface of syncws.
 *
 * What belongs here: everything Python or a C test may call.  The cffi cdef is
 * cut from this file between the CDEF lines (csrc/build.py), so that part holds
 * plain declarations only: no #include, no #if.
 *
 * What does not: anything about HTTP, TLS or close handshakes (Python owns
 * those) and anything that runs Python code.
 *
 * Rules for the implementation: libc only; no mutable globals but the ISA level;
 * results are named enums; state belongs to the struct it is passed in.
 */
#ifndef SYNCWS_H
#define SYNCWS_H

#include <stddef.h>
#include <stdint.h>

#if defined(__cplusplus)
extern "C" {
#endif

/* CDEF BEGIN */

/* ------------------------------------------------------------------ cpu.c -- */

enum syncws_isa_level {
    SYNCWS_ISA_PORTABLE = 0,
    SYNCWS_ISA_SSE2 = 1,
    SYNCWS_ISA_AVX2 = 2,
    SYNCWS_ISA_NEON = 3
};

/* The level in force; detected on the first call. */
int syncws_isa(void);
/* Asks for a level (tests do); returns the level in force, which is the best
 * available one not above the request. */
int syncws_set_isa(int level);

/* ----------------------------------------------------------------- mask.c -- */

/* destination[i] = source[i] ^ key[(phase + i) % 4]; the two may be equal but
 * must not otherwise overlap.  RFC 6455 section 5.3. */
void syncws_mask(uint8_t *destination, const uint8_t *source, size_t length,
                 const uint8_t *key, size_t phase);

/* ----------------------------------------------------------------- utf8.c -- */

/* Incremental UTF-8 check (RFC 3629).  A state is one of these two or one of the
 * values in between, which mean "inside a character". */
enum syncws_utf8_state { SYNCWS_UTF8_BOUNDARY = 0, SYNCWS_UTF8_INVALID = 255 };

/* The state after `length` more bytes; SYNCWS_UTF8_INVALID as soon as no
 * continuation could make the text valid, and for ever after. */
uint32_t syncws_utf8(uint32_t state, const uint8_t *data, size_t length);

/* ---------------------------------------------------------------- frame.c -- */

enum syncws_side { SYNCWS_CLIENT = 0, SYNCWS_SERVER = 1 };

enum syncws_opcode {
    SYNCWS_CONTINUATION = 0,
    SYNCWS_TEXT = 1,
    SYNCWS_BINARY = 2,
    SYNCWS_CLOSE = 8,
    SYNCWS_PING = 9,
    SYNCWS_PONG = 10
};

/* Why a decoder stopped.  Sticky. */
enum syncws_failure {
    SYNCWS_FAILURE_NONE = 0,
    SYNCWS_BAD_OPCODE,              /* 1002 */
    SYNCWS_BAD_RSV,                 /* 1002 */
    SYNCWS_BAD_MASK,                /* 1002 */
    SYNCWS_CONTROL_TOO_LONG,        /* 1002 */
    SYNCWS_CONTROL_FRAGMENTED,      /* 1002 */
    SYNCWS_NON_MINIMAL_LENGTH,      /* 1002 */
    SYNCWS_LENGTH_MSB,              /* 1002 */
    SYNCWS_UNEXPECTED_CONTINUATION, /* 1002 */
    SYNCWS_EXPECTED_CONTINUATION,   /* 1002 */
    SYNCWS_FRAME_TOO_BIG,           /* 1009 */
    SYNCWS_MESSAGE_TOO_BIG,         /* 1009 */
    SYNCWS_TOO_MANY_FRAGMENTS,      /* 1008 */
    SYNCWS_BAD_UTF8,                /* 1007 */
    SYNCWS_NO_MEMORY                /* 1011 */
};

enum syncws_record_kind {
    SYNCWS_MESSAGE = 1, /* a whole message */
    SYNCWS_RUN = 2,     /* `count` whole messages of one opcode with a separator
                         * between them: NUL for text, scratch->separator for binary */
    SYNCWS_CONTROL = 3, /* a ping, pong or close frame */
    SYNCWS_PIECE = 4,   /* part of a message: streaming, or for an extension */
    SYNCWS_ROW = 5      /* `count` whole messages of one opcode and the same RSV bits, for an
                         * extension; scratch->bounds says where each begins and ends */
};

enum syncws_record_flag {
    SYNCWS_PIECE_FIRST = 1, /* of a PIECE: the message begins with it */
    SYNCWS_PIECE_LAST = 2,  /* of a PIECE: the message ends with it */
    SYNCWS_IN_DECODER = 4,  /* data lies in the decoder, not in the scratch */
    SYNCWS_PIECE_FRAME_END = 8 /* of a PIECE: a frame ends with it */
};

typedef struct {
    uint8_t *data;   /* valid until the next syncws_decode() with this decoder or scratch */
    uint64_t length; /* bytes at data; of a RUN: with the separators */
    uint32_t count;  /* of a RUN or a ROW: messages in it; otherwise 1 */
    uint32_t first;  /* of these: its first message's place in scratch->bounds, where a RUN may
                      * have found no room */
    uint8_t kind;    /* enum syncws_record_kind */
    uint8_t opcode;  /* of a PIECE: that of its message */
    uint8_t flags;   /* enum syncws_record_flag */
    uint8_t rsv;     /* RSV1 = 4, RSV2 = 2, RSV3 = 1, of the message's first frame */
} syncws_record;

/* What an interrupted call may have left in its working memory. Odd: messages. */
enum syncws_claim {
    SYNCWS_CLAIMED = 0,
    SYNCWS_UNCLAIMED = 1, /* what was decoded is not yet with Python */
    SYNCWS_FILLING = 2,   /* a Python transport reads into it */
    SYNCWS_REST = 3       /* what was decoded is with Python, and what lies at `rest` is not */
};

/* Working memory of one thread.  64 KiB are read at a time. */
typedef struct {
    uint8_t input[65536];
    uint8_t packed[131072];  /* runs of small messages */
    uint8_t output[65552];   /* one encoded piece: 64 KiB and a header */
    /* Where the first messages in packed[] begin and end: start, end, start, ... */
    uint32_t bounds[2048];
    syncws_record records[256];
    uint32_t record_count;
    uint8_t unclaimed;       /* enum syncws_claim */
    uint8_t separator[4];    /* random; the first byte differs from the others */
    uint32_t keys_left;      /* bytes of keys[] not used yet */
    uint8_t keys[256];       /* masking keys from the kernel's generator */
    uint8_t *rest;           /* input not decoded yet (SYNCWS_MORE) */
    uint64_t rest_length;
    const void *channel;     /* whose bytes are decoded here */
    char *data;              /* syncws_receive(): the one message that came */
    uint64_t length;
    int64_t code;            /* the result of the last call that decoded */
    int32_t error_number;    /* errno of a failed system call */
    int32_t slice_ms;        /* longest single wait of syncws_receive(); 0: no limit */
    uint64_t number;         /* of a thread's own: no other thread ever has the same; else 0 */
} syncws_scratch;

typedef struct {
    /* Configuration; may be changed between calls. */
    uint64_t max_frame_size; /* payload bytes of one data frame; UINT64_MAX: no limit */
    uint64_t max_size;       /* payload bytes of one message; UINT64_MAX: no limit.  For a
                              * message that an extension decodes, who runs the extension
                              * checks it exactly, and this is checked with some room */
    uint64_t max_fragments;  /* beyond it a message's fragments need 64 bytes each on average */
    uint8_t side;            /* enum syncws_side: which one we are */
    uint8_t streaming;       /* 1: the current or next message comes in PIECEs; cleared by its last */
    uint8_t allowed_rsv;     /* RSV bits that a data message's first frame may set */
    uint8_t all_pieces;      /* 1: every message comes in PIECEs, and its text is not checked */
    /* Of Python, and nothing to the decoder; written by the channel's owner. */
    uint8_t backlog;         /* 1: records wait for extensions: reading brings none, at once */
    uint8_t dropping;        /* 1: messages are dropped: syncws_receive() returns none itself */
    /* Configuration again. */
    uint16_t allowed_opcodes; /* bit n: the reserved opcode n may come; a message in PIECEs, or
                               * a CONTROL (RFC 6455 section 5.2) */
    /* Results. */
    uint8_t failure;         /* enum syncws_failure */
    uint8_t closed;          /* a close frame was decoded: the rest is ignored (RFC 6455 1.4) */
    uint8_t in_message;      /* a data message has begun and not ended */
    uint8_t in_frame;        /* stopped inside a frame */
    uint8_t header_size;     /* private from here on: bytes in header[] */
    uint8_t header[14];      /* a header that came in parts */
    uint8_t control[2][125]; /* a control frame that came in parts; the other may be in a record */
    uint8_t control_turn;
    uint8_t opcode;          /* of the message */
    uint8_t rsv;             /* of the message */
    uint8_t frame_opcode;
    uint8_t frame_fin;
    uint8_t in_payload;      /* the header of the current frame is complete */
    uint8_t in_pieces;       /* the current message goes out in PIECEs */
    uint8_t piece_sent;      /* its first one went out */
    uint8_t key[4];          /* zeros: not masked */
    uint32_t utf8;
    uint64_t frame_length;
    uint64_t frame_done;
    uint64_t message_length; /* announced by its headers so far */
    uint64_t fragments;
    uint8_t *buffer;         /* malloc'd: the unfinished message */
    uint64_t buffer_length;
    uint64_t buffer_capacity;
    uint8_t *handed_out;     /* malloc'd: the message in a record; the next call frees it */
} syncws_decoder;

enum syncws_decode_result {
    SYNCWS_DECODED = 0, /* all input consumed */
    SYNCWS_MORE = 1,    /* take the records, then call again with scratch->rest */
    SYNCWS_FAILED = 2   /* the records came first, then decoder->failure */
};

void syncws_decoder_init(syncws_decoder *decoder, int side, uint64_t max_frame_size,
                         uint64_t max_size, uint64_t max_fragments);
/* Frees the buffer of an unfinished message and what records point to. */
void syncws_decoder_release(syncws_decoder *decoder);

/* Frees what records with SYNCWS_IN_DECODER point to, which the next call would do
 * otherwise: an idle connection should not keep its last big message. */
void syncws_decoder_reclaim(syncws_decoder *decoder);

/* Where payload bytes may be received directly: inside the message buffer, when
 * a large payload is under way.  Returns the room there, 0 if none. */
size_t syncws_decoder_window(syncws_decoder *decoder, uint8_t **start);

/* Decodes `direct` bytes that were put into the window, then `length` bytes at
 * `input`, which is unmasked in place (it may be scratch->input, scratch->rest or
 * any other writable memory).  Starts with scratch->record_count = 0. */
int syncws_decode(syncws_decoder *decoder, syncws_scratch *scratch, size_t direct,
                  uint8_t *input, size_t length);

/* A new scratch: fresh separator, no keys, no records.  The arrays stay as they are. */
void syncws_scratch_init(syncws_scratch *scratch);
/* A masking key from the kernel's generator, fetched in blocks.  0, or -1 with errno. */
int syncws_mask_key(syncws_scratch *scratch, uint8_t *key);

/* The calling thread's working memory, which it has until it ends; NULL before it was made. */
syncws_scratch *syncws_thread_scratch(void);
/* Makes it if there is none; NULL: no memory. */
syncws_scratch *syncws_make_thread_scratch(void);

/* Writes a frame header of 2 to 14 bytes; `key` is NULL for an unmasked frame.
 * `first_byte` is FIN | RSV | opcode.  Returns its size. */
size_t syncws_encode_header(uint8_t *output, uint8_t first_byte, uint64_t length,
                            const uint8_t *key);

/* -------------------------------------------------------------- mailbox.c -- */

/* The list of channels that a reader thread must look at, and its alarm clock. */
typedef struct syncws_mailbox syncws_mailbox;
typedef struct syncws_channel syncws_channel;

enum syncws_sleep {
    SYNCWS_AWAKE = 0,
    SYNCWS_DOZING = 1, /* until the next tick: only what is urgent wakes it */
    SYNCWS_ASLEEP = 2  /* for long: anything wakes it */
};

syncws_mailbox *syncws_mailbox_new(void); /* NULL with errno */
void syncws_mailbox_free(syncws_mailbox *mailbox);
/* Closes its descriptors; the rest lives until the last channel is freed. */
void syncws_mailbox_close(syncws_mailbox *mailbox);
int syncws_mailbox_descriptor(syncws_mailbox *mailbox);
void syncws_mailbox_wake(syncws_mailbox *mailbox);
/* To be called before waiting; 1: do not wait, there is something to do. */
int syncws_mailbox_sleep(syncws_mailbox *mailbox, int sleep);
/* To be called after waiting; empties the wake-up pipe. */
void syncws_mailbox_awake(syncws_mailbox *mailbox);
size_t syncws_mailbox_collect(syncws_mailbox *mailbox, int lazy, uint64_t *tokens, size_t room);
int syncws_mailbox_has_lazy(syncws_mailbox *mailbox);
/* In a forked child: new locks, no descriptors. */
void syncws_mailbox_after_fork(syncws_mailbox *mailbox);

/* -------------------------------------------------------------- channel.c -- */

/* One connection: who may read it, what waits to be written.  Every call is one
 * critical section or a system call outside of it, so a Python exception can come
 * before or after a transition and never inside. */

/* See syncws_receive(). */
enum { SYNCWS_LENGTH_MASK = 65535, SYNCWS_MEMORY_SHIFT = 16, SYNCWS_NUMBER_SHIFT = 17 };

enum syncws_result {
    SYNCWS_OK = 0,         /* done; of a send: the socket took everything */
    SYNCWS_GOT_TEXT = 1,   /* scratch->data: one text message; not owned any more */
    SYNCWS_GOT_BINARY = 2, /* scratch->data: one binary message; not owned any more */
    SYNCWS_RECORDS = 3,    /* scratch->records; the caller is the owner and must leave */
    SYNCWS_RECORDS_MORE = 4,   /* the same, and scratch->rest must be decoded before leaving */
    SYNCWS_RECORDS_FAILED = 5, /* the same, and then the decoder failed */
    SYNCWS_END_OF_STREAM = 6,  /* the caller is the owner and must leave */
    SYNCWS_READ_FAILED = 7,    /* the same; scratch->error_number */
    SYNCWS_TIMED_OUT = 8,
    SYNCWS_INTERRUPTED = 9, /* a signal: let Python run its handlers, then call again */
    SYNCWS_BUSY = 10,       /* another thread is the owner */
    SYNCWS_OWN = 11,        /* the calling thread is the owner already (a signal handler) */
    SYNCWS_QUEUED = 12,     /* messages were delivered: look at the inbound queue */
    SYNCWS_PARKED = 13,     /* the input has ended; its end is to be acted upon */
    SYNCWS_GONE = 14,
    SYNCWS_SCRATCH_BUSY = 15, /* the scratch still holds what an interrupted call decoded */
    SYNCWS_PENDING = 16,    /* of a send: some bytes wait in the outbound queue */
    SYNCWS_FULL = 17,       /* of a send: nothing was taken, the queue is above high water */
    SYNCWS_UNFINISHED = 18, /* of a send: another message is under way */
    SYNCWS_CLOSED = 19,     /* of a send: a close frame was sent, or the channel is gone */
    SYNCWS_WRITE_FAILED = 20, /* of a send: scratch->error_number */
    SYNCWS_LARGE = 21,      /* of a send: use syncws_frame_begin() */
    SYNCWS_NOT_ARMED = 22,  /* of an event: stale, to be ignored */
    SYNCWS_EXTERNAL = 23,   /* Python moves the bytes of this channel */
    SYNCWS_NO_SCRATCH = 24, /* the calling thread has no working memory yet */
    SYNCWS_UNENCODED = 25,  /* of a send: an extension has to see the message first */
    SYNCWS_STREAMED = 26    /* the message under way is received in pieces */
};

/* To be added to the first byte of a message that no extension has to see, or not any more. */
enum { SYNCWS_ENCODED = 256 };

enum syncws_flag {
    SYNCWS_FLAG_ARMED = 1,   /* the reader thread watches for input */
    SYNCWS_FLAG_LISTED = 2,  /* in the mailbox: the reader thread will look */
    SYNCWS_FLAG_PAUSED = 4,  /* the inbound queue is full: nobody reads */
    SYNCWS_FLAG_PARKED = 8,  /* the input has ended: nobody reads */
    SYNCWS_FLAG_GONE = 16,   /* nothing comes or goes any more */
    SYNCWS_FLAG_CLOSED = 32, /* the descriptor may be or is closed */
    SYNCWS_FLAG_QUEUED = 64, /* the inbound queue may hold messages */
    SYNCWS_FLAG_HANDED = 128, /* the program has a message and did not come back for more */
    SYNCWS_FLAG_FOLLOWERS = 256, /* threads wait for the owner to leave; leaving clears it */
    SYNCWS_FLAG_STREAMED = 512 /* a message is received in pieces: no other is taken meanwhile */
};

enum syncws_take_mode {
    SYNCWS_TAKE_MESSAGE = 0, /* for a message: not if the inbound queue may have one, nor in
                              * the middle of one that is received in pieces */
    SYNCWS_TAKE_WAIT = 1,    /* to wait for something else */
    SYNCWS_TAKE_EVENT = 2,   /* the reader thread, after its selector said so */
    SYNCWS_TAKE_DRAIN = 3    /* to read to the end, even after the input has ended */
};

enum syncws_interest { SYNCWS_READ = 1, SYNCWS_WRITE = 2 };

/* `frame_size`: payload bytes that a data frame of ours may have, at least 1. */
syncws_channel *syncws_channel_new(syncws_mailbox *mailbox, uint64_t token, int descriptor,
                                   int side, int external, size_t high_water,
                                   uint64_t frame_size); /* NULL: memory */
void syncws_channel_free(syncws_channel *channel);
size_t syncws_channel_size(void);
syncws_decoder *syncws_channel_decoder(syncws_channel *channel);

/* Takes the right to read and decode.  SYNCWS_OK, _BUSY, _OWN, _QUEUED, _STREAMED, _PARKED,
 * _GONE or _NOT_ARMED. */
int syncws_take(syncws_channel *channel, int mode);
/* Gives it back if the calling thread has it, and sets flags (PAUSED, PARKED, GONE,
 * QUEUED, HANDED, STREAMED) in the same step.  Returns the flags, with FOLLOWERS. */
int syncws_leave(syncws_channel *channel, int flags);
/* The same for who has read into `scratch` (NULL: the calling thread's).  If what was
 * decoded is still in there, it is lost, and with it the connection: GONE. */
int syncws_finish(syncws_channel *channel, syncws_scratch *scratch, int flags);
/* 1 if the calling thread is the owner. */
int syncws_is_mine(syncws_channel *channel);

/* Registers a thread that waits for the owner to leave; 0: do not wait, look again. */
int syncws_follow(syncws_channel *channel, int mode);
/* The count of deliveries, and "I saw the queue empty at that count". */
unsigned syncws_generation(syncws_channel *channel);
void syncws_seen_empty(syncws_channel *channel, unsigned generation);

/* How many messages in pieces there have been: the owner's leaving with STREAMED begins one. */
unsigned syncws_stream_count(syncws_channel *channel);
/* The one of that count is over, and HANDED if `taken`; nothing if another one is under way. */
void syncws_stream_end(syncws_channel *channel, unsigned count, int taken);

int syncws_flags(syncws_channel *channel);
void syncws_set_flags(syncws_channel *channel, int set, int clear);
/* Puts it into the mailbox. */
void syncws_list(syncws_channel *channel, int urgent);
/* The reader thread takes it out and arms it; the interest to ask the selector for, -1
 * if nothing changes. */
int syncws_look(syncws_channel *channel);
/* The reader thread tells that its selector let go of the descriptor. */
void syncws_unwatched(syncws_channel *channel);

/* Sets GONE and wakes the threads inside; returns the flags, with FOLLOWERS. */
int syncws_abort(syncws_channel *channel);
/* 1, once: gone and unused, so the caller closes the descriptor. */
int syncws_claim_close(syncws_channel *channel);
/* The owner has read to the end: gone, not owned, and claimed as by syncws_claim_close(), all in
 * one.  0: another thread uses the descriptor, and nothing has changed. */
int syncws_end(syncws_channel *channel);
/* In a forked child: new locks, gone, no owner. 1: it was gone before. */
int syncws_channel_after_fork(syncws_channel *channel);

uint64_t syncws_drained(syncws_channel *channel);

/* -------------------------------------------------------------- receive.c -- */

/* Waits up to timeout_ms (-1: for ever) for a message: takes ownership, reads, decodes
 * and, in the common case of exactly one message, gives ownership back.  `scratch` is NULL
 * for the calling thread's; then a result above SYNCWS_LENGTH_MASK is a message that begins
 * at scratch->packed: from the lowest bit on its length, whether it is text, and
 * scratch->number. */
int64_t syncws_receive(syncws_channel *channel, syncws_scratch *scratch, int timeout_ms);
/* The same into the calling thread's memory and for ever: one argument costs Python least. */
int64_t syncws_receive_next(syncws_channel *channel);
/* The owner reads and decodes; never gives ownership back.  timeout_ms as above.  As long as
 * decoder.backlog is set, this and syncws_receive() return SYNCWS_RECORDS with no record. */
int syncws_read(syncws_channel *channel, syncws_scratch *scratch, int timeout_ms);
/* The owner decodes `length` bytes in scratch->input that it brought itself. */
int syncws_decode_input(syncws_channel *channel, syncws_scratch *scratch, size_t length);
/* The owner has read, with that `result`. In the common case of exactly one message it gives
 * ownership back, as syncws_receive() does, and so after a wait in vain. */
int syncws_hand_over(syncws_channel *channel, syncws_scratch *scratch, int result);
/* The owner decodes scratch->rest after SYNCWS_RECORDS_MORE. */
int syncws_decode_rest(syncws_channel *channel, syncws_scratch *scratch);
/* The owner waits for input. SYNCWS_OK, _TIMED_OUT, _INTERRUPTED. */
int syncws_wait_readable(syncws_channel *channel, int timeout_ms);
/* Any thread waits for room to write. SYNCWS_OK, _TIMED_OUT, _INTERRUPTED, _GONE. */
int syncws_wait_writable(syncws_channel *channel, int timeout_ms);
/* Milliseconds since the program was handed its last message, if it has not come back for more
 * and was handed it by C; else 0: when one is taken out of the inbound queue, nobody notes. */
int syncws_handed_ago(syncws_channel *channel);
/* How many bytes have come so far. */
uint64_t syncws_received(syncws_channel *channel);

/* --------------------------------------------------- output.c, external.c -- */

/* Messages of so many bytes and more are for extensions. To be called before any send. */
void syncws_encode_from(syncws_channel *channel, size_t length);
/* Messages are not cut into frames: extensions have made those. Before any send, too. */
void syncws_keep_frames(syncws_channel *channel);
/* One whole message of at most 64 KiB in one frame; SYNCWS_LARGE: it needs several steps.
 * `first_byte` is FIN | RSV | opcode, and SYNCWS_ENCODED. Masks it in the calling thread's
 * memory; SYNCWS_NO_SCRATCH if it has none. */
int syncws_send(syncws_channel *channel, int first_byte, const char *data, size_t length);
/* A ping or pong: now, or at the next frame boundary, where the newest wins.  Or the close
 * frame, which is the last one. */
int syncws_send_control(syncws_channel *channel, syncws_scratch *scratch, int opcode,
                        const char *data, size_t length);
/* A message in several steps: open, one or more frames, close.  Closing does nothing for a
 * thread that has not opened one; an unfinished message lets no data frame follow it, and
 * the reader thread is told. */
int syncws_message_open(syncws_channel *channel);
void syncws_message_close(syncws_channel *channel);
/* 1 if the calling thread is in the middle of such a message. */
int syncws_message_is_mine(syncws_channel *channel);
enum syncws_cut { SYNCWS_NOT_CUT = 0, SYNCWS_CUT_BETWEEN_FRAMES = 1, SYNCWS_CUT_IN_FRAME = 2 };
/* Whether a message was left unfinished, or would be if the calling thread stopped now. */
int syncws_message_cut(syncws_channel *channel);
/* 1 if one was left unfinished, or any thread is in the middle of one of which a byte has left. */
int syncws_message_begun(syncws_channel *channel);
int syncws_frame_begin(syncws_channel *channel, syncws_scratch *scratch, int first_byte,
                       uint64_t length);
/* Takes what it can of the frame's payload; syncws_frame_left() says how much is still to
 * come. SYNCWS_OK, _PENDING (wait for room), _CLOSED, _WRITE_FAILED. */
int syncws_frame_write(syncws_channel *channel, syncws_scratch *scratch, const char *data,
                       size_t length);
uint64_t syncws_frame_left(syncws_channel *channel);
/* A whole frame of at most 64 KiB of the message that the calling thread has opened, or with
 * `any_size` a whole message of any size, in as many frames as it needs. SYNCWS_OK, _PENDING,
 * _CLOSED, _WRITE_FAILED; SYNCWS_FULL: wait for room; SYNCWS_LARGE: use syncws_frame_begin();
 * SYNCWS_UNFINISHED: none is open, or a frame is under way. */
int syncws_frame_send(syncws_channel *channel, syncws_scratch *scratch, int first_byte,
                      const char *data, size_t length, int any_size);
/* Queues one whole message of any size without waiting, all of its frames at once; SYNCWS_FULL
 * if others wait above high water, otherwise as syncws_send().  Or a control frame of an
 * extension, behind those before it: between two frames as a message, even while one is open;
 * inside a frame it waits for the frame's end (SYNCWS_OK), or is SYNCWS_FULL if 4 KiB of them do
 * already. */
int syncws_post(syncws_channel *channel, syncws_scratch *scratch, int first_byte,
                const char *data, size_t length);
/* Writes what waits. SYNCWS_OK, _PENDING, _WRITE_FAILED, _CLOSED. */
int syncws_flush(syncws_channel *channel, syncws_scratch *scratch);
/* For Python transports: copies up to `room` bytes of what waits; their number. */
size_t syncws_output_peek(syncws_channel *channel, syncws_scratch *scratch, uint8_t *copy,
                          size_t room);
/* For Python transports: `length` bytes of those are taken. `progress` is 1 if the socket took
 * some of them or of earlier ones, `idle` if the transport keeps none, and 0 if the socket refused
 * some. As syncws_output_size(). */
size_t syncws_output_moved(syncws_channel *channel, size_t length, int progress, int idle);
/* Bytes that wait; at least 1 if control frames or a Python transport's bytes do. */
size_t syncws_output_size(syncws_channel *channel);
/* 1: nothing waits and no frame is half written, so the stream may be ended. */
int syncws_output_idle(syncws_channel *channel);
/* Nothing is written any more; what waits is dropped. */
void syncws_output_fail(syncws_channel *channel, int error_number);
/* CDEF END */

#if defined(__cplusplus)
}
#endif

#endif
