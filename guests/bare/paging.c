/* Paging: every way an access may fault, accessed and dirty bits, sizes of pages, and what forgets a translation. */
#include "pages.h"
#include "processor.h"

static u8 page_a[4096] __attribute__((aligned(4096)));
static u8 page_b[4096] __attribute__((aligned(4096)));
static u8 two_pages[8192] __attribute__((aligned(4096)));
/* Physical addresses of large pages: 64 MiB, which the guest has. */
#define LARGE 0x4000000ul
#define HUGE_VA (WINDOW + (1ul << 30))
#define LARGE_VA (WINDOW + 0x200000)

static void try_read(const char *what, u64 at)
{
    TRY("movq (%1), %%rcx\n", "r"(at));
    report(what);
}
static void try_write(const char *what, u64 at)
{
    TRY("movq %%rcx, (%1)\n", "r"(at));
    report(what);
}
static void try_call(const char *what, u64 at)
{
    TRY("callq *%1\n", "r"(at));
    trap_first = ~0ul >> 1;
    report(what);
}

static void present_and_writable(void)
{
    try_read("read of an unmapped page", WINDOW);
    try_write("write to an unmapped page", WINDOW);
    try_call("call into an unmapped page", WINDOW);
    page_a[0] = 0xc3;
    map(WINDOW, (u64)page_a, P);
    try_read("read of a read-only page", WINDOW);
    try_write("write to a read-only page", WINDOW);
    write_cr0(read_cr0() & ~CR0_WP);
    try_write("write to a read-only page without WP", WINDOW);
    write_cr0(read_cr0() | CR0_WP);
    try_write("write to a read-only page with WP again", WINDOW);
    page_a[0] = 0xc3;
    try_call("call into a page", WINDOW);
    map(WINDOW, (u64)page_a, P | NX);
    try_call("call into a no-execute page", WINDOW);
    write_msr(EFER, read_msr(EFER) & ~0x800ul);
    try_read("read of a no-execute page without NXE", WINDOW);
    write_msr(EFER, read_msr(EFER) | 0x800);
    try_read("read of a no-execute page with NXE", WINDOW);
    map(WINDOW, (u64)page_a | 1ul << 51, P | W);
    try_read("read with a reserved bit", WINDOW);
    try_write("write with a reserved bit", WINDOW);
    map(WINDOW, (u64)page_a, P | W);
    volatile u64 *directory = entry(WINDOW, 2);
    *directory &= ~W;
    invlpg(WINDOW);
    try_write("write under a read-only directory", WINDOW);
    *directory = (*directory | W) & ~P;
    invlpg(WINDOW);
    try_read("read under an absent directory", WINDOW);
    *directory |= P | NX;
    invlpg(WINDOW);
    try_call("call under a no-execute directory", WINDOW);
    *directory &= ~NX;
    volatile u64 *top = entry(WINDOW, 4);
    *top |= PS;
    write_cr3(read_cr3());
    try_read("read under a top entry with its size bit", WINDOW);
    *top &= ~PS;
    write_cr3(read_cr3());
    try_read("read as before", WINDOW);
}

static void crossing(void)
{
    map(WINDOW, (u64)two_pages, P | W);
    map(WINDOW + 4096, 0, 0);
    *(volatile u32 *)(two_pages + 4092) = 0x11111111;
    TRY("movq $-1, %%rcx\n movq %%rcx, (%1)\n", "r"(WINDOW + 4092));
    report("write across into an unmapped page");
    say("the first part is untouched", *(volatile u32 *)(two_pages + 4092));
    map(WINDOW + 4096, (u64)two_pages + 4096, P);
    TRY("movq $-1, %%rcx\n addq %%rcx, (%1)\n", "r"(WINDOW + 4092));
    report("read-modify-write across into a read-only page");
    say("the first part is untouched", *(volatile u32 *)(two_pages + 4092));
    TRY("movl $16, %%ecx\n leaq -8(%1), %%rdi\n movl $0x55, %%eax\n rep stosb\n movl $9, %%ecx\n", "r"(WINDOW + 4096));
    report("rep stosb into a read-only page");
    say("what it wrote", *(volatile u64 *)(two_pages + 4088));
    two_pages[4095] = 0xb8;
    map(WINDOW + 4096, 0, 0);
    try_call("instruction across into an unmapped page", WINDOW + 4095);
}

