/* Every exception from ring 0, with the error code it must push. */
#include "pages.h"
#include "processor.h"

static void arithmetic(void)
{
    TRY("xorl %%ecx, %%ecx\n xorl %%edx, %%edx\n movl $1, %%eax\n divl %%ecx\n");
    report("divide by zero");
    TRY("movq $-1, %%rcx\n movq $1, %%rax\n shlq $63, %%rax\n cqto\n idivq %%rcx\n");
    report("divide overflow");
    TRY(".byte 0xf1\n");
    report("int1");
    TRY("int3\n");
    report("int3");
    TRY("int $4\n");
    report("int 4");
    TRY("int $0x30\n");
    report("int 0x30");
    TRY("ud2\n");
    report("ud2");
    TRY(".byte 0xf0, 0x01, 0xc0\n");
    report("lock on a register");
    TRY(".byte 0xf0, 0x90\n");
    report("lock nop");
    TRY(".byte 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90\n");
    report("16-byte instruction");
    TRY(".byte 0x06\n");
    report("push es in 64-bit mode");
}

static void floating(void)
{
    static const u16 unmasked_control = 0x37b;
    static const u32 unmasked_mxcsr = 0x1d80;
    write_cr0(read_cr0() | CR0_TS);
    TRY("nop\n fninit\n");
    report("x87 with TS");
    TRY("nop\n movaps %%xmm0, %%xmm1\n");
    report("SSE with TS");
    TRY("nop\n fwait\n");
    report("fwait with TS and MP");
    __asm__ volatile("clts");
    write_cr0(read_cr0() | CR0_EM);
    TRY("nop\n fninit\n");
    report("x87 with EM");
    TRY("nop\n movaps %%xmm0, %%xmm1\n");
    report("SSE with EM");
    write_cr0(read_cr0() & ~CR0_EM);
    TRY("fninit\n fldcw %1\n fld1\n fldz\n fdivrp\n nop\n fwait\n", "m"(unmasked_control));
    report("unmasked x87 division by zero");
    TRY("fninit\n");
    TRY("ldmxcsr %1\n pcmpeqd %%xmm0, %%xmm0\n psrld $25, %%xmm0\n pslld $23, %%xmm0\n xorps %%xmm1, %%xmm1\n"
        "divss %%xmm1, %%xmm0\n", "m"(unmasked_mxcsr));
    report("unmasked SSE division by zero");
    write_cr4(read_cr4() & ~0x200ul);
    TRY("nop\n movaps %%xmm0, %%xmm1\n");
    report("SSE without OSFXSR");
    write_cr4(read_cr4() | 0x200);
    TRY("xorl %%ecx, %%ecx\n xgetbv\n");
    report("xgetbv without OSXSAVE");
    write_cr4(read_cr4() | CR4_OSXSAVE);
    TRY("xorl %%ecx, %%ecx\n xgetbv\n");
    say("xcr0 after reset", trap.vector == NONE);
    TRY("xorl %%ecx, %%ecx\n xorl %%edx, %%edx\n movl $4, %%eax\n xsetbv\n");
    report("xsetbv without x87");
    TRY("xorl %%ecx, %%ecx\n xorl %%edx, %%edx\n movl $5, %%eax\n xsetbv\n");
    report("xsetbv AVX without SSE");
    TRY("movl $1, %%ecx\n xorl %%edx, %%edx\n movl $7, %%eax\n xsetbv\n");
    report("xsetbv of XCR1");
    TRY("xorl %%ecx, %%ecx\n xorl %%edx, %%edx\n movl $3, %%eax\n xsetbv\n vxorps %%ymm0, %%ymm0, %%ymm0\n");
    report("AVX without its state enabled");
    TRY("xorl %%ecx, %%ecx\n xorl %%edx, %%edx\n movl $7, %%eax\n xsetbv\n vxorps %%ymm0, %%ymm0, %%ymm0\n");
    report("AVX with its state enabled");
}

