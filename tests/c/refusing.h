/* Refusing memory: the one thing that tests cannot do without the linker's help. */
#ifndef SYNCWS_TEST_REFUSING_H
#define SYNCWS_TEST_REFUSING_H

#include <stddef.h>

/* So many calls of realloc() from now on succeed (-1: all), then so many fail. */
extern int refuse_from;
extern int refuse_times;

#endif