static void supervisor_protection(void)
{
    page_a[0] = 0xc3;
    map(WINDOW, (u64)page_a, P | W | U);
    write_cr4(read_cr4() | CR4_SMEP);
    try_call("call of a user page with SMEP", WINDOW);
    write_cr4(read_cr4() & ~CR4_SMEP);
    try_call("call of a user page without SMEP", WINDOW);
    TRY("stac\n clac\n");
    report("stac and clac without CR4.SMAP");
    write_cr4(read_cr4() | CR4_SMAP);
    try_read("read of a user page with SMAP", WINDOW);
    try_write("write to a user page with SMAP", WINDOW);
    TRY("stac\n movq (%1), %%rcx\n clac\n", "r"(WINDOW));
    report("read between stac and clac");
    TRY("stac\n clac\n movq (%1), %%rcx\n", "r"(WINDOW));
    report("read behind clac");
    TRY("pushfq\n orq $0x40000, (%%rsp)\n popfq\n movq (%1), %%rcx\n pushfq\n andq $~0x40000, (%%rsp)\n popfq\n", "r"(WINDOW));
    report("read with AC from popf");
    page_a[0] = 0xc3;
    try_call("call of a user page with SMAP alone", WINDOW);
    write_cr4(read_cr4() & ~CR4_SMAP);
    try_read("read of a user page without SMAP", WINDOW);
}

static u64 bits(u64 value)
{
    return value & (A | D);
}

static void accessed_and_dirty(void)
{
    volatile u64 *leaf = entry(WINDOW, 1), *middle = entry(WINDOW, 2), *upper = entry(WINDOW, 3), *top = entry(WINDOW, 4);
    map(WINDOW, (u64)page_a, P | W);
    *middle &= ~A;
    *upper &= ~A;
    *top &= ~A;
    write_cr3(read_cr3());
    (void)*(volatile u8 *)WINDOW;
    say2("a read: leaf and directory", bits(*leaf), bits(*middle));
    say2("a read: upper and top", bits(*upper), bits(*top));
    *(volatile u8 *)WINDOW = 1;
    say2("a write: leaf and directory", bits(*leaf), bits(*middle));
    *leaf &= ~D;
    invlpg(WINDOW);
    (void)*(volatile u8 *)WINDOW;
    say("a read after dirty was cleared", bits(*leaf));
    *(volatile u8 *)WINDOW = 1;
    say("a write after a read", bits(*leaf));
    map(WINDOW, (u64)page_a, P);
    TRY("movb $1, (%1)\n", "r"(WINDOW));
    say("a write that faults sets no dirty bit", *leaf & D);
    *(volatile u8 *)page_a = 0xc3;
    map(WINDOW, (u64)page_a, P | W);
    try_call("a call", WINDOW);
    say("a call: leaf", bits(*leaf));
    map_level(LARGE_VA, LARGE, P | W, 2);
    (void)*(volatile u8 *)LARGE_VA;
    say("a read of 2 MiB", bits(*entry(LARGE_VA, 2)));
    *(volatile u8 *)(LARGE_VA + 0x1fffff) = 1;
    say("a write to 2 MiB", bits(*entry(LARGE_VA, 2)));
    map_level(HUGE_VA, 0, P | W, 3);
    (void)*(volatile u8 *)(HUGE_VA + LARGE);
    say("a read of 1 GiB", bits(*entry(HUGE_VA, 3)));
    *(volatile u8 *)(HUGE_VA + LARGE) = 1;
    say("a write to 1 GiB", bits(*entry(HUGE_VA, 3)));
}

static void sizes(void)
{
    *(volatile u32 *)(HUGE_VA + LARGE + 0x12345 * 4) = 0xabcdef;
    say("2 MiB and 1 GiB pages show the same memory", *(volatile u32 *)(LARGE_VA + 0x12345 * 4));
    map_level(LARGE_VA, LARGE | 1ul << 13, P | W, 2);
    try_read("read of 2 MiB with a reserved address bit", LARGE_VA);
    map_level(HUGE_VA, 1ul << 29, P | W, 3);
    try_read("read of 1 GiB with a reserved address bit", HUGE_VA);
    map_level(LARGE_VA, LARGE, P, 2);
    try_write("write to a read-only 2 MiB page", LARGE_VA + 0x123456);
    map_level(HUGE_VA, 0, P | NX, 3);
    try_call("call into a no-execute 1 GiB page", HUGE_VA + LARGE);
    /* a large page replaced by a table of small ones */
    *entry(LARGE_VA, 2) = 0;
    map(LARGE_VA, (u64)page_b, P | W);
    page_b[0] = 0x77;
    say("small pages where a large one was", *(volatile u8 *)LARGE_VA);
}

static u64 value_at(u64 va)
{
    return *(volatile u8 *)va;
}

static void invpcid(u64 kind, u64 pcid, u64 address)
{
    struct { u64 pcid, address; } descriptor = { pcid, address };
    TRY("invpcid %2, %1\n", "r"(kind), "m"(descriptor));
}

