/*
 * What a process that holds nothing but a guest's pages would cost on this host, and what of the host it would show.
 *
 * Prints one line for each: "way NAME NANOSECONDS", the shortest of many rounds, or "sees NAME traps|runs DETAIL".
 * Harmless: it changes nothing but itself and its own children. See docs/decisions/0039-guest-programs-run-directly.md.
 */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <errno.h>
#include <immintrin.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#endif
#define ROUNDS 30
#define TURNS 1000
/* A number that no kernel knows: what is measured is the way out. */
#define NOBODY 5000

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e9 + time.tv_nsec;
}

static void die(const char *what)
{
    fprintf(stderr, "error: cannot %s: %s\n", what, strerror(errno));
    exit(2);
}

/* The shortest of ROUNDS times of TURNS calls, per call. */
static void report(const char *name, void (*turn)(int))
{
    double least = 1e18;
    for (int round = 0; round < ROUNDS; round++) {
        double start = now();
        for (int n = 0; n < TURNS; n++)
            turn(n);
        double each = (now() - start) / TURNS;
        least = each < least ? each : least;
    }
    printf("way %s %.1f\n", name, least);
    fflush(stdout);
}

/* Each in a child, since filters stay; a child that cannot says why, and the others go on. */
static void apart(const char *name, void (*run)(const char *))
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        alarm(60);
        run(name);
        fflush(stdout);
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    if (status != 0)
        printf("way %s - (not on this host: status %x)\n", name, status);
}

static void onto(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

static void nobody(int n)
{
    (void)n;
    syscall(NOBODY);
}

static void plain(const char *name) { report(name, nobody); }

static void on_sys(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)info;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RAX] = 0;
}

static int filter(unsigned flags, unsigned action)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, NOBODY, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, action),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {4, code};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    int got = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
    if (got < 0)
        die("install a filter");
    return got;
}

static void listen_to(int number, void (*handler)(int, siginfo_t *, void *))
{
    static char stack[65536];
    stack_t other = {.ss_sp = stack, .ss_size = sizeof stack};
    sigaltstack(&other, NULL);
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    sigaction(number, &action, NULL);
}

static void trap(const char *name)
{
    listen_to(SIGSYS, on_sys);
    filter(0, SECCOMP_RET_TRAP);
    report(name, nobody);
}

static volatile char selector;

static void on_dispatch(int signal, siginfo_t *info, void *context)
{
    selector = 0;
    on_sys(signal, info, context);
}

static void dispatched(int n)
{
    (void)n;
    selector = 1;
    syscall(NOBODY);
}

/* Every call is dispatched while the selector says so; the handler opens it for its own way back. */
static void dispatch(const char *name)
{
    listen_to(SIGSYS, on_dispatch);
    if (prctl(PR_SET_SYSCALL_USER_DISPATCH, 1, 0, 0, &selector) != 0)
        die("have calls dispatched");
    report(name, dispatched);
}

static void sysemu_on(const char *name, int apart_from)
{
    pid_t child = fork();
    if (child == 0) {
        onto(apart_from);
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        for (;;)
            syscall(NOBODY);
    }
    int status;
    waitpid(child, &status, 0);
    double least = 1e18;
    for (int round = 0; round < ROUNDS; round++) {
        double start = now();
        for (int n = 0; n < 200; n++) {
            struct user_regs_struct registers;
            ptrace(PTRACE_SYSEMU, child, 0, 0);
            waitpid(child, &status, 0);
            ptrace(PTRACE_GETREGS, child, 0, &registers);
            registers.rax = 0;
            ptrace(PTRACE_SETREGS, child, 0, &registers);
        }
        double each = (now() - start) / 200;
        least = each < least ? each : least;
    }
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    printf("way %s %.1f\n", name, least);
}

static void sysemu(const char *name) { onto(0), sysemu_on(name, 0); }
static void sysemu_far(const char *name) { onto(0), sysemu_on(name, 1); }