static void control_registers(void)
{
    if (gentle)
        goto survivable;
    TRY("movq %%cr0, %%rcx\n andq $-2, %%rcx\n nop\n movq %%rcx, %%cr0\n");
    report("CR0.PG without PE");
    TRY("movq %%cr0, %%rcx\n orq $0x20000000, %%rcx\n nop\n movq %%rcx, %%cr0\n");
    report("CR0.NW without CD");
    TRY("movq %%cr4, %%rcx\n andq $~0x20, %%rcx\n nop\n movq %%rcx, %%cr4\n");
    report("CR4.PAE cleared in long mode");
    TRY("movq %%cr4, %%rcx\n btsq $63, %%rcx\n nop\n movq %%rcx, %%cr4\n");
    report("reserved CR4 bit");
    TRY("movq %%cr3, %%rcx\n btsq $62, %%rcx\n nop\n movq %%rcx, %%cr3\n");
    report("reserved CR3 bit");
    TRY("movl $16, %%ecx\n movq %%rcx, %%cr8\n");
    report("CR8 of 16");
    TRY(".byte 0x0f, 0x20, 0xc8\n");
    report("mov from CR1");
    TRY("movl $0xc0000080, %%ecx\n rdmsr\n andl $~0x100, %%eax\n wrmsr\n");
    report("EFER.LME cleared with paging on");
    TRY("movl $0xc0000080, %%ecx\n rdmsr\n orl $2, %%eax\n wrmsr\n");
    report("reserved EFER bit");
    TRY("movl $0xc0000082, %%ecx\n xorl %%eax, %%eax\n movl $0x80000000, %%edx\n wrmsr\n");
    report("LSTAR not canonical");
    TRY("movl $0xc0000100, %%ecx\n xorl %%eax, %%eax\n movl $0x00008000, %%edx\n wrmsr\n");
    report("FS base not canonical");
survivable:
    write_cr4(read_cr4() | CR4_DE);
    TRY("movq %%dr4, %%rcx\n");
    report("DR4 with CR4.DE");
    write_cr4(read_cr4() & ~CR4_DE);
    TRY("movq %%dr4, %%rcx\n");
    report("DR4 without CR4.DE");
    TRY("btsq $32, %%rcx\n movq %%rcx, %%dr7\n");
    report("upper half of DR7");
    TRY("rdfsbase %%rcx\n");
    report("rdfsbase without CR4.FSGSBASE");
    write_cr4(read_cr4() | CR4_FSGSBASE);
    TRY("movq $0x123456789, %%rcx\n wrfsbase %%rcx\n rdfsbase %%rbx\n cmpq %%rbx, %%rcx\n je 3f\n ud2\n 3:\n");
    report("rdfsbase after wrfsbase");
    TRY("movl $1, %%ecx\n shlq $47, %%rcx\n wrgsbase %%rcx\n");
    report("wrgsbase not canonical");
}

static void addresses(void)
{
    TRY("movl $1, %%ebx\n shlq $63, %%rbx\n movl (%%rbx), %%ecx\n");
    report("load from a non-canonical address");
    TRY("movq %%rbp, %%r8\n movl $1, %%ebp\n shlq $63, %%rbp\n movl (%%rbp), %%ecx\n");
    report("load through rbp from a non-canonical address");
    set_gate(12, gates + 12 * 16, 0, 1);
    TRY("movl $1, %%esp\n shlq $63, %%rsp\n pushq %%rcx\n");
    report("push to a non-canonical address");
    say("on the first interrupt stack", trap.frame == (u64)ist1_stack + 4096 - 0);
    set_gate(12, gates + 12 * 16, 0, 0);
    TRY("movl $1, %%ebx\n shlq $63, %%rbx\n jmpq *%%rbx\n");
    report("jump to a non-canonical address");
    TRY("movaps 1(%%rsp), %%xmm0\n");
    report("movaps unaligned");
    TRY("fxsave -1000(%%rsp)\n fxsave -1001(%%rsp)\n");
    say("fxsave unaligned", trap.vector);
}

static void selectors(void)
{
    TRY("movl $0x38, %%ecx\n movl %%ecx, %%fs\n");
    report("fs with an absent segment");
    TRY("movl $0x38, %%ecx\n movl %%ecx, %%ss\n");
    report("ss with an absent segment");
    TRY("movl $0x20, %%ecx\n movl %%ecx, %%ss\n");
    report("ss with a ring-3 segment");
    TRY("movl $0x40, %%ecx\n movl %%ecx, %%ds\n");
    report("ds with a system segment");
    TRY("movl $0x08, %%ecx\n movl %%ecx, %%ss\n");
    report("ss with a code segment");
    TRY("movl $0x58, %%ecx\n movl %%ecx, %%es\n");
    report("es beyond the table");
    TRY("movl $0x0c, %%ecx\n movl %%ecx, %%es\n");
    report("es in a missing local table");
    TRY("movl $0x40, %%ecx\n ltr %%cx\n");
    report("ltr of a busy segment");
    if (!gentle) {
        TRY("xorl %%ecx, %%ecx\n ltr %%cx\n");
        report("ltr of null");
    }
    TRY("movl $0x10, %%ecx\n lldt %%cx\n");
    report("lldt of a data segment");
    TRY("xorl %%ecx, %%ecx\n pushq %%rcx\n pushq %%rcx\n lretq\n");
    report("far return to null");
    TRY("pushq $0x10\n pushq $0\n lretq\n");
    report("far return to data");
    TRY("pushq $0x10\n pushq %%rsp\n pushq $0x4002\n pushq $0x08\n leaq 3f(%%rip), %%rcx\n pushq %%rcx\n"
        "pushfq\n orq $0x4000, (%%rsp)\n popfq\n iretq\n 3:\n");
    report("iret with NT");
}

