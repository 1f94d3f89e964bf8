//! System instructions: control and debug registers, MSRs, CPUID, descriptor-table registers, TLB control, ports.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use vcpu::{Exit, gpr};
use x86::{Cr0, Cr4, DescriptorTable, Efer, Exception, Gva, Rflags, msr, paging};

use crate::block::seg;
use crate::cpu::{GP0, SoftVcpu, Step};

/// CR4 bits that the model knows.
const CR4_ALLOWED: Cr4 = Cr4::VME
    .union(Cr4::PVI)
    .union(Cr4::TSD)
    .union(Cr4::DE)
    .union(Cr4::PSE)
    .union(Cr4::PAE)
    .union(Cr4::MCE)
    .union(Cr4::PGE)
    .union(Cr4::PCE)
    .union(Cr4::OSFXSR)
    .union(Cr4::OSXMMEXCPT)
    .union(Cr4::UMIP)
    .union(Cr4::FSGSBASE)
    .union(Cr4::PCIDE)
    .union(Cr4::OSXSAVE)
    .union(Cr4::SMEP)
    .union(Cr4::SMAP);

/// EFER bits that the model knows.
const EFER_ALLOWED: Efer = Efer::SCE
    .union(Efer::LME)
    .union(Efer::LMA)
    .union(Efer::NXE)
    .union(Efer::FFXSR)
    .union(Efer::AIBRSE);

/// IA32_APIC_BASE: the local APIC is on.
const APIC_ENABLE: u64 = 1 << 11;

impl SoftVcpu {
    /// #GP(0) unless at CPL 0.
    pub(crate) fn require_ring_0(&self) -> Step {
        if self.cpl() != 0 || self.is_v86() {
            Err(GP0.into())
        } else {
            Ok(())
        }
    }

    pub(crate) fn move_control(&mut self, instruction: &Instruction) -> Step {
        self.require_ring_0()?;
        let size = if self.is_64_bit() { 8 } else { 4 };
        let target = instruction.op0_register();
        if target.is_cr() {
            let value = SoftVcpu::cut_to(self.register(instruction.op1_register()), size);
            return self.write_control(target, value);
        }
        let value = match instruction.op1_register() {
            Register::CR0 => self.cr0.bits(),
            Register::CR2 => self.cr2,
            Register::CR3 => self.cr3,
            Register::CR4 => self.cr4.bits(),
            Register::CR8 => self.ask(Exit::TaskPriorityRead)? & 0xf,
            _ => return Err(Exception::InvalidOpcode.into()),
        };
        self.set_gpr(target.full_register().number(), size, value);
        Ok(())
    }

    fn cut_to(value: u64, size: u8) -> u64 {
        if size == 8 {
            value
        } else {
            value & 0xffff_ffff
        }
    }

    fn write_control(&mut self, target: Register, value: u64) -> Step {
        match target {
            Register::CR0 => self.write_cr0(value),
            Register::CR2 => {
                self.cr2 = value;
                Ok(())
            }
            Register::CR3 => self.write_cr3(value),
            Register::CR4 => self.write_cr4(value),
            Register::CR8 if value <= 0xf => {
                self.ask(Exit::TaskPriorityWrite { value: value as u8 })?;
                Ok(())
            }
            Register::CR8 => Err(GP0.into()),
            _ => Err(Exception::InvalidOpcode.into()),
        }
    }

    pub(crate) fn write_cr0(&mut self, value: u64) -> Step {
        let new = Cr0::from_bits_truncate(value) | Cr0::ET;
        let is_impossible = value >> 32 != 0
            || new.contains(Cr0::PG) && !new.contains(Cr0::PE)
            || new.contains(Cr0::NW) && !new.contains(Cr0::CD);
        if is_impossible {
            return Err(GP0.into());
        }
        let old = self.cr0;
        let turns_paging_on = new.contains(Cr0::PG) && !old.contains(Cr0::PG);
        let turns_paging_off = !new.contains(Cr0::PG) && old.contains(Cr0::PG);
        if turns_paging_on && self.efer.contains(Efer::LME) {
            if !self.cr4.contains(Cr4::PAE) || self.segments[seg::CS].is_long() {
                return Err(GP0.into());
            }
            self.efer |= Efer::LMA;
        }
        if turns_paging_off {
            if self.is_64_bit() || self.cr4.contains(Cr4::PCIDE) {
                return Err(GP0.into());
            }
            self.efer -= Efer::LMA;
        }
        self.cr0 = new;
        if (old ^ new).intersects(Cr0::PG | Cr0::WP | Cr0::PE) {
            self.banks.flush_all();
        }
        self.update_context();
        Ok(())
    }

