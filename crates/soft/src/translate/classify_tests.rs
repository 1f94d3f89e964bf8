//! Which way instructions go, as a table: what is copied must be harmless, what is not must be done by hand.

use iced_x86::{Decoder, InstructionInfoFactory};

use super::classify::{Kind, classify, fp_level};
use super::memory::Operand;
use super::{DECODER_OPTIONS, ends_block};
use crate::features::Features;
use crate::mode::Mode;

const READ: fn(u8) -> Kind = |size| Kind::Copy(Some(Operand { size, write: false }));
const WRITE: fn(u8) -> Kind = |size| Kind::Copy(Some(Operand { size, write: true }));
const PLAIN: Kind = Kind::Copy(None);
const HAND: Kind = Kind::Interpret;

fn decoded(code: &[u8], mode: u16) -> iced_x86::Instruction {
    let mut decoder = Decoder::with_ip(Mode(mode).bitness(), code, 0x1000, DECODER_OPTIONS);
    let instruction = decoder.decode();
    assert_eq!(
        decoder.position(),
        code.len(),
        "one whole instruction: {code:x?}"
    );
    instruction
}

fn kind(code: &[u8], mode: u16) -> Kind {
    let topology = x86::cpu_model::Topology {
        vcpu_count: 1,
        vcpu_id: 0,
    };
    let cpuid = x86::cpu_model::table(topology, |_, _| [u32::MAX; 4], 7);
    let instruction = decoded(code, mode);
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(&instruction);
    classify(&instruction, info, Mode(mode), &Features::new(&cpuid))
}

fn check(mode: u16, table: &[(&str, &[u8], Kind)]) {
    for &(name, code, expected) in table {
        assert_eq!(kind(code, mode), expected, "{name} in mode {mode:#x}");
    }
}

#[test]
fn system_calls_are_translated_where_a_program_and_its_kernel_make_them() {
    const CALL: &[u8] = b"\x0f\x05";
    const RETURN: &[u8] = b"\x48\x0f\x07";
    let user = Mode::USER;
    check(
        user,
        &[("syscall", CALL, Kind::Syscall), ("sysretq", RETURN, HAND)],
    );
    check(
        0,
        &[("syscall", CALL, HAND), ("sysretq", RETURN, Kind::Sysret)],
    );
    check(0, &[("sysretl", b"\x0f\x07", HAND)]);
    for by_hand in [Mode::CAREFUL, Mode::ALIGNED, Mode::MIDDLE_RING] {
        check(user | by_hand, &[("syscall", CALL, HAND)]);
        check(by_hand, &[("sysretq", RETURN, HAND)]);
    }
}

#[test]
fn arithmetic_is_copied_with_the_size_and_direction_of_its_operand() {
    check(
        0,
        &[
            ("add rax, rcx", b"\x48\x01\xc8", PLAIN),
            ("add rax, [rcx]", b"\x48\x03\x01", READ(8)),
            ("add [rcx], rax", b"\x48\x01\x01", WRITE(8)),
            ("cmp [rcx], eax", b"\x39\x01", READ(4)),
            ("test byte [rcx], 1", b"\xf6\x01\x01", READ(1)),
            ("mov [rcx], ax", b"\x66\x89\x01", WRITE(2)),
            ("cmpxchg [rcx], edx", b"\x0f\xb1\x11", WRITE(4)),
            ("lock cmpxchg16b [rcx]", b"\xf0\x48\x0f\xc7\x09", WRITE(16)),
            ("movdqu xmm0, [rcx]", b"\xf3\x0f\x6f\x01", READ(16)),
            ("vmovdqu ymm0, [rcx]", b"\xc5\xfe\x6f\x01", READ(32)),
            ("movss xmm0, [rcx]", b"\xf3\x0f\x10\x01", READ(4)),
            ("fstp tbyte [rcx]", b"\xdb\x39", WRITE(10)),
            ("fild word [rcx]", b"\xdf\x01", READ(2)),
            ("movsxd rax, [rcx]", b"\x48\x63\x01", READ(4)),
            ("movsxd eax, [rcx]", b"\x63\x01", READ(4)),
            ("lea rax, [rcx]", b"\x48\x8d\x01", Kind::Lea),
            (
                "bt [rcx], rax",
                b"\x48\x0f\xa3\x01",
                Kind::BitTest(Operand {
                    size: 8,
                    write: false,
                }),
            ),
            (
                "bts [rcx], eax",
                b"\x0f\xab\x01",
                Kind::BitTest(Operand {
                    size: 4,
                    write: true,
                }),
            ),
            ("bts rcx, rax", b"\x48\x0f\xab\xc1", PLAIN),
            ("bt [rcx], 5", b"\x48\x0f\xba\x21\x05", READ(8)),
        ],
    );
}

