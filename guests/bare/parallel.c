/*
 * Four processors at once: what one of them believes and another changes. Code that is written, patched and replaced
 * while others run it, locked instructions on operands of every kind, page-table bits, the order of accesses.
 *
 * There is no board: a write of a processor's number to port 0xf5 starts it as `start_block` says, a write to 0xf6 has a
 * device copy memory as `device_block` says and then store a flag.
 */
#include "console.h"

#define CPUS 4
#define PAGE 4096ul

struct start_block {
    u64 rip, rsp, argument;
};
struct device_block {
    u64 to, from, bytes, flag, value;
};
#define start_block ((volatile struct start_block *)0x9200)
#define device_block ((volatile struct device_block *)0x9240)

extern u64 pml4[], pdpt[], pd[];

/* Rounds of each test, scaled by the command line: `short` in slow surroundings. */
static u64 scale = 4;

static inline void pause(void) { __asm__ volatile("pause" ::: "memory"); }
static inline void barrier(void) { __asm__ volatile("" ::: "memory"); }
static inline void serialize(void)
{
    u32 a = 0, b, c, d;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "=c"(c), "=d"(d)::"memory");
}
static inline void add_locked(volatile u64 *at, u64 value)
{
    __asm__ volatile("lock addq %1, %0" : "+m"(*at) : "r"(value) : "cc", "memory");
}
static inline u64 load(volatile u64 *at)
{
    u64 value = *at;
    barrier();
    return value;
}
static inline void store(volatile u64 *at, u64 value)
{
    barrier();
    *at = value;
}

typedef void (*job)(u64 cpu);
static volatile u64 job_number, jobs_done, lost;
static volatile job current;
static char stacks[CPUS][16384] __attribute__((aligned(16)));

static volatile u64 last_got, last_right;

/* Counts what should not be, and keeps the last of it. */
static void expect(u64 got, u64 right)
{
    if (got != right) {
        last_got = got;
        last_right = right;
        add_locked(&lost, 1);
    }
}

static void work(u64 cpu)
{
    for (u64 seen = 0;; seen++) {
        while (load(&job_number) == seen)
            pause();
        current(cpu);
        add_locked(&jobs_done, 1);
    }
}

static void start_others(void)
{
    for (u64 cpu = 1; cpu < CPUS; cpu++) {
        start_block->rip = (u64)work;
        start_block->rsp = (u64)stacks[cpu] + sizeof stacks[cpu] - 8;
        start_block->argument = cpu;
        out32(0xf5, cpu);
    }
}

/* Runs `run` on all processors and says what came of it. */
static void test(const char *name, job run)
{
    lost = 0;
    jobs_done = 0;
    current = run;
    store(&job_number, job_number + 1);
    run(0);
    while (load(&jobs_done) < CPUS - 1)
        pause();
    put(name);
    put(lost == 0 ? ": right\n" : ": WRONG, times ");
    if (lost != 0) {
        put_hex(lost);
        put(", at last ");
        put_hex(last_got);
        put(" instead of ");
        put_hex(last_right);
        put("\n");
    }
}

/* Lets all processors meet. */
static volatile u64 arrived;
static void meet(void)
{
    u64 mine;
    mine = 1;
    __asm__ volatile("lock xaddq %0, %1" : "+r"(mine), "+m"(arrived)::"cc", "memory");
    u64 all = (mine / CPUS + 1) * CPUS;
    while (load(&arrived) < all)
        pause();
}

static u8 code[4 * PAGE] __attribute__((aligned(4096)));

/* mov eax, value; ret */
static void put_return(u8 *at, u32 value)
{
    at[0] = 0xb8;
    *(volatile u32 *)(at + 1) = value;
    at[5] = 0xc3;
    barrier();
}

static u64 call(void *at)
{
    u64 result;
    __asm__ volatile("callq *%1" : "=a"(result) : "r"(at) : "rcx", "rdx", "rbx", "rsi", "rdi", "memory", "cc");
    return result;
}

