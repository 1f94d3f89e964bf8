//! Which engines can run here, why not, and which one a VM gets.
//!
//! Looking and judging are apart: [`look`] asks the host, [`judge`] turns what was seen into findings, so that every
//! kind of host is a line in a test.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use kvm::Node;
use mem::GuestMemory;
use serde::{Deserialize, Serialize};
use vcpu::{Engine, EngineError, Vcpu};
use x86::CpuidTable;

/// What executes guest code.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineKind {
    /// Hardware virtualization through `/dev/kvm`.
    Kvm,
    /// Our own software CPU.
    Soft,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EngineKind::Kvm => "kvm",
            EngineKind::Soft => "soft",
        })
    }
}

/// What is known about one engine on this host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineFinding {
    /// Which one.
    pub kind: EngineKind,
    /// Whether a VM can run on it.
    pub usable: bool,
    /// Why, as half a sentence that can follow the engine's name and a colon.
    pub why: String,
    /// What to do about it, if anything can be done.
    pub help: Option<String>,
}

/// The engine of a VM and the reason.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineChoice {
    /// The engine.
    pub kind: EngineKind,
    /// Why, in one line.
    pub why: String,
}

/// What came of running a program of a few instructions on KVM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Probe {
    /// Nobody tried.
    NotAsked,
    /// It ran as fast as outside.
    Native,
    /// It took so many times as long, or longer.
    Slow(u128),
    /// It did not come to its end.
    Unfinished,
    /// KVM refused to run it.
    Refused,
}

/// Everything about the host that decides over engines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct HostFacts {
    kvm: kvm::Findings,
    probe: Probe,
    /// CPUID 1 ECX bit 5 (SDM vol. 3, 24.6).
    has_vmx: bool,
    /// CPUID 0x8000_0001 ECX bit 2 (APM vol. 2, 15.4).
    has_svm: bool,
    /// CPUID 1 ECX bit 31: this host is a guest itself.
    is_guest: bool,
    /// Ring 3 may set GS base, which the software CPU lives on.
    has_fsgsbase: bool,
    /// `/dev/kvm` is open for a group that one can join: not root's, and with both permissions.
    has_kvm_group: bool,
}

/// Asks the host; thoroughly only where KVM may be the answer: that makes a VM, and on a suspicious host runs one.
fn look(thorough: bool) -> HostFacts {
    let kvm = kvm::look(thorough);
    let has_vmx = host::cpu::cpuid(1, 0)[2] & 1 << 5 != 0;
    let has_svm = host::cpu::cpuid(0x8000_0001, 0)[2] & 1 << 2 != 0;
    let is_suspicious = kvm.node == Node::Opens && kvm.missing.is_none() && !has_vmx && !has_svm;
    HostFacts {
        kvm,
        probe: if thorough && is_suspicious {
            probe()
        } else {
            Probe::NotAsked
        },
        has_vmx,
        has_svm,
        is_guest: host::cpu::cpuid(1, 0)[2] & 1 << 31 != 0,
        has_fsgsbase: host::cpu::has_user_fsgsbase(),
        has_kvm_group: std::fs::metadata("/dev/kvm")
            .is_ok_and(|node| is_for_a_group(node.mode(), node.gid())),
    }
}

/// Whether joining the group would open a node with this mode, and would open nothing worse.
fn is_for_a_group(mode: u32, group: u32) -> bool {
    const READ_AND_WRITE: u32 = 0o060;
    mode & READ_AND_WRITE == READ_AND_WRITE && group != 0
}

fn probe() -> Probe {
    match kvm::measure() {
        Err(_) => Probe::Refused,
        Ok(speed) if speed.is_native() => Probe::Native,
        Ok(kvm::Speed {
            guest: Some(guest),
            native,
        }) => Probe::Slow(guest.as_nanos().div_ceil(native.as_nanos().max(1))),
        Ok(_) => Probe::Unfinished,
    }
}

const USE_SOFT: &str = "use `--engine soft`, or `auto`, which takes it";

