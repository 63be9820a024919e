/* Runs of small messages.
 *
 * What belongs here: the loop over small whole messages, and the kernels that
 * unmask one of them while they copy it and look for what would spoil the run, in
 * one pass.  What does not: every other way a message may come (decoder.c).
 *
 * A vector may be read and written past the message's end, as far as `readable`
 * and PACK_SLACK allow; bits of bytes that are not part of the message are
 * thrown away.
 */
#include "codec.h"

#include <string.h>

#if SYNCWS_X86
#include <immintrin.h>
#endif

/* What a kernel found in a message. */
#define FOUND_HIGH 1u      /* text: a byte over 127 */
#define FOUND_SEPARATOR 2u /* a NUL in text, the separator in a binary message */

/* Bytes after the packed message that a kernel may overwrite. */
#define PACK_SLACK 32u

/* Copies a message of `length` bytes and unmasks it.  `readable` bytes at
 * `source` may be read, `length` + PACK_SLACK at `destination` written. */
typedef unsigned (*pack_function)(uint8_t *destination, const uint8_t *source, size_t length,
                                  size_t readable, const uint8_t *key, const uint8_t *separator);

static int contains_separator(const uint8_t *data, size_t length, const uint8_t *separator)
{
    const uint8_t *end = data + length, *at = data;

    while ((size_t)(end - at) >= 4 &&
           (at = memchr(at, separator[0], (size_t)(end - at) - 3)) != NULL) {
        if (memcmp(at, separator, 4) == 0)
            return 1;
        at++;
    }
    return 0;
}

static void copy_unmasked(uint8_t *destination, const uint8_t *source, size_t length,
                          const uint8_t *key)
{
    syncws_mask(destination, source, length, key, 0);
}

static unsigned pack_text_portable(uint8_t *destination, const uint8_t *source, size_t length,
                                   size_t readable, const uint8_t *key, const uint8_t *separator)
{
    uint64_t word, high = 0;
    size_t i = 0;

    (void)readable;
    (void)separator;
    if (length == 0)
        return 0;
    copy_unmasked(destination, source, length, key);
    for (; length - i >= 8; i += 8) {
        memcpy(&word, destination + i, 8);
        high |= word;
    }
    for (; i < length; i++)
        high |= destination[i];
    return ((high & 0x8080808080808080u) ? FOUND_HIGH : 0) |
           (memchr(destination, 0, length) ? FOUND_SEPARATOR : 0);
}

static unsigned pack_binary_portable(uint8_t *destination, const uint8_t *source, size_t length,
                                     size_t readable, const uint8_t *key,
                                     const uint8_t *separator)
{
    (void)readable;
    copy_unmasked(destination, source, length, key);
    return contains_separator(destination, length, separator) ? FOUND_SEPARATOR : 0;
}

#if SYNCWS_X86

/* One kernel body for both vector widths and both opcodes; `text` is a constant,
 * so the compiler drops the other half.
 *
 * Binary: a hit is the separator's first two bytes in a row, which random bytes
 * hold once in 65536 places; only then the message is searched for all four. */
#define DEFINE_PACK(name, attributes, text, WIDTH, vector, LOAD, STORE, SPREAD, SPREAD_BYTE,   \
                    XOR, EQUAL, BITS, bits)                                                    \
    attributes static unsigned name(uint8_t *destination, const uint8_t *source,               \
                                    size_t length, size_t readable, const uint8_t *key,        \
                                    const uint8_t *separator)                                  \
    {                                                                                          \
        const vector first = SPREAD_BYTE((char)(text ? 0 : separator[0]));                     \
        const vector second = SPREAD_BYTE((char)separator[1]);                                 \
        bits high = 0, hits = 0, before = 0, at_first, present;                                \
        uint8_t end[WIDTH];                                                                    \
        uint32_t word;                                                                         \
        vector wide, block;                                                                    \
        size_t i;                                                                              \
                                                                                               \
        memcpy(&word, key, 4);                                                                 \
        wide = SPREAD((int)word);                                                              \
        for (i = 0; i < length; i += WIDTH) {                                                  \
            if (readable - i >= WIDTH) {                                                       \
                block = LOAD((const vector *)(const void *)(source + i));                      \
            } else {                                                                           \
                memcpy(end, source + i, length - i);                                           \
                memset(end + (length - i), 0, WIDTH - (length - i));                           \
                block = LOAD((const vector *)(const void *)end);                               \
            }                                                                                  \
            block = XOR(block, wide);                                                          \
            STORE((vector *)(void *)(destination + i), block);                                 \
            present = (bits)(length - i >= WIDTH ? ~0u : (1u << (length - i)) - 1u);           \
            at_first = (bits)(unsigned)BITS(EQUAL(block, first));                              \
            if (text) {                                                                        \
                high |= (bits)((unsigned)BITS(block) & present);                               \
                hits |= (bits)(at_first & present);                                            \
            } else {                                                                           \
                hits |= (bits)((unsigned)BITS(EQUAL(block, second)) & present &                \
                               (bits)((unsigned)at_first << 1 | before));                      \
                before = (bits)(at_first >> (WIDTH - 1));                                      \
            }                                                                                  \
        }                                                                                      \
        if (!text && hits)                                                                     \
            hits = (bits)contains_separator(destination, length, separator);                   \
        return (high ? FOUND_HIGH : 0) | (hits ? FOUND_SEPARATOR : 0);             \
    }

