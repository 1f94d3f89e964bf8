//! Processes of other hypervisors, known by their program's name; what they were told, by their command line.

use std::path::PathBuf;

use super::process::{Process, ProcessBooks};
use super::{Foreign, Kind};

const MIB: u64 = 1 << 20;
/// Memory of a guest that QEMU was told nothing about (qemu(1), `-m`).
const QEMU_DEFAULT_BYTES: u64 = 128 * MIB;
/// So much of a program's name is in `comm`, and how the name of the loader begins.
const COMM_BYTES: usize = 15;
const LOADER: &str = "ld-linux";

/// What a command line says.
#[derive(Debug, Default, PartialEq)]
struct Told {
    is_libvirt: bool,
    name: Option<String>,
    engine: Option<&'static str>,
    cpus: Option<f64>,
    memory_bytes: Option<u64>,
    qmp: Vec<PathBuf>,
}

/// The VM of a process, if it has one.
pub(super) fn vm(process: &Process) -> Option<Foreign> {
    let is_loaded = process.comm.starts_with(LOADER);
    let known = kind(&process.comm);
    if known.is_none() && !is_loaded {
        return None;
    }
    let words = process.words();
    let kind = known.or_else(|| words.iter().find_map(|word| kind_of_path(word)))?;
    let told = match kind {
        Kind::Qemu => qemu(&words),
        Kind::Firecracker => Told {
            name: value(&words, "--id"),
            ..Told::default()
        },
        Kind::CloudHypervisor => cloud_hypervisor(&words),
        _ => crosvm(&words)?,
    };
    let books = ProcessBooks::of(process.pid);
    let engine = match kind {
        Kind::Qemu => told.engine,
        _ => Some("kvm"),
    };
    Some(Foreign {
        kind: match told.is_libvirt {
            true => Kind::Libvirt,
            false => kind,
        },
        name: told.name.unwrap_or_else(|| process.pid.to_string()),
        runtime: None,
        pid: process.pid,
        uid: process.uid,
        engine: engine.map(Into::into),
        cpus: told.cpus,
        uptime_seconds: books.uptime_seconds,
        cpu_seconds: books.cpu_seconds,
        memory_believed_bytes: told.memory_bytes,
        memory_held_bytes: books.resident_bytes,
        memory_swapped_bytes: books.swapped_bytes,
        cgroup: None,
        qmp: told.qmp,
    })
}

/// By the first 15 bytes of the program's name, which is all that `comm` has.
fn kind(comm: &str) -> Option<Kind> {
    match comm {
        "firecracker" => Some(Kind::Firecracker),
        "cloud-hyperviso" => Some(Kind::CloudHypervisor),
        "crosvm" => Some(Kind::Crosvm),
        "qemu-kvm" | "kvm" | "qemu-system-x86" => Some(Kind::Qemu),
        _ => None,
    }
}

/// A program that is started through its loader is called as that is.
fn kind_of_path(word: &str) -> Option<Kind> {
    let name = word.rsplit_once('/')?.1;
    kind(name.get(..COMM_BYTES).unwrap_or(name))
}

/// What follows an option, behind a space or a sign of equality.
fn value(words: &[String], option: &str) -> Option<String> {
    values(words, option).next()
}

fn values<'a>(words: &'a [String], option: &'a str) -> impl Iterator<Item = String> + 'a {
    let pairs = words.iter().enumerate();
    pairs.filter_map(move |(at, word)| match word.strip_prefix(option)? {
        "" => words.get(at + 1).cloned(),
        rest => rest.strip_prefix('=').map(str::to_owned),
    })
}

/// A key of a list `value,key=value,…`; the first one need not have a key.
fn key<'a>(list: &'a str, name: &str) -> Option<&'a str> {
    list.split(',')
        .find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

fn first(list: &str) -> Option<&str> {
    let first = list.split(',').next()?;
    (!first.contains('=')).then_some(first)
}

/// An amount; a number without a unit is so many of `unit`.
fn amount(text: &str, unit: u64) -> Option<u64> {
    let text = text.trim();
    let at = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(at);
    let unit = match suffix.to_ascii_lowercase().as_str() {
        "" => unit,
        "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => MIB,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return None,
    };
    let number: f64 = number.parse().ok()?;
    Some((number * unit as f64) as u64)
}

/// qemu(1). libvirt writes its options so too, and gives every domain a folder of its own.
fn qemu(words: &[String]) -> Told {
    let name = value(words, "-name");
    let name = name.and_then(|list| Some(key(&list, "guest").or(first(&list))?.to_owned()));
    let memory = value(words, "-m");
    let memory_bytes = memory.map_or(Some(QEMU_DEFAULT_BYTES), |list| {
        amount(key(&list, "size").or(first(&list))?, MIB)
    });
    let cpus = value(words, "-smp");
    let cpus = cpus.map_or(Some(1.0), |list| {
        key(&list, "cpus").or(first(&list))?.parse().ok()
    });
    let machines = values(words, "-machine").chain(values(words, "-M"));
    let accels = machines.filter_map(|list| Some(key(&list, "accel")?.to_owned()));
    let accels = values(words, "-accel").chain(accels);
    let is_kvm = words.iter().any(|word| word == "-enable-kvm")
        || accels
            .filter_map(|list| Some(list.split([',', ':']).next()?.to_owned()))
            .next()
            .is_some_and(|accel| accel == "kvm");
    let program = words.first().map_or("", String::as_str);
    Told {
        is_libvirt: words.iter().any(|word| word.contains("/libvirt/qemu/")),
        name,
        engine: Some(match is_kvm || program.ends_with("kvm") {
            true => "kvm",
            false => "tcg",
        }),
        cpus,
        memory_bytes,
        qmp: qmp(words),
    }
}

