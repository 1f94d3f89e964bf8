/* Page tables of the processor guest: a window of virtual addresses that tests map as they like. */
#ifndef PAGES_H
#define PAGES_H

#include "console.h"

#define P 1ul
#define W 2ul
#define U 4ul
#define A 0x20ul
#define D 0x40ul
#define PS 0x80ul
#define G 0x100ul
#define NX (1ul << 63)

/* First address of the window; nothing is mapped there at first. */
#define WINDOW 0x8000000000ul

extern u64 pml4[512], pdpt[512], pd[512];

/* The entry that maps `va` at `level` (1 = 4 KiB, 2 = 2 MiB, 3 = 1 GiB), making tables above it as needed. */
volatile u64 *entry(u64 va, int level);
/* Sets the entry and forgets what was cached about it. */
void map(u64 va, u64 pa, u64 flags);
void map_level(u64 va, u64 pa, u64 flags, int level);

static inline void invlpg(u64 va) { __asm__ volatile("invlpg (%0)" : : "r"(va) : "memory"); }
static inline u64 read_cr0(void) { u64 v; __asm__ volatile("movq %%cr0, %0" : "=r"(v)); return v; }
static inline u64 read_cr3(void) { u64 v; __asm__ volatile("movq %%cr3, %0" : "=r"(v)); return v; }
static inline u64 read_cr4(void) { u64 v; __asm__ volatile("movq %%cr4, %0" : "=r"(v)); return v; }
static inline void write_cr0(u64 v) { __asm__ volatile("movq %0, %%cr0" : : "r"(v) : "memory"); }
static inline void write_cr3(u64 v) { __asm__ volatile("movq %0, %%cr3" : : "r"(v) : "memory"); }
static inline void write_cr4(u64 v) { __asm__ volatile("movq %0, %%cr4" : : "r"(v) : "memory"); }
static inline u64 read_msr(u32 n)
{
    u32 low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(n));
    return low | (u64)high << 32;
}
static inline void write_msr(u32 n, u64 v) { __asm__ volatile("wrmsr" : : "c"(n), "a"((u32)v), "d"((u32)(v >> 32)) : "memory"); }

#define CR0_TS (1ul << 3)
#define CR0_EM (1ul << 2)
#define CR0_WP (1ul << 16)
#define CR0_AM (1ul << 18)
#define CR4_TSD (1ul << 2)
#define CR4_DE (1ul << 3)
#define CR4_PGE (1ul << 7)
#define CR4_UMIP (1ul << 11)
#define CR4_FSGSBASE (1ul << 16)
#define CR4_PCIDE (1ul << 17)
#define CR4_OSXSAVE (1ul << 18)
#define CR4_SMEP (1ul << 20)
#define CR4_SMAP (1ul << 21)
#define EFER 0xc0000080
#define STAR 0xc0000081
#define LSTAR 0xc0000082
#define CSTAR 0xc0000083
#define FMASK 0xc0000084
#define FS_BASE 0xc0000100
#define GS_BASE 0xc0000101
#define KERNEL_GS_BASE 0xc0000102

#endif
