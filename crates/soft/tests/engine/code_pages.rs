//! Code whose pages change under it: instructions that go on into the next page, pages that are mapped elsewhere,
//! lose a permission or get other bytes, by whomever. What was translated before must never be what runs after.
//!
//! The driver calls a function again and again, writes EAX to a port, which stops it, and flushes. While it is stopped
//! the test changes something.

use vcpu::{Vcpu, VcpuState, gpr};

use crate::machine::{DRIVER, G, LARGE, Machine, Met, NX, P, U, W, WINDOW};

/// The flush that the driver does after each stop.
#[derive(Clone, Copy, Debug)]
enum Flush {
    /// INVLPG of the second page (or of another 4 KiB of it, if it is a large one).
    Page,
    /// MOV CR3.
    Space,
}

/// How control gets to the instruction that crosses.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Way {
    Called,
    FallsThrough,
    Jumps,
    JumpsIf,
    Calls,
    Returns,
    JumpsThroughRegister,
    FromAnotherPage,
}

const WAYS: [Way; 8] = [
    Way::Called,
    Way::FallsThrough,
    Way::Jumps,
    Way::JumpsIf,
    Way::Calls,
    Way::Returns,
    Way::JumpsThroughRegister,
    Way::FromAnotherPage,
];

/// What is done to the pages while the driver is stopped, and what must come of it.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Change {
    Nothing,
    SecondElsewhere,
    SecondAway,
    SecondNotExecutable,
    /// SMEP: ring 0 runs no code of user pages.
    SecondOfUser,
    FirstElsewhere,
    FirstAway,
    FirstNotExecutable,
    SecondWrittenByDevice,
    FirstWrittenByDevice,
    SecondWrittenByAnotherVcpu,
    FirstWrittenByAnotherVcpu,
}

const CHANGES: [Change; 12] = [
    Change::Nothing,
    Change::SecondElsewhere,
    Change::SecondAway,
    Change::SecondNotExecutable,
    Change::SecondOfUser,
    Change::FirstElsewhere,
    Change::FirstAway,
    Change::FirstNotExecutable,
    Change::SecondWrittenByDevice,
    Change::FirstWrittenByDevice,
    Change::SecondWrittenByAnotherVcpu,
    Change::FirstWrittenByAnotherVcpu,
];

/// mov eax, 0x04030202; ret
const CROSSING: [u8; 6] = [0xb8, 2, 2, 3, 4, 0xc3];
/// With another last byte, which always lies in the second page.
const OTHER_SECOND: u32 = 0x0903_0202;
/// ADD instead of MOV: the first byte always lies in the first page. The driver starts with EAX = 0x10000000.
const OTHER_FIRST: u32 = 0x1403_0202;
const ADD_EAX: u8 = 0x05;

/// Physical pages (of 2 MiB each, so that they can be mapped as large ones): two of each.
const FIRST: [u64; 2] = [0x40_0000, 0x60_0000];
const SECOND: [u64; 2] = [0x80_0000, 0xa0_0000];
const ELSEWHERE: u64 = 0x30_0000;
/// Where the code of a way in another page lies.
const ANOTHER_PAGE: u64 = WINDOW + 0x80_0000;
/// Program of the second vCPU.
const WRITER: u64 = DRIVER + 0x8000;

/// One instruction across the end of a page, in all its surroundings.
#[derive(Clone, Copy, Debug)]
struct Crossing {
    way: Way,
    change: Change,
    flush: Flush,
    /// Bytes of the instruction in the first page.
    split: u64,
    /// Calls before the change.
    times: usize,
    large: bool,
    /// The first page is global, the second is not.
    global_first: bool,
}

impl Crossing {
    fn page_bytes(&self) -> u64 {
        if self.large { 0x20_0000 } else { 0x1000 }
    }

    fn second(&self) -> u64 {
        WINDOW + self.page_bytes()
    }

    fn cross(&self) -> u64 {
        self.second() - self.split
    }

    /// The code that leads to the crossing instruction, and its address.
    fn entry(&self) -> (u64, Vec<u8>) {
        let cross = self.cross();
        let place = match self.way {
            Way::Called => cross,
            // mov ebp, 1
            Way::FallsThrough => cross - 5,
            Way::FromAnotherPage => ANOTHER_PAGE,
            _ => cross - 64,
        };
        let relative = |from: u64| (cross.wrapping_sub(from) as u32).to_le_bytes();
        let code = match self.way {
            Way::Called => vec![],
            Way::FallsThrough => vec![0xbd, 1, 0, 0, 0],
            Way::Jumps | Way::FromAnotherPage => [&[0xe9][..], &relative(place + 5)].concat(),
            // cmp eax, eax; je; ud2
            Way::JumpsIf => [
                &[0x39, 0xc0, 0x0f, 0x84],
                &relative(place + 8)[..],
                &[0x0f, 0x0b],
            ]
            .concat(),
            // call; ret
            Way::Calls => [&[0xe8], &relative(place + 5)[..], &[0xc3]].concat(),
            // push; ret
            Way::Returns => [&[0x68], &(cross as u32).to_le_bytes()[..], &[0xc3]].concat(),
            // mov ecx, cross; jmp rcx
            Way::JumpsThroughRegister => {
                [&[0xb9], &(cross as u32).to_le_bytes()[..], &[0xff, 0xe1]].concat()
            }
        };
        (place, code)
    }

