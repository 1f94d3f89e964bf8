//! Probes: who watches an address of the kernel hears of each pass once, with the registers of that moment.

use std::sync::{Arc, Mutex};

use vcpu::{Pass, ProbeSink, Probes, Vcpu, gpr};

use crate::machine::{DRIVER, LARGE, Machine, Met, P, U, W, WINDOW};

/// Where, RAX, and which vCPU, of each pass.
#[derive(Default)]
struct Heard(Mutex<Vec<(u64, u64, u32)>>);

impl Heard {
    fn take(&self) -> Vec<(u64, u64, u32)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl ProbeSink for Heard {
    fn passed(&self, pass: &Pass<'_>) {
        let rax = pass.gprs[gpr::RAX];
        self.0
            .lock()
            .unwrap()
            .push((pass.address, rax, pass.vcpu_id));
    }
}

/// A loop of ten turns, a word to a port, a HLT.
/// mov ecx, 10; xor eax, eax; l: inc rax; inc rax; dec rcx; jnz l; out 0x80, eax; hlt
const LOOP: &[u8] =
    b"\xb9\x0a\0\0\0\x31\xc0\x48\xff\xc0\x48\xff\xc0\x48\xff\xc9\x75\xf5\xe7\x80\xf4";
/// Where its second INC is.
const SECOND: u64 = DRIVER + 10;
/// Where its first is, to which the loop leads back.
const FIRST: u64 = DRIVER + 7;

fn probe(machine: &mut Machine, heard: &Arc<Heard>, addresses: &[u64]) {
    let probes = Probes::new(addresses.to_vec(), Arc::clone(heard) as Arc<dyn ProbeSink>);
    for vcpu in &mut machine.vcpus {
        assert!(vcpu.set_probes(&probes));
    }
}

fn start(machine: &mut Machine, code: &[u8]) {
    let state = machine.start(code);
    machine.vcpus[0].set_state(&state).unwrap();
}

#[test]
fn every_pass_is_told_once_wherever_in_a_block_the_instruction_is() {
    let check = |addresses: &[u64], expected: &[(u64, u64)]| {
        let mut machine = Machine::new(1);
        let heard = Arc::new(Heard::default());
        start(&mut machine, LOOP);
        probe(&mut machine, &heard, addresses);
        assert_eq!(machine.run(0), Met::Out(20));
        let passes: Vec<(u64, u64)> = heard.take().iter().map(|pass| (pass.0, pass.1)).collect();
        assert_eq!(passes, expected, "{addresses:x?}");
    };
    let each = |address, first: u64| -> Vec<(u64, u64)> {
        (0..10).map(|turn| (address, first + 2 * turn)).collect()
    };
    check(&[SECOND], &each(SECOND, 1));
    check(&[FIRST], &each(FIRST, 0));
    check(&[DRIVER], &[(DRIVER, 0)]);
    // The JNZ itself, and what is interpreted.
    check(&[DRIVER + 16], &each(DRIVER + 16, 2));
    check(&[DRIVER + 18], &[(DRIVER + 18, 20)]);
    // In the middle of an instruction, and where nothing comes by.
    check(&[DRIVER + 1, DRIVER + 0x100], &[]);
    let both = (0..20).map(|pass| ([FIRST, SECOND][pass % 2], pass as u64));
    check(&[SECOND, FIRST], &both.collect::<Vec<_>>());
}

#[test]
fn probes_come_and_go_while_code_is_translated() {
    let mut machine = Machine::new(1);
    let heard = Arc::new(Heard::default());
    for (addresses, expected) in [
        (&[][..], 0),
        (&[SECOND][..], 10),
        (&[FIRST, SECOND], 20),
        (&[FIRST], 10),
        (&[], 0),
        (&[FIRST], 10),
    ] {
        start(&mut machine, LOOP);
        probe(&mut machine, &heard, addresses);
        assert_eq!(machine.run(0), Met::Out(20));
        assert_eq!(heard.take().len(), expected, "{addresses:x?}");
    }
}

#[test]
fn an_instruction_that_faults_and_is_tried_again_may_be_told_again_and_no_other() {
    let mut machine = Machine::new(1);
    let heard = Arc::new(Heard::default());
    // mov rbx, [rcx]; inc rax; hlt
    let mut state = machine.start(b"\x48\x8b\x19\x48\xff\xc0\xf4");
    state.gprs[gpr::RCX] = WINDOW;
    machine.vcpus[0].set_state(&state).unwrap();
    probe(&mut machine, &heard, &[DRIVER, DRIVER + 3]);
    // Not mapped: the instruction does not come to its end.
    assert!(matches!(machine.run(0), Met::Vector(14, _, DRIVER, WINDOW)));
    assert_eq!(heard.take(), [(DRIVER, 0, 0)]);
    machine.map(WINDOW, 0x20_0000, P | W | LARGE);
    machine.vcpus[0].set_state(&state).unwrap();
    assert_eq!(machine.run(0), Met::Halt);
    // A TLB miss in between is no second pass.
    assert_eq!(heard.take(), [(DRIVER, 0, 0), (DRIVER + 3, 0, 0)]);
}

#[test]
fn programs_at_the_same_address_are_not_told() {
    let mut machine = Machine::new(1);
    let heard = Arc::new(Heard::default());
    machine.map(WINDOW, 0x30_0000, P | W | U);
    // inc rax; int3
    machine.write(0x30_0000, b"\x48\xff\xc0\xcc");
    // push 0x2b; push rsp; pushfq; push 0x33; push rcx; iretq
    let mut state = machine.start(b"\x6a\x2b\x54\x9c\x6a\x33\x51\x48\xcf");
    state.gprs[gpr::RCX] = WINDOW;
    machine.vcpus[0].set_state(&state).unwrap();
    probe(&mut machine, &heard, &[WINDOW, DRIVER + 6]);
    assert!(matches!(machine.run(0), Met::Vector(3, ..)));
    assert_eq!(heard.take(), [(DRIVER + 6, 0, 0)]);
}

#[test]
fn code_that_the_guest_changes_keeps_its_probe() {
    let mut machine = Machine::new(1);
    let heard = Arc::new(Heard::default());
    start(&mut machine, LOOP);
    probe(&mut machine, &heard, &[SECOND]);
    assert_eq!(machine.run(0), Met::Out(20));
    heard.take();
    // Its second INC becomes a DEC of RAX, and an INC of RAX again for the register to be the same.
    machine.write(SECOND, b"\x48\xff\xc8");
    let state = machine.start(
        &[
            LOOP[..10].to_vec(),
            b"\x48\xff\xc8".to_vec(),
            LOOP[13..].to_vec(),
        ]
        .concat(),
    );
    machine.vcpus[0].set_state(&state).unwrap();
    assert_eq!(machine.run(0), Met::Out(0));
    assert_eq!(heard.take().len(), 10);
}

/// Two vCPUs run the same code while a third party puts probes there and takes them away: each hears of its own passes, and
/// nothing is done twice or left out.
#[test]
fn probes_come_and_go_while_others_run() {
    let mut machine = Machine::new(2);
    let heard = Arc::new(Heard::default());
    // l: inc rax; inc rax; dec rcx; jnz l; out 0x80, eax; hlt
    let code = &LOOP[7..];
    let mut state = machine.start(code);
    state.gprs[gpr::RCX] = 3_000_000;
    for vcpu in &mut machine.vcpus {
        vcpu.set_state(&state).unwrap();
    }
    let mut second = machine.vcpus.pop().unwrap();
    std::thread::scope(|scope| {
        let running = scope.spawn(move || second.run(vcpu::Reply::Done).unwrap());
        for turn in 0..200 {
            let addresses: &[u64] = if turn % 2 == 0 { &[DRIVER] } else { &[] };
            probe(&mut machine, &heard, addresses);
        }
        probe(&mut machine, &heard, &[]);
        heard.take();
        probe(&mut machine, &heard, &[DRIVER]);
        let mut short = state.clone();
        short.gprs[gpr::RCX] = 1000;
        machine.vcpus[0].set_state(&short).unwrap();
        assert_eq!(machine.run(0), Met::Out(2000));
        let exit = running.join().unwrap();
        assert!(
            matches!(
                exit,
                vcpu::Exit::PioWrite {
                    value: 6_000_000,
                    ..
                }
            ),
            "{exit:?}"
        );
    });
    let own = heard.take().iter().filter(|pass| pass.2 == 0).count();
    assert_eq!(own, 1000);
}
