//! Blocks as they are emitted: what every memory access is guarded by, where sites are, what is chained.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Register};

use super::{MAX_INSTRUCTIONS, Request, Translated, Translator};
use crate::code_cache::Stubs;
use crate::features::Features;
use crate::mode::Mode;

const CACHE: u64 = 0x6000_0000;
const BASE: u64 = CACHE + 0x1000;
const RIP: u64 = 0x40_0100;
const FIRST_SITE: u32 = 7;

/// A block and what was emitted for it.
struct Block {
    translator: Translator,
    done: Option<Translated>,
}

impl Block {
    fn new(code: &[u8], mode: u16) -> Block {
        Block::with(code, mode, false, false)
    }

    fn with(code: &[u8], mode: u16, straddles: bool, has_company: bool) -> Block {
        let topology = x86::cpu_model::Topology {
            vcpu_count: 1,
            vcpu_id: 0,
        };
        let cpuid = x86::cpu_model::table(topology, |_, _| [u32::MAX; 4], 7);
        let mut translator = Translator::new(Features::new(&cpuid));
        translator.has_company = has_company;
        let request = Request {
            rip: RIP,
            mode: Mode(mode),
            bytes: code,
            straddles,
        };
        let done = translator.translate(&request, BASE, Stubs::of_tests(CACHE), FIRST_SITE, 0);
        Block { translator, done }
    }

    fn host(&self) -> Vec<Instruction> {
        let bytes = self.translator.builder.e.bytes();
        Decoder::with_ip(64, bytes, BASE, DecoderOptions::NONE)
            .into_iter()
            .collect()
    }

    fn links(&self) -> usize {
        self.translator.builder.links.len()
    }

    /// Sites that a host fault at the instruction which `is_it` picks would be found at.
    fn fault_sites(&self, is_it: impl Fn(&Instruction) -> bool) -> usize {
        let host = self.host();
        let at = host.iter().find(|one| is_it(one)).expect("it is there");
        let sites = &self.translator.builder.sites;
        sites
            .iter()
            .filter(|site| site.access().is_none())
            .filter(|site| (site.start(CACHE)..site.end(CACHE)).contains(&at.ip()))
            .count()
    }
}

/// A load of a TLB entry's host address: what makes an address of a guest address.
fn takes_host_address(one: &Instruction) -> bool {
    one.code() == Code::Add_r64_rm64
        && one.memory_base() != Register::None
        && one.memory_displacement64() == 8
}

/// Guest code, its mode, and how many accesses it makes.
const ACCESSES: &[(&str, &[u8], u16, usize)] = &[
    ("mov rax, [rbx]", b"\x48\x8b\x03", 0, 1),
    ("mov [rbx+rcx*4+5], al", b"\x88\x44\x8b\x05", 0, 1),
    ("add qword [rip+8], 1", b"\x48\x83\x05\x08\0\0\0\x01", 0, 1),
    ("lock xadd [r13], r8", b"\xf0\x4d\x0f\xc1\x45\0", 0, 1),
    ("mov eax, fs:[0x28]", b"\x64\x8b\x04\x25\x28\0\0\0", 0, 1),
    ("movaps xmm1, [rsp]", b"\x0f\x28\x0c\x24", 0, 1),
    ("vmovups [rdi], ymm3", b"\xc5\xfc\x11\x1f", 0, 1),
    ("fld qword [rbp-8]", b"\xdd\x45\xf8", 0, 1),
    ("bts [rsi], rcx", b"\x48\x0f\xab\x0e", 0, 1),
    ("push rax", b"\x50", 0, 1),
    ("push qword [rax]", b"\xff\x30", 0, 2),
    ("pop r12", b"\x41\x5c", 0, 1),
    ("leave", b"\xc9", 0, 1),
    ("pushfq", b"\x9c", 0, 1),
    ("call +0", b"\xe8\0\0\0\0", 0, 1),
    ("call [rax]", b"\xff\x10", 0, 2),
    ("jmp [rax]", b"\xff\x20", 0, 1),
    ("ret", b"\xc3", 0, 1),
    ("movsq", b"\x48\xa5", 0, 2),
    ("rep stosb", b"\xf3\xaa", 0, 1),
    ("lodsd", b"\xad", 0, 1),
    ("scasb", b"\xae", 0, 1),
    (
        "mov eax, [ebx] in flat 32-bit code",
        b"\x8b\x03",
        Mode::CODE32,
        1,
    ),
    ("push eax in flat 32-bit code", b"\x50", Mode::CODE32, 1),
    (
        "mov eax, [ebx] in segmented 32-bit code",
        b"\x8b\x03",
        Mode::CODE32 | Mode::SEGMENTED,
        1,
    ),
    (
        "mov ax, [bx+si] in 16-bit code",
        b"\x8b\x00",
        Mode::CODE16 | Mode::SEGMENTED,
        1,
    ),
    ("mov rax, [rbx] of a user", b"\x48\x8b\x03", Mode::USER, 1),
    (
        "mov rax, [rbx] step by step",
        b"\x48\x8b\x03",
        Mode::CAREFUL,
        1,
    ),
];

