/* The decoder: bytes in, records out (RFC 6455 section 5).
 *
 * What belongs here: one connection's state between and inside frames.  What does
 * not: header rules (frame.c), kernels (mask.c, utf8.c, pack.c), sockets, close
 * codes.
 *
 * Theory of operation.  A decoder is between frames (in_frame 0), inside a header
 * (header_size > 0) or inside a payload (in_payload 1).  Each turn of the loop in
 * syncws_decode() takes a header, part of a payload, or a row of small messages;
 * the input may end after any byte, as all that is needed to go on is in the
 * struct.  A message leaves in one of four ways:
 *
 *   - small and whole in the input: unmasked while it is copied to packed[];
 *   - whole in the input: unmasked in place;
 *   - in parts: gathered in decoder->buffer;
 *   - streaming, or for an extension and not small: in PIECEs, unmasked in place.
 */
#include "codec.h"

#include <stdlib.h>
#include <string.h>

/* An unfinished message's first allocation and the factor for the next ones: a
 * header that claims 64 MiB costs 1 MiB until nearly as much has come. */
#define FIRST_CAPACITY ((uint64_t)1 << 20)
#define GROWTH 4u

/* Below it a system call costs more than the copy that receiving in place saves. */
#define WINDOW_MINIMUM 65536u

/* Unmasking and checking take turns in pieces that stay in the L1 cache. */
#define CHUNK 16384u

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
}

void syncws_decoder_reclaim(syncws_decoder *decoder)
{
    free(decoder->handed_out);
    decoder->handed_out = NULL;
}

/* The buffer belongs to a record from now on, and not to the next message. */
static void hand_out(syncws_decoder *decoder)
{
    decoder->handed_out = decoder->buffer;
    decoder->buffer = NULL;
    free_buffer(decoder);
}

void syncws_decoder_release(syncws_decoder *decoder)
{
    free_buffer(decoder);
    syncws_decoder_reclaim(decoder);
}

static void end_message(syncws_decoder *decoder)
{
    decoder->in_message = 0;
    decoder->in_pieces = 0;
    decoder->message_length = 0;
    free_buffer(decoder);
}

static void end_frame(syncws_decoder *decoder)
{
    decoder->in_payload = 0;
    decoder->in_frame = 0;
}

enum syncws_outcome syncws_fail(syncws_decoder *decoder, enum syncws_failure failure)
{
    decoder->failure = (uint8_t)failure;
    free_buffer(decoder);
    return STOP_FAILED;
}

/* --------------------------------------------------------------- records -- */

syncws_record *syncws_emit(syncws_scratch *scratch, enum syncws_record_kind kind, uint8_t opcode,
                           uint8_t *data, uint64_t length)
{
    syncws_record *record = &scratch->records[scratch->record_count++];

    record->data = data;
    record->length = length;
    record->count = 1;
    record->first = 0;
    record->kind = (uint8_t)kind;
    record->opcode = opcode;
    record->flags = 0;
    record->rsv = 0;
    return record;
}

static void emit_piece(syncws_decoder *decoder, syncws_scratch *scratch, uint8_t *data,
                       uint64_t length, unsigned flags)
{
    syncws_record *record = syncws_emit(scratch, SYNCWS_PIECE, decoder->opcode, data, length);

    record->flags = (uint8_t)(flags | (decoder->piece_sent ? 0 : SYNCWS_PIECE_FIRST));
    record->rsv = decoder->rsv;
    decoder->piece_sent = 1;
}

/* --------------------------------------------------------------- headers -- */

