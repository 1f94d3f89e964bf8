//! Small programs in long mode, through the engine contract.

use std::sync::Arc;

use mem::GuestMemory;
use soft::{Config, Soft, SoftVcpu};
use vcpu::{Exit, Reply, Vcpu, VcpuState, gpr};
use x86::cpu_model::{self, Topology};
use x86::{Gpa, Rflags};

const CODE: u64 = 0x10_0000;

/// A vCPU in ring 0 with the first GiB mapped one to one, its code at [`CODE`].
fn vcpu(code: &[u8]) -> (SoftVcpu, Arc<GuestMemory>) {
    vcpu_with(code, Config::default())
}

fn vcpu_with(code: &[u8], config: Config) -> (SoftVcpu, Arc<GuestMemory>) {
    let memory = Arc::new(GuestMemory::flat(4 << 20).unwrap());
    memory
        .write(Gpa(0x1000), &0x2003_u64.to_le_bytes())
        .unwrap();
    memory
        .write(Gpa(0x2000), &0x3003_u64.to_le_bytes())
        .unwrap();
    for page in 0..512_u64 {
        memory
            .write(Gpa(0x3000 + page * 8), &(page << 21 | 0x83).to_le_bytes())
            .unwrap();
    }
    memory.write(Gpa(CODE), code).unwrap();
    let engine = Soft::new(Arc::clone(&memory), config).unwrap();
    let topology = Topology {
        vcpu_count: 1,
        vcpu_id: 0,
    };
    let cpuid = cpu_model::table(topology, host::cpu::cpuid, host::cpu::xcr0());
    let mut vcpu = engine.create_vcpu(cpuid).unwrap();
    let mut state = VcpuState::long_mode(0x1000);
    state.rip = CODE;
    state.gprs[gpr::RSP] = 0x20_0000;
    state.cr4 |= x86::Cr4::OSFXSR;
    vcpu.set_state(&state).unwrap();
    (vcpu, memory)
}

/// Runs until HLT and returns the state.
fn run(code: &[u8]) -> VcpuState {
    let (mut vcpu, _memory) = vcpu(code);
    assert_eq!(vcpu.run(Reply::Done).unwrap(), Exit::Halt);
    vcpu.state().unwrap()
}

#[test]
fn arithmetic_and_memory_work() {
    // mov eax, 5; mov [0x5000], rax; add rbx, [0x5000]; hlt
    let state = run(b"\xb8\x05\0\0\0\x48\x89\x04\x25\0\x50\0\0\x48\x03\x1c\x25\0\x50\0\0\xf4");
    assert_eq!(state.gprs[gpr::RBX], 5);
}

#[test]
fn a_loop_runs_to_its_end() {
    // mov ecx, 1000000; xor eax, eax; l: inc rax; dec rcx; jnz l; hlt
    let state = run(b"\xb9\x40\x42\x0f\0\x31\xc0\x48\xff\xc0\x48\xff\xc9\x75\xf8\xf4");
    assert_eq!(state.gprs[gpr::RAX], 1_000_000);
    assert!(state.rflags.contains(Rflags::ZF));
}

#[test]
fn calls_return_and_the_stack_balances() {
    // call f; push rax; pop rbx; hlt; f: mov eax, 7; ret
    let state = run(b"\xe8\x03\0\0\0\x50\x5b\xf4\xb8\x07\0\0\0\xc3");
    assert_eq!((state.gprs[gpr::RBX], state.gprs[gpr::RSP]), (7, 0x20_0000));
}

#[test]
fn an_access_may_cross_a_page() {
    // mov rax, 0x1122334455667788; mov [0x5ffc], rax; mov rbx, [0x5ffc]; hlt
    let state = run(
        b"\x48\xb8\x88\x77\x66\x55\x44\x33\x22\x11\x48\x89\x04\x25\xfc\x5f\0\0\x48\x8b\x1c\x25\xfc\x5f\0\0\xf4",
    );
    assert_eq!(state.gprs[gpr::RBX], 0x1122_3344_5566_7788);
}

