/* Frames: decode and encode (RFC 6455 section 5).
 *
 * What belongs here: the state of one decoder and the rules a frame must obey.
 * What does not: kernels (mask.c, utf8.c, pack.c), sockets, close codes.
 *
 * Theory of operation.  A decoder is between frames (in_payload 0, header_size
 * 0), inside a header (header_size > 0) or inside a payload (in_payload 1).  The
 * loop in syncws_decode() consumes at least one byte per turn and may stop after
 * any of them; what it needs to go on is in the struct.
 */
#include "codec.h"

#include <stdlib.h>
#include <string.h>

/* A turn of the loop emits at most this many records. */
#define RECORDS_PER_TURN 1u
#define RECORD_LIMIT (sizeof(((syncws_scratch *)0)->records) / sizeof(syncws_record))

/* An unfinished message's first allocation, and the factor for the next ones: a
 * header that claims 64 MiB costs 1 MiB until 1 MiB has come. */
#define FIRST_CAPACITY ((uint64_t)1 << 20)
#define GROWTH 4u

/* Below it a system call costs more than the copy that receiving in place saves. */
#define WINDOW_MINIMUM 65536u

/* Unmasking and checking follow each other in pieces that stay in the L1 cache. */
#define CHUNK 16384u

enum outcome { GO_ON, STOP_MORE, STOP_FAILED };

typedef struct {
    uint64_t length;
    uint8_t size;
    uint8_t fin;
    uint8_t rsv;
    uint8_t opcode;
    uint8_t key[4];
} frame_header;

/* ------------------------------------------------------------ the struct -- */

void syncws_decoder_init(syncws_decoder *decoder, int side, uint64_t max_frame_size,
                         uint64_t max_size, uint64_t max_fragments)
{
    memset(decoder, 0, sizeof *decoder);
    decoder->side = (uint8_t)side;
    decoder->max_frame_size = max_frame_size;
    decoder->max_size = max_size;
    decoder->max_fragments = max_fragments;
}

static void free_buffer(syncws_decoder *decoder)
{
    free(decoder->buffer);
    decoder->buffer = NULL;
    decoder->buffer_length = 0;
    decoder->buffer_capacity = 0;
    decoder->handed_out = 0;
}

void syncws_decoder_release(syncws_decoder *decoder)
{
    free_buffer(decoder);
}

static enum outcome fail(syncws_decoder *decoder, enum syncws_failure failure)
{
    decoder->failure = (uint8_t)failure;
    if (!decoder->handed_out)
        free_buffer(decoder);
    return STOP_FAILED;
}

/* --------------------------------------------------------------- headers -- */

/* RFC 6455 section 5.2: what FIN, RSV and opcode allow at this place. */
static enum syncws_failure check_first_byte(const syncws_decoder *decoder, uint8_t byte)
{
    uint8_t fin = byte >> 7, rsv = (byte >> 4) & 7, opcode = byte & 15;

    if ((opcode > SYNCWS_BINARY && opcode < SYNCWS_CLOSE) || opcode > SYNCWS_PONG)
        return SYNCWS_BAD_OPCODE;
    if (opcode >= SYNCWS_CLOSE) {
        if (rsv)
            return SYNCWS_BAD_RSV;
        /* Section 5.5: control frames "MUST NOT be fragmented". */
        return fin ? SYNCWS_FAILURE_NONE : SYNCWS_CONTROL_FRAGMENTED;
    }
    if (opcode == SYNCWS_CONTINUATION) {
        if (rsv)
            return SYNCWS_BAD_RSV;
        return decoder->in_message ? SYNCWS_FAILURE_NONE : SYNCWS_UNEXPECTED_CONTINUATION;
    }
    if (rsv & ~decoder->allowed_rsv)
        return SYNCWS_BAD_RSV;
    return decoder->in_message ? SYNCWS_EXPECTED_CONTINUATION : SYNCWS_FAILURE_NONE;
}

static enum syncws_failure check_second_byte(const syncws_decoder *decoder, uint8_t opcode,
                                             uint8_t byte)
{
    /* Section 5.1: a client masks all frames, a server none. */
    if ((byte >> 7) != (decoder->side == SYNCWS_SERVER))
        return SYNCWS_BAD_MASK;
    if (opcode >= SYNCWS_CLOSE && (byte & 127) > 125)
        return SYNCWS_CONTROL_TOO_LONG;
    return SYNCWS_FAILURE_NONE;
}