/// Past a mispredicted check the address is all the guest's. The mask makes it an offset in a page; where the check
/// holds it is one already (docs/threat-model.md).
#[test]
fn every_checked_address_is_masked_before_it_becomes_a_host_address() {
    for &(name, code, mode, count) in ACCESSES {
        let host = Block::new(code, mode).host();
        let taken: Vec<usize> = (0..host.len())
            .filter(|&at| takes_host_address(&host[at]))
            .collect();
        assert_eq!(taken.len(), count, "{name}: accesses");
        for at in taken {
            let check = &host[at - 2];
            let mask = &host[at - 1];
            let add = &host[at];
            assert_eq!(check.code(), Code::Ja_rel32_64, "{name}: {check:?}");
            assert_eq!(mask.code(), Code::And_rm32_imm32, "{name}: {mask:?}");
            assert_eq!(mask.immediate32(), 0xfff, "{name}");
            assert_eq!(
                mask.op0_register().full_register(),
                add.op0_register(),
                "{name}: the address itself is masked"
            );
        }
    }
}

/// A host that ends split locks with a fault reports it at the instruction itself.
#[test]
fn every_locked_instruction_has_a_site_for_the_hosts_fault() {
    for (name, code) in [
        ("lock add [rax], ecx", &b"\xf0\x01\x08"[..]),
        ("lock cmpxchg16b [rdi]", b"\xf0\x48\x0f\xc7\x0f"),
        ("lock bts [rax], rcx", b"\xf0\x48\x0f\xab\x08"),
        ("lock btr [rax], cx", b"\xf0\x66\x0f\xb3\x08"),
        ("lock btc [rax], ecx", b"\xf0\x0f\xbb\x08"),
        ("lock bts [rax], 5", b"\xf0\x48\x0f\xba\x28\x05"),
        ("xchg [rax], ecx", b"\x87\x08"),
    ] {
        let is_it = |one: &Instruction| {
            one.has_lock_prefix()
                || one.code() == Code::Xchg_rm32_r32 && one.memory_base() != Register::None
        };
        assert!(Block::new(code, 0).fault_sites(is_it) > 0, "{name}");
    }
}

/// A lock across cache lines would be one of the bus, which every core of the host waits for.
#[test]
fn a_locked_operand_across_cache_lines_is_not_left_to_the_silicon() {
    let check = |name: &str, code: &[u8], last_in_line: Option<u32>| {
        let host = Block::new(code, 0).host();
        let masked = host.windows(3).filter(|three| {
            three[0].code() == Code::And_rm32_imm8
                && three[0].immediate32() == 63
                && three[1].code() == Code::Cmp_rm32_imm8
                && three[2].code() == Code::Ja_rel32_64
        });
        let found: Vec<u32> = masked.map(|three| three[1].immediate32()).collect();
        assert_eq!(found, Vec::from_iter(last_in_line), "{name}");
    };
    check("lock add [rax], rcx", b"\xf0\x48\x01\x08", Some(56));
    check("lock add [rax], ecx", b"\xf0\x01\x08", Some(60));
    check("lock add [rax], cx", b"\xf0\x66\x01\x08", Some(62));
    check("lock add [rax], cl", b"\xf0\x00\x08", None);
    check("lock bts [rax], rcx", b"\xf0\x48\x0f\xab\x08", Some(56));
    check("lock bts dword [rax], 5", b"\xf0\x0f\xba\x28\x05", Some(60));
    check("lock cmpxchg8b [rdi]", b"\xf0\x0f\xc7\x0f", Some(56));
    check("lock cmpxchg16b [rdi]", b"\xf0\x48\x0f\xc7\x0f", None);
    check("xchg [rax], ecx", b"\x87\x08", Some(60));
    check("add [rax], rcx", b"\x48\x01\x08", None);
}

