/* String instructions, mappings, and code that writes code. */
#include "suite.h"

static uint8_t *pages(size_t count, int protection)
{
    void *at = mmap(NULL, count * PAGE, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        abort();
    return at;
}

static void fill(uint8_t *at, size_t count)
{
    for (size_t index = 0; index < count; index++)
        at[index] = index * 7 + (index >> 8);
}

void strings(void)
{
    uint8_t *area = pages(4, PROT_READ | PROT_WRITE);
    for (int down = 0; down < 2; down++)
        for (size_t width = 1; width <= 8; width *= 2)
            for (size_t distance = 0; distance < 20; distance += 3) {
                fill(area, 4 * PAGE);
                size_t count = 5000 / width;
                uint8_t *from = area + 1000, *to = from + distance;
                if (down) {
                    from += (count - 1) * width;
                    to += (count - 1) * width;
                    __asm__ volatile("std");
                }
                switch (width) {
                case 1: __asm__ volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(count) : : "memory"); break;
                case 2: __asm__ volatile("rep movsw" : "+S"(from), "+D"(to), "+c"(count) : : "memory"); break;
                case 4: __asm__ volatile("rep movsl" : "+S"(from), "+D"(to), "+c"(count) : : "memory"); break;
                case 8: __asm__ volatile("rep movsq" : "+S"(from), "+D"(to), "+c"(count) : : "memory"); break;
                }
                __asm__ volatile("cld");
                if (distance % 9 == 0)
                    printf("movs%zu %s by %zu: %016lx %ld\n", width, down ? "down" : "up", distance, mix_bytes(0, area, 4 * PAGE), to - from);
            }
    fill(area, 4 * PAGE);
    uint8_t *at = area + PAGE - 3;
    uint64_t count = 1000;
    __asm__ volatile("rep stosw" : "+D"(at), "+c"(count) : "a"(0x1234) : "memory");
    printf("stos %016lx\n", mix_bytes(0, area, 4 * PAGE));
    at = area;
    count = 4 * PAGE;
    __asm__ volatile("repne scasb" : "+D"(at), "+c"(count) : "a"(0x34) : "memory", "cc");
    printf("scas %ld %lu\n", at - area, count);
    fill(area, PAGE);
    fill(area + PAGE, PAGE);
    area[PAGE + 777] ^= 1;
    uint8_t *left = area, *right = area + PAGE;
    count = PAGE;
    __asm__ volatile("repe cmpsb" : "+S"(left), "+D"(right), "+c"(count) : : "memory", "cc");
    printf("cmps %ld %lu\n", left - area, count);
    munmap(area, 4 * PAGE);
}

void mappings(void)
{
    uint8_t *area = pages(8, PROT_READ | PROT_WRITE);
    fill(area, 8 * PAGE);
    int file = memfd_create("alias", 0);
    if (ftruncate(file, 2 * PAGE))
        abort();
    uint8_t *one = mmap(area + PAGE, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0);
    uint8_t *two = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    memset(one, 0x11, 2 * PAGE);
    two[5] = 0x22;
    one[PAGE + 7] = 0x33;
    printf("alias %x %x %x\n", one[5], two[PAGE + 7], two[8]);
    memcpy(area + PAGE - 10, "twenty bytes across!", 20);
    printf("across %.20s %.10s\n", (char *)area + PAGE - 10, (char *)two);
    mmap(area + PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    printf("remapped %x %x\n", one[5], two[5]);
    uint8_t *moved = mremap(two, 2 * PAGE, 4 * PAGE, MREMAP_MAYMOVE);
    printf("mremap %x %016lx\n", moved[PAGE + 7], mix_bytes(0, moved, 2 * PAGE));
    uint8_t *swapped = pages(2, PROT_READ | PROT_WRITE);
    swapped[0] = 1;
    swapped[PAGE] = 2;
    for (int round = 0; round < 100; round++) {
        mremap(swapped, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, area + 4 * PAGE);
        mremap(swapped + PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, swapped);
        mremap(area + 4 * PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, swapped + PAGE);
        swapped[1] += swapped[0];
    }
    printf("swapped %d %d %d %d\n", swapped[0], swapped[1], swapped[PAGE], swapped[PAGE + 1]);
    area[0] = 9;
    madvise(area, PAGE, MADV_DONTNEED);
    printf("dontneed %d\n", area[0]);
    uint64_t sum = 0;
    for (int round = 0; round < 300; round++) {
        uint8_t *fresh = pages(16, PROT_READ | PROT_WRITE);
        for (int page = 0; page < 16; page++)
            fresh[page * PAGE + round] = page + round;
        sum = mix_bytes(sum, fresh + 3 * PAGE, 512);
        munmap(fresh, 16 * PAGE);
    }
    printf("fresh %016lx\n", sum);
}

static void put_return(uint8_t *at, uint32_t value)
{
    at[0] = 0xb8;
    memcpy(at + 1, &value, 4);
    at[5] = 0xc3;
}
typedef uint32_t (*function)(void);

void self_modifying(void)
{
    uint8_t *code = pages(3, PROT_READ | PROT_WRITE | PROT_EXEC);
    uint64_t hash = 0;
    for (uint32_t round = 0; round < 20000; round++) {
        uint8_t *at = code + (round % 3) * 8 + (round & 1 ? PAGE - 12 : 0);
        put_return(at, round);
        hash = mix(hash, ((function)at)());
    }
    printf("rewritten %016lx\n", hash);
    /* the next instruction: mov dword [rip+1], imm; mov eax, imm; ret */
    static const uint8_t next[] = { 0xc7, 0x05, 1, 0, 0, 0, 0x77, 0, 0, 0, 0xb8, 1, 0, 0, 0, 0xc3 };
    for (uint32_t round = 0; round < 50; round++) {
        memcpy(code, next, sizeof next);
        code[6] = round;
        hash = mix(hash, ((function)code)());
    }
    printf("next instruction %016lx\n", hash);
    /* a loop that counts in its own immediate */
    static const uint8_t growing[] = { 0x31, 0xc0, 0xb9, 100, 0, 0, 0, 0x83, 0xc0, 1, 0xfe, 0x05, 0xf9, 0xff, 0xff, 0xff, 0xe2, 0xf5, 0xc3 };
    memcpy(code + 100, growing, sizeof growing);
    printf("own immediate %u\n", ((function)(code + 100))());
    /* one file, two views: written here, run there */
    int file = memfd_create("code", 0);
    if (ftruncate(file, PAGE))
        abort();
    uint8_t *write_view = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    uint8_t *run_view = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, file, 0);
    for (uint32_t round = 0; round < 2000; round++) {
        put_return(write_view + round % 64, round * 3);
        hash = mix(hash, ((function)(run_view + round % 64))());
    }
    printf("two views %016lx\n", hash);
    /* the frame under an address changes */
    put_return(write_view, 1);
    put_return(code, 2);
    uint32_t first = ((function)run_view)();
    mremap(code, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, run_view);
    printf("remapped code %u %u\n", first, ((function)run_view)());
    uint8_t *strict = pages(1, PROT_READ | PROT_WRITE);
    for (uint32_t round = 0; round < 200; round++) {
        mprotect(strict, PAGE, PROT_READ | PROT_WRITE);
        put_return(strict + round % 32, round);
        mprotect(strict, PAGE, PROT_READ | PROT_EXEC);
        hash = mix(hash, ((function)(strict + round % 32))());
    }
    printf("mprotect %016lx\n", hash);
}
