/*
 * Runs one program the way a guest's would run directly: in a process that gets its pages from one memory file when it
 * faults on them, in runs of pages, and whose every system call traps and is done by another process.
 *
 *     prototype WINDOW ordered|scattered PROGRAM WORD...
 *
 * WINDOW is how many pages a fault may bring (1 to 512); scattered frames are what a guest's kernel hands out after a
 * while. One thread, no signals. It is for measuring only: the holder keeps its own program, stack and vDSO mapped, CPUID
 * and its like run as they are, pages exist before they are touched, and system calls are the host's, so it is what such a
 * design costs *at least*. Prints what it counted on standard error.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <immintrin.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define PAGE 4096ul
#define FRAMES (1ul << 20)
#define BASE 0x100000000000ul
#define STACK 0x200000000000ul
#define STACK_SIZE (8ul << 20)
#define BREAK 0x300000000000ul
#define RUNS 512
/* Turns of waiting before it sleeps: some 50 microseconds. */
#define SPINS 2048

enum { IDLE, CALL, FAULT, ANSWERED };

/* What both processes see: one request and its answer. */
static struct channel {
    volatile int state, sleeping;
    long number, words[6];
    uint64_t address, error;
    long result;
    int ended, sets_fs;
    uint64_t fs;
    uint64_t away, away_size;
    int runs;
    struct { uint64_t at, size, offset; int rights; } run[RUNS];
} *channel;

static int memory;
static uint64_t next_frame, window, top_break = BREAK, next_address = BASE + (64ul << 30);
static int scattered;
static uint64_t *tables[1 << 17];
static unsigned long calls, faults, mapped;

static void die(const char *what)
{
    fprintf(stderr, "error: cannot %s: %s\n", what, strerror(errno));
    _exit(2);
}

/* --- the holder: everything here runs with the guest's FS, so nothing of it may use thread-local storage --- */

/* The only instructions whose system calls the filter lets through, on a page of their own. */
__asm__(".pushsection .stub,\"ax\"\n .balign 4096\n .globl stub, stub_end, stub_return\n"
        "stub: mov %rdi,%rax\n mov %rsi,%rdi\n mov %rdx,%rsi\n mov %rcx,%rdx\n mov %r8,%r10\n mov %r9,%r8\n mov 8(%rsp),%r9\n syscall\n ret\n"
        "stub_return: mov $15,%eax\n syscall\n .balign 4096\nstub_end:\n .popsection");
extern char stub_end[], stub_return[];
extern long stub(long number, long a, long b, long c, long d, long e, long f);

static void ask(int kind)
{
    __atomic_store_n(&channel->state, kind, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&channel->sleeping, __ATOMIC_SEQ_CST))
        stub(SYS_futex, (long)&channel->sleeping, FUTEX_WAKE, 1, 0, 0, 0);
    for (unsigned n = 1; channel->state != ANSWERED; n++) {
        _mm_pause();
        if (n % 4096 == 0)
            stub(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
    }
}

__attribute__((target("fsgsbase"))) static void on_event(int number, siginfo_t *info, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    if (number == SIGSYS) {
        channel->number = registers[REG_RAX];
        const int at[] = {REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8, REG_R9};
        for (int n = 0; n < 6; n++)
            channel->words[n] = registers[at[n]];
        channel->number = info->si_syscall;
        ask(CALL);
        registers[REG_RAX] = channel->result;
    } else {
        channel->address = (uint64_t)info->si_addr;
        channel->error = registers[REG_ERR];
        channel->words[0] = registers[REG_RIP];
        ask(FAULT);
    }
    if (channel->ended)
        stub(SYS_exit_group, channel->result, 0, 0, 0, 0, 0);
    if (channel->away_size)
        stub(SYS_munmap, channel->away, channel->away_size, 0, 0, 0, 0);
    for (int n = 0; n < channel->runs; n++)
        stub(SYS_mmap, channel->run[n].at, channel->run[n].size, channel->run[n].rights, MAP_SHARED | MAP_FIXED | MAP_POPULATE, memory, channel->run[n].offset);
    if (channel->sets_fs)
        _writefsbase_u64(channel->fs);
}

