/*
 * What CPUs owe each other: the order of memory accesses, locked instructions on every kind of operand, and whole
 * values where the manual promises them.
 */
#define _GNU_SOURCE
#include "stress.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void compute(void)
{
	static uint64_t data[1 << 14];
	uint64_t state = 42;
	for (size_t n = 0; n < 1 << 14; n++)
		data[n] = next_number(&state);
	uint64_t right = checksum(data, sizeof(data));
	while (goes_on()) {
		for (int n = 0; n < 16; n++)
			expect("compute", "checksum", checksum(data, sizeof(data)), right);
		atomic_fetch_add(rounds, 1);
	}
}

void floats(void)
{
	double right = 0;
	while (goes_on()) {
		double sum = 0;
		for (int n = 1; n < 200000; n++)
			sum += 1.0 / n * (n & 1 ? 1 : -1);
		if (right == 0)
			right = sum;
		if (sum != right)
			complain("floats", "sum", (uint64_t)(sum * 1e15), (uint64_t)(right * 1e15));
		atomic_fetch_add(rounds, 1);
	}
}

#define THREADS 4
#define TURNS 20000

/* Starts THREADS threads with their numbers and waits for them. */
static void together(void *(*run)(void *))
{
	pthread_t threads[THREADS];
	for (uintptr_t n = 0; n < THREADS; n++)
		pthread_create(&threads[n], NULL, run, (void *)n);
	for (int n = 0; n < THREADS; n++)
		pthread_join(threads[n], NULL);
}

static struct {
	atomic_ulong added, swapped;
	unsigned __int128 wide __attribute__((aligned(16)));
	uint32_t bits[TURNS * THREADS / 32 + 1];
	long plain;
	pthread_mutex_t mutex;
} locked = { .mutex = PTHREAD_MUTEX_INITIALIZER };

static void add_wide(void)
{
	uint64_t low = (uint64_t)locked.wide, high = (uint64_t)(locked.wide >> 64);
	char done;
	do {
		asm volatile("lock cmpxchg16b %1; sete %0"
			     : "=q"(done), "+m"(locked.wide), "+a"(low), "+d"(high)
			     : "b"(low + 1), "c"(high + 2)
			     : "cc", "memory");
	} while (!done);
}

static void *do_locks(void *number)
{
	uintptr_t me = (uintptr_t)number;
	for (uintptr_t n = 0; n < TURNS; n++) {
		uintptr_t bit = n * THREADS + me;
		atomic_fetch_add(&locked.added, n);
		for (uint64_t old = locked.swapped; !atomic_compare_exchange_weak(&locked.swapped, &old, old + 3);)
			;
		add_wide();
		asm volatile("lock btsl %1, %0" : "+m"(*locked.bits) : "r"((uint32_t)bit) : "cc", "memory");
		pthread_mutex_lock(&locked.mutex);
		locked.plain++;
		pthread_mutex_unlock(&locked.mutex);
	}
	return NULL;
}

void locks(void)
{
	while (goes_on()) {
		locked.added = locked.swapped = locked.plain = 0;
		locked.wide = 0;
		memset(locked.bits, 0, sizeof(locked.bits));
		together(do_locks);
		uint64_t all = (uint64_t)TURNS * THREADS;
		expect("locks", "lock xadd", locked.added, (uint64_t)TURNS * (TURNS - 1) / 2 * THREADS);
		expect("locks", "lock cmpxchg", locked.swapped, all * 3);
		expect("locks", "lock cmpxchg16b, low", (uint64_t)locked.wide, all);
		expect("locks", "lock cmpxchg16b, high", (uint64_t)(locked.wide >> 64), all * 2);
		expect("locks", "mutex", locked.plain, all);
		for (size_t n = 0; n < all / 32; n++)
			expect("locks", "lock bts", locked.bits[n], UINT32_MAX);
		atomic_fetch_add(rounds, 1);
	}
}

/* Locked operands across cache lines and across pages, and in a page that is also executed. */
static char *two_pages;
#define SPLIT_TURNS 500