fn judge_kvm(facts: HostFacts) -> EngineFinding {
    let HostFacts { kvm, probe, .. } = facts;
    let extension = match (facts.has_vmx, facts.has_svm) {
        (true, _) => Some("vmx"),
        (_, true) => Some("svm"),
        _ => None,
    };
    let (usable, why, help): (bool, String, &str) = match (kvm.node, kvm.missing, extension) {
        (Node::Opens, Some(missing), _) => (
            false,
            format!("/dev/kvm opens, but this kernel is too old: its KVM has no {missing}"),
            "boot Linux 5.16 or later; until then use `--engine soft`",
        ),
        (Node::Opens, None, Some(extension)) if facts.is_guest => (
            true,
            format!(
                "/dev/kvm opens and the CPU has {extension}; this host is a virtual machine itself, so what leaves \
                 the guest costs more than on bare metal"
            ),
            "",
        ),
        (Node::Opens, None, Some(extension)) => {
            (true, format!("/dev/kvm opens and the CPU has {extension}"), "")
        }
        (Node::Opens, None, None) => judge_suspicious(probe),
        (Node::Absent, _, None) => {
            (false, "there is no /dev/kvm, and the CPU shows no vmx and no svm".to_owned(), "")
        }
        (Node::Absent, _, Some(extension)) => (
            false,
            format!("there is no /dev/kvm, although the CPU has {extension}"),
            "load the kernel module kvm_intel or kvm_amd, or pass /dev/kvm into this container",
        ),
        (Node::Denied, ..) if facts.has_kvm_group => (
            false,
            "permission to open /dev/kvm is denied".to_owned(),
            "add the user to the group that owns /dev/kvm, and log in again",
        ),
        (Node::Denied, ..) => (
            false,
            "permission to open /dev/kvm is denied, and there is no group that it is open for".to_owned(),
            "have root open it for this user with `setfacl -m u:USER:rw /dev/kvm`, or for a group of its own with \
             `chgrp kvm /dev/kvm; chmod 660 /dev/kvm`; until then use `--engine soft`",
        ),
        (Node::Busy, ..) => (
            false,
            "/dev/kvm is there, but another hypervisor has taken the CPU's virtualization for itself"
                .to_owned(),
            "stop the other hypervisor's machines or unload its kernel module; until then use `--engine soft`",
        ),
        (Node::NotKvm, ..) => {
            (false, "/dev/kvm opens, but what answers there is not KVM".to_owned(), USE_SOFT)
        }
        (Node::Fails, ..) => (
            false,
            "/dev/kvm exists, but no VM can be made with it".to_owned(),
            "look into the kernel's log for what kvm says; until then use `--engine soft`",
        ),
    };
    let help = (!help.is_empty()).then(|| help.to_owned());
    EngineFinding {
        kind: EngineKind::Kvm,
        usable,
        why,
        help,
    }
}

/// A `/dev/kvm` that opens on a CPU that shows no virtualization.
fn judge_suspicious(probe: Probe) -> (bool, String, &'static str) {
    let but = "/dev/kvm opens, but the CPU shows no vmx and no svm";
    match probe {
        Probe::Native => (
            true,
            "/dev/kvm opens, and although the CPU shows no vmx and no svm, guest code runs at its full speed"
                .to_owned(),
            "",
        ),
        Probe::NotAsked => (false, but.to_owned(), USE_SOFT),
        Probe::Slow(times) => (
            false,
            format!(
                "{but}, and a test program ran {times} times slower in a guest: software answers behind it"
            ),
            USE_SOFT,
        ),
        Probe::Unfinished => (
            false,
            format!(
                "{but}, and a test program did not come to its end in a guest: software answers behind it"
            ),
            USE_SOFT,
        ),
        Probe::Refused => (false, format!("{but}, and a test program could not be run in a guest"), USE_SOFT),
    }
}

fn judge_soft(facts: HostFacts) -> EngineFinding {
    let (why, help) = if facts.has_fsgsbase {
        (
            "needs nothing but an x86-64 CPU and a kernel that lets programs use FSGSBASE; both are here",
            None,
        )
    } else {
        (
            "the host's kernel does not let programs use FSGSBASE, which the software CPU keeps its state behind",
            Some(
                "boot a Linux kernel from 5.9 on without `nofsgsbase`, on a CPU from 2013 or later"
                    .to_owned(),
            ),
        )
    };
    EngineFinding {
        kind: EngineKind::Soft,
        usable: facts.has_fsgsbase,
        why: why.to_owned(),
        help,
    }
}

fn judge(facts: HostFacts) -> Vec<EngineFinding> {
    vec![judge_kvm(facts), judge_soft(facts)]
}

