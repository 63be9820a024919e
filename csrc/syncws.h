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
    SYNCWS_ISA_AVX512 = 3,
    SYNCWS_ISA_NEON = 4
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
    SYNCWS_PIECE = 4    /* part of a message: streaming, or RSV bits set */
};

enum syncws_record_flag {
    SYNCWS_PIECE_FIRST = 1, /* of a PIECE: the message begins with it */
    SYNCWS_PIECE_LAST = 2,  /* of a PIECE: the message ends with it */
    SYNCWS_IN_DECODER = 4   /* data lies in the decoder, not in the scratch */
};

typedef struct {
    uint8_t *data;   /* valid until the next syncws_decode() with this decoder or scratch */
    uint64_t length; /* bytes at data; of a RUN: with the separators */
    uint32_t count;  /* of a RUN: messages in it; otherwise 1 */
    uint8_t kind;    /* enum syncws_record_kind */
    uint8_t opcode;  /* of a PIECE: that of its message */
    uint8_t flags;   /* enum syncws_record_flag */
    uint8_t rsv;     /* RSV1 = 4, RSV2 = 2, RSV3 = 1, of the message's first frame */
} syncws_record;

/* Working memory of one thread.  64 KiB are read at a time. */
typedef struct {
    uint8_t input[65536];
    uint8_t packed[131072];  /* runs of small messages */
    uint8_t output[65552];   /* one encoded piece: 64 KiB and a header */
    syncws_record records[256];
    uint32_t record_count;
    uint32_t unclaimed;      /* 1: what a call decoded is not yet with Python */
    uint8_t separator[4];    /* random; the first byte differs from the others */
    uint32_t keys_left;      /* bytes of keys[] not used yet */
    uint8_t keys[256];       /* masking keys from the kernel's generator */
    uint8_t *rest;           /* input not decoded yet (SYNCWS_MORE) */
    uint64_t rest_length;
    uint8_t *data;           /* syncws_receive(): the one message that came */
    uint64_t length;
    int64_t code;            /* syncws_receive(), syncws_send(): their result again */
    int32_t error_number;    /* errno of a failed system call */
} syncws_scratch;

typedef struct {
    /* Configuration; may be changed between calls. */
    uint64_t max_frame_size; /* payload bytes of one data frame; UINT64_MAX: no limit */
    uint64_t max_size;       /* payload bytes of one message; UINT64_MAX: no limit */
    uint64_t max_fragments;  /* beyond it a message's fragments need 64 bytes each on average */
    uint8_t side;            /* enum syncws_side: which one we are */
    uint8_t streaming;       /* 1: the current or next message comes in PIECEs; cleared by its last */
    uint8_t allowed_rsv;     /* RSV bits that a data message's first frame may set */
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
    uint8_t handed_out;      /* buffer is in a record; the next call frees it */
    uint8_t key[4];          /* zeros: not masked */
    uint32_t utf8;
    uint64_t frame_length;
    uint64_t frame_done;
    uint64_t message_length; /* announced by its headers so far */
    uint64_t fragments;
    uint8_t *buffer;         /* malloc'd: the unfinished message */
    uint64_t buffer_length;
    uint64_t buffer_capacity;
} syncws_decoder;

enum syncws_decode_result {
    SYNCWS_DECODED = 0, /* all input consumed */
    SYNCWS_MORE = 1,    /* take the records, then call again with scratch->rest */
    SYNCWS_FAILED = 2   /* the records came first, then decoder->failure */
};

void syncws_decoder_init(syncws_decoder *decoder, int side, uint64_t max_frame_size,
                         uint64_t max_size, uint64_t max_fragments);
/* Frees the buffer of an unfinished message. */
void syncws_decoder_release(syncws_decoder *decoder);

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

/* Writes a frame header of 2 to 14 bytes; `key` is NULL for an unmasked frame.
 * `first_byte` is FIN | RSV | opcode.  Returns its size. */
size_t syncws_encode_header(uint8_t *output, uint8_t first_byte, uint64_t length,
                            const uint8_t *key);

/* CDEF CHANNEL */
/* CDEF END */

#if defined(__cplusplus)
}
#endif

#endif
