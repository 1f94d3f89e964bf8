//! A 16550A serial port (National Semiconductor PC16550D datasheet).
//!
//! The line out is infinitely fast: a byte written is sent at once, so the transmitter is always empty and its
//! interrupt comes back right after each write. That is so until the line's reader falls behind
//! ([`ConsoleOutput::slow_down`]). Then it is a line of 19200 baud for a driver that lets the transmitter interrupt: it sends
//! for programs, waits between interrupts and has its programs wait, as drivers are made to, and none of their patience
//! (Linux gives a closing terminal 30 s) runs out, as it would at a line that stands still. A kernel that prints what has gone
//! wrong polls, cannot sleep meanwhile, and is not slowed down. Nothing is dropped in either case.
//! Receiving goes at the guest's pace: the FIFO is filled from what
//! was typed when the guest has emptied it, and a guest that takes interrupts gets a moment in between. Without the
//! moment a driver would never leave its interrupt handler while there is input, and could not slow the sender down.
//!
//! Nothing typed is lost on the way into a driver: the terminal sends while the guest asserts RTS (hardware flow
//! control), or, if the guest never did, while it takes receive interrupts or has touched neither, as simple polling
//! guests. What a FIFO reset throws away is sent again. So text piped into a VM at its start waits until somebody
//! opens the console.
//!
//! rust-vmm's serial port was tried first: it cannot show the FIFO as off, combines interrupt causes into codes
//! that a 16550 does not have, and never lowers its line.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::bus::PioDevice;
use crate::clock::Nanos;
use crate::console::{ConsoleInput, ConsoleOutput};
use crate::irq::IrqLine;
use crate::saved::{Saved, Unfit, ensure};

/// Register offsets (PC16550D, table II).
const DATA: u16 = 0;
const IER: u16 = 1;
const IIR_FCR: u16 = 2;
const LCR: u16 = 3;
const MCR: u16 = 4;
const LSR: u16 = 5;
const MSR: u16 = 6;

/// Interrupt enable bits.
const IER_RECEIVED: u8 = 1;
const IER_TRANSMITTED: u8 = 2;
const IER_LINE: u8 = 4;
const IER_MODEM: u8 = 8;

/// Interrupt causes, most urgent first (PC16550D, table IV).
const IIR_LINE: u8 = 0x06;
const IIR_RECEIVED: u8 = 0x04;
const IIR_TIMEOUT: u8 = 0x0c;
const IIR_TRANSMITTED: u8 = 0x02;
const IIR_MODEM: u8 = 0x00;
const IIR_NONE: u8 = 0x01;
const IIR_FIFOS_ON: u8 = 0xc0;

const LCR_DLAB: u8 = 0x80;

const MCR_DTR: u8 = 1;
const MCR_RTS: u8 = 2;
const MCR_OUT1: u8 = 4;
/// On a PC this output lets the interrupt through.
const MCR_OUT2: u8 = 8;
const MCR_LOOP: u8 = 0x10;

const LSR_READY: u8 = 1;
const LSR_OVERRUN: u8 = 2;
const LSR_TRANSMITTER_EMPTY: u8 = 0x60;

const MSR_CTS: u8 = 0x10;
const MSR_DSR: u8 = 0x20;
const MSR_RI: u8 = 0x40;
const MSR_DCD: u8 = 0x80;

/// Bytes in the receive FIFO.
const FIFO_BYTES: usize = 16;
/// How long a guest that takes interrupts has for other work between two full FIFOs: about a megabaud.
const REFILL_AFTER_NS: u64 = 150_000;
/// How long a byte takes at 19200 baud, 8N1.
const SLOW_BYTE_NS: u64 = 520_833;
/// Output waits this long for the rest of its line.
const FLUSH_AFTER_NS: u64 = 2_000_000;

/// What a serial port counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SerialCounters {
    /// Bytes the guest sent.
    pub sent: u64,
    /// Bytes the guest read.
    pub received: u64,
}

