/*
 * Works whose time is measured on the host, and on software CPUs as a guest: each does the same every time and returns a
 * value that must be the same everywhere, so that nobody is fast by being wrong.
 */
#ifndef CPU_H
#define CPU_H

#include <stddef.h>
#include <stdint.h>

struct work {
    const char *name;
    uint64_t (*run)(void);
    /* Whether this processor can do it; always if there is none. */
    int (*is_possible)(void);
};

/* What a processor does by itself, and what a kernel does for a program; each ends with a work without a name. */
extern const struct work user_works[], system_works[];

/* This program, and one that is linked with the C library at its start; both end at once when their word is "leaf". */
extern const char *static_leaf, *dynamic_leaf;

/* A generator whose next value nobody guesses (xorshift, Marsaglia 2003). */
static inline uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Says what failed, and ends. */
void die(const char *what) __attribute__((noreturn));

#endif
