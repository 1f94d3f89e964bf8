/* Programs that print the same lines on every right processor: run natively and in a guest, and compared. */
#ifndef SUITE_H
#define SUITE_H
#define _GNU_SOURCE
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

void integers(void);
void floats(void);
void x87(void);
void vectors(void);
void strings(void);
void signals(void);
void threads(void);
void processes(const char *self);
void mappings(void);
void self_modifying(void);
void steps(void);
void narrow(void);

/* A running hash of whatever a program computes. */
static inline uint64_t mix(uint64_t hash, uint64_t value)
{
    hash ^= value;
    hash *= 0x9e3779b97f4a7c15;
    return hash ^ hash >> 29;
}
static inline uint64_t mix_bytes(uint64_t hash, const void *bytes, size_t count)
{
    for (size_t index = 0; index < count; index++)
        hash = mix(hash, ((const uint8_t *)bytes)[index]);
    return hash;
}
#define PAGE 4096ul
#endif
