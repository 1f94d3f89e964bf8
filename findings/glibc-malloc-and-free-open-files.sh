#!/bin/bash
# glibc's malloc(3) and free(3) open files: of sysfs when the first few threads have had their arenas, of procfs when a thread's
# arena shrinks, long after a program has begun.
#
# Expected: memory comes from brk, mmap and mprotect (mallopt(3), "M_ARENA_MAX" and its neighbours, names no file). A program that has
# its libraries and its files open, and then gives up opening any (seccomp, Landlock, an empty root), allocates as before.
# Seen: the threads that come after the first few make malloc ask how many processors there are: it opens
# /sys/devices/system/cpu/online, and where that fails /proc/stat. When memory of a thread's arena goes back to the kernel,
# /proc/sys/vm/overcommit_memory is opened, once. All go on without, by guessing, so nothing is lost; but a filter that ends the
# process on openat ends it inside of malloc, on machines and at loads that no test had. Who locks a program in warms both up
# before, or answers openat with an error.
# Where: glibc 2.36 (Debian 12), x86-64. Source: malloc/arena.c, sysdeps/unix/sysv/linux/getsysstats.c,
# sysdeps/unix/sysv/linux/malloc-sysdep.h.
# Output seen: "malloc and free open /sys/devices/system/cpu/online /proc/stat /proc/sys/vm/overcommit_memory"
set -eu
command -v cc > /dev/null || exit 2
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT
cat > "$W/threads.c" <<'C'
#define _GNU_SOURCE
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { THREADS = 40, BLOCKS = 200, BYTES = 90000, FILES = 3 };

static pthread_barrier_t all;
static _Thread_local int is_in_malloc_or_free;
static const char *const files[FILES] = {
	"/sys/devices/system/cpu/online", "/proc/stat", "/proc/sys/vm/overcommit_memory",
};
static volatile int was_opened[FILES], others;

/* The filter tells of each openat instead of carrying it out. */
static void note(int number, siginfo_t *info, void *context)
{
	const char *path = (const char *)((ucontext_t *)context)->uc_mcontext.gregs[REG_RSI];
	int file = 0;
	(void)number, (void)info;
	while (file < FILES && strcmp(files[file], path))
		file++;
	if (is_in_malloc_or_free && file < FILES)
		was_opened[file] = 1;
	else
		others = 1;
	((ucontext_t *)context)->uc_mcontext.gregs[REG_RAX] = -1;
}

static void *work(void *unused)
{
	char *blocks[BLOCKS];
	pthread_barrier_wait(&all);
	is_in_malloc_or_free = 1;
	for (int n = 0; n < BLOCKS; n++)
		memset(blocks[n] = malloc(BYTES), 1, BYTES);
	pthread_barrier_wait(&all);
	for (int n = BLOCKS; n-- > 0;)
		free(blocks[n]);
	is_in_malloc_or_free = 0;
	return unused;
}

int main(void)
{
	struct sock_filter steps[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog filter = { 4, steps };
	struct sigaction action = { .sa_sigaction = note, .sa_flags = SA_SIGINFO };
	pthread_t threads[THREADS];
	sigaction(SIGSYS, &action, NULL);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter))
		return 2;
	pthread_barrier_init(&all, NULL, THREADS);
	for (int n = 0; n < THREADS; n++)
		if (pthread_create(&threads[n], NULL, work, NULL))
			return 2;
	for (int n = 0; n < THREADS; n++)
		pthread_join(threads[n], NULL);
	printf("malloc and free open");
	for (int file = 0; file < FILES; file++)
		if (was_opened[file])
			printf(" %s", files[file]);
	printf(others ? " and others\n" : "\n");
	return others || !was_opened[0] || !was_opened[2];
}
C
cc -O1 -pthread -o "$W/threads" "$W/threads.c" || exit 2
"$W/threads"
