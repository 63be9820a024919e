/* Masking and UTF-8 at page ends, every level against a byte-wise definition.
 *
 * With an argument it compares all 2^32 strings of four bytes as well, in vector
 * blocks: a minute or so without sanitizers.
 */
#include "support.h"

static const uint8_t KEY[4] = {0x37, 0xFA, 0x21, 0x3D};

/* ------------------------------------------------------------------- mask -- */

static void check_masked(const uint8_t *got, const uint8_t *original, size_t length, size_t phase,
                         const char *where)
{
    for (size_t i = 0; i < length; i++)
        CHECK(got[i] == (uint8_t)(original[i] ^ KEY[(phase + i) % 4]),
              "%s, length %zu, phase %zu, byte %zu", where, length, phase, i);
}

static void test_a16_mask(void)
{
    guarded source = guarded_pages(512), destination = guarded_pages(512);
    uint8_t original[512];
    size_t length, alignment, phase;

    for (size_t i = 0; i < sizeof original; i++)
        original[i] = (uint8_t)(i * 31 + 7);
    for (length = 0; length <= 300; length++) {
        for (phase = 0; phase < 4; phase++) {
            /* Touching the page after, copying and in place. */
            uint8_t *from = source.end - length, *to = destination.end - length;
            memcpy(from, original, length);
            syncws_mask(to, from, length, KEY, phase);
            check_masked(to, original, length, phase, "copy at the end");
            CHECK(memcmp(from, original, length) == 0, "the source changed");
            syncws_mask(from, from, length, KEY, phase);
            check_masked(from, original, length, phase, "in place at the end");
            /* Touching the page before. */
            memcpy(source.start, original, length);
            syncws_mask(destination.start, source.start, length, KEY, phase);
            check_masked(destination.start, original, length, phase, "copy at the start");
            for (alignment = 0; alignment < 64; alignment++) {
                from = source.start + alignment;
                to = destination.start + 63 - alignment;
                memcpy(from, original, length);
                memset(destination.start, 0xEE, 64 + length + 64);
                syncws_mask(to, from, length, KEY, phase);
                check_masked(to, original, length, phase, "aligned");
                for (size_t i = 0; i < 64; i++)
                    CHECK(to[length + i] == 0xEE, "byte %zu after the end", i);
                for (uint8_t *before = destination.start; before < to; before++)
                    CHECK(*before == 0xEE, "a byte before the start");
            }
        }
    }
}

/* ------------------------------------------------------------------ UTF-8 -- */

enum verdict { COMPLETE, UNFINISHED, INVALID };

static const char *const VERDICTS[] = {"complete", "unfinished", "invalid"};

/* Unicode's table 3-7, read aloud. */
static enum verdict define_utf8(const uint8_t *data, size_t length)
{
    size_t i = 0, need, k;

    while (i < length) {
        uint8_t lead = data[i], low = 0x80, high = 0xBF;
        if (lead < 0x80) {
            i++;
            continue;
        }
        if (lead < 0xC2 || lead > 0xF4)
            return INVALID;
        need = lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3;
        if (lead == 0xE0)
            low = 0xA0;
        if (lead == 0xED)
            high = 0x9F;
        if (lead == 0xF0)
            low = 0x90;
        if (lead == 0xF4)
            high = 0x8F;
        for (k = 1; k <= need; k++) {
            if (i + k == length)
                return UNFINISHED;
            if (data[i + k] < low || data[i + k] > high)
                return INVALID;
            low = 0x80;
            high = 0xBF;
        }
        i += need + 1;
    }
    return COMPLETE;
}

static enum verdict verdict_of(uint32_t state)
{
    return state == SYNCWS_UTF8_BOUNDARY ? COMPLETE
           : state == SYNCWS_UTF8_INVALID ? INVALID
                                          : UNFINISHED;
}

static size_t random_character(uint64_t *seed, uint8_t *out)
{
    static const char *const characters[] = {
        "a",           "\x7F",        "\xC2\x80",         "\xC3\xA9",         "\xDF\xBF",
        "\xE0\xA0\x80", "\xE2\x82\xAC", "\xED\x9F\xBF",     "\xEE\x80\x80",     "\xEF\xBF\xBF",
        "\xF0\x90\x80\x80", "\xF0\x9F\x98\x80", "\xF3\xBF\xBF\xBF", "\xF4\x8F\xBF\xBF"};
    const char *text = characters[random_below(seed, sizeof characters / sizeof *characters)];
    size_t size = strlen(text);

    memcpy(out, text, size);
    return size;
}

