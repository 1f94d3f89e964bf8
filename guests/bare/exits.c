/*
 * What it costs to leave the guest: ticks of the TSC for one access of each kind, the best of several rounds.
 *
 *   pio      OUT to the POST port          mmio     a load from the IOAPIC
 *   msr      RDMSR of MTRR_CAP             cpuid    CPUID
 *   self     an interrupt to itself, from the ICR's write to the handler
 *   wake     HLT until the APIC's timer, from when it was due to the handler
 *   ipi      to the other processor, which spins, and back from its handler: a whole round
 *   ipi-halt the same with a processor that halts until it comes
 *
 * The last two are left out where there is one processor.
 */
#include "console.h"

struct __attribute__((packed)) pointer {
    u16 limit;
    u64 base;
};
static volatile u64 idt[512] __attribute__((aligned(16)));
static volatile u64 high[512] __attribute__((aligned(4096)));
extern u64 pdpt[];
volatile u64 arrived;

__asm__(".text\n.globl arrive\narrive:\n"
        "  pushq %rax\n  pushq %rcx\n  pushq %rdx\n"
        "  rdtsc\n  shlq $32, %rdx\n  orq %rdx, %rax\n  movq %rax, arrived(%rip)\n"
        /* end of interrupt: x2APIC register 0xb */
        "  movl $0x80b, %ecx\n  xorl %eax, %eax\n  xorl %edx, %edx\n  wrmsr\n"
        "  popq %rdx\n  popq %rcx\n  popq %rax\n  iretq\n");
extern char arrive[];

static inline u64 rdmsr(u32 number)
{
    u32 low, upper;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(upper) : "c"(number));
    return (u64)upper << 32 | low;
}
static inline void wrmsr(u32 number, u64 value)
{
    __asm__ volatile("wrmsr" : : "c"(number), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}
static inline u64 now(void)
{
    u32 low, upper;
    __asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(upper)::"memory");
    return (u64)upper << 32 | low;
}

static void put_number(u64 value)
{
    char digits[20];
    int n = 0;
    do
        digits[n++] = '0' + value % 10;
    while (value /= 10);
    while (n)
        put_char(digits[--n]);
}

static void result(const char *name, u64 ticks)
{
    put("ticks ");
    put(name);
    put(" ");
    put_number(ticks);
    put("\n");
}

static void pio(void) { out8(0x80, 0); }
static void mmio(void) { (void)*(volatile u32 *)0xfec00000; }
static void msr(void) { rdmsr(0xfe); }
static void cpuid(void)
{
    u32 a = 0, b, c, d;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "=c"(c), "=d"(d)::"memory");
}

#define ROUNDS 20
#define TIMES 100

static void measure(const char *name, void (*act)(void))
{
    u64 best = ~0ul;
    for (int round = 0; round < ROUNDS; round++) {
        u64 start = now();
        for (int n = 0; n < TIMES; n++)
            act();
        u64 ticks = (now() - start) / TIMES;
        if (ticks < best)
            best = ticks;
    }
    result(name, best);
}

static void self(void)
{
    u64 best = ~0ul;
    for (int round = 0; round < ROUNDS * 10; round++) {
        arrived = 0;
        u64 start = now();
        wrmsr(0x830, 1 << 18 | 0x40);
        while (!arrived)
            __asm__ volatile("pause" ::: "memory");
        if (arrived - start < best)
            best = arrived - start;
    }
    result("self", best);
}

static void wake(void)
{
    u64 best = ~0ul;
    wrmsr(0x832, 2 << 17 | 0x40);
    for (int round = 0; round < ROUNDS; round++) {
        arrived = 0;
        u64 due = now() + 5000000;
        __asm__ volatile("cli");
        wrmsr(0x6e0, due);
        /* The interrupt comes behind HLT at the earliest. */
        __asm__ volatile("sti; hlt; cli" ::: "memory");
        __asm__ volatile("sti");
        if (arrived > due && arrived - due < best)
            best = arrived - due;
    }
    result("wake", best);
}

