/* Signals, threads, processes, single steps, and 32-bit code inside a 64-bit program. */
#include "suite.h"
#include <pthread.h>
#include <sched.h>
#include <ucontext.h>

static sigjmp_buf back;
static volatile uint64_t fault_address;
static volatile int fault_signal, fault_code, fault_trap;
static volatile uint64_t fault_error;

static void on_fault(int signal, siginfo_t *info, void *context)
{
    /* A handler is entered with the alignment check on, if it was on. */
    __asm__ volatile("pushfq\n andl $~0x40000, (%%rsp)\n popfq" : : : "cc", "memory");
    ucontext_t *state = context;
    fault_signal = signal;
    fault_code = info->si_code;
    fault_address = (uint64_t)info->si_addr;
    fault_trap = state->uc_mcontext.gregs[REG_TRAPNO];
    fault_error = state->uc_mcontext.gregs[REG_ERR];
    siglongjmp(back, 1);
}

static void handle(int signal, void (*handler)(int, siginfo_t *, void *))
{
    struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK };
    sigaction(signal, &action, NULL);
}

static uint8_t *base;

#define FAULT(name, statement)                                                                       \
    do {                                                                                             \
        fault_signal = 0;                                                                            \
        if (!sigsetjmp(back, 1)) {                                                                   \
            statement;                                                                               \
        }                                                                                            \
        uint64_t offset = fault_address - (uint64_t)base;                                            \
        printf(name ": signal %d code %d trap %d error %lx", fault_signal, fault_code, fault_trap, fault_error); \
        if (fault_signal == SIGSEGV && fault_trap == 14)                                             \
            printf(" at %s%lx", offset < 0x100000 ? "+" : "", offset < 0x100000 ? offset : fault_address); \
        printf("\n");                                                                                \
    } while (0)

static volatile uint64_t skipped;
static void on_skip(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)info;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2;
    skipped++;
}

void signals(void)
{
    static uint8_t stack[1 << 16];
    sigaltstack(&(stack_t){ .ss_sp = stack, .ss_size = sizeof stack }, NULL);
    static const int wanted[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP };
    for (size_t index = 0; index < 5; index++)
        handle(wanted[index], on_fault);
    base = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(base, 0x90, 16 * PAGE);
    mprotect(base + PAGE, PAGE, PROT_READ);
    mprotect(base + 2 * PAGE, PAGE, PROT_NONE);
    munmap(base + 4 * PAGE, PAGE);
    volatile uint8_t *at = base;
    volatile int zero = 0;
    FAULT("write to a read-only page", at[PAGE + 123] = 1);
    FAULT("write across into a read-only page", *(volatile uint64_t *)(at + PAGE - 3) = 1);
    FAULT("write to an unmapped page", at[4 * PAGE + 7] = 1);
    FAULT("read of an unmapped page", (void)at[4 * PAGE + 4095]);
    FAULT("read of null", (void)*(volatile int *)(uint64_t)zero);
    FAULT("call of data", ((void (*)(void))(base + 5))());
    FAULT("call of nothing", ((void (*)(void))(base + 4 * PAGE + 1))());
    FAULT("read of a non-canonical address", (void)*(volatile int *)0x8000000000000000);
    FAULT("read-modify-write of a read-only page", __atomic_fetch_add((int *)(base + PAGE + 8), 1, __ATOMIC_SEQ_CST));
    FAULT("division by zero", __asm__ volatile("xorl %%ecx, %%ecx\n divl %%ecx" : : : "rax", "rcx", "rdx", "cc"));
    FAULT("ud2", __asm__ volatile("ud2"));
    FAULT("hlt", __asm__ volatile("hlt"));
    FAULT("in", __asm__ volatile("inb $0x80, %%al" : : : "rax"));
    FAULT("int3", __asm__ volatile("int3"));
    FAULT("movaps unaligned", __asm__ volatile("movaps %%xmm0, (%0)" : : "r"(base + 1) : "memory"));
    FAULT("unmasked SSE exception", ({
              uint32_t control = 0x1f80 & ~0x200;
              __asm__ volatile("ldmxcsr %0\n pxor %%xmm0, %%xmm0\n movss %1, %%xmm1\n divss %%xmm0, %%xmm1" : : "m"(control), "m"((float){ 1 }) : "xmm0", "xmm1");
          }));
    __asm__ volatile("ldmxcsr %0" : : "m"((uint32_t){ 0x1f80 }));
    FAULT("unmasked x87 exception", ({
              uint16_t control = 0x37b;
              __asm__ volatile("fldcw %0\n fld1\n fldz\n fdivrp\n fwait" : : "m"(control));
          }));
    __asm__ volatile("fninit");
    FAULT("alignment check", __asm__ volatile("pushfq\n orl $0x40000, (%%rsp)\n popfq\n movl 1(%0), %%eax\n" : : "r"(base) : "rax", "cc", "memory"));
    __asm__ volatile("pushfq\n andl $~0x40000, (%%rsp)\n popfq" : : : "cc", "memory");
    FAULT("push to nowhere", __asm__ volatile("movq %%rsp, %%rbx\n movq %0, %%rsp\n popq %%rax\n movq %%rbx, %%rsp" : : "r"(base + 4 * PAGE) : "rax", "rbx", "memory"));
    handle(SIGILL, on_skip);
    for (int round = 0; round < 1000; round++)
        __asm__ volatile("ud2");
    printf("skipped %lu\n", skipped);
    jmp_buf place;
    volatile int rounds = 0;
    while (setjmp(place) < 1000) {
        rounds++;
        longjmp(place, rounds);
    }
    printf("setjmp %d\n", rounds);
    munmap(base, 16 * PAGE);
}

