/* The decoder under guard pages: the same stream in any pieces has the same meaning.
 *
 * What belongs here: memory safety and independence of how bytes arrive.  What the
 * bytes mean is compared with an oracle by tests/test_codec*.py.
 *
 * Every piece is put so that it ends where an untouchable page begins.  The
 * streams come from a generator with a fixed seed; a third of them is damaged.
 */
#include "refusing.h"
#include "support.h"

#define STREAM_SIZE 400000u
#define EVENT_LIMIT 4096u
#define CANARY 0xC5

/* ----------------------------------------------------------------- events -- */

/* A message, a control frame or the failure; data as a hash. */
typedef struct {
    uint64_t hash;
    uint64_t length;
    uint8_t kind; /* 0: the failure, whose number is in opcode */
    uint8_t opcode;
    uint8_t rsv;
    uint8_t unused[5]; /* no padding: events are compared as bytes */
} event;

typedef struct {
    event events[EVENT_LIMIT];
    size_t count;
    event piece; /* a message in PIECEs that has begun */
} event_log;

static uint64_t hash_bytes(uint64_t hash, const uint8_t *data, uint64_t length)
{
    for (uint64_t i = 0; i < length; i++)
        hash = (hash ^ data[i]) * 0x100000001B3u;
    return hash;
}

#define HASH_START 0xCBF29CE484222325u

static void log_event(event_log *events, uint8_t kind, uint8_t opcode, uint8_t rsv,
                      const uint8_t *data, uint64_t length)
{
    event *entry = &events->events[events->count++];

    CHECK(events->count < EVENT_LIMIT, "too many events");
    memset(entry, 0, sizeof *entry);
    entry->hash = hash_bytes(HASH_START, data, length);
    entry->length = length;
    entry->kind = kind;
    entry->opcode = opcode;
    entry->rsv = rsv;
}

static void check_bounds(const syncws_scratch *scratch, const syncws_record *run, uint32_t index,
                         const uint8_t *start, const uint8_t *end)
{
    const uint32_t *bounds = scratch->bounds + (size_t)2 * (run->first + index);

    if (run->first + index < sizeof scratch->bounds / sizeof scratch->bounds[0] / 2)
        CHECK(start == scratch->packed + bounds[0] && end == scratch->packed + bounds[1],
              "message %u of %u is elsewhere", index, run->count);
}

/* A run as the messages that it consists of. */
static void log_run(event_log *events, const syncws_scratch *scratch, const syncws_record *run)
{
    const size_t gap = run->opcode == SYNCWS_TEXT ? 1 : 4;
    const uint8_t *separator =
        run->opcode == SYNCWS_TEXT ? (const uint8_t *)"" : scratch->separator;
    const uint8_t *at = run->data, *end = run->data + run->length, *next;

    CHECK(run->count > 1, "a run of %u", run->count);
    for (uint32_t i = 1; i < run->count; i++) {
        for (next = at; memcmp(next, separator, gap) != 0; next++)
            CHECK(next + gap < end, "separator %u of %u is missing", i, run->count);
        check_bounds(scratch, run, i - 1, at, next);
        log_event(events, SYNCWS_MESSAGE, run->opcode, 0, at, (uint64_t)(next - at));
        at = next + gap;
    }
    for (next = at; next + gap <= end; next++)
        CHECK(memcmp(next, separator, gap) != 0, "one separator too many");
    check_bounds(scratch, run, run->count - 1, at, end);
    log_event(events, SYNCWS_MESSAGE, run->opcode, 0, at, (uint64_t)(end - at));
}

/* A row as the whole pieces that it would be without C putting them together. */
static void log_row(event_log *events, const syncws_scratch *scratch, const syncws_record *row)
{
    const uint8_t *at = row->data, *end;

    for (uint32_t i = 0; i < row->count; i++) {
        end = scratch->packed + scratch->bounds[(size_t)2 * (row->first + i) + 1];
        check_bounds(scratch, row, i, at, end);
        log_event(events, SYNCWS_PIECE, row->opcode, row->rsv, at, (uint64_t)(end - at));
        at = end;
    }
    CHECK(row->count && at == row->data + row->length, "a row of %u ends elsewhere", row->count);
}