/* From real mode at 0x8000 to `second`, with the tables of the first processor. */
__asm__(".globl trampoline, trampoline_end\n"
        ".code16\ntrampoline:\n"
        "  cli\n  xorw %ax, %ax\n  movw %ax, %ds\n"
        "  lgdtl 0x8000 + trampoline_gdtr - trampoline\n"
        "  movl $0x20, %eax\n  movl %eax, %cr4\n"
        "  movl $pml4, %eax\n  movl %eax, %cr3\n"
        "  movl $0xc0000080, %ecx\n  rdmsr\n  orl $0x100, %eax\n  wrmsr\n"
        "  movl $0x80000011, %eax\n  movl %eax, %cr0\n"
        "  ljmpl $8, $1f\n"
        "trampoline_gdtr:\n  .word 15\n  .long trampoline_gdt\n"
        "trampoline_end:\n"
        ".code64\n1:\n"
        "  xorl %eax, %eax\n  movl %eax, %ds\n  movl %eax, %es\n  movl %eax, %ss\n"
        "  movq $second_stack + 8192, %rsp\n  call second\n"
        ".balign 16\ntrampoline_gdt:\n  .quad 0\n  .quad 0x00af9b000000ffff\n"
        /* The second processor answers vector 0x41 with vector 0x42 to the first. */
        ".globl answer, back\nanswer:\n"
        "  pushq %rax\n  pushq %rcx\n  pushq %rdx\n"
        "  movl $0x80b, %ecx\n  xorl %eax, %eax\n  xorl %edx, %edx\n  wrmsr\n"
        "  movl $0x830, %ecx\n  movl $0x42, %eax\n  xorl %edx, %edx\n  wrmsr\n"
        "  popq %rdx\n  popq %rcx\n  popq %rax\n  iretq\n"
        "back:\n  jmp arrive\n");
extern char trampoline[], trampoline_end[], answer[], back[];
char second_stack[8192] __attribute__((aligned(16)));
static struct pointer idtr;
static volatile u64 is_up, halts;

static void set_gate(int vector, char *handler)
{
    u64 at = (u64)handler;
    idt[vector * 2] = (at & 0xffff) | 8ul << 16 | 0x8e00ul << 32 | (at >> 16 & 0xffff) << 48;
    idt[vector * 2 + 1] = at >> 32;
}

__attribute__((used)) void second(void)
{
    __asm__ volatile("lidt %0" : : "m"(idtr));
    wrmsr(0x1b, rdmsr(0x1b) | 0xc00);
    wrmsr(0x80f, 0x1ff);
    __asm__ volatile("sti");
    is_up = 1;
    for (;;) {
        if (halts)
            __asm__ volatile("hlt" ::: "memory");
        else
            __asm__ volatile("pause" ::: "memory");
    }
}

static void wait_ticks(u64 ticks)
{
    u64 end = now() + ticks;
    while (now() < end)
        __asm__ volatile("pause" ::: "memory");
}

/* Whether there is a second processor, which runs then. */
static int start_second(void)
{
    for (char *from = trampoline, *to = (char *)0x8000; from < trampoline_end; from++)
        *to++ = *from;
    wrmsr(0x830, 1ul << 32 | 0x4500);
    wait_ticks(30000000);
    wrmsr(0x830, 1ul << 32 | 0x4608);
    for (int n = 0; n < 200 && !is_up; n++)
        wait_ticks(10000000);
    return is_up;
}

static void ipi(const char *name, u64 with_halt)
{
    u64 best = ~0ul;
    halts = with_halt;
    for (int round = 0; round < ROUNDS * 5; round++) {
        /* It has gone to sleep again. */
        wait_ticks(with_halt ? 2000000 : 100000);
        arrived = 0;
        u64 start = now();
        wrmsr(0x830, 1ul << 32 | 0x41);
        while (!arrived)
            __asm__ volatile("pause" ::: "memory");
        if (arrived - start < best)
            best = arrived - start;
    }
    result(name, best);
}

void guest_main(void)
{
    idtr = (struct pointer){ sizeof idt - 1, (u64)idt };
    set_gate(0x40, arrive);
    set_gate(0x41, answer);
    set_gate(0x42, back);
    __asm__ volatile("lidt %0" : : "m"(idtr));
    /* The last 2 MiB pages below 4 GiB hold the IOAPIC. */
    for (u64 n = 0; n < 512; n++)
        high[n] = (0xc0000000ul + n * 0x200000) | 0x9b;
    pdpt[3] = (u64)high | 7;
    /* The 8259 pair says nothing; x2APIC mode, enabled. */
    out8(0x21, 0xff);
    out8(0xa1, 0xff);
    wrmsr(0x1b, rdmsr(0x1b) | 0xc00);
    wrmsr(0x80f, 0x1ff);
    __asm__ volatile("sti");
    measure("pio", pio);
    measure("mmio", mmio);
    measure("msr", msr);
    measure("cpuid", cpuid);
    self();
    wake();
    if (start_second()) {
        ipi("ipi", 0);
        ipi("ipi-halt", 1);
    }
    leave(0x10);
}
