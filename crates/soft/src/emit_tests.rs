//! Every shape that the emitter writes, for every register, read back by a decoder.

use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

use crate::emit::{Alu, Emitter, Reg, cond};

const BASE: u64 = 0x7000_0000;
const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];
const NAMES_32: [&str; 16] = [
    "eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "r8d", "r9d", "r10d", "r11d", "r12d",
    "r13d", "r14d", "r15d",
];
const NAMES_16: [&str; 16] = [
    "ax", "cx", "dx", "bx", "sp", "bp", "si", "di", "r8w", "r9w", "r10w", "r11w", "r12w", "r13w",
    "r14w", "r15w",
];

/// What the bytes say, one instruction after the other.
pub(crate) fn disassembled(bytes: &[u8], base: u64) -> Vec<String> {
    let mut formatter = IntelFormatter::new();
    formatter
        .options_mut()
        .set_space_after_operand_separator(true);
    formatter.options_mut().set_hex_prefix("0x");
    formatter.options_mut().set_hex_suffix("");
    formatter.options_mut().set_branch_leading_zeros(false);
    formatter.options_mut().set_uppercase_hex(false);
    let decoder = Decoder::with_ip(64, bytes, base, DecoderOptions::NONE);
    decoder
        .into_iter()
        .map(|instruction| {
            let mut text = String::new();
            formatter.format(&instruction, &mut text);
            text
        })
        .collect()
}

fn check(emit: impl FnOnce(&mut Emitter), expected: &[&str]) {
    let mut emitter = Emitter::default();
    emitter.start(BASE);
    emit(&mut emitter);
    assert_eq!(disassembled(emitter.bytes(), BASE), expected);
}

/// Checks a shape for each register: `emit` writes it, `expected` says it with the register's names.
fn check_each(emit: impl Fn(&mut Emitter, Reg), expected: impl Fn(usize) -> String) {
    for number in 0..16 {
        check(|e| emit(e, Reg(number)), &[&expected(usize::from(number))]);
    }
}

#[test]
fn moves_between_registers_reach_every_register_on_both_sides() {
    check_each(|e, r| e.mov(r, Reg(9)), |n| format!("mov {}, r9", NAMES[n]));
    check_each(
        |e, r| e.mov(Reg(3), r),
        |n| format!("mov rbx, {}", NAMES[n]),
    );
    check_each(
        |e, r| e.mov32(r, Reg(1)),
        |n| format!("mov {}, ecx", NAMES_32[n]),
    );
    check_each(
        |e, r| e.movzx16(Reg(12), r),
        |n| format!("movzx r12d, {}", NAMES_16[n]),
    );
    check_each(
        |e, r| e.movsx(r, Reg(2), 2),
        |n| format!("movsx {}, dx", NAMES[n]),
    );
    check_each(
        |e, r| e.movsx(r, Reg(10), 4),
        |n| format!("movsxd {}, r10d", NAMES[n]),
    );
}

#[test]
fn constants_take_the_shortest_form_that_keeps_their_value() {
    for (value, len, expected) in [
        (0, 5, "mov eax, 0"),
        (0xffff_ffff, 5, "mov eax, 0xffffffff"),
        (u64::MAX, 7, "mov rax, 0xffffffffffffffff"),
        (0xffff_ffff_8000_0000, 7, "mov rax, 0xffffffff80000000"),
        (0x1_0000_0000, 10, "mov rax, 0x100000000"),
        (0x7fff_ffff_8000_0000, 10, "mov rax, 0x7fffffff80000000"),
    ] {
        check(
            |e| {
                e.mov_imm(Reg::RAX, value);
                assert_eq!(e.offset(), len, "{value:#x}");
            },
            &[expected],
        );
    }
    check_each(
        |e, r| e.mov_imm(r, 5),
        |n| format!("mov {}, 5", NAMES_32[n]),
    );
}