static void *do_split_locks(void *unused)
{
	uint64_t *line = (uint64_t *)(two_pages + 61), *page = (uint64_t *)(two_pages + PAGE - 3);
	uint64_t *beside_code = (uint64_t *)(two_pages + 2 * PAGE + 64);
	uint32_t *misaligned = (uint32_t *)(two_pages + 2 * PAGE + 130);
	uint64_t (*function)(void) = (void *)(two_pages + 2 * PAGE);
	(void)unused;
	for (int n = 0; n < SPLIT_TURNS; n++) {
		asm volatile("lock addq $1, %0" : "+m"(*line)::"cc", "memory");
		asm volatile("lock incq %0" : "+m"(*page)::"cc", "memory");
		uint64_t one = 1;
		asm volatile("lock xaddq %0, %1" : "+r"(one), "+m"(*beside_code)::"cc", "memory");
		asm volatile("lock addl $1, %0" : "+m"(*misaligned)::"cc", "memory");
		asm volatile("lock btsq %1, %0" : "+m"(beside_code[16]) : "r"((uint64_t)n) : "cc", "memory");
		expect("split locks", "function", function(), 0x11223344);
	}
	return NULL;
}

void split_locks(void)
{
	two_pages = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	while (goes_on()) {
		memset(two_pages, 0, 3 * PAGE);
		/* mov eax, 0x11223344; ret */
		memcpy(two_pages + 2 * PAGE, "\xb8\x44\x33\x22\x11\xc3", 6);
		together(do_split_locks);
		uint64_t all = SPLIT_TURNS * THREADS, sum;
		memcpy(&sum, two_pages + 61, 8);
		expect("split locks", "across cache lines", sum, all);
		memcpy(&sum, two_pages + PAGE - 3, 8);
		expect("split locks", "across pages", sum, all);
		memcpy(&sum, two_pages + 2 * PAGE + 64, 8);
		expect("split locks", "beside code", sum, all);
		memcpy(&sum, two_pages + 2 * PAGE + 130, 8);
		expect("split locks", "beside code, misaligned", (uint32_t)sum, all);
		for (int n = 0; n < SPLIT_TURNS / 64; n++) {
			memcpy(&sum, two_pages + 2 * PAGE + 64 + 128 + 8 * n, 8);
			expect("split locks", "bits beside code", sum, UINT64_MAX);
		}
		atomic_fetch_add(rounds, 1);
		usleep(1000);
	}
}

/* Litmus tests (SDM vol. 3, 9.2.3): outcomes that x86 forbids. */
static struct {
	_Alignas(64) volatile uint64_t x;
	_Alignas(64) volatile uint64_t y;
	_Alignas(64) volatile uint64_t seen_x;
	_Alignas(64) volatile uint64_t seen_y;
	_Alignas(64) volatile uint64_t whole;
} cell;
static pthread_barrier_t start_line;

static void *other_side(void *unused)
{
	(void)unused;
	while (pthread_barrier_wait(&start_line), goes_on()) {
		for (uint64_t n = 1; n <= 2000; n++) {
			/* Store buffering with a fence: somebody sees the other's store. */
			cell.y = n;
			asm volatile("mfence" ::: "memory");
			cell.seen_x = cell.x;
			pthread_barrier_wait(&start_line);
			pthread_barrier_wait(&start_line);
		}
		/* Message passing: data, then flag. */
		pthread_barrier_wait(&start_line);
		for (uint64_t n = 1; n <= 20000; n++) {
			cell.x = n;
			cell.y = n;
			cell.whole = (n & 0xff) * 0x0101010101010101ull;
		}
	}
	return NULL;
}

void litmus(void)
{
	pthread_t other;
	pthread_barrier_init(&start_line, NULL, 2);
	pthread_create(&other, NULL, other_side, NULL);
	for (;;) {
		cell.x = cell.y = 0;
		int is_last = !goes_on();
		pthread_barrier_wait(&start_line);
		if (is_last)
			break;
		for (uint64_t n = 1; n <= 2000; n++) {
			cell.x = n;
			asm volatile("mfence" ::: "memory");
			cell.seen_y = cell.y;
			pthread_barrier_wait(&start_line);
			if (cell.seen_x != n && cell.seen_y != n)
				complain("litmus", "store buffering with MFENCE", cell.seen_x, n);
			pthread_barrier_wait(&start_line);
		}
		cell.x = cell.y = 0;
		pthread_barrier_wait(&start_line);
		while (cell.y < 20000 && goes_on()) {
			uint64_t flag = cell.y, data = cell.x, whole = cell.whole;
			if (data < flag)
				complain("litmus", "message passing", data, flag);
			expect("litmus", "aligned load", whole % 0x0101010101010101ull, 0);
		}
		atomic_fetch_add(rounds, 1);
	}
	pthread_cancel(other);
	pthread_join(other, NULL);
}