#[test]
fn accesses_across_a_page_in_a_loop_keep_values_and_flags() {
    // mov ecx, 6; xor ebx, ebx; mov esi, 0x5ffc; l: mov [rsi], rcx; stc; mov rax, [rsi]; adc rbx, rax; movups xmm0, [rsi];
    // movq rdx, xmm0; add rbx, rdx; loop l; hlt
    let (mut vcpu, _memory) = vcpu(
        b"\xb9\x06\0\0\0\x31\xdb\xbe\xfc\x5f\0\0\x48\x89\x0e\xf9\x48\x8b\x06\x48\x11\xc3\x0f\x10\x06\x66\x48\x0f\x7e\xc2\x48\x01\xd3\xe2\xe9\xf4",
    );
    assert_eq!(vcpu.run(Reply::Done).unwrap(), Exit::Halt);
    let state = vcpu.state().unwrap();
    assert_eq!(state.gprs[gpr::RBX], 2 * 21 + 6);
    let beside = vcpu.statistics().get("accesses beside").unwrap();
    assert!(
        beside >= 12,
        "only {beside} were made beside translated code"
    );
}

#[test]
fn code_that_is_rewritten_in_a_loop_is_run_as_written() {
    // mov ecx, 5; xor ebx, ebx; l: mov [rip+1], cl (the immediate of the next instruction); mov al, 0; add bl, al; loop l; hlt
    let state = run(b"\xb9\x05\0\0\0\x31\xdb\x88\x0d\x01\0\0\0\xb0\0\0\xc3\xe2\xf4\xf4");
    assert_eq!(state.gprs[gpr::RBX], 15);
}

#[test]
fn ports_reach_the_machine() {
    // mov dx, 0x3f8; in al, dx; inc al; out dx, al; hlt
    let (mut vcpu, _memory) = vcpu(b"\x66\xba\xf8\x03\xec\xfe\xc0\xee\xf4");
    assert_eq!(
        vcpu.run(Reply::Done).unwrap(),
        Exit::PioRead {
            port: 0x3f8,
            size: 1
        }
    );
    let write = Exit::PioWrite {
        port: 0x3f8,
        size: 1,
        value: 0x42,
    };
    assert_eq!(vcpu.run(Reply::Value(0x41)).unwrap(), write);
    assert_eq!(vcpu.run(Reply::Done).unwrap(), Exit::Halt);
}

#[test]
fn device_memory_reaches_the_machine() {
    // mov ebx, 0x3f000000; add dword [rbx], 5; hlt
    let (mut vcpu, _memory) = vcpu(b"\xbb\0\0\0\x3f\x83\x03\x05\xf4");
    let gpa = Gpa(0x3f00_0000);
    assert_eq!(
        vcpu.run(Reply::Done).unwrap(),
        Exit::MmioRead { gpa, size: 4 }
    );
    assert_eq!(
        vcpu.run(Reply::Value(37)).unwrap(),
        Exit::MmioWrite {
            gpa,
            size: 4,
            value: 42
        }
    );
    assert_eq!(vcpu.run(Reply::Done).unwrap(), Exit::Halt);
}

#[test]
fn code_that_writes_code_sees_its_own_write() {
    // mov byte [rip+1], 9 (the immediate of the next instruction); mov al, 1; hlt
    let state = run(b"\xc6\x05\x01\0\0\0\x09\xb0\x01\xf4");
    assert_eq!(state.gprs[gpr::RAX] as u8, 9);
}