#[test]
fn what_the_silicon_may_refuse_has_a_site_and_what_it_never_refuses_has_none() {
    for (code, mnemonic, has_site) in [
        (&b"\xf7\xf1"[..], iced_x86::Mnemonic::Div, true),
        (b"\x48\xf7\x3b", iced_x86::Mnemonic::Idiv, true),
        (b"\xd9\xe8", iced_x86::Mnemonic::Fld1, true),
        (b"\x0f\xc3\x03", iced_x86::Mnemonic::Movnti, true),
        (b"\x48\xf7\xe1", iced_x86::Mnemonic::Mul, false),
    ] {
        let sites = Block::new(code, 0).fault_sites(|one| one.mnemonic() == mnemonic);
        assert_eq!(sites > 0, has_site, "{mnemonic:?}");
    }
}

#[test]
fn sites_say_which_instruction_they_belong_to_and_what_is_borrowed_there() {
    // add rax, rcx; mov [rbx], rax; mov rdx, [rsi]
    let block = Block::new(b"\x48\x01\xc8\x48\x89\x03\x48\x8b\x16", 0);
    let sites = &block.translator.builder.sites;
    let accesses: Vec<_> = sites
        .iter()
        .filter_map(|site| Some((site, site.access()?)))
        .collect();
    assert_eq!(accesses.len(), 2);
    let store = &accesses[0];
    let load = &accesses[1];
    assert_eq!((store.0.rip, load.0.rip), (RIP + 3, RIP + 6));
    assert!(store.1.write && !load.1.write);
    assert_eq!((store.1.size, load.1.size), (8, 8));
    for (site, access) in accesses {
        assert!(site.flags_saved, "ADD's flags are put away");
        for register in [access.address, access.entry] {
            assert_ne!(
                site.borrowed & 1 << register.0,
                0,
                "{register:?} is borrowed"
            );
        }
        // Registers that the instruction uses are never lent.
        assert_eq!(site.borrowed & (1 << 3 | 1 << 6 | 1 << 4), 0);
    }
}

#[test]
fn a_block_starts_with_a_word_that_can_be_replaced_at_once() {
    for (_, code, mode, _) in ACCESSES {
        let block = Block::new(code, *mode);
        assert_eq!(
            &block.translator.builder.e.bytes()[..5],
            b"\x0f\x1f\x44\0\0"
        );
        let stale = block.done.expect("a whole instruction").stale;
        assert!(block.host().iter().any(|one| one.ip() == stale));
    }
}

/// A name, code, mode, whether it straddles, and then: bytes covered, links, and whether there is a guard. RIP is 0x100
/// bytes into its page.
type Leaving = (&'static str, &'static [u8], u16, bool, u16, usize, bool);