/// The registers.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Registers {
    divisor: [u8; 2],
    ier: u8,
    lcr: u8,
    mcr: u8,
    scratch: u8,
    /// Delta bits of the modem status.
    msr_delta: u8,
    fifos_on: bool,
    /// Bytes at which the receiver interrupts.
    trigger: u8,
    received: VecDeque<u8>,
    overrun: bool,
    /// The transmitter became empty and nobody was told.
    transmitted: bool,
    /// The guest has written MCR or IER.
    is_set_up: bool,
    /// The guest has asserted RTS before: from then on it says with it whether it can take more.
    uses_rts: bool,
}

/// What a serial port is at a moment. What was typed and not taken yet, and what was sent and not handed on, are the
/// console's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialState {
    registers: Registers,
    now: Nanos,
    /// Not before this is the FIFO filled again.
    refill_at: Nanos,
    /// When output that waits is to be handed on.
    flush_at: Option<Nanos>,
}

/// The serial port.
pub struct Serial {
    state: SerialState,
    input: ConsoleInput,
    output: ConsoleOutput,
    line: IrqLine,
    /// The line's reader is behind. That is the host's affair and no state of the port.
    is_slow: bool,
    /// When a slow line has sent what it was given.
    sent_at: Nanos,
    counters: SerialCounters,
}

impl Saved for Serial {
    type State = SerialState;

    fn save(&self) -> SerialState {
        self.state.clone()
    }

    fn restore(&mut self, state: SerialState) -> Result<(), Unfit> {
        let fits = state.registers.received.len() <= FIFO_BYTES;
        ensure(fits, "serial port", "more bytes than its FIFO has")?;
        self.state = state;
        Ok(())
    }
}

impl Serial {
    /// A serial port after reset, at 9600 baud.
    pub fn new(input: ConsoleInput, output: ConsoleOutput, line: IrqLine) -> Serial {
        let registers = Registers {
            divisor: [12, 0],
            trigger: 1,
            ..Registers::default()
        };
        let state = SerialState {
            registers,
            now: Nanos(0),
            refill_at: Nanos(0),
            flush_at: None,
        };
        Serial {
            state,
            input,
            output,
            line,
            is_slow: false,
            sent_at: Nanos(0),
            counters: SerialCounters::default(),
        }
    }

    /// What was counted.
    pub fn counters(&self) -> SerialCounters {
        self.counters
    }

    /// Whether a driver that lets the transmitter interrupt has to wait for it.
    fn is_sending(&self) -> bool {
        let is_awaited = self.state.registers.ier & IER_TRANSMITTED != 0;
        let is_on_line = self.state.registers.mcr & MCR_LOOP == 0;
        self.is_slow && is_awaited && is_on_line && self.state.now < self.sent_at
    }

    fn capacity(&self) -> usize {
        if self.state.registers.fifos_on {
            FIFO_BYTES
        } else {
            1
        }
    }

    /// Whether the terminal may send. In loopback the wire is cut.
    fn is_listening(&self) -> bool {
        let Registers {
            mcr,
            ier,
            is_set_up,
            uses_rts,
            ..
        } = &self.state.registers;
        let takes = if *uses_rts {
            mcr & MCR_RTS != 0
        } else {
            ier & IER_RECEIVED != 0 || !is_set_up
        };
        mcr & MCR_LOOP == 0 && takes
    }

    /// Takes what was typed, as much as there is room for.
    fn receive(&mut self) {
        while self.state.registers.received.len() < self.capacity() && self.is_listening() {
            let Some(byte) = self.input.pop() else { break };
            self.state.registers.received.push_back(byte);
        }
    }

    /// Gives back what the guest did not read.
    fn send_back(&mut self) {
        self.input.unpop(self.state.registers.received.drain(..));
    }

