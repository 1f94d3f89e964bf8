/*
 * A guest that means harm. Its first word on the command line says which:
 *
 *   ports     writes and reads every port in every width, except those whose honest effect is to end the guest
 *   msrs      reads and writes thousands of model-specific registers, the known ranges completely
 *   control   random values to CR0, CR3, CR4, CR8, XCR0, EFER and the debug registers
 *   devices   random writes to the interrupt controllers' memory and to every page between RAM and 4 GiB
 *   faults    a page-fault handler that faults: an endless loop that only a time limit ends
 *   nowhere   jumps to unmapped and impossible addresses
 *   void      jumps to mapped pages that no memory is behind
 *   triple    loads an empty IDT and faults
 *   random    executes random bytes in ring 0
 *   nested    tries to be a hypervisor itself, with every instruction of SVM and VMX, and says what came of each
 *   emulate   has a device's memory as the operand of instructions that no device is for
 *
 * Modes that come to an end say `survived` and leave with 0x20; `random` and `void` may end in any way a processor can.
 */
#include "console.h"

struct __attribute__((packed)) pointer {
    u16 limit;
    u64 base;
};
static volatile u64 idt[512] __attribute__((aligned(16)));
u64 faults;
u64 recover_rip, recover_rsp;
static u64 seed = 0x9e3779b97f4a7c15;

static u64 random_bits(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x2545f4914f6cdd1d;
}

/* Every vector ends here: go on at the recovery point, whatever was pushed. */
__asm__(".text\n"
        ".globl any_fault\n"
        "any_fault:\n"
        "  incq faults(%rip)\n"
        "  movq recover_rsp(%rip), %rsp\n"
        "  pushq $2\n"
        "  popfq\n"
        "  jmpq *recover_rip(%rip)\n"
        /* a handler that faults itself, in the same way */
        ".globl bad_handler\n"
        "bad_handler:\n"
        "  addq $8, %rsp\n"
        "  iretq\n");
extern char any_fault[], bad_handler[];

static void set_gate(int vector, void *handler)
{
    u64 at = (u64)handler;
    idt[vector * 2] = (at & 0xffff) | 8ul << 16 | 0x8e00ul << 32 | (at >> 16 & 0xffff) << 48;
    idt[vector * 2 + 1] = at >> 32;
}

static void load_idt(void)
{
    struct pointer idtr = { sizeof idt - 1, (u64)idt };
    for (int vector = 0; vector < 256; vector++)
        set_gate(vector, any_fault);
    __asm__ volatile("lidt %0" : : "m"(idtr) : "memory");
}

/* Runs `statement`; a fault in it goes on behind it. */
#define SURVIVE(statement)                                                                        \
    do {                                                                                          \
        __asm__ volatile("leaq 1f(%%rip), %%rax\n movq %%rax, recover_rip(%%rip)\n"               \
                         "movq %%rsp, recover_rsp(%%rip)\n" statement "\n1:"                      \
                         :                                                                        \
                         : "r"(low), "r"(value)                                                   \
                         : "rax", "rcx", "rdx", "rbx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11", "memory"); \
    } while (0)

/* Ports whose honest effect is to end or reset the guest: debug exit, keyboard controller, fast A20, reset. */
static int ends_guest(u32 port)
{
    return (port >= 0xf4 && port < 0xf8) || port == 0x64 || port == 0x92 || (port >= 0xcf8 && port <= 0xcff) ||
           (port >= 0x600 && port < 0x700) || (port >= 0xb000 && port < 0xb100) || (port >= 0x400 && port < 0x500) ||
           (port >= 0x500 && port < 0x520);
}

static void ports(void)
{
    for (u32 port = 0; port < 0x10000; port++) {
        if (ends_guest(port) || ends_guest(port + 1) || ends_guest(port + 2) || ends_guest(port + 3))
            continue;
        if (port >= 0x3f8 && port < 0x400)
            continue;
        out8(port, random_bits());
        out16(port, random_bits());
        out32(port, random_bits());
        (void)in8(port);
        (void)in16(port);
        (void)in32(port);
    }
}

static void msr(u32 number)
{
    register u64 low __asm__("r12") = number;
    register u64 value __asm__("r13") = random_bits();
    /* EFER.LMA, the segment bases and the APIC base are left: losing them is only a quick end. */
    if (number == 0xc0000080)
        return;
    SURVIVE("movl %%r12d, %%ecx\n rdmsr");
    SURVIVE("movl %%r12d, %%ecx\n movl %%r13d, %%eax\n movq %%r13, %%rdx\n shrq $32, %%rdx\n wrmsr");
    SURVIVE("movl %%r12d, %%ecx\n xorl %%eax, %%eax\n xorl %%edx, %%edx\n wrmsr");
}

