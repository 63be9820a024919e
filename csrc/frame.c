/* Frame headers: the rules they must obey, reading them, writing them.
 *
 * What belongs here: RFC 6455 section 5.2 to 5.5 as far as it is about one header.
 * What does not: payloads and the state between frames (decoder.c).
 */
#include "codec.h"

#include <string.h>

/* RFC 6455 section 5.2: what FIN, RSV and opcode allow at this place. */
static enum syncws_failure check_first_byte(const syncws_decoder *decoder, uint8_t byte)
{
    uint8_t fin = byte >> 7, rsv = (byte >> 4) & 7, opcode = byte & 15;

    if (((opcode > SYNCWS_BINARY && opcode < SYNCWS_CLOSE) || opcode > SYNCWS_PONG) &&
        !(decoder->allowed_opcodes >> opcode & 1))
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

/* What the frames of a message may carry together.  What an extension has encoded may be
 * longer than the message (RFC 7692: data that cannot be compressed grows by some bytes
 * in each block), which its decoder holds to the exact limit. */
static uint64_t message_limit(const syncws_decoder *decoder, uint8_t first_byte)
{
    const uint8_t opcode = first_byte & 15;
    const int encoded =
        decoder->all_pieces || (opcode == SYNCWS_CONTINUATION
                                    ? decoder->rsv || decoder->opcode > SYNCWS_BINARY
                                    : (first_byte & 0x70) || opcode > SYNCWS_BINARY);
    const uint64_t room = decoder->max_size / 16 + 1024;

    if (!encoded)
        return decoder->max_size;
    return decoder->max_size > UINT64_MAX - room ? UINT64_MAX : decoder->max_size + room;
}

/* `length` is what the payload has at least. */
static enum syncws_failure check_size(const syncws_decoder *decoder, uint8_t first_byte,
                                      uint64_t length)
{
    const uint64_t limit = message_limit(decoder, first_byte);

    if (length > decoder->max_frame_size)
        return SYNCWS_FRAME_TOO_BIG;
    if (decoder->message_length > limit || length > limit - decoder->message_length)
        return SYNCWS_MESSAGE_TOO_BIG;
    return SYNCWS_FAILURE_NONE;
}

/* The first `present` of `size` bytes of an extended length are in `value`. */
static enum syncws_failure check_extended_length(const syncws_decoder *decoder,
                                                 uint8_t first_byte, unsigned size,
                                                 unsigned present, uint64_t value)
{
    /* Section 5.2: "the most significant bit MUST be 0". */
    if (size == 8 && present == 1 && value > 127)
        return SYNCWS_LENGTH_MSB;
    /* "the minimal number of bytes MUST be used": six zeros prove that two would do. */
    if (size == 8 ? present == 6 && value == 0 : present == 2 && value < 126)
        return SYNCWS_NON_MINIMAL_LENGTH;
    return check_size(decoder, first_byte, value << (8 * (size - present)));
}

/* Each byte is judged as soon as it is there and in order, so the failure does not
 * depend on how the bytes arrived. */
enum syncws_failure syncws_read_header(const syncws_decoder *decoder, const uint8_t *bytes,
                                       size_t available, syncws_frame_header *header)
{
    enum syncws_failure failure;
    unsigned extended, masked, present;
    uint64_t length;

    header->size = 0;
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
            failure = check_extended_length(decoder, bytes[0], extended, present, length);
            if (failure != SYNCWS_FAILURE_NONE)
                return failure;
        }
    } else if (header->opcode < SYNCWS_CLOSE &&
               (failure = check_size(decoder, bytes[0], length)) != SYNCWS_FAILURE_NONE) {
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