const LEAVING: &[Leaving] = &[
    (
        "forward in the page",
        b"\xe9\x40\0\0\0",
        0,
        false,
        5,
        1,
        false,
    ),
    (
        "back in the page",
        b"\xe9\xc0\xff\xff\xff",
        0,
        false,
        5,
        1,
        false,
    ),
    (
        "last byte of the page",
        b"\xe9\xfa\x0e\0\0",
        0,
        false,
        5,
        1,
        false,
    ),
    (
        "first byte of the next page",
        b"\xe9\xfb\x0e\0\0",
        0,
        false,
        5,
        0,
        false,
    ),
    (
        "first byte of the page",
        b"\xe9\xfb\xfe\xff\xff",
        0,
        false,
        5,
        1,
        false,
    ),
    (
        "last byte of the page before",
        b"\xe9\xfa\xfe\xff\xff",
        0,
        false,
        5,
        0,
        false,
    ),
    (
        "step by step",
        b"\xe9\x40\0\0\0",
        Mode::CAREFUL,
        false,
        5,
        0,
        false,
    ),
    (
        "segmented",
        b"\xe9\x40\0\0\0",
        Mode::CODE32 | Mode::SEGMENTED,
        false,
        5,
        0,
        false,
    ),
    (
        "flat 32-bit code",
        b"\xe9\x40\0\0\0",
        Mode::CODE32,
        false,
        5,
        1,
        false,
    ),
    ("from two pages", b"\xe9\x40\0\0\0", 0, true, 5, 0, true),
    (
        "from two pages, step by step",
        b"\xe9\x40\0\0\0",
        Mode::CAREFUL,
        true,
        5,
        0,
        false,
    ),
    (
        "before one that is cut off",
        b"\x90\xb8\x01\x02",
        0,
        false,
        1,
        0,
        false,
    ),
    ("je and what follows", b"\x74\x10", 0, false, 2, 2, false),
];

#[test]
fn jumps_are_chained_inside_a_page_only_and_never_to_or_from_two_pages() {
    for &(name, code, mode, straddles, len, links, guard) in LEAVING {
        let block = Block::with(code, mode, straddles, false);
        let done = block.done.expect("a whole instruction");
        assert_eq!(done.len_bytes, len, "{name}: bytes");
        assert_eq!(block.links(), links, "{name}: links");
        assert_eq!(done.guard.is_some(), guard, "{name}: guard");
    }
}

#[test]
fn an_instruction_that_is_not_all_there_is_no_block() {
    for code in [&b"\xb8\x01\x02"[..], b"\x48", b"\x66\x66", b"\x0f"] {
        assert!(Block::new(code, 0).done.is_none(), "{code:x?}");
    }
}

#[test]
fn blocks_end_where_they_must() {
    let nops = |count: usize| vec![0x90; count];
    for (name, code, mode, len) in [
        ("the longest block", nops(100), 0, MAX_INSTRUCTIONS),
        ("step by step", nops(100), Mode::CAREFUL, 1),
        ("the end of the window", nops(3), 0, 3),
        ("a jump", b"\x90\xeb\x00\x90".to_vec(), 0, 3),
        ("a return", b"\x90\xc3\x90".to_vec(), 0, 2),
        (
            "an interpreted instruction",
            b"\x90\x0f\xa2\x90".to_vec(),
            0,
            3,
        ),
        ("an undefined one", b"\x90\x0f\x0b\x90".to_vec(), 0, 3),
        ("STI does not end it", b"\xfb\x90\x90".to_vec(), 0, 3),
        ("a user's STI does", b"\xfb\x90\x90".to_vec(), Mode::USER, 1),
    ] {
        let done = Block::new(&code, mode).done.expect(name);
        assert_eq!(usize::from(done.len_bytes), len, "{name}");
    }
    let pause = b"\xf3\x90\x90";
    let len = |has_company| {
        Block::with(pause, 0, false, has_company)
            .done
            .map(|done| done.len_bytes)
    };
    assert_eq!(
        (len(false), len(true)),
        (Some(3), Some(2)),
        "PAUSE waits for another vCPU"
    );
}

#[test]
fn the_flags_that_pushfq_pushes_are_without_rf_and_vm() {
    let host = Block::new(b"\x9c", 0).host();
    let system_flags = std::mem::offset_of!(crate::block::VcpuBlock, system_flags) as u64;
    let load = host
        .iter()
        .position(|one| {
            one.segment_prefix() == Register::GS && one.memory_displacement64() == system_flags
        })
        .expect("the flags are loaded");
    let mask = &host[load + 1];
    assert_eq!(mask.code(), Code::And_rm32_imm32);
    assert_eq!(mask.immediate32(), !(1 << 16 | 1 << 17));
}
