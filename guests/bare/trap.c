/* See trap.h. */
#include "trap.h"

struct trap trap;
u64 trap_count, trap_first;
u64 recover_rip, recover_rsp;
volatile u64 gdt[GDT_ENTRIES] __attribute__((aligned(16)));
volatile u64 idt[512] __attribute__((aligned(16)));
volatile u64 tss[13] __attribute__((aligned(64)));
u8 ist1_stack[4096] __attribute__((aligned(16)));
u8 ist2_stack[4096] __attribute__((aligned(16)));
static u8 ring0_stack[8192] __attribute__((aligned(16)));

/*
 * 256 gates of 16 bytes. Vectors with an error code have it pushed already. The common part notes everything and goes
 * to the recovery point, or, if there is none, returns (for traps that are only counted).
 */
__asm__(".text\n.balign 16\n.globl gates\ngates:\n"
        ".set vector, 0\n"
        ".rept 256\n"
        "  .balign 16\n"
        "  .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17)\n"
        "  .else\n"
        "    pushq $0\n"
        "  .endif\n"
        "  pushq $vector\n"
        "  jmp common_gate\n"
        "  .set vector, vector + 1\n"
        ".endr\n"
        "common_gate:\n"
        "  pushq %rax\n"
        "  incq trap_count(%rip)\n"
        "  movq 8(%rsp), %rax\n  movq %rax, trap+0(%rip)\n"
        "  movq 16(%rsp), %rax\n movq %rax, trap+8(%rip)\n"
        "  movq 24(%rsp), %rax\n movq %rax, trap+16(%rip)\n"
        "  movq 32(%rsp), %rax\n movq %rax, trap+24(%rip)\n"
        "  movq 40(%rsp), %rax\n movq %rax, trap+32(%rip)\n"
        "  movq 48(%rsp), %rax\n movq %rax, trap+40(%rip)\n"
        "  movq 56(%rsp), %rax\n movq %rax, trap+48(%rip)\n"
        "  movq %cr2, %rax\n movq %rax, trap+56(%rip)\n"
        "  leaq 64(%rsp), %rax\n movq %rax, trap+64(%rip)\n"
        "  movq 0(%rsp), %rax\n movq %rax, trap+72(%rip)\n"
        "  cmpq $0, recover_rip(%rip)\n"
        "  je 1f\n"
        "  movq recover_rsp(%rip), %rsp\n"
        "  xorl %eax, %eax\n"
        "  movl %eax, %ds\n  movl %eax, %es\n"
        "  movl $0x10, %eax\n  movl %eax, %ss\n"
        "  pushq $0x08\n  pushq recover_rip(%rip)\n"
        "  pushq $2\n  popfq\n"
        "  lretq\n"
        "1: popq %rax\n  addq $16, %rsp\n  iretq\n");

void set_gate(int vector, void *handler, u64 dpl, u64 ist)
{
    u64 at = (u64)handler;
    idt[vector * 2] = (at & 0xffff) | (u64)KERNEL_CS << 16 | (0x8e00ul | dpl << 13 | ist) << 32 | (at >> 16 & 0xffff) << 48;
    idt[vector * 2 + 1] = at >> 32;
}

void traps_init(void)
{
    struct pointer gdtr = { sizeof gdt - 1, (u64)gdt };
    struct pointer idtr = { sizeof idt - 1, (u64)idt };
    u64 at = (u64)tss;
    gdt[KERNEL_CS / 8] = 0x00af9b000000ffff;
    gdt[KERNEL_SS / 8] = 0x00cf93000000ffff;
    gdt[USER32_CS / 8] = 0x00cffb000000ffff;
    gdt[USER_SS / 8] = 0x00cff3000000ffff;
    gdt[USER_CS / 8] = 0x00affb000000ffff;
    gdt[KERNEL32_CS / 8] = 0x00cf9b000000ffff;
    gdt[ABSENT_DATA / 8] = 0x00cf13000000ffff;
    gdt[TSS_SELECTOR / 8] = 0x0000890000000067 | (at & 0xffffff) << 16 | (at >> 24 & 0xff) << 56;
    gdt[TSS_SELECTOR / 8 + 1] = at >> 32;
    gdt[SMALL_DATA / 8] = 0x0040f30000000fff;
    /* RSP0, IST1 and IST2 lie at odd multiples of 4 in the TSS. */
    *(volatile u64 *)((u8 *)tss + 4) = (u64)ring0_stack + sizeof ring0_stack;
    *(volatile u64 *)((u8 *)tss + 36) = (u64)ist1_stack + sizeof ist1_stack;
    *(volatile u64 *)((u8 *)tss + 44) = (u64)ist2_stack + sizeof ist2_stack;
    *(volatile u16 *)((u8 *)tss + 102) = 104;
    for (int vector = 0; vector < 256; vector++)
        set_gate(vector, gates + vector * 16, vector == 3 || vector == 4 || vector >= 0x40 ? 3 : 0, 0);
    __asm__ volatile("lgdt %0\n\tlidt %1\n\tltr %w2\n\tlldt %w4\n\tmovl %k3, %%ss\n\t"
                     "pushq $8\n\tleaq 1f(%%rip), %%rax\n\tpushq %%rax\n\tlretq\n1:"
                     :
                     : "m"(gdtr), "m"(idtr), "r"(TSS_SELECTOR), "r"(KERNEL_SS), "r"(0)
                     : "rax", "memory");
}

void report(const char *what)
{
    put(what);
    if (trap.vector == NONE) {
        put(": no fault\n");
        return;
    }
    put(": vector ");
    put_hex(trap.vector);
    put(" code ");
    put_hex(trap.error);
    /* Only where the fault is inside the tried text does its place mean the same in every build. */
    if (trap.rip - trap_first < 64) {
        put(" at +");
        put_hex(trap.rip - trap_first);
    }
    if (trap.vector == 14) {
        put(" address ");
        put_hex(trap.cr2);
    }
    put("\n");
}

void say(const char *what, u64 value)
{
    put(what);
    put(": ");
    put_hex(value);
    put("\n");
}

void say2(const char *what, u64 one, u64 two)
{
    put(what);
    put(": ");
    put_hex(one);
    put(" ");
    put_hex(two);
    put("\n");
}
