/* What a processor does by itself: one work for each way in which programs spend their time. */
#define _GNU_SOURCE
#include "cpu.h"

#include <immintrin.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static uint64_t alu(void)
{
    uint64_t a = 1, b = 2, c = 3, d = 4;
    for (unsigned n = 0; n < 12000000; n++) {
        a += b ^ n;
        b = (b << 7 | b >> 57) + c;
        c ^= a >> 3;
        d = d * 5 + (c & a) - (b | n);
    }
    return a ^ b ^ c ^ d;
}

/* A machine of eight instructions whose places are computed: how bytecode is run. */
static uint64_t interpreter(void)
{
    static const uint8_t code[] = {0, 1, 2, 5, 3, 1, 4, 2, 6, 0, 5, 7};
    static const void *const places[] = {&&add, &&rotate, &&mix, &&push, &&pop, &&test, &&skip, &&again};
    uint64_t value = 1, stack[64], rounds = 4000000;
    unsigned top = 0, at = 0;
    memset(stack, 0, sizeof stack);
#define NEXT goto *places[code[at++]]
    NEXT;
add:
    value += 0x9e3779b97f4a7c15u;
    NEXT;
rotate:
    value = value << 13 | value >> 51;
    NEXT;
mix:
    value ^= value >> 29;
    NEXT;
push:
    stack[top++ & 63] = value;
    NEXT;
pop:
    value += stack[--top & 63];
    NEXT;
test:
    if (value & 1)
        value += 3;
    NEXT;
skip:
    at += value & 1;
    NEXT;
again:
    at = 0;
    if (--rounds)
        NEXT;
    return value;
}

static uint64_t __attribute__((noinline)) fibonacci(unsigned n)
{
    return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

static uint64_t recursion(void)
{
    volatile unsigned n = 35;
    return fibonacci(n);
}

#define LINKS (1u << 16)

/* A list through 4 MiB, each link at a place that the one before does not tell. */
static uint64_t chase(void)
{
    static struct link {
        struct link *next;
        uint64_t value[7];
    } links[LINKS];
    static uint32_t order[LINKS];
    uint64_t random = 88172645463325252u, sum = 0;
    for (uint32_t n = 0; n < LINKS; n++)
        order[n] = n;
    for (uint32_t n = LINKS - 1; n > 0; n--) {
        uint32_t other = next_random(&random) % (n + 1), kept = order[n];
        order[n] = order[other];
        order[other] = kept;
    }
    for (uint32_t n = 0; n < LINKS; n++) {
        links[order[n]].next = &links[order[(n + 1) % LINKS]];
        links[order[n]].value[0] = n;
    }
    struct link *link = links;
    for (uint32_t n = 0; n < 6 * LINKS; n++) {
        sum += link->value[0];
        link = link->next;
    }
    return sum;
}

#define STREAM (1u << 20)

static uint64_t stream(void)
{
    static uint64_t a[STREAM], b[STREAM];
    for (unsigned n = 0; n < STREAM; n++)
        a[n] = n;
    for (unsigned round = 0; round < 20; round++)
        for (unsigned n = 0; n < STREAM; n++)
            b[n] = a[n] * 3 + (round ? b[n] : 0);
    return b[STREAM - 1] ^ b[12345];
}

#define SIDE 160

static float left[SIDE * SIDE], right[SIDE * SIDE], product[SIDE * SIDE];

static void fill_matrices(void)
{
    for (unsigned n = 0; n < SIDE * SIDE; n++) {
        left[n] = (float)(n % 13);
        right[n] = (float)(n % 7);
    }
}

static uint64_t sum_of_product(void)
{
    uint64_t sum = 0;
    for (unsigned n = 0; n < SIDE * SIDE; n++)
        sum += (uint64_t)product[n] * (n % 31 + 1);
    return sum;
}

static uint64_t matrix_sse2(void)
{
    fill_matrices();
    for (unsigned round = 0; round < 32; round++)
        for (unsigned row = 0; row < SIDE; row++)
            for (unsigned column = 0; column < SIDE; column += 4) {
                __m128 sum = _mm_setzero_ps();
                for (unsigned n = 0; n < SIDE; n++)
                    sum = _mm_add_ps(
                        sum, _mm_mul_ps(_mm_set1_ps(left[row * SIDE + n]), _mm_loadu_ps(&right[n * SIDE + column])));
                _mm_storeu_ps(&product[row * SIDE + column], sum);
            }
    return sum_of_product();
}

static int has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

__attribute__((target("avx2,fma"))) static uint64_t matrix_avx2(void)
{
    fill_matrices();
    for (unsigned round = 0; round < 60; round++)
        for (unsigned row = 0; row < SIDE; row++)
            for (unsigned column = 0; column < SIDE; column += 8) {
                __m256 sum = _mm256_setzero_ps();
                for (unsigned n = 0; n < SIDE; n++)
                    sum = _mm256_fmadd_ps(
                        _mm256_set1_ps(left[row * SIDE + n]), _mm256_loadu_ps(&right[n * SIDE + column]), sum);
                _mm256_storeu_ps(&product[row * SIDE + column], sum);
            }
    return sum_of_product();
}

static uint64_t x87(void)
{
    long double value = 1, sum = 0;
    for (unsigned n = 1; n < 7000000; n++) {
        value = value * 1.0000001L + 1.0L / n;
        sum += value;
    }
    return (uint64_t)sum;
}

static uint64_t mathematics(void)
{
    double sum = 0;
    for (unsigned n = 1; n < 400000; n++) {
        double x = n * 0.001;
        sum += sin(x) * cos(x) + exp(-x) + log(x) + pow(x, 0.3);
    }
    /* The last digits are the library's, which may take another way on another processor. */
    return (uint64_t)(sum / 1000);
}

static int compare(const void *one, const void *other)
{
    uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)other;
    return a < b ? -1 : a > b;
}