#[test]
fn an_instruction_that_is_interpreted_can_change_too() {
    // mov ecx, 4; xor ebx, ebx; l: cmp ecx, 2; jne s; mov word [rip+1], 0xc800 (SMSW becomes STR);
    // s: smsw eax; add rbx, rax; loop l; hlt
    let state = run(b"\xb9\x04\0\0\0\x31\xdb\x83\xf9\x02\x75\x09\x66\xc7\x05\x01\0\0\0\0\xc8\x0f\x01\xe0\x48\x01\xc3\xe2\xea\xf4");
    let status_word = state.cr0.bits() & 0xffff_ffff;
    let task = u64::from(state.tr.selector);
    assert_eq!(state.gprs[gpr::RBX], 2 * status_word + 2 * task);
}

#[test]
fn sse_works_after_a_page_crossing_load() {
    // mov eax, 3; cvtsi2sd xmm0, eax; addsd xmm0, xmm0; movsd [0x5ffc], xmm0; cvttsd2si rbx, [0x5ffc]; hlt
    let state = run(b"\xb8\x03\0\0\0\xf2\x0f\x2a\xc0\xf2\x0f\x58\xc0\xf2\x0f\x11\x04\x25\xfc\x5f\0\0\xf2\x48\x0f\x2c\x1c\x25\xfc\x5f\0\0\xf4");
    assert_eq!(state.gprs[gpr::RBX], 6);
}

#[test]
fn a_fault_without_a_handler_is_a_triple_fault() {
    // xor ecx, ecx; div ecx
    let (mut vcpu, _memory) = vcpu(b"\x31\xc9\xf7\xf1");
    assert!(
        matches!(vcpu.run(Reply::Done).unwrap(), Exit::TripleFault(fault) if fault.first_vector == Some(0))
    );
    assert_eq!(vcpu.state().unwrap().rip, CODE + 2);
}

#[test]
fn rep_stosq_fills_across_pages() {
    // mov edi, 0x5f00; mov ecx, 0x400; mov eax, 0x55; rep stosq; mov rbx, [0x7ef8]; hlt
    let state = run(
        b"\xbf\0\x5f\0\0\xb9\0\x04\0\0\xb8\x55\0\0\0\xf3\x48\xab\x48\x8b\x1c\x25\xf8\x7e\0\0\xf4",
    );
    assert_eq!(
        (
            state.gprs[gpr::RBX],
            state.gprs[gpr::RCX],
            state.gprs[gpr::RDI]
        ),
        (0x55, 0, 0x7f00)
    );
}

#[test]
fn shadow_stack_hints_do_nothing_where_there_is_no_shadow_stack() {
    // mov eax, 5; rdsspq rax; endbr64; hlt
    let state = run(b"\xb8\x05\0\0\0\xf3\x48\x0f\x1e\xc8\xf3\x0f\x1e\xfa\xf4");
    assert_eq!(state.gprs[gpr::RAX], 5);
}

#[test]
fn a_moved_tsc_says_by_how_much() {
    // mov ecx, 0x3b; mov eax, 5; mov edx, 1; wrmsr; mov ecx, 0x10; rdtsc; wrmsr; mov ecx, 0x3b; rdmsr; hlt
    let (mut vcpu, _memory) = vcpu(
        b"\xb9\x3b\0\0\0\xb8\x05\0\0\0\xba\x01\0\0\0\x0f\x30\xb9\x10\0\0\0\x0f\x31\x0f\x30\xb9\x3b\0\0\0\x0f\x32\xf4",
    );
    let told: Vec<u64> = std::iter::from_fn(|| match vcpu.run(Reply::Done).unwrap() {
        Exit::MsrWrite { msr: 0x3b, value } => Some(value),
        exit => {
            assert_eq!(exit, Exit::Halt);
            None
        }
    })
    .collect();
    let state = vcpu.state().unwrap();
    assert_eq!(told, [0x1_0000_0005, state.msrs.tsc_adjust]);
    assert_eq!(state.msrs.tsc_offset, state.msrs.tsc_adjust);
    // The TSC was set to what it had been a moment before.
    let adjust = state.gprs[gpr::RDX] << 32 | state.gprs[gpr::RAX];
    assert_eq!(state.msrs.tsc_adjust, adjust);
    assert!(
        adjust <= 0x1_0000_0005 && adjust > 0x1_0000_0005 - (1 << 31),
        "{adjust:#x}"
    );
}