struct kernel_action { void (*handler)(int, siginfo_t *, void *); unsigned long flags; void *restorer; uint64_t mask; };

static void hold(uint64_t entry, uint64_t stack)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    static char other[1 << 17];
    stack_t alternate = {.ss_sp = other, .ss_size = sizeof other};
    sigaltstack(&alternate, NULL);
    struct kernel_action action = {on_event, SA_SIGINFO | SA_ONSTACK | 0x04000000, stub_return, 0};
    const int numbers[] = {SIGSYS, SIGSEGV, SIGBUS};
    for (int n = 0; n < 3; n++)
        if (syscall(SYS_rt_sigaction, numbers[n], &action, NULL, 8) != 0)
            die("handle signals");
    uint64_t from = (uint64_t)stub, to = (uint64_t)stub_end;
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 6),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer) + 4),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(from >> 32), 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer)),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, (uint32_t)from, 0, 2),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, (uint32_t)to, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        die("install the filter");
    __asm__ volatile("mov %0,%%rsp\n xor %%edx,%%edx\n xor %%ebp,%%ebp\n jmp *%1" ::"r"(stack), "r"(entry) : "memory");
}

/* --- the monitor: it is the guest's kernel here, and has the same pages at the same addresses --- */

static uint64_t *entry_of(uint64_t address)
{
    uint64_t **table = &tables[address >> 30 & 0x1ffff];
    if (!*table && !(*table = calloc(1 << 18, 8)))
        die("have memory for page tables");
    return &(*table)[address >> 12 & 0x3ffff];
}

static void give(uint64_t at, uint64_t size, int rights)
{
    uint64_t run = at, run_offset = 0, length = 0;
    for (uint64_t page = at; page < at + size; page += PAGE) {
        if (next_frame >= FRAMES)
            die("have a frame more");
        uint64_t frame = scattered ? next_frame * 40503 % FRAMES : next_frame;
        next_frame++;
        *entry_of(page) = (frame + 1) << 3 | rights;
        if (length && frame * PAGE == run_offset + length) {
            length += PAGE;
            continue;
        }
        if (length && mmap((void *)run, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory, run_offset) == MAP_FAILED)
            die("map a guest's page");
        run = page, run_offset = frame * PAGE, length = PAGE;
    }
    if (length && mmap((void *)run, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory, run_offset) == MAP_FAILED)
        die("map a guest's pages");
}

static void take(uint64_t at, uint64_t size, int keeps, int rights)
{
    for (uint64_t page = at; page < at + size; page += PAGE) {
        uint64_t *entry = entry_of(page);
        if (*entry)
            *entry = keeps ? (*entry & ~7ul) | rights : 0;
    }
    channel->away = at, channel->away_size = size;
}

static long map(uint64_t at, uint64_t size, int rights, int flags, int file, off_t offset)
{
    size = (size + PAGE - 1) & -PAGE;
    if (flags & MAP_FIXED) {
        take(at, size, 0, 0);
    } else {
        at = next_address;
        next_address += size + PAGE;
    }
    give(at, size, rights & 7);
    if (!(flags & MAP_ANONYMOUS) && pread(file, (void *)at, size, offset) < 0)
        return -errno;
    return at;
}