/// The silicon reads four bytes there.
#[test]
fn movsxd_to_16_bits_is_checked_for_what_it_really_reads() {
    check(
        0,
        &[
            ("movsxd ax, [rcx]", b"\x66\x63\x01", READ(4)),
            ("movsxd ax, cx", b"\x66\x63\xc1", PLAIN),
        ],
    );
}

#[test]
fn what_shows_or_changes_the_machine_is_done_by_hand() {
    let table: &[(&str, &[u8], Kind)] = &[
        ("cpuid", b"\x0f\xa2", HAND),
        ("rdmsr", b"\x0f\x32", HAND),
        ("wrmsr", b"\x0f\x30", HAND),
        ("rdpmc", b"\x0f\x33", HAND),
        ("xgetbv", b"\x0f\x01\xd0", HAND),
        ("xsetbv", b"\x0f\x01\xd1", HAND),
        ("sgdt [rcx]", b"\x0f\x01\x01", HAND),
        ("sidt [rcx]", b"\x0f\x01\x09", HAND),
        ("sldt ecx", b"\x0f\x00\xc1", HAND),
        ("str ecx", b"\x0f\x00\xc9", HAND),
        ("smsw ecx", b"\x0f\x01\xe1", HAND),
        ("lsl eax, ecx", b"\x0f\x03\xc1", HAND),
        ("mov ds, eax", b"\x8e\xd8", HAND),
        ("mov [rcx], ds", b"\x8c\x19", HAND),
        ("mov rax, cr0", b"\x0f\x20\xc0", HAND),
        ("mov dr7, rax", b"\x0f\x23\xf8", HAND),
        ("in al, dx", b"\xec", HAND),
        ("rep outsb", b"\xf3\x6e", HAND),
        ("hlt", b"\xf4", HAND),
        ("invlpg [rcx]", b"\x0f\x01\x39", HAND),
        ("wbinvd", b"\x0f\x09", HAND),
        ("clflush [rcx]", b"\x0f\xae\x39", HAND),
        ("rdfsbase rax", b"\xf3\x48\x0f\xae\xc0", HAND),
        ("wrgsbase rax", b"\xf3\x48\x0f\xae\xd8", HAND),
        ("int 0x80", b"\xcd\x80", HAND),
        ("int3", b"\xcc", HAND),
        ("iretq", b"\x48\xcf", HAND),
        ("popfq", b"\x9d", HAND),
        ("ud2", b"\x0f\x0b", HAND),
        ("vmcall", b"\x0f\x01\xc1", HAND),
        ("vmmcall", b"\x0f\x01\xd9", HAND),
        ("monitor", b"\x0f\x01\xc8", HAND),
        ("fxsave [rcx]", b"\x0f\xae\x01", HAND),
        ("xsave [rcx]", b"\x0f\xae\x21", HAND),
        ("xrstor [rcx]", b"\x0f\xae\x29", HAND),
        ("fnstenv [rcx]", b"\xd9\x31", HAND),
        ("maskmovdqu xmm1, xmm2", b"\x66\x0f\xf7\xca", HAND),
        (
            "vpgatherdd xmm0, [rcx+xmm1], xmm2",
            b"\xc4\xe2\x69\x90\x04\x09",
            HAND,
        ),
        ("enter 0, 0", b"\xc8\0\0\0", HAND),
        ("rdpid rax", b"\xf3\x0f\xc7\xf8", HAND),
        ("xbegin", b"\xc7\xf8\0\0\0\0", HAND),
        ("serialize", b"\x0f\x01\xe8", HAND),
        ("an AVX-512 instruction", b"\x62\xf1\x7c\x48\x58\xc1", HAND),
        ("rdtscp of who may", b"\x0f\x01\xf9", Kind::ReadTsc),
    ];
    check(0, table);
    let of_a_user: Vec<_> = table.iter().copied().filter(|one| one.2 == HAND).collect();
    check(Mode::USER, &of_a_user);
    check(Mode::USER | Mode::NO_TSC, &[("rdtsc", b"\x0f\x31", HAND)]);
}