/*
 * Processor 0 writes a function and says so; the others run another function of the page all the time, so the page
 * becomes code while processor 0 has it in its write TLB and in its store buffer.
 */
static volatile u64 published, taken[CPUS];
static void fresh_code(u64 cpu)
{
    u64 rounds = 300 * scale;
    if (cpu == 0) {
        published = 0;
        for (u64 n = 0; n < CPUS; n++)
            taken[n] = 0;
        put_return(code, 7);
        put_return(code + 256, 0);
    }
    meet();
    for (u64 round = 1; round <= rounds; round++) {
        if (cpu == 0) {
            /* All translations of the page go; then it is written as data. */
            put_return(code, 7);
            for (u64 n = 0; n < round % 64; n++)
                ((volatile u8 *)code)[1024 + n] = n;
            put_return(code + 256, round);
            store(&published, round);
            for (u64 n = 1; n < CPUS; n++)
                while (load(&taken[n]) < round)
                    pause();
        } else {
            while (load(&published) < round) {
                expect(call(code), 7);
                pause();
            }
            serialize();
            expect(call(code + 256), round);
            store(&taken[cpu], round);
        }
    }
}

/* As `fresh_code`, but a device brings the function. */
static u8 source[PAGE] __attribute__((aligned(4096)));
static void device_code(u64 cpu)
{
    u64 rounds = 100 * scale;
    if (cpu == 0) {
        published = 0;
        for (u64 n = 0; n < CPUS; n++)
            taken[n] = 0;
        put_return(code, 7);
        put_return(source, 7);
    }
    meet();
    for (u64 round = 1; round <= rounds; round++) {
        if (cpu == 0) {
            put_return(source + 256, round);
            device_block->to = (u64)code;
            device_block->from = (u64)source;
            device_block->bytes = 512;
            device_block->flag = (u64)&published;
            device_block->value = round;
            out8(0xf6, 1);
            for (u64 n = 1; n < CPUS; n++)
                while (load(&taken[n]) < round)
                    pause();
        } else {
            while (load(&published) < round) {
                expect(call(code), 7);
                pause();
            }
            serialize();
            expect(call(code + 256), round);
            store(&taken[cpu], round);
        }
    }
}

/* An aligned immediate changes under who runs it: values never go back, and after a handshake the new one is seen. */
static void patched_code(u64 cpu)
{
    u64 rounds = 1000 * scale, last = 0;
    u8 *at = code + PAGE;
    if (cpu == 0) {
        published = 0;
        put_return(at + 3, 0);
        at[0] = at[1] = at[2] = 0x90;
    }
    meet();
    for (u64 round = 1; cpu == 0 && round <= rounds; round++) {
        *(volatile u32 *)(at + 4) = round;
        store(&published, round);
        for (u64 n = 0; n < round % 32; n++)
            pause();
    }
    while (cpu != 0 && last < rounds) {
        u64 at_least = load(&published);
        serialize();
        u64 got = call(at);
        if (got < at_least || got < last)
            expect(got, at_least);
        last = got;
        pause();
    }
    meet();
}

/*
 * What kernels do to their own code: a breakpoint's byte first, then the rest, then the first byte, each told to all
 * processors. Here the first byte is made a RET, and the two wholes return 1 and 2.
 */