    pub(crate) fn write_cr3(&mut self, value: u64) -> Step {
        let has_pcid = self.cr4.contains(Cr4::PCIDE);
        let keeps_tlb = has_pcid && value >> 63 != 0;
        let value = if has_pcid { value & !(1 << 63) } else { value };
        if self.is_long_mode() && value >> paging::PHYSICAL_BITS != 0 {
            return Err(GP0.into());
        }
        self.cr3 = value;
        if !keeps_tlb {
            let pcid = self.pcid();
            self.banks.flush_local(pcid);
        }
        self.update_context();
        Ok(())
    }

    pub(crate) fn write_cr4(&mut self, value: u64) -> Step {
        let new = Cr4::from_bits_retain(value);
        let old = self.cr4;
        let turns_pcid_on = new.contains(Cr4::PCIDE) && !old.contains(Cr4::PCIDE);
        let is_impossible = !CR4_ALLOWED.contains(new)
            || self.is_long_mode() && !new.contains(Cr4::PAE)
            || turns_pcid_on && (!self.is_long_mode() || self.cr3 & 0xfff != 0);
        if is_impossible {
            return Err(GP0.into());
        }
        self.cr4 = new;
        let paging_bits = Cr4::PSE | Cr4::PAE | Cr4::PGE | Cr4::PCIDE | Cr4::SMEP | Cr4::SMAP;
        if (old ^ new).intersects(paging_bits) {
            self.banks.flush_all();
        }
        self.update_context();
        Ok(())
    }

    pub(crate) fn machine_status_word(&mut self, instruction: &Instruction) -> Step {
        if instruction.mnemonic() == Mnemonic::Lmsw {
            self.require_ring_0()?;
            let value = self.read_operand(instruction, 0, 2)?;
            // LMSW can set PE but not clear it.
            let new = self.cr0.bits() & !0xe | value & 0xf;
            return self.write_cr0(new);
        }
        self.require_no_umip()?;
        let value = self.cr0.bits();
        match instruction.op0_kind() {
            OpKind::Register => {
                self.set_register(instruction.op0_register(), value);
                Ok(())
            }
            _ => self.write_memory_operand(instruction, 2, value),
        }
    }

    /// UMIP keeps SGDT, SIDT, SLDT, STR and SMSW to CPL 0.
    pub(crate) fn require_no_umip(&self) -> Step {
        if self.cr4.contains(Cr4::UMIP) && self.cpl() > 0 {
            Err(GP0.into())
        } else {
            Ok(())
        }
    }

    pub(crate) fn move_debug(&mut self, instruction: &Instruction) -> Step {
        self.require_ring_0()?;
        let number = |register: Register| (register as u32 - Register::DR0 as u32) as usize;
        let target = instruction.op0_register();
        let (register, is_write) = if target.is_dr() {
            (number(target), true)
        } else {
            (number(instruction.op1_register()), false)
        };
        let register = match register {
            4 | 5 if self.cr4.contains(Cr4::DE) => return Err(Exception::InvalidOpcode.into()),
            4 => 6,
            5 => 7,
            8.. => return Err(Exception::InvalidOpcode.into()),
            register => register,
        };
        if self.debug.dr7 & 1 << 13 != 0 {
            return Err(Exception::Debug { dr6: 1 << 13 }.into());
        }
        if is_write {
            let value = self.register(instruction.op1_register());
            if register >= 6 && value >> 32 != 0 {
                return Err(GP0.into());
            }
            match register {
                6 => self.debug.dr6 = value & 0xe00f | 0xffff_0ff0,
                7 => self.debug.dr7 = value & 0xffff_2fff | 0x400,
                _ => self.debug.address[register] = value,
            }
            self.banks.flush_all();
            self.update_context();
        } else {
            let value = match register {
                6 => self.debug.dr6,
                7 => self.debug.dr7,
                _ => self.debug.address[register],
            };
            self.set_register(target, value);
        }
        Ok(())
    }

