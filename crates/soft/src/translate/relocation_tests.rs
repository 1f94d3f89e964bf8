//! A block that is moved is, to the byte, the block that translating for the other address makes.

use super::{Relocation, Request, Shift, Translator, may_lie_at};
use crate::code_cache::{HostPc, Stubs};
use crate::features::Features;
use crate::mode::Mode;

const CACHE: HostPc = 0x6000_0000;

/// Where a block is for, where it lies, and its first numbers.
#[derive(Clone, Copy)]
struct Home {
    rip: u64,
    host: HostPc,
    site: u32,
    link: u32,
}

/// What comes of translating: code, relocations, packed sites, the stale exit behind the head; and whether it can be moved.
type Made = (Vec<u8>, Vec<Relocation>, Vec<[u64; 3]>, u64, bool);

fn translated(code: &[u8], mode: u16, home: Home) -> Made {
    let topology = x86::cpu_model::Topology {
        vcpu_count: 1,
        vcpu_id: 0,
    };
    let cpuid = x86::cpu_model::table(topology, |_, _| [u32::MAX; 4], 7);
    let mut translator = Translator::new(Features::new(&cpuid));
    translator.has_company = true;
    let request = Request {
        rip: home.rip,
        mode: Mode(mode),
        bytes: code,
        straddles: false,
    };
    let stubs = Stubs::of_tests(CACHE);
    let done = translator
        .translate(&request, home.host, stubs, home.site, home.link)
        .unwrap();
    let builder = &translator.builder;
    (
        builder.e.bytes().to_vec(),
        builder.relocations.clone(),
        builder.sites.iter().map(super::Site::pack).collect(),
        done.stale - home.host,
        builder.is_movable,
    )
}

/// Code of user programs: everything that leaves a block, reads RIP, may miss or fault.
const CODE: &[(&str, &[u8])] = &[
    ("lea rbx, [rip+x]; ret", b"\x48\x8d\x1d\xf9\x0e\0\0\xc3"),
    (
        "add rax, [rip-x]; ret 8",
        b"\x48\x03\x05\0\xff\xff\x7f\xc2\x08\0",
    ),
    (
        "mov [rip+x], rsp; jmp [rip+y]",
        b"\x48\x89\x25\0\x01\0\0\xff\x25\0\0\0\x80",
    ),
    (
        "mov eax, [0x1234]; jmp $",
        b"\x8b\x04\x25\x34\x12\0\0\xeb\xfe",
    ),
    ("call near", b"\xe8\x10\0\0\0"),
    ("call the page behind", b"\xe8\0\x20\0\0"),
    ("call the page before", b"\xe8\0\xe0\xff\xff"),
    ("call [rip+x]", b"\xff\x15\0\x10\0\0"),
    ("call rax", b"\xff\xd0"),
    ("jmp rdx", b"\xff\xe2"),
    (
        "four jumps forwards",
        b"\x74\x10\x75\x10\x0f\x82\0\x20\0\0\x72\x10\xc3",
    ),
    ("a jump backwards", b"\x48\xff\xc8\x75\xf0"),
    ("a jump backwards to another page", b"\x0f\x85\0\0\xff\xff"),
    ("loop", b"\xe2\xf0"),
    ("pause", b"\xf3\x90"),
    ("syscall", b"\x0f\x05"),
    (
        "a frame",
        b"\x55\x48\x89\xe5\x53\x48\x83\xec\x18\x48\x8b\x07\x48\x89\x45\xe8\xc9\xc3",
    ),
    (
        "push immediate; pop; pushfq",
        b"\x68\x78\x56\x34\x12\x58\x9c\xc3",
    ),
    ("rep movsb; scasb", b"\xf3\xa4\xae\xc3"),
    (
        "sse through memory",
        b"\x0f\x28\x05\0\x01\0\0\x66\x0f\xef\xc1\xc3",
    ),
    ("x87", b"\xdb\x2d\0\x01\0\0\xd9\xc0\xc3"),
    (
        "lock xadd, cmpxchg, xchg",
        b"\xf0\x48\x0f\xc1\x07\xf0\x0f\xb1\x16\x87\x03\xc3",
    ),
    (
        "div, bt, fs",
        b"\xf7\xf1\x48\x0f\xa3\x07\x64\x48\x8b\x04\x25\x28\0\0\0\xc3",
    ),
    ("rdtsc; mov from ds", b"\x0f\x31\x8c\xd8\xc3"),
    (
        "one structure",
        b"\x48\x8b\x07\x48\x8b\x57\x08\x48\x03\x47\x10\x48\x89\x47\x18\xc3",
    ),
    ("no end", b"\x90\x48\x01\xd8\x48"),
];

#[test]
fn a_moved_block_is_what_translating_makes() {
    let from = Home {
        rip: 0x5555_5555_5100,
        host: CACHE + 0x1000,
        site: 7,
        link: 3,
    };
    let homes = [
        Home {
            rip: 0x7f12_ffff_f100,
            host: CACHE + 0x50_0040,
            site: 1 << 30 | 12,
            link: 1 << 31 | 99,
        },
        Home {
            rip: 0x2_0000_1100,
            host: CACHE + 0x10,
            site: 0,
            link: 0,
        },
    ];
    for mode in [Mode::USER, Mode::USER | Mode::ONE_BY_ONE] {
        for &(what, code) in CODE {
            let (bytes, relocations, sites, stale, is_movable) = translated(code, mode, from);
            assert!(is_movable, "{what}");
            for home in homes {
                let shift = Shift {
                    rip: home.rip.wrapping_sub(from.rip),
                    host: home.host.wrapping_sub(from.host),
                    site: home.site.wrapping_sub(from.site),
                    link: home.link.wrapping_sub(from.link),
                };
                let mut moved = bytes.clone();
                relocations
                    .iter()
                    .for_each(|one| one.apply(&mut moved, &shift));
                let moved_sites: Vec<[u64; 3]> = sites
                    .iter()
                    .map(|&site| super::Site::unpack(site).moved(&shift).pack())
                    .collect();
                let made = translated(code, mode, home);
                assert_eq!(moved, made.0, "{what}");
                assert_eq!(moved_sites, made.2, "{what}");
                assert_eq!(stale, made.3, "{what}");
            }
        }
    }
}

/// Modes, addresses, code, and whether it can be moved.
#[test]
fn only_code_of_programs_that_names_long_addresses_is_moved() {
    let lea_32: &[u8] = b"\x8d\x1d\xf9\x0e\0\0\xc3";
    for (mode, rip, code, is_movable) in [
        (Mode::USER, 0x5555_5555_5100, CODE[0].1, true),
        (0, 0x5555_5555_5100, CODE[0].1, false),
        (Mode::USER | Mode::CODE32, 0x40_0100, b"\xc3", false),
        (Mode::USER, 0x40_0100, CODE[0].1, false),
        (Mode::USER, 0xffff_8000_0000_0100, CODE[0].1, false),
        (Mode::USER, 0x5555_5555_5100, lea_32, false),
    ] {
        let home = Home {
            rip,
            host: CACHE + 0x1000,
            site: 0,
            link: 0,
        };
        let made = translated(code, mode, home);
        assert_eq!(made.4, is_movable, "{mode:#x} {rip:#x}");
        assert!(!is_movable || may_lie_at(rip));
    }
}