/* `length` is what the payload has at least. */
static enum syncws_failure check_size(const syncws_decoder *decoder, uint64_t length)
{
    if (length > decoder->max_frame_size)
        return SYNCWS_FRAME_TOO_BIG;
    if (decoder->message_length > decoder->max_size ||
        length > decoder->max_size - decoder->message_length)
        return SYNCWS_MESSAGE_TOO_BIG;
    return SYNCWS_FAILURE_NONE;
}

/* The first `present` of `size` bytes of an extended length are in `value`. */
static enum syncws_failure check_extended_length(const syncws_decoder *decoder, unsigned size,
                                                 unsigned present, uint64_t value)
{
    /* Section 5.2: "the most significant bit MUST be 0". */
    if (size == 8 && present == 1 && value > 127)
        return SYNCWS_LENGTH_MSB;
    /* "the minimal number of bytes MUST be used": six zeros prove that two would do. */
    if (size == 8 ? present == 6 && value == 0 : present == 2 && value < 126)
        return SYNCWS_NON_MINIMAL_LENGTH;
    return check_size(decoder, value << (8 * (size - present)));
}

/* Reads a header from `available` bytes.  Its size is 0 if bytes are missing.
 * Each byte is judged alone and in order, so that the failure does not depend on
 * how the bytes arrived. */
static enum syncws_failure read_header(const syncws_decoder *decoder, const uint8_t *bytes,
                                       size_t available, frame_header *header)
{
    enum syncws_failure failure;
    unsigned extended, masked, present;
    uint64_t length;

    header->size = 0;
    if (available < 1)
        return SYNCWS_FAILURE_NONE;
    if ((failure = check_first_byte(decoder, bytes[0])) != SYNCWS_FAILURE_NONE)
        return failure;
    header->fin = bytes[0] >> 7;
    header->rsv = (bytes[0] >> 4) & 7;
    header->opcode = bytes[0] & 15;
    if (available < 2)
        return SYNCWS_FAILURE_NONE;
    if ((failure = check_second_byte(decoder, header->opcode, bytes[1])) != SYNCWS_FAILURE_NONE)
        return failure;
    masked = bytes[1] >> 7;
    length = bytes[1] & 127;
    extended = length < 126 ? 0 : length == 126 ? 2 : 8;
    if (extended) {
        length = 0;
        for (present = 1; present <= extended; present++) {
            if (available < 2 + present)
                return SYNCWS_FAILURE_NONE;
            length = length << 8 | bytes[1 + present];
            failure = check_extended_length(decoder, extended, present, length);
            if (failure != SYNCWS_FAILURE_NONE)
                return failure;
        }
    } else if (header->opcode < SYNCWS_CLOSE &&
               (failure = check_size(decoder, length)) != SYNCWS_FAILURE_NONE) {
        return failure;
    }
    if (available < 2 + extended + 4 * masked)
        return SYNCWS_FAILURE_NONE;
    memset(header->key, 0, 4);
    if (masked)
        memcpy(header->key, bytes + 2 + extended, 4);
    header->length = length;
    header->size = (uint8_t)(2 + extended + 4 * masked);
    return SYNCWS_FAILURE_NONE;
}

/* Enters the payload of a frame whose header passed. */
static enum syncws_failure begin_frame(syncws_decoder *decoder, const frame_header *header)
{
    decoder->header_size = 0;
    decoder->in_frame = 1;
    decoder->in_payload = 1;
    decoder->frame_opcode = header->opcode;
    decoder->frame_fin = header->fin;
    decoder->frame_length = header->length;
    decoder->frame_done = 0;
    memcpy(decoder->key, header->key, 4);
    if (header->opcode >= SYNCWS_CLOSE)
        return SYNCWS_FAILURE_NONE;
    if (header->opcode != SYNCWS_CONTINUATION) {
        decoder->in_message = 1;
        decoder->opcode = header->opcode;
        decoder->rsv = header->rsv;
        decoder->in_pieces = decoder->streaming || header->rsv;
        decoder->piece_sent = 0;
        decoder->utf8 = SYNCWS_UTF8_BOUNDARY;
        decoder->fragments = 0;
    }
    decoder->message_length += header->length;
    decoder->fragments++;
    /* A flood of tiny fragments costs us per fragment, so beyond the free ones
     * each must have carried 64 bytes on average. */
    if (decoder->fragments > decoder->max_fragments &&
        decoder->fragments - decoder->max_fragments > decoder->message_length / 64)
        return SYNCWS_TOO_MANY_FRAGMENTS;
    return SYNCWS_FAILURE_NONE;
}

