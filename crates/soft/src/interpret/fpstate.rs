//! The FP state in the vCPU block, and the instructions that move it as a whole: FXSAVE, the XSAVE family, FNSAVE,
//! FNSTENV and their reverses (APM vol. 2, 11.4 and 11.5; vol. 1, 6.2).
//!
//! While Rust runs, the guest's FP state lies in the block as a standard-format XSAVE area. A clear XSTATE_BV bit
//! means that the component is in its initial state and its bytes are not valid.
//!
//! The last-instruction pointers of x87 hold host addresses after a copied instruction. They are translated back
//! to guest addresses before a guest can see them; a data pointer has no way back and reads as zero.

use iced_x86::{Instruction, Mnemonic};
use vcpu::XSAVE_BYTES;
use x86::{Cr0, Cr4, Exception, cpu_model};

use crate::cpu::{GP0, SoftVcpu, Step};
use crate::translate::fp_level;

const X87: u64 = 1;
const SSE: u64 = 2;
const AVX: u64 = 4;
/// Components as (bit, first byte, length) outside the legacy area.
const AVX_AREA: (usize, usize) = (576, 256);
const HEADER: usize = 512;
const MXCSR: usize = 24;
const XMM: usize = 160;
const MXCSR_DEFAULT: u32 = 0x1f80;

/// Which form of XSAVE.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SaveKind {
    Plain,
    Optimized,
    Compacted,
}

impl SoftVcpu {
    fn xstate_bv(&self) -> u64 {
        let bytes = self.block.xsave.0[HEADER..HEADER + 8]
            .try_into()
            .expect("eight bytes");
        u64::from_le_bytes(bytes)
    }

    fn set_xstate_bv(&mut self, value: u64) {
        self.block.xsave.0[HEADER..HEADER + 8].copy_from_slice(&value.to_le_bytes());
    }

