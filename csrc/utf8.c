/* Incremental UTF-8 check (RFC 3629).
 *
 * What belongs here: the automaton, which defines what is right, and the kernels
 * that skip or check blocks of whole characters.  What does not: anything that
 * knows about frames.
 *
 * The automaton's states are multiples of 6.  ROW[byte] holds, 6 bits for each
 * state, the state that follows: one table load that does not depend on the
 * state and one shift that does, so a byte costs the latency of a shift.
 */
#include "codec.h"

#include <string.h>

#if SYNCWS_X86
#include <immintrin.h>
#elif SYNCWS_NEON
#include <arm_neon.h>
#endif

/* -------------------------------------------------------------- automaton -- */

enum {
    BOUNDARY = SYNCWS_UTF8_BOUNDARY,
    BROKEN = 6,
    ONE = 12,      /* continuation bytes to come */
    TWO = 18,
    THREE = 24,
    AFTER_E0 = 30, /* A0-BF, then one: shorter forms are overlong */
    AFTER_ED = 36, /* 80-9F, then one: the rest are surrogates */
    AFTER_F0 = 42, /* 90-BF, then two: shorter forms are overlong */
    AFTER_F4 = 48  /* 80-8F, then two: the rest is beyond U+10FFFF */
};

/* A row leads from BOUNDARY to `start` ... and from the others to BROKEN unless said. */
#define ROW(start, one, two, three, e0, ed, f0, f4)                                       \
    ((uint64_t)(start) << BOUNDARY | (uint64_t)BROKEN << BROKEN | (uint64_t)(one) << ONE |  \
     (uint64_t)(two) << TWO | (uint64_t)(three) << THREE | (uint64_t)(e0) << AFTER_E0 |     \
     (uint64_t)(ed) << AFTER_ED | (uint64_t)(f0) << AFTER_F0 | (uint64_t)(f4) << AFTER_F4)
#define LEAD(state) ROW(state, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN)
#define TAIL(e0, ed, f0, f4) ROW(BROKEN, BOUNDARY, ONE, TWO, e0, ed, f0, f4)
#define TWICE(row) row, row
#define FOUR(row) TWICE(row), TWICE(row)
#define EIGHT(row) FOUR(row), FOUR(row)
#define SIXTEEN(row) EIGHT(row), EIGHT(row)
#define SIXTY_FOUR(row) SIXTEEN(row), SIXTEEN(row), SIXTEEN(row), SIXTEEN(row)

static const uint64_t ROWS[256] = {
    SIXTY_FOUR(LEAD(BOUNDARY)), SIXTY_FOUR(LEAD(BOUNDARY)),        /* 00-7F */
    SIXTEEN(TAIL(BROKEN, ONE, BROKEN, TWO)),                       /* 80-8F */
    SIXTEEN(TAIL(BROKEN, ONE, TWO, BROKEN)),                       /* 90-9F */
    SIXTEEN(TAIL(ONE, BROKEN, TWO, BROKEN)),                       /* A0-AF */
    SIXTEEN(TAIL(ONE, BROKEN, TWO, BROKEN)),                       /* B0-BF */
    TWICE(LEAD(BROKEN)),                                           /* C0-C1: overlong */
    TWICE(LEAD(ONE)), FOUR(LEAD(ONE)), EIGHT(LEAD(ONE)),           /* C2-CF */
    SIXTEEN(LEAD(ONE)),                                            /* D0-DF */
    LEAD(AFTER_E0), FOUR(LEAD(TWO)), EIGHT(LEAD(TWO)),             /* E0-EC */
    LEAD(AFTER_ED), TWICE(LEAD(TWO)),                              /* ED-EF */
    LEAD(AFTER_F0), LEAD(THREE), TWICE(LEAD(THREE)),               /* F0-F3 */
    LEAD(AFTER_F4), LEAD(BROKEN), TWICE(LEAD(BROKEN)), EIGHT(LEAD(BROKEN)) /* F4-FF */
};

/* From BOUNDARY through ASCII, eight bytes at a time. */
static size_t skip_ascii(const uint8_t *data, size_t length)
{
    uint64_t word;
    size_t i = 0;

    for (; length - i >= 8; i += 8) {
        memcpy(&word, data + i, 8);
        if (word & 0x8080808080808080u)
            break;
    }
    return i;
}

static uint64_t run_automaton(uint64_t state, const uint8_t *data, size_t length)
{
    size_t i = 0, end;

    while (i < length) {
        if ((state & 63) == BOUNDARY) {
            i += skip_ascii(data + i, length - i);
            if (i == length)
                return BOUNDARY;
        }
        end = length - i < 16 ? length : i + 16;
        for (; i < end; i++)
            state = ROWS[data[i]] >> (state & 63);
    }
    return state & 63;
}