/* Consumes header bytes.  In the payload afterwards, or out of input. */
static enum outcome take_header(syncws_decoder *decoder, const uint8_t **input, size_t *length)
{
    frame_header header;
    enum syncws_failure failure;

    if (decoder->header_size == 0) {
        failure = read_header(decoder, *input, *length, &header);
        if (failure != SYNCWS_FAILURE_NONE)
            return fail(decoder, failure);
        if (header.size) {
            *input += header.size;
            *length -= header.size;
        } else {
            memcpy(decoder->header, *input, *length);
            decoder->header_size = (uint8_t)*length;
            decoder->in_frame = 1;
            *input += *length;
            *length = 0;
            return GO_ON;
        }
    } else {
        do {
            if (*length == 0)
                return GO_ON;
            decoder->header[decoder->header_size++] = **input;
            ++*input;
            --*length;
            failure = read_header(decoder, decoder->header, decoder->header_size, &header);
            if (failure != SYNCWS_FAILURE_NONE)
                return fail(decoder, failure);
        } while (header.size == 0);
    }
    failure = begin_frame(decoder, &header);
    return failure == SYNCWS_FAILURE_NONE ? GO_ON : fail(decoder, failure);
}

/* --------------------------------------------------------------- records -- */

static void emit(syncws_scratch *scratch, uint8_t kind, uint8_t opcode, uint8_t *data,
                 uint64_t length, unsigned flags, uint8_t rsv)
{
    syncws_record *record = &scratch->records[scratch->record_count++];
    record->data = data;
    record->length = length;
    record->count = 1;
    record->kind = kind;
    record->opcode = opcode;
    record->flags = (uint8_t)flags;
    record->rsv = rsv;
}

static void emit_piece(syncws_decoder *decoder, syncws_scratch *scratch, uint8_t *data,
                       uint64_t length, unsigned flags)
{
    if (!decoder->piece_sent)
        flags |= SYNCWS_PIECE_FIRST;
    decoder->piece_sent = 1;
    emit(scratch, SYNCWS_PIECE, decoder->opcode, data, length, flags, decoder->rsv);
}

static void end_message(syncws_decoder *decoder)
{
    decoder->in_message = 0;
    decoder->message_length = 0;
    if (!decoder->handed_out)
        free_buffer(decoder);
}

/* --------------------------------------------------------------- payload -- */

/* Unmasks the next `length` bytes of the frame and checks text. */
static enum outcome convert(syncws_decoder *decoder, uint8_t *destination, const uint8_t *source,
                            size_t length)
{
    int masked = decoder->side == SYNCWS_SERVER;
    int check = decoder->opcode == SYNCWS_TEXT && !decoder->rsv;
    size_t done, part;

    for (done = 0; done < length; done += part) {
        part = length - done < CHUNK ? length - done : CHUNK;
        if (masked)
            syncws_mask(destination + done, source + done, part, decoder->key,
                        (size_t)(decoder->frame_done & 3));
        else if (destination != source)
            memcpy(destination + done, source + done, part);
        decoder->frame_done += part;
        if (check) {
            decoder->utf8 = syncws_utf8(decoder->utf8, destination + done, part);
            if (decoder->utf8 == SYNCWS_UTF8_INVALID)
                return fail(decoder, SYNCWS_BAD_UTF8);
        }
    }
    if (check && decoder->frame_fin && decoder->frame_done == decoder->frame_length &&
        decoder->utf8 != SYNCWS_UTF8_BOUNDARY)
        return fail(decoder, SYNCWS_BAD_UTF8);
    return GO_ON;
}

/* Makes room for `needed` bytes in the buffer.  The size follows what came: at
 * most twice that much, or what the current header announces in steps. */