static void notified(const char *name, int cpu)
{
    onto(0);
    int channel = filter(SECCOMP_FILTER_FLAG_NEW_LISTENER, SECCOMP_RET_USER_NOTIF);
    pid_t parent = getpid(), child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        onto(cpu);
        (void)parent;
        for (;;) {
            struct seccomp_notif asked = {0};
            if (ioctl(channel, SECCOMP_IOCTL_NOTIF_RECV, &asked) != 0)
                continue;
            struct seccomp_notif_resp answer = {.id = asked.id};
            ioctl(channel, SECCOMP_IOCTL_NOTIF_SEND, &answer);
        }
    }
    report(name, nobody);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

static void notify(const char *name) { notified(name, 0); }
static void notify_far(const char *name) { notified(name, 1); }

/* A word that both sides look at: by spinning, or by sleeping on it. */
static struct { volatile int asked; char apart[60]; volatile int answered; } *word;
static int sleeps;

static void wait_for(volatile int *at, int value)
{
    while (*at != value)
        if (sleeps)
            syscall(SYS_futex, at, FUTEX_WAIT, value - 1, NULL, NULL, 0);
        else
            _mm_pause();
}

static void say(volatile int *at, int value)
{
    __atomic_store_n(at, value, __ATOMIC_SEQ_CST);
    if (sleeps)
        syscall(SYS_futex, at, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void hand_off(int n)
{
    (void)n;
    int next = word->asked + 1;
    say(&word->asked, next);
    wait_for(&word->answered, next);
}

static void handed(const char *name, int cpu, int sleep)
{
    onto(0);
    sleeps = sleep;
    word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        onto(cpu);
        for (int next = 1;; next++) {
            wait_for(&word->asked, next);
            say(&word->answered, next);
        }
    }
    report(name, hand_off);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

static void spin(const char *name) { handed(name, 1, 0); }
static void futex(const char *name) { handed(name, 0, 1); }
static void futex_far(const char *name) { handed(name, 1, 1); }

/* The mirror: pages of one memory file, mapped where a guest has them. */
#define PAGE 4096ul
static int memory;
static char *mirror;
static size_t range;

static void on_fault(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)context;
    char *at = (char *)((uintptr_t)info->si_addr & -(range * PAGE));
    mmap(at, range * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | (range > 1 ? MAP_POPULATE : 0), memory, at - mirror);
}

static void on_protected(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)context;
    mprotect((char *)((uintptr_t)info->si_addr & -PAGE), PAGE, PROT_READ | PROT_WRITE);
}

