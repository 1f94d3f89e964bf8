/* What a kernel does for a program. */
#define _GNU_SOURCE
#include "cpu.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t getppid_again(void)
{
    for (unsigned n = 0; n < 200000; n++)
        syscall(SYS_getppid);
    return 200000;
}

static void wait_for(pid_t child)
{
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        die("wait for a process");
}

/* COUNT processes in a ring hand a byte around. */
static uint64_t ring(unsigned count, unsigned rounds)
{
    int pipes[8][2];
    pid_t children[8];
    char byte = 0;
    for (unsigned n = 0; n < count; n++)
        if (pipe(pipes[n]) != 0)
            die("make a pipe");
    for (unsigned n = 1; n < count; n++) {
        children[n] = fork();
        if (children[n] == 0) {
            for (unsigned round = 0; round < rounds; round++) {
                if (read(pipes[n - 1][0], &byte, 1) != 1)
                    _exit(1);
                byte++;
                if (write(pipes[n][1], &byte, 1) != 1)
                    _exit(1);
            }
            _exit(0);
        }
    }
    for (unsigned round = 0; round < rounds; round++)
        if (write(pipes[0][1], &byte, 1) != 1 || read(pipes[count - 1][0], &byte, 1) != 1)
            die("hand a byte on");
    for (unsigned n = 1; n < count; n++)
        wait_for(children[n]);
    for (unsigned n = 0; n < count; n++) {
        close(pipes[n][0]);
        close(pipes[n][1]);
    }
    return (uint8_t)byte;
}

static uint64_t ping_pong(void)
{
    return ring(2, 8000);
}

static uint64_t eight_processes(void)
{
    return ring(8, 2000);
}

#define FRESH (32u << 20)

static uint64_t fresh_pages(void)
{
    uint8_t *memory = mmap(NULL, FRESH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint64_t sum = 0;
    if (memory == MAP_FAILED || madvise(memory, FRESH, MADV_NOHUGEPAGE) != 0)
        die("map memory");
    for (size_t at = 0; at < FRESH; at += 4096)
        sum += ++memory[at];
    munmap(memory, FRESH);
    return sum;
}

static uint64_t fork_exit(void)
{
    for (unsigned n = 0; n < 200; n++) {
        pid_t child = fork();
        if (child == 0)
            _exit(0);
        wait_for(child);
    }
    return 200;
}

static uint64_t run_leaf(const char *path, unsigned count)
{
    char *words[] = {(char *)path, "leaf", NULL};
    char *environment[] = {NULL};
    for (unsigned n = 0; n < count; n++) {
        pid_t child = fork();
        if (child == 0) {
            execve(path, words, environment);
            _exit(127);
        }
        wait_for(child);
    }
    return count;
}

static uint64_t exec_static(void)
{
    return run_leaf(static_leaf, 80);
}

/* At another address each time, as the kernel has it. */
static uint64_t exec_dynamic(void)
{
    return run_leaf(dynamic_leaf, 60);
}

static uint64_t files(void)
{
    static char bytes[16384];
    uint64_t sum = 0;
    char name[64];
    for (unsigned n = 0; n < 600; n++) {
        snprintf(name, sizeof name, "/tmp/cpu-%d-%u", (int)getpid(), n);
        int file = open(name, O_CREAT | O_EXCL | O_RDWR, 0600);
        memset(bytes, (int)n, sizeof bytes);
        if (file < 0 || write(file, bytes, sizeof bytes) != (ssize_t)sizeof bytes
            || pread(file, bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
            die("write a file");
        sum += (uint8_t)bytes[n];
        close(file);
        if (unlink(name) != 0)
            die("remove a file");
    }
    return sum;
}

static uint64_t maps(void)
{
    uint64_t sum = 0;
    for (unsigned n = 0; n < 10000; n++) {
        uint8_t *memory = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED)
            die("map memory");
        sum += ++memory[n % 16 * 4096];
        munmap(memory, 65536);
    }
    return sum;
}

static volatile sig_atomic_t caught;

static void on_signal(int number)
{
    (void)number;
    caught++;
}

static uint64_t signals(void)
{
    struct sigaction action = {.sa_handler = on_signal};
    caught = 0;
    sigaction(SIGUSR1, &action, NULL);
    for (unsigned n = 0; n < 40000; n++)
        syscall(SYS_tgkill, getpid(), gettid(), SIGUSR1);
    return (uint64_t)caught;
}

#define HANDED 10000

static int turn;

static void wait_turn(int mine)
{
    for (;;) {
        int now = __atomic_load_n(&turn, __ATOMIC_SEQ_CST);
        if ((now & 1) == mine)
            return;
        syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, now, NULL, NULL, 0);
    }
}

static void give_turn(void)
{
    __atomic_fetch_add(&turn, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void *other_side(void *unused)
{
    for (unsigned n = 0; n < HANDED; n++) {
        wait_turn(1);
        give_turn();
    }
    return unused;
}

static uint64_t hand_over(void)
{
    pthread_t thread;
    turn = 0;
    if (pthread_create(&thread, NULL, other_side, NULL) != 0)
        die("start a thread");
    for (unsigned n = 0; n < HANDED; n++) {
        wait_turn(0);
        give_turn();
    }
    pthread_join(thread, NULL);
    return (uint64_t)turn;
}

const struct work system_works[] = {
    {"getppid", getppid_again, NULL},
    {"pipe-ping-pong", ping_pong, NULL},
    {"eight-processes", eight_processes, NULL},
    {"fresh-pages", fresh_pages, NULL},
    {"fork-exit", fork_exit, NULL},
    {"exec-static", exec_static, NULL},
    {"exec-dynamic", exec_dynamic, NULL},
    {"files", files, NULL},
    {"maps", maps, NULL},
    {"signals", signals, NULL},
    {"futex-hand-over", hand_over, NULL},
    {NULL, NULL, NULL},
};
