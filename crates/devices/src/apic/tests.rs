//! The local APIC as kernels use it.

use x86::msr;

use super::*;
use crate::clock::{GuestClock, Nanos};

const CLOCK: GuestClock = GuestClock {
    tsc_khz: 1_000_000,
    tsc_at_start: 0,
    wall_at_start_ns: 0,
};
const BASE: u64 = 0xfee0_0000;
const BSP: u64 = 1 << 8;
const X2APIC: u64 = 1 << 10;
const ENABLED: u64 = 1 << 11;

fn apic(id: u32) -> LocalApic {
    let mut apic = LocalApic::new(id, CLOCK);
    set(&mut apic, 0xf0, 0x1ff);
    apic
}

fn x2apic(id: u32) -> LocalApic {
    let mut apic = apic(id);
    apic.set_base(apic.base() | X2APIC).unwrap();
    apic
}

fn set(apic: &mut LocalApic, offset: u64, value: u64) -> Option<Effect> {
    apic.mmio_write(Nanos(0), offset, 4, value)
}

fn get(apic: &mut LocalApic, offset: u64) -> u64 {
    apic.mmio_read(Nanos(0), offset, 4)
}

fn fixed(vector: u8, is_level: bool) -> Message {
    Message {
        delivery: Delivery::Fixed,
        vector,
        destination: Destination::All,
        is_level,
    }
}

#[test]
fn registers_read_as_a_kernel_expects() {
    let check = |offset, expected| assert_eq!(get(&mut apic(3), offset), expected, "{offset:#x}");
    check(0x20, 3 << 24);
    check(0x30, 0x5_0014);
    check(0xe0, 0xffff_ffff);
    check(0xf0, 0x1ff);
    check(0x320, 0x1_0000);
    check(0x350, 0x1_0000);
    check(0x3f0, 0);
    assert_eq!(
        get(&mut apic(0), 0x350),
        0x700,
        "the bootstrap processor has the 8259 pair on LINT0"
    );
    assert_eq!(get(&mut apic(0), 0x360), 0x400, "and NMI on LINT1");
}

#[test]
fn stores_change_what_can_be_changed() {
    let check = |offset, value, expected| {
        let mut apic = apic(1);
        set(&mut apic, offset, value);
        assert_eq!(get(&mut apic, offset), expected, "{offset:#x}");
    };
    let all = u64::from(u32::MAX);
    check(0x20, all, 1 << 24);
    check(0x30, all, 0x5_0014);
    check(0x80, all, 0xff);
    check(0xd0, all, 0xff00_0000);
    check(0xe0, 0, 0x0fff_ffff);
    check(0xf0, all, 0x3ff);
    check(0x300, 0xffff_f8ff, 0xc_c8ff);
    check(0x310, all, 0xff00_0000);
    check(0x320, all, 0x7_00ff);
    check(0x330, all, 0x1_07ff);
    check(0x350, all, 0x1_a7ff);
    check(0x370, all, 0x1_00ff);
    check(0x3e0, all, 0xb);
}

#[test]
fn a_higher_vector_interrupts_a_lower_one_and_not_the_other_way_round() {
    let mut apic = apic(0);
    assert!(apic.receive(&fixed(0x41, false)));
    assert!(!apic.receive(&fixed(0x41, false)), "waits already");
    assert_eq!(apic.acknowledge(), Some(0x41));
    assert_eq!(
        (get(&mut apic, 0x120), get(&mut apic, 0xa0)),
        (0x2, 0x40),
        "in service, priority"
    );
    apic.receive(&fixed(0x4f, false));
    assert_eq!(apic.acknowledge(), None, "the same priority class waits");
    apic.receive(&fixed(0x51, false));
    assert_eq!(apic.acknowledge(), Some(0x51));
    assert_eq!(set(&mut apic, 0xb0, 0), None);
    assert_eq!(apic.acknowledge(), None);
    set(&mut apic, 0xb0, 0);
    assert_eq!(apic.acknowledge(), Some(0x4f));
}

#[test]
fn the_task_priority_holds_interrupts_back() {
    let check = |tpr, vector, expected| {
        let mut apic = apic(0);
        set(&mut apic, 0x80, tpr);
        apic.receive(&fixed(vector, false));
        assert_eq!(
            apic.pending(),
            expected,
            "priority {tpr:#x}, vector {vector:#x}"
        );
    };
    check(0x00, 0x10, Some(0x10));
    check(0x10, 0x1f, None);
    check(0x1f, 0x20, Some(0x20));
    check(0xf0, 0xff, None);
}

#[test]
fn only_level_interrupts_tell_the_ioapic_that_they_ended() {
    let check = |is_level, expected| {
        let mut apic = apic(0);
        apic.receive(&fixed(0x51, is_level));
        apic.acknowledge();
        assert_eq!(set(&mut apic, 0xb0, 0), expected);
    };
    check(true, Some(Effect::EndOfInterrupt(0x51)));
    check(false, None);
    assert_eq!(set(&mut apic(0), 0xb0, 0), None, "nothing was in service");
}