static uint64_t sort(void)
{
    static uint32_t values[200000];
    uint64_t random = 1, sum = 0;
    for (unsigned n = 0; n < 200000; n++)
        values[n] = (uint32_t)next_random(&random);
    qsort(values, 200000, sizeof values[0], compare);
    for (unsigned n = 0; n < 200000; n += 1000)
        sum = sum * 31 + values[n];
    return sum;
}

static uint8_t from[1 << 16], to[1 << 16];

static void clear(void)
{
    memset(from, 3, sizeof from);
    memset(to, 5, sizeof to);
}

static uint64_t copy(void)
{
    uint64_t sum = 0;
    clear();
    for (unsigned n = 0; n < 40000; n++) {
        from[n % sizeof from] += n;
        memcpy(to, from + n % 64, sizeof to - 64 - n % 1024);
        sum += to[n % 60000];
    }
    return sum;
}

static uint64_t copy_by_string(void)
{
    uint64_t sum = 0;
    clear();
    for (unsigned n = 0; n < 300000; n++) {
        void *a = to, *b = from;
        size_t count = n % 8 ? 40 : 16384;
        from[n % sizeof from] += n;
        __asm__ volatile("rep movsb" : "+D"(a), "+S"(b), "+c"(count) : : "memory");
        sum += to[n % 32];
    }
    return sum;
}

#define TURN(x, n) ((x) >> (n) | (x) << (32 - (n)))