/* ----------------------------------------------------------------- kernels -- */

/* A kernel starts at a character and returns the length of a valid prefix that
 * ends with one.  What it leaves is for the automaton, which decides. */

#if SYNCWS_X86

/* Bytes of an unfinished character at the end (0 to 3).  What it calls unfinished
 * may be wrong all the same: the automaton looks at it. */
static size_t unfinished(const uint8_t *data, size_t length)
{
    size_t back;

    for (back = 1; back <= 3 && back <= length; back++) {
        uint8_t byte = data[length - back];
        if (byte >= 0xC0)
            return back < (byte < 0xE0 ? 2u : byte < 0xF0 ? 3u : 4u) ? back : 0;
        if (byte < 0x80)
            return 0;
    }
    return 0;
}

static size_t prefix_sse2(const uint8_t *data, size_t length)
{
    size_t i = 0;

    for (; length - i >= 64; i += 64) {
        const __m128i *block = (const __m128i *)(const void *)(data + i);
        __m128i any = _mm_or_si128(
            _mm_or_si128(_mm_loadu_si128(block), _mm_loadu_si128(block + 1)),
            _mm_or_si128(_mm_loadu_si128(block + 2), _mm_loadu_si128(block + 3)));
        if (_mm_movemask_epi8(any))
            break;
    }
    return i;
}

/* The check of non-ASCII blocks follows J. Keiser and D. Lemire, "Validating UTF-8
 * in less than one instruction per byte" (2021): each wrong pair of neighbours is
 * a set bit that three tables have in common, indexed by the first byte's two
 * nibbles and the second byte's high nibble. */
enum {
    LEAD_THEN_NO_TAIL = 1,   /* 11...... and then 0....... or 11...... */
    ASCII_THEN_TAIL = 2,     /* 0....... 10...... */
    OVERLONG_OF_3 = 4,       /* 11100000 100..... */
    BEYOND_OR_F5 = 8,        /* F4 90-BF; F5-FF 90-BF */
    SURROGATE = 16,          /* 11101101 101..... */
    OVERLONG_OF_2 = 32,      /* 1100000. 10...... */
    OVERLONG_OF_4 = 64,      /* 11110000 1000....; with F5-FF 80-8F */
    TAIL_THEN_TAIL = 128     /* right if it is the third or fourth byte */
};

#define ANY_LOW (LEAD_THEN_NO_TAIL | ASCII_THEN_TAIL | TAIL_THEN_TAIL)
#define LOW_5_UP (ANY_LOW | BEYOND_OR_F5 | OVERLONG_OF_4)
#define TAIL_8_9 (ASCII_THEN_TAIL | OVERLONG_OF_2 | TAIL_THEN_TAIL | OVERLONG_OF_3)
#define TAIL_A_B (ASCII_THEN_TAIL | OVERLONG_OF_2 | TAIL_THEN_TAIL | SURROGATE | BEYOND_OR_F5)

static const uint8_t BY_FIRST_HIGH[16] = {
    EIGHT(ASCII_THEN_TAIL),
    FOUR(TAIL_THEN_TAIL),
    LEAD_THEN_NO_TAIL | OVERLONG_OF_2,
    LEAD_THEN_NO_TAIL,
    LEAD_THEN_NO_TAIL | OVERLONG_OF_3 | SURROGATE,
    LEAD_THEN_NO_TAIL | BEYOND_OR_F5 | OVERLONG_OF_4,
};
static const uint8_t BY_FIRST_LOW[16] = {
    ANY_LOW | OVERLONG_OF_2 | OVERLONG_OF_3 | OVERLONG_OF_4,
    ANY_LOW | OVERLONG_OF_2,
    TWICE(ANY_LOW),
    ANY_LOW | BEYOND_OR_F5,
    EIGHT(LOW_5_UP),
    LOW_5_UP | SURROGATE,
    TWICE(LOW_5_UP),
};
static const uint8_t BY_SECOND_HIGH[16] = {
    EIGHT(LEAD_THEN_NO_TAIL),
    TAIL_8_9 | OVERLONG_OF_4,
    TAIL_8_9 | BEYOND_OR_F5,
    TWICE(TAIL_A_B),
    FOUR(LEAD_THEN_NO_TAIL),
};

/* The bytes that lie `distance` before those of `block`. */
#define BEFORE(block, previous, distance)                                                    \
    _mm256_alignr_epi8(block, _mm256_permute2x128_si256(previous, block, 0x21), 16 - (distance))

SYNCWS_AVX2_FUNCTION
static inline __m256i look_up(const uint8_t *table, __m256i indexes)
{
    const __m128i row = _mm_loadu_si128((const __m128i *)(const void *)table);
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(row),
                               _mm256_and_si256(indexes, _mm256_set1_epi8(15)));
}

