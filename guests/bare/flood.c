/*
 * A guest at full tilt, for as long as it is let. Its first word on the command line says at what:
 *
 *   work        honest work: adds up a megabyte again and again, and prints a point for each piece of it
 *   busy        the same without a word
 *   console     prints without waiting for anything
 *   timers      every timer of the board at its shortest, and sleep between them
 *   ticks       the same, and no sleep
 *   interrupts  interrupts to itself, one after the other
 *   ports       ports that answer and ports that do not
 *   registers   memory behind which there is an interrupt controller, and memory behind which there is nothing
 *   strings     string instructions over both
 *   faults      page faults
 *   translation jumps through 40 MiB of code that was never run, at three addresses
 *   rewriting   runs code that it has just written
 *   spaces      a fresh address space for a few accesses
 *   memory      writes more memory than a cache holds
 *   locks       locked instructions across two lines of the cache
 *   caches      throws caches away
 *   resets      resets itself
 *   everything  new code at three addresses, fresh address spaces, code that changes, and a console that never stops, in turns
 */
#include "console.h"

extern u64 pdpt[];
static u64 high_pd[512] __attribute__((aligned(4096)));
static u64 more_pd[512] __attribute__((aligned(4096)));
static volatile u64 idt[512] __attribute__((aligned(16)));
u64 hits, recover_rip, recover_rsp;

struct __attribute__((packed)) pointer {
    u16 limit;
    u64 base;
};

/* An interrupt: ends it at the local APIC, by its MSR, and at both old controllers. */
__asm__(".text\n"
        ".globl tick\n"
        "tick:\n"
        "  incq hits(%rip)\n"
        "  push %rax\n  push %rcx\n  push %rdx\n"
        "  movl $0x80b, %ecx\n  xorl %eax, %eax\n  xorl %edx, %edx\n  wrmsr\n"
        "  movb $0x20, %al\n  outb %al, $0x20\n  outb %al, $0xa0\n"
        "  movb $0x0c, %al\n  outb %al, $0x70\n  inb $0x71, %al\n"
        "  pop %rdx\n  pop %rcx\n  pop %rax\n"
        "  iretq\n"
        /* A fault: goes on at the recovery point. */
        ".globl fault\n"
        "fault:\n"
        "  incq hits(%rip)\n"
        "  movq recover_rsp(%rip), %rsp\n"
        "  jmpq *recover_rip(%rip)\n");
extern char tick[], fault[];

static void load_idt(void)
{
    struct pointer idtr = { sizeof idt - 1, (u64)idt };
    for (int vector = 0; vector < 256; vector++) {
        u64 at = (u64)(vector < 32 ? fault : tick);
        idt[vector * 2] = (at & 0xffff) | 8ul << 16 | 0x8e00ul << 32 | (at >> 16 & 0xffff) << 48;
        idt[vector * 2 + 1] = at >> 32;
    }
    __asm__ volatile("lidt %0" : : "m"(idtr) : "memory");
}

static inline void write_msr(u32 number, u64 value)
{
    __asm__ volatile("wrmsr" : : "c"(number), "a"((u32)value), "d"((u32)(value >> 32)));
}

/* The fourth gigabyte, where devices are. */
static void map_devices(void)
{
    for (u64 i = 0; i < 512; i++)
        high_pd[i] = 0xc0000000ul + i * 0x200000 + 0x83;
    pdpt[3] = (u64)high_pd | 7;
}

/* The first one again, in the second and in the third. */
static void map_again(void)
{
    for (u64 i = 0; i < 512; i++)
        more_pd[i] = i * 0x200000 | 0x83;
    pdpt[1] = (u64)more_pd | 7;
    pdpt[2] = (u64)more_pd | 7;
}

static u64 work(void)
{
    volatile u64 *words = (u64 *)0x800000;
    u64 sum = 0;
    for (int pass = 0; pass < 16; pass++)
        for (u64 i = 0; i < 131072; i++)
            sum = sum * 3 + words[i];
    return sum;
}

/* Interrupts of the old controllers come where no fault does. */
static void move_interrupts(void)
{
    out8(0x20, 0x11);
    out8(0xa0, 0x11);
    out8(0x21, 0x20);
    out8(0xa1, 0x28);
    out8(0x21, 4);
    out8(0xa1, 2);
    out8(0x21, 1);
    out8(0xa1, 1);
}

static void start_timers(void)
{
    move_interrupts();
    write_msr(0x1b, 0xfee00d00);
    write_msr(0x80f, 0x1ff);
    write_msr(0x83e, 0xb);
    write_msr(0x832, 1 << 17 | 0x40);
    write_msr(0x838, 1);
    out8(0x43, 0x34);
    out8(0x40, 1);
    out8(0x40, 0);
    out8(0x70, 0x0a);
    out8(0x71, 0x21);
    out8(0x70, 0x0b);
    out8(0x71, 0x72);
    out8(0x21, 0);
    out8(0xa1, 0);
}