/// Every engine with whether and why it works on this host, best one first.
pub fn findings() -> Vec<EngineFinding> {
    judge(look(true))
}

/// The same for a VM that wants the engine `wanted`: does not try what cannot be the answer.
pub(crate) fn findings_for(wanted: &str) -> Vec<EngineFinding> {
    judge(look(wanted != "soft"))
}

/// `/dev/kvm`, or the host's number for why it does not open; `None` where KVM was found not to work.
pub(crate) type KvmDevice = Option<Result<kvm::Device, i32>>;

/// Opens it where it works by these findings. That it does not open after all matters only to a VM that is to run on it.
pub(crate) fn open_kvm(findings: &[EngineFinding]) -> KvmDevice {
    let refused = |error: io::Error| error.raw_os_error().unwrap_or(0);
    let mut usable = findings.iter().filter(|finding| finding.usable);
    let has_kvm = usable.any(|finding| finding.kind == EngineKind::Kvm);
    has_kvm.then(|| kvm::Device::open().map_err(refused))
}

/// What engines are made of in all lives and after all changes of engine. Opens nothing.
#[derive(Debug)]
pub(crate) struct Engines {
    kvm: KvmDevice,
}

impl Engines {
    /// From what the host has; what KVM wants of this process is prepared, since later nothing can be.
    ///
    /// # Errors
    /// If the host takes no handler of a signal.
    pub(crate) fn new(kvm: KvmDevice) -> io::Result<Engines> {
        if let Some(Ok(_)) = kvm {
            kvm::prepare_kicks()?;
        }
        Ok(Engines { kvm })
    }

    /// What a VM's CPUID must be narrowed to so that the VM can run on every engine that works here; `None` where the
    /// software CPU is the only one.
    pub(crate) fn cpuid_limit(&self) -> Option<CpuidTable> {
        self.kvm.as_ref()?.as_ref().ok()?.supported_cpuid().ok()
    }

    /// Makes the vCPUs of a life on an engine, one for each CPUID table.
    pub(crate) fn make(
        &self,
        kind: EngineKind,
        memory: &Arc<GuestMemory>,
        tables: Vec<CpuidTable>,
    ) -> Result<Engine, EngineError> {
        match kind {
            EngineKind::Kvm => self.make_kvm(memory, &tables),
            EngineKind::Soft => make_soft(memory, tables),
        }
    }

    fn make_kvm(
        &self,
        memory: &Arc<GuestMemory>,
        tables: &[CpuidTable],
    ) -> Result<Engine, EngineError> {
        let refused = |what, source| EngineError::Host { what, source };
        let device = match &self.kvm {
            Some(Ok(device)) => device,
            Some(Err(number)) => {
                let source = io::Error::from_raw_os_error(*number);
                return Err(refused("cannot open /dev/kvm", source));
            }
            None => {
                let source = io::ErrorKind::Unsupported.into();
                return Err(refused("KVM was found not to work here", source));
            }
        };
        kvm::Kvm::new(device, Arc::clone(memory))?.engine(tables)
    }
}

/// Makes the memory for code that a VM's lives on the software CPU need, for a process that locks itself in: it can make none
/// later. One life may begin before the last one's is free again.
///
/// # Errors
/// What the host says.
pub fn reserve_code() -> io::Result<()> {
    host::fault::install_handlers()?;
    host::executable::reserve(2, soft::Config::default().code_cache_bytes)
}

fn make_soft(memory: &Arc<GuestMemory>, tables: Vec<CpuidTable>) -> Result<Engine, EngineError> {
    let engine = soft::Soft::new(Arc::clone(memory), soft::Config::default())?;
    let memory = Arc::clone(&engine) as Arc<dyn vcpu::EngineMemory>;
    let make = |table| {
        engine
            .create_vcpu(table)
            .map(|vcpu| Box::new(vcpu) as Box<dyn Vcpu>)
    };
    let vcpus = tables.into_iter().map(make).collect::<Result<_, _>>()?;
    Ok(Engine {
        vcpus,
        local_apics: None,
        wires: None,
        memory: Some(memory),
    })
}

/// Why no engine could be chosen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NoEngine {
    pub(crate) what: String,
    pub(crate) help: String,
}

