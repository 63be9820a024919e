#include "codec.h"

/* States: 1-3 continuations left; 4 after E0, 5 after ED, 6 after F0, 7 after F4. */
static uint32_t step(uint32_t state, uint8_t byte)
{
    int continuation = (byte & 0xC0) == 0x80;
    switch (state) {
    case 0:
        if (byte < 0x80) return 0;
        if (byte < 0xC2) return 255;
        if (byte < 0xE0) return 1;
        if (byte == 0xE0) return 4;
        if (byte == 0xED) return 5;
        if (byte < 0xF0) return 2;
        if (byte == 0xF0) return 6;
        if (byte < 0xF4) return 3;
        return byte == 0xF4 ? 7 : 255;
    case 1: case 2: case 3:
        return continuation ? state - 1 : 255;
    case 4: return continuation && byte >= 0xA0 ? 1 : 255;
    case 5: return continuation && byte < 0xA0 ? 1 : 255;
    case 6: return continuation && byte >= 0x90 ? 2 : 255;
    case 7: return continuation && byte < 0x90 ? 2 : 255;
    default: return 255;
    }
}

uint32_t syncws_utf8(uint32_t state, const uint8_t *data, size_t length)
{
    for (size_t i = 0; i < length; i++)
        state = step(state, data[i]);
    return state;
}
