/*
 * Sixteen vector registers with values of their own, kept over stretches in which nothing but the processor and whoever
 * stops and moves it touches them. Runs while the file in the first argument is there; says how often it looked, at
 * which registers, and how often one was wrong.
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define REGISTERS 16
#define WORK 20000000ul

static uint8_t in[REGISTERS * 32] __attribute__((aligned(32))), out[sizeof in] __attribute__((aligned(32)));

#define EACH(statement)                                                                           \
    statement(0) statement(1) statement(2) statement(3) statement(4) statement(5) statement(6)    \
        statement(7) statement(8) statement(9) statement(10) statement(11) statement(12)          \
            statement(13) statement(14) statement(15)
#define LOAD_YMM(n) "vmovdqa 32*" #n "(%[in]), %%ymm" #n "\n"
#define SAVE_YMM(n) "vmovdqa %%ymm" #n ", 32*" #n "(%[out])\n"
#define LOAD_XMM(n) "movdqa 32*" #n "(%[in]), %%xmm" #n "\n"
#define SAVE_XMM(n) "movdqa %%xmm" #n ", 32*" #n "(%[out])\n"
#define KEPT(load, save)                                                                          \
    __asm__ volatile(EACH(load) "1: decq %[work]\n jnz 1b\n" EACH(save)                           \
                     : [work] "+r"(work)                                                          \
                     : [in] "r"(in), [out] "r"(out)                                               \
                     : "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",  \
                       "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15")

int main(int count, char **words)
{
    unsigned long rounds = 0, wrong = 0;
    int has_avx = __builtin_cpu_supports("avx"), bytes = has_avx ? 32 : 16;
    if (count != 2)
        return 2;
    while (access(words[1], F_OK) == 0) {
        unsigned long work = WORK;
        for (unsigned n = 0; n < sizeof in; n++)
            in[n] = (n + 1) * 37 + rounds;
        memset(out, 0, sizeof out);
        if (has_avx)
            KEPT(LOAD_YMM, SAVE_YMM);
        else
            KEPT(LOAD_XMM, SAVE_XMM);
        rounds++;
        for (int n = 0; n < REGISTERS; n++)
            wrong += memcmp(in + 32 * n, out + 32 * n, bytes) != 0;
    }
    printf("%lu looks at %s registers, %lu wrong\n", rounds, has_avx ? "ymm" : "xmm", wrong);
    return wrong != 0;
}
