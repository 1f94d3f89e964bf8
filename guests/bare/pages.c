/* See pages.h. */
#include "pages.h"

static u64 pool[24][512] __attribute__((aligned(4096)));
static int pool_used;

volatile u64 *entry(u64 va, int level)
{
    volatile u64 *table = pml4;
    for (int at = 4; at > level; at--) {
        volatile u64 *slot = &table[va >> (12 + 9 * (at - 1)) & 511];
        if (!(*slot & P) || (*slot & PS))
            *slot = (u64)pool[pool_used++] | P | W | U;
        table = (volatile u64 *)(*slot & 0x000ffffffffff000);
    }
    return &table[va >> (12 + 9 * (level - 1)) & 511];
}

void map_level(u64 va, u64 pa, u64 flags, int level)
{
    *entry(va, level) = pa | flags | (level > 1 ? PS : 0);
    invlpg(va);
}

void map(u64 va, u64 pa, u64 flags)
{
    map_level(va, pa, flags, 1);
}
