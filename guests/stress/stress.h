/*
 * What the tasks of the stress share: when to stop, how to complain, and numbers that look random and are not.
 */
#ifndef STRESS_H
#define STRESS_H

#include <stdatomic.h>
#include <stdint.h>
#include <stddef.h>

#define PAGE 4096

/* Set when the time is up. Shared by all processes. */
extern atomic_int *stop;
/* How often anything was wrong, in any process. */
extern atomic_long *wrong;
/* Rounds that all tasks have done. */
extern atomic_long *rounds;

/* Says what was wrong, and counts it. */
void complain(const char *task, const char *what, uint64_t got, uint64_t right);

/* `complain`s unless both are the same. */
void expect(const char *task, const char *what, uint64_t got, uint64_t right);

static inline int goes_on(void)
{
	return !atomic_load_explicit(stop, memory_order_relaxed);
}

/* xorshift64*: the same numbers everywhere. */
static inline uint64_t next_number(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545f4914f6cdd1dull;
}

/* FNV-1a over words. */
uint64_t checksum(const void *data, size_t bytes);

/* One task: runs in a process of its own until `stop`. */
struct task {
	const char *name;
	void (*run)(void);
};

void compute(void);
void forks(void);
void mappings(void);
void protections(void);
void signals(void);
void pipes(void);
void locks(void);
void split_locks(void);
void litmus(void);
void code(void);
void patches(void);
void floats(void);
void execs(void);

#endif