static void msrs(void)
{
    for (u32 number = 0; number < 0x1000; number++)
        msr(number);
    for (u32 number = 0; number < 0x200; number++) {
        msr(0xc0000000 + number);
        msr(0xc0010000 + number);
        msr(0x40000000 + number);
        msr(0x4b564d00 + number);
    }
    for (int count = 0; count < 20000; count++)
        msr(random_bits());
}

static void control(void)
{
    for (int count = 0; count < 5000; count++) {
        register u64 low __asm__("r12") = random_bits() >> (random_bits() & 63);
        register u64 value __asm__("r13") = random_bits();
        /* Changes that a processor accepts are taken back at once, so that the next instruction still runs. */
        switch (random_bits() % 7) {
        case 0:
            SURVIVE("movq %%cr0, %%rbx\n movq %%r12, %%rcx\n orl $0x80000001, %%ecx\n movq %%rcx, %%cr0\n"
                    "movq %%rbx, %%cr0");
            break;
        case 1:
            SURVIVE("movq %%cr4, %%rbx\n movq %%r12, %%rcx\n orl $0x20, %%ecx\n andl $~0x1000, %%ecx\n"
                    "movq %%rcx, %%cr4\n movq %%rbx, %%cr4");
            break;
        case 2:
            SURVIVE("movq %%cr4, %%rbx\n xorq %%r12, %%rbx\n movq %%rbx, %%cr4");
            SURVIVE("movl $0x620, %%ebx\n movq %%rbx, %%cr4");
            break;
        case 3:
            SURVIVE("movq %%r12, %%cr8\n xorl %%ebx, %%ebx\n movq %%rbx, %%cr8");
            break;
        case 4:
            SURVIVE("xorl %%ecx, %%ecx\n movl %%r12d, %%eax\n movl %%r13d, %%edx\n xsetbv");
            break;
        case 5:
            SURVIVE("movq %%r12, %%dr0\n movq %%r13, %%dr1\n movq %%r12, %%dr6\n movq %%r12, %%rcx\n andl $0xdf00, %%ecx\n"
                    "movq %%rcx, %%dr7\n xorl %%ecx, %%ecx\n movq %%rcx, %%dr7");
            break;
        case 6:
            /* bits that must stay: LME, LMA, NXE */
            SURVIVE("movl $0xc0000080, %%ecx\n movl %%r12d, %%eax\n orl $0xd00, %%eax\n movl %%r13d, %%edx\n wrmsr");
            break;
        }
    }
}

/* The fourth GiB, where devices are, one to one. */
static void map_devices(void)
{
    static u64 high_pd[512] __attribute__((aligned(4096)));
    extern u64 pdpt[];
    for (int index = 0; index < 512; index++)
        high_pd[index] = 0xc0000000ul + index * 0x200000ul + 0x83;
    pdpt[3] = (u64)high_pd | 7;
}

static void devices(void)
{
    map_devices();
    for (int count = 0; count < 200000; count++) {
        u64 page = random_bits() % 4;
        u64 at = page == 0 ? 0xfee00000 : page == 1 ? 0xfec00000 : 0xc0000000 + (random_bits() & 0x3fffffff);
        volatile u32 *word = (u32 *)(at + (random_bits() & 0xffc));
        /* An interrupt command may ask for INIT of this very processor. */
        if (page == 0 && ((u64)word & 0xf00) == 0x300)
            continue;
        if (random_bits() & 1)
            *word = random_bits();
        else
            (void)*word;
    }
}

static void random_code(void)
{
    static u8 code[64 * 1024];
    for (int count = 0; count < 3000; count++) {
        for (u64 index = 0; index < 256; index++)
            code[index] = random_bits();
        register u64 low __asm__("r12") = (u64)code;
        register u64 value __asm__("r13") = 0;
        SURVIVE("jmpq *%%r12");
        load_idt();
    }
}

static void jump(u64 place)
{
    register u64 low __asm__("r12") = place;
    register u64 value __asm__("r13") = 0;
    SURVIVE("jmpq *%%r12");
}

static void nowhere(void)
{
    static const u64 places[] = { 0x40000000, 0x7fffffffffff, 0x8000000000000000,
                                  0xffffffffffffffff };
    for (u64 index = 0; index < sizeof places / sizeof *places; index++)
        jump(places[index]);
}