    /// SGDT, SIDT, LGDT, LIDT.
    pub(crate) fn descriptor_table(&mut self, instruction: &Instruction) -> Step {
        let base_size: u8 = if self.is_64_bit() { 8 } else { 4 };
        let is_load = matches!(instruction.mnemonic(), Mnemonic::Lgdt | Mnemonic::Lidt);
        let is_gdt = matches!(instruction.mnemonic(), Mnemonic::Lgdt | Mnemonic::Sgdt);
        let len = 2 + usize::from(base_size);
        if !is_load {
            self.require_no_umip()?;
            let table = if is_gdt { self.gdtr } else { self.idtr };
            let linear = self.operand_linear(instruction, len as u64, true)?;
            let mut bytes = [0; 10];
            bytes[..2].copy_from_slice(&table.limit.to_le_bytes());
            bytes[2..].copy_from_slice(&table.base.to_le_bytes());
            return self.write_bytes(linear, &bytes[..len], self.access(true));
        }
        self.require_ring_0()?;
        let linear = self.operand_linear(instruction, len as u64, false)?;
        let access = self.access(false);
        let limit = self.read_linear(linear, 2, access)? as u16;
        let mut base = self.read_linear(linear.wrapping_add(2), base_size, access)?;
        if instruction.op0_kind() == OpKind::Memory
            && base_size == 4
            && self.operand_is_16_bit(instruction)
        {
            base &= 0xff_ffff;
        }
        if base_size == 8 && !Gva(base).is_canonical() {
            return Err(GP0.into());
        }
        let table = DescriptorTable { base, limit };
        if is_gdt {
            self.gdtr = table;
        } else {
            self.idtr = table;
        }
        Ok(())
    }

    fn operand_is_16_bit(&self, instruction: &Instruction) -> bool {
        use iced_x86::Code;
        matches!(
            instruction.code(),
            Code::Lgdt_m1632_16 | Code::Lidt_m1632_16
        )
    }

    pub(crate) fn invalidate_page(&mut self, instruction: &Instruction) -> Step {
        self.require_ring_0()?;
        let index = crate::translate::segment_index(instruction.memory_segment());
        let offset = self.effective_address(instruction);
        let base = if self.is_64_bit() && index < seg::FS {
            0
        } else {
            self.segments[index].base
        };
        let mut gva = Gva(base.wrapping_add(offset));
        if !self.is_64_bit() {
            gva.0 &= 0xffff_ffff;
        } else if !gva.is_canonical() {
            return Ok(());
        }
        self.banks.flush_page(gva);
        Ok(())
    }

    /// INVPCID (SDM vol. 2).
    pub(crate) fn invalidate_pcid(&mut self, instruction: &Instruction) -> Step {
        self.require_ring_0()?;
        let kind = self.register(instruction.op0_register());
        let linear = self.operand_linear(instruction, 16, false)?;
        let access = self.access(false);
        let pcid = self.read_linear(linear, 8, access)?;
        let address = self.read_linear(linear.wrapping_add(8), 8, access)?;
        let has_pcid = self.cr4.contains(Cr4::PCIDE);
        if kind > 3 || kind < 2 && (pcid >> 12 != 0 || !has_pcid && pcid != 0) {
            return Err(GP0.into());
        }
        match kind {
            0 if !Gva(address).is_canonical() => return Err(GP0.into()),
            0 => self.banks.flush_page(Gva(address)),
            1 => self.banks.flush_local(pcid as u16),
            3 => self.banks.flush_all_local(),
            _ => self.banks.flush_all(),
        }
        Ok(())
    }