static void log_piece(event_log *events, const syncws_record *record)
{
    event *piece = &events->piece;

    CHECK(!(record->flags & SYNCWS_PIECE_FIRST) == (piece->kind != 0), "FIRST at a wrong place");
    if (record->flags & SYNCWS_PIECE_FIRST) {
        memset(piece, 0, sizeof *piece);
        piece->hash = HASH_START;
        piece->kind = SYNCWS_PIECE;
        piece->opcode = record->opcode;
        piece->rsv = record->rsv;
    }
    piece->hash = hash_bytes(piece->hash, record->data, record->length);
    piece->length += record->length;
    if (record->flags & SYNCWS_PIECE_LAST) {
        events->events[events->count++] = *piece;
        piece->kind = 0;
    }
}

static void log_records(event_log *events, const syncws_decoder *decoder,
                        const syncws_scratch *scratch)
{
    for (uint32_t i = 0; i < scratch->record_count; i++) {
        const syncws_record *record = &scratch->records[i];
        if (record->flags & SYNCWS_IN_DECODER)
            CHECK(record->data == decoder->handed_out, "record %u is elsewhere", i);
        if (record->kind == SYNCWS_RUN)
            log_run(events, scratch, record);
        else if (record->kind == SYNCWS_ROW)
            log_row(events, scratch, record);
        else if (record->kind == SYNCWS_PIECE)
            log_piece(events, record);
        else
            log_event(events, record->kind, record->opcode, record->rsv, record->data,
                      record->length);
    }
}

/* --------------------------------------------------------------- feeding -- */

static guarded input;
static syncws_scratch *scratch;

static void check_decoder(const syncws_decoder *decoder)
{
    CHECK(decoder->buffer_length <= decoder->buffer_capacity, "buffer overrun");
    CHECK((decoder->buffer == NULL) == (decoder->buffer_capacity == 0), "buffer without memory");
    CHECK(decoder->frame_done <= decoder->frame_length, "more than the frame");
    CHECK(decoder->in_frame || (!decoder->in_payload && !decoder->header_size), "in no frame");
    CHECK(decoder->in_message || decoder->buffer == NULL, "memory without a message");
    for (size_t i = 0; i < 64; i++)
        CHECK(scratch->output[i] == CANARY, "wrote beyond packed[]");
}

/* Returns 0 once the decoder has failed. */
static int feed(syncws_decoder *decoder, event_log *events, const uint8_t *data, size_t length)
{
    uint8_t *window, *at;
    size_t direct = syncws_decoder_window(decoder, &window);
    int result;

    if (direct > length)
        direct = length;
    if (direct)
        memcpy(window, data, direct);
    length -= direct;
    at = input.end - length;
    if (length)
        memcpy(at, data + direct, length);
    for (;;) {
        result = syncws_decode(decoder, scratch, direct, at, length);
        direct = 0;
        check_decoder(decoder);
        log_records(events, decoder, scratch);
        if (result != SYNCWS_MORE)
            break;
        CHECK(scratch->rest >= at && scratch->rest + scratch->rest_length == input.end,
              "the rest is elsewhere");
        CHECK(scratch->record_count > 0, "no progress");
        at = scratch->rest;
        length = (size_t)scratch->rest_length;
    }
    if (result == SYNCWS_FAILED)
        log_event(events, 0, decoder->failure, 0, NULL, 0);
    return result == SYNCWS_DECODED;
}

/* ------------------------------------------------------------- generator -- */

static size_t put_frame(uint8_t *out, uint64_t *seed, int masked, uint8_t first_byte, size_t size,
                        int text)
{
    uint8_t key[4], *payload;
    size_t at, i;

    for (i = 0; i < 4; i++)
        key[i] = (uint8_t)next_random(seed);
    at = syncws_encode_header(out, first_byte, size, masked ? key : NULL);
    payload = out + at;
    for (i = 0; i < size; i++)
        payload[i] = text ? (uint8_t)(random_below(seed, 60) ? 'a' + i % 26 : 0)
                          : (uint8_t)next_random(seed);
    if (text && size > 8 && random_below(seed, 2))
        memcpy(payload + random_below(seed, size - 4), "\xF0\x9F\x98\x80", 4);
    /* Two separators that overlap or touch, so that runs must break. */
    if (!text && size >= 12 && random_below(seed, 8) == 0)
        memcpy(payload + random_below(seed, size - 8), scratch->separator, 4);
    if (masked)
        syncws_mask(payload, payload, size, key, 0);
    return at + size;
}

