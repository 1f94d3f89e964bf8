/*
 * From the multiboot entry (32-bit protected mode, paging off) to 64-bit C.
 *
 * Identity-maps the first gigabyte with 2 MiB pages, turns on PAE, NX, long mode, paging and SSE, and calls
 * `guest_main(multiboot_info)`. When that returns, the guest leaves through the debug-exit port with 0.
 */
    .intel_syntax noprefix

    .section .multiboot, "a"
    .code32
    .balign 4
header:
    .long 0x1badb002
    .long 0x00010003            /* page-aligned modules, memory map, address fields */
    .long -(0x1badb002 + 0x00010003)
    .long header
    .long image_start
    .long image_end
    .long memory_end
    .long start

    .text
    .globl start
start:
    cli
    mov esp, offset stack_top
    mov esi, ebx

    /* pml4[0] -> pdpt, pdpt[0] -> pd, pd[n] -> 2 MiB page n */
    mov eax, offset pdpt
    or eax, 7
    mov [pml4], eax
    mov eax, offset pd
    or eax, 7
    mov [pdpt], eax
    mov eax, 0x83
    xor ecx, ecx
1:  mov [pd + ecx * 8], eax
    add eax, 0x200000
    inc ecx
    cmp ecx, 512
    jne 1b

    mov eax, offset pml4
    mov cr3, eax
    mov eax, cr4
    or eax, 0x620               /* PAE, OSFXSR, OSXMMEXCPT */
    mov cr4, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x900               /* LME, NXE */
    wrmsr
    mov eax, cr0
    or eax, 0x80010022          /* PG, WP, NE, MP */
    and eax, ~0x60000004        /* not CD, NW, EM */
    mov cr0, eax
    lgdt [early_gdtr]
    jmp 0x08:long_mode

    .code64
long_mode:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ss, eax
    mov edi, esi
    call guest_main
    xor eax, eax
    mov dx, 0xf4
    out dx, al
2:  hlt
    jmp 2b

    .section .data
    .balign 16
early_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
early_gdtr:
    .word early_gdtr - early_gdt - 1
    .long early_gdt
    .long 0

    .bss
    .balign 4096
    .globl pml4
pml4:
    .skip 4096
    .globl pdpt
pdpt:
    .skip 4096
    .globl pd
pd:
    .skip 4096
    .skip 16384
stack_top:
