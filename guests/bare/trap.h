/*
 * Traps of the processor guest: descriptor tables, 256 gates, and a way to run a few instructions and see how they
 * fault.
 */
#ifndef TRAP_H
#define TRAP_H

#include "console.h"

struct __attribute__((packed)) pointer {
    u16 limit;
    u64 base;
};

/* What the gate saved, and CR2. */
struct trap {
    u64 vector, error, rip, cs, rflags, rsp, ss, cr2, frame, rax;
};

/* Selectors, in the order that SYSCALL and SYSRET want. */
enum {
    KERNEL_CS = 0x08,
    KERNEL_SS = 0x10,
    USER32_CS = 0x1b,
    USER_SS = 0x23,
    USER_CS = 0x2b,
    KERNEL32_CS = 0x30,
    ABSENT_DATA = 0x38,
    TSS_SELECTOR = 0x40,
    SMALL_DATA = 0x53,
    GDT_ENTRIES = 11
};

extern struct trap trap;
/* How often a gate was entered since `trap.vector` was last set to NONE. */
extern u64 trap_count;
extern u64 recover_rip, recover_rsp;
extern volatile u64 gdt[GDT_ENTRIES], idt[512], tss[13];
extern u8 ist1_stack[], ist2_stack[];
#define NONE 255

void traps_init(void);
void set_gate(int vector, void *handler, u64 dpl, u64 ist);
extern char gates[];

/*
 * Runs assembly; a fault in it is noted in `trap` and goes on behind it. r8 to r15 may be used freely by it, and are
 * kept by nobody. `trap.rip` is then relative to its first instruction.
 */
#define TRY(text, ...)                                                                                       \
    do {                                                                                                     \
        u64 first_;                                                                                          \
        trap.vector = NONE;                                                                                  \
        trap.error = trap.cr2 = trap.rip = trap_count = 0;                                                   \
        __asm__ volatile("leaq 2f(%%rip), %%rax\n\tmovq %%rax, recover_rip(%%rip)\n\t"                       \
                         "movq %%rsp, recover_rsp(%%rip)\n\tleaq 1f(%%rip), %%rax\n\tpushq %%rax\n\t"        \
                         "popq %0\n"                                                                         \
                         "1:\t" text "\n2:\tcld\n"                                                           \
                         : "=&m"(first_)                                                                     \
                         : __VA_ARGS__                                                                       \
                         : "rax", "rcx", "rdx", "rbx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11", "memory", "cc"); \
        recover_rip = 0;                                                                                     \
        trap_first = first_;                                                                                 \
    } while (0)

extern u64 trap_first;

/* One line: what happened in the last TRY. */
void report(const char *what);
/* One line with numbers. */
void say(const char *what, u64 value);
void say2(const char *what, u64 one, u64 two);

#endif
