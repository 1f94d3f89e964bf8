/*
 * Code that is written while other CPUs run its neighbours, or itself: what just-in-time compilers and kernels do.
 */
#define _GNU_SOURCE
#include "stress.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FUNCTIONS 32
#define FUNCTION_BYTES 128

typedef uint64_t (*function)(void);

static char *pages;
/* A function's number in the high half, what it must return in the low one; 0 while it is being rewritten. */
static atomic_ulong published[FUNCTIONS];
static atomic_int users[FUNCTIONS];

/* mov eax, value; ret */
static void write_function(char *at, uint32_t value)
{
	at[0] = (char)0xb8;
	memcpy(at + 1, &value, 4);
	at[5] = (char)0xc3;
}

static void *call_functions(void *unused)
{
	uint64_t state = 5;
	(void)unused;
	while (goes_on()) {
		unsigned n = next_number(&state) % FUNCTIONS;
		atomic_fetch_add(&users[n], 1);
		uint64_t right = atomic_load(&published[n]);
		if (right != 0)
			expect("code", "function", ((function)(pages + n * FUNCTION_BYTES))(), right);
		atomic_fetch_sub(&users[n], 1);
	}
	return NULL;
}

/* Functions are retired, rewritten and published again: whoever finds one published runs what was published. */
void code(void)
{
	pthread_t callers[3];
	uint64_t state = 11;
	pages = mmap(NULL, FUNCTIONS * FUNCTION_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (int n = 0; n < 3; n++)
		pthread_create(&callers[n], NULL, call_functions, NULL);
	while (goes_on()) {
		unsigned n = next_number(&state) % FUNCTIONS;
		uint32_t value = (uint32_t)next_number(&state) | 1;
		atomic_store(&published[n], 0);
		while (atomic_load(&users[n]) > 0)
			sched_yield();
		write_function(pages + n * FUNCTION_BYTES, value);
		atomic_store(&published[n], value);
		if (value % 1024 == 1) {
			/* All code goes, and the page is new. */
			for (int all = 0; all < FUNCTIONS; all++)
				atomic_store(&published[all], 0);
			for (int all = 0; all < FUNCTIONS; all++)
				while (atomic_load(&users[all]) > 0)
					sched_yield();
			madvise(pages, FUNCTIONS * FUNCTION_BYTES, MADV_DONTNEED);
		}
		atomic_fetch_add(rounds, 1);
	}
	for (int n = 0; n < 3; n++)
		pthread_join(callers[n], NULL);
}

/*
 * An aligned immediate is replaced while others run the function: they see old or new values, never older ones, and
 * after a serialising instruction on their side (membarrier) the new one.
 */
static char *patched;
static atomic_ulong floor_value;

static void *run_patched(void *unused)
{
	(void)unused;
	uint64_t last = 0;
	while (goes_on()) {
		uint64_t at_least = atomic_load(&floor_value), got = ((function)patched)();
		if (got < at_least)
			complain("patches", "older than what a barrier has shown", got, at_least);
		if (got < last)
			complain("patches", "older than before", got, last);
		last = got;
	}
	return NULL;
}

#define MEMBARRIER_SYNC_CORE (1 << 5)
#define MEMBARRIER_REGISTER_SYNC_CORE (1 << 6)

void patches(void)
{
	pthread_t runners[3];
	long can_sync = syscall(SYS_membarrier, MEMBARRIER_REGISTER_SYNC_CORE, 0, 0) == 0;
	patched = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	/* Three no-operations, so that the immediate is aligned. */
	patched[0] = patched[1] = patched[2] = (char)0x90;
	write_function(patched + 3, 0);
	for (int n = 0; n < 3; n++)
		pthread_create(&runners[n], NULL, run_patched, NULL);
	for (uint32_t value = 1; goes_on(); value++) {
		atomic_store((_Atomic uint32_t *)(patched + 4), value);
		if (can_sync && syscall(SYS_membarrier, MEMBARRIER_SYNC_CORE, 0, 0) == 0)
			atomic_store(&floor_value, value);
		if (value % 64 == 0)
			usleep(100);
		atomic_fetch_add(rounds, 1);
	}
	for (int n = 0; n < 3; n++)
		pthread_join(runners[n], NULL);
}