    fn transmit(&mut self, byte: u8) {
        if self.state.registers.mcr & MCR_LOOP != 0 {
            if self.state.registers.received.len() < self.capacity() {
                self.state.registers.received.push_back(byte);
            } else {
                self.state.registers.overrun = true;
            }
        } else {
            self.counters.sent += 1;
            self.output.push(byte);
            if self.is_slow {
                self.sent_at = self.sent_at.max(self.state.now).after(SLOW_BYTE_NS);
            }
            self.state
                .flush_at
                .get_or_insert(self.state.now.after(FLUSH_AFTER_NS));
        }
        self.state.registers.transmitted = true;
    }

    /// The most urgent cause that is enabled.
    fn cause(&self) -> u8 {
        let Registers { ier, received, .. } = &self.state.registers;
        if ier & IER_LINE != 0 && self.state.registers.overrun {
            IIR_LINE
        } else if ier & IER_RECEIVED != 0
            && received.len() >= usize::from(self.state.registers.trigger)
        {
            IIR_RECEIVED
        } else if ier & IER_RECEIVED != 0 && !received.is_empty() {
            // Time since the last byte does not matter at infinite speed: the line is idle already.
            IIR_TIMEOUT
        } else if ier & IER_TRANSMITTED != 0
            && self.state.registers.transmitted
            && !self.is_sending()
        {
            IIR_TRANSMITTED
        } else if ier & IER_MODEM != 0 && self.state.registers.msr_delta != 0 {
            IIR_MODEM
        } else {
            IIR_NONE
        }
    }

    fn update_line(&self) {
        let is_connected = self.state.registers.mcr & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2;
        self.line.set(is_connected && self.cause() != IIR_NONE);
    }

    /// Modem inputs: a terminal that is always there, or in loopback the own outputs.
    fn modem_inputs(&self) -> u8 {
        let mcr = self.state.registers.mcr;
        if mcr & MCR_LOOP == 0 {
            return MSR_CTS | MSR_DSR | MSR_DCD;
        }
        let pairs = [
            (MCR_RTS, MSR_CTS),
            (MCR_DTR, MSR_DSR),
            (MCR_OUT1, MSR_RI),
            (MCR_OUT2, MSR_DCD),
        ];
        pairs
            .iter()
            .filter(|(output, _)| mcr & output != 0)
            .fold(0, |inputs, (_, input)| inputs | input)
    }

    fn read_register(&mut self, offset: u16) -> u8 {
        match offset {
            DATA | IER if self.state.registers.lcr & LCR_DLAB != 0 => {
                self.state.registers.divisor[usize::from(offset)]
            }
            DATA => {
                let byte = self.state.registers.received.pop_front();
                self.counters.received += u64::from(byte.is_some());
                // The next burst comes when this one is read: an interrupt per FIFO, not per byte.
                if self.state.registers.received.is_empty() {
                    if self.state.registers.ier & IER_RECEIVED != 0 {
                        self.state.refill_at = self.state.now.after(REFILL_AFTER_NS);
                    } else {
                        self.receive();
                    }
                }
                byte.unwrap_or(0)
            }
            IER => self.state.registers.ier,
            IIR_FCR => {
                let cause = self.cause();
                if cause == IIR_TRANSMITTED {
                    self.state.registers.transmitted = false;
                }
                cause
                    | if self.state.registers.fifos_on {
                        IIR_FIFOS_ON
                    } else {
                        0
                    }
            }
            LCR => self.state.registers.lcr,
            MCR => self.state.registers.mcr,
            LSR => {
                let ready = if self.state.registers.received.is_empty() {
                    0
                } else {
                    LSR_READY
                };
                let overrun = if std::mem::take(&mut self.state.registers.overrun) {
                    LSR_OVERRUN
                } else {
                    0
                };
                let empty = if self.is_sending() {
                    0
                } else {
                    LSR_TRANSMITTER_EMPTY
                };
                empty | ready | overrun
            }
            MSR => self.modem_inputs() | std::mem::take(&mut self.state.registers.msr_delta),
            _ => self.state.registers.scratch,
        }
    }