static volatile u64 step;
static void poked_code(u64 cpu)
{
    u64 rounds = 100 * scale;
    u8 *at = code + 2 * PAGE;
    if (cpu == 0) {
        static const u8 one[] = { 0xb8, 1, 0, 0, 0, 0xc3 };
        for (u64 n = 0; n < sizeof one; n++)
            ((volatile u8 *)at)[n] = one[n];
        step = 0;
        for (u64 n = 0; n < CPUS; n++)
            taken[n] = 0;
    }
    meet();
    if (cpu != 0) {
        for (u64 seen = 0; seen < 4 * rounds;) {
            u64 now = load(&step), result;
            if (now != seen) {
                serialize();
                seen = now;
                store(&taken[cpu], now);
            }
            __asm__ volatile("movl $9, %%eax; callq *%1"
                             : "=&a"(result)
                             : "r"(at)
                             : "rcx", "rdx", "rbx", "rsi", "rdi", "memory", "cc");
            /* After the last step of a round the function is whole until all have agreed to the next. */
            if (load(&step) == now && now == seen && now % 4 == 0)
                expect(result, now / 4 % 2 + 1);
            if (result != 9 && result != 1 && result != 2)
                expect(result, 1);
            pause();
        }
        return;
    }
    for (u64 n = 1; n <= 4 * rounds; n++) {
        u64 round = (n + 3) / 4;
        if (n % 4 == 2)
            ((volatile u8 *)at)[0] = 0xc3;
        else if (n % 4 == 3)
            ((volatile u8 *)at)[1] = round % 2 + 1;
        else if (n % 4 == 0)
            ((volatile u8 *)at)[0] = 0xb8;
        store(&step, n);
        for (u64 other = 1; other < CPUS; other++)
            while (load(&taken[other]) < n)
                pause();
    }
}

/* Locked instructions: plain, across cache lines and pages, beside code, with and without alignment. */
static u8 cells[3 * PAGE] __attribute__((aligned(4096)));
static void locked(u64 cpu)
{
    u64 rounds = 1000 * scale, all = rounds * CPUS;
    volatile u64 *plain = (volatile u64 *)(cells + 64), *line = (volatile u64 *)(cells + 128 + 60);
    volatile u64 *pages = (volatile u64 *)(cells + 2 * PAGE - 5);
    volatile u64 *beside = (volatile u64 *)(code + 3 * PAGE + 512), *odd = (volatile u64 *)(code + 3 * PAGE + 601);
    volatile unsigned __int128 *wide = (volatile unsigned __int128 *)(code + 3 * PAGE + 640);
    volatile u64 *exchanged = (volatile u64 *)(code + 3 * PAGE + 704), *guarded = exchanged + 1;
    volatile u64 *bits = (volatile u64 *)(code + 3 * PAGE + 1024);
    if (cpu == 0) {
        for (u64 n = 0; n < sizeof cells; n++)
            cells[n] = 0;
        for (u64 n = 0; n < PAGE; n++)
            code[3 * PAGE + n] = 0;
        put_return(code + 3 * PAGE, 3);
    }
    meet();
    for (u64 round = 0; round < rounds; round++) {
        u64 one = 1;
        add_locked(plain, 1);
        add_locked(line, 1);
        add_locked(pages, 1);
        expect(call(code + 3 * PAGE), 3);
        add_locked(beside, 1);
        __asm__ volatile("lock xaddq %0, %1" : "+r"(one), "+m"(*odd)::"cc", "memory");
        u64 low = (u64)*wide, high = (u64)(*wide >> 64);
        u8 done;
        do {
            __asm__ volatile("lock cmpxchg16b %1; sete %0"
                             : "=q"(done), "+m"(*wide), "+a"(low), "+d"(high)
                             : "b"(low + 1), "c"(high - 1)
                             : "cc", "memory");
        } while (!done);
        __asm__ volatile("lock btsq %1, %0" : "+m"(*bits) : "r"(round * CPUS + cpu) : "cc", "memory");
        /* A spin lock on a page of code, opened by a plain store. */
        u64 mine = 1;
        do {
            mine = 1;
            __asm__ volatile("xchgq %0, %1" : "+r"(mine), "+m"(*exchanged)::"memory");
            pause();
        } while (mine != 0);
        *guarded = *guarded + 1;
        store(exchanged, 0);
    }
    meet();
    if (cpu != 0)
        return;
    expect(*plain, all);
    expect(*line, all);
    expect(*pages, all);
    expect(*beside, all);
    expect(*odd, all);
    expect((u64)*wide, all);
    expect((u64)(*wide >> 64), -all);
    expect(*guarded, all);
    for (u64 n = 0; n < all / 64 && n < 256; n++)
        expect(bits[n], ~0ul);
}

/*
 * Processor 0 turns a software bit of page-table entries over with locked instructions while the others' accesses set
 * accessed and dirty bits there: nothing may be lost.
 */
