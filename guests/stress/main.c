/*
 * A program for a guest of several CPUs: everything that goes wrong when a CPU believes something that another one has
 * changed. Each task knows its right answers beforehand.
 *
 *   stress run SECONDS           every task in a process of its own; the last line says what was wrong
 *   stress compute PROCESSES N   so many processes do N rounds of a fixed computation each; prints the time
 *   stress leave CODE            ends with CODE
 */
#define _GNU_SOURCE
#include "stress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

atomic_int *stop;
atomic_long *wrong;
atomic_long *rounds;

static const struct task tasks[] = {
	{ "compute", compute }, { "forks", forks }, { "mappings", mappings }, { "protections", protections },
	{ "signals", signals }, { "pipes", pipes }, { "locks", locks }, { "split locks", split_locks },
	{ "litmus", litmus }, { "code", code }, { "patches", patches }, { "floats", floats },
	{ "execs", execs },
};

#define TASKS (sizeof(tasks) / sizeof(tasks[0]))

void complain(const char *task, const char *what, uint64_t got, uint64_t right)
{
	if (atomic_fetch_add(wrong, 1) < 100) {
		printf("stress: WRONG: %s: %s: %#lx instead of %#lx\n", task, what, (long)got, (long)right);
		fflush(stdout);
	}
}

void expect(const char *task, const char *what, uint64_t got, uint64_t right)
{
	if (got != right)
		complain(task, what, got, right);
}

uint64_t checksum(const void *data, size_t bytes)
{
	const uint64_t *word = data;
	uint64_t sum = 0xcbf29ce484222325ull;
	for (size_t n = 0; n < bytes / 8; n++)
		sum = (sum ^ word[n]) * 0x100000001b3ull;
	return sum;
}

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static void share(void)
{
	char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED) {
		perror("stress: mmap");
		exit(1);
	}
	stop = (atomic_int *)page;
	wrong = (atomic_long *)(page + 64);
	rounds = (atomic_long *)(page + 128);
}

static int run(double seconds)
{
	pid_t children[TASKS];
	double end = now() + seconds;
	int status;
	share();
	for (size_t n = 0; n < TASKS; n++) {
		children[n] = fork();
		if (children[n] == 0) {
			tasks[n].run();
			_exit(0);
		}
	}
	while (now() < end)
		usleep(100000);
	atomic_store(stop, 1);
	for (size_t n = 0; n < TASKS; n++) {
		waitpid(children[n], &status, 0);
		if (status != 0)
			complain(tasks[n].name, "wait status", status, 0);
	}
	printf("stress: %zu tasks, %s, %ld wrong\n", TASKS, *rounds > 0 ? "rounds done" : "NO ROUNDS", *wrong);
	printf("stress: %ld rounds\n", *rounds);
	return *wrong != 0;
}

/* Integer work in registers, branches, and a table that fits the cache. */
static uint64_t work(long count)
{
	static uint64_t table[4096];
	uint64_t state = 88172645463325252ull, sum = 0;
	for (size_t n = 0; n < 4096; n++)
		table[n] = next_number(&state);
	for (long round = 0; round < count; round++) {
		for (size_t n = 0; n < 4096; n++) {
			uint64_t value = table[n];
			if (value & 1)
				sum += value >> 3;
			else
				sum ^= value << 1;
			table[(value >> 20) & 4095] += sum;
		}
		sum = (sum ^ checksum(table, sizeof(table))) * 3;
	}
	return sum;
}

static int compute_for(long processes, long count)
{
	double begin = now();
	int status, failed = 0;
	uint64_t *sums = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (long n = 0; n < processes; n++) {
		if (fork() == 0) {
			sums[n] = work(count);
			_exit(0);
		}
	}
	while (wait(&status) > 0)
		failed |= status;
	for (long n = 1; n < processes; n++)
		failed |= sums[n] != sums[0];
	printf("stress: computed %ld x %ld in %.0f ms, sum %016lx%s\n", processes, count, (now() - begin) * 1000,
	       sums[0], failed ? ", WRONG" : "");
	return failed != 0;
}

int main(int count, char **words)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (count == 3 && strcmp(words[1], "run") == 0)
		return run(atof(words[2]));
	if (count == 4 && strcmp(words[1], "compute") == 0)
		return compute_for(atol(words[2]), atol(words[3]));
	if (count == 3 && strcmp(words[1], "leave") == 0)
		return atoi(words[2]);
	fprintf(stderr, "usage: stress run SECONDS | compute PROCESSES N | leave CODE\n");
	return 2;
}