    /// Sets up memory and the vCPUs.
    fn machine(&self) -> Machine {
        let mut machine = Machine::new(2);
        let size = self.page_bytes();
        let (place, code) = self.entry();
        for (copy, opcode) in [(FIRST[0], CROSSING[0]), (FIRST[1], ADD_EAX)] {
            let at = copy + size - self.split;
            machine.write(at, &CROSSING[..self.split as usize]);
            machine.write(at, &[opcode]);
            if place < self.cross() {
                machine.write(at - (self.cross() - place), &code);
            }
        }
        for (copy, last) in [(SECOND[0], 4), (SECOND[1], 9)] {
            machine.write(copy, &CROSSING[self.split as usize..]);
            machine.write(copy + 4 - self.split, &[last]);
        }
        machine.write(ELSEWHERE, &code);
        machine.map(ANOTHER_PAGE, ELSEWHERE, P);
        self.map_first(&mut machine, FIRST[0], 0);
        self.map_second(&mut machine, SECOND[0], 0);
        let flush: &[u8] = match self.flush {
            // invlpg [rsi]
            Flush::Page => &[0x0f, 0x01, 0x3e],
            // mov cr3, rdi
            Flush::Space => &[0x0f, 0x22, 0xdf],
        };
        // again: mov eax, 0x10000000; call rbx; out 0x80, eax; FLUSH; jmp again
        let driver = [
            &[0xb8, 0, 0, 0, 0x10, 0xff, 0xd3, 0xe7, 0x80][..],
            flush,
            &[0xeb, 0xf2],
        ];
        let mut state = machine.start(&driver.concat());
        state.gprs[gpr::RBX] = place;
        state.gprs[gpr::RDI] = state.cr3;
        // Any address of a large page stands for all of it.
        state.gprs[gpr::RSI] = self.flushed() + if self.large { 0x5000 } else { 0 };
        machine.vcpus[0].set_state(&state).unwrap();
        self.prepare_writer(&mut machine, &state);
        machine
    }

    /// The page that INVLPG names: the one that is changed.
    fn flushed(&self) -> u64 {
        match self.change {
            Change::FirstElsewhere | Change::FirstAway | Change::FirstNotExecutable => WINDOW,
            _ => self.second(),
        }
    }

    fn prepare_writer(&self, machine: &mut Machine, state: &VcpuState) {
        // mov [rbx], al; hlt
        machine.write(WRITER, &[0x88, 0x03, 0xf4]);
        let mut writer = state.clone();
        writer.rip = WRITER;
        let (target, value) = match self.change {
            Change::FirstWrittenByAnotherVcpu => {
                (FIRST[0] + self.page_bytes() - self.split, ADD_EAX)
            }
            _ => (SECOND[0] + 4 - self.split, 9),
        };
        writer.gprs[gpr::RBX] = target;
        // The writer has the page in its TLB before it is translated: it stores what is there already.
        writer.gprs[gpr::RAX] = machine.word(target) & 0xff;
        machine.vcpus[1].set_state(&writer).unwrap();
        assert_eq!(machine.run(1), Met::Halt);
        writer.gprs[gpr::RAX] = u64::from(value);
        let again = VcpuState {
            rip: WRITER,
            ..writer
        };
        machine.vcpus[1].set_state(&again).unwrap();
    }

    fn leaf(&self) -> u64 {
        P | W | if self.large { LARGE } else { 0 }
    }

    fn map_first(&self, machine: &mut Machine, gpa: u64, flags: u64) {
        let global = if self.global_first { G } else { 0 };
        machine.map(WINDOW, gpa, self.leaf() ^ flags | global);
    }

    fn map_second(&self, machine: &mut Machine, gpa: u64, flags: u64) {
        machine.map(self.second(), gpa, self.leaf() ^ flags);
    }