/// Bases that need a SIB byte or a displacement where others need none: RSP, RBP, R12, R13.
#[test]
fn memory_operands_are_right_for_every_base_and_displacement() {
    for (displacement, text) in [
        (0, ""),
        (8, "+8"),
        (-8, "-8"),
        (127, "+0x7f"),
        (-128, "-0x80"),
        (128, "+0x80"),
        (-129, "-0x81"),
        (0x1234_5678, "+0x12345678"),
    ] {
        check_each(
            |e, r| e.load(Reg(11), r, displacement),
            |n| format!("mov r11, [{}{text}]", NAMES[n]),
        );
        check_each(
            |e, r| e.load32(r, Reg(13), displacement),
            |n| format!("mov {}, [r13{text}]", NAMES_32[n]),
        );
        check_each(
            |e, r| e.lea(Reg::RSP, r, displacement),
            |n| format!("lea rsp, [{}{text}]", NAMES[n]),
        );
        check_each(
            |e, r| e.lea32(r, Reg::RBP, displacement),
            |n| format!("lea {}, [rbp{text}]", NAMES_32[n]),
        );
        for (size, names) in [(2, NAMES_16), (4, NAMES_32), (8, NAMES)] {
            check_each(
                |e, r| e.store(Reg(12), displacement, r, size),
                |n| format!("mov [r12{text}], {}", names[n]),
            );
        }
        check_each(
            |e, r| e.alu_load(Alu::Xor, Reg::RDI, r, displacement),
            |n| format!("xor rdi, [{}{text}]", NAMES[n]),
        );
    }
}

#[test]
fn sums_have_no_displacement_and_wrap_where_they_are_told_to() {
    for base in (0..16).filter(|base| base & 7 != 5) {
        for index in (0..16).filter(|&index| index != 4) {
            let to = Reg(14);
            let b = Reg(base);
            let i = Reg(index);
            let text = |to: &str| {
                format!(
                    "lea {to}, [{}+{}]",
                    NAMES[b.0 as usize], NAMES[i.0 as usize]
                )
            };
            check(|e| e.lea_sum(to, b, i, true), &[&text("r14")]);
            check(|e| e.lea_sum(to, b, i, false), &[&text("r14d")]);
        }
    }
}

#[test]
fn arithmetic_has_its_operation_width_and_immediate() {
    for (op, name) in [
        (Alu::Add, "add"),
        (Alu::Or, "or"),
        (Alu::And, "and"),
        (Alu::Sub, "sub"),
        (Alu::Xor, "xor"),
        (Alu::Cmp, "cmp"),
    ] {
        check_each(
            |e, r| e.alu(op, r, Reg(8)),
            |n| format!("{name} {}, r8", NAMES[n]),
        );
        check_each(
            |e, r| e.alu_gs(op, r, 0x40),
            |n| format!("{name} {}, gs:[0x40]", NAMES[n]),
        );
        check_each(
            |e, r| e.alu_imm(op, r, 0xfff),
            |n| format!("{name} {}, 0xfff", NAMES[n]),
        );
        check_each(
            |e, r| e.alu_imm32(op, r, 0x1_fff0),
            |n| format!("{name} {}, 0x1fff0", NAMES_32[n]),
        );
        // An immediate of eight bits is sign-extended.
        check_each(
            |e, r| e.alu_imm32(op, r, 127),
            |n| format!("{name} {}, 0x7f", NAMES_32[n]),
        );
        check_each(
            |e, r| e.alu_imm32(op, r, 128),
            |n| format!("{name} {}, 0x80", NAMES_32[n]),
        );
    }
    check_each(|e, r| e.shr(r, 8), |n| format!("shr {}, 8", NAMES[n]));
    check_each(|e, r| e.sar(r, 5), |n| format!("sar {}, 5", NAMES[n]));
    check_each(|e, r| e.shl(r, 4), |n| format!("shl {}, 4", NAMES[n]));
    check_each(|e, r| e.neg(r), |n| format!("neg {}", NAMES[n]));
}

