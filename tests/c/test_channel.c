/* One connection used by several threads: senders, a pinger, a receiver, a reader, an aborter.
 *
 * What belongs here: what sanitizers can see of csrc/channel.c, receive.c, output.c, queue.c and
 * mailbox.c: races and memory.  What Python makes of them is tested in Python.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "syncws.h"

enum { SENDERS = 3, MESSAGES = 400, BIG = 300000, FRAME = 4000, EXTENSION = 11, KEPT = 4096 };

#define CHECK(condition)                                                                     \
    do {                                                                                     \
        if (!(condition)) {                                                                  \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                  \
            abort();                                                                         \
        }                                                                                    \
    } while (0)

static syncws_mailbox *mailbox;
static syncws_channel *client, *server;
static atomic_int done, claimed;

static syncws_scratch *new_scratch(void)
{
    syncws_scratch *scratch = malloc(sizeof *scratch);
    CHECK(scratch != NULL);
    syncws_scratch_init(scratch);
    return scratch;
}

static void flush_soon(syncws_channel *channel, syncws_scratch *scratch)
{
    (void)syncws_wait_writable(channel, 20);
    (void)syncws_flush(channel, scratch);
}

static int send_small(syncws_scratch *scratch, const char *data, size_t length)
{
    for (;;) {
        int result = syncws_send(client, 0x82, data, length);
        CHECK((result == SYNCWS_LARGE) == (length > FRAME) || result == SYNCWS_UNFINISHED);
        if (result == SYNCWS_LARGE)
            result = syncws_post(client, scratch, 0x82, data, length);
        if (result != SYNCWS_FULL && result != SYNCWS_UNFINISHED)
            return result;
        flush_soon(client, scratch);
    }
}

static int send_big(syncws_scratch *scratch, const char *data, size_t length)
{
    int result;
    while ((result = syncws_message_open(client)) == SYNCWS_UNFINISHED)
        usleep(100);
    if (result != SYNCWS_OK)
        return result;
    result = syncws_frame_begin(client, scratch, 0x82, length);
    while (result == SYNCWS_OK || result == SYNCWS_PENDING) {
        uint64_t left = syncws_frame_left(client);
        if (left == 0)
            break;
        CHECK(syncws_message_begun(client));
        result = syncws_frame_write(client, scratch, data + (length - left), (size_t)left);
        if (result == SYNCWS_PENDING && syncws_frame_left(client) > 0)
            flush_soon(client, scratch);
    }
    CHECK(result != SYNCWS_OK || !syncws_message_cut(client));
    syncws_message_close(client);
    return result;
}

/* As a message that an extension has encoded: under an open message, in one call. In frames of
 * FRAME bytes, if it is longer. */
static int send_encoded(syncws_scratch *scratch, const char *data, size_t length)
{
    int result;
    CHECK(syncws_frame_send(client, scratch, 0x82, data, length, 1) == SYNCWS_UNFINISHED);
    while ((result = syncws_message_open(client)) == SYNCWS_UNFINISHED)
        usleep(100);
    if (result != SYNCWS_OK)
        return result;
    while ((result = syncws_frame_send(client, scratch, 0x82, data, length, 1)) == SYNCWS_FULL) {
        CHECK(!syncws_message_cut(client) && !syncws_message_begun(client));
        flush_soon(client, scratch);
    }
    CHECK(!syncws_message_cut(client));
    syncws_message_close(client);
    return result;
}

static void *send_many(void *argument)
{
    int number = *(int *)argument;
    syncws_scratch *scratch = syncws_make_thread_scratch();
    char *data = malloc(BIG);
    CHECK(scratch != NULL && data != NULL);
    for (int turn = 0; turn < MESSAGES; turn++) {
        size_t length = turn % 50 == 0 ? BIG : (size_t)(1 + (turn * 37) % 5000);
        memset(data, 'a' + number, length);
        int result = turn % 100 == 0 ? send_big(scratch, data, length)
                     : turn % 3 == 0 || length == BIG
                         ? send_encoded(scratch, data, length)
                         : send_small(scratch, data, length);
        CHECK(result == SYNCWS_OK || result == SYNCWS_PENDING);
    }
    free(data);
    return NULL;
}

static void *ping(void *unused)
{
    (void)unused;
    syncws_scratch *scratch = new_scratch();
    while (!done) {
        int result = syncws_send_control(client, scratch, SYNCWS_PING, "ping", 4);
        CHECK(result == SYNCWS_OK || result == SYNCWS_PENDING);
        usleep(300);
    }
    free(scratch);
    return NULL;
}

/* Control frames of an extension, from the middle of other threads' messages. */
static void *post_controls(void *unused)
{
    (void)unused;
    syncws_scratch *scratch = new_scratch();
    for (uint32_t number = 0; !done; usleep(50)) {
        int result = syncws_post(client, scratch, 0x80 | EXTENSION, (const char *)&number,
                                 sizeof number);
        CHECK(result == SYNCWS_OK || result == SYNCWS_PENDING || result == SYNCWS_FULL);
        number += result != SYNCWS_FULL;
    }
    free(scratch);
    return NULL;
}

