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

/* Payload bytes of a message whose header needs no more than 7 bits for them, and of that in
 * whole vectors. */
#define SHORT 125u
#define SHORT_READ 128u

/* How messages of one opcode are packed. */
typedef struct {
    /* Copies a message of `length` bytes and unmasks it.  `readable` bytes at `source` may be
     * read, `length` + PACK_SLACK at `destination` written. */
    unsigned (*pack)(uint8_t *destination, const uint8_t *source, size_t length, size_t readable,
                     const uint8_t *key, const uint8_t *separator);
    /* Packs the short messages that may join a run and in which nothing is found; the first
     * other one is left for pack().  NULL: pack() is all there is. */
    void (*extend)(syncws_decoding *at, syncws_record *run, uint64_t limit);
} kernels;

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

/* Behind a message that lies in packed[] now, `gap` bytes after the one before. */
static inline void advance(syncws_decoding *at, size_t size, size_t gap, size_t length)
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

/* Before the message at `place`, which joins a run. */
static inline void separate(uint8_t *place, int text, const uint8_t *separator)
{
    if (text)
        place[-1] = 0;
    else
        memcpy(place - 4, separator, 4);
}

static inline size_t gap_of(int text)
{
    return text ? 1 : sizeof(((syncws_scratch *)0)->separator);
}

#if SYNCWS_X86

/* The kernels for one vector width.  `text` is a constant where copy_...() is inlined, so the
 * compiler drops the other half.
 *
 * copy_...(): what does not fill a vector at the message's end is read at `tail`.  Binary: a hit
 * is the separator's first two bytes in a row, which random bytes hold once in 65536 places;
 * only then the message is searched for all four.
 *
 * extend_...(): everything it changes is in variables of its own, since the compiler must
 * expect that a byte that is stored is part of any structure.  A message in which something is
 * found has been copied by then: behind what counts of packed[], where pack() writes it again. */
#define DEFINE_KERNELS(isa, attributes, WIDTH, vector, LOAD, STORE, SPREAD, SPREAD_BYTE, XOR, OR, \
                       EQUAL, BITS, bits)                                                      \
    attributes static inline unsigned copy_##isa(                                              \
        int text, uint8_t *destination, const uint8_t *source, const uint8_t *tail,            \
        size_t length, const uint8_t *key, vector first, vector second,                        \
        const uint8_t *separator)                                                              \
    {                                                                                          \
        const size_t whole = length - length % WIDTH;                                          \
        bits high, hits = 0, before = 0, at_first, present;                                    \
        uint32_t word;                                                                         \
        vector wide, block, any = SPREAD(0), zeros = SPREAD(0);                                \
        size_t i;                                                                              \
                                                                                               \
        memcpy(&word, key, 4);                                                                 \
        wide = SPREAD((int)word);                                                              \
        for (i = 0; i < whole; i += WIDTH) {                                                   \
            block = XOR(LOAD((const vector *)(const void *)(source + i)), wide);               \
            STORE((vector *)(void *)(destination + i), block);                                 \
            if (text) {                                                                        \
                any = OR(any, block);                                                          \
                zeros = OR(zeros, EQUAL(block, first));                                        \
            } else {                                                                           \
                at_first = (bits)(unsigned)BITS(EQUAL(block, first));                          \
                hits |= (bits)((unsigned)BITS(EQUAL(block, second)) &                          \
                               (bits)((unsigned)at_first << 1 | before));                      \
                before = (bits)(at_first >> (WIDTH - 1));                                      \
            }                                                                                  \
        }                                                                                      \
        high = (bits)(unsigned)BITS(any);                                                      \
        hits |= (bits)(unsigned)BITS(zeros);                                                   \
        if (length > whole) {                                                                  \
            present = (bits)((1u << (length - whole)) - 1u);                                   \
            block = XOR(LOAD((const vector *)(const void *)tail), wide);                       \
            STORE((vector *)(void *)(destination + whole), block);                             \
            at_first = (bits)(unsigned)BITS(EQUAL(block, first));                              \
            high |= (bits)((unsigned)BITS(block) & present);                                   \
            hits |= (bits)(text ? at_first & present                                           \
                                : (unsigned)BITS(EQUAL(block, second)) & present &             \
                                      (bits)((unsigned)at_first << 1 | before));               \
        }                                                                                      \
        if (!text && hits)                                                                     \
            hits = (bits)contains_separator(destination, length, separator);                   \
        return (text && high ? FOUND_HIGH : 0) | (hits ? FOUND_SEPARATOR : 0);                 \
    }                                                                                          \
                                                                                               \
    attributes static inline unsigned pack_##isa(int text, uint8_t *destination,               \
                                                 const uint8_t *source, size_t length,         \
                                                 size_t readable, const uint8_t *key,          \
                                                 const uint8_t *separator)                     \
    {                                                                                          \
        const size_t whole = length - length % WIDTH;                                          \
        const uint8_t *tail = source + whole;                                                  \
        uint8_t end[WIDTH];                                                                    \
                                                                                               \
        if (length > whole && readable - whole < WIDTH) {                                      \
            memset(end, 0, WIDTH);                                                             \
            memcpy(end, tail, length - whole);                                                 \
            tail = end;                                                                        \
        }                                                                                      \
        return copy_##isa(text, destination, source, tail, length, key,                        \
                          SPREAD_BYTE((char)(text ? 0 : separator[0])),                        \
                          SPREAD_BYTE((char)separator[1]), separator);                         \
    }                                                                                          \
                                                                                               \
    attributes static inline void extend_##isa(int text, syncws_decoding *from,                \
                                               syncws_record *run, uint64_t limit)             \
    {                                                                                          \
        static const uint8_t no_key[4] = {0, 0, 0, 0};                                         \
        syncws_decoding at = *from;                                                            \
        const uint8_t begin = (uint8_t)(0x80 | (text ? SYNCWS_TEXT : SYNCWS_BINARY));          \
        const unsigned mask_bit = at.decoder->side == SYNCWS_SERVER ? 0x80 : 0;                \
        const size_t size = mask_bit ? 6 : 2, gap = gap_of(text);                              \
        const size_t longest = limit < SHORT ? (size_t)limit : SHORT;                          \
        uint8_t separator[4], *place;                                                          \
        vector first, second;                                                                  \
        size_t length;                                                                         \
                                                                                               \
        memcpy(separator, at.scratch->separator, 4);                                           \
        first = SPREAD_BYTE((char)(text ? 0 : separator[0]));                                  \
        second = SPREAD_BYTE((char)separator[1]);                                              \
        while (at.length >= size + SHORT_READ && at.input[0] == begin &&                       \
               SYNCWS_PACKED_SIZE - at.packed >= gap + SHORT + PACK_SLACK) {                   \
            length = at.input[1] ^ mask_bit; /* over 127 with the wrong mask bit */            \
            if (length > longest)                                                              \
                break;                                                                         \
            place = at.scratch->packed + at.packed + gap;                                      \
            if (copy_##isa(text, place, at.input + size, at.input + size + length / WIDTH * WIDTH, \
                           length, mask_bit ? at.input + 2 : no_key, first, second, separator)) \
                break;                                                                         \
            separate(place, text, separator);                                                  \
            advance(&at, size, gap, length);                                                   \
        }                                                                                      \
        if (at.bound > from->bound) {                                                          \
            run->kind = SYNCWS_RUN;                                                            \
            run->length += at.packed - from->packed;                                           \
            run->count += at.bound - from->bound;                                              \
            *from = at;                                                                        \
        }                                                                                      \
    }