#[test]
fn software_can_switch_it_off() {
    let mut apic = apic(0);
    set(&mut apic, 0x320, 0xec);
    set(&mut apic, 0xf0, 0xff);
    assert_eq!(get(&mut apic, 0x320), 0x1_00ec, "entries are masked");
    set(&mut apic, 0x320, 0xec);
    assert_eq!(get(&mut apic, 0x320), 0x1_00ec, "and stay so");
    assert!(!apic.receive(&fixed(0x41, false)));
    let nmi = Message {
        delivery: Delivery::Nmi,
        ..fixed(0, false)
    };
    assert!(apic.receive(&nmi) && apic.take_nmi());
    // One is taken next and one is latched behind it; more are the same ones.
    assert!(apic.receive(&nmi) && apic.receive(&nmi) && !apic.receive(&nmi));
    assert!(apic.take_nmi() && apic.take_nmi() && !apic.take_nmi());
}

#[test]
fn errors_are_collected_and_reported() {
    let mut apic = apic(0);
    set(&mut apic, 0x370, 0xfe);
    set(&mut apic, 0x300, 0x4_0005);
    assert_eq!(get(&mut apic, 0x280), 0, "not before it is written");
    set(&mut apic, 0x280, 0);
    assert_eq!(get(&mut apic, 0x280), 0x20, "send illegal vector");
    assert_eq!(apic.acknowledge(), Some(0xfe));
    apic.receive(&fixed(0x0f, false));
    get(&mut apic, 0x3f0);
    set(&mut apic, 0x280, 0);
    assert_eq!(
        get(&mut apic, 0x280),
        0xc0,
        "received illegal vector, no such register"
    );
    set(&mut apic, 0x280, 0);
    assert_eq!(get(&mut apic, 0x280), 0);
}

#[test]
fn the_timer_interrupts_when_its_entry_lets_it() {
    let check = |name, lvt, expected| {
        let mut apic = apic(0);
        set(&mut apic, 0x3e0, 0xb);
        set(&mut apic, 0x320, lvt);
        set(&mut apic, 0x380, 1000);
        apic.advance(Nanos(999));
        assert_eq!(apic.pending(), None, "{name}: early");
        apic.advance(Nanos(1000));
        assert_eq!(apic.pending(), expected, "{name}");
    };
    check("one-shot", 0xec, Some(0xec));
    check("periodic", 0x2_00ec, Some(0xec));
    check("masked", 0x1_00ec, None);
    check("waiting for the TSC instead", 0x4_00ec, None);
}

#[test]
fn modes_change_only_along_the_arrows_of_the_manual() {
    let check = |path: &[u64], expected| {
        let mut apic = LocalApic::new(0, CLOCK);
        let result = path
            .iter()
            .try_for_each(|flags| apic.set_base(BASE | BSP | flags));
        assert_eq!(result.is_ok(), expected, "{path:x?}");
    };
    check(&[ENABLED], true);
    check(&[ENABLED | X2APIC], true);
    check(&[ENABLED | X2APIC, 0, ENABLED], true);
    check(&[ENABLED | X2APIC, ENABLED], false);
    check(&[X2APIC], false);
    check(&[0, ENABLED | X2APIC], false);
    check(&[ENABLED | X2APIC, X2APIC], false);
    check(&[ENABLED | 1], false);
    check(&[ENABLED | 1 << 50], false);
}

#[test]
fn the_page_is_there_only_in_xapic_mode() {
    let mut apic = apic(0);
    assert_eq!(apic.mmio_base(), Some(x86::Gpa(BASE)));
    apic.set_base(0x1234_5000 | ENABLED).unwrap();
    assert_eq!(apic.mmio_base(), Some(x86::Gpa(0x1234_5000)));
    apic.set_base(BASE | ENABLED | X2APIC).unwrap();
    assert_eq!(apic.mmio_base(), None);
}

#[test]
fn msrs_fault_where_the_manual_says_so() {
    let check = |register: u32, value: Option<u64>, expected| {
        let mut apic = x2apic(5);
        let number = msr::X2APIC_BASE + register;
        let is_ok = match value {
            None => apic.msr_read(Nanos(0), number).is_ok(),
            Some(value) => apic.msr_write(Nanos(0), number, value).is_ok(),
        };
        assert_eq!(is_ok, expected, "register {register:#x} {value:x?}");
    };
    for (register, can_read, can_write_0) in [
        (0x02, true, false),
        (0x03, true, false),
        (0x08, true, true),
        (0x0a, true, false),
        (0x0b, false, true),
        (0x0d, true, false),
        (0x0e, false, false),
        (0x0f, true, true),
        (0x10, true, false),
        (0x27, true, false),
        (0x28, true, true),
        (0x30, true, true),
        (0x31, false, false),
        (0x32, true, true),
        (0x38, true, true),
        (0x39, true, false),
        (0x3e, true, true),
        (0x3f, false, true),
        (0x40, false, false),
        (0xff, false, false),
    ] {
        check(register, None, can_read);
        check(register, Some(0), can_write_0);
    }
    check(0x0b, Some(1), false);
    check(0x28, Some(1), false);
    check(0x08, Some(0x100), false);
    check(0x0f, Some(0x1_0000), false);
    check(0x3e, Some(0x10), false);
    let mut in_memory = apic(0);
    for number in [msr::X2APIC_BASE + 2, msr::X2APIC_TPR] {
        assert!(in_memory.msr_read(Nanos(0), number).is_err(), "{number:#x}");
        assert!(
            in_memory.msr_write(Nanos(0), number, 0).is_err(),
            "{number:#x}"
        );
    }
    for apic in [&mut in_memory, &mut x2apic(0)] {
        apic.set_task_priority(9);
        assert_eq!(apic.task_priority(), 9, "CR8 works in every mode");
    }
    assert_eq!(get(&mut in_memory, 0x80), 0x90);
}