static long answer_call(void)
{
    long *w = channel->words;
    switch (channel->number) {
    case SYS_arch_prctl:
        if (w[0] != 0x1002)
            return -EINVAL;
        channel->sets_fs = 1, channel->fs = w[1];
        return 0;
    case SYS_brk:
        if ((uint64_t)w[0] > top_break && (uint64_t)w[0] < BREAK + (1ul << 30)) {
            uint64_t end = (w[0] + PAGE - 1) & -PAGE;
            give(top_break, end - top_break, 3);
            top_break = end;
        }
        return (uint64_t)w[0] > BREAK && (uint64_t)w[0] < top_break ? w[0] : (long)top_break;
    case SYS_mmap: return map(w[0], w[1], w[2], w[3], w[4], w[5]);
    case SYS_munmap: take(w[0], (w[1] + PAGE - 1) & -PAGE, 0, 0); return 0;
    case SYS_mprotect: take(w[0], (w[1] + PAGE - 1) & -PAGE, 1, w[2] & 7); return 0;
    case SYS_mremap: return -ENOMEM;
    case SYS_set_tid_address: return 1;
    case SYS_rt_sigaction: case SYS_rt_sigprocmask: case SYS_sigaltstack: case SYS_madvise: case SYS_set_robust_list: case SYS_futex: return 0;
    case SYS_rseq: case SYS_clone: case SYS_clone3: case SYS_fork: case SYS_vfork: case SYS_execve: return -ENOSYS;
    case SYS_exit: case SYS_exit_group: channel->ended = 1; return w[0];
    }
    long result = syscall(channel->number, w[0], w[1], w[2], w[3], w[4], w[5]);
    return result == -1 ? -errno : result;
}

static void answer_fault(void)
{
    uint64_t page = channel->address & -PAGE;
    uint64_t needs = channel->error & 16 ? PROT_EXEC : channel->error & 2 ? PROT_WRITE : PROT_READ;
    if (page >> 47 || !(*entry_of(page) & needs)) {
        fprintf(stderr, "error: the program fell at %lx, address %lx, error %lx\n", channel->words[0], channel->address, channel->error);
        channel->ended = 1, channel->result = 139;
        return;
    }
    uint64_t from = page & -(window * PAGE);
    for (uint64_t at = from; at < from + window * PAGE; at += PAGE) {
        uint64_t entry = *entry_of(at);
        if (!(entry & 7))
            continue;
        uint64_t offset = ((entry >> 3) - 1) * PAGE;
        mapped++;
        if (channel->runs) {
            int last = channel->runs - 1;
            if (channel->run[last].at + channel->run[last].size == at && channel->run[last].offset + channel->run[last].size == offset && channel->run[last].rights == (int)(entry & 7)) {
                channel->run[last].size += PAGE;
                continue;
            }
        }
        int n = channel->runs++;
        channel->run[n].at = at, channel->run[n].size = PAGE, channel->run[n].offset = offset, channel->run[n].rights = entry & 7;
    }
}

static uint64_t load(const char *path, uint64_t bias, Elf64_Ehdr *head, char *interpreter)
{
    int file = open(path, O_RDONLY);
    if (file < 0 || pread(file, head, sizeof *head, 0) != sizeof *head || memcmp(head->e_ident, ELFMAG, 4) != 0)
        die("read the program");
    if (head->e_type == ET_EXEC)
        bias = 0;
    for (int n = 0; n < head->e_phnum; n++) {
        Elf64_Phdr part;
        if (pread(file, &part, sizeof part, head->e_phoff + n * sizeof part) != sizeof part)
            die("read the program's parts");
        if (part.p_type == PT_INTERP && interpreter && part.p_filesz < 200)
            interpreter[pread(file, interpreter, part.p_filesz, part.p_offset)] = 0;
        if (part.p_type != PT_LOAD)
            continue;
        uint64_t from = (bias + part.p_vaddr) & -PAGE, to = (bias + part.p_vaddr + part.p_memsz + PAGE - 1) & -PAGE;
        int rights = (part.p_flags & PF_R ? PROT_READ : 0) | (part.p_flags & PF_W ? PROT_WRITE : 0) | (part.p_flags & PF_X ? PROT_EXEC : 0);
        give(from, to - from, rights);
        if (pread(file, (void *)(bias + part.p_vaddr), part.p_filesz, part.p_offset) < 0)
            die("read the program's bytes");
    }
    close(file);
    return bias;
}

static uint64_t push_words(char **words, uint64_t *at, uint64_t *places)
{
    uint64_t count = 0;
    for (; words[count]; count++) {
        *at -= strlen(words[count]) + 1;
        strcpy((char *)*at, words[count]);
        places[count] = *at;
    }
    return count;
}