/* SHA-256 (FIPS 180-4) over whole blocks, with constants that are made: what is measured is the work. */
static uint64_t hash(void)
{
    static const uint8_t message[64] = "what is hashed here is always the same, but for its first word.";
    uint32_t state[8] = {1, 2, 3, 4, 5, 6, 7, 8}, w[64], constants[64];
    for (unsigned n = 0; n < 64; n++)
        constants[n] = n * 2654435761u;
    for (uint32_t block = 0; block < 60000; block++) {
        memcpy(w, message, sizeof message);
        w[0] = block;
        for (unsigned n = 16; n < 64; n++)
            w[n] = w[n - 16] + w[n - 7] + (TURN(w[n - 15], 7) ^ TURN(w[n - 15], 18) ^ w[n - 15] >> 3)
                + (TURN(w[n - 2], 17) ^ TURN(w[n - 2], 19) ^ w[n - 2] >> 10);
        uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4], f = state[5], g = state[6],
                 h = state[7];
        for (unsigned n = 0; n < 64; n++) {
            uint32_t one = h + (TURN(e, 6) ^ TURN(e, 11) ^ TURN(e, 25)) + ((e & f) ^ (~e & g)) + constants[n] + w[n];
            uint32_t two = (TURN(a, 2) ^ TURN(a, 13) ^ TURN(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
            h = g, g = f, f = e, e = d + one, d = c, c = b, b = a, a = one + two;
        }
        state[0] += a, state[1] += b, state[2] += c, state[3] += d;
        state[4] += e, state[5] += f, state[6] += g, state[7] += h;
    }
    return (uint64_t)state[0] << 32 | state[7];
}

#define TEXT 3000000

/* Text is packed: what was seen before is said as its distance and length. */
static uint64_t compress(void)
{
    static uint8_t text[TEXT + 8], packed[2 * TEXT];
    static uint32_t seen[1 << 14];
    uint64_t random = 7;
    static const char *const words[] = {"guest ", "host ", "memory ", "page ", "of ", "the ", "sees ", "kernel ", "and\n"};
    size_t length = 0, out = 0;
    while (length < TEXT - 16) {
        const char *word = words[next_random(&random) % 9];
        size_t size = strlen(word);
        memcpy(text + length, word, size);
        length += size;
    }
    memset(seen, 0, sizeof seen);
    for (size_t at = 0; at < length;) {
        uint32_t four;
        memcpy(&four, text + at, 4);
        uint32_t slot = four * 2654435761u >> 18, before = seen[slot];
        size_t same = 0;
        seen[slot] = (uint32_t)at;
        while (before && same < 255 && at + same < length && text[before + same] == text[at + same])
            same++;
        if (same < 4) {
            packed[out++] = text[at++];
            continue;
        }
        packed[out++] = (uint8_t)same;
        packed[out++] = (uint8_t)(at - before);
        packed[out++] = (uint8_t)((at - before) >> 8);
        at += same;
    }
    uint64_t sum = out;
    for (size_t n = 0; n < out; n++)
        sum = sum * 31 + packed[n];
    return sum;
}

static uint64_t locked(void)
{
    static uint64_t counter, other;
    counter = other = 0;
    for (unsigned n = 0; n < 2000000; n++) {
        __atomic_fetch_add(&counter, n, __ATOMIC_SEQ_CST);
        uint64_t expected = other;
        __atomic_compare_exchange_n(&other, &expected, expected + counter, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    return counter ^ other;
}

/* Values that lie across the ends of pages. */
static uint64_t across_pages(void)
{
    static uint8_t pages[17 * 4096] __attribute__((aligned(4096)));
    uint64_t sum = 0;
    memset(pages, 1, sizeof pages);
    for (unsigned n = 0; n < 2000000; n++) {
        uint64_t value;
        uint8_t *at = pages + 4096 * (n % 16 + 1) - 1 - n % 7;
        memcpy(&value, at, 8);
        sum += value;
        value += n;
        memcpy(at, &value, 8);
    }
    return sum;
}

/* Changes eight bytes in every way that takes another path in a software CPU: read-modify-write, locked, vector. */
static uint64_t changed(uint8_t *at, unsigned rounds)
{
    uint64_t sum;
    for (uint64_t n = 0; n < rounds; n++) {
        uint64_t value = n;
        __asm__ volatile("addq %1, %0; incq %0; lock addq %1, %0; lock xaddq %1, %0; movq %1, %%xmm0; movlhps %%xmm0, %%xmm0;"
                         "movups %%xmm0, %0"
                         : "+m"(*(uint8_t(*)[16])at), "+r"(value)::"cc", "xmm0");
    }
    memcpy(&sum, at, 8);
    return sum;
}

static uint64_t changes_across_pages(void)
{
    static uint8_t pages[2 * 4096] __attribute__((aligned(4096)));
    memset(pages, 1, sizeof pages);
    return changed(pages + 4096 - 3, 200000);
}

typedef uint64_t (*made)(uint64_t);

static uint8_t *page_of_code(void)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        die("map a page of code");
    return page;
}

/* lea rax, [rdi + NUMBER]; ret */
static void make(uint8_t *place, uint32_t number)
{
    static const uint8_t head[] = {0x48, 0x8d, 0x87};
    memcpy(place, head, sizeof head);
    memcpy(place + 3, &number, 4);
    place[7] = 0xc3;
}

/* Data is written on the page of the code that runs. */
static uint64_t data_beside_code(void)
{
    uint8_t *page = page_of_code();
    uint64_t value = 0;
    volatile uint64_t *data = (volatile uint64_t *)(page + 2048);
    make(page, 7);
    for (unsigned n = 0; n < 200000; n++) {
        value = ((made)(uintptr_t)page)(value);
        *data = value;
    }
    munmap(page, 4096);
    return value;
}

static uint64_t changes_beside_code(void)
{
    uint8_t *page = page_of_code();
    uint64_t sum;
    make(page, 7);
    sum = ((made)(uintptr_t)page)(0);
    sum += changed(page + 2048, 200000);
    munmap(page, 4096);
    return sum;
}

/* The code itself is written and run, again and again. */
static uint64_t code_rewritten(void)
{
    uint8_t *page = page_of_code();
    uint64_t value = 0;
    for (uint32_t n = 0; n < 20000; n++) {
        make(page, n & 0xffff);
        value = ((made)(uintptr_t)page)(value);
    }
    munmap(page, 4096);
    return value;
}

const struct work user_works[] = {
    {"alu", alu, NULL},
    {"interpreter", interpreter, NULL},
    {"recursion", recursion, NULL},
    {"chase", chase, NULL},
    {"stream", stream, NULL},
    {"matrix-sse2", matrix_sse2, NULL},
    {"matrix-avx2", matrix_avx2, has_avx2},
    {"x87", x87, NULL},
    {"mathematics", mathematics, NULL},
    {"sort", sort, NULL},
    {"memcpy", copy, NULL},
    {"rep-movsb", copy_by_string, NULL},
    {"sha256", hash, NULL},
    {"compress", compress, NULL},
    {"locked", locked, NULL},
    {"across-pages", across_pages, NULL},
    {"changes-across-pages", changes_across_pages, NULL},
    {"data-beside-code", data_beside_code, NULL},
    {"changes-beside-code", changes_beside_code, NULL},
    {"code-rewritten", code_rewritten, NULL},
    {NULL, NULL, NULL},
};