    /// Makes the bytes of components valid, and the components in use.
    pub(crate) fn materialize(&mut self, components: u64) {
        let missing = components & !self.xstate_bv();
        let area = &mut self.block.xsave.0;
        if missing & X87 != 0 {
            area[..MXCSR].fill(0);
            area[0..2].copy_from_slice(&0x37f_u16.to_le_bytes());
            area[32..XMM].fill(0);
        }
        if missing & SSE != 0 {
            area[XMM..XMM + 256].fill(0);
        }
        if missing & AVX != 0 {
            area[AVX_AREA.0..AVX_AREA.0 + AVX_AREA.1].fill(0);
        }
        let in_use = self.xstate_bv() | components;
        self.set_xstate_bv(in_use);
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.block.xsave.0[at], self.block.xsave.0[at + 1]])
    }

    fn set_word(&mut self, at: usize, value: u16) {
        self.block.xsave.0[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn mxcsr(&self) -> u32 {
        u32::from_le_bytes(
            self.block.xsave.0[MXCSR..MXCSR + 4]
                .try_into()
                .expect("four bytes"),
        )
    }

    /// Whether the instruction may use FP state now; the fault if not.
    pub(crate) fn check_fp(&self, instruction: &Instruction) -> Result<(), Exception> {
        let level = fp_level(instruction);
        let is_wait = instruction.mnemonic() == Mnemonic::Wait;
        let is_mmx =
            level == 1 && (0..instruction.op_count()).any(|op| instruction.op_register(op).is_mm());
        if self.cr0.contains(Cr0::EM) && (level == 2 || is_mmx) {
            return Err(Exception::InvalidOpcode);
        }
        let traps = if is_wait {
            self.cr0.contains(Cr0::TS | Cr0::MP)
        } else if level >= 3 {
            self.cr0.contains(Cr0::TS)
        } else {
            self.cr0.contains(Cr0::TS) || self.cr0.contains(Cr0::EM)
        };
        if traps {
            Err(Exception::DeviceNotAvailable)
        } else {
            Ok(())
        }
    }

    /// Marks SSE as in use if MXCSR is not at its default: readers of the area may go by XSTATE_BV alone.
    pub(crate) fn keep_mxcsr(&mut self) {
        if self.mxcsr() != MXCSR_DEFAULT {
            self.materialize(SSE);
        }
    }

    /// Whether an unmasked x87 exception waits for the next waiting instruction.
    pub(crate) fn has_pending_x87_fault(&self) -> bool {
        self.xstate_bv() & X87 != 0 && self.word(2) & 0x80 != 0
    }

    /// The fault of a waiting x87 or MMX instruction while an unmasked x87 exception is pending: it comes before any
    /// fault of the operand.
    pub(crate) fn check_pending_x87(&self, instruction: &Instruction) -> Result<(), Exception> {
        use Mnemonic as M;
        if !self.has_pending_x87_fault() {
            return Ok(());
        }
        let is_no_wait = matches!(
            instruction.mnemonic(),
            M::Fnstcw | M::Fnstsw | M::Fninit | M::Fnclex | M::Fnstenv | M::Fnsave
        );
        let is_mmx = (0..instruction.op_count()).any(|op| instruction.op_register(op).is_mm());
        let is_x87 = fp_level(instruction) == 1;
        if is_no_wait || !(is_x87 || is_mmx) {
            return Ok(());
        }
        self.check_fp(instruction)?;
        Err(Exception::X87Fault)
    }

    /// Brings x87 words that came from guest memory into the form that the silicon keeps them in.
    fn normalize_x87(&mut self) {
        let control = self.word(0) & 0x1f3f | 0x40;
        let status = self.word(2);
        let pending = status & !control & 0x3f != 0;
        self.set_word(0, control);
        self.set_word(
            2,
            if pending {
                status | 0x8080
            } else {
                status & !0x8080
            },
        );
        let opcode = self.word(6) & 0x7ff;
        self.set_word(6, opcode);
        self.block.xsave.0[5] = 0;
        for register in 0..8 {
            self.block.xsave.0[42 + register * 16..48 + register * 16].fill(0);
        }
    }

    /// Bytes of an XSAVE area for `components`.
    pub(crate) fn xsave_size(&self, components: u64) -> u64 {
        // With x87, SSE and AVX alone the compacted form is as long as the standard one.
        if components & AVX != 0 { 832 } else { 576 }
    }

    /// Replaces host addresses in the x87 instruction pointers by what a guest may see.
    pub(crate) fn clean_fp_pointers(&mut self) {
        let area = &self.block.xsave.0;
        let fip = u64::from_le_bytes(area[8..16].try_into().expect("eight bytes"));
        if fip == 0 {
            return;
        }
        if let Some(site) = self.soft.sites.at(fip, self.soft.stubs().cache) {
            self.block.xsave.0[8..16].copy_from_slice(&site.rip.to_le_bytes());
            self.block.xsave.0[16..24].fill(0);
        }
    }

    /// FXSAVE, FXRSTOR, XSAVE and its kin, FNSAVE and its kin. True if the instruction was one.
    pub(crate) fn move_fp_state(&mut self, instruction: &Instruction) -> Step<bool> {
        use Mnemonic as M;
        match instruction.mnemonic() {
            M::Fxsave | M::Fxsave64 => self.fxsave(instruction)?,
            M::Fxrstor | M::Fxrstor64 => self.fxrstor(instruction)?,
            M::Xsave | M::Xsave64 => self.xsave(instruction, SaveKind::Plain)?,
            M::Xsaveopt | M::Xsaveopt64 => self.xsave(instruction, SaveKind::Optimized)?,
            M::Xsavec | M::Xsavec64 => self.xsave(instruction, SaveKind::Compacted)?,
            M::Xrstor | M::Xrstor64 => self.xrstor(instruction)?,
            M::Xgetbv => self.xgetbv()?,
            M::Xsetbv => self.xsetbv()?,
            M::Fnstenv | M::Fstenv => self.fnstenv(instruction)?,
            M::Fldenv => self.fldenv(instruction)?,
            M::Fnsave | M::Fsave => self.fnsave(instruction)?,
            M::Frstor => self.frstor(instruction)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn require_fp(&self) -> Step {
        if self.cr0.intersects(Cr0::TS | Cr0::EM) {
            return Err(Exception::DeviceNotAvailable.into());
        }
        Ok(())
    }

    fn require_xsave(&self) -> Step {
        if !self.cr4.contains(Cr4::OSXSAVE) {
            return Err(Exception::InvalidOpcode.into());
        }
        if self.cr0.contains(Cr0::TS) {
            return Err(Exception::DeviceNotAvailable.into());
        }
        Ok(())
    }

    /// Linear address of an area, aligned, with every page of it checked for the access.
    fn area(
        &mut self,
        instruction: &Instruction,
        len: usize,
        alignment: u64,
        write: bool,
    ) -> Step<u64> {
        if !self.unchecked_linear(instruction).is_multiple_of(alignment) {
            return Err(GP0.into());
        }
        let linear = self.operand_linear(instruction, len as u64, write)?;
        self.pieces(linear, len, self.access(write))?;
        Ok(linear)
    }

    fn fxsave(&mut self, instruction: &Instruction) -> Step {
        self.require_fp()?;
        let linear = self.area(instruction, 512, 16, true)?;
        self.clean_fp_pointers();
        self.materialize(X87 | SSE);
        let mut image = [0; 416];
        image.copy_from_slice(&self.block.xsave.0[..416]);
        image[28..32].copy_from_slice(&0x2_ffff_u32.to_le_bytes());
        let len = if self.cr4.contains(Cr4::OSFXSR) {
            XMM + self.vectors_bytes()
        } else {
            XMM
        };
        self.write_bytes(linear, &image[..len], self.access(true))
    }

    fn fxrstor(&mut self, instruction: &Instruction) -> Step {
        self.require_fp()?;
        let linear = self.area(instruction, 512, 16, false)?;
        let mut image = [0; 416];
        self.read_bytes(linear, &mut image, self.access(false))?;
        let with_sse = self.cr4.contains(Cr4::OSFXSR);
        if with_sse && is_bad_mxcsr(&image) {
            return Err(GP0.into());
        }
        self.materialize(X87 | SSE);
        let vectors = self.vectors_bytes();
        let area = &mut self.block.xsave.0;
        area[..24].copy_from_slice(&image[..24]);
        area[32..160].copy_from_slice(&image[32..160]);
        if with_sse {
            area[24..28].copy_from_slice(&image[24..28]);
            area[XMM..XMM + vectors].copy_from_slice(&image[XMM..XMM + vectors]);
        }
        self.normalize_x87();
        Ok(())
    }

    fn requested(&self) -> u64 {
        (self.block.gprs[2] << 32 | self.block.gprs[0] & 0xffff_ffff) & self.xcr0
    }

    fn xsave(&mut self, instruction: &Instruction, kind: SaveKind) -> Step {
        self.require_xsave()?;
        let requested = self.requested();
        let len = self.xsave_size(requested) as usize;
        let linear = self.area(instruction, len, 64, true)?;
        self.clean_fp_pointers();
        let mut in_use = self.xstate_bv();
        if kind == SaveKind::Compacted && self.mxcsr() != MXCSR_DEFAULT {
            in_use |= SSE;
        }
        self.materialize(X87 | SSE | AVX);
        let access = self.access(true);
        let vectors = self.vectors_bytes();
        let image = self.block.xsave.0;
        self.set_xstate_bv(in_use);
        let stored = if kind == SaveKind::Plain {
            requested
        } else {
            requested & in_use
        };
        if stored & X87 != 0 {
            self.write_bytes(linear, &image[..24], access)?;
            self.write_bytes(linear.wrapping_add(32), &image[32..160], access)?;
        }
        if stored & SSE != 0 {
            self.write_bytes(
                linear.wrapping_add(XMM as u64),
                &image[XMM..XMM + vectors],
                access,
            )?;
        }
        let stores_mxcsr = match kind {
            SaveKind::Compacted => stored & SSE != 0,
            _ => requested & (SSE | AVX) != 0,
        };
        if stores_mxcsr {
            let mut both = [0; 8];
            both[..4].copy_from_slice(&image[24..28]);
            both[4..].copy_from_slice(&0x2_ffff_u32.to_le_bytes());
            self.write_bytes(linear.wrapping_add(24), &both, access)?;
        }
        if stored & AVX != 0 {
            let start = AVX_AREA.0;
            self.write_bytes(
                linear.wrapping_add(start as u64),
                &image[start..start + vectors],
                access,
            )?;
        }
        let header = linear.wrapping_add(HEADER as u64);
        if kind == SaveKind::Compacted {
            let mut words = [0; 16];
            words[..8].copy_from_slice(&(requested & in_use).to_le_bytes());
            words[8..].copy_from_slice(&(requested | 1 << 63).to_le_bytes());
            return self.write_bytes(header, &words, access);
        }
        let old = self.read_linear(header, 8, self.access(false))?;
        self.write_linear(header, 8, old & !requested | in_use & requested, access)
    }

    fn xrstor(&mut self, instruction: &Instruction) -> Step {
        self.require_xsave()?;
        let requested = self.requested();
        let linear = self.area(instruction, 576, 64, false)?;
        let access = self.access(false);
        let mut image = [0; XSAVE_BYTES];
        self.read_bytes(linear, &mut image[..576], access)?;
        let (xstate_bv, is_compacted) = self.judge_header(&image)?;
        let loaded = requested & xstate_bv;
        let loads_mxcsr = if is_compacted {
            loaded & SSE != 0
        } else {
            requested & (SSE | AVX) != 0
        };
        if loads_mxcsr && is_bad_mxcsr(&image) {
            return Err(GP0.into());
        }
        if loaded & AVX != 0 {
            let (start, len) = AVX_AREA;
            self.read_bytes(
                linear.wrapping_add(start as u64),
                &mut image[start..start + len],
                access,
            )?;
        }
        let mut kept = self.xstate_bv() & !requested;
        let vectors = self.vectors_bytes();
        if !self.is_64_bit() {
            // Outside 64-bit mode there are eight vector registers; the others keep what they have.
            self.materialize(requested & (SSE | AVX));
            self.clear_low_vectors(requested & !loaded);
            kept |= requested & (SSE | AVX);
        }
        let area = &mut self.block.xsave.0;
        if loaded & X87 != 0 {
            area[..24].copy_from_slice(&image[..24]);
            area[32..160].copy_from_slice(&image[32..160]);
        }
        if loaded & SSE != 0 {
            area[XMM..XMM + vectors].copy_from_slice(&image[XMM..XMM + vectors]);
        }
        if loads_mxcsr {
            area[24..28].copy_from_slice(&image[24..28]);
        } else if is_compacted && requested & SSE != 0 {
            area[24..28].copy_from_slice(&MXCSR_DEFAULT.to_le_bytes());
        }
        if loaded & AVX != 0 {
            let start = AVX_AREA.0;
            area[start..start + vectors].copy_from_slice(&image[start..start + vectors]);
        }
        self.set_xstate_bv(kept | loaded);
        if loaded & X87 != 0 {
            self.normalize_x87();
        }
        Ok(())
    }

    /// The header of an XSAVE area to be loaded: the components in it, and whether it is of the compacted form.
    fn judge_header(&self, image: &[u8; XSAVE_BYTES]) -> Step<(u64, bool)> {
        let word =
            |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().expect("eight bytes"));
        let xstate_bv = word(HEADER);
        let xcomp_bv = word(HEADER + 8);
        let is_compacted = xcomp_bv >> 63 != 0;
        let is_zero = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0);
        let is_bad = if is_compacted {
            xcomp_bv & !(1 << 63) & !self.xcr0 != 0
                || xstate_bv & !xcomp_bv != 0
                || !is_zero(&image[HEADER + 16..HEADER + 64])
        } else {
            // The standard form looks at the first 24 bytes of the header only.
            xstate_bv & !self.xcr0 != 0
                || xcomp_bv != 0
                || !is_zero(&image[HEADER + 16..HEADER + 24])
        };
        if is_bad {
            return Err(GP0.into());
        }
        Ok((xstate_bv, is_compacted))
    }

    /// Bytes of the vector registers that state saves move: sixteen registers in 64-bit mode, eight elsewhere.
    fn vectors_bytes(&self) -> usize {
        if self.is_64_bit() { 256 } else { 128 }
    }

    /// Initializes the first eight registers of these components.
    fn clear_low_vectors(&mut self, components: u64) {
        if components & SSE != 0 {
            self.block.xsave.0[XMM..XMM + 128].fill(0);
        }
        if components & AVX != 0 {
            self.block.xsave.0[AVX_AREA.0..AVX_AREA.0 + 128].fill(0);
        }
    }

    fn xgetbv(&mut self) -> Step {
        if !self.cr4.contains(Cr4::OSXSAVE) {
            return Err(Exception::InvalidOpcode.into());
        }
        let value = match self.block.gprs[1] as u32 {
            0 => self.xcr0,
            1 => self.xcr0 & self.xstate_bv(),
            _ => return Err(GP0.into()),
        };
        self.block.gprs[0] = value & 0xffff_ffff;
        self.block.gprs[2] = value >> 32;
        Ok(())
    }

    fn xsetbv(&mut self) -> Step {
        if !self.cr4.contains(Cr4::OSXSAVE) {
            return Err(Exception::InvalidOpcode.into());
        }
        self.require_ring_0()?;
        let value = self.block.gprs[2] << 32 | self.block.gprs[0] & 0xffff_ffff;
        let offered = self.cpuid.get(0xd, 0)[0];
        let allowed = u64::from(offered) & cpu_model::XCR0_MASK;
        let is_bad = self.block.gprs[1] as u32 != 0
            || value & !allowed != 0
            || value & X87 == 0
            || value & AVX != 0 && value & SSE == 0;
        if is_bad {
            return Err(GP0.into());
        }
        self.xcr0 = value;
        self.update_context();
        Ok(())
    }

    /// The x87 environment as FNSTENV writes it: 28 bytes, or 14 with a 16-bit operand size.
    fn environment(&mut self, is_16_bit: bool) -> ([u8; 28], usize) {
        self.clean_fp_pointers();
        self.materialize(X87);
        let control = self.word(0);
        let status = self.word(2);
        let tags = self.full_tags();
        let opcode = self.word(6);
        let fip = self.word(8);
        let fdp = self.word(16);
        let wide = |at: usize| {
            u32::from_le_bytes(
                self.block.xsave.0[at..at + 4]
                    .try_into()
                    .expect("four bytes"),
            )
        };
        let mut bytes = [0; 28];
        if is_16_bit {
            for (index, word) in [control, status, tags, fip, 0, fdp, 0]
                .into_iter()
                .enumerate()
            {
                bytes[index * 2..index * 2 + 2].copy_from_slice(&word.to_le_bytes());
            }
            return (bytes, 14);
        }
        let filled = |word: u16| 0xffff_0000 | u32::from(word);
        let words = [
            filled(control),
            filled(status),
            filled(tags),
            wide(8),
            u32::from(opcode & 0x7ff) << 16,
            wide(16),
            0xffff_0000,
        ];
        for (index, word) in words.into_iter().enumerate() {
            bytes[index * 4..index * 4 + 4].copy_from_slice(&word.to_le_bytes());
        }
        (bytes, 28)
    }

    /// The two-bit tags of FNSTENV from the one-bit tags that FXSAVE keeps.
    fn full_tags(&self) -> u16 {
        let abridged = self.block.xsave.0[4];
        let top = self.word(2) >> 11 & 7;
        (0..8).fold(0, |tags, physical| {
            let tag = if abridged & 1 << physical == 0 {
                3
            } else {
                let stack_index = usize::from((physical as u16).wrapping_sub(top) & 7);
                let at = 32 + stack_index * 16;
                tag_of(&self.block.xsave.0[at..at + 10])
            };
            tags | tag << (2 * physical)
        })
    }

    fn is_16_bit_form(instruction: &Instruction) -> bool {
        use iced_x86::Code as C;
        matches!(
            instruction.code(),
            C::Fnstenv_m14byte
                | C::Fstenv_m14byte
                | C::Fldenv_m14byte
                | C::Fnsave_m94byte
                | C::Fsave_m94byte
                | C::Frstor_m94byte
        )
    }

    fn fnstenv(&mut self, instruction: &Instruction) -> Step {
        self.require_fp()?;
        let (bytes, len) = self.environment(SoftVcpu::is_16_bit_form(instruction));
        let linear = self.operand_linear(instruction, len as u64, true)?;
        self.write_bytes(linear, &bytes[..len], self.access(true))?;
        // Every exception is masked now, so none is pending.
        let control = self.word(0) | 0x3f;
        let status = self.word(2) & !0x8080;
        self.set_word(0, control);
        self.set_word(2, status);
        Ok(())
    }

    fn load_environment(&mut self, bytes: &[u8]) {
        self.materialize(X87);
        let is_16_bit = bytes.len() == 14;
        let stride = if is_16_bit { 2 } else { 4 };
        let field = |n: usize| u16::from_le_bytes([bytes[n * stride], bytes[n * stride + 1]]);
        let tags = field(2);
        let abridged = (0..8).fold(0, |all, n| {
            if tags >> (2 * n) & 3 == 3 {
                all
            } else {
                all | 1 << n
            }
        });
        let control = field(0);
        let status = field(1);
        let pending = status & !control & 0x3f != 0;
        let status = if pending {
            status | 0x8080
        } else {
            status & !0x8080
        };
        self.set_top(usize::from(status >> 11 & 7));
        self.set_word(0, control & 0x1f3f | 0x40);
        self.set_word(2, status);
        let area = &mut self.block.xsave.0;
        area[4] = abridged;
        area[6..24].fill(0);
        if !is_16_bit {
            area[6..8].copy_from_slice(&[bytes[18], bytes[19] & 7]);
            area[8..12].copy_from_slice(&bytes[12..16]);
            area[16..20].copy_from_slice(&bytes[20..24]);
        }
    }

    fn fldenv(&mut self, instruction: &Instruction) -> Step {
        self.require_fp()?;
        self.check_pending_x87(instruction)?;
        let len = if SoftVcpu::is_16_bit_form(instruction) {
            14
        } else {
            28
        };
        let linear = self.operand_linear(instruction, len as u64, false)?;
        let mut bytes = [0; 28];
        self.read_bytes(linear, &mut bytes[..len], self.access(false))?;
        self.load_environment(&bytes[..len]);
        Ok(())
    }

    fn fnsave(&mut self, instruction: &Instruction) -> Step {
        self.require_fp()?;
        let (environment, len) = self.environment(SoftVcpu::is_16_bit_form(instruction));
        let mut bytes = [0; 108];
        bytes[..len].copy_from_slice(&environment[..len]);
        for n in 0..8 {
            let from = 32 + n * 16;
            bytes[len + n * 10..len + n * 10 + 10]
                .copy_from_slice(&self.block.xsave.0[from..from + 10]);
        }
        let linear = self.operand_linear(instruction, len as u64 + 80, true)?;
        self.write_bytes(linear, &bytes[..len + 80], self.access(true))?;
        // FNINIT: the whole component is initial again, except that register contents stay.
        self.set_top(0);
        self.set_word(0, 0x37f);
        self.block.xsave.0[2..24].fill(0);
        Ok(())
    }

    fn frstor(&mut self, instruction: &Instruction) -> Step {
        self.require_fp()?;
        self.check_pending_x87(instruction)?;
        let len = if SoftVcpu::is_16_bit_form(instruction) {
            14
        } else {
            28
        };
        let linear = self.operand_linear(instruction, len as u64 + 80, false)?;
        let mut bytes = [0; 108];
        self.read_bytes(linear, &mut bytes[..len + 80], self.access(false))?;
        self.load_environment(&bytes[..len]);
        for n in 0..8 {
            let at = 32 + n * 16;
            self.block.xsave.0[at..at + 10]
                .copy_from_slice(&bytes[len + n * 10..len + n * 10 + 10]);
            self.block.xsave.0[at + 10..at + 16].fill(0);
        }
        Ok(())
    }

    /// Moves the x87 top of stack. Registers stay where they are, but the area holds them in stack order.
    fn set_top(&mut self, top: usize) {
        let old = usize::from(self.word(2) >> 11 & 7);
        self.block.xsave.0[32..160].rotate_left(16 * (top.wrapping_sub(old) & 7));
        let status = self.word(2) & !0x3800 | (top as u16) << 11;
        self.set_word(2, status);
    }

    /// A vector register as 32 bytes.
    pub(crate) fn vector(&mut self, number: usize) -> [u8; 32] {
        self.materialize(SSE | AVX);
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&self.block.xsave.0[XMM + 16 * number..][..16]);
        bytes[16..].copy_from_slice(&self.block.xsave.0[AVX_AREA.0 + 16 * number..][..16]);
        bytes
    }

    /// Replaces a vector register; VEX instructions clear what they do not write, so all 32 bytes are given.
    pub(crate) fn set_vector(&mut self, number: usize, bytes: &[u8; 32]) {
        self.materialize(SSE | AVX);
        self.block.xsave.0[XMM + 16 * number..][..16].copy_from_slice(&bytes[..16]);
        self.block.xsave.0[AVX_AREA.0 + 16 * number..][..16].copy_from_slice(&bytes[16..]);
    }

    /// An MMX register; reading one makes the x87 stack an MMX register file, as every MMX instruction does.
    pub(crate) fn mmx(&mut self, number: usize) -> u64 {
        self.materialize(X87);
        self.set_top(0);
        self.block.xsave.0[4] = 0xff;
        let at = 32 + 16 * number;
        u64::from_le_bytes(
            self.block.xsave.0[at..at + 8]
                .try_into()
                .expect("eight bytes"),
        )
    }
}

fn is_bad_mxcsr(image: &[u8]) -> bool {
    let mxcsr = u32::from_le_bytes([image[24], image[25], image[26], image[27]]);
    mxcsr & !0xffff != 0 && mxcsr & !0x2_ffff != 0
}

/// Valid, zero or special, from an 80-bit value.
fn tag_of(value: &[u8]) -> u16 {
    let exponent = u16::from_le_bytes([value[8], value[9]]) & 0x7fff;
    let has_integer_bit = value[7] & 0x80 != 0;
    let is_zero_fraction = value[..8].iter().all(|&byte| byte == 0);
    match exponent {
        0 if is_zero_fraction => 1,
        0 | 0x7fff => 2,
        _ if has_integer_bit => 0,
        _ => 2,
    }
}
