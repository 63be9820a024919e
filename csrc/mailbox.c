/* The reader thread's mailbox.
 *
 * What belongs here: the lists of connections that the reader thread must look at,
 * and waking it.  What does not: what it does with them (syncws/reader.py).
 *
 * Listing and waking happen in one critical section, so no Python exception (a
 * Ctrl-C) can come between them, and the reader decides to sleep in the same one.
 */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

struct list {
    syncws_channel *first;
    syncws_channel *last;
};

struct syncws_mailbox {
    pthread_mutex_t mutex;  /* guards everything below, and the `next` of listed channels */
    struct list urgent;     /* look at once */
    struct list lazy;       /* look at the next tick */
    int sleep;              /* enum syncws_sleep */
    int woken;              /* a wake-up that no sleep has seen yet */
    int wake_read, wake_write;
    int references;         /* the reader's, and one for each channel */
};

static int open_wake_pipe(syncws_mailbox *mailbox) {
    int ends[2];
    if (pipe(ends) < 0)
        return -1;
    for (int index = 0; index < 2; index++) {
        if (fcntl(ends[index], F_SETFL, O_NONBLOCK) < 0 ||
            fcntl(ends[index], F_SETFD, FD_CLOEXEC) < 0) {
            int error = errno;
            close(ends[0]);
            close(ends[1]);
            errno = error;
            return -1;
        }
    }
    mailbox->wake_read = ends[0];
    mailbox->wake_write = ends[1];
    return 0;
}

syncws_mailbox *syncws_mailbox_new(void) {
    syncws_mailbox *mailbox = calloc(1, sizeof *mailbox);
    if (mailbox == NULL)
        return NULL;
    if (open_wake_pipe(mailbox) < 0) {
        int error = errno;
        free(mailbox);
        errno = error;
        return NULL;
    }
    pthread_mutex_init(&mailbox->mutex, NULL);
    mailbox->references = 1;
    return mailbox;
}

/* With the mutex held, or where nobody else can hold it. */
static void close_pipe(syncws_mailbox *mailbox) {
    if (mailbox->wake_read >= 0) {
        close(mailbox->wake_read);
        close(mailbox->wake_write);
        mailbox->wake_read = mailbox->wake_write = -1;
    }
}

void syncws_mailbox_close(syncws_mailbox *mailbox) {
    pthread_mutex_lock(&mailbox->mutex);
    close_pipe(mailbox);
    pthread_mutex_unlock(&mailbox->mutex);
}

static void release(syncws_mailbox *mailbox, int closing) {
    pthread_mutex_lock(&mailbox->mutex);
    if (closing)
        close_pipe(mailbox);
    int left = --mailbox->references;
    pthread_mutex_unlock(&mailbox->mutex);
    if (left == 0) {
        pthread_mutex_destroy(&mailbox->mutex);
        free(mailbox);
    }
}

void syncws_mailbox_free(syncws_mailbox *mailbox) {
    if (mailbox != NULL)
        release(mailbox, 1);
}

void syncws_mailbox_retain(syncws_mailbox *mailbox) {
    pthread_mutex_lock(&mailbox->mutex);
    mailbox->references++;
    pthread_mutex_unlock(&mailbox->mutex);
}

static int unlink_from(struct list *list, syncws_channel *channel) {
    syncws_channel *previous = NULL;
    for (syncws_channel *entry = list->first; entry != NULL; previous = entry, entry = entry->next) {
        if (entry != channel)
            continue;
        if (previous == NULL)
            list->first = entry->next;
        else
            previous->next = entry->next;
        if (list->last == entry)
            list->last = previous;
        entry->next = NULL;
        return 1;
    }
    return 0;
}

void syncws_mailbox_drop(syncws_mailbox *mailbox, syncws_channel *channel) {
    pthread_mutex_lock(&mailbox->mutex);
    /* Not found: this is a forked child, where the lists were emptied. */
    if (channel->place != SYNCWS_NOWHERE)
        unlink_from(channel->place == SYNCWS_URGENT ? &mailbox->urgent : &mailbox->lazy, channel);
    channel->place = SYNCWS_NOWHERE;
    pthread_mutex_unlock(&mailbox->mutex);
    release(mailbox, 0);
}

