/* What the codec's files share among themselves and nobody else may use.
 *
 * What belongs here: the choice of instruction sets by preprocessor and internal
 * prototypes.  What does not: anything that Python or the channel calls.
 */
#ifndef SYNCWS_CODEC_H
#define SYNCWS_CODEC_H

#include "syncws.h"

/* SYNCWS_NO_SIMD compiles every kernel but the portable ones out. */
#if !defined(SYNCWS_NO_SIMD) && defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define SYNCWS_X86 1
#else
#define SYNCWS_X86 0
#endif

/* Little-endian only: the kernels treat the key as bytes in memory order. */
#if !defined(SYNCWS_NO_SIMD) && defined(__aarch64__) && !defined(__AARCH64EB__)
#define SYNCWS_NEON 1
#else
#define SYNCWS_NEON 0
#endif

#endif
