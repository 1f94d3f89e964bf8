//! Corners of instructions, by hand: where counts are masked, results do not fit, numbers are none, and a page ends in the
//! middle of an operand. The silicon says what is right; each row is run with all status flags clear and with all set.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use proof::arena;
use proof::case::{BATCH, Case, Image, Registers, Runner};
use proof::compare::{GPR_NAMES, differences};
use proof::engine::{self, Engine};
use proof::golden;
use proof::native::Native;

use common::{can_run, is_oracle};

/// Interrupts enabled and nothing else; with CF, PF, AF, ZF, SF and OF too.
const FLAGS: [u64; 2] = [0x202, 0xad7];
/// Bytes between two cases.
const APART: u64 = 64;

/// The stack in the middle of a page, RSI and RDI at bytes that differ; then what `changed` says, as `name=hex`.
fn start(bits: u32, at: u64, flags: u64, changed: &str) -> Registers {
    let mut registers = Registers::calm(bits);
    registers.rip = at;
    registers.rflags = flags;
    let mut set = |name: &str, value: u128| {
        if let Some(number) = name.strip_prefix("xmm") {
            let place = 160 + 16 * number.parse::<usize>().unwrap();
            registers.xsave[place..place + 16].copy_from_slice(&value.to_le_bytes());
        } else {
            let number = GPR_NAMES.iter().position(|known| *known == name);
            registers.gprs[number.unwrap()] = u64::try_from(value).unwrap();
        }
    };
    for (name, offset) in [("rsp", 0x800), ("rsi", 0x120), ("rdi", 0x1140)] {
        set(name, u128::from(arena::DATA + offset));
    }
    for field in changed.split_whitespace() {
        let (name, value) = field.split_once('=').unwrap();
        set(name, u128::from_str_radix(value, 16).unwrap());
    }
    registers
}

fn bytes(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks(2);
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    pairs.map(byte).collect()
}