#[test]
fn x2apic_ids_are_whole_words() {
    let mut apic = x2apic(0x23);
    assert_eq!(apic.msr_read(Nanos(0), 0x802), Ok(0x23));
    assert_eq!(apic.msr_read(Nanos(0), 0x80d), Ok(0x2_0008));
    let sent = apic.msr_write(Nanos(0), 0x830, 0x23_0000_00fd);
    let message = Message {
        destination: Destination::Physical(0x23),
        ..fixed(0xfd, false)
    };
    assert_eq!(sent, Ok(Some(Effect::Send(message))));
    let sent = apic.msr_write(Nanos(0), 0x83f, 0xf2);
    let message = Message {
        destination: Destination::SelfOnly,
        ..fixed(0xf2, false)
    };
    assert_eq!(sent, Ok(Some(Effect::Send(message))));
}

#[test]
fn everybody_knows_whether_a_message_is_for_him() {
    let flat = |ldr: u64| {
        let mut apic = apic(3);
        set(&mut apic, 0xd0, ldr << 24);
        apic
    };
    let cluster = |ldr: u64| {
        let mut apic = flat(ldr);
        set(&mut apic, 0xe0, 0);
        apic
    };
    let check = |name, apic: LocalApic, destination, expected| {
        assert_eq!(apic.is_addressed(destination, Some(3)), expected, "{name}");
    };
    check("id", apic(3), Destination::Physical(3), true);
    check("other id", apic(3), Destination::Physical(4), false);
    check("self", apic(3), Destination::SelfOnly, true);
    check("other's self", apic(4), Destination::SelfOnly, false);
    check("all but self", apic(3), Destination::AllButSelf, false);
    check("all but another", apic(4), Destination::AllButSelf, true);
    check("flat", flat(0x04), Destination::Logical(0x06), true);
    check("flat, not", flat(0x04), Destination::Logical(0x03), false);
    check("cluster", cluster(0x14), Destination::Logical(0x16), true);
    check(
        "other cluster",
        cluster(0x14),
        Destination::Logical(0x26),
        false,
    );
    check(
        "x2apic cluster",
        x2apic(0x23),
        Destination::Logical(0x2_0008),
        true,
    );
    check(
        "other x2apic cluster",
        x2apic(0x23),
        Destination::Logical(0x1_0008),
        false,
    );
}

#[test]
fn init_resets_all_but_id_and_mode() {
    let mut apic = x2apic(0x11);
    apic.receive(&fixed(0x41, false));
    apic.receive(&Message {
        delivery: Delivery::Init,
        ..fixed(0, false)
    });
    apic.receive(&Message {
        delivery: Delivery::Startup,
        ..fixed(0x9a, false)
    });
    assert!(apic.take_init() && !apic.take_init());
    assert_eq!(apic.pending(), None);
    assert_eq!(apic.msr_read(Nanos(0), 0x80f), Ok(0xff));
    assert_eq!(
        (
            apic.msr_read(Nanos(0), 0x802),
            apic.msr_read(Nanos(0), 0x80d)
        ),
        (Ok(0x11), Ok(0x1_0002))
    );
    assert_eq!(
        apic.take_startup(),
        Some(0x9a),
        "a startup that came after is kept"
    );
}

#[test]
fn the_8259_pair_reaches_the_processor_as_lint0_says() {
    let check = |name, base, lint0, expected_extint, expected_vector| {
        let mut apic = apic(0);
        apic.set_base(base).unwrap();
        if base & ENABLED != 0 {
            set(&mut apic, 0x350, lint0);
        }
        apic.set_lint0(true);
        assert_eq!(
            (apic.wants_extint(), apic.pending()),
            (expected_extint, expected_vector),
            "{name}"
        );
    };
    check("virtual wire", BASE | ENABLED, 0x700, true, None);
    check("masked", BASE | ENABLED, 0x1_0700, false, None);
    check("fixed", BASE | ENABLED, 0x0_0031, false, Some(0x31));
    check("APIC off", BASE, 0, true, None);
}