static size_t random_size(uint64_t *seed)
{
    static const size_t sizes[] = {0,  1,   2,   4,   15,  16,  17,  31,   32,   33,   64,
                                   65, 124, 125, 126, 127, 300, 600, 1023, 1024, 1025, 3000,
                                   8191, 8192, 8193};

    if (random_below(seed, 150) == 0)
        return 65530 + random_below(seed, 30000);
    return sizes[random_below(seed, sizeof sizes / sizeof *sizes)];
}

static size_t generate(uint8_t *out, uint64_t *seed, int masked)
{
    size_t length = 0, size;
    size_t frames = 1 + random_below(seed, 30);
    int inside = 0, text = 0, favourite = (int)random_below(seed, 3);
    uint8_t fin, rsv, opcode;

    while (frames-- && length < STREAM_SIZE - 100000) {
        if (random_below(seed, 10) == 0) {
            opcode = random_below(seed, 40) ? SYNCWS_PING : SYNCWS_CLOSE;
            length += put_frame(out + length, seed, masked, (uint8_t)(0x80 | opcode),
                                random_below(seed, 126), 0);
            continue;
        }
        fin = random_below(seed, 5) ? 0x80 : 0;
        rsv = !inside && random_below(seed, 25) == 0 ? 0x40 : 0;
        if (!inside)
            text = favourite == 2 ? (int)random_below(seed, 2) : favourite;
        opcode = inside ? SYNCWS_CONTINUATION : text ? SYNCWS_TEXT : SYNCWS_BINARY;
        size = random_size(seed);
        length += put_frame(out + length, seed, masked, (uint8_t)(fin | rsv | opcode), size, text);
        inside = !fin;
    }
    if (random_below(seed, 3) == 0)
        out[random_below(seed, length)] = (uint8_t)next_random(seed);
    return length;
}

/* ----------------------------------------------------------------- tests -- */

static void configure(syncws_decoder *decoder, int side, uint64_t variant)
{
    syncws_decoder_init(decoder, side, variant & 1 ? UINT64_MAX : 70000,
                        variant & 2 ? UINT64_MAX : 80000, variant & 4 ? 2 : 128);
    decoder->allowed_rsv = variant & 8 ? 4 : 0;
}

static void check_same(const event_log *wanted, const event_log *got, uint64_t number, size_t cut)
{
    CHECK(wanted->count == got->count, "stream %llu cut at %zu: %zu events, not %zu",
          (unsigned long long)number, cut, got->count, wanted->count);
    for (size_t i = 0; i < wanted->count; i++)
        CHECK(memcmp(&wanted->events[i], &got->events[i], sizeof(event)) == 0,
              "stream %llu cut at %zu: event %zu differs", (unsigned long long)number, cut, i);
}

static void test_a15_split_anywhere(uint64_t streams)
{
    static event_log whole, parts;
    uint8_t *stream = malloc(STREAM_SIZE);
    syncws_decoder decoder;
    size_t length, start, size, cut, stride;

    CHECK(stream != NULL, "malloc");
    for (uint64_t number = 0; number < streams; number++) {
        uint64_t seed = number;
        const int side = (int)(number % 2);
        const uint64_t variant = next_random(&seed);
        length = generate(stream, &seed, side == SYNCWS_SERVER);
        memset(&whole, 0, sizeof whole);
        configure(&decoder, side, variant);
        feed(&decoder, &whole, stream, length);
        syncws_decoder_release(&decoder);
        /* In two parts, at many or all places. */
        stride = length < 200 ? 1 : length / 20 + random_below(&seed, 7);
        for (cut = random_below(&seed, stride); cut < length; cut += stride) {
            parts.count = 0;
            parts.piece.kind = 0;
            configure(&decoder, side, variant);
            if (feed(&decoder, &parts, stream, cut))
                feed(&decoder, &parts, stream + cut, length - cut);
            check_same(&whole, &parts, number, cut);
            syncws_decoder_release(&decoder);
        }
        /* In many parts. */
        for (size_t most = 1; most < 100000; most *= 17) {
            if (length / most > 20000)
                continue;
            parts.count = 0;
            parts.piece.kind = 0;
            configure(&decoder, side, variant);
            for (start = 0; start < length; start += size) {
                size = 1 + random_below(&seed, most);
                if (size > length - start)
                    size = length - start;
                if (!feed(&decoder, &parts, stream + start, size))
                    break;
            }
            check_same(&whole, &parts, number, most);
            syncws_decoder_release(&decoder);
        }
    }
    free(stream);
}