/* One access to an address where nothing is mapped. */
static void one_fault(void)
{
    __asm__ volatile("leaq 1f(%%rip), %%rax\n movq %%rax, recover_rip(%%rip)\n movq %%rsp, recover_rsp(%%rip)\n"
                     "movq %0, %%rax\n movl (%%rax), %%eax\n 1:"
                     :
                     : "r"(0x7f0000000000ul)
                     : "rax", "memory");
}

static void jump_through(u8 *area, u64 bytes, u64 times)
{
    map_again();
    for (u64 i = 0; i < bytes; i += 2) {
        area[i] = 0xeb;
        area[i + 1] = 0;
    }
    area[bytes - 2] = 0xc3;
    while (times--)
        for (u64 offset = 0; offset < 3; offset++)
            ((void (*)(void))(area + (offset << 30)))();
}

static void rewrite(u8 *area, u32 times)
{
    for (u32 value = 0; value < times; value++) {
        for (int i = 0; i < 4000; i += 5) {
            area[i] = 0xb8;
            *(u32 *)(area + i + 1) = value;
        }
        area[4000] = 0xc3;
        ((void (*)(void))area)();
    }
}

static void change_spaces(u64 times)
{
    u64 cr3;
    __asm__ volatile("movq %%cr3, %0" : "=r"(cr3));
    while (times--) {
        __asm__ volatile("movq %0, %%cr3" : : "r"(cr3) : "memory");
        for (u64 at = 0; at < 64; at++)
            (void)*(volatile u64 *)(0x1000000 + at * 4096);
    }
}

static int is(const char *word, const char *mode)
{
    while (*mode)
        if (*word++ != *mode++)
            return 0;
    return *word == 0 || *word == ' ';
}

void guest_main(u32 *info)
{
    const char *word = info[0] & 4 ? (const char *)(u64)info[4] : "";
    volatile u32 *nothing = (u32 *)0xd0000000ul;
    volatile u32 *controller = (u32 *)0xfec00000ul;
    u8 *area = (u8 *)0x1000000;
    for (const char *at = word; *at; at++)
        if (at[0] == ' ' && at[1])
            word = at + 1;
    put("flood: ");
    put(word);
    put("\n");
    load_idt();
    map_devices();
    if (is(word, "timers") || is(word, "ticks"))
        start_timers();
    if (is(word, "interrupts")) {
        write_msr(0x1b, 0xfee00d00);
        write_msr(0x80f, 0x1ff);
    }
    if (is(word, "translation"))
        jump_through(area, 40ul << 20, ~0ul);
    if (is(word, "rewriting"))
        rewrite(area, ~0u);
    if (is(word, "spaces"))
        change_spaces(~0ul);
    for (;;) {
        if (is(word, "work")) {
            work();
            put_char('.');
        } else if (is(word, "busy")) {
            work();
        } else if (is(word, "console")) {
            out8(0x3f8, 'x');
        } else if (is(word, "timers")) {
            __asm__ volatile("sti; hlt");
        } else if (is(word, "ticks")) {
            __asm__ volatile("sti");
            work();
        } else if (is(word, "interrupts")) {
            write_msr(0x830, 0x40040);
            write_msr(0x830, 0x00084000 | 0x41);
            __asm__ volatile("sti; nop; cli");
        } else if (is(word, "ports")) {
            out8(0x80, 0);
            (void)in32(0x1234);
            (void)in8(0x61);
        } else if (is(word, "registers")) {
            *nothing = 1;
            *controller = 1;
            (void)controller[4];
        } else if (is(word, "strings")) {
            u64 count = 1 << 16, to = (u64)nothing;
            __asm__ volatile("rep stosb" : "+c"(count), "+D"(to) : "a"(0) : "memory");
            count = 1 << 16, to = (u64)area;
            __asm__ volatile("rep insb" : "+c"(count), "+D"(to) : "d"(0x1234) : "memory");
        } else if (is(word, "faults")) {
            one_fault();
        } else if (is(word, "memory")) {
            for (u64 at = 0; at < 64ul << 20; at += 64)
                *(volatile u64 *)(area + at) = at;
        } else if (is(word, "locks")) {
            __asm__ volatile("lock; incq (%0)" : : "r"(area + 60) : "memory");
        } else if (is(word, "caches")) {
            __asm__ volatile("wbinvd" : : : "memory");
            __asm__ volatile("clflush (%0)" : : "r"(area) : "memory");
        } else if (is(word, "everything")) {
            jump_through(area, 4ul << 20, 1);
            change_spaces(10000);
            rewrite(area, 200);
            for (u32 i = 0; i < 1u << 20; i++)
                out8(0x3f8, 'x');
        } else if (is(word, "resets")) {
            out8(0xcf9, 6);
        } else {
            put("there is no such flood\n");
            leave(1);
        }
    }
}