#[test]
fn branches_and_the_stack_are_rebuilt_where_the_stack_is_flat() {
    let flat: &[(&str, &[u8], Kind)] = &[
        ("jmp", b"\xeb\x10", Kind::Jump),
        ("je", b"\x74\x10", Kind::JumpIf),
        ("loop", b"\xe2\x10", Kind::JumpCounter),
        ("jrcxz", b"\xe3\x10", Kind::JumpCounter),
        ("call", b"\xe8\0\0\0\0", Kind::Call),
        ("call rax", b"\xff\xd0", Kind::CallIndirect),
        ("jmp rax", b"\xff\xe0", Kind::JumpIndirect),
        ("ret", b"\xc3", Kind::Return),
        ("ret 8", b"\xc2\x08\0", Kind::Return),
        ("push rax", b"\x50", Kind::Push),
        ("push 5", b"\x6a\x05", Kind::Push),
        ("pop rax", b"\x58", Kind::Pop),
        ("leave", b"\xc9", Kind::Leave),
    ];
    check(0, flat);
    check(Mode::USER, flat);
    let by_hand: Vec<_> = flat
        .iter()
        .filter(|one| {
            !matches!(
                one.2,
                Kind::Jump | Kind::JumpIf | Kind::JumpCounter | Kind::JumpIndirect
            )
        })
        .map(|&(name, code, _)| (name, code, HAND))
        .collect();
    check(Mode::CODE32 | Mode::SEGMENTED, &by_hand);
    check(Mode::USER | Mode::ALIGNED, &by_hand);
    check(
        0,
        &[
            ("push ax", b"\x66\x50", HAND),
            ("pop fs", b"\x0f\xa1", HAND),
            ("pop [rax]", b"\x8f\x00", HAND),
            ("jmp far [rax]", b"\xff\x28", HAND),
            ("call far [rax]", b"\xff\x18", HAND),
            ("retf", b"\xcb", HAND),
            ("jmp ax", b"\x66\xff\xe0", HAND),
            ("pushfq", b"\x9c", Kind::Pushf),
            ("cli", b"\xfa", Kind::Cli),
            ("sti", b"\xfb", Kind::Sti),
            ("swapgs", b"\x0f\x01\xf8", Kind::SwapGs),
            ("stac", b"\x0f\x01\xcb", Kind::AccessFlag(true)),
            ("clac", b"\x0f\x01\xca", Kind::AccessFlag(false)),
        ],
    );
    for mode in [Mode::USER, Mode::MIDDLE_RING] {
        check(
            mode,
            &[
                ("cli", b"\xfa", HAND),
                ("sti", b"\xfb", HAND),
                ("swapgs", b"\x0f\x01\xf8", HAND),
                ("stac", b"\x0f\x01\xcb", HAND),
                ("clac", b"\x0f\x01\xca", HAND),
            ],
        );
    }
    check(
        Mode::CODE32,
        &[
            ("jmp far 8:0", b"\xea\0\0\0\0\x08\0", HAND),
            ("jcxz", b"\x67\xe3\x10", HAND),
            ("jecxz", b"\xe3\x10", Kind::JumpCounter),
            ("jmp short with 16 bits", b"\x66\xeb\x10", HAND),
            ("pusha", b"\x60", HAND),
            ("mov eax, ds", b"\x8c\xd8", HAND),
            ("daa", b"\x27", HAND),
        ],
    );
}

#[test]
fn a_crossing_is_rebuilt_on_its_own_side_of_64_bit_code_alone() {
    let syscall: &[u8] = b"\x0f\x05";
    let sysret: &[u8] = b"\x48\x0f\x07";
    for (mode, of_syscall, of_sysret) in [
        (Mode::USER, Kind::Syscall, HAND),
        (0, HAND, Kind::Sysret),
        (Mode::USER | Mode::NO_TSC, Kind::Syscall, HAND),
        (
            Mode::USER | Mode::NO_SSE | Mode::NO_AVX,
            Kind::Syscall,
            HAND,
        ),
        (Mode::NO_AVX, HAND, Kind::Sysret),
        (Mode::USER | Mode::ALIGNED, HAND, HAND),
        (Mode::USER | Mode::CAREFUL, HAND, HAND),
        (Mode::CAREFUL, HAND, HAND),
        (Mode::MIDDLE_RING, HAND, HAND),
    ] {
        check(
            mode,
            &[
                ("syscall", syscall, of_syscall),
                ("sysretq", sysret, of_sysret),
                ("sysretd", b"\x0f\x07", HAND),
            ],
        );
    }
    for mode in [Mode::CODE32, Mode::CODE16] {
        for ring in [0, Mode::USER] {
            let mode = mode | ring;
            check(
                mode,
                &[("syscall", syscall, HAND), ("sysretd", b"\x0f\x07", HAND)],
            );
        }
    }
}