    fn write_register(&mut self, offset: u16, value: u8) {
        match offset {
            DATA | IER if self.state.registers.lcr & LCR_DLAB != 0 => {
                self.state.registers.divisor[usize::from(offset)] = value;
            }
            DATA => self.transmit(value),
            IER => {
                self.state.registers.is_set_up = true;
                let newly_on = value & !self.state.registers.ier;
                self.state.registers.ier = value & 0x0f;
                // Enabling the transmitter interrupt tells that it is empty; drivers test for that.
                if newly_on & IER_TRANSMITTED != 0 {
                    self.state.registers.transmitted = true;
                }
                self.update_listening();
            }
            IIR_FCR => self.write_fifo_control(value),
            LCR => self.state.registers.lcr = value,
            MCR => {
                self.state.registers.is_set_up = true;
                let before = self.modem_inputs();
                let was_loop = self.state.registers.mcr & MCR_LOOP != 0;
                self.state.registers.mcr = value & 0x1f;
                self.state.registers.uses_rts |= value & (MCR_LOOP | MCR_RTS) == MCR_RTS;
                let after = self.modem_inputs();
                let ring_ended = before & !after & MSR_RI;
                self.state.registers.msr_delta |= ((before ^ after) & !MSR_RI | ring_ended) >> 4;
                match (was_loop, value & MCR_LOOP != 0) {
                    (false, true) => self.send_back(),
                    (true, false) => self.state.registers.received.clear(),
                    _ => {}
                }
                self.update_listening();
            }
            LSR | MSR => {}
            _ => self.state.registers.scratch = value,
        }
    }

    fn update_listening(&mut self) {
        if self.is_listening() {
            self.receive();
        } else if self.state.registers.mcr & MCR_LOOP == 0 {
            self.send_back();
        }
    }

    fn write_fifo_control(&mut self, value: u8) {
        let fifos_on = value & 1 != 0;
        if fifos_on != self.state.registers.fifos_on || value & 2 != 0 {
            if self.state.registers.mcr & MCR_LOOP != 0 {
                self.state.registers.received.clear();
            }
            self.send_back();
        }
        self.state.registers.fifos_on = fifos_on;
        let triggers = [1, 4, 8, 14];
        self.state.registers.trigger = if fifos_on {
            triggers[usize::from(value >> 6)]
        } else {
            1
        };
        self.receive();
    }
}

impl PioDevice for Serial {
    fn read(&mut self, offset: u16, _size: u8) -> u32 {
        let value = self.read_register(offset);
        self.update_line();
        u32::from(value)
    }

    fn write(&mut self, offset: u16, _size: u8, value: u32) {
        self.write_register(offset, value as u8);
        self.update_line();
    }

    fn advance(&mut self, now: Nanos) {
        self.state.now = self.state.now.max(now);
        if self.state.flush_at.is_some_and(|at| at <= self.state.now) {
            self.state.flush_at = None;
            self.output.flush();
        }
        if self.state.registers.received.is_empty() && self.state.refill_at <= self.state.now {
            self.receive();
            self.update_line();
        }
        if self.is_slow || self.output.is_slow() {
            self.is_slow = self.output.is_slow();
            self.update_line();
        }
    }

    fn deadline(&self) -> Option<Nanos> {
        let waits = self.state.registers.received.is_empty()
            && self.is_listening()
            && !self.input.is_empty();
        let refill_at =
            (waits && self.state.refill_at > self.state.now).then_some(self.state.refill_at);
        let is_awaited = self.is_sending() && self.state.registers.transmitted;
        let sent_at = is_awaited.then_some(self.sent_at);
        let all = self.state.flush_at.into_iter().chain(refill_at);
        all.chain(sent_at).min()
    }
}

#[cfg(test)]
#[path = "serial_tests.rs"]
mod tests;