static int reserve(syncws_decoder *decoder, uint64_t needed)
{
    uint64_t capacity, ceiling;
    uint8_t *buffer;

    if (needed <= decoder->buffer_capacity)
        return 1;
    ceiling = decoder->message_length;
    if (!decoder->frame_fin && needed > ceiling / 2)
        ceiling = needed * 2; /* more fragments come: linear time in all */
    if (ceiling > decoder->max_size)
        ceiling = decoder->max_size;
    capacity = decoder->buffer_capacity <= FIRST_CAPACITY / GROWTH
                   ? FIRST_CAPACITY
                   : decoder->buffer_capacity * GROWTH;
    if (capacity > ceiling)
        capacity = ceiling;
    if (capacity < needed)
        capacity = needed;
    if (capacity > SIZE_MAX / 2)
        return 0;
    buffer = realloc(decoder->buffer, (size_t)capacity);
    if (buffer == NULL)
        return 0;
    decoder->buffer = buffer;
    decoder->buffer_capacity = capacity;
    return 1;
}

static enum outcome finish_data_frame(syncws_decoder *decoder, syncws_scratch *scratch)
{
    uint8_t *data = scratch->packed;

    decoder->in_payload = 0;
    decoder->in_frame = 0;
    if (!decoder->frame_fin)
        return GO_ON;
    if (decoder->in_pieces) {
        decoder->streaming = 0;
    } else if (decoder->buffer_length && !decoder->handed_out) {
        data = decoder->buffer;
        decoder->handed_out = 1;
        emit(scratch, SYNCWS_MESSAGE, decoder->opcode, data, decoder->buffer_length,
             SYNCWS_IN_DECODER, 0);
    } else {
        emit(scratch, SYNCWS_MESSAGE, decoder->opcode, data, 0, 0, 0);
    }
    end_message(decoder);
    return GO_ON;
}

static enum outcome take_control(syncws_decoder *decoder, syncws_scratch *scratch, uint8_t *input,
                                 size_t length)
{
    uint8_t *control = decoder->control[decoder->control_turn];

    if (length == decoder->frame_length) {
        syncws_mask(input, input, length, decoder->key, 0);
        control = input;
    } else {
        syncws_mask(control + decoder->frame_done, input, length, decoder->key,
                    (size_t)(decoder->frame_done & 3));
    }
    decoder->frame_done += length;
    if (decoder->frame_done < decoder->frame_length)
        return GO_ON;
    if (control != input)
        decoder->control_turn ^= 1;
    decoder->in_payload = 0;
    decoder->in_frame = 0;
    emit(scratch, SYNCWS_CONTROL, decoder->frame_opcode, control, decoder->frame_length, 0, 0);
    if (decoder->frame_opcode == SYNCWS_CLOSE) {
        /* The unfinished message will never be whole. */
        decoder->closed = 1;
        end_message(decoder);
    }
    return GO_ON;
}

static enum outcome take_data(syncws_decoder *decoder, syncws_scratch *scratch, uint8_t *input,
                              size_t length)
{
    int completes = length == decoder->frame_length - decoder->frame_done;
    int last = completes && decoder->frame_fin;

    if (decoder->in_pieces) {
        if (convert(decoder, input, input, length) != GO_ON)
            return STOP_FAILED;
        if (length || last)
            emit_piece(decoder, scratch, input, length, last ? SYNCWS_PIECE_LAST : 0);
    } else if (last && length && decoder->message_length == length) {
        /* The whole message is here. */
        if (convert(decoder, input, input, length) != GO_ON)
            return STOP_FAILED;
        emit(scratch, SYNCWS_MESSAGE, decoder->opcode, input, length, 0, 0);
        decoder->in_payload = 0;
        decoder->in_frame = 0;
        end_message(decoder);
        return GO_ON;
    } else if (length) {
        if (decoder->handed_out)
            return STOP_MORE;
        if (!reserve(decoder, decoder->buffer_length + length))
            return fail(decoder, SYNCWS_NO_MEMORY);
        if (convert(decoder, decoder->buffer + decoder->buffer_length, input, length) != GO_ON)
            return STOP_FAILED;
        decoder->buffer_length += length;
    }
    return completes ? finish_data_frame(decoder, scratch) : GO_ON;
}