#define DEFINE_PACK_SSE2(name, text)                                                           \
    DEFINE_PACK(name, , text, 16, __m128i, _mm_loadu_si128, _mm_storeu_si128, _mm_set1_epi32,  \
                _mm_set1_epi8, _mm_xor_si128, _mm_cmpeq_epi8, _mm_movemask_epi8, uint16_t)
#define DEFINE_PACK_AVX2(name, text)                                                           \
    DEFINE_PACK(name, SYNCWS_AVX2_FUNCTION, text, 32, __m256i, _mm256_loadu_si256,             \
                _mm256_storeu_si256, _mm256_set1_epi32, _mm256_set1_epi8, _mm256_xor_si256,    \
                _mm256_cmpeq_epi8, _mm256_movemask_epi8, uint32_t)

DEFINE_PACK_SSE2(pack_text_sse2, 1)
DEFINE_PACK_SSE2(pack_binary_sse2, 0)
DEFINE_PACK_AVX2(pack_text_avx2, 1)
DEFINE_PACK_AVX2(pack_binary_avx2, 0)

#endif

static pack_function text_kernel(void)
{
    switch (syncws_isa()) {
#if SYNCWS_X86
    case SYNCWS_ISA_AVX2:
        return pack_text_avx2;
    case SYNCWS_ISA_SSE2:
        return pack_text_sse2;
#endif
    default:
        return pack_text_portable;
    }
}

static pack_function binary_kernel(void)
{
    switch (syncws_isa()) {
#if SYNCWS_X86
    case SYNCWS_ISA_AVX2:
        return pack_binary_avx2;
    case SYNCWS_ISA_SSE2:
        return pack_binary_sse2;
#endif
    default:
        return pack_binary_portable;
    }
}

/* ------------------------------------------------------- a row of messages -- */

/* The size of the header at `input` if a small whole data message follows there,
 * otherwise 0: then the general path decides what it is. */
static size_t small_message(const syncws_decoding *at, size_t *length)
{
    const uint8_t *input = at->input;
    const unsigned masked = at->decoder->side == SYNCWS_SERVER;
    size_t size = 2 + 4 * (size_t)masked;
    unsigned begin;

    if (at->length < size || input[1] >> 7 != masked)
        return 0;
    begin = input[0];
    if (begin & 0x70)
        begin &= ~((unsigned)at->decoder->allowed_rsv << 4);
    if (begin != (0x80 | SYNCWS_TEXT) && begin != (0x80 | SYNCWS_BINARY))
        return 0;
    *length = input[1] & 127;
    if (*length >= 126) {
        size += 2;
        if (*length == 127 || at->length < size)
            return 0;
        *length = (size_t)input[2] << 8 | input[3];
        if (*length < 126 || *length > SYNCWS_SMALL)
            return 0;
    }
    return *length <= at->length - size ? size : 0;
}

/* Behind a message that lies in packed[] now, `gap` bytes after the one before. */
static void advance(syncws_decoding *at, size_t size, size_t gap, size_t length)
{
    at->packed += gap + length;
    if (at->bound < SYNCWS_BOUNDS_LIMIT) {
        at->scratch->bounds[2 * at->bound] = (uint32_t)(at->packed - length);
        at->scratch->bounds[2 * at->bound + 1] = (uint32_t)at->packed;
    }
    at->bound++;
    at->input += size + length;
    at->length -= size + length;
}