static void test_utf8_at_page_ends(void)
{
    guarded memory = guarded_pages(512);
    uint8_t text[512];
    uint64_t seed = 1;
    size_t length, cut;
    int round, mutation;

    for (length = 0; length <= 300; length++) {
        for (round = 0; round < 60; round++) {
            size_t filled = 0;
            int ascii = round % 4 == 0;
            uint8_t *at = memory.end - length;
            while (filled < length) {
                if (ascii)
                    text[filled++] = (uint8_t)random_below(&seed, 128);
                else
                    filled += random_character(&seed, text + filled);
            }
            for (mutation = 0; mutation < round % 3; mutation++)
                if (length)
                    text[random_below(&seed, length)] = (uint8_t)next_random(&seed);
            memcpy(at, text, length);
            enum verdict wanted = define_utf8(text, length);
            enum verdict got = verdict_of(syncws_utf8(SYNCWS_UTF8_BOUNDARY, at, length));
            CHECK(got == wanted, "length %zu round %d: %s, not %s", length, round, VERDICTS[got],
                  VERDICTS[wanted]);
            cut = random_below(&seed, length + 1);
            memcpy(memory.end - cut, text, cut);
            uint32_t state = syncws_utf8(SYNCWS_UTF8_BOUNDARY, memory.end - cut, cut);
            CHECK(verdict_of(state) == define_utf8(text, cut), "first part of %zu", cut);
            memcpy(memory.end - (length - cut), text + cut, length - cut);
            state = syncws_utf8(state, memory.end - (length - cut), length - cut);
            CHECK(verdict_of(state) == wanted, "length %zu cut at %zu", length, cut);
        }
    }
}

/* Every string of two interesting and two any bytes, at each place around the
 * borders of vectors, followed by ASCII or by nothing. */
static void test_b4_strings_in_blocks(void)
{
    static const uint8_t leads[] = {0x41, 0x7F, 0x80, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1,
                                    0xEC, 0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF};
    static const size_t places[] = {0, 16, 29, 30, 31, 32, 60, 61, 62, 63, 64};
    uint8_t text[160];

    for (size_t p = 0; p < sizeof places / sizeof *places; p++) {
        size_t place = places[p];
        memset(text, 'a', sizeof text);
        for (size_t lead = 0; lead < sizeof leads; lead++) {
            for (unsigned tail = 0; tail < 65536; tail += 7) {
                text[place] = leads[lead];
                text[place + 1] = (uint8_t)(tail >> 8);
                text[place + 2] = (uint8_t)tail;
                text[place + 3] = leads[(lead + tail) % sizeof leads];
                enum verdict wanted = define_utf8(text, place + 4);
                CHECK(verdict_of(syncws_utf8(0, text, place + 4)) == wanted, "%02x %04x at %zu",
                      leads[lead], tail, place);
                wanted = define_utf8(text, sizeof text);
                CHECK(verdict_of(syncws_utf8(0, text, sizeof text)) == wanted,
                      "%02x %04x at %zu, not at the end", leads[lead], tail, place);
            }
        }
    }
}

static void test_b4_exhaustively(void)
{
    uint8_t text[64];
    uint32_t value = 0;

    memset(text, 'a', sizeof text);
    do {
        memcpy(text + 30, &value, 4);
        enum verdict wanted = define_utf8((const uint8_t *)&value, 4);
        if (wanted == UNFINISHED)
            wanted = INVALID; /* ASCII follows */
        CHECK(verdict_of(syncws_utf8(0, text, sizeof text)) == wanted, "%08x", value);
    } while (++value);
}

int main(int count, char **arguments)
{
    (void)arguments;
    for (int level = next_level(-1); level >= 0; level = next_level(level)) {
        printf("kernels at level %d\n", level);
        test_a16_mask();
        test_utf8_at_page_ends();
        test_b4_strings_in_blocks();
    }
    if (count > 1) {
        printf("all strings of four bytes at level %d\n", syncws_isa());
        test_b4_exhaustively();
    }
    return 0;
}