#[test]
fn strings_are_taken_with_flat_64_bit_pointers() {
    check(
        0,
        &[
            ("movsb", b"\xa4", Kind::String),
            ("rep movsq", b"\xf3\x48\xa5", Kind::String),
            ("rep stosd", b"\xf3\xab", Kind::String),
            ("repne scasb", b"\xf2\xae", Kind::String),
            ("lodsb", b"\xac", Kind::String),
            ("cmpsb", b"\xa6", HAND),
            ("movsb with 32-bit pointers", b"\x67\xa4", HAND),
            ("fs movsb", b"\x64\xa4", HAND),
            ("movsd xmm0, [rcx] is none", b"\xf2\x0f\x10\x01", READ(8)),
        ],
    );
    check(Mode::CAREFUL, &[("movsb", b"\xa4", HAND)]);
    check(Mode::CODE32, &[("movsb", b"\xa4", HAND)]);
}

#[test]
fn hints_do_nothing_whatever_they_point_to() {
    let hints: &[&[u8]] = &[
        b"\x90",
        b"\x0f\x1f\x44\0\0",
        b"\xf3\x0f\x1e\xfa",
        b"\xf3\x0f\x1e\xfb",
        b"\xf3\x48\x0f\x1e\xc8",
        b"\x0f\x0d\x08",
    ];
    for code in hints {
        assert_eq!(kind(code, 0), Kind::Nothing, "{code:x?}");
    }
    // 0F 18 to 0F 1F are no-operations with every operand, 0F 0D with one in memory.
    for opcode in 0x18..=0x1f_u8 {
        for reg in 0..8_u8 {
            for code in [
                [0x0f, opcode, reg << 3 | 1],
                [0x0f, opcode, 0xc0 | reg << 3 | 1],
            ] {
                for mode in [0, Mode::USER, Mode::CODE32] {
                    assert_eq!(kind(&code, mode), Kind::Nothing, "{code:x?} in {mode:#x}");
                }
            }
        }
    }
    for reg in 0..8_u8 {
        assert_eq!(
            kind(&[0x0f, 0x0d, reg << 3 | 1], 0),
            Kind::Nothing,
            "0f 0d /{reg}"
        );
        assert_eq!(
            kind(&[0x0f, 0x0d, 0xc0 | reg << 3], 0),
            HAND,
            "0f 0d /{reg} without memory"
        );
    }
}

/// Code, what it needs, and the modes in which it is left to the interpreter, which raises #UD.
#[test]
fn vector_instructions_obey_the_bits_that_are_theirs() {
    let sse: &[u8] = b"\x0f\x58\xc1";
    let avx: &[u8] = b"\xc5\xf4\x58\xc2";
    let zero: &[u8] = b"\xc5\xfc\x77";
    let x87: &[u8] = b"\xd9\xe8";
    for (code, level, no_sse, no_avx) in [
        (sse, 2, HAND, PLAIN),
        // CR4.OSFXSR is for legacy SSE alone.
        (avx, 3, PLAIN, HAND),
        (zero, 3, PLAIN, HAND),
        (x87, 1, PLAIN, PLAIN),
    ] {
        assert_eq!(fp_level(&decoded(code, 0)), level, "{code:x?}");
        assert_eq!(kind(code, 0), PLAIN, "{code:x?}");
        assert_eq!(kind(code, Mode::NO_SSE), no_sse, "{code:x?} without SSE");
        assert_eq!(kind(code, Mode::NO_AVX), no_avx, "{code:x?} without AVX");
    }
    for (code, level) in [
        (&b"\x48\x01\xc8"[..], 0),
        (b"\x0f\x6f\xc1", 1),
        (b"\x0f\x77", 1),
        (b"\x9b", 1),
        (b"\x0f\xae\x10", 2),
        (b"\xc5\xf8\xae\x10", 3),
        (b"\xf2\x48\x0f\x2c\x00", 2),
        (b"\xc4\xe2\x71\x98\xc2", 3),
    ] {
        assert_eq!(fp_level(&decoded(code, 0)), level, "{code:x?}");
    }
}

#[test]
fn kinds_that_leave_the_straight_path_end_a_block() {
    for kind in [
        Kind::Jump,
        Kind::JumpIf,
        Kind::JumpCounter,
        Kind::JumpIndirect,
        Kind::Call,
        Kind::CallIndirect,
        Kind::Return,
        Kind::Syscall,
        Kind::Sysret,
        Kind::Pause,
        Kind::Interpret,
    ] {
        assert!(ends_block(kind), "{kind:?}");
    }
    for kind in [
        PLAIN,
        READ(8),
        Kind::Push,
        Kind::Sti,
        Kind::String,
        Kind::Nothing,
    ] {
        assert!(!ends_block(kind), "{kind:?}");
    }
}
