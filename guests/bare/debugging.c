/* Single steps and debug registers. */
#include "pages.h"
#include "processor.h"

/* Gate for #DB: notes RIP and DR6, clears DR6, sets RF and goes on. `step_stop` takes TF away at that RIP. */
u64 step_count, step_rips[64], step_dr6[64], step_stop;
__asm__(".text\n"
        "step_gate:\n"
        "  pushq %rax\n  pushq %rbx\n"
        "  movq step_count(%rip), %rbx\n"
        "  cmpq $63, %rbx\n  ja 1f\n"
        "  movq 16(%rsp), %rax\n  movq %rax, step_rips(,%rbx,8)\n"
        "  movq %dr6, %rax\n  movq %rax, step_dr6(,%rbx,8)\n"
        "  incq step_count(%rip)\n"
        "1: movl $0xffff0ff0, %eax\n  movq %rax, %dr6\n"
        "  orq $0x10000, 32(%rsp)\n"
        "  movq 16(%rsp), %rax\n  cmpq %rax, step_stop(%rip)\n  jne 2f\n  andq $~0x100, 32(%rsp)\n"
        "2: popq %rbx\n  popq %rax\n  iretq\n");
extern char step_gate[];

static u64 watched[4] __attribute__((aligned(64)));

static void begin(void)
{
    step_count = 0;
    step_stop = 0;
    set_gate(1, step_gate, 0, 0);
}

static void end(const char *what)
{
    set_gate(1, gates + 16, 0, 0);
    say(what, step_count);
    for (u64 index = 0; index < step_count && index < 64; index++)
        say2("  at, DR6", step_rips[index] - trap_first, step_dr6[index]);
}

#define STEP_ON "pushfq\n orq $0x100, (%%rsp)\n popfq\n"
#define STEP_OFF "pushfq\n andq $~0x100, (%%rsp)\n popfq\n"

static void steps(void)
{
    begin();
    TRY(STEP_ON "nop\n nop\n" STEP_OFF "nop\n");
    end("steps over plain instructions");
    begin();
    TRY("leaq -64(%%rsp), %%rdi\n movl $3, %%ecx\n" STEP_ON "rep stosb\n" STEP_OFF);
    end("steps over rep stosb of three");
    begin();
    TRY("movl %%ss, %%ecx\n" STEP_ON "movl %%ecx, %%ss\n nop\n nop\n" STEP_OFF);
    end("steps over mov ss");
    begin();
    TRY(STEP_ON "jmp 3f\n ud2\n 3: call 4f\n" STEP_OFF "jmp 5f\n 4: ret\n 5:\n");
    end("steps over branches");
    begin();
    TRY("pushq $0x10\n leaq 8(%%rsp), %%rcx\n pushq %%rcx\n pushq $0x102\n pushq $8\n leaq 3f(%%rip), %%rcx\n pushq %%rcx\n iretq\n"
        "3: nop\n" STEP_OFF);
    end("steps after an iret that sets TF");
    begin();
    TRY(STEP_ON "ud2\n");
    say("a fault while stepping", trap.vector);
    say("its frame has TF", trap.rflags >> 8 & 1);
    end("its steps");
    TRY(STEP_ON "nop\n");
    report("a step that is not continued");
    __asm__ volatile("movq %0, %%dr6" : : "r"(0xffff0ff0ul));
}

static void set_breakpoints(u64 dr0, u64 dr1, u64 dr7)
{
    __asm__ volatile("movq %0, %%dr0\n movq %1, %%dr1\n movq %2, %%dr7" : : "r"(dr0), "r"(dr1), "r"(dr7));
}

extern char here_1[], here_2[];

static void breakpoints(void)
{
    begin();
    set_breakpoints((u64)here_1, 0, 0x402);
    TRY("nop\n .globl here_1\n here_1: nop\n nop\n");
    set_breakpoints(0, 0, 0x400);
    end("breakpoint on an instruction");
    begin();
    /* DR0: writes of 4 bytes; DR1: reads and writes of 8 */
    set_breakpoints((u64)watched, (u64)(watched + 1), 0x00bd040a);
    TRY("leaq watched_pointer(%%rip), %%rbx\n movq (%%rbx), %%rbx\n"
        "movl %%ecx, (%%rbx)\n nop\n movl (%%rbx), %%ecx\n nop\n movb %%cl, 3(%%rbx)\n nop\n movb %%cl, 4(%%rbx)\n nop\n"
        "movl 12(%%rbx), %%ecx\n nop\n movq %%rcx, 1(%%rbx)\n nop\n movq %%rbx, %%rdi\n movl $3, %%ecx\n cld\n rep stosb\n nop\n");
    set_breakpoints(0, 0, 0x400);
    end("breakpoints on data");
    begin();
    TRY("movl $0x2400, %%ecx\n movq %%rcx, %%dr7\n nop\n movq %%dr0, %%rcx\n nop\n");
    say("general detection: DR7 afterwards", ({ u64 v; __asm__ volatile("movq %%dr7, %0" : "=r"(v)); v; }));
    end("breakpoint on debug registers");
    u64 value;
    __asm__ volatile("movq %1, %%dr6\n movq %%dr6, %0" : "=r"(value) : "r"(0ul));
    say("DR6 keeps its fixed bits", value);
    __asm__ volatile("movq %1, %%dr7\n movq %%dr7, %0" : "=r"(value) : "r"(0x5000ul));
    say("DR7 keeps its fixed bits", value & 0xffff0fff);
    set_breakpoints(0, 0, 0x400);
    __asm__ volatile("movq %0, %%dr6" : : "r"(0xffff0ff0ul));
}

u64 *watched_pointer = watched;

void debugging(void)
{
    put("-- debugging\n");
    steps();
    breakpoints();
}