/// Every row (`bytes ; the same as text ; registers`) on the silicon and on the software CPU, with each of [`FLAGS`].
fn check(bits: u32, rows: &str) {
    if !is_oracle() {
        return;
    }
    let data = (0..arena::DATA_BYTES).map(|offset| (offset * 37 + 11) as u8);
    let image = Arc::new(Image {
        data: data.collect(),
    });
    let mut native = Native::new().unwrap();
    let mut engine = Engine::new(engine::soft()).unwrap();
    let mut wrong = Vec::new();
    let mut ran = 0;
    let rows = rows.lines().filter(|line| line.contains(';'));
    let each: Vec<(&str, u64)> = rows
        .flat_map(|row| FLAGS.map(|flags| (row, flags)))
        .collect();
    for batch in each.chunks(BATCH) {
        let case = |(number, (row, flags)): (u64, &(&str, u64))| {
            let (code, rest) = row.split_once(';').unwrap();
            let (_, changed) = rest.rsplit_once(';').unwrap();
            Case {
                bits,
                code: bytes(code.trim()),
                start: start(bits, arena::CODE + APART * number, *flags, changed),
                image: Arc::clone(&image),
            }
        };
        let cases: Vec<Case> = (0..).zip(batch).map(case).filter(can_run).collect();
        ran += cases.len();
        let truths = native.run(&cases).unwrap();
        let outcomes = engine.run(&cases).unwrap();
        for ((case, truth), outcome) in cases.iter().zip(&truths).zip(&outcomes) {
            let found = differences(case, truth, outcome);
            if !found.is_empty() {
                wrong.push(format!("{}\n    {found:?}", golden::line(case, truth)));
            }
        }
    }
    assert!(2 * ran > each.len(), "most of them are run: {ran}");
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn shifts_and_rotates_mask_their_counts() {
    check(
        64,
        "
        c1e020 ; shl eax, 32 ; rax=ffffffff80000001
        48c1e040 ; shl rax, 64 ; rax=8000000000000001
        d3e0 ; shl eax, cl ; rax=80000001 rcx=1f
        d2e0 ; shl al, cl ; rax=181 rcx=8
        d2e0 ; shl al, cl ; rax=181 rcx=9
        66d3e8 ; shr ax, cl ; rax=18001 rcx=10
        66d3e8 ; shr ax, cl ; rax=18001 rcx=11
        d2f8 ; sar al, cl ; rax=80 rcx=1f
        48c1f83f ; sar rax, 63 ; rax=8000000000000000
        d3f8 ; sar eax, cl ; rax=ffffffff80000000 rcx=100
        d2c0 ; rol al, cl ; rax=81 rcx=8
        66d3c0 ; rol ax, cl ; rax=8001 rcx=10
        d2c8 ; ror al, cl ; rax=81 rcx=18
        48d3c0 ; rol rax, cl ; rax=8000000000000001 rcx=41
        d2d0 ; rcl al, cl ; rax=80 rcx=9
        d2d0 ; rcl al, cl ; rax=80 rcx=a
        66d3d8 ; rcr ax, cl ; rax=1 rcx=11
        66d3d8 ; rcr ax, cl ; rax=1 rcx=12
        d3d0 ; rcl eax, cl ; rax=80000000 rcx=20
        48d3d8 ; rcr rax, cl ; rax=1 rcx=3f
        0fa4d01f ; shld eax, edx, 31 ; rax=80000000 rdx=ffffffff
        480fa5d0 ; shld rax, rdx, cl ; rax=8000000000000000 rdx=8000000000000000 rcx=40
        480facd001 ; shrd rax, rdx, 1 ; rax=1 rdx=1
        0fadd0 ; shrd eax, edx, cl ; rax=ffffffff00000001 rdx=1 rcx=21
        660fa4d00f ; shld ax, dx, 15 ; rax=18001 rdx=8001
        c4e272f7c2 ; sarx eax, edx, ecx ; rdx=80000000 rcx=3f
        c4e2f1f7c2 ; shlx rax, rdx, rcx ; rdx=3 rcx=7f
        c4e273f7c2 ; shrx eax, edx, ecx ; rdx=ffffffff80000000 rcx=20
        c4e3fbf0c241 ; rorx rax, rdx, 65 ; rdx=3
    ",
    );
}

#[test]
fn division_faults_where_its_quotient_does_not_fit() {
    check(
        64,
        "
        f6f1 ; div cl ; rax=ffff rcx=ff
        f6f1 ; div cl ; rax=feff rcx=ff
        f7f1 ; div ecx ; rdx=1 rax=0 rcx=2
        f7f1 ; div ecx ; rdx=2 rax=0 rcx=2
        48f7f1 ; div rcx ; rdx=1 rcx=ffffffffffffffff
        48f7f1 ; div rcx ; rcx=0
        f6f9 ; idiv cl ; rax=ff80 rcx=ff
        f6f9 ; idiv cl ; rax=8000 rcx=ff
        f6f9 ; idiv cl ; rax=c080 rcx=7f
        f7f9 ; idiv ecx ; rdx=ffffffff rax=80000000 rcx=ffffffff
        f7f9 ; idiv ecx ; rdx=ffffffff rax=80000000 rcx=1
        48f7f9 ; idiv rcx ; rdx=ffffffffffffffff rax=8000000000000000 rcx=ffffffffffffffff
        48f7f9 ; idiv rcx ; rdx=0 rax=7 rcx=fffffffffffffffe
        48f7f9 ; idiv rcx ; rdx=ffffffffffffffff rax=fffffffffffffff9 rcx=2
        66f7f9 ; idiv cx ; rdx=ffff8000 rax=0 rcx=8000
        48f7e2 ; mul rdx ; rax=ffffffffffffffff rdx=ffffffffffffffff
        f6e0 ; mul al ; rax=10
        f6e8 ; imul al ; rax=80
        666bc202 ; imul ax, dx, 2 ; rdx=4000
        480fafc2 ; imul rax, rdx ; rax=4000000000000000 rdx=2
        6bc2ff ; imul eax, edx, -1 ; rdx=80000000
        c4e2fbf6c1 ; mulx rax, rax, rcx ; rdx=ffffffffffffffff rcx=ffffffffffffffff
    ",
    );
}

#[test]
fn bits_are_found_counted_and_moved_as_on_silicon() {
    check(
        64,
        "
        480fbcc2 ; bsf rax, rdx ; rax=7 rdx=0
        0fbdc2 ; bsr eax, edx ; rax=ffffffff00000007 rdx=0
        480fbdc2 ; bsr rax, rdx ; rdx=8000000000000000
        660fbcc2 ; bsf ax, dx ; rax=ffff0007 rdx=8000
        f30fbcc2 ; tzcnt eax, edx ; rax=ffffffffffffffff rdx=0
        66f30fbdc2 ; lzcnt ax, dx ; rax=1ffff rdx=1
        f3480fbdc2 ; lzcnt rax, rdx ; rdx=0
        f3480fb8c2 ; popcnt rax, rdx ; rdx=ffffffffffffffff
        66f30fb8c2 ; popcnt ax, dx ; rax=ffff0000 rdx=f00f
        480fa306 ; bt [rsi], rax ; rax=fffffffffffffff7 rsi=20000108
        0fab06 ; bts [rsi], eax ; rax=ffffffe1 rsi=20000108
        660fb306 ; btr word ptr [rsi], ax ; rax=8000 rsi=20001800
        480fba3e7f ; btc qword ptr [rsi], 127 ; rsi=20000108
        0fa3d0 ; bt eax, edx ; rax=1 rdx=20
        480fbbd0 ; btc rax, rdx ; rax=0 rdx=7f
        c4e270f7c2 ; bextr eax, edx, ecx ; rdx=fedcba98 rcx=2004
        c4e2f0f7c2 ; bextr rax, rdx, rcx ; rdx=ffffffffffffffff rcx=ff41
        c4e270f5c2 ; bzhi eax, edx, ecx ; rdx=ffffffff rcx=120
        c4e2f0f5c2 ; bzhi rax, rdx, rcx ; rdx=ffffffffffffffff rcx=40
        c4e2ebf5c1 ; pdep rax, rdx, rcx ; rdx=ff rcx=8000000000000101
        c4e2eaf5c1 ; pext rax, rdx, rcx ; rdx=fedcba9876543210 rcx=f0f0f0f0f0f0f0f0
        c4e278f3ca ; blsr eax, edx ; rdx=0
        c4e2f8f3da ; blsi rax, rdx ; rdx=0
        c4e2f8f3d2 ; blsmsk rax, rdx ; rdx=0
        c4e268f2c1 ; andn eax, edx, ecx ; rdx=f0f0f0f0 rcx=80000000
        0fc8 ; bswap eax ; rax=ffffffff01020304
        f20f38f0c1 ; crc32 eax, cl ; rax=ffffffffffffffff rcx=61
        f2480f38f1c1 ; crc32 rax, rcx ; rax=ffffffffffffffff rcx=123456789abcdef
        660f38f006 ; movbe ax, [rsi] ; rax=ffffffffffffffff rsi=20000101
        660f38f6c2 ; adcx eax, edx ; rax=ffffffff rdx=0
        f3480f38f6c2 ; adox rax, rdx ; rax=ffffffffffffffff rdx=0
    ",
    );
}

#[test]
fn arithmetic_carries_and_widths_are_the_silicons() {
    check(
        64,
        "
        14ff ; adc al, 0xff ; rax=ff
        19c0 ; sbb eax, eax ; rax=5
        1cff ; sbb al, 0xff ; rax=80
        f6d8 ; neg al ; rax=80
        48f7d8 ; neg rax ; rax=0
        fec0 ; inc al ; rax=7f
        66ffc8 ; dec ax ; rax=18000
        48ff06 ; inc qword ptr [rsi] ; rsi=20000107
        663d0080 ; cmp ax, 0x8000 ; rax=7fff
        29d0 ; sub eax, edx ; rax=ffffffff80000000 rdx=1
        00fc ; add ah, bh ; rax=ff80 rbx=8000
        0fc0e0 ; xadd al, ah ; rax=7f01
        480fc106 ; xadd [rsi], rax ; rax=ffffffffffffffff rsi=20000100
        0fb1d1 ; cmpxchg ecx, edx ; rax=ffffffff00000005 rcx=aaaaaaaa00000005 rdx=9
        0fb1d1 ; cmpxchg ecx, edx ; rax=ffffffff00000006 rcx=aaaaaaaa00000005 rdx=9
        0fb006 ; cmpxchg [rsi], al ; rax=0 rsi=20000100
        0fc70e ; cmpxchg8b [rsi] ; rax=1 rdx=2 rbx=3 rcx=4 rsi=20000101
        480fc70e ; cmpxchg16b [rsi] ; rsi=20000108
        f0480fc70e ; lock cmpxchg16b [rsi] ; rax=1 rsi=20000110
        0fbec2 ; movsx eax, dl ; rdx=80
        4863c2 ; movsxd rax, edx ; rdx=80000000
        0fb6c4 ; movzx eax, ah ; rax=ff00
        6698 ; cbw ; rax=ffffff80
        98 ; cwde ; rax=ffffffff00008000
        4898 ; cdqe ; rax=80000000
        6699 ; cwd ; rax=8000 rdx=ffff1234
        4899 ; cqo ; rax=8000000000000000
        0f9ac0 ; setp al ; rax=ff
        0f42c2 ; cmovb eax, edx ; rax=ffffffffffffffff rdx=5
        0f43c2 ; cmovnb eax, edx ; rax=ffffffffffffffff rdx=5
        660f4406 ; cmovz ax, [rsi] ; rax=ffffffffffffffff rsi=20003000
        9f ; lahf ; rax=ffffffffffffffff
        9e ; sahf ; rax=ff00
        d7 ; xlatb ; rax=1ff rbx=20000100
    ",
    );
}

#[test]
fn addresses_wrap_and_are_judged_as_on_silicon() {
    check(
        64,
        "
        8d84caffffff7f ; lea eax, [rdx+rcx*8+0x7fffffff] ; rdx=ffffffff rcx=20000000
        668d42ff ; lea ax, [rdx-1] ; rax=ffffffffffffffff rdx=0
        67488d42ff ; lea rax, [edx-1] ; rdx=0
        67488b4210 ; mov rax, [edx+0x10] ; rdx=ffffffff20000100
        8b06 ; mov eax, [rsi] ; rsi=20000ffe
        8b06 ; mov eax, [rsi] ; rsi=20002ffe
        8906 ; mov [rsi], eax ; rsi=20001ffe
        668906 ; mov [rsi], ax ; rsi=20001fff
        8b06 ; mov eax, [rsi] ; rsi=800000000000
        488b06 ; mov rax, [rsi] ; rsi=7ffffffffffc
        8b4500 ; mov eax, [rbp] ; rbp=8000000000000000
        ff3424 ; push [rsp] ;
        8f0424 ; pop [rsp] ;
        5c ; pop rsp ;
        54 ; push rsp ;
        6654 ; push sp ;
        8f442408 ; pop [rsp+8] ;
        50 ; push rax ; rsp=20000000
        58 ; pop rax ; rsp=20002ffc
        ffd0 ; call rax ; rax=10003000 rsp=20000004
        c8100000 ; enter 16, 0 ; rbp=1234
        c8100003 ; enter 16, 3 ; rbp=20001400
        c800001f ; enter 0, 31 ; rbp=20001400
        c9 ; leave ; rbp=20001400
        c9 ; leave ; rbp=20003000
        9c ; pushfq ;
        9d ; popfq ; rsp=20000100
        e3fe ; jrcxz . ; rcx=100000000
        67e302 ; jecxz . + 5 ; rcx=100000000
        e202 ; loop . + 4 ; rcx=1
        e102 ; loope . + 4 ; rcx=2
        c20800 ; ret 8 ; rsp=20002ff8
    ",
    );
}

#[test]
fn string_instructions_stop_where_the_silicon_does() {
    check(
        64,
        "
        f3a4 ; rep movsb ; rcx=0
        f3a4 ; rep movsb ; rcx=9 rsi=20000100 rdi=20000104
        f348a5 ; rep movsq ; rcx=3 rsi=20000100 rdi=2000010c
        66f3a5 ; rep movsw ; rcx=4 rsi=20000ffd
        f3a5 ; rep movsd ; rcx=4 rdi=20001ff8
        f3aa ; rep stosb ; rcx=40 rdi=20001fe0
        f348ab ; rep stosq ; rcx=2 rdi=20001ffc
        f3a6 ; repe cmpsb ; rcx=8 rsi=20000100 rdi=20000200
        f2a6 ; repne cmpsb ; rcx=8 rsi=20000100 rdi=20001101
        f2ae ; repne scasb ; rcx=200 rax=55 rdi=20000100
        f3af ; repe scasd ; rcx=4 rax=0 rdi=20000100
        66f2af ; repne scasw ; rcx=100 rax=1234 rdi=20002ff0
        f3ac ; rep lodsb ; rcx=5
        48ad ; lodsq ;
        fdf3a4fc ; std; rep movsb; cld ; rcx=5 rsi=20000104 rdi=20000106
        fdf3abfc ; std; rep stosd; cld ; rcx=4 rdi=20000004
        fd66adfc ; std; lodsw; cld ; rsi=20000000
        67f3aa ; rep stosb byte ptr [edi] ; rcx=100000003 rdi=ffffffff20000100
        67f3a4 ; rep movsb byte ptr [edi], [esi] ; rcx=ffffffff00000002
    ",
    );
}

#[test]
fn vectors_of_odd_numbers_end_as_on_silicon() {
    check(64, "
        0f5dca ; minps xmm1, xmm2 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        0f5fca ; maxps xmm1, xmm2 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        f30f5dd1 ; minss xmm2, xmm1 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        0f58ca ; addps xmm1, xmm2 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        0f5cca ; subps xmm1, xmm2 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        0f59ca ; mulps xmm1, xmm2 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        0f5eca ; divps xmm1, xmm2 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        0f51ca ; sqrtps xmm1, xmm2 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        0f53db ; rcpps xmm3, xmm3 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        0fc2ca03 ; cmpps xmm1, xmm2, 3 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        0fc2ca01 ; cmpltps xmm1, xmm2 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        0f2fca ; comiss xmm1, xmm2 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        0f2ed1 ; ucomiss xmm2, xmm1 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        660f5bd9 ; cvtps2dq xmm3, xmm1 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        f30f5bda ; cvttps2dq xmm3, xmm2 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        f3480f2dc1 ; cvtss2si rax, xmm1 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        f30f2cc2 ; cvttss2si eax, xmm2 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        0f5ada ; cvtps2pd xmm3, xmm2 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        660f3a08d904 ; roundps xmm3, xmm1, 4 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        660f3a40caff ; dpps xmm1, xmm2, 0xff ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        f20f7cca ; haddps xmm1, xmm2 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        f20fd0ca ; addsubps xmm1, xmm2 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        660f3814ca ; blendvps xmm1, xmm2, xmm0 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        660f3a21ca5d ; insertps xmm1, xmm2, 0x5d ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        660f3800ca ; pshufb xmm1, xmm2 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        660f3804ca ; pmaddubsw xmm1, xmm2 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        660ff6ca ; psadbw xmm1, xmm2 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        660f6bca ; packssdw xmm1, xmm2 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        660f67ca ; packuswb xmm1, xmm2 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        660f380bca ; pmulhrsw xmm1, xmm2 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        660f73d911 ; psrldq xmm1, 17 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        660f72f120 ; pslld xmm1, 32 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        660fe2ca ; psrad xmm1, xmm2 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        660f3a42ca05 ; mpsadbw xmm1, xmm2, 5 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        660f3841da ; phminposuw xmm3, xmm2 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        660f3a63ca1a ; pcmpistri xmm1, xmm2, 0x1a ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        660f3a44ca11 ; pclmulqdq xmm1, xmm2, 0x11 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        c5e858c9 ; vaddps xmm1, xmm2, xmm1 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        c4e26d0cc9 ; vpermilps ymm1, ymm2, ymm1 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        c4e27d18ca ; vbroadcastss ymm1, xmm2 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        c5fdd7c1 ; vpmovmskb eax, ymm1 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        c5f877 ; vzeroupper ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        c4e269a8ca ; vfmadd213ps xmm1, xmm2, xmm2 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        c4e269bfca ; vfnmsub231ss xmm1, xmm2, xmm2 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        c4e26d47c9 ; vpsllvd ymm1, ymm2, ymm1 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        c4e26d36c9 ; vpermd ymm1, ymm2, ymm1 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000
        0f280e ; movaps xmm1, [rsi] ; rsi=20000108
        0f100e ; movups xmm1, [rsi] ; rsi=20000ff8
        0f580e ; addps xmm1, [rsi] ; rsi=20000104
        c5f0580e ; vaddps xmm1, xmm1, [rsi] ; rsi=20000104
        c5fc280e ; vmovaps ymm1, [rsi] ; rsi=20000110
        0f110e ; movups [rsi], xmm1 ; rsi=20001ff8
        660ff7ca ; maskmovdqu xmm1, xmm2 ; xmm1=17f800000800000007fc00001 xmm2=7f800001ff800000000000003f800000 rdi=20001ff8
        c4e26d2c0e ; vmaskmovps ymm1, ymm2, [rsi] ; xmm2=7f800001ff800000000000003f800000 rsi=20002ff8
        c4e269900c9e ; vpgatherdd xmm1, [rsi+xmm3*4], xmm2 ; xmm2=80000000800000000000000080000000 xmm3=3f00000001ffffffff00000000 rsi=20000100
        0fc306 ; movnti [rsi], eax ; rsi=20000101
        f20ff00e ; lddqu xmm1, [rsi] ; rsi=20000101
        0fae16 ; ldmxcsr [rsi] ; rsi=20003000
        660f7ec8 ; movd eax, xmm1 ; xmm1=17f800000800000007fc00001 rax=ffffffffffffffff
        660f3a14c81f ; pextrb eax, xmm1, 31 ; xmm1=17f800000800000007fc00001
        660fc4c809 ; pinsrw xmm1, eax, 9 ; xmm1=17f800000800000007fc00001
        f3480f2ac8 ; cvtsi2ss xmm1, rax ; rax=7fffffffffffffff xmm1=17f800000800000007fc00001
        f2480f2ac8 ; cvtsi2sd xmm1, rax ; rax=ffffffffffffffff xmm1=17f800000800000007fc00001
    ");
}

#[test]
fn x87_corners_are_the_silicons() {
    check(64, "
        d9e8d9eedef9 ; fld1; fldz; fdivp ;
        d9eed9eedef9 ; fldz; fldz; fdivp ;
        d9eed9e0d9fa ; fldz; fchs; fsqrt ;
        d9e8d9e0d9fa ; fld1; fchs; fsqrt ;
        d9eed9f4 ; fldz; fxtract ;
        d9ebd9f4 ; fldpi; fxtract ;
        d9ebd9e8d9f8 ; fldpi; fld1; fprem ;
        d9ebd9e0d9ebd9f5 ; fldpi; fchs; fldpi; fprem1 ;
        d9e8d9eed9e0d9fd ; fld1; fldz; fchs; fscale ;
        d9ebd9fc ; fldpi; frndint ;
        d9eed9e0d9e5 ; fldz; fchs; fxam ;
        d9e5 ; fxam ;
        d9ebdb1e ; fldpi; fistp dword ptr [rsi] ;
        d9eadf0e ; fldl2e; fisttp word ptr [rsi] ;
        d9ecd916 ; fldlg2; fst dword ptr [rsi] ;
        d9eddb3e ; fldln2; fstp tbyte ptr [rsi] ;
        df26 ; fbld [rsi] ;
        d9ebdf36 ; fldpi; fbstp [rsi] ;
        db2e ; fld tbyte ptr [rsi] ;
        df2e ; fild qword ptr [rsi] ;
        ddd8 ; fstp st(0) ;
        d9e8d9e8d9e8d9e8d9e8d9e8d9e8d9e8d9e8 ; fld1; fld1; fld1; fld1; fld1; fld1; fld1; fld1; fld1 ;
        d9e8d9ebdbf1 ; fld1; fldpi; fcomi st(0), st(1) ;
        d9eed9e8dae9dfe0 ; fldz; fld1; fucompp; fnstsw ax ;
        d9e8d9e4dfe0 ; fld1; ftst; fnstsw ax ;
        d9e8d9ebd9c9dee1 ; fld1; fldpi; fxch; fsubrp ;
        d9f7d9e8ddc0 ; fincstp; fld1; ffree st(0) ;
        d93ed92e ; fnstcw [rsi]; fldcw [rsi] ;
        d936 ; fnstenv [rsi] ;
        d9e8d9e8dec3 ; fld1; fld1; faddp st(3), st(0) ;
        0f77d9e8 ; emms; fld1 ;
        d9eed9e8d9f1 ; fldz; fld1; fyl2x ;
        d9e8dac1 ; fld1; fcmovb st(0), st(1) ;
        d9e1 ; fabs ;
    ");
}

#[test]
fn instructions_of_32_bit_code_alone() {
    check(
        32,
        "
        27 ; daa ; rax=9a
        27 ; daa ; rax=ff
        2f ; das ; rax=66
        2f ; das ; rax=0
        37 ; aaa ; rax=ffff000f
        37 ; aaa ; rax=ff
        3f ; aas ; rax=f
        3f ; aas ; rax=0
        d40a ; aam ; rax=ff
        d400 ; aam 0 ; rax=5
        d50a ; aad ; rax=ffff
        ce ; into ;
        d6 ; salc ; rax=aa
        6206 ; bound eax, [esi] ; rax=5 rsi=20000100
        60 ; pusha ;
        61 ; popa ;
        60 ; pushad ; rsp=20000010
        40 ; inc eax ; rax=7fffffff
        48 ; dec eax ; rax=0
        678b00 ; mov eax, [bx+si] ; rbx=ffff rsi=2
        c406 ; les eax, [esi] ; rsi=20003000
        67e302 ; jcxz . + 5 ; rcx=10000
        67e202 ; loopw . + 5 ; rcx=10001
        6650 ; push ax ;
        9d ; popf ; rsp=20000100
        94 ; xchg eax, esp ; rax=20000400
        63d0 ; arpl ax, dx ; rax=1 rdx=3
        06 ; push es ;
        c9 ; leave ; rbp=20001800
        c8080002 ; enter 8, 2 ; rbp=20001400
    ",
    );
}
