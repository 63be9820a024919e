/* What the codec costs without Python: ns a frame, GB/s masked, GB/s checked.
 *
 * benchmarks/codec/run.sh compiles and runs it.  Each figure is the best of
 * several rounds: the machine's other work can only add to it.
 */
#include "syncws.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROUNDS 7

static const char *const LEVELS[] = {"portable", "SSE2", "AVX2", "NEON"};

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* Keeps the compiler from dropping work. */
static volatile uint32_t sink;

static uint32_t seed = 12345;

static uint8_t random_byte(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (uint8_t)(seed >> 24);
}

/* ------------------------------------------------------------- bandwidth -- */

typedef void (*work)(uint8_t *destination, uint8_t *source, size_t length);

static void do_memcpy(uint8_t *destination, uint8_t *source, size_t length)
{
    memcpy(destination, source, length);
}

static void do_mask(uint8_t *destination, uint8_t *source, size_t length)
{
    syncws_mask(destination, source, length, (const uint8_t *)"\x12\x34\x56\x78", 1);
}

static void do_mask_in_place(uint8_t *destination, uint8_t *source, size_t length)
{
    (void)destination;
    syncws_mask(source, source, length, (const uint8_t *)"\x12\x34\x56\x78", 1);
}

static void do_utf8(uint8_t *destination, uint8_t *source, size_t length)
{
    (void)destination;
    sink = syncws_utf8(SYNCWS_UTF8_BOUNDARY, source, length);
}

static double bandwidth(work function, uint8_t *destination, uint8_t *source, size_t length)
{
    double best = 1e9, start, elapsed;
    size_t times = ((size_t)64 << 20) / length, i;
    int round;

    for (round = 0; round < ROUNDS; round++) {
        start = now();
        for (i = 0; i < times; i++) {
            function(destination, source, length);
            __asm__ volatile("" : : "r"(destination), "r"(source) : "memory");
        }
        elapsed = (now() - start) / (double)times;
        if (elapsed < best)
            best = elapsed;
    }
    return (double)length / best * 1e-9;
}

static void fill(uint8_t *data, size_t length, const char *pattern)
{
    size_t size = strlen(pattern), i;

    for (i = 0; i + size <= length; i += size)
        memcpy(data + i, pattern, size);
    memset(data + i, 'x', length - i);
}

static void bandwidths(void)
{
    static const size_t sizes[] = {64, 1024, 16384, 262144, 16777216};
    static const struct {
        const char *name;
        work function;
        const char *text;
    } rows[] = {
        {"memcpy", do_memcpy, "x"},
        {"mask, copying", do_mask, "x"},
        {"mask, in place", do_mask_in_place, "x"},
        {"UTF-8, ASCII", do_utf8, "All of this is ASCII text. "},
        {"UTF-8, Latin", do_utf8, "Zw\xC3\xB6lf Boxk\xC3\xA4mpfer jagen Viktor. "},
        {"UTF-8, mixed", do_utf8, "price: 5 \xE2\x82\xAC, \xC3\xA9t\xC3\xA9 \xF0\x9F\x98\x80 "},
        {"UTF-8, Chinese", do_utf8, "\xE4\xBD\xA0\xE5\xA5\xBD\xE4\xB8\x96\xE7\x95\x8C"},
    };
    uint8_t *source = malloc(16777216), *destination = malloc(16777216);
    size_t row, size;

    if (source == NULL || destination == NULL)
        exit(1);
    memset(destination, 0, 16777216);
    printf("  GB/s              64 B     1 KiB    16 KiB   256 KiB    16 MiB\n");
    for (row = 0; row < sizeof rows / sizeof *rows; row++) {
        printf("  %-14s", rows[row].name);
        for (size = 0; size < 5; size++) {
            fill(source, sizes[size], rows[row].text);
            printf("%9.1f ", bandwidth(rows[row].function, destination, source, sizes[size]));
        }
        printf("\n");
    }
    free(source);
    free(destination);
}

/* ---------------------------------------------------------------- frames -- */

enum pattern { TEXT_ONLY, BINARY_ONLY, ALTERNATING, MIXED_TEXT };