    pub(crate) fn cpuid(&mut self) -> Step {
        let function = self.block.gprs[gpr::RAX] as u32;
        let index = self.block.gprs[gpr::RCX] as u32;
        let [eax, mut ebx, mut ecx, mut edx] = self.cpuid.get(function, index);
        match (function, index) {
            (1, _) => {
                let osxsave = self.cr4.contains(Cr4::OSXSAVE);
                ecx = ecx & !(1 << 27) | u32::from(osxsave) << 27;
                if self.apic_is_off {
                    edx &= !(1 << 9);
                }
            }
            // The vendor's own copy of the same bits.
            (0x8000_0001, _) if self.apic_is_off => edx &= !(1 << 9),
            (0xd, 0) => ebx = self.xsave_size(self.xcr0) as u32,
            (0xd, 1) => ebx = self.xsave_size(self.xcr0) as u32,
            _ => {}
        }
        self.block.gprs[gpr::RAX] = u64::from(eax);
        self.block.gprs[gpr::RBX] = u64::from(ebx);
        self.block.gprs[gpr::RCX] = u64::from(ecx);
        self.block.gprs[gpr::RDX] = u64::from(edx);
        Ok(())
    }

    pub(crate) fn read_msr(&mut self) -> Step {
        self.require_ring_0()?;
        let number = self.block.gprs[gpr::RCX] as u32;
        let value = match number {
            msr::TSC => host::tsc::read().wrapping_add(self.block.tsc_offset),
            msr::TSC_ADJUST => self.msrs.tsc_adjust,
            msr::EFER => self.efer.bits(),
            msr::STAR => self.msrs.star,
            msr::LSTAR => self.msrs.lstar,
            msr::CSTAR => self.msrs.cstar,
            msr::SYSCALL_MASK => self.msrs.syscall_mask,
            msr::FS_BASE => self.segments[seg::FS].base,
            msr::GS_BASE => self.segments[seg::GS].base,
            msr::KERNEL_GS_BASE => self.msrs.kernel_gs_base,
            msr::TSC_AUX => self.msrs.tsc_aux,
            msr::SYSENTER_CS => self.msrs.sysenter_cs,
            msr::SYSENTER_ESP => self.msrs.sysenter_esp,
            msr::SYSENTER_EIP => self.msrs.sysenter_eip,
            msr::PAT => self.msrs.pat,
            msr::MISC_ENABLE => self.msrs.misc_enable,
            msr::MTRR_DEF_TYPE => self.msrs.mtrr_def_type,
            _ => self.ask(Exit::MsrRead { msr: number })?,
        };
        self.block.gprs[gpr::RAX] = value & 0xffff_ffff;
        self.block.gprs[gpr::RDX] = value >> 32;
        Ok(())
    }