/* The same for one opcode. */
#define DEFINE_KERNELS_FOR(kind, isa, attributes, text)                                        \
    attributes static unsigned pack_##kind##_##isa(                                            \
        uint8_t *destination, const uint8_t *source, size_t length, size_t readable,           \
        const uint8_t *key, const uint8_t *separator)                                          \
    {                                                                                          \
        return pack_##isa(text, destination, source, length, readable, key, separator);        \
    }                                                                                          \
                                                                                               \
    attributes static void extend_##kind##_##isa(syncws_decoding *at, syncws_record *run,      \
                                                 uint64_t limit)                               \
    {                                                                                          \
        extend_##isa(text, at, run, limit);                                                    \
    }

DEFINE_KERNELS(sse2, , 16, __m128i, _mm_loadu_si128, _mm_storeu_si128, _mm_set1_epi32,
               _mm_set1_epi8, _mm_xor_si128, _mm_or_si128, _mm_cmpeq_epi8, _mm_movemask_epi8,
               uint16_t)
DEFINE_KERNELS_FOR(text, sse2, , 1)
DEFINE_KERNELS_FOR(binary, sse2, , 0)

DEFINE_KERNELS(avx2, SYNCWS_AVX2_FUNCTION, 32, __m256i, _mm256_loadu_si256, _mm256_storeu_si256,
               _mm256_set1_epi32, _mm256_set1_epi8, _mm256_xor_si256, _mm256_or_si256,
               _mm256_cmpeq_epi8, _mm256_movemask_epi8, uint32_t)
DEFINE_KERNELS_FOR(text, avx2, SYNCWS_AVX2_FUNCTION, 1)
DEFINE_KERNELS_FOR(binary, avx2, SYNCWS_AVX2_FUNCTION, 0)

#endif

static kernels kernels_for(int text)
{
    switch (syncws_isa()) {
#if SYNCWS_X86
    case SYNCWS_ISA_AVX2:
        return text ? (kernels){pack_text_avx2, extend_text_avx2}
                    : (kernels){pack_binary_avx2, extend_binary_avx2};
    case SYNCWS_ISA_SSE2:
        return text ? (kernels){pack_text_sse2, extend_text_sse2}
                    : (kernels){pack_binary_sse2, extend_binary_sse2};
#endif
    default:
        return text ? (kernels){pack_text_portable, NULL}
                    : (kernels){pack_binary_portable, NULL};
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
    kernels kernel = {NULL, NULL};
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
            kernel = kernels_for(opcode == SYNCWS_TEXT);
            run = NULL;
        }
        if (run == NULL && scratch->record_count == SYNCWS_RECORD_LIMIT)
            return STOP_MORE;
        gap = run == NULL ? 0 : gap_of(opcode == SYNCWS_TEXT);
        if (SYNCWS_PACKED_SIZE - at->packed < gap + length + PACK_SLACK)
            return STOP_MORE;
        place = scratch->packed + at->packed + gap;
        found = kernel.pack(place, at->input + size, length, at->length - size,
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
            separate(place, opcode == SYNCWS_TEXT, scratch->separator);
            run->kind = SYNCWS_RUN;
            run->length += gap + length;
            run->count++;
        }
        advance(at, size, gap, length);
        /* A text that is not ASCII is rarely followed by one that is; and extend() costs some
         * preparation, also where it ends at the first message. */
        if (run != NULL && !found && kernel.extend != NULL && at->length > SHORT_READ &&
            at->input[0] == (0x80 | opcode))
            kernel.extend(at, run, limit);
    }
    return GO_ON;
}