static atomic_ulong counter;
static uint64_t plain;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static _Thread_local uint64_t mine;

static void *work(void *number)
{
    for (uint64_t round = 0; round < 20000; round++) {
        atomic_fetch_add(&counter, round & 3);
        mine += round ^ (uint64_t)number;
        if (round % 16 == 0) {
            pthread_mutex_lock(&lock);
            plain += 1;
            pthread_mutex_unlock(&lock);
        }
        if (round % 1000 == 0)
            sched_yield();
    }
    return (void *)mine;
}

void threads(void)
{
    pthread_t all[8];
    uint64_t hash = 0;
    for (uint64_t number = 0; number < 8; number++)
        pthread_create(&all[number], NULL, work, (void *)number);
    for (int number = 0; number < 8; number++) {
        void *result;
        pthread_join(all[number], &result);
        hash = mix(hash, (uint64_t)result);
    }
    printf("atomic %lu locked %lu own %016lx\n", atomic_load(&counter), plain, hash);
    unsigned __int128 wide __attribute__((aligned(16))) = 5, expected = 5;
    uint8_t done;
    __asm__("lock cmpxchg16b %0\n sete %1" : "+m"(wide), "=q"(done), "+A"(expected) : "b"(7ul), "c"(8ul) : "cc");
    printf("cmpxchg16b %d %lu %lu\n", done, (uint64_t)wide, (uint64_t)(wide >> 64));
}

static volatile uint64_t number_of_null = 8;

void processes(const char *self)
{
    int sum = 0;
    for (int number = 0; number < 40; number++) {
        fflush(stdout);
        pid_t child = fork();
        if (child == 0)
            _exit(number);
        int status;
        waitpid(child, &status, 0);
        sum += WEXITSTATUS(status);
    }
    printf("forked %d\n", sum);
    for (int number = 1; number < 4; number++) {
        char word[8];
        snprintf(word, sizeof word, "%d", number);
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            execl(self, self, "child", word, NULL);
            _exit(99);
        }
        int status;
        waitpid(child, &status, 0);
        printf("child left %d\n", WEXITSTATUS(status));
    }
    int *shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int *private = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *shared = *private = 1;
    fflush(stdout);
    if (fork() == 0) {
        *shared = *private = 2;
        _exit(0);
    }
    wait(NULL);
    printf("shared %d private %d\n", *shared, *private);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        *(volatile int *)(uint64_t)number_of_null = 1;
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    printf("killed by %d\n", WTERMSIG(status));
}

static volatile uint64_t step_count, step_hash, step_base;
static void on_step(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)info;
    step_count++;
    step_hash = mix(step_hash, ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] - step_base);
}

void steps(void)
{
    handle(SIGTRAP, on_step);
    uint8_t area[16];
    void *to = area;
    uint64_t count = 5;
    __asm__ volatile("leaq 1f(%%rip), %%rax\n movq %%rax, %2\n"
                     "1: pushfq\n orl $0x100, (%%rsp)\n popfq\n nop\n xorl %%eax, %%eax\n rep stosb\n cpuid\n movl $39, %%eax\n syscall\n"
                     "call 2f\n jmp 3f\n 2: ret\n 3: pushfq\n andl $~0x100, (%%rsp)\n popfq\n nop"
                     : "+D"(to), "+c"(count), "=m"(step_base) : : "rax", "rbx", "rdx", "r11", "memory", "cc");
    printf("steps %lu %016lx\n", step_count, step_hash);
}

/* 32-bit code in a low page, reached and left by far branches. */
extern const uint8_t narrow_code[], narrow_code_end[];
__asm__(".pushsection .rodata\n.code32\n"
        "narrow_code:\n"
        "  movl $0xffffffff, %eax\n  incl %eax\n  setz %al\n  movzbl %al, %eax\n"
        "  movl $1000, %ecx\n"
        "1: leal 3(%eax, %eax, 2), %eax\n  rorl %cl, %eax\n  loop 1b\n"
        "  pushal\n  popal\n  pushl %eax\n  addl $7, (%esp)\n  popl %eax\n"
        "  movl %eax, %edx\n  aam\n  aad\n  addb $0x37, %al\n  daa\n  xorl %edx, %eax\n"
        "  lret\n"
        "narrow_code_end:\n.code64\n.popsection\n");

void narrow(void)
{
    uint8_t *low = mmap((void *)0x40000000, 2 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    if (low == MAP_FAILED || (uint64_t)low >> 31)
        abort();
    memcpy(low, narrow_code, narrow_code_end - narrow_code);
    struct __attribute__((packed)) {
        uint32_t offset;
        uint16_t selector;
    } target = { (uint32_t)(uint64_t)low, 0x23 };
    uint64_t result, stack = (uint64_t)low + 2 * PAGE - 64;
    __asm__ volatile("movq %%rsp, %%r12\n movq %%rbp, %%r13\n movl $0x2b, %%ecx\n movl %%ecx, %%ds\n movl %%ecx, %%es\n movq %2, %%rsp\n lcall *(%1)\n movq %%r12, %%rsp\n movq %%r13, %%rbp"
                     : "=a"(result) : "r"(&target), "r"(stack) : "rcx", "rdx", "rbx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "memory", "cc");
    printf("32-bit code %lx\n", result);
}