/// Sockets of QMP: `-qmp unix:PATH,…`, or a `-chardev socket` that a `-mon …,mode=control` names.
fn qmp(words: &[String]) -> Vec<PathBuf> {
    let short = values(words, "-qmp").filter_map(|word| {
        let path = word.strip_prefix("unix:")?.split(',').next()?;
        Some(PathBuf::from(path))
    });
    let monitors: Vec<String> = values(words, "-mon")
        .filter(|list| key(list, "mode") == Some("control"))
        .filter_map(|list| Some(key(&list, "chardev").or(first(&list))?.to_owned()))
        .collect();
    let sockets = values(words, "-chardev").filter(|list| first(list) == Some("socket"));
    let named = sockets.filter_map(|list| {
        let is_monitor = monitors.iter().any(|name| key(&list, "id") == Some(name));
        let path = key(&list, "path").filter(|_| is_monitor)?;
        Some(PathBuf::from(path))
    });
    short.chain(named).collect()
}

/// `cloud-hypervisor --cpus boot=N --memory size=SIZE` (its docs/memory.md).
fn cloud_hypervisor(words: &[String]) -> Told {
    let memory = value(words, "--memory");
    let cpus = value(words, "--cpus");
    Told {
        memory_bytes: memory.and_then(|list| amount(key(&list, "size")?, 1)),
        cpus: cpus.and_then(|list| key(&list, "boot")?.parse().ok()),
        ..Told::default()
    }
}

/// `crosvm run --mem MIB --cpus N --name NAME`; its other processes are devices.
fn crosvm(words: &[String]) -> Option<Told> {
    words.iter().any(|word| word == "run").then(|| {
        let number = |option| value(words, option)?.split(',').next().map(str::to_owned);
        let size = |text: String| amount(text.strip_prefix("size=").unwrap_or(&text), MIB);
        let cpus = |text: String| text.trim_start_matches("num-cores=").parse().ok();
        Told {
            name: value(words, "--name"),
            memory_bytes: number("--mem").or_else(|| number("-m")).and_then(size),
            cpus: number("--cpus").or_else(|| number("-c")).and_then(cpus),
            ..Told::default()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn qemu_says_on_its_command_line_what_it_was_told() {
        let check = |text: &str, name: Option<&str>, engine, cpus, mib: u64| {
            let told = qemu(&words(text));
            assert_eq!(told.name.as_deref(), name, "{text}");
            assert_eq!(told.engine, Some(engine), "{text}");
            assert_eq!(told.cpus, Some(cpus), "{text}");
            assert_eq!(told.memory_bytes, Some(mib * MIB), "{text}");
        };
        check("qemu-system-x86_64", None, "tcg", 1.0, 128);
        check(
            "qemu-system-x86_64 -name web -m 5G -smp 4 -accel tcg",
            Some("web"),
            "tcg",
            4.0,
            5120,
        );
        check(
            "/usr/bin/kvm -name guest=db,debug-threads=on -m 2048 -smp 2,sockets=1",
            Some("db"),
            "kvm",
            2.0,
            2048,
        );
        check(
            "qemu-system-x86_64 -machine q35,accel=kvm:tcg -m size=4194304k,slots=2 -smp cpus=3",
            None,
            "kvm",
            3.0,
            4096,
        );
    }

    #[test]
    fn libvirt_and_its_monitor_are_known() {
        let told = qemu(&words(
            "/usr/bin/qemu-system-x86_64 -name guest=d1,debug-threads=on -object \
             secret,id=masterKey0,file=/var/lib/libvirt/qemu/domain-1-d1/master-key.aes -chardev \
             socket,id=charmonitor,path=/var/lib/libvirt/qemu/domain-1-d1/monitor.sock,server=on -mon \
             chardev=charmonitor,id=monitor,mode=control",
        ));
        assert!(told.is_libvirt);
        let path = "/var/lib/libvirt/qemu/domain-1-d1/monitor.sock";
        assert_eq!(told.qmp, [PathBuf::from(path)]);
        let told = qemu(&words(
            "qemu -qmp unix:/tmp/q,server=on -qmp tcp:localhost:4444",
        ));
        assert_eq!(told.qmp, [PathBuf::from("/tmp/q")]);
    }

    #[test]
    fn others_say_it_in_their_words() {
        let told = cloud_hypervisor(&words(
            "cloud-hypervisor --cpus boot=4,max=8 --memory size=1G,shared=on",
        ));
        assert_eq!((told.cpus, told.memory_bytes), (Some(4.0), Some(1 << 30)));
        let told = crosvm(&words("crosvm run --mem 2048 --cpus num-cores=2 --name=a")).unwrap();
        assert_eq!(told.name.as_deref(), Some("a"));
        assert_eq!((told.cpus, told.memory_bytes), (Some(2.0), Some(2 << 30)));
        assert_eq!(crosvm(&words("crosvm device block")), None);
        assert_eq!(kind("qemu-system-x86"), Some(Kind::Qemu));
        assert_eq!(kind("qemu-img"), None);
        let loaded = "/folder/usr/bin/qemu-system-x86_64";
        assert_eq!(kind_of_path(loaded), Some(Kind::Qemu));
        assert_eq!(kind_of_path("/folder/lib"), None);
    }
}