/* Streams of nothing but noise, and of noise behind valid first bytes. */
static void test_noise(uint64_t streams)
{
    static event_log events;
    uint8_t data[300];
    syncws_decoder decoder;
    size_t start, size;

    for (uint64_t number = 0; number < streams; number++) {
        uint64_t seed = number ^ 0xABCDEF;
        const size_t length = 1 + random_below(&seed, sizeof data);
        for (size_t i = 0; i < length; i++)
            data[i] = (uint8_t)next_random(&seed);
        if (number % 4) {
            data[0] = number % 4 == 1 ? 0x81 : number % 4 == 2 ? 0x02 : 0x89;
            if (length > 1)
                data[1] = (uint8_t)((data[1] & 127) | (number % 2 ? 0x80 : 0));
        }
        events.count = 0;
        events.piece.kind = 0;
        configure(&decoder, (int)(number % 2), next_random(&seed));
        for (start = 0; start < length; start += size) {
            size = 1 + random_below(&seed, 80);
            if (size > length - start)
                size = length - start;
            decoder.streaming = random_below(&seed, 10) == 0 ? 1 : decoder.streaming;
            if (!feed(&decoder, &events, data + start, size))
                break;
        }
        syncws_decoder_release(&decoder);
    }
}

/* A refused window is no failure yet, a refused buffer is one. */
static void test_refused_memory(void)
{
    static event_log events;
    const size_t size = 20 << 20;
    uint8_t header[14];
    uint8_t *payload = calloc(1, 65536);
    syncws_decoder decoder;
    size_t header_size, fed;
    int nth, times, failures = 0;

    CHECK(payload != NULL, "calloc");
    header_size = syncws_encode_header(header, 0x82, size, NULL);
    for (nth = 0; nth < 5; nth++) {
        for (times = 1; times <= 2; times++) {
            memset(&events, 0, sizeof events);
            syncws_decoder_init(&decoder, SYNCWS_CLIENT, UINT64_MAX, UINT64_MAX, 128);
            feed(&decoder, &events, header, header_size);
            refuse_from = nth;
            refuse_times = times;
            for (fed = 0; fed < size && !decoder.failure; fed += 65536)
                feed(&decoder, &events, payload, 65536);
            refuse_from = -1;
            CHECK(events.count == 1, "%zu events", events.count);
            if (decoder.failure) {
                CHECK(decoder.failure == SYNCWS_NO_MEMORY && decoder.buffer == NULL, "%d", nth);
                failures++;
            } else {
                CHECK(events.events[0].kind == SYNCWS_MESSAGE && events.events[0].length == size,
                      "refusal %d of %d", nth, times);
            }
            CHECK(times == 2 || !decoder.failure, "a refused window ended it: %d", nth);
            syncws_decoder_release(&decoder);
        }
    }
    CHECK(failures >= 3, "%d failures", failures);
    free(payload);
}

int main(int count, char **arguments)
{
    const uint64_t streams = count > 1 ? strtoull(arguments[1], NULL, 10) : 1000;

    input = guarded_pages(STREAM_SIZE);
    scratch = malloc(sizeof *scratch);
    CHECK(scratch != NULL, "malloc");
    memset(scratch->output, CANARY, sizeof scratch->output);
    for (int level = next_level(-1); level >= 0; level = next_level(level)) {
        syncws_scratch_init(scratch);
        memcpy(scratch->separator, "\xE7\x1B\x9C\x52", 4); /* the same in each run */
        printf("decoder at level %d\n", level);
        test_a15_split_anywhere(streams);
        test_noise(streams * 20);
    }
    test_refused_memory();
    free(scratch);
    return 0;
}
