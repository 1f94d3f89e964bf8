#!/bin/bash
# glibc's sbrk(3) reports success when the kernel refuses brk with an error number, as a seccomp filter or a tracer does.
#
# Expected: "On success, sbrk() returns the previous program break. On error, (void *) -1 is returned, and errno is set to ENOMEM"
# (brk(2)); a filter that answers EPERM (SECCOMP_RET_ERRNO, seccomp(2)) is a failure like any other, and malloc, which begins
# with sbrk, goes on with mmap.
# Seen: sbrk(1 MiB) returns the old break, and no page is there; sbrk(0) then says that the break is (void *) -1. The kernel
# itself never answers brk with an error: it returns the break as it is. glibc compares what comes with what it wanted, and an
# error number, as an address, is larger than every address. So a list of allowed calls must have brk, or answer it with 0.
# Where: glibc 2.36 (Debian 12), x86-64. Source: sysdeps/unix/sysv/linux/brk.c, misc/sbrk.c.
# Output seen: "let through: granted, there; refused: granted, not there, break -1"
set -eu
command -v cc > /dev/null || exit 2
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT
cat > "$W/brk.c" <<'C'
#define _GNU_SOURCE
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { LENGTH = 1 << 20, PAGE = 4096 };

/* What sbrk says of a further MiB, and whether a page in the middle of it is mapped. */
static void ask(const char *when, char *text)
{
	unsigned char state;
	void *got = sbrk(LENGTH);
	uintptr_t middle = ((uintptr_t)got + LENGTH / 2) & -(uintptr_t)PAGE;
	int is_granted = got != (void *)-1;
	int is_there = is_granted && mincore((void *)middle, PAGE, &state) == 0;
	strcat(text, when);
	strcat(text, is_granted ? "granted, " : "not granted, ");
	strcat(text, is_there ? "there" : "not there");
}

int main(void)
{
	struct sock_filter steps[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_brk, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog filter = { 4, steps };
	char text[200] = "";
	ask("let through: ", text);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter))
		return 2;
	ask("; refused: ", text);
	strcat(text, sbrk(0) == (void *)-1 ? ", break -1\n" : ", break as it was\n");
	if (write(1, text, strlen(text)) < 0)
		return 2;
	return strcmp(text, "let through: granted, there; refused: granted, not there, break -1\n") != 0;
}
C
cc -O1 -o "$W/brk" "$W/brk.c" || exit 2
"$W/brk"
