/* Refusing memory: the one thing that tests cannot do without the linker's help. */
#ifndef SYNCWS_TEST_REFUSING_H
#define SYNCWS_TEST_REFUSING_H

#include <stddef.h>

/* So many calls of realloc() from now on succeed, the next one fails; -1: none fails. */
extern int refuse_from;

#endif