static void gates_of_ring_0(void)
{
    u64 saved = idt[0x32 * 2];
    idt[0x32 * 2] = saved & ~(1ul << 47);
    TRY("int $0x32\n");
    report("int through an absent gate");
    idt[0x32 * 2] = saved & ~(0xful << 40);
    TRY("int $0x32\n");
    report("int through a gate of no type");
    idt[0x32 * 2] = (saved & ~0xffff0000ul) | 0x10ul << 16;
    TRY("int $0x32\n");
    report("int to a data segment");
    idt[0x32 * 2] = saved & ~0xffff0000ul;
    TRY("int $0x32\n");
    report("int to a null segment");
    idt[0x32 * 2] = saved;
    saved = idt[6 * 2];
    idt[6 * 2] = saved & ~(1ul << 47);
    TRY("ud2\n");
    report("ud2 with an absent gate");
    idt[6 * 2] = saved;
    set_gate(8, gates + 8 * 16, 0, 2);
    saved = idt[0];
    idt[0] = saved & ~(1ul << 47);
    TRY("xorl %%ecx, %%ecx\n divl %%ecx\n");
    say2("divide error with an absent gate: vector and code", trap.vector, trap.error);
    idt[0] = saved;
    saved = idt[14 * 2];
    idt[14 * 2] = saved & ~(1ul << 47);
    TRY("movq $0x8000000000, %%rcx\n movb $1, (%%rcx)\n");
    say2("page fault with an absent gate: vector and code", trap.vector, trap.error);
    idt[14 * 2] = saved;
    TRY("movl $1, %%esp\n shlq $63, %%rsp\n ud2\n");
    say2("fault on an impossible stack: vector and code", trap.vector, trap.error);
    set_gate(8, gates + 8 * 16, 0, 0);
}

static void stack_frames(void)
{
    TRY("movq %%rsp, %%r8\n andq $-16, %%rsp\n subq $5, %%rsp\n int3\n");
    say("an interrupt aligns its frame to 16", trap.frame & 15);
    TRY("pushfq\n popq %%rcx\n orq $0xcd5, %%rcx\n pushq %%rcx\n popfq\n int3\n");
    say("flags in the frame", trap.rflags);
    say2("cs and ss in the frame", trap.cs, trap.ss);
    TRY("ud2\n");
    say("flags of a fault have RF", trap.rflags >> 16 & 1);
    TRY("int3\n");
    say("flags of a trap have not", trap.rflags >> 16 & 1);
}

static void descriptors(void)
{
    u64 value, ok;
    static const u16 selectors[] = { 0, 0x08, 0x10, 0x1b, 0x23, 0x2b, 0x38, 0x40, 0x48, 0x53, 0x60, 0x0c };
    for (u64 index = 0; index < sizeof selectors / sizeof *selectors; index++) {
        u64 selector = selectors[index];
        __asm__ volatile("xorl %k0, %k0\n larl %k2, %k0\n setz %b1\n movzbl %b1, %k1" : "=&r"(value), "=&r"(ok) : "r"(selector) : "cc");
        say2("lar", selector, ok ? value : ~0ul);
        __asm__ volatile("xorl %k0, %k0\n lsll %k2, %k0\n setz %b1\n movzbl %b1, %k1" : "=&r"(value), "=&r"(ok) : "r"(selector) : "cc");
        say2("lsl", selector, ok ? value : ~0ul);
        __asm__ volatile("verr %w2\n setz %b0\n movzbl %b0, %k0\n verw %w2\n setz %b1\n movzbl %b1, %k1" : "=&r"(value), "=&r"(ok) : "r"(selector) : "cc");
        say2("verr and verw", value, ok);
    }
    struct pointer table = { 0, 0 };
    __asm__ volatile("sgdt %0" : "=m"(table));
    say2("sgdt limit, and whether its base is right", table.limit, table.base == (u64)gdt);
    __asm__ volatile("sidt %0" : "=m"(table));
    say2("sidt limit, and whether its base is right", table.limit, table.base == (u64)idt);
    __asm__ volatile("xorl %k0, %k0\n strw %w0\n sldt %w1" : "=&r"(value), "=r"(ok));
    say2("str and sldt", value & 0xffff, ok & 0xffff);
    __asm__ volatile("smsw %0" : "=r"(value));
    say("smsw is CR0", value == read_cr0());
}

void exceptions(void)
{
    put("-- exceptions\n");
    arithmetic();
    floating();
    control_registers();
    if (!gentle)
        addresses();
    selectors();
    gates_of_ring_0();
    stack_frames();
    descriptors();
}