/* With the mutex held. */
static void wake(syncws_mailbox *mailbox) {
    if (mailbox->sleep != SYNCWS_AWAKE && mailbox->wake_write >= 0) {
        /* A full pipe is as good as a written one. */
        ssize_t written = write(mailbox->wake_write, "", 1);
        (void)written;
    }
    mailbox->sleep = SYNCWS_AWAKE;
}

static void append(struct list *list, syncws_channel *channel) {
    channel->next = NULL;
    if (list->last == NULL)
        list->first = channel;
    else
        list->last->next = channel;
    list->last = channel;
}

void syncws_mailbox_push(syncws_mailbox *mailbox, syncws_channel *channel, int urgent) {
    pthread_mutex_lock(&mailbox->mutex);
    if (channel->place == SYNCWS_LAZY && urgent) {
        unlink_from(&mailbox->lazy, channel);
        channel->place = SYNCWS_NOWHERE;
    }
    if (channel->place == SYNCWS_NOWHERE) {
        append(urgent ? &mailbox->urgent : &mailbox->lazy, channel);
        channel->place = urgent ? SYNCWS_URGENT : SYNCWS_LAZY;
    }
    if (urgent || mailbox->sleep == SYNCWS_ASLEEP)
        wake(mailbox);
    pthread_mutex_unlock(&mailbox->mutex);
}

void syncws_mailbox_wake(syncws_mailbox *mailbox) {
    pthread_mutex_lock(&mailbox->mutex);
    mailbox->woken = 1;
    wake(mailbox);
    pthread_mutex_unlock(&mailbox->mutex);
}

int syncws_mailbox_descriptor(syncws_mailbox *mailbox) { return mailbox->wake_read; }

int syncws_mailbox_sleep(syncws_mailbox *mailbox, int sleep) {
    pthread_mutex_lock(&mailbox->mutex);
    int stay = mailbox->woken || mailbox->urgent.first != NULL ||
               (sleep == SYNCWS_ASLEEP && mailbox->lazy.first != NULL);
    mailbox->sleep = stay ? SYNCWS_AWAKE : sleep;
    mailbox->woken = 0;
    pthread_mutex_unlock(&mailbox->mutex);
    return stay;
}

void syncws_mailbox_awake(syncws_mailbox *mailbox) {
    char bytes[64];
    pthread_mutex_lock(&mailbox->mutex);
    mailbox->sleep = SYNCWS_AWAKE;
    while (mailbox->wake_read >= 0 && read(mailbox->wake_read, bytes, sizeof bytes) > 0) {
    }
    pthread_mutex_unlock(&mailbox->mutex);
}

size_t syncws_mailbox_collect(syncws_mailbox *mailbox, int lazy, uint64_t *tokens, size_t room) {
    size_t count = 0;
    pthread_mutex_lock(&mailbox->mutex);
    struct list *list = lazy ? &mailbox->lazy : &mailbox->urgent;
    while (count < room && list->first != NULL) {
        syncws_channel *channel = list->first;
        list->first = channel->next;
        if (list->first == NULL)
            list->last = NULL;
        channel->next = NULL;
        channel->place = SYNCWS_NOWHERE;
        tokens[count++] = channel->token;
    }
    pthread_mutex_unlock(&mailbox->mutex);
    return count;
}

int syncws_mailbox_has_lazy(syncws_mailbox *mailbox) {
    pthread_mutex_lock(&mailbox->mutex);
    int result = mailbox->lazy.first != NULL;
    pthread_mutex_unlock(&mailbox->mutex);
    return result;
}

void syncws_mailbox_after_fork(syncws_mailbox *mailbox) {
    /* Another thread of the parent may have held it; here nobody does. */
    pthread_mutex_init(&mailbox->mutex, NULL);
    close_pipe(mailbox);
    mailbox->sleep = SYNCWS_AWAKE;
    /* It may have been in the middle of changing them. */
    mailbox->urgent = mailbox->lazy = (struct list){NULL, NULL};
}