int main(int count, char **words)
{
    if (count < 4)
        return fprintf(stderr, "usage: prototype WINDOW ordered|scattered PROGRAM WORD...\n"), 2;
    window = strtoul(words[1], NULL, 10);
    scattered = strcmp(words[2], "scattered") == 0;
    if (window == 0 || window > RUNS || window & (window - 1))
        return fprintf(stderr, "error: the window is a power of two up to %d\n", RUNS), 2;
    memory = memfd_create("guest", 0);
    if (memory < 0 || ftruncate(memory, FRAMES * PAGE) != 0)
        die("make the guest's memory");
    channel = mmap(NULL, sizeof *channel, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t holder;
    int start[2];
    if (pipe(start) != 0)
        die("make a pipe");
    if ((holder = fork()) == 0) {
        uint64_t begin[2];
        if (read(start[0], begin, sizeof begin) != sizeof begin)
            _exit(2);
        hold(begin[0], begin[1]);
    }
    Elf64_Ehdr head, its;
    char interpreter[256] = "";
    uint64_t bias = load(words[3], BASE, &head, interpreter), entry = bias + head.e_entry, from = 0;
    if (*interpreter) {
        from = load(interpreter, BASE + (32ul << 30), &its, NULL);
        entry = from + its.e_entry;
    }
    give(STACK, STACK_SIZE, 3);
    uint64_t at = STACK + STACK_SIZE - 64, *places = calloc(4096, 8);
    char *none[] = {"PATH=/usr/bin:/bin", "PYTHONHASHSEED=0", NULL};
    at -= 16;
    uint64_t random = at, n_words = push_words(words + 3, &at, places), n_none = push_words(none, &at, places + n_words + 1);
    uint64_t aux[] = {AT_PHDR, bias + head.e_phoff + (head.e_type == ET_EXEC ? 0x400000 : 0), AT_PHENT, 56, AT_PHNUM, head.e_phnum, AT_BASE, from, AT_ENTRY, bias + head.e_entry,
        AT_PAGESZ, PAGE, AT_RANDOM, random, AT_UID, 0, AT_EUID, 0, AT_GID, 0, AT_EGID, 0, AT_SECURE, 0, AT_HWCAP, getauxval(AT_HWCAP), AT_HWCAP2, getauxval(AT_HWCAP2), AT_CLKTCK, 100, AT_NULL, 0};
    uint64_t all = 1 + n_words + 1 + n_none + 1 + sizeof aux / 8;
    at = (at - all * 8) & -16ul;
    uint64_t *stack = (uint64_t *)at;
    *stack++ = n_words;
    memcpy(stack, places, (n_words + 1 + n_none + 1) * 8);
    memcpy(stack + n_words + 1 + n_none + 1, aux, sizeof aux);
    uint64_t begin[2] = {entry, at};
    if (write(start[1], begin, sizeof begin) != sizeof begin)
        die("start it");
    while (!channel->ended) {
        for (unsigned n = 1; channel->state != CALL && channel->state != FAULT; n++) {
            _mm_pause();
            if (n % SPINS == 0) {
                /* A CPU that only waits is missing elsewhere: it sleeps, a second at most. */
                const struct timespec second = {1, 0};
                __atomic_store_n(&channel->sleeping, 1, __ATOMIC_SEQ_CST);
                if (channel->state != CALL && channel->state != FAULT)
                    syscall(SYS_futex, &channel->sleeping, FUTEX_WAIT, 1, &second, NULL, 0);
                __atomic_store_n(&channel->sleeping, 0, __ATOMIC_SEQ_CST);
                int status;
                if (waitpid(holder, &status, WNOHANG) == holder)
                    return fprintf(stderr, "error: the holder died, status %x\n", status), 1;
            }
        }
        channel->runs = 0, channel->away_size = 0, channel->sets_fs = 0;
        if (channel->state == CALL)
            calls++, channel->result = answer_call();
        else
            faults++, answer_fault();
        __atomic_store_n(&channel->state, ANSWERED, __ATOMIC_SEQ_CST);
    }
    int status;
    waitpid(holder, &status, 0);
    fprintf(stderr, "direct: %lu system calls, %lu faults, %lu pages mapped, status %d\n", calls, faults, mapped, WEXITSTATUS(status));
    return WEXITSTATUS(status);
}