/* Process-context identifiers. `leaf` maps the window. */
static void contexts(volatile u64 *leaf)
{
    TRY("movq %%cr3, %%rcx\n btsq $63, %%rcx\n nop\n movq %%rcx, %%cr3\n");
    report("CR3 bit 63 without PCIDE");
    TRY("movq %%cr4, %%rbx\n btsq $17, %%rbx\n movq %%cr3, %%rcx\n orq $1, %%rcx\n movq %%rcx, %%cr3\n nop\n movq %%rbx, %%cr4\n");
    report("PCIDE with a PCID in CR3");
    write_cr3((u64)pml4);
    write_cr4(read_cr4() | CR4_PCIDE);
    map(WINDOW, (u64)page_a, P | W);
    say("page a under PCID 0", value_at(WINDOW));
    write_cr3((u64)pml4 | 5);
    say("page a under PCID 5", value_at(WINDOW));
    *leaf = (u64)page_b | P | W;
    invpcid(0, 5, WINDOW);
    say("page b after invpcid of the address", value_at(WINDOW));
    write_cr3((u64)pml4);
    invpcid(1, 0, 0);
    say("page b after invpcid of PCID 0", value_at(WINDOW));
    *leaf = (u64)page_a | P | W;
    invpcid(2, 0, 0);
    say("page a after invpcid of everything", value_at(WINDOW));
    *leaf = (u64)page_b | P | W;
    invpcid(3, 0, 0);
    say("page b after invpcid of all but global", value_at(WINDOW));
    write_cr3((u64)pml4 | 5);
    *leaf = (u64)page_a | P | W;
    invlpg(WINDOW);
    write_cr3((u64)pml4 | 1ul << 63);
    write_cr3((u64)pml4 | 5 | 1ul << 63);
    say("page a under PCID 5, kept over two switches", value_at(WINDOW));
    invpcid(4, 0, 0);
    say2("invpcid of no kind: vector and code", trap.vector, trap.error);
    invpcid(0, 0x1000, WINDOW);
    say2("invpcid with a reserved bit: vector and code", trap.vector, trap.error);
    write_cr3((u64)pml4);
    write_cr4(read_cr4() & ~CR4_PCIDE);
    invpcid(2, 0, 0);
    say("invpcid of everything without PCIDE", trap.vector);
    invpcid(1, 1, 0);
    say2("invpcid of PCID 1 without PCIDE: vector and code", trap.vector, trap.error);
}

static void forgetting(void)
{
    page_a[0] = 0xaa;
    page_b[0] = 0xbb;
    volatile u64 *leaf = entry(WINDOW, 1);
    map(WINDOW, (u64)page_a, P | W);
    say("page a", value_at(WINDOW));
    *leaf = (u64)page_b | P | W;
    invlpg(WINDOW + 123);
    say("page b after invlpg", value_at(WINDOW));
    *leaf = (u64)page_a | P | W;
    write_cr3(read_cr3());
    say("page a after a CR3 load", value_at(WINDOW));
    write_cr4(read_cr4() | CR4_PGE);
    map(WINDOW, (u64)page_b, P | W | G);
    say("page b, global", value_at(WINDOW));
    *leaf = (u64)page_a | P | W | G;
    write_cr4(read_cr4() & ~CR4_PGE);
    say("page a after clearing PGE", value_at(WINDOW));
    write_cr4(read_cr4() | CR4_PGE);
    *leaf = (u64)page_b | P | W | G;
    invlpg(WINDOW);
    say("page b, global, after invlpg", value_at(WINDOW));
    if (!gentle)
        contexts(leaf);
}

static void aliases(void)
{
    map(WINDOW, (u64)page_a, P | W);
    map(WINDOW + 4096, (u64)page_a, P | W);
    *(volatile u64 *)WINDOW = 0x1122334455667788;
    say("an alias shows what was written", *(volatile u64 *)(WINDOW + 4096));
    *(volatile u32 *)(WINDOW + 4096 + 2) = 0xdddddddd;
    say("and the other way", *(volatile u64 *)WINDOW);
    map(WINDOW + 4096, (u64)page_b, P | W);
    *(volatile u64 *)(WINDOW + 4092) = 0xa1a2a3a4b1b2b3b4;
    say2("a write across two frames", *(volatile u32 *)(page_a + 4092), *(volatile u32 *)page_b);
}

void paging(void)
{
    put("-- paging\n");
    present_and_writable();
    crossing();
    supervisor_protection();
    accessed_and_dirty();
    sizes();
    forgetting();
    aliases();
}