static void check_control(const syncws_record *record)
{
    static uint32_t expected;
    if (record->opcode != EXTENSION)
        return;
    CHECK(record->length == sizeof expected);
    CHECK(memcmp(record->data, &expected, sizeof expected) == 0);
    expected++;
}

static int count_record(const syncws_record *record, int *counts)
{
    if (record->kind == SYNCWS_CONTROL) {
        check_control(record);
        return 0;
    }
    /* Runs have random separators between payloads of one letter each. */
    if (record->kind == SYNCWS_RUN)
        return (int)record->count;
    for (uint64_t index = 1; index < record->length; index++)
        CHECK(record->data[index] == record->data[0]);
    counts[record->data[0] - 'a']++;
    return 1;
}

static void *receive(void *unused)
{
    (void)unused;
    int counts[SENDERS] = {0};
    int total = 0;
    CHECK(syncws_receive(server, NULL, 50) == SYNCWS_NO_SCRATCH);
    CHECK(syncws_receive_next(server) == SYNCWS_NO_SCRATCH);
    CHECK(syncws_send(server, 0x82, "", 0) == SYNCWS_NO_SCRATCH);
    CHECK(syncws_thread_scratch() == NULL);
    syncws_scratch *scratch = syncws_make_thread_scratch();
    CHECK(scratch != NULL && scratch == syncws_thread_scratch());
    CHECK(scratch == syncws_make_thread_scratch());
    while (total < SENDERS * MESSAGES) {
        int64_t received = syncws_receive(server, NULL, 50);
        int result = (int)received;
        if (received > SYNCWS_LENGTH_MASK) {
            result = received >> SYNCWS_MEMORY_SHIFT & 1 ? SYNCWS_GOT_TEXT : SYNCWS_GOT_BINARY;
            CHECK(received >> SYNCWS_NUMBER_SHIFT == (int64_t)scratch->number);
            CHECK((received & SYNCWS_LENGTH_MASK) == (int64_t)scratch->records[0].length);
            CHECK(scratch->records[0].data == scratch->packed);
            CHECK(scratch->code == result);
            total++;
        }
        while (result == SYNCWS_RECORDS || result == SYNCWS_RECORDS_MORE) {
            for (uint32_t index = 0; index < scratch->record_count; index++)
                total += count_record(&scratch->records[index], counts);
            scratch->unclaimed = 0;
            if (result == SYNCWS_RECORDS)
                break;
            result = syncws_decode_rest(server, scratch);
        }
        CHECK(result != SYNCWS_RECORDS_FAILED && result != SYNCWS_END_OF_STREAM);
        scratch->unclaimed = 0;
        if (syncws_is_mine(server))
            syncws_leave(server, 0);
    }
    done = 1;
    return NULL;
}

static void look(syncws_channel *channel, syncws_scratch *scratch)
{
    int interest = syncws_look(channel);
    if (interest > 0 && (interest & SYNCWS_WRITE))
        (void)syncws_flush(channel, scratch);
    syncws_unwatched(channel);
}

static void *read_for_nobody(void *unused)
{
    (void)unused;
    syncws_scratch *scratch = new_scratch();
    uint64_t tokens[4];
    while (!done) {
        for (int lazy = 0; lazy < 2; lazy++) {
            size_t count = syncws_mailbox_collect(mailbox, lazy, tokens, 4);
            for (size_t index = 0; index < count; index++)
                look(tokens[index] == 1 ? client : server, scratch);
        }
        if (!syncws_mailbox_sleep(mailbox, syncws_mailbox_has_lazy(mailbox) ? SYNCWS_DOZING
                                                                            : SYNCWS_ASLEEP))
            usleep(200);
        syncws_mailbox_awake(mailbox);
        if (syncws_is_mine(server))
            abort();
    }
    free(scratch);
    return NULL;
}

static void *abort_server(void *unused)
{
    (void)unused;
    usleep(3000);
    syncws_abort(server);
    claimed += syncws_claim_close(server);
    return NULL;
}

static void *wait_for_nothing(void *unused)
{
    (void)unused;
    syncws_scratch *scratch = new_scratch();
    int result;
    do {
        result = (int)syncws_receive(server, scratch, 10000);
        scratch->unclaimed = 0;
        if (syncws_is_mine(server))
            syncws_leave(server, 0);
        /* The last pings may still come. */
    } while (result == SYNCWS_BUSY || result == SYNCWS_INTERRUPTED || result == SYNCWS_RECORDS);
    CHECK(result == SYNCWS_END_OF_STREAM || result == SYNCWS_GONE);
    claimed += syncws_claim_close(server);
    free(scratch);
    return NULL;
}

static void start(pthread_t *thread, void *(*function)(void *), void *argument)
{
    CHECK(pthread_create(thread, NULL, function, argument) == 0);
}

