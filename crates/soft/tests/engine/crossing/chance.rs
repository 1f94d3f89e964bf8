//! Programs and handlers of chance, which come to the same as by the interpreter.

use super::*;

/// Numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % end
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    /// Bits of RFLAGS; TF is rare.
    fn flags(&mut self) -> u32 {
        let usual = 0x24_4cd5 & (self.below(1 << 32) as u32);
        usual | if self.below(30) == 0 { 0x100 } else { 0 }
    }

    /// `code` in a round that is not the first.
    fn later(&mut self, code: &[u8]) -> Vec<u8> {
        let round = self.one_of(&[1, 1, 2, 3]);
        in_round(round, code)
    }

    /// What both sides do: arithmetic on registers that mean nothing.
    fn arithmetic(&mut self) -> Vec<u8> {
        // RAX, RDX, RSI, RDI, R8, R9, R10, R13
        let registers = [0_u8, 2, 6, 7, 8, 9, 10, 13];
        let [to, from] = [self.one_of(&registers), self.one_of(&registers)];
        // add, or, adc, sbb, and, sub, xor, cmp, mov
        let opcode = self.one_of(&[0x01, 0x09, 0x11, 0x19, 0x21, 0x29, 0x31, 0x39, 0x89]);
        let rex = 0x48 | (from >> 3) << 2 | to >> 3;
        vec![rex, opcode, 0xc0 | (from & 7) << 3 | to & 7]
    }

    /// A load or store of RAX or RDX at [RBX] or [R12], aligned but for some.
    fn access(&mut self, kernel: bool) -> Vec<u8> {
        let offset = self.one_of(&[0, 8, 0x10, 0x78, 0x7c, 1]);
        let opcode = self.one_of(&[0x8b, 0x89]);
        let register = self.one_of(&[0_u8, 2]);
        if kernel {
            vec![0x49, opcode, 0x44 | register << 3, 0x24, offset]
        } else {
            vec![0x48, opcode, 0x43 | register << 3, offset]
        }
    }

    fn popf(&mut self) -> Vec<u8> {
        joined(&[b"\x68", &self.flags().to_le_bytes(), b"\x9d"])
    }

    fn of_program(&mut self) -> Vec<u8> {
        match self.below(14) {
            0..4 => self.arithmetic(),
            4..6 => self.access(false),
            6..9 => SYSCALL.to_vec(),
            9 => FLAGS.to_vec(),
            10 => self.popf(),
            11 => SELECTORS.to_vec(),
            // mov rsi, gs:[0x10]; std; stc
            12 => self
                .one_of(&[&b"\x65\x48\x8b\x34\x25\x10\0\0\0"[..], b"\xfd", b"\xf9"])
                .to_vec(),
            _ => {
                let access = self.access(true);
                let bad = self.one_of(&[&access[..], UD2, STAC, b"\xb8\0\0\x10\0\xff\xe0"]);
                self.later(bad)
            }
        }
    }

    fn of_handler(&mut self) -> Vec<u8> {
        match self.below(21) {
            0..4 => self.arithmetic(),
            4..6 => self.access(true),
            6..8 => joined(&[STAC, &self.access(false), CLAC]),
            8 => self.one_of(&[STAC, CLAC]).to_vec(),
            9 => on_stack(FLAGS),
            10 => on_stack(&self.popf()),
            11 => LOOK.to_vec(),
            12 => joined(&[SWAPGS, b"\x65\x48\x8b\x04\x25\x10\0\0\0", SWAPGS]),
            13 => {
                // xor r11d, FLAGS
                let flags = (self.flags() | (0x200 * self.below(2) as u32)).to_le_bytes();
                self.later(&joined(&[b"\x41\x81\xf3", &flags]))
            }
            14 => {
                let mask = MASK ^ u64::from(self.flags());
                self.later(&write_msr(0xc000_0084, mask))
            }
            15 => {
                let lstar = self.one_of(&[DRIVER, OTHER]);
                self.later(&write_msr(0xc000_0082, lstar))
            }
            16 => {
                let star = self.one_of(&[STAR, 0x60 << 32 | 0x40 << 48]);
                self.later(&write_msr(0xc000_0081, star))
            }
            17 => {
                let (on, off) = self.one_of(&[
                    (Cr4::SMAP, Cr4::empty()),
                    (Cr4::empty(), Cr4::SMAP),
                    (Cr4::TSD, Cr4::SMEP),
                ]);
                self.later(&change_cr4(on, off))
            }
            18 => self
                .one_of(&[&b"\x0f\x20\xd8\x0f\x22\xd8"[..], b"\x0f\x01\x3b"])
                .to_vec(),
            19 => self.later(&joined(&[&take_stack(), IRETQ])),
            _ => {
                let access = self.access(false);
                // No SYSRET to 32 bits, where a program of chance need not come to an end.
                let bad = self.one_of(&[&access[..], UD2, b"\xff\xe1", SWAPGS]);
                self.later(bad)
            }
        }
    }

    fn several(&mut self, one: fn(&mut Numbers) -> Vec<u8>) -> Vec<u8> {
        let count = 2 + self.below(6);
        (0..count).flat_map(|_| one(self)).collect()
    }
}

#[test]
fn programs_of_chance_come_to_the_same_as_by_the_interpreter() {
    let mut numbers = Numbers(0x5ca1_ab1e);
    let mut few = 0;
    let mut many = 0;
    let mut ends = 0;
    for number in 0..400 {
        let program = numbers.several(Numbers::of_program);
        let handler = numbers.several(Numbers::of_handler);
        let other = numbers.several(Numbers::of_handler);
        let other = joined(&[&other, SYSRET]);
        let checks = numbers.below(4) == 0;
        let case = Case {
            program: &[&program, SYSCALL],
            handler: &[&handler, SYSRET],
            other: &other,
            begin: &|state, _| state.cr0.set(Cr0::AM, checks),
        };
        let mut machine = case.machine(false);
        let mut careful = case.machine(true);
        let [seen, expected] = [&mut machine, &mut careful].map(|machine| {
            let met = machine.run(0);
            look(machine, met)
        });
        assert_eq!(
            seen, expected,
            "program {number}: {program:02x?}, handler {handler:02x?}, other {other:02x?}"
        );
        few += interpreted(&machine);
        many += interpreted(&careful);
        let end = Met::Vector(13, 0, case.place(At::Program(3)), 0);
        ends += u64::from(seen.met == end);
    }
    assert!(few < many, "{few} and {many} were interpreted");
    assert!(ends > 100, "{ends} programs came to their end");
}