/* Enters the payload of a frame whose header passed. */
static enum syncws_outcome begin_frame(syncws_decoder *decoder, const syncws_frame_header *header)
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
        return GO_ON;
    if (header->opcode != SYNCWS_CONTINUATION) {
        decoder->in_message = 1;
        decoder->opcode = header->opcode;
        decoder->rsv = header->rsv;
        decoder->in_pieces = decoder->streaming || header->rsv || decoder->all_pieces ||
                             header->opcode > SYNCWS_BINARY;
        decoder->piece_sent = 0;
        decoder->utf8 = SYNCWS_UTF8_BOUNDARY;
        decoder->fragments = 0;
    }
    decoder->message_length += header->length;
    decoder->fragments++;
    /* A tiny fragment costs far more time per byte than a big one, so beyond the
     * free ones each must have carried 64 bytes on average. */
    if (decoder->fragments > decoder->max_fragments &&
        decoder->fragments - decoder->max_fragments > decoder->message_length / 64)
        return syncws_fail(decoder, SYNCWS_TOO_MANY_FRAGMENTS);
    return GO_ON;
}

/* Takes header bytes until the header is complete or the input used up. */
static enum syncws_outcome take_header(syncws_decoding *at)
{
    syncws_decoder *decoder = at->decoder;
    syncws_frame_header header;
    enum syncws_failure failure;

    if (decoder->header_size == 0) {
        failure = syncws_read_header(decoder, at->input, at->length, &header);
        if (failure != SYNCWS_FAILURE_NONE)
            return syncws_fail(decoder, failure);
        if (header.size) {
            at->input += header.size;
            at->length -= header.size;
            return begin_frame(decoder, &header);
        }
    }
    while (at->length) {
        decoder->in_frame = 1;
        decoder->header[decoder->header_size++] = *at->input++;
        at->length--;
        failure = syncws_read_header(decoder, decoder->header, decoder->header_size, &header);
        if (failure != SYNCWS_FAILURE_NONE)
            return syncws_fail(decoder, failure);
        if (header.size)
            return begin_frame(decoder, &header);
    }
    return GO_ON;
}

/* --------------------------------------------------------------- payload -- */

/* Unmasks the next bytes of a data frame and checks text. */
static enum syncws_outcome convert(syncws_decoder *decoder, uint8_t *destination,
                                   const uint8_t *source, size_t length)
{
    const int masked = decoder->side == SYNCWS_SERVER;
    /* RFC 7692: with RSV1 the payload is not text yet; other extensions may do the same. */
    const int check = decoder->opcode == SYNCWS_TEXT && !decoder->rsv && !decoder->all_pieces;
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
                return syncws_fail(decoder, SYNCWS_BAD_UTF8);
        }
    }
    if (check && decoder->frame_fin && decoder->frame_done == decoder->frame_length &&
        decoder->utf8 != SYNCWS_UTF8_BOUNDARY)
        return syncws_fail(decoder, SYNCWS_BAD_UTF8);
    return GO_ON;
}

/* Makes room for `needed` bytes in the buffer.  Its size follows what came: it
 * grows in steps up to what the headers announce, and with more fragments to
 * come to twice what is needed, which makes many fragments cost linear time. */