static void mirrored(const char *name, size_t pages)
{
    range = pages;
    size_t size = TURNS * pages * PAGE;
    memory = memfd_create("guest", 0);
    if (ftruncate(memory, size) != 0)
        die("make a memory file");
    char *all = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, memory, 0);
    (void)all;
    mirror = (char *)0x200000000000;
    mmap(mirror, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    listen_to(SIGSEGV, on_fault);
    double least = 1e18;
    for (int round = 0; round < ROUNDS; round++) {
        mmap(mirror, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        double start = now();
        /* Every second range, so that mappings do not become one. */
        for (size_t n = 0; n < TURNS / 2; n++)
            for (size_t page = 0; page < pages; page++)
                *(volatile char *)(mirror + (2 * n * pages + page) * PAGE) = 1;
        double each = (now() - start) / (TURNS / 2) / pages;
        least = each < least ? each : least;
    }
    printf("way %s %.1f\n", name, least);
}

static void mirror_1(const char *name) { mirrored(name, 1); }
static void mirror_16(const char *name) { mirrored(name, 16); }
static void mirror_512(const char *name) { mirrored(name, 512); }

static char *one_page;

static void touch_protected(int n)
{
    (void)n;
    mprotect(one_page, PAGE, PROT_READ);
    *one_page = 1;
}

static void protect(const char *name)
{
    one_page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    listen_to(SIGSEGV, on_protected);
    report(name, touch_protected);
}

static void take_away(int n)
{
    (void)n;
    munmap(mirror, PAGE);
    mmap(mirror, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_POPULATE, memory, 0);
}

static void unmap(const char *name)
{
    memory = memfd_create("guest", 0);
    if (ftruncate(memory, PAGE) != 0)
        die("make a memory file");
    mirror = (char *)0x200000000000;
    mmap(mirror, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory, 0);
    report(name, take_away);
}

static void birth(void)
{
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    waitpid(child, NULL, 0);
}

/* A child at a time: a thousand would take a second a round. */
static void space(const char *name)
{
    double least = 1e18;
    for (int round = 0; round < 100; round++) {
        double start = now();
        birth();
        double each = now() - start;
        least = each < least ? each : least;
    }
    printf("way %s %.1f\n", name, least);
}

__attribute__((target("fsgsbase"))) static void bases(int n)
{
    (void)n;
    _writegsbase_u64(_readgsbase_u64());
    _writefsbase_u64(_readfsbase_u64());
}

static char area[16384] __attribute__((aligned(64)));

__attribute__((target("xsave"))) static void carry(int n)
{
    (void)n;
    _xsave64(area, 0xe7);
    _xrstor64(area, 0xe7);
}

static void carried_bases(const char *name) { report(name, bases); }
static void carried(const char *name) { report(name, carry); }

/* What unprivileged instructions see. A fault comes back as its signal. */
static sigjmp_buf back;

static void on_any(int signal, siginfo_t *info, void *context)
{
    (void)info, (void)context;
    siglongjmp(back, signal);
}

static int faults(void (*run)(uint64_t *), uint64_t *seen)
{
    int got = sigsetjmp(back, 1);
    if (got == 0)
        run(seen);
    return got;
}

static void s_cpuid(uint64_t *s) { uint32_t a = 0, b, c = 0, d; __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d)); s[0] = b; s[1] = a; }
static void s_rdtsc(uint64_t *s) { s[0] = __builtin_ia32_rdtsc(); }
static void s_rdtscp(uint64_t *s) { unsigned c; s[0] = __builtin_ia32_rdtscp(&c); s[1] = c; }
static void s_rdpid(uint64_t *s) { __asm__ volatile(".byte 0xf3,0x0f,0xc7,0xf8" : "=a"(s[0])); }
static void s_lsl(uint64_t *s) { uint64_t v = 0; __asm__ volatile("lsl %1, %0" : "+r"(v) : "r"(0x7bul)); s[0] = v; }
static void s_lar(uint64_t *s) { uint64_t v = 0; __asm__ volatile("lar %1, %0" : "+r"(v) : "r"(0x33ul)); s[0] = v; }
static void s_xgetbv(uint64_t *s) { uint32_t a, d; __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0)); s[0] = a; }
static void s_sgdt(uint64_t *s) { struct { uint16_t l; uint64_t b; } __attribute__((packed)) t; __asm__ volatile("sgdt %0" : "=m"(t)); s[0] = t.b; s[1] = t.l; }
static void s_sidt(uint64_t *s) { struct { uint16_t l; uint64_t b; } __attribute__((packed)) t; __asm__ volatile("sidt %0" : "=m"(t)); s[0] = t.b; s[1] = t.l; }
static void s_sldt(uint64_t *s) { uint64_t v = 0; __asm__ volatile("sldt %0" : "+r"(v)); s[0] = v; }
static void s_str(uint64_t *s) { uint64_t v = 0; __asm__ volatile("str %0" : "+r"(v)); s[0] = v; }
static void s_smsw(uint64_t *s) { uint64_t v = 0; __asm__ volatile("smsw %0" : "+r"(v)); s[0] = v; }
static void s_rdpmc(uint64_t *s) { uint32_t a, d; __asm__ volatile("rdpmc" : "=a"(a), "=d"(d) : "c"(0)); s[0] = a; }
static void s_rdpru(uint64_t *s) { uint32_t a, d; __asm__ volatile(".byte 0x0f,0x01,0xfd" : "=a"(a), "=d"(d) : "c"(0)); s[0] = a; }
static void s_vmmcall(uint64_t *s) { uint64_t a = ~0ul; __asm__ volatile("vmmcall" : "+a"(a)::"memory"); s[0] = a; }
static void s_rdpkru(uint64_t *s) { uint32_t a, d; __asm__ volatile(".byte 0x0f,0x01,0xee" : "=a"(a), "=d"(d) : "c"(0)); s[0] = a; }
static void s_cli(uint64_t *s) { __asm__ volatile("cli"); s[0] = 0; }
static void s_in(uint64_t *s) { uint8_t a; __asm__ volatile("inb $0x80, %0" : "=a"(a)); s[0] = a; }
/* POPF with IF clear and IOPL 3, and what PUSHF says then: silence where a guest's kernel could have let it. */
static void s_popf(uint64_t *s) { __asm__ volatile("pushf; pop %%rax; and $~0x200,%%eax; or $0x3000,%%eax; push %%rax; popf; pushf; pop %0; " : "=r"(s[0])::"rax", "memory"); s[0] &= 0x3200; }
static void s_vsyscall(uint64_t *s) { s[0] = ((long (*)(void *))0xffffffffff600400)(NULL); }