    /// Does the change; returns what the next call must come to.
    fn change(&self, machine: &mut Machine) -> Met {
        let cross = self.cross();
        let second = self.second();
        let (entry, _) = self.entry();
        // Where the first page is fetched from first.
        let first_fetch = if self.way == Way::FromAnotherPage {
            cross
        } else {
            entry
        };
        let not_present = |rip, address| Met::Vector(14, 0x10, rip, address);
        let not_allowed = |rip, address| Met::Vector(14, 0x11, rip, address);
        match self.change {
            Change::Nothing => Met::Out(0x0403_0202),
            Change::SecondElsewhere => {
                self.map_second(machine, SECOND[1], 0);
                Met::Out(OTHER_SECOND)
            }
            Change::SecondAway => {
                self.map_second(machine, SECOND[0], P);
                not_present(cross, second)
            }
            Change::SecondNotExecutable => {
                self.map_second(machine, SECOND[0], NX);
                not_allowed(cross, second)
            }
            Change::SecondOfUser => {
                self.map_second(machine, SECOND[0], U);
                not_allowed(cross, second)
            }
            Change::FirstElsewhere => {
                self.map_first(machine, FIRST[1], 0);
                Met::Out(OTHER_FIRST)
            }
            Change::FirstAway => {
                self.map_first(machine, FIRST[0], P);
                not_present(first_fetch, first_fetch)
            }
            Change::FirstNotExecutable => {
                self.map_first(machine, FIRST[0], NX);
                not_allowed(first_fetch, first_fetch)
            }
            Change::SecondWrittenByDevice => {
                machine.write(SECOND[0] + 4 - self.split, &[9]);
                Met::Out(OTHER_SECOND)
            }
            Change::FirstWrittenByDevice => {
                machine.write(FIRST[0] + self.page_bytes() - self.split, &[ADD_EAX]);
                Met::Out(OTHER_FIRST)
            }
            Change::SecondWrittenByAnotherVcpu => {
                assert_eq!(machine.run(1), Met::Halt);
                Met::Out(OTHER_SECOND)
            }
            Change::FirstWrittenByAnotherVcpu => {
                assert_eq!(machine.run(1), Met::Halt);
                Met::Out(OTHER_FIRST)
            }
        }
    }

    fn check(&self) {
        let mut machine = self.machine();
        for _ in 0..=self.times {
            assert_eq!(machine.run(0), Met::Out(0x0403_0202), "before: {self:?}");
        }
        let expected = self.change(&mut machine);
        for _ in 0..2 {
            assert_eq!(machine.run(0), expected, "{self:?}");
            if matches!(expected, Met::Vector(..)) {
                break;
            }
        }
    }

    /// Whether the flush reaches the change: MOV CR3 leaves global pages alone.
    fn is_flushed(&self) -> bool {
        matches!(self.flush, Flush::Page) || !self.global_first || self.flushed() != WINDOW
    }
}

fn check_all(flush: Flush, large: bool, global_first: bool) {
    for way in WAYS {
        for change in CHANGES {
            for (split, times) in [(1, 0), (2, 1), (3, 3), (4, 40)] {
                let crossing = Crossing {
                    way,
                    change,
                    flush,
                    split,
                    times,
                    large,
                    global_first,
                };
                if crossing.is_flushed() {
                    crossing.check();
                }
            }
        }
    }
}

#[test]
fn an_instruction_across_a_page_end_is_fetched_anew_after_invlpg() {
    check_all(Flush::Page, false, false);
}

#[test]
fn an_instruction_across_a_page_end_is_fetched_anew_in_another_address_space() {
    check_all(Flush::Space, false, false);
}

#[test]
fn an_instruction_is_as_global_as_the_less_global_of_its_pages() {
    check_all(Flush::Space, false, true);
}

#[test]
fn an_instruction_across_the_end_of_a_large_page_is_fetched_anew_after_invlpg_anywhere_in_it() {
    check_all(Flush::Page, true, false);
}

/// Reads through a large page, changes it, flushes one address, reads another.
#[test]
fn invlpg_of_one_address_in_a_large_page_flushes_all_of_it() {
    let mut machine = Machine::new(1);
    machine.map(WINDOW, FIRST[0], P | W | LARGE);
    machine.put(FIRST[0] + 0x1f_f000, 1);
    machine.put(FIRST[1] + 0x1f_f000, 2);
    // again: mov eax, [rbx]; mov [rbx + 8], eax; out 0x80, eax; invlpg [rsi]; jmp again
    let code = b"\x8b\x03\x89\x43\x08\xe7\x80\x0f\x01\x3e\xeb\xf4";
    let mut state = machine.start(code);
    state.gprs[gpr::RBX] = WINDOW + 0x1f_f000;
    state.gprs[gpr::RSI] = WINDOW;
    machine.vcpus[0].set_state(&state).unwrap();
    assert_eq!(machine.run(0), Met::Out(1));
    assert_eq!(machine.run(0), Met::Out(1));
    machine.map(WINDOW, FIRST[1], P | W | LARGE);
    assert_eq!(machine.run(0), Met::Out(2));
    assert_eq!(machine.word(FIRST[1] + 0x1f_f008), 2);
}
