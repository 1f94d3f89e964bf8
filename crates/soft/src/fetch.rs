//! What the processor does before it executes by hand: it fetches the bytes at RIP and decodes them.

use iced_x86::{Decoder, Instruction};
use x86::paging::{Access, Walk};
use x86::{Exception, Gpa, Gva, PAGE_SIZE};

use crate::block::seg;
use crate::cpu::{GP0, SoftVcpu, Stop};
use crate::decoded::{Decoded, MAX_INSTRUCTION_BYTES, Place};
use crate::translate::DECODER_OPTIONS;

impl SoftVcpu {
    /// The instruction at RIP, which translated code has left at `place`.
    pub(crate) fn decoded_at(&mut self, place: Place) -> Result<Decoded, Stop> {
        let generation = self.generation;
        if let Some(decoded) = self.decoded.get(place, generation) {
            return Ok(decoded);
        }
        let decoded = self.decode_and_judge()?;
        self.decoded.add(place, generation, decoded);
        Ok(decoded)
    }

    /// The instruction at RIP, and what is to be done with it.
    pub(crate) fn decode_and_judge(&mut self) -> Result<Decoded, Stop> {
        let mut bytes = [0; MAX_INSTRUCTION_BYTES];
        let instruction = self.decode_here(&mut bytes)?;
        Ok(self.judge(instruction, bytes))
    }

    /// Decodes the instruction at RIP. A page fault counts only if the instruction really reaches into that page.
    pub(crate) fn decode_here(
        &mut self,
        bytes: &mut [u8; MAX_INSTRUCTION_BYTES],
    ) -> Result<Instruction, Stop> {
        let rip = self.block.rip;
        let linear = self.code_linear(rip);
        let first = MAX_INSTRUCTION_BYTES.min((PAGE_SIZE - linear % PAGE_SIZE) as usize);
        let gpa = self.fetch_address(rip)?;
        if self.memory.read(gpa, &mut bytes[..first]).is_err() {
            return Err(Exception::InvalidOpcode.into());
        }
        let bitness = self.mode.bitness();
        let decode = |bytes: &[u8]| {
            let mut decoder = Decoder::with_ip(bitness, bytes, rip, DECODER_OPTIONS);
            let instruction = decoder.decode();
            (
                instruction,
                decoder.last_error() == iced_x86::DecoderError::NoMoreBytes,
            )
        };
        let (instruction, is_cut_off) = decode(&bytes[..first]);
        if !is_cut_off || first == MAX_INSTRUCTION_BYTES {
            return if is_cut_off {
                Err(GP0.into())
            } else {
                Ok(instruction)
            };
        }
        let gpa = self.fetch_address(rip.wrapping_add(first as u64))?;
        if self.memory.read(gpa, &mut bytes[first..]).is_err() {
            return Err(Exception::InvalidOpcode.into());
        }
        Ok(decode(bytes).0)
    }

    /// Physical address to fetch from, with the checks of an instruction fetch.
    fn fetch_address(&mut self, rip: u64) -> Result<Gpa, Stop> {
        Ok(self.fetch_walk(rip)?.gpa)
    }

    /// Where the page tables lead that lie before an instruction fetch.
    pub(crate) fn fetch_walk(&mut self, rip: u64) -> Result<Walk, Stop> {
        let linear = Gva(self.code_linear(rip));
        if self.is_64_bit() {
            if !linear.is_canonical() {
                return Err(GP0.into());
            }
        } else if rip > u64::from(self.segments[seg::CS].limit) {
            return Err(GP0.into());
        }
        let access = Access {
            fetch: true,
            ..self.access(false)
        };
        Ok(self.walk(linear, access)?)
    }
}
