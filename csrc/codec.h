/* What the codec's files share among themselves and nobody else may use.
 *
 * What belongs here: the choice of instruction sets by preprocessor and internal
 * prototypes.  What does not: anything that Python or the channel calls.
 */
#ifndef SYNCWS_CODEC_H
#define SYNCWS_CODEC_H

#include "syncws.h"

/* SYNCWS_NO_SIMD compiles every kernel but the portable ones out.  The choice is
 * the preprocessor's and not the build script's, because one build may compile
 * for two processors (macOS universal2). */
#if !defined(SYNCWS_NO_SIMD) && defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define SYNCWS_X86 1
#define SYNCWS_AVX2_FUNCTION __attribute__((__target__("avx2")))
#else
#define SYNCWS_X86 0
#endif

/* Big-endian ARM takes the portable path. */
#if !defined(SYNCWS_NO_SIMD) && defined(__aarch64__) && !defined(__AARCH64EB__)
#define SYNCWS_NEON 1
#else
#define SYNCWS_NEON 0
#endif

/* --------------------------------------------------------------- frame.c -- */

typedef struct {
    uint64_t length;
    uint8_t size; /* of the header; 0: bytes are missing */
    uint8_t fin;
    uint8_t rsv;
    uint8_t opcode;
    uint8_t key[4]; /* zeros: not masked */
} syncws_frame_header;

/* Reads and judges the header in the first of `available` bytes, at least one. */
enum syncws_failure syncws_read_header(const syncws_decoder *decoder, const uint8_t *bytes,
                                       size_t available, syncws_frame_header *header);

/* --------------------------------------------- decoder.c with pack.c -- */

enum syncws_outcome { GO_ON, STOP_MORE, STOP_FAILED };

/* One call's position. */
typedef struct {
    syncws_decoder *decoder;
    syncws_scratch *scratch;
    uint8_t *input;
    size_t length;
    size_t packed; /* bytes of scratch->packed in use */
    uint32_t bound; /* messages that syncws_take_small_messages() put there */
} syncws_decoding;

#define SYNCWS_RECORD_LIMIT (sizeof(((syncws_scratch *)0)->records) / sizeof(syncws_record))
#define SYNCWS_PACKED_SIZE sizeof(((syncws_scratch *)0)->packed)

/* Up to this size copying a message is cheaper than a record of its own. */
#define SYNCWS_SMALL 8192u
#define SYNCWS_BOUNDS_LIMIT (sizeof(((syncws_scratch *)0)->bounds) / sizeof(uint32_t) / 2)

/* The caller has checked that there is room. */
syncws_record *syncws_emit(syncws_scratch *scratch, enum syncws_record_kind kind, uint8_t opcode,
                           uint8_t *data, uint64_t length);

/* The decoder stops here for good. */
enum syncws_outcome syncws_fail(syncws_decoder *decoder, enum syncws_failure failure);

/* Between frames and messages: packs small whole messages as long as they follow
 * each other.  GO_ON: the input is used up or something else comes next. */
enum syncws_outcome syncws_take_small_messages(syncws_decoding *at);

#endif