static const struct { const char *name; void (*run)(uint64_t *); } instructions[] = {
    {"cpuid", s_cpuid}, {"rdtsc", s_rdtsc}, {"rdtscp", s_rdtscp}, {"rdpid", s_rdpid}, {"lsl", s_lsl}, {"lar", s_lar},
    {"xgetbv", s_xgetbv}, {"sgdt", s_sgdt}, {"sidt", s_sidt}, {"sldt", s_sldt}, {"str", s_str}, {"smsw", s_smsw},
    {"rdpmc", s_rdpmc}, {"rdpru", s_rdpru}, {"vmmcall", s_vmmcall}, {"rdpkru", s_rdpkru}, {"cli", s_cli}, {"in", s_in},
    {"popf-if-iopl", s_popf}, {"vsyscall-time", s_vsyscall},
};

static void look(void)
{
    for (int signal = 1; signal < 32; signal++)
        if (signal == SIGSEGV || signal == SIGILL || signal == SIGBUS || signal == SIGTRAP || signal == SIGSYS)
            listen_to(signal, on_any);
    for (size_t n = 0; n < sizeof instructions / sizeof *instructions; n++) {
        uint64_t seen[2] = {0, 0};
        int signal = faults(instructions[n].run, seen);
        if (signal)
            printf("sees %s traps %s\n", instructions[n].name, strsignal(signal));
        else
            printf("sees %s runs %llx %llx\n", instructions[n].name, (unsigned long long)seen[0], (unsigned long long)seen[1]);
    }
    errno = 0;
    long cpuid = syscall(SYS_arch_prctl, 0x1012, 0);
    printf("sees cpuid-faulting %s\n", cpuid == 0 ? "possible" : strerror(errno));
    uint64_t seen[2];
    if (cpuid == 0)
        printf("sees cpuid-when-asked %s\n", faults(s_cpuid, seen) ? "traps" : "runs");
    int refused = prctl(PR_SET_TSC, PR_TSC_SIGSEGV, 0, 0, 0);
    int by_rdtsc = faults(s_rdtsc, seen), by_rdtscp = faults(s_rdtscp, seen), by_rdpid = faults(s_rdpid, seen);
    prctl(PR_SET_TSC, PR_TSC_ENABLE, 0, 0, 0);
    printf("sees tsc-when-asked rdtsc %s, rdtscp %s, rdpid %s\n", refused ? "refused" : by_rdtsc ? "traps" : "runs", by_rdtscp ? "traps" : "runs", by_rdpid ? "traps" : "runs");
    printf("sees indirect-branch-control %s\n", prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_INDIRECT_BRANCH, PR_SPEC_FORCE_DISABLE, 0, 0) == 0 ? "forced" : strerror(errno));
    printf("sees store-bypass-control %s\n", prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, PR_SPEC_FORCE_DISABLE, 0, 0) == 0 ? "forced" : strerror(errno));
    printf("sees core-scheduling %s\n", prctl(62, 1, 0, 0, 0) == 0 ? "possible" : strerror(errno));
}