    pub(crate) fn write_msr(&mut self) -> Step {
        self.require_ring_0()?;
        let number = self.block.gprs[gpr::RCX] as u32;
        let value = self.block.gprs[gpr::RAX] & 0xffff_ffff | self.block.gprs[gpr::RDX] << 32;
        let is_address = matches!(
            number,
            msr::LSTAR | msr::CSTAR | msr::FS_BASE | msr::GS_BASE | msr::KERNEL_GS_BASE
        );
        if is_address && !Gva(value).is_canonical() {
            return Err(GP0.into());
        }
        match number {
            msr::TSC => {
                let distance = value
                    .wrapping_sub(host::tsc::read())
                    .wrapping_sub(self.block.tsc_offset);
                self.move_tsc(distance);
            }
            // Writing one moves the other by as much (SDM vol. 3, 18.17.3).
            msr::TSC_ADJUST => self.move_tsc(value.wrapping_sub(self.msrs.tsc_adjust)),
            msr::EFER => self.write_efer(value)?,
            msr::STAR => {
                self.msrs.star = value;
                self.shut_passages();
            }
            msr::LSTAR => {
                self.msrs.lstar = value;
                self.shut_passages();
            }
            msr::CSTAR => self.msrs.cstar = value,
            msr::SYSCALL_MASK => {
                self.msrs.syscall_mask = value & 0xffff_ffff;
                self.shut_passages();
            }
            msr::FS_BASE => self.set_segment_base(seg::FS, value),
            msr::GS_BASE => self.set_segment_base(seg::GS, value),
            msr::KERNEL_GS_BASE => self.set_kernel_gs_base(value),
            msr::TSC_AUX if value >> 32 == 0 => {
                self.msrs.tsc_aux = value;
                self.block.tsc_aux = value;
            }
            msr::SYSENTER_CS => self.msrs.sysenter_cs = value & 0xffff,
            msr::SYSENTER_ESP => self.msrs.sysenter_esp = value,
            msr::SYSENTER_EIP => self.msrs.sysenter_eip = value,
            msr::PAT
                if value
                    .to_le_bytes()
                    .iter()
                    .all(|kind| matches!(kind, 0 | 1 | 4..=7)) =>
            {
                self.msrs.pat = value;
            }
            msr::TSC_AUX | msr::PAT => return Err(GP0.into()),
            msr::MISC_ENABLE => self.msrs.misc_enable = value,
            msr::MTRR_DEF_TYPE => self.msrs.mtrr_def_type = value & 0xcff,
            _ => {
                self.ask(Exit::MsrWrite { msr: number, value })?;
                if number == msr::APIC_BASE {
                    self.apic_is_off = value & APIC_ENABLE == 0;
                }
            }
        }
        Ok(())
    }

    fn move_tsc(&mut self, distance: u64) {
        self.block.tsc_offset = self.block.tsc_offset.wrapping_add(distance);
        self.msrs.tsc_offset = self.block.tsc_offset;
        self.msrs.tsc_adjust = self.msrs.tsc_adjust.wrapping_add(distance);
        // What waits for a value of the TSC is the machine's, and must hear of it.
        self.posted.push(Exit::MsrWrite {
            msr: msr::TSC_ADJUST,
            value: self.msrs.tsc_adjust,
        });
    }

    fn write_efer(&mut self, value: u64) -> Step {
        let new = Efer::from_bits_retain(value);
        let changes_lme = (new ^ self.efer).contains(Efer::LME);
        if !EFER_ALLOWED.contains(new) || changes_lme && self.cr0.contains(Cr0::PG) {
            return Err(GP0.into());
        }
        let changes_nx = (new ^ self.efer).contains(Efer::NXE);
        self.efer = (new - Efer::LMA) | (self.efer & Efer::LMA);
        if changes_nx {
            self.banks.flush_all();
        }
        self.update_context();
        Ok(())
    }

    /// A new FS or GS base: nothing but the base changes.
    pub(crate) fn set_segment_base(&mut self, index: usize, base: u64) {
        self.segments[index].base = base;
        self.block.segment_base[index] = base;
    }

    fn set_kernel_gs_base(&mut self, base: u64) {
        self.msrs.kernel_gs_base = base;
        self.block.kernel_gs_base = base;
    }

    pub(crate) fn swap_gs(&mut self) -> Step {
        self.require_ring_0()?;
        let base = self.segments[seg::GS].base;
        self.set_segment_base(seg::GS, self.msrs.kernel_gs_base);
        self.set_kernel_gs_base(base);
        Ok(())
    }

    /// RDFSBASE and its kin.
    pub(crate) fn segment_base(&mut self, instruction: &Instruction) -> Step {
        if !self.cr4.contains(Cr4::FSGSBASE) || !self.is_64_bit() {
            return Err(Exception::InvalidOpcode.into());
        }
        let register = instruction.op0_register();
        let index = match instruction.mnemonic() {
            Mnemonic::Rdfsbase | Mnemonic::Wrfsbase => seg::FS,
            _ => seg::GS,
        };
        if matches!(
            instruction.mnemonic(),
            Mnemonic::Rdfsbase | Mnemonic::Rdgsbase
        ) {
            self.set_register(register, self.segments[index].base);
            return Ok(());
        }
        let value = self.register(register);
        if !Gva(value).is_canonical() {
            return Err(GP0.into());
        }
        self.set_segment_base(index, value);
        Ok(())
    }