/* The payload bytes that were received into the window. */
static enum outcome take_direct(syncws_decoder *decoder, syncws_scratch *scratch, size_t direct)
{
    uint8_t *start = decoder->buffer + decoder->buffer_length;

    if (convert(decoder, start, start, direct) != GO_ON)
        return STOP_FAILED;
    decoder->buffer_length += direct;
    return decoder->frame_done == decoder->frame_length ? finish_data_frame(decoder, scratch)
                                                        : GO_ON;
}

/* Streaming was asked for in the middle of a message. */
static void switch_to_pieces(syncws_decoder *decoder, syncws_scratch *scratch)
{
    decoder->in_pieces = 1;
    if (decoder->buffer_length) {
        emit_piece(decoder, scratch, decoder->buffer, decoder->buffer_length, SYNCWS_IN_DECODER);
        decoder->handed_out = 1;
    }
}

size_t syncws_decoder_window(syncws_decoder *decoder, uint8_t **start)
{
    uint64_t remaining = decoder->frame_length - decoder->frame_done, room;

    *start = NULL;
    if (decoder->failure || decoder->closed || !decoder->in_payload || decoder->in_pieces ||
        decoder->streaming || decoder->handed_out || decoder->frame_opcode >= SYNCWS_CLOSE ||
        remaining < WINDOW_MINIMUM)
        return 0;
    if (!reserve(decoder, decoder->buffer_length + WINDOW_MINIMUM))
        return 0;
    room = decoder->buffer_capacity - decoder->buffer_length;
    *start = decoder->buffer + decoder->buffer_length;
    return (size_t)(room < remaining ? room : remaining);
}

int syncws_decode(syncws_decoder *decoder, syncws_scratch *scratch, size_t direct,
                  uint8_t *input, size_t length)
{
    enum outcome outcome = GO_ON;
    const uint8_t *cursor = input;
    uint8_t *payload;
    size_t part;

    scratch->record_count = 0;
    scratch->rest = NULL;
    scratch->rest_length = 0;
    if (decoder->handed_out)
        free_buffer(decoder);
    if (decoder->failure)
        return SYNCWS_FAILED;
    if (direct)
        outcome = take_direct(decoder, scratch, direct);
    if (outcome == GO_ON && decoder->streaming && decoder->in_message && !decoder->in_pieces)
        switch_to_pieces(decoder, scratch);
    while (outcome == GO_ON && length && !decoder->closed) {
        if (scratch->record_count + RECORDS_PER_TURN > RECORD_LIMIT) {
            outcome = STOP_MORE;
            break;
        }
        if (!decoder->in_payload) {
            outcome = take_header(decoder, &cursor, &length);
            if (outcome != GO_ON || !decoder->in_payload)
                continue;
        }
        payload = input + (cursor - input);
        part = decoder->frame_length - decoder->frame_done < length
                   ? (size_t)(decoder->frame_length - decoder->frame_done)
                   : length;
        outcome = decoder->frame_opcode >= SYNCWS_CLOSE
                      ? take_control(decoder, scratch, payload, part)
                      : take_data(decoder, scratch, payload, part);
        if (outcome == GO_ON) {
            cursor += part;
            length -= part;
        }
    }
    if (outcome == STOP_FAILED)
        return SYNCWS_FAILED;
    if (outcome == GO_ON)
        return SYNCWS_DECODED;
    scratch->rest = input + (cursor - input);
    scratch->rest_length = length;
    return SYNCWS_MORE;
}

/* ---------------------------------------------------------------- encode -- */

size_t syncws_encode_header(uint8_t *output, uint8_t first_byte, uint64_t length,
                            const uint8_t *key)
{
    uint8_t masked = key != NULL ? 128 : 0;
    size_t size = 2, extended, i;

    output[0] = first_byte;
    extended = length < 126 ? 0 : length < 65536 ? 2 : 8;
    output[1] = (uint8_t)(masked | (extended == 0 ? length : extended == 2 ? 126 : 127));
    for (i = 0; i < extended; i++)
        output[size++] = (uint8_t)(length >> (8 * (extended - 1 - i)));
    if (masked) {
        memcpy(output + size, key, 4);
        size += 4;
    }
    return size;
}
