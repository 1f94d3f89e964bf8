/* Code that changes: in the next instruction, in the same block, across pages, through another mapping, by remapping. */
#include "pages.h"
#include "processor.h"

static u8 code_a[8192] __attribute__((aligned(4096)));
static u8 code_b[4096] __attribute__((aligned(4096)));
#define CODE_A (WINDOW + 0x100000)
#define CODE_A2 (WINDOW + 0x110000)

static u64 call(u64 at)
{
    u64 result;
    __asm__ volatile("callq *%1" : "=a"(result) : "r"(at) : "rcx", "rdx", "rbx", "rsi", "rdi", "memory", "cc");
    return result;
}

static u8 *put_bytes(u8 *at, const u8 *bytes, u64 count)
{
    for (u64 index = 0; index < count; index++)
        ((volatile u8 *)at)[index] = bytes[index];
    return at + count;
}

/* mov eax, value; ret */
static void put_return(u8 *at, u32 value)
{
    u8 bytes[] = { 0xb8, value, value >> 8, value >> 16, value >> 24, 0xc3 };
    put_bytes(at, bytes, sizeof bytes);
}

void self_modifying(void)
{
    put("-- self-modifying code\n");
    map(CODE_A, (u64)code_a, P | W);
    map(CODE_A + 4096, (u64)code_a + 4096, P | W);
    map(CODE_A2, (u64)code_a, P | W);
    volatile u8 *seen = (volatile u8 *)CODE_A;
    put_return(code_a, 1);
    say("as written", call(CODE_A));
    seen[1] = 2;
    say("changed through its own mapping", call(CODE_A));
    code_a[1] = 3;
    say("changed through the identity mapping", call(CODE_A));
    *(volatile u32 *)(CODE_A2 + 1) = 4;
    say("changed through an alias", call(CODE_A));
    say("run through the alias", call(CODE_A2));
    put_return(code_b, 5);
    map(CODE_A, (u64)code_b, P | W);
    say("another frame mapped", call(CODE_A));
    map(CODE_A, (u64)code_a, P | W);
    say("and back", call(CODE_A));

    /* movl $0x77, next+1(%rip); next: mov eax, 1; ret */
    static const u8 next[] = { 0xc7, 0x05, 1, 0, 0, 0, 0x77, 0, 0, 0, 0xb8, 1, 0, 0, 0, 0xc3 };
    put_bytes(code_a, next, sizeof next);
    say("the next instruction changed", call(CODE_A));
    put_bytes(code_a, next, sizeof next);
    say("and again from the start", call(CODE_A2));

    /* xor eax, eax; mov ecx, 5; loop: inc eax; addb $1, imm+3(%rip)...: an add whose own immediate grows */
    static const u8 growing[] = { 0x31, 0xc0, 0xb9, 5, 0, 0, 0, 0x83, 0xc0, 1, 0xfe, 0x05, 0xf9, 0xff, 0xff, 0xff, 0xe2, 0xf5, 0xc3 };
    put_bytes(code_a, growing, sizeof growing);
    say("an immediate that grows in a loop", call(CODE_A));

    /* across pages: a store at the end of one page changes the first instruction of the next */
    static const u8 across[] = { 0xc6, 0x05, 1, 0, 0, 0, 9 };
    put_bytes(code_a + 4096 - sizeof across, across, sizeof across);
    put_return(code_a + 4096, 1);
    say("the next page changed", call(CODE_A + 4096 - sizeof across));

    /* an instruction that lies on both pages, changed in its second half */
    put_return(code_a + 4094, 0x01010101);
    say("an instruction on two pages", call(CODE_A + 4094));
    code_a[4097] = 2;
    say("its second half changed", call(CODE_A + 4094));
    put_return(code_b, 0);
    code_b[0] = 6;
    code_b[1] = 6;
    code_b[2] = 6;
    code_b[3] = 0xc3;
    map(CODE_A + 4096, (u64)code_b, P | W);
    say("its second half remapped", call(CODE_A + 4094));
    map(CODE_A + 4096, (u64)code_a + 4096, P | W);

    /* rep movsb over the code that follows it: lea rsi/rdi are set here, the copy starts at the ret */
    static const u8 copy[] = { 0x48, 0xbe, 0, 0, 0, 0, 0, 0, 0, 0, 0x48, 0xbf, 0, 0, 0, 0, 0, 0, 0, 0,
                               0xb9, 6, 0, 0, 0, 0xf3, 0xa4, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90 };
    put_bytes(code_a, copy, sizeof copy);
    *(volatile u64 *)(code_a + 2) = (u64)code_b;
    *(volatile u64 *)(code_a + 12) = CODE_A + 27;
    put_return(code_b, 0x5150);
    say("copied over itself", call(CODE_A));

    u64 sum = 0;
    for (u32 round = 0; round < 1000; round++) {
        put_return(code_a + (round % 7) * 16, round);
        sum += call(CODE_A + (round % 7) * 16);
    }
    say("a thousand rewrites", sum);
}