static u64 table[512] __attribute__((aligned(4096)));
#define WINDOW 0x3fe00000ul
static void table_bits(u64 cpu)
{
    u64 rounds = 30 * scale;
    for (u64 round = 0; round < rounds; round++) {
        if (cpu == 0) {
            for (u64 n = 0; n < 512; n++)
                table[n] = ((u64)cells & ~0xffful) | 3;
            pd[WINDOW >> 21] = (u64)table | 3;
        }
        meet();
        __asm__ volatile("movq %%cr3, %%rax; movq %%rax, %%cr3" ::: "rax", "memory");
        meet();
        for (u64 n = 0; n < 512; n++) {
            if (cpu == 0)
                __asm__ volatile("lock xorq $0x200, %0" : "+m"(table[n])::"cc", "memory");
            else if (cpu % 2 == 0)
                (void)*(volatile u64 *)(WINDOW + n * PAGE);
            else
                *(volatile u64 *)(WINDOW + n * PAGE + 8 * cpu) = n;
        }
        meet();
        for (u64 n = 0; cpu == 0 && n < 512; n++)
            expect(table[n] & 0x260, 0x260);
        meet();
    }
}

/* Store buffering with a fence, message passing, whole values: outcomes that x86 forbids (SDM vol. 3, 9.2.3). */
static volatile u64 x[8], y[8], seen[CPUS][8], data[8], flag[8], whole[8];
static void order(u64 cpu)
{
    u64 rounds = 250 * scale;
    volatile u64 *beside_code = (volatile u64 *)(code + 3 * PAGE + 2048);
    for (u64 round = 1; round <= rounds; round++) {
        meet();
        if (cpu == 0) {
            *x = round;
            __asm__ volatile("mfence" ::: "memory");
            seen[0][0] = *y;
        } else if (cpu == 1) {
            u64 value = round;
            __asm__ volatile("xchgq %0, %1" : "+r"(value), "+m"(*y)::"memory");
            seen[1][0] = *x;
        }
        meet();
        if (cpu == 0 && seen[0][0] != round && seen[1][0] != round)
            expect(0, 1);
    }
    meet();
    for (u64 n = 1; n <= 80 * rounds; n++) {
        if (cpu == 0) {
            store(data, n);
            store(flag, n);
            *whole = (n & 0xff) * 0x0101010101010101ul;
            if (n % 16 == 0)
                *beside_code = (n >> 4 & 0xff) * 0x0101010101010101ul;
        } else {
            u64 had = load(flag);
            if (load(data) < had)
                expect(0, had);
            expect(*whole % 0x0101010101010101ul, 0);
            expect(*beside_code % 0x0101010101010101ul, 0);
        }
    }
    meet();
    if (cpu == 0)
        *flag = *data = 0;
}

/* More code than a small cache holds, on all processors at once. */
#define BIG_PAGES 96
static u8 big[BIG_PAGES * PAGE] __attribute__((aligned(4096)));
static void much_code(u64 cpu)
{
    u64 rounds = 4 * scale;
    if (cpu == 0)
        for (u64 n = 0; n < BIG_PAGES * PAGE / 64; n++)
            put_return(big + n * 64, n);
    meet();
    for (u64 round = 0; round < rounds; round++)
        for (u64 n = 0; n < BIG_PAGES * PAGE / 64; n++) {
            u64 which = (n * 61 + cpu * 1000) % (BIG_PAGES * PAGE / 64);
            expect(call(big + which * 64), which);
        }
}

void guest_main(u32 *info)
{
    const char *words = (const char *)(u64)info[4];
    if (words[0] == 's')
        scale = 1;
    start_others();
    test("code that is written", fresh_code);
    test("code that a device brings", device_code);
    test("code that is patched", patched_code);
    test("code that is poked", poked_code);
    test("locked instructions", locked);
    test("bits of page tables", table_bits);
    test("order", order);
    test("much code", much_code);
    test("code that is written, again", fresh_code);
    leave(0);
}