/* Handlers that keep the vector. */
__asm__(".globl fault_ud, fault_gp\n"
        "fault_ud:\n  movq $6, vector(%rip)\n  jmp any_fault\n"
        "fault_gp:\n  movq $13, vector(%rip)\n  jmp any_fault\n");
extern char fault_ud[], fault_gp[];
u64 vector;

static void told(const char *name)
{
    put(name);
    put(vector == 6 ? ": #UD\n" : vector == 13 ? ": #GP\n" : ": no fault\n");
    vector = 0;
}

/* The operands are addresses of memory, so that nothing but the instruction itself can be wrong. */
static void nested(void)
{
    static u64 page[512] __attribute__((aligned(4096)));
    register u64 low __asm__("r12") = (u64)page;
    register u64 value __asm__("r13") = 1 << 12;
    set_gate(6, fault_ud);
    set_gate(13, fault_gp);
#define TRY(name, statement)                                                                      \
    SURVIVE("movq %%r12, %%rax\n movq %%r12, %%rcx\n" statement);                                 \
    told(name)
    TRY("EFER.SVME", "movl $0xc0000080, %%ecx\n rdmsr\n orl %%r13d, %%eax\n wrmsr");
    TRY("CR4.VMXE", "movq %%cr4, %%rax\n orq $0x2000, %%rax\n movq %%rax, %%cr4");
    TRY("vmrun", "vmrun");
    TRY("vmload", "vmload");
    TRY("vmsave", "vmsave");
    TRY("stgi", "stgi");
    TRY("clgi", "clgi");
    TRY("skinit", "skinit");
    TRY("invlpga", "invlpga %%rax, %%ecx");
    TRY("vmxon", "vmxon (%%r12)");
    TRY("vmclear", "vmclear (%%r12)");
    TRY("vmptrld", "vmptrld (%%r12)");
    TRY("vmptrst", "vmptrst (%%r12)");
    TRY("vmlaunch", "vmlaunch");
    TRY("vmresume", "vmresume");
    TRY("vmread", "vmread %%rax, %%rbx");
    TRY("vmwrite", "vmwrite %%rax, %%rbx");
    TRY("vmxoff", "vmxoff");
    TRY("invept", "invept (%%r12), %%rax");
    TRY("invvpid", "invvpid (%%r12), %%rax");
}

/* Loads and stores of kinds that a hypervisor has to carry out itself, if it can. */
static void emulate(void)
{
    map_devices();
    register u64 low __asm__("r12") = 0xfec00000;
    register u64 value __asm__("r13") = 0;
    SURVIVE("fninit\n fldl (%%r12)\n fstpl (%%r12)");
    SURVIVE("cvtsi2sdq (%%r12), %%xmm0");
    SURVIVE("fxsave (%%r12)");
}

static void triple(void)
{
    struct pointer empty = { 0, 0 };
    __asm__ volatile("lidt %0\n ud2" : : "m"(empty));
}

static int is_mode(const char *words, const char *mode)
{
    while (*mode)
        if (*words++ != *mode++)
            return 0;
    return *words == 0 || *words == ' ';
}

void guest_main(u32 *info)
{
    const char *words = info[0] & 4 ? (const char *)(u64)info[4] : "";
    /* Loaders put the file name first; the mode is the last word. */
    for (const char *at = words; *at; at++)
        if (at[0] == ' ' && at[1])
            words = at + 1;
    load_idt();
    put("hostile guest: ");
    put(words);
    put("\n");
    if (is_mode(words, "ports"))
        ports();
    else if (is_mode(words, "msrs"))
        msrs();
    else if (is_mode(words, "control"))
        control();
    else if (is_mode(words, "devices"))
        devices();
    else if (is_mode(words, "nowhere"))
        nowhere();
    else if (is_mode(words, "void")) {
        jump(0x3ffff000);
        jump(0x3f000ffe);
    } else if (is_mode(words, "random"))
        random_code();
    else if (is_mode(words, "triple"))
        triple();
    else if (is_mode(words, "nested"))
        nested();
    else if (is_mode(words, "emulate"))
        emulate();
    else if (is_mode(words, "faults")) {
        set_gate(14, bad_handler);
        *(volatile u8 *)0x40000000 = 1;
    } else {
        put("unknown mode\n");
        leave(0x22);
    }
    put("survived\n");
    leave(0x20);
}