/// The engine that `wanted` (`auto`, `kvm` or `soft`) means on a host with these findings.
pub(crate) fn choose(wanted: &str, findings: &[EngineFinding]) -> Result<EngineChoice, NoEngine> {
    let find = |kind| {
        findings
            .iter()
            .find(|finding: &&EngineFinding| finding.kind == kind)
    };
    let kind = match wanted {
        "auto" => return choose_best(findings),
        "kvm" => EngineKind::Kvm,
        "soft" => EngineKind::Soft,
        other => {
            return Err(NoEngine {
                what: format!("there is no engine \"{other}\""),
                help: "write auto, kvm or soft".to_owned(),
            });
        }
    };
    match find(kind) {
        Some(finding) if finding.usable => Ok(EngineChoice {
            kind,
            why: "asked for".to_owned(),
        }),
        Some(finding) => Err(NoEngine {
            what: format!("the engine {kind} cannot be used: {}", finding.why),
            help: finding
                .help
                .clone()
                .unwrap_or_else(|| "use `--engine auto`".to_owned()),
        }),
        None => Err(NoEngine {
            what: format!("nothing is known about the engine {kind}"),
            help: "use `--engine auto`".to_owned(),
        }),
    }
}

fn choose_best(findings: &[EngineFinding]) -> Result<EngineChoice, NoEngine> {
    if let Some(best) = findings.iter().find(|finding| finding.usable) {
        let passed_over = findings.iter().take_while(|finding| !finding.usable);
        let reasons: Vec<String> = passed_over
            .map(|other| format!("not {}: {}", other.kind, other.why))
            .collect();
        let why = if reasons.is_empty() {
            best.why.clone()
        } else {
            reasons.join("; ")
        };
        return Ok(EngineChoice {
            kind: best.kind,
            why,
        });
    }
    let reasons: Vec<String> = findings
        .iter()
        .map(|finding| format!("{}: {}", finding.kind, finding.why))
        .collect();
    Err(NoEngine {
        what: format!("no engine works on this host ({})", reasons.join("; ")),
        help: findings
            .iter()
            .find_map(|finding| finding.help.clone())
            .unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(node: Node, has_vmx: bool, has_fsgsbase: bool) -> Vec<EngineFinding> {
        host_with(node, None, has_vmx, Probe::Unfinished, has_fsgsbase)
    }

    fn host_with(
        node: Node,
        missing: Option<&'static str>,
        has_vmx: bool,
        probe: Probe,
        has_fsgsbase: bool,
    ) -> Vec<EngineFinding> {
        let kvm = kvm::Findings { node, missing };
        judge(HostFacts {
            kvm,
            probe,
            has_vmx,
            has_svm: false,
            is_guest: false,
            has_fsgsbase,
            has_kvm_group: true,
        })
    }

    #[test]
    fn auto_says_why_it_passed_over_kvm() {
        let check = |findings: Vec<EngineFinding>, expected: &str| {
            let choice = choose("auto", &findings).unwrap();
            assert_eq!(
                (choice.kind, choice.why.as_str()),
                (EngineKind::Soft, expected)
            );
        };
        check(
            host(Node::Opens, false, true),
            "not kvm: /dev/kvm opens, but the CPU shows no vmx and no svm, and a test program did not come to its end \
             in a guest: software answers behind it",
        );
        check(
            host_with(Node::Opens, None, false, Probe::Slow(7), true),
            "not kvm: /dev/kvm opens, but the CPU shows no vmx and no svm, and a test program ran 7 times slower in a \
             guest: software answers behind it",
        );
        check(
            host_with(
                Node::Opens,
                Some("MSR filters"),
                true,
                Probe::NotAsked,
                true,
            ),
            "not kvm: /dev/kvm opens, but this kernel is too old: its KVM has no MSR filters",
        );
        check(
            host(Node::Absent, false, true),
            "not kvm: there is no /dev/kvm, and the CPU shows no vmx and no svm",
        );
        check(
            host(Node::Denied, true, true),
            "not kvm: permission to open /dev/kvm is denied",
        );
        check(
            host(Node::Busy, true, true),
            "not kvm: /dev/kvm is there, but another hypervisor has taken the CPU's virtualization for itself",
        );
        check(
            host(Node::NotKvm, true, true),
            "not kvm: /dev/kvm opens, but what answers there is not KVM",
        );
        check(
            host(Node::Fails, true, true),
            "not kvm: /dev/kvm exists, but no VM can be made with it",
        );
    }

    #[test]
    fn auto_takes_kvm_where_it_is_real() {
        let check = |findings: Vec<EngineFinding>, expected: &str| {
            let choice = choose("auto", &findings).unwrap();
            assert_eq!(
                (choice.kind, choice.why.as_str()),
                (EngineKind::Kvm, expected)
            );
        };
        check(
            host(Node::Opens, true, true),
            "/dev/kvm opens and the CPU has vmx",
        );
        check(
            host_with(Node::Opens, None, false, Probe::Native, true),
            "/dev/kvm opens, and although the CPU shows no vmx and no svm, guest code runs at its full speed",
        );
        let kvm = kvm::Findings {
            node: Node::Opens,
            missing: None,
        };
        let nested = HostFacts {
            kvm,
            probe: Probe::NotAsked,
            has_vmx: false,
            has_svm: true,
            is_guest: true,
            has_fsgsbase: true,
            has_kvm_group: true,
        };
        check(
            judge(nested),
            "/dev/kvm opens and the CPU has svm; this host is a virtual machine itself, so what leaves the guest \
             costs more than on bare metal",
        );
    }

    #[test]
    fn a_group_is_named_only_where_joining_it_helps_and_gives_nothing_else() {
        let check = |mode, group, expected| {
            assert_eq!(is_for_a_group(mode, group), expected, "{mode:o} {group}");
            let kvm = kvm::Findings {
                node: Node::Denied,
                missing: None,
            };
            let facts = HostFacts {
                kvm,
                probe: Probe::NotAsked,
                has_vmx: true,
                has_svm: false,
                is_guest: false,
                has_fsgsbase: true,
                has_kvm_group: is_for_a_group(mode, group),
            };
            let help = judge(facts)[0].help.clone().unwrap();
            assert_eq!(
                help.starts_with("add the user to the group"),
                expected,
                "{help}"
            );
        };
        check(0o20660, 104, true);
        check(0o20666, 104, true);
        check(0o20600, 104, false);
        check(0o20640, 104, false);
        check(0o20660, 0, false);
        check(0o20600, 0, false);
    }

    #[test]
    fn what_keeps_kvm_from_working_has_a_way_on() {
        for node in [
            Node::Denied,
            Node::Busy,
            Node::NotKvm,
            Node::Fails,
            Node::Absent,
        ] {
            assert!(host(node, true, true)[0].help.is_some(), "{node:?}");
        }
        assert!(
            host_with(Node::Opens, Some("x"), true, Probe::NotAsked, true)[0]
                .help
                .is_some()
        );
        assert!(host(Node::Opens, false, true)[0].help.is_some());
    }

    #[test]
    fn what_was_found_not_to_work_is_neither_opened_nor_run_on() {
        let check = |findings: Vec<EngineFinding>| {
            let engines = Engines::new(open_kvm(&findings)).unwrap();
            assert!(engines.kvm.is_none() && engines.cpuid_limit().is_none());
            let memory = Arc::new(GuestMemory::flat(1 << 20).unwrap());
            let made = engines.make(EngineKind::Kvm, &memory, Vec::new());
            let error = made.err().expect("there is no KVM to make it of");
            assert!(
                error.to_string().contains("KVM was found not to work"),
                "{error}"
            );
        };
        check(host(Node::Absent, true, true));
        check(host(Node::Busy, true, true));
        check(host(Node::Opens, false, true));
        check(Vec::new());
    }

    #[test]
    fn an_engine_that_cannot_work_is_refused_with_the_reason() {
        let check = |wanted, findings: Vec<EngineFinding>, expected: &str| {
            assert_eq!(choose(wanted, &findings).unwrap_err().what, expected);
        };
        check(
            "xen",
            host(Node::Opens, true, true),
            "there is no engine \"xen\"",
        );
        check(
            "kvm",
            host(Node::Absent, true, true),
            "the engine kvm cannot be used: there is no /dev/kvm, although the CPU has vmx",
        );
        check(
            "soft",
            host(Node::Absent, true, false),
            "the engine soft cannot be used: the host's kernel does not let programs use FSGSBASE, which the \
             software CPU keeps its state behind",
        );
        assert!(choose("auto", &host(Node::Absent, true, false)).is_err());
    }
}