static void open_pair(int *ends)
{
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    mailbox = syncws_mailbox_new();
    CHECK(mailbox != NULL);
    client = syncws_channel_new(mailbox, 1, ends[0], SYNCWS_CLIENT, 0, 65536, FRAME);
    server = syncws_channel_new(mailbox, 2, ends[1], SYNCWS_SERVER, 0, 65536, FRAME);
    CHECK(client != NULL && server != NULL);
    syncws_decoder_init(syncws_channel_decoder(client), SYNCWS_CLIENT, UINT64_MAX, UINT64_MAX, 1);
    syncws_decoder_init(syncws_channel_decoder(server), SYNCWS_SERVER, UINT64_MAX, UINT64_MAX, 1);
    syncws_channel_decoder(server)->allowed_opcodes = 1 << EXTENSION;
    syncws_list(client, 0);
    syncws_list(server, 1);
}

static void close_pair(const int *ends)
{
    syncws_abort(client);
    CHECK(syncws_claim_close(client) == 1);
    CHECK(syncws_claim_close(client) == 0);
    /* The mailbox outlives its owner until the last channel lets go. */
    syncws_mailbox_free(mailbox);
    syncws_channel_free(client);
    syncws_channel_free(server);
    close(ends[0]);
    close(ends[1]);
}

/* In the middle of a frame they wait, not without bound, and leave behind it. */
static void keep_controls(void)
{
    static char data[BIG];
    int ends[2], result, kept = 0;
    size_t got = 0;
    uint8_t *bytes = malloc(2 * BIG);
    syncws_scratch *scratch = new_scratch();
    CHECK(bytes != NULL);
    open_pair(ends);
    CHECK(syncws_message_open(server) == SYNCWS_OK);
    CHECK(syncws_post(server, scratch, 0x80 | EXTENSION, "0", 1) == SYNCWS_OK);
    CHECK(syncws_frame_begin(server, scratch, 0x82, BIG) == SYNCWS_OK);
    CHECK(syncws_frame_write(server, scratch, data, 1) == SYNCWS_OK);
    while ((result = syncws_post(server, scratch, 0x80 | EXTENSION, data, 125)) == SYNCWS_OK)
        kept++;
    CHECK(result == SYNCWS_FULL && kept == KEPT / 127);
    CHECK(syncws_post(server, scratch, 0x80 | EXTENSION, data, 126) == SYNCWS_FULL);
    CHECK(syncws_post(server, scratch, 0x80 | EXTENSION, "1", 1) == SYNCWS_OK);
    while (syncws_frame_left(server) > 0 || syncws_output_size(server) > 0) {
        uint64_t left = syncws_frame_left(server);
        CHECK(syncws_frame_write(server, scratch, data, (size_t)left) != SYNCWS_WRITE_FAILED);
        (void)syncws_flush(server, scratch);
        ssize_t part = recv(ends[0], bytes + got, 2 * BIG - got, MSG_DONTWAIT);
        got += part > 0 ? (size_t)part : 0;
    }
    while (recv(ends[0], bytes + got, 1, MSG_DONTWAIT) == 1)
        got++;
    CHECK(got == 3 + 10 + BIG + (size_t)kept * 127 + 3);
    CHECK(memcmp(bytes, "\x8b\x01" "0" "\x82\x7f", 5) == 0);
    CHECK(memcmp(bytes + 13 + BIG, "\x8b\x7d", 2) == 0);
    CHECK(memcmp(bytes + got - 3, "\x8b\x01" "1", 3) == 0);
    syncws_message_close(server);
    /* Freed with the channel. */
    CHECK(syncws_message_open(server) == SYNCWS_OK);
    CHECK(syncws_frame_begin(server, scratch, 0x82, 1) == SYNCWS_OK);
    CHECK(syncws_post(server, scratch, 0x80 | EXTENSION, data, 125) == SYNCWS_OK);
    free(bytes);
    free(scratch);
    close_pair(ends);
}

int main(void)
{
    int ends[2], numbers[SENDERS];
    pthread_t threads[SENDERS + 4];
    keep_controls();
    open_pair(ends);
    start(&threads[0], receive, NULL);
    start(&threads[1], read_for_nobody, NULL);
    start(&threads[2], ping, NULL);
    for (int number = 0; number < SENDERS; number++) {
        numbers[number] = number;
        start(&threads[3 + number], send_many, &numbers[number]);
    }
    start(&threads[3 + SENDERS], post_controls, NULL);
    for (int number = 0; number < SENDERS + 4; number++)
        pthread_join(threads[number], NULL);

    start(&threads[0], wait_for_nothing, NULL);
    start(&threads[1], wait_for_nothing, NULL);
    start(&threads[2], abort_server, NULL);
    for (int number = 0; number < 3; number++)
        pthread_join(threads[number], NULL);
    CHECK(claimed == 1);
    close_pair(ends);
    printf("channel: %d messages of %d threads\n", SENDERS * MESSAGES, SENDERS);
    return 0;
}
