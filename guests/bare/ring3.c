/* Ring 3: what it may not do, system calls, GS, alignment, and 32-bit code. */
#include "pages.h"
#include "processor.h"

static u8 user_code[4096] __attribute__((aligned(4096)));
static u8 user_data[8192] __attribute__((aligned(4096)));
static u8 kernel_page[4096] __attribute__((aligned(4096)));
/* A copy of the user pages below 4 GiB for 32-bit code. */
#define LOW_CODE 0x50000000ul
#define LOW_DATA 0x50010000ul

/* A piece of ring-3 code: assembled here, copied to the user page, run there. */
#define PIECE(name, text)                                                                          \
    extern const char name[], name##_end[];                                                       \
    __asm__(".pushsection .rodata\n" #name ":\n" text "\n" #name "_end:\n.popsection\n")
#define RUN(name) run_user(name, name##_end, USER_CS, 2)

void ring3_init(void)
{
    map(USER_CODE, (u64)user_code, P | U);
    map(USER_CODE + 4096, 0, 0);
    map(USER_DATA, (u64)user_data, P | W | U | NX);
    map(USER_DATA + 4096, (u64)user_data + 4096, P | W | U | NX);
    map(USER_DATA + 8192, (u64)kernel_page, P | W);
    map(USER_DATA + 12288, (u64)user_data, P | U | NX);
    map(LOW_CODE, (u64)user_code, P | U);
    map(LOW_DATA, (u64)user_data, P | W | U | NX);
    map(LOW_DATA + 4096, (u64)user_data + 4096, P | W | U | NX);
}

void run_user(const char *from, const char *to, u64 cs, u64 rflags)
{
    for (u64 at = 0; at < sizeof user_code; at++)
        user_code[at] = from + at < to ? from[at] : 0xcc;
    int is_32 = cs == USER32_CS;
    register u64 rip __asm__("r12") = is_32 ? LOW_CODE : USER_CODE;
    register u64 rsp __asm__("r13") = is_32 ? LOW_DATA + 0x1f00 : USER_STACK;
    register u64 code __asm__("r14") = cs;
    register u64 flags __asm__("r15") = rflags;
    TRY("movl $0x23, %%ecx\n movl %%ecx, %%ds\n movl %%ecx, %%es\n pushq $0x23\n pushq %2\n pushq %4\n pushq %3\n pushq %1\n iretq\n", "r"(rip), "r"(rsp), "r"(code), "r"(flags));
    trap_first = is_32 ? LOW_CODE : USER_CODE;
}

PIECE(to_end, "nop; int $0x40");
PIECE(halt, "nop; hlt");
PIECE(mask_interrupts, "nop; cli");
PIECE(port_read, "nop; inb $0x80, %al");
PIECE(hidden_gate, "nop; int $0x30");
PIECE(control_read, "nop; movq %cr0, %rax");
PIECE(debug_read, "nop; movq %dr0, %rax");
PIECE(msr_read, "nop; rdmsr");
PIECE(page_flush, "nop; invlpg (%rax)");
PIECE(swap_bases, "nop; swapgs");
PIECE(table_read, "nop; sgdt -64(%rsp); sidt -64(%rsp); int $0x40");
PIECE(task_read, "nop; str %eax; int $0x40");
PIECE(status_read, "nop; smsw %eax; int $0x40");
PIECE(counter_read, "nop; rdtsc; int $0x40");
PIECE(performance_read, "nop; xorl %ecx, %ecx; rdpmc; int $0x40");
PIECE(flags_try, "pushq $0x3202; popfq; pushfq; popq %rax; int $0x40");
PIECE(kernel_read, "movabsq $0x5000012000, %rbx; movl (%rbx), %eax");
PIECE(kernel_write, "movabsq $0x5000012000, %rbx; movl %eax, (%rbx)");
PIECE(kernel_call, "movabsq $0x5000012000, %rbx; callq *%rbx");
PIECE(readonly_write, "movabsq $0x5000013000, %rbx; lock incl (%rbx)");
PIECE(data_call, "movabsq $0x5000010000, %rbx; callq *%rbx");
PIECE(code_write, "incb 0f(%rip); 0: nop");
PIECE(unmapped_read, "movabsq $0x5100000000, %rbx; movl (%rbx), %eax");
PIECE(unmapped_write, "movabsq $0x5100000000, %rbx; movl %eax, (%rbx)");
PIECE(unmapped_call, "movabsq $0x5100000000, %rbx; callq *%rbx");
PIECE(unmapped_push, "movabsq $0x5100000000, %rsp; pushq %rax");
PIECE(impossible_push, "movabsq $0x8000000000000000, %rsp; pushq %rax");
PIECE(ring0_segment, "movl $0x10, %eax; movl %eax, %ss");
PIECE(null_stack_segment, "xorl %eax, %eax; movl %eax, %ss");
PIECE(code_as_data, "movl $0x1b, %eax; movl %eax, %ds; int $0x40");
PIECE(ring0_return, "pushq $0x08; pushq $0; lretq");
PIECE(misaligned, "pushfq; orq $0x40000, (%rsp); popfq; movl -63(%rsp), %eax");
PIECE(aligned, "pushfq; orq $0x40000, (%rsp); popfq; movl -64(%rsp), %eax; int $0x40");

static void forbidden(void)
{
    RUN(to_end);
    report("int 0x40 from ring 3");
    say2("cs and ss in its frame", trap.cs, trap.ss);
    say2("flags and stack in its frame", trap.rflags, trap.rsp);
    RUN(halt);
    report("hlt");
    RUN(mask_interrupts);
    report("cli");
    run_user(mask_interrupts, mask_interrupts_end, USER_CS, 0x3002);
    report("cli with IOPL 3, to the end of the code");
    RUN(port_read);
    report("in without a permission map");
    run_user(port_read, port_read_end, USER_CS, 0x3002);
    report("in with IOPL 3, to the end of the code");
    RUN(hidden_gate);
    report("int through a gate of ring 0");
    RUN(control_read);
    report("mov from CR0");
    RUN(debug_read);
    report("mov from DR0");
    RUN(msr_read);
    report("rdmsr");
    RUN(page_flush);
    report("invlpg");
    RUN(swap_bases);
    report("swapgs");
    RUN(flags_try);
    say("popf from ring 3 keeps IF and IOPL", trap.rax);
    write_cr4(read_cr4() | CR4_UMIP);
    RUN(table_read);
    report("sgdt with UMIP");
    RUN(task_read);
    report("str with UMIP");
    RUN(status_read);
    report("smsw with UMIP");
    write_cr4(read_cr4() & ~CR4_UMIP);
    RUN(table_read);
    report("sgdt and sidt without UMIP");
    RUN(task_read);
    say("str without UMIP", trap.rax & 0xffff);
    write_cr4(read_cr4() | CR4_TSD);
    RUN(counter_read);
    report("rdtsc with TSD");
    write_cr4(read_cr4() & ~CR4_TSD);
    RUN(counter_read);
    report("rdtsc without TSD");
    RUN(performance_read);
    report("rdpmc without PCE");
}

static void memory(void)
{
    user_data[0] = 0xc3;
    RUN(kernel_read);
    report("read of a supervisor page");
    RUN(kernel_write);
    report("write to a supervisor page");
    RUN(kernel_call);
    report("call of a supervisor page");
    RUN(readonly_write);
    report("locked increment of a read-only page");
    RUN(data_call);
    report("call of a no-execute page");
    RUN(code_write);
    report("write to its own code page");
    RUN(unmapped_read);
    report("read of an unmapped page");
    RUN(unmapped_write);
    report("write to an unmapped page");
    RUN(unmapped_call);
    report("call of an unmapped page");
    RUN(unmapped_push);
    report("push to an unmapped page");
    RUN(impossible_push);
    report("push to an impossible address");
    RUN(ring0_segment);
    report("ss of ring 0");
    RUN(null_stack_segment);
    report("ss of null");
    RUN(code_as_data);
    report("ds of a readable code segment");
    RUN(ring0_return);
    report("far return to ring 0");
    write_cr0(read_cr0() | CR0_AM);
    RUN(misaligned);
    report("misaligned read with AC and AM");
    RUN(aligned);
    report("aligned read with AC and AM");
    write_cr0(read_cr0() & ~CR0_AM);
    RUN(misaligned);
    report("misaligned read with AC alone, to the end of the code");
}

/* What the system-call entry saw: rcx, r11, rflags, cs, ss, and the GS bases before and after SWAPGS. */
u64 call_seen[8];
__asm__(".text\n"
        "call_entry:\n"
        "  movq %rcx, call_seen+0(%rip)\n  movq %r11, call_seen+8(%rip)\n"
        "  movq %rsp, %r15\n  leaq call_stack_top(%rip), %rsp\n"
        "  pushfq\n popq call_seen+16(%rip)\n"
        "  movq %cs, %rax\n movq %rax, call_seen+24(%rip)\n  movq %ss, %rax\n movq %rax, call_seen+32(%rip)\n"
        "  rdgsbase %rax\n movq %rax, call_seen+40(%rip)\n"
        "  swapgs\n  rdgsbase %rax\n movq %rax, call_seen+48(%rip)\n  swapgs\n"
        "  movq %r15, %rsp\n  movl $0x5a, %eax\n"
        "  cmpq $0, call_narrow(%rip)\n  jne 1f\n  sysretq\n1: sysretl\n"
        ".bss\n.skip 512\ncall_stack_top:\n"
        ".globl call_narrow\ncall_narrow: .skip 8\n.text\n");
extern char call_entry[];
extern volatile u64 call_narrow;

PIECE(call_kernel, "movl $0x11, %eax; stc; std; syscall; pushfq; popq %rbx; cld; movl %cs, %ecx; shll $8, %ecx; orl %ecx, %eax; shlq $16, %rbx; orq %rbx, %rax; int $0x40");
/* The encoding of the bytes after syscall is the same in 32-bit mode: mov eax, cs; int 0x40. */
PIECE(call_and_change, "movl $0x50000040, %ecx; movl %ecx, %ecx; syscall");
PIECE(call_alone, "nop; syscall");

static void calls(void)
{
    write_msr(EFER, read_msr(EFER) & ~1ul);
    RUN(call_alone);
    report("syscall without SCE");
    write_msr(EFER, read_msr(EFER) | 1);
    write_msr(STAR, 0x08ul << 32 | 0x1bul << 48);
    write_msr(LSTAR, (u64)call_entry);
    write_msr(FMASK, 0x401);
    write_msr(GS_BASE, 0x1111);
    write_msr(KERNEL_GS_BASE, 0x2222);
    call_narrow = 0;
    RUN(call_kernel);
    report("syscall and sysret");
    say("flags, cs and value afterwards", trap.rax);
    say2("rcx and r11 in the kernel", call_seen[0] - USER_CODE, call_seen[1]);
    say("flags in the kernel", call_seen[2]);
    say2("cs and ss in the kernel", call_seen[3], call_seen[4]);
    say2("GS bases before and after swapgs", call_seen[5], call_seen[6]);
    call_narrow = 1;
    /* sysret to 32-bit code: rcx must hold an address below 4 GiB, so it is run from the low copy. */
    static const char stay[] = { 0x0f, 0x05, 0x90, (char)0xcd, 0x40 };
    register u64 rip __asm__("r12") = LOW_CODE;
    register u64 rsp __asm__("r13") = LOW_DATA + 0x1f00;
    for (u64 at = 0; at < sizeof stay; at++)
        user_code[at] = stay[at];
    TRY("pushq $0x23\n pushq %2\n pushq $2\n pushq $0x2b\n pushq %1\n iretq\n", "r"(rip), "r"(rsp));
    trap_first = LOW_CODE;
    report("sysret to 32-bit code");
    say2("its cs and ss", trap.cs, trap.ss);
    call_narrow = 0;
    TRY("movl $0xc0000102, %%ecx\n rdmsr\n movl %%eax, %%ebx\n swapgs\n rdgsbase %%rax\n cmpq %%rax, %%rbx\n je 3f\n ud2\n3: swapgs\n");
    report("swapgs in ring 0");
}

#define PIECE32(name, text) PIECE(name, ".code32\n" text "\n.code64")
#define RUN32(name) run_user(name, name##_end, USER32_CS, 2)

PIECE32(narrow_end, "movl $0xffffffff, %eax; incl %eax; decl %eax; .byte 0x40; .byte 0x48; int $0x40");
PIECE32(narrow_push, "movl %esp, %ebx; pushl $0x12345678; pushw $1; pushal; popal; popw %ax; popl %eax; subl %esp, %ebx; addl %ebx, %eax; int $0x40");
PIECE32(narrow_bound, "movl $7, -64(%esp); movl $9, -60(%esp); movl $10, %eax; bound %eax, -64(%esp)");
PIECE32(narrow_bound_inside, "movl $7, -64(%esp); movl $9, -60(%esp); movl $9, %eax; bound %eax, -64(%esp); int $0x40");
PIECE32(narrow_into, "movl $0x7fffffff, %eax; addl $1, %eax; into");
PIECE32(narrow_no_into, "xorl %eax, %eax; into; int $0x40");
PIECE32(narrow_limit, "movl $0x53, %eax; movl %eax, %ds; movl 0x1000, %eax");
PIECE32(narrow_limit_edge, "movl $0x53, %eax; movl %eax, %ds; movl 0xffd, %eax");
PIECE32(narrow_stack_limit, "movl $0x53, %eax; movl %eax, %ss; movl $0x1004, %esp; pushl %eax");
PIECE32(narrow_null, "xorl %eax, %eax; movl %eax, %es; movl %es:0x50010000, %eax");
PIECE32(narrow_decimal, "movl $0x19, %eax; addb $0x28, %al; daa; aam $7; aad $5; int $0x40");
PIECE32(narrow_aam_zero, "movl $5, %eax; .byte 0xd4, 0");
PIECE32(narrow_wrap, "movl $0x80010000, %ebx; movl $0xd0000000, %esi; movl $0x1234, (%ebx, %esi); movl 0x50010000, %eax; int $0x40");
PIECE32(narrow_adjust, "movl $0x08, %eax; movl $0x23, %ecx; arpl %cx, %ax; int $0x40");
PIECE32(narrow_far, "ljmp $0x2b, $0x50000007; .code64; movl $1, %eax; shlq $40, %rax; int $0x40; .code32");
PIECE32(narrow_far_bad, "ljmp $0x10, $0x50000007");
PIECE32(narrow_load, "movl $0x50010000, -8(%esp); movl $0x23, -4(%esp); lesl -8(%esp), %edi; movl %edi, %eax; int $0x40");
PIECE32(narrow_wide_address, "movl $0x1ffff, %ebx; movw $5, %si; addr16 leal -1(%bx, %si), %eax; int $0x40");
PIECE32(narrow_enter, "movl %esp, %ebp; enter $16, $2; movl %ebp, %eax; subl %esp, %eax; leave; int $0x40");
PIECE32(narrow_loop, "movl $0x10003, %ecx; xorl %eax, %eax; 0: incl %eax; addr16 loop 0b; movl %ecx, %ebx; addl %ebx, %eax; int $0x40");
PIECE32(narrow_string, "movl $0x50010010, %edi; movl $0x41424344, %eax; movl $3, %ecx; std; rep stosl; cld; movl %edi, %eax; int $0x40");

static void narrow(void)
{
    RUN32(narrow_end);
    report("32-bit code");
    say2("its cs and ss", trap.cs, trap.ss);
    say("eax", trap.rax);
    RUN32(narrow_push);
    say("pushes and pops", trap.rax);
    RUN32(narrow_bound);
    report("bound outside");
    RUN32(narrow_bound_inside);
    report("bound inside");
    RUN32(narrow_into);
    report("into");
    RUN32(narrow_no_into);
    report("into without overflow");
    RUN32(narrow_limit);
    report("read beyond a segment's limit");
    RUN32(narrow_limit_edge);
    report("read across a segment's limit");
    RUN32(narrow_stack_limit);
    report("push beyond the stack segment's limit");
    RUN32(narrow_null);
    report("read through a null segment");
    RUN32(narrow_decimal);
    say("decimal adjustments", trap.rax);
    RUN32(narrow_aam_zero);
    report("aam 0");
    RUN32(narrow_wrap);
    report("a store whose address wraps at 4 GiB");
    say("an address that wraps at 4 GiB", trap.rax);
    RUN32(narrow_adjust);
    say("arpl", trap.rax);
    RUN32(narrow_far);
    say2("far jump to 64-bit code: cs and rax", trap.cs, trap.rax);
    RUN32(narrow_far_bad);
    report("far jump to a data segment");
    RUN32(narrow_load);
    say("les", trap.rax);
    RUN32(narrow_wide_address);
    say("16-bit address in 32-bit code", trap.rax);
    RUN32(narrow_enter);
    say("enter with two levels", trap.rax);
    RUN32(narrow_loop);
    say("loop on cx", trap.rax);
    RUN32(narrow_string);
    say("rep stosl downwards", trap.rax);
}

void ring3(void)
{
    put("-- ring 3\n");
    forbidden();
    memory();
    calls();
    put("-- 32-bit code\n");
    narrow();
}