/* Messages that an extension has encoded: what they are as text is not known yet, and
 * no separator could be told from their bytes. */
static enum syncws_outcome take_row(syncws_decoding *at, uint64_t limit)
{
    syncws_scratch *scratch = at->scratch;
    const int masked = at->decoder->side == SYNCWS_SERVER;
    const uint8_t begin = at->input[0];
    syncws_record *row = NULL;
    uint8_t *place;
    size_t size, length;

    while ((size = small_message(at, &length)) != 0 && length <= limit && at->input[0] == begin) {
        if (at->bound >= SYNCWS_BOUNDS_LIMIT || SYNCWS_PACKED_SIZE - at->packed < length)
            return STOP_MORE;
        if (row == NULL) {
            if (scratch->record_count == SYNCWS_RECORD_LIMIT)
                return STOP_MORE;
            row = syncws_emit(scratch, SYNCWS_ROW, begin & 15, scratch->packed + at->packed, 0);
            row->rsv = (begin >> 4) & 7;
            row->first = at->bound;
            row->count = 0;
        }
        place = scratch->packed + at->packed;
        if (masked)
            copy_unmasked(place, at->input + size, length, at->input + size - 4);
        else if (length)
            memcpy(place, at->input + size, length);
        row->length += length;
        row->count++;
        advance(at, size, 0, length);
    }
    return GO_ON;
}

enum syncws_outcome syncws_take_small_messages(syncws_decoding *at)
{
    static const uint8_t no_key[4] = {0, 0, 0, 0};
    syncws_decoder *decoder = at->decoder;
    syncws_scratch *scratch = at->scratch;
    const uint64_t limit =
        decoder->max_frame_size < decoder->max_size ? decoder->max_frame_size : decoder->max_size;
    const int masked = decoder->side == SYNCWS_SERVER;
    pack_function pack = NULL;
    syncws_record *run = NULL; /* the last record, while a message may join it */
    uint8_t opcode, *place;
    size_t size, length, gap = 0;
    unsigned found;

    while ((size = small_message(at, &length)) != 0 && length <= limit) {
        if (at->input[0] & 0x70) {
            if (take_row(at, limit) == STOP_MORE)
                return STOP_MORE;
            run = NULL;
            continue;
        }
        opcode = at->input[0] & 15;
        if (run == NULL || run->opcode != opcode) {
            pack = opcode == SYNCWS_TEXT ? text_kernel() : binary_kernel();
            run = NULL;
        }
        if (run == NULL && scratch->record_count == SYNCWS_RECORD_LIMIT)
            return STOP_MORE;
        gap = run == NULL ? 0 : opcode == SYNCWS_TEXT ? 1 : sizeof scratch->separator;
        if (SYNCWS_PACKED_SIZE - at->packed < gap + length + PACK_SLACK)
            return STOP_MORE;
        place = scratch->packed + at->packed + gap;
        found = pack(place, at->input + size, length, at->length - size,
                     masked ? at->input + size - 4 : no_key, scratch->separator);
        if ((found & FOUND_HIGH) &&
            syncws_utf8(SYNCWS_UTF8_BOUNDARY, place, length) != SYNCWS_UTF8_BOUNDARY)
            return syncws_fail(decoder, SYNCWS_BAD_UTF8);
        if (found & FOUND_SEPARATOR) {
            if (scratch->record_count == SYNCWS_RECORD_LIMIT)
                return STOP_MORE;
            syncws_emit(scratch, SYNCWS_MESSAGE, opcode, place, length);
            run = NULL;
        } else if (run == NULL) {
            run = syncws_emit(scratch, SYNCWS_MESSAGE, opcode, place, length);
            run->first = at->bound;
        } else {
            if (opcode == SYNCWS_TEXT)
                place[-1] = 0;
            else
                memcpy(place - sizeof scratch->separator, scratch->separator,
                       sizeof scratch->separator);
            run->kind = SYNCWS_RUN;
            run->length += gap + length;
            run->count++;
        }
        advance(at, size, gap, length);
    }
    return GO_ON;
}