/* Fills `input` with whole frames; returns how many. */
static unsigned fill_frames(uint8_t *input, size_t size, size_t payload, int masked,
                            enum pattern pattern, size_t *length)
{
    static const char mixed[] = "na\xC3\xAFve \xE2\x82\xAC 5 \xF0\x9F\x98\x80 ";
    unsigned count = 0;
    uint8_t key[4], opcode, body[2048];
    size_t i;

    *length = 0;
    while (size - *length >= payload + 14) {
        opcode = pattern == BINARY_ONLY || (pattern == ALTERNATING && count % 2) ? 2 : 1;
        for (i = 0; i < 4; i++)
            key[i] = random_byte();
        for (i = 0; i < payload; i++)
            body[i] = opcode == 2 ? random_byte() : (uint8_t)('a' + random_byte() % 26);
        if (pattern == MIXED_TEXT)
            fill(body, payload, mixed);
        *length += syncws_encode_header(input + *length, 0x80 | opcode, payload,
                                        masked ? key : NULL);
        if (masked)
            syncws_mask(input + *length, body, payload, key, 0);
        else
            memcpy(input + *length, body, payload);
        *length += payload;
        count++;
    }
    return count;
}

static void frames(const char *name, size_t payload, int masked, enum pattern pattern, int lone)
{
    syncws_scratch *scratch = malloc(sizeof *scratch);
    uint8_t *original = malloc(65536);
    syncws_decoder decoder;
    double best = 1e9, start, elapsed;
    unsigned count, decoded = 0, i;
    size_t length, one;
    int round, result;

    if (scratch == NULL || original == NULL)
        exit(1);
    syncws_scratch_init(scratch);
    syncws_decoder_init(&decoder, masked ? SYNCWS_SERVER : SYNCWS_CLIENT, 1 << 24, 1 << 26, 128);
    count = fill_frames(original, 65536, payload, masked, pattern, &length);
    one = length / count;
    for (round = 0; round < ROUNDS * 30; round++) {
        memcpy(scratch->input, original, length);
        decoded = 0;
        start = now();
        if (lone) { /* one frame a call, as in a ping-pong */
            for (i = 0; i < count; i++) {
                (void)syncws_decode(&decoder, scratch, 0, scratch->input + i * one, one);
                decoded += scratch->records[0].count;
            }
        } else {
            uint8_t *at = scratch->input;
            size_t left = length;
            do {
                result = syncws_decode(&decoder, scratch, 0, at, left);
                at = scratch->rest;
                left = (size_t)scratch->rest_length;
                for (i = 0; i < scratch->record_count; i++)
                    decoded += scratch->records[i].count;
            } while (result == SYNCWS_MORE);
        }
        elapsed = (now() - start) / count;
        if (elapsed < best)
            best = elapsed;
    }
    if (decoded != count) {
        fprintf(stderr, "%s: decoded %u of %u, failure %d\n", name, decoded, count,
                decoder.failure);
        exit(1);
    }
    printf("  %-44s %7.1f ns %8.2f GB/s\n", name, best * 1e9, (double)one / best * 1e-9);
    syncws_decoder_release(&decoder);
    free(original);
    free(scratch);
}

int main(void)
{
    int level;

    for (level = SYNCWS_ISA_PORTABLE; level <= SYNCWS_ISA_NEON; level++) {
        if (syncws_set_isa(level) != level)
            continue;
        printf("%s\n", LEVELS[level]);
        frames("run of 64 B text, masked", 64, 1, TEXT_ONLY, 0);
        frames("run of 64 B text, not masked", 64, 0, TEXT_ONLY, 0);
        frames("run of 64 B mixed text, masked", 64, 1, MIXED_TEXT, 0);
        frames("run of 64 B binary, masked", 64, 1, BINARY_ONLY, 0);
        frames("run of 64 B binary, not masked", 64, 0, BINARY_ONLY, 0);
        frames("run of 1,000 B text, masked", 1000, 1, TEXT_ONLY, 0);
        frames("64 B text and binary in turn, masked", 64, 1, ALTERNATING, 0);
        frames("64 B text, one a call, masked", 64, 1, TEXT_ONLY, 1);
        frames("64 B text, one a call, not masked", 64, 0, TEXT_ONLY, 1);
        frames("2,000 B text, masked", 2000, 1, TEXT_ONLY, 0);
        bandwidths();
    }
    return 0;
}