static int reserve(syncws_decoder *decoder, uint64_t needed)
{
    uint64_t capacity, ceiling = decoder->message_length;
    uint8_t *buffer;

    if (needed <= decoder->buffer_capacity)
        return 1;
    if (!decoder->frame_fin && needed > ceiling / 2)
        ceiling = needed > UINT64_MAX / 2 ? UINT64_MAX : needed * 2;
    if (ceiling > decoder->max_size)
        ceiling = decoder->max_size;
    capacity = ceiling;
    if (decoder->buffer_capacity < FIRST_CAPACITY / GROWTH) {
        if (capacity > FIRST_CAPACITY)
            capacity = FIRST_CAPACITY;
    } else if (capacity / GROWTH > decoder->buffer_capacity) {
        capacity = decoder->buffer_capacity * GROWTH;
    }
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

/* The gathered message is whole. */
static void emit_gathered(syncws_decoding *at)
{
    syncws_decoder *decoder = at->decoder;
    uint8_t *place = at->scratch->packed + at->packed;
    size_t length = (size_t)decoder->buffer_length;

    if (length <= SYNCWS_SMALL && length <= SYNCWS_PACKED_SIZE - at->packed) {
        /* A copy, so that the next message in parts need not wait for this one. */
        if (length)
            memcpy(place, decoder->buffer, length);
        at->packed += length;
        syncws_emit(at->scratch, SYNCWS_MESSAGE, decoder->opcode, place, length);
    } else {
        syncws_emit(at->scratch, SYNCWS_MESSAGE, decoder->opcode, decoder->buffer, length)->flags =
            SYNCWS_IN_DECODER;
        hand_out(decoder);
    }
}

static enum syncws_outcome take_control(syncws_decoding *at, size_t length)
{
    syncws_decoder *decoder = at->decoder;
    uint8_t *control = decoder->control[decoder->control_turn];

    if (length == decoder->frame_length) {
        control = at->input;
        syncws_mask(control, control, length, decoder->key, 0);
    } else {
        syncws_mask(control + decoder->frame_done, at->input, length, decoder->key,
                    (size_t)(decoder->frame_done & 3));
    }
    decoder->frame_done += length;
    if (decoder->frame_done < decoder->frame_length)
        return GO_ON;
    if (length != decoder->frame_length)
        decoder->control_turn ^= 1;
    end_frame(decoder);
    syncws_emit(at->scratch, SYNCWS_CONTROL, decoder->frame_opcode, control, decoder->frame_length);
    if (decoder->frame_opcode == SYNCWS_CLOSE) {
        /* An unfinished message will never be whole. */
        decoder->closed = 1;
        end_message(decoder);
    }
    return GO_ON;
}

static enum syncws_outcome take_data(syncws_decoding *at, size_t length)
{
    syncws_decoder *decoder = at->decoder;
    uint8_t *destination = at->input;
    const int completes = length == decoder->frame_length - decoder->frame_done;
    const int last = completes && decoder->frame_fin;
    const int whole = last && length && length == decoder->message_length;
    const int gather = length && !decoder->in_pieces && !whole;
    const int encoded = decoder->all_pieces || decoder->rsv || decoder->opcode > SYNCWS_BINARY;

    if (gather) {
        /* Only one gathered message can be in a record at a time. */
        if (decoder->handed_out)
            return STOP_MORE;
        if (!reserve(decoder, decoder->buffer_length + length))
            return syncws_fail(decoder, SYNCWS_NO_MEMORY);
        destination = decoder->buffer + decoder->buffer_length;
    }
    if (convert(decoder, destination, at->input, length) != GO_ON)
        return STOP_FAILED;
    if (gather)
        decoder->buffer_length += length;
    /* An extension that sees frames sees empty ones, too; who receives pieces does not. */
    if (decoder->in_pieces && (length || last || (completes && encoded)))
        emit_piece(decoder, at->scratch, destination, length,
                   (last ? SYNCWS_PIECE_LAST : 0u) | (completes ? SYNCWS_PIECE_FRAME_END : 0u));
    if (completes)
        end_frame(decoder);
    if (!last)
        return GO_ON;
    if (decoder->in_pieces)
        decoder->streaming = 0;
    else if (whole)
        syncws_emit(at->scratch, SYNCWS_MESSAGE, decoder->opcode, destination, length);
    else
        emit_gathered(at);
    end_message(decoder);
    return GO_ON;
}

/* Streaming was asked for in the middle of a message: what has been gathered of it,
 * or received into the window since, goes out. */
static void emit_buffer_as_piece(syncws_decoding *at, int last)
{
    syncws_decoder *decoder = at->decoder;

    decoder->in_pieces = 1;
    if (decoder->buffer_length == 0)
        return;
    emit_piece(decoder, at->scratch, decoder->buffer, decoder->buffer_length,
               SYNCWS_IN_DECODER | (last ? SYNCWS_PIECE_LAST : 0u));
    hand_out(decoder);
}

/* The payload bytes that were received into the window. */
static enum syncws_outcome take_direct(syncws_decoding *at, size_t length)
{
    syncws_decoder *decoder = at->decoder;
    uint8_t *start;
    int last;

    if (length == 0)
        return GO_ON;
    start = decoder->buffer + decoder->buffer_length;
    if (convert(decoder, start, start, length) != GO_ON)
        return STOP_FAILED;
    decoder->buffer_length += length;
    if (decoder->frame_done < decoder->frame_length)
        return GO_ON;
    last = decoder->frame_fin;
    end_frame(decoder);
    if (!last)
        return GO_ON;
    if (decoder->streaming) {
        emit_buffer_as_piece(at, 1);
        decoder->streaming = 0;
    } else {
        emit_gathered(at);
    }
    end_message(decoder);
    return GO_ON;
}

size_t syncws_decoder_window(syncws_decoder *decoder, uint8_t **start)
{
    uint64_t room, remaining = decoder->frame_length - decoder->frame_done;

    *start = NULL;
    if (decoder->failure || decoder->closed || !decoder->in_payload || decoder->in_pieces ||
        decoder->streaming || decoder->frame_opcode >= SYNCWS_CLOSE ||
        remaining < WINDOW_MINIMUM ||
        !reserve(decoder, decoder->buffer_length + WINDOW_MINIMUM))
        return 0;
    room = decoder->buffer_capacity - decoder->buffer_length;
    *start = decoder->buffer + decoder->buffer_length;
    return (size_t)(room < remaining ? room : remaining);
}

/* --------------------------------------------------------------- the loop -- */

static enum syncws_outcome take_frame(syncws_decoding *at)
{
    syncws_decoder *decoder = at->decoder;
    enum syncws_outcome outcome;
    size_t part;

    if (!decoder->in_payload) {
        outcome = take_header(at);
        if (outcome != GO_ON || !decoder->in_payload)
            return outcome;
    }
    part = decoder->frame_length - decoder->frame_done < at->length
               ? (size_t)(decoder->frame_length - decoder->frame_done)
               : at->length;
    outcome = decoder->frame_opcode >= SYNCWS_CLOSE ? take_control(at, part) : take_data(at, part);
    if (outcome == GO_ON) {
        at->input += part;
        at->length -= part;
    }
    return outcome;
}

static enum syncws_outcome decode(syncws_decoding *at, size_t direct)
{
    syncws_decoder *decoder = at->decoder;
    enum syncws_outcome outcome = take_direct(at, direct);

    if (outcome == GO_ON && decoder->streaming && decoder->in_message && !decoder->in_pieces)
        emit_buffer_as_piece(at, 0);
    while (outcome == GO_ON && at->length && !decoder->closed) {
        /* max_fragments 0 counts the first fragment, too: begin_frame() decides. */
        if (!decoder->in_frame && !decoder->in_message && !decoder->streaming &&
            !decoder->all_pieces && decoder->max_fragments) {
            outcome = syncws_take_small_messages(at);
            if (outcome != GO_ON || !at->length)
                break;
        }
        outcome = at->scratch->record_count < SYNCWS_RECORD_LIMIT ? take_frame(at) : STOP_MORE;
    }
    return outcome;
}

int syncws_decode(syncws_decoder *decoder, syncws_scratch *scratch, size_t direct,
                  uint8_t *input, size_t length)
{
    syncws_decoding at = {decoder, scratch, input, length, 0, 0};
    enum syncws_outcome outcome;

    scratch->record_count = 0;
    scratch->rest = NULL;
    scratch->rest_length = 0;
    syncws_decoder_reclaim(decoder);
    outcome = decoder->failure ? STOP_FAILED : decode(&at, direct);
    if (outcome == STOP_FAILED)
        return SYNCWS_FAILED;
    if (outcome == GO_ON)
        return SYNCWS_DECODED;
    scratch->rest = at.input;
    scratch->rest_length = at.length;
    return SYNCWS_MORE;
}