    /// #GP(0) unless IOPL or the TSS's permission bitmap allows the port.
    pub(crate) fn check_port(&mut self, port: u16, size: u8) -> Step {
        if !self.is_protected() || !self.is_v86() && self.cpl() <= self.rflags().iopl() {
            return Ok(());
        }
        let is_32_bit_tss = self.tr.is_present() && self.tr.kind() & 9 == 9;
        if !is_32_bit_tss || self.tr.limit < 0x67 {
            return Err(GP0.into());
        }
        let access = SoftVcpu::system_access(false);
        let map = self.read_linear(self.tr.base.wrapping_add(0x66), 2, access)?;
        let at = map + u64::from(port / 8);
        if at + 1 > u64::from(self.tr.limit) {
            return Err(GP0.into());
        }
        let bits = self.read_linear(self.tr.base.wrapping_add(at), 2, access)?;
        let mask = (1 << size) - 1;
        if bits >> (port % 8) & mask != 0 {
            Err(GP0.into())
        } else {
            Ok(())
        }
    }

    /// IN and OUT.
    pub(crate) fn port_access(&mut self, instruction: &Instruction) -> Step {
        let is_in = instruction.mnemonic() == Mnemonic::In;
        let (value_op, port_op) = if is_in { (0, 1) } else { (1, 0) };
        let port = match instruction.op_kind(port_op) {
            OpKind::Register => self.block.gprs[gpr::RDX] as u16,
            _ => u16::from(instruction.immediate8()),
        };
        let register = instruction.op_register(value_op);
        let size = register.size() as u8;
        self.check_port(port, size)?;
        if is_in {
            let value = self.ask(Exit::PioRead { port, size })?;
            self.set_register(register, value);
        } else {
            let value = self.register(register) as u32;
            self.posted.push(Exit::PioWrite { port, size, value });
        }
        Ok(())
    }

    pub(crate) fn set_interrupt_flag(&mut self, enable: bool) -> Step {
        let flags = self.rflags();
        if self.is_protected() && self.cpl() > flags.iopl() {
            return Err(GP0.into());
        }
        let was_enabled = flags.contains(Rflags::IF);
        self.block.interrupts = u32::from(enable);
        if enable && !was_enabled {
            self.pending.shadow = true;
        }
        Ok(())
    }

    /// STAC and CLAC.
    pub(crate) fn set_access_flag(&mut self, enable: bool) -> Step {
        if self.cpl() != 0 {
            return Err(Exception::InvalidOpcode.into());
        }
        let mut flags = self.rflags();
        flags.set(Rflags::AC, enable);
        self.set_rflags(flags);
        Ok(())
    }

    /// PUSHF and POPF of every size.
    pub(crate) fn push_flags(&mut self, size: u8) -> Step {
        if self.is_v86() && self.rflags().iopl() < 3 {
            return Err(GP0.into());
        }
        let flags = self.rflags() - (Rflags::RF | Rflags::VM);
        self.push(size, flags.bits())
    }

    pub(crate) fn pop_flags(&mut self, size: u8) -> Step {
        let old = self.rflags();
        if self.is_v86() && old.iopl() < 3 {
            return Err(GP0.into());
        }
        let new = Rflags::from_bits_retain(self.peek(0, size)?);
        let mut allowed = Rflags::ARITHMETIC | Rflags::TF | Rflags::DF | Rflags::NT;
        if size > 2 {
            allowed |= Rflags::AC | Rflags::ID;
        }
        let cpl = if self.is_protected() { self.cpl() } else { 0 };
        if cpl == 0 {
            allowed |= Rflags::IOPL;
        }
        if cpl <= old.iopl() {
            allowed |= Rflags::IF;
        }
        self.drop_stack(u64::from(size));
        self.set_rflags((old & !allowed | new & allowed) - Rflags::RF);
        Ok(())
    }
}