/* A stream over a page's worth of memory, as the host's MMU would have it and with a software TLB's look before each access. */
static uint64_t tags[512] __attribute__((aligned(4096))), data_[2048] __attribute__((aligned(4096)));

static void bare_loop(int n)
{
    (void)n;
    uint64_t *at = data_, sum = 0, *end = data_ + 2048;
    __asm__ volatile("1: mov (%0),%%rax\n add %%rax,%1\n mov %1,(%0)\n add $8,%0\n cmp %2,%0\n jne 1b" : "+r"(at), "+r"(sum) : "r"(end) : "rax", "memory", "cc");
}

#define LOOK(use) \
    "mov %0,%%rcx\n shr $12,%%rcx\n and $511,%%ecx\n mov (%3,%%rcx,8),%%rcx\n xor %0,%%rcx\n cmp $4088,%%rcx\n ja 2f\n" use
static void checked_loop(int n)
{
    (void)n;
    uint64_t *at = data_, sum = 0, *end = data_ + 2048;
    for (uint64_t *page = data_; page < end; page += 512)
        tags[((uintptr_t)page >> 12) & 511] = (uintptr_t)page;
    __asm__ volatile("1:\n" LOOK("add %4,%%rcx\n mov (%0),%%rax\n add %%rax,%1\n") LOOK("add %4,%%rcx\n mov %1,(%0)\n") "add $8,%0\n cmp %2,%0\n jne 1b\n 2:" : "+r"(at), "+r"(sum) : "r"(end), "r"(tags), "r"(0ul) : "rax", "rcx", "memory", "cc");
}

static void bare_chase(int n)
{
    (void)n;
    void **at = (void **)data_;
    for (int i = 0; i < 2048; i++)
        __asm__ volatile("mov (%0),%0" : "+r"(at)::"memory");
}

static void checked_chase(int n)
{
    (void)n;
    void **at = (void **)data_;
    for (int i = 0; i < 2048; i++)
        __asm__ volatile("mov %0,%%rcx\n shr $12,%%rcx\n and $511,%%ecx\n mov (%1,%%rcx,8),%%rcx\n xor %0,%%rcx\n cmp $4088,%%rcx\n ja 2f\n"
                         "and $-4096,%0\n mov (%0,%%rcx),%0\n 2:" : "+r"(at) : "r"(tags) : "rcx", "memory", "cc");
}

static void loops(const char *name)
{
    (void)name;
    report("loop-2048-load-add-store-bare", bare_loop);
    report("loop-2048-load-add-store-checked", checked_loop);
    for (int i = 0; i < 2048; i++)
        data_[i] = (uintptr_t)(data_ + (i + 577) % 2048);
    report("loop-2048-chase-bare", bare_chase);
    report("loop-2048-chase-checked", checked_chase);
}

int main(void)
{
    apart("system-call-nobody-knows", plain);
    apart("seccomp-trap-sigsys", trap);
    apart("user-dispatch-sigsys", dispatch);
    apart("ptrace-sysemu-same-cpu", sysemu);
    apart("ptrace-sysemu-other-cpu", sysemu_far);
    apart("user-notif-same-cpu", notify);
    apart("user-notif-other-cpu", notify_far);
    apart("hand-off-spin-other-cpu", spin);
    apart("hand-off-futex-same-cpu", futex);
    apart("hand-off-futex-other-cpu", futex_far);
    apart("mirror-fault-1-page", mirror_1);
    apart("mirror-fault-16-pages-each", mirror_16);
    apart("mirror-fault-512-pages-each", mirror_512);
    apart("write-protect-and-fault", protect);
    apart("unmap-and-map-1-page", unmap);
    apart("fork-exit-wait", space);
    apart("fs-gs-base-read-write", carried_bases);
    apart("xsave-xrstor", carried);
    apart("loops", loops);
    look();
    return 0;
}