/* Not zero where the block, after the previous one, is wrong. */
SYNCWS_AVX2_FUNCTION
static inline __m256i wrong_pairs(__m256i block, __m256i previous)
{
    const __m256i first = BEFORE(block, previous, 1);
    const __m256i pairs = _mm256_and_si256(
        _mm256_and_si256(look_up(BY_FIRST_HIGH, _mm256_srli_epi16(first, 4)),
                         look_up(BY_FIRST_LOW, first)),
        look_up(BY_SECOND_HIGH, _mm256_srli_epi16(block, 4)));
    /* The top bit is set where a three- or four-byte character demands a tail
     * after a tail: saturating subtraction leaves >= 0x80 of E0-FF and F0-FF. */
    const __m256i third = _mm256_subs_epu8(BEFORE(block, previous, 2), _mm256_set1_epi8(0x60));
    const __m256i fourth = _mm256_subs_epu8(BEFORE(block, previous, 3), _mm256_set1_epi8(0x70));
    const __m256i demanded = _mm256_and_si256(_mm256_or_si256(third, fourth),
                                              _mm256_set1_epi8((char)TAIL_THEN_TAIL));
    return _mm256_xor_si256(pairs, demanded);
}

SYNCWS_AVX2_FUNCTION
static size_t prefix_avx2(const uint8_t *data, size_t length)
{
    uint8_t padded[32];
    size_t end = length - unfinished(data, length), i = 0;
    __m256i previous = _mm256_setzero_si256(), wrong = _mm256_setzero_si256(), low, high;
    int clean = 1; /* previous ends with ASCII: the next block does not depend on it */

    for (; end - i >= 64; i += 64) {
        low = _mm256_loadu_si256((const __m256i *)(const void *)(data + i));
        high = _mm256_loadu_si256((const __m256i *)(const void *)(data + i + 32));
        if (!_mm256_movemask_epi8(_mm256_or_si256(low, high)) && clean)
            continue;
        wrong = _mm256_or_si256(wrong, wrong_pairs(low, previous));
        wrong = _mm256_or_si256(wrong, wrong_pairs(high, low));
        clean = !((unsigned)_mm256_movemask_epi8(high) >> 31);
        previous = clean ? _mm256_setzero_si256() : high;
    }
    while (i < end) {
        if (end - i >= 32) {
            low = _mm256_loadu_si256((const __m256i *)(const void *)(data + i));
            i += 32;
        } else {
            memset(padded, 0, sizeof padded);
            memcpy(padded, data + i, end - i);
            low = _mm256_loadu_si256((const __m256i *)(const void *)padded);
            i = end;
        }
        wrong = _mm256_or_si256(wrong, wrong_pairs(low, previous));
        previous = low;
    }
    /* The last block may end inside a character that what unfinished() cut off does
     * not continue. */
    wrong = _mm256_or_si256(wrong, wrong_pairs(_mm256_setzero_si256(), previous));
    /* Nothing is a prefix of wrong text here: the automaton finds the place. */
    return _mm256_testz_si256(wrong, wrong) ? end : 0;
}

#elif SYNCWS_NEON

static size_t prefix_neon(const uint8_t *data, size_t length)
{
    size_t i = 0;

    for (; length - i >= 64; i += 64) {
        uint8x16_t low = vorrq_u8(vld1q_u8(data + i), vld1q_u8(data + i + 16));
        uint8x16_t high = vorrq_u8(vld1q_u8(data + i + 32), vld1q_u8(data + i + 48));
        if (vmaxvq_u8(vorrq_u8(low, high)) > 127)
            break;
    }
    return i;
}

#endif

/* Below it a kernel costs more than the automaton. */
#define KERNEL_MINIMUM 16u

uint32_t syncws_utf8(uint32_t state, const uint8_t *data, size_t length)
{
    size_t i = 0;

    if (state == SYNCWS_UTF8_INVALID)
        return state;
    for (; state != BOUNDARY && state != BROKEN && i < length; i++)
        state = (uint32_t)(ROWS[data[i]] >> state) & 63;
    if (state == BOUNDARY && length - i >= KERNEL_MINIMUM) {
        switch (syncws_isa()) {
#if SYNCWS_X86
        case SYNCWS_ISA_AVX2:
            i += prefix_avx2(data + i, length - i);
            break;
        case SYNCWS_ISA_SSE2:
            i += prefix_sse2(data + i, length - i);
            break;
#elif SYNCWS_NEON
        case SYNCWS_ISA_NEON:
            i += prefix_neon(data + i, length - i);
            break;
#endif
        default:
            break;
        }
    }
    state = (uint32_t)run_automaton(state, data + i, length - i);
    return state == BROKEN ? SYNCWS_UTF8_INVALID : state;
}