#[test]
fn the_block_is_reached_through_gs() {
    check_each(
        |e, r| e.load_gs(r, 0x88),
        |n| format!("mov {}, gs:[0x88]", NAMES[n]),
    );
    check_each(
        |e, r| e.load_gs32(r, 0x88),
        |n| format!("mov {}, gs:[0x88]", NAMES_32[n]),
    );
    check_each(
        |e, r| e.store_gs(0x88, r),
        |n| format!("mov gs:[0x88], {}", NAMES[n]),
    );
    check(|e| e.push_gs(0x88), &["push qword ptr gs:[0x88]"]);
    check(|e| e.pop_gs(0x88), &["pop qword ptr gs:[0x88]"]);
    check(|e| e.jump_gs(0x88), &["jmp qword ptr gs:[0x88]"]);
    check(
        |e| e.store_gs_imm32(0x88, 0xffff_ffff),
        &["mov dword ptr gs:[0x88], 0xffffffff"],
    );
    for value in [0, 5, 0x7fff_ffff] {
        let text = if value < 10 {
            format!("mov qword ptr gs:[0x88], {value}")
        } else {
            format!("mov qword ptr gs:[0x88], {value:#x}")
        };
        check(|e| e.store_gs_imm64(0x88, value), &[&text]);
    }
    check(
        |e| e.store_gs_imm64(0x88, 0xffff_ffff_ffff_fff0),
        &["mov qword ptr gs:[0x88], 0xfffffffffffffff0"],
    );
    // What no sign extension gives is written in halves.
    check(
        |e| e.store_gs_imm64(0x88, 0x1234_5678_9abc_def0),
        &[
            "mov dword ptr gs:[0x88], 0x9abcdef0",
            "mov dword ptr gs:[0x8c], 0x12345678",
        ],
    );
}

#[test]
fn flags_come_back_as_they_were_put_away() {
    let saved = std::mem::offset_of!(crate::block::VcpuBlock, saved_flags);
    let store = format!("mov gs:[{saved:#x}], ax");
    let load = format!("movzx eax, word ptr gs:[{saved:#x}]");
    check(|e| e.save_flags(), &["lahf", "seto al", &store]);
    // 0x7f + 1 overflows, and SAHF leaves OF alone.
    check(|e| e.restore_flags(), &[&load, "add al, 0x7f", "sahf"]);
    for number in 0..16 {
        let pop = format!("pop {}", NAMES[usize::from(number)]);
        check(|e| e.push_flags_pop(Reg(number)), &["pushfq", &pop]);
    }
}

#[test]
fn forward_jumps_land_where_they_are_bound() {
    check(
        |e| {
            let far = e.jcc(cond::A);
            let jump = e.jump();
            let short = e.jump_if_rcx_zero(true);
            let short_32 = e.jump_if_rcx_zero(false);
            let counted = e.loop_short(0xe2, true);
            e.raw(&[0x90]);
            for fixup in [far, jump, short, short_32, counted] {
                e.bind(fixup);
            }
            e.raw(&[0xcc]);
        },
        &[
            "ja 0x70000014",
            "jmp 0x70000014",
            "jrcxz 0x70000014",
            "jecxz 0x70000014",
            "addr32 loop 0x70000014",
            "nop",
            "int3",
        ],
    );
    check(|e| e.jump_to(BASE - 0x1000), &["jmp 0x6ffff000"]);
    check(|e| e.jump_to(BASE + 0x1000), &["jmp 0x70001000"]);
}

#[test]
fn what_is_patched_while_it_runs_lies_in_one_aligned_word() {
    for offset in 0..16 {
        for (alignment, ahead) in [(8, 0), (4, 1), (4, 2), (16, 0)] {
            let mut emitter = Emitter::default();
            emitter.start(BASE + offset);
            emitter.align(alignment, ahead);
            assert!((emitter.address() + ahead).is_multiple_of(alignment));
            assert!(emitter.offset() < alignment as usize);
            assert!(emitter.bytes().iter().all(|&byte| byte == 0x90));
        }
    }
}
