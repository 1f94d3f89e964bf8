/*
 * Processes and what the kernel does for them: fork and copy on write, exec, mappings that appear and go while other
 * threads use their neighbours, signals, pipes.
 */
#define _GNU_SOURCE
#include "stress.h"

#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FORK_PAGES 64

/* Children change their copy of the parent's memory; nobody sees anybody else's changes. */
void forks(void)
{
	uint64_t state = 7, *data = mmap(NULL, FORK_PAGES * PAGE, PROT_READ | PROT_WRITE,
					 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	while (goes_on()) {
		pid_t children[6];
		int status;
		for (size_t n = 0; n < FORK_PAGES * PAGE / 8; n += 64)
			data[n] = next_number(&state);
		uint64_t before = checksum(data, FORK_PAGES * PAGE);
		for (int child = 0; child < 6; child++) {
			children[child] = fork();
			if (children[child] == 0) {
				uint64_t mine = 100 + child;
				if (checksum(data, FORK_PAGES * PAGE) != before)
					_exit(99);
				for (size_t n = 0; n < FORK_PAGES * PAGE / 8; n += 512)
					data[n] = next_number(&mine);
				mine = 100 + child;
				for (size_t n = 0; n < FORK_PAGES * PAGE / 8; n += 512)
					if (data[n] != next_number(&mine))
						_exit(98);
				_exit(child);
			}
		}
		for (int child = 0; child < 6; child++) {
			if (children[child] < 0)
				continue;
			waitpid(children[child], &status, 0);
			expect("forks", "child's status", status, (uint64_t)child << 8);
		}
		expect("forks", "parent's memory", checksum(data, FORK_PAGES * PAGE), before);
		atomic_fetch_add(rounds, 1);
	}
}

extern char **environ;

void execs(void)
{
	int code = 0;
	while (goes_on()) {
		char number[16], *words[] = { "stress", "leave", number, NULL };
		pid_t children[4];
		int status;
		for (int n = 0; n < 4; n++) {
			snprintf(number, sizeof(number), "%d", (code + n) % 200);
			if (posix_spawn(&children[n], "/proc/self/exe", NULL, NULL, words, environ) != 0)
				children[n] = -1;
		}
		for (int n = 0; n < 4; n++) {
			if (children[n] < 0)
				continue;
			waitpid(children[n], &status, 0);
			expect("execs", "child's status", status, (uint64_t)((code + n) % 200) << 8);
		}
		code += 4;
		atomic_fetch_add(rounds, 1);
	}
}

#define SLOTS 16
#define MAPPED_PAGES 8

/* One thread maps and fills, another verifies and unmaps: each unmap must reach the other CPUs' TLBs. */
static _Atomic(uint64_t *) slots[SLOTS];

static void *take_mappings(void *unused)
{
	(void)unused;
	size_t slot = 0;
	while (goes_on()) {
		uint64_t *page = atomic_exchange(&slots[slot++ % SLOTS], NULL);
		if (page == NULL) {
			sched_yield();
			continue;
		}
		uint64_t seed = page[0], state = seed;
		for (size_t n = 1; n < MAPPED_PAGES * PAGE / 8; n += 128)
			expect("mappings", "word", page[n], next_number(&state));
		munmap(page, MAPPED_PAGES * PAGE);
	}
	return NULL;
}

void mappings(void)
{
	pthread_t takers[2];
	uint64_t seed = 12345;
	for (int n = 0; n < 2; n++)
		pthread_create(&takers[n], NULL, take_mappings, NULL);
	while (goes_on()) {
		uint64_t *page = mmap(NULL, MAPPED_PAGES * PAGE, PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		uint64_t state = next_number(&seed) | 1;
		if (page == MAP_FAILED)
			continue;
		expect("mappings", "fresh memory", page[PAGE / 8], 0);
		page[0] = state;
		for (size_t n = 1; n < MAPPED_PAGES * PAGE / 8; n += 128)
			page[n] = next_number(&state);
		uint64_t *old = atomic_exchange(&slots[seed % SLOTS], page);
		if (old != NULL)
			munmap(old, MAPPED_PAGES * PAGE);
		atomic_fetch_add(rounds, 1);
	}
	for (int n = 0; n < 2; n++)
		pthread_join(takers[n], NULL);
}

/* A page is made read-only while another thread writes it: after mprotect has returned no write gets through. */
static uint64_t *guarded;
static atomic_long faults;
static atomic_int is_read_only;

static void on_fault(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)context;
	if ((uint64_t *)info->si_addr != guarded)
		_exit(97);
	atomic_fetch_add(&faults, 1);
	/* Whoever made it read-only still looks, even when the time is up: it comes back to this at the end of each round. */
	while (atomic_load(&is_read_only))
		sched_yield();
}

static void *write_guarded(void *unused)
{
	(void)unused;
	while (goes_on())
		atomic_fetch_add((atomic_ulong *)guarded, 1);
	return NULL;
}

void protections(void)
{
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
	pthread_t writer;
	sigaction(SIGSEGV, &action, NULL);
	guarded = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pthread_create(&writer, NULL, write_guarded, NULL);
	while (goes_on()) {
		atomic_store(&is_read_only, 1);
		mprotect(guarded, PAGE, PROT_READ);
		uint64_t value = atomic_load((atomic_ulong *)guarded);
		for (int n = 0; n < 2000; n++)
			if (atomic_load((atomic_ulong *)guarded) != value) {
				complain("protections", "a read-only page", *guarded, value);
				break;
			}
		mprotect(guarded, PAGE, PROT_READ | PROT_WRITE);
		atomic_store(&is_read_only, 0);
		usleep(100);
		atomic_fetch_add(rounds, 1);
	}
	mprotect(guarded, PAGE, PROT_READ | PROT_WRITE);
	atomic_store(&is_read_only, 0);
	pthread_join(writer, NULL);
}

static atomic_long heard, sent;
static atomic_int are_over;

static void on_signal(int signal)
{
	(void)signal;
	atomic_fetch_add(&heard, 1);
}

static void *listen_and_compute(void *unused)
{
	(void)unused;
	uint64_t data[64], state = 3, right = 0;
	for (int n = 0; n < 64; n++)
		data[n] = next_number(&state);
	right = checksum(data, sizeof(data));
	while (!atomic_load(&are_over))
		expect("signals", "sum under signals", checksum(data, sizeof(data)), right);
	return NULL;
}

/* Every signal is handled once, and who is interrupted goes on with all registers as they were. */
void signals(void)
{
	struct sigaction action = { .sa_handler = on_signal };
	pthread_t threads[2];
	sigaction(SIGUSR1, &action, NULL);
	for (int n = 0; n < 2; n++)
		pthread_create(&threads[n], NULL, listen_and_compute, NULL);
	while (goes_on()) {
		for (int n = 0; n < 2; n++) {
			long before = atomic_load(&heard);
			pthread_kill(threads[n], SIGUSR1);
			sent++;
			while (atomic_load(&heard) == before)
				sched_yield();
		}
		atomic_fetch_add(rounds, 1);
	}
	atomic_store(&are_over, 1);
	for (int n = 0; n < 2; n++)
		pthread_join(threads[n], NULL);
	expect("signals", "handled", heard, sent);
}

/* Blocks go through a pipe to a process that answers with their checksums. */
void pipes(void)
{
	static uint64_t block[PAGE];
	int there[2], back[2];
	if (pipe(there) != 0 || pipe(back) != 0)
		_exit(96);
	if (fork() == 0) {
		close(there[1]);
		for (;;) {
			size_t have = 0;
			while (have < sizeof(block)) {
				ssize_t got = read(there[0], (char *)block + have, sizeof(block) - have);
				if (got <= 0)
					_exit(0);
				have += got;
			}
			uint64_t sum = checksum(block, sizeof(block));
			if (write(back[1], &sum, sizeof(sum)) != sizeof(sum))
				_exit(0);
		}
	}
	uint64_t state = 99;
	close(there[0]);
	while (goes_on()) {
		uint64_t sum = 0;
		for (size_t n = 0; n < PAGE; n++)
			block[n] = next_number(&state);
		for (size_t done = 0; done < sizeof(block);) {
			ssize_t put = write(there[1], (char *)block + done, sizeof(block) - done);
			if (put <= 0)
				_exit(95);
			done += put;
		}
		if (read(back[0], &sum, sizeof(sum)) != sizeof(sum))
			_exit(94);
		expect("pipes", "checksum", sum, checksum(block, sizeof(block)));
		atomic_fetch_add(rounds, 1);
	}
	close(there[1]);
	wait(NULL);
}