#[test]
fn sti_lets_an_interrupt_in_after_the_next_instruction() {
    // sti; inc eax; l: inc ebx; jmp l
    let (mut vcpu, memory) = vcpu(b"\xfb\xff\xc0\xff\xc3\xeb\xfc");
    // An IDT at 0x6000 whose vector 0x40 leads to a HLT at 0x7000, through a GDT at 0x8000.
    memory.write(Gpa(0x7000), b"\xf4").unwrap();
    let gate = 0x7000 | 0x10 << 16 | 0x8e00_u64 << 32;
    memory
        .write(Gpa(0x6000 + 0x40 * 16), &gate.to_le_bytes())
        .unwrap();
    memory
        .write(Gpa(0x8010), &0x00af_9b00_0000_ffff_u64.to_le_bytes())
        .unwrap();
    let mut state = vcpu.state().unwrap();
    state.idtr = x86::DescriptorTable {
        base: 0x6000,
        limit: 0xfff,
    };
    state.gdtr = x86::DescriptorTable {
        base: 0x8000,
        limit: 0x1f,
    };
    vcpu.set_state(&state).unwrap();
    vcpu.set_interrupt_window(true);
    assert_eq!(vcpu.run(Reply::Done).unwrap(), Exit::InterruptWindow);
    assert_eq!(vcpu.state().unwrap().gprs[gpr::RAX], 1);
    vcpu.set_interrupt_window(false);
    vcpu.inject(vcpu::Injection::Interrupt(0x40));
    assert_eq!(vcpu.run(Reply::Done).unwrap(), Exit::Halt);
    let state = vcpu.state().unwrap();
    assert_eq!((state.rip, state.gprs[gpr::RSP]), (0x7001, 0x20_0000 - 40));
}

#[test]
fn a_kick_ends_a_loop_that_would_never_end() {
    // l: jmp l
    let (mut vcpu, _memory) = vcpu(b"\xeb\xfe");
    let kicker = vcpu.kicker();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(20));
        kicker.kick();
    });
    assert_eq!(vcpu.run(Reply::Done).unwrap(), Exit::Kicked);
    thread.join().unwrap();
}

#[test]
fn a_full_code_cache_is_started_over_and_nobody_notices() {
    // Blocks of `inc rax` that jump to each other, across pages and inside them, with stores that cross pages: more
    // of them than the cache holds, run several times over.
    let mut code = Vec::new();
    let block_count = 6000;
    for _ in 0..block_count {
        // inc rax; mov [rbx + 0xffc], rax; add rdx, [rbx + 0xffc]; jmp +1; nop
        code.extend_from_slice(
            b"\x48\xff\xc0\x48\x89\x83\xfc\x0f\0\0\x48\x03\x93\xfc\x0f\0\0\xeb\x01\x90",
        );
    }
    // dec rcx; jnz start; hlt
    code.extend_from_slice(b"\x48\xff\xc9\x0f\x85");
    let back = -(code.len() as i32 + 4);
    code.extend_from_slice(&back.to_le_bytes());
    code.push(0xf4);
    let (mut vcpu, _memory) = vcpu_with(
        &code,
        Config {
            code_cache_bytes: 256 << 10,
        },
    );
    let mut state = vcpu.state().unwrap();
    state.gprs[gpr::RBX] = 0x30_0000;
    state.gprs[gpr::RCX] = 4;
    vcpu.set_state(&state).unwrap();
    assert_eq!(vcpu.run(Reply::Done).unwrap(), Exit::Halt);
    let state = vcpu.state().unwrap();
    let count = 4 * block_count;
    assert_eq!(state.gprs[gpr::RAX], count);
    assert_eq!(state.gprs[gpr::RDX], count * (count + 1) / 2);
    assert!(vcpu.statistics().get("code cache clears").unwrap() > 3);
}
