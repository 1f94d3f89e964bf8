//! What people type who come from docker or virsh, and what it is called here.
//!
//! clap knows the nearest word by its letters. `shutdown` and `destroy` have no near letters here, and `ls` has the wrong ones:
//! these are known by their meaning.

use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use images::{BootError, ContainerError};
use registry::Reference;

use crate::answers::{Failed, Problem};
use crate::exit_status::BAD_INPUT;

/// Commands of others, each with what to type instead.
const COMMANDS: &[(&[&str], &str)] = &[
    (
        &["ls", "list", "container", "vm"],
        "`mother ps` lists VMs, `mother ps -a` ended ones too, `mother images` images",
    ),
    (
        &["ssh", "enter", "shell"],
        "`mother exec NAME` is a shell in a guest, `mother console NAME` its console; for ssh let a port lead in with `-p \
         2222:22`",
    ),
    (
        &["define", "launch", "install"],
        "`mother run -d --name NAME IMAGE` starts a VM and leaves it running",
    ),
    (
        &["shutdown", "poweroff"],
        "`mother stop NAME` presses the power button",
    ),
    (
        &["destroy", "terminate"],
        "`mother kill NAME` ends a VM at once",
    ),
    (
        &["freeze"],
        "`mother pause NAME` stops a guest and its time",
    ),
    (
        &["unpause", "thaw", "continue"],
        "`mother resume NAME` lets a paused VM go on",
    ),
    (
        &["undefine", "del"],
        "`mother rm NAME` removes what an ended VM left",
    ),
    (&["rmi"], "`mother images rm NAME` removes an image"),
    (
        &["stats", "domstats", "htop"],
        "`mother top` shows all guests on one screen, `mother ps NAME` the processes of one",
    ),
    (
        &[
            "dominfo",
            "show",
            "port",
            "domiflist",
            "domblklist",
            "dumpxml",
        ],
        "`mother inspect NAME` says everything about a VM, its ports and disks included",
    ),
    (
        &["pull"],
        "`mother images pull NAME` gets an image from its registry, `mother run NAME` runs it",
    ),
    (
        &["search", "login", "push", "build", "import", "load"],
        REGISTRIES,
    ),
    (
        &["info", "check", "capabilities", "nodeinfo", "version"],
        "`mother doctor` says what works on this host, `mother --version` the version",
    ),
    (
        &["log", "tail"],
        "`mother logs NAME` prints what a guest printed; `-f` follows",
    ),
    (
        &["setmem", "setmaxmem", "memory"],
        "`mother limit NAME --resident SIZE` sets what the host holds of a guest's memory, `mother balloon NAME SIZE` asks \
         the guest for some",
    ),
    (
        &["migrate"],
        "`mother switch NAME --engine ENGINE` moves a guest between engines of this host",
    ),
    (
        &["commit", "save", "checkpoint"],
        "`mother snapshot NAME` writes all that a VM is, `mother suspend NAME` ends it too",
    ),
    (
        &["scp", "rsync", "copy"],
        "`mother cp FILES NAME:/FOLDER` copies into a guest, `mother cp NAME:/PATH .` out of one",
    ),
    (
        &["network", "net"],
        "`mother networks` lists networks between VMs, and `mother run --net net:NAME` puts a VM on one",
    ),
    (
        &["volume"],
        "a folder of this host is shared by `mother run -v HOST:GUEST`; what shall outlive a guest is in there, or on a disk",
    ),
];

/// Options of others to `run`, each with what to type instead.
const OPTIONS: [(&[&str], &str); 12] = [
    (
        &["-i", "-t", "-it", "--interactive", "--tty"],
        "the console is on this terminal unless you write `-d`; leave it out",
    ),
    (
        &["--rm", "--remove"],
        "what a run writes goes with it anyway; `--keep NAME` keeps it",
    ),
    (
        &["--mount"],
        "a folder of this host is shared by `-v HOST:GUEST`, and disks go in with `--disk FILE`",
    ),
    (&["-e"], "write `--env NAME=VALUE`"),
    (&["-w"], "write `--workdir FOLDER`"),
    (&["-m", "--ram", "--mem"], "write `--memory SIZE`"),
    (&["--vcpus", "-c", "--smp", "-smp"], "write `--cpus N`"),
    (
        &["--network", "--nic", "--netdev"],
        "write `--net user`, `--net net:NAME`, `--net tap=NAME` or `--net none`",
    ),
    (
        &["--port", "--ports", "--expose", "-P"],
        "write `-p HOST:GUEST`",
    ),
    (&["-h", "-n"], "write `--name NAME`"),
    (
        &["--entrypoint"],
        "what a container image runs stands behind `--`: mother run IMAGE -- PROGRAM ARGUMENTS",
    ),
    (&["--append"], "write `--cmdline STR`"),
];

/// Where images come from, for people who would make them or log in.
pub const REGISTRIES: &str = "images come from registries by their names (`mother run docker.io/library/alpine`; logins are \
                              those of docker and skopeo) and from files: `docker save NAME > image.tar`, and run \
                              ./image.tar; Debian is made here: mother run debian";

fn meaning(table: &[(&[&str], &'static str)], word: &str) -> Option<&'static str> {
    let entry = table.iter().find(|(words, _)| words.contains(&word));
    entry.map(|(_, hint)| *hint)
}

/// The same error with what is meant, where that is known better than by its letters.
pub fn with_hint(mut error: clap::Error) -> clap::Error {
    let (context, table, nearest): (_, &[(&[&str], &str)], _) = match error.kind() {
        ErrorKind::InvalidSubcommand => (
            ContextKind::InvalidSubcommand,
            COMMANDS,
            ContextKind::SuggestedSubcommand,
        ),
        ErrorKind::UnknownArgument => {
            (ContextKind::InvalidArg, &OPTIONS, ContextKind::SuggestedArg)
        }
        _ => return error,
    };
    let Some(ContextValue::String(word)) = error.get(context) else {
        return error;
    };
    let Some(hint) = meaning(table, word) else {
        return error;
    };
    // Letters are not asked where the meaning is known.
    error.remove(nearest);
    let hints = ContextValue::StyledStrs(vec![hint.into()]);
    error.insert(ContextKind::Suggested, hints);
    error
}

/// An error about what was typed, for programs.
pub fn failed(error: &clap::Error) -> Failed {
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let message = lines.next().unwrap_or_default();
    let help = lines.find_map(|line| line.strip_prefix("tip: "));
    Failed {
        error: Problem {
            message: message.trim_start_matches("error: ").to_owned(),
            causes: Vec::new(),
            help: help.map(str::to_owned),
            complaints: Vec::new(),
            exit_status: BAD_INPUT,
        },
    }
}

/// What to do about a word that is no image.
pub fn about_image(word: &str) -> String {
    const KNOWN: &str = "there are debian, debian:12 and debian:13, what `mother images` lists, and paths: a file in this \
                         folder is ./FILE";
    // `ubuntu:24.04` is nothing that was misspelt.
    let name = word.split(':').next().unwrap_or_default();
    if name != "debian" && api::nearest(name, ["debian"]).is_some() {
        return format!("did you mean `debian`? {KNOWN}");
    }
    match Reference::parse(word) {
        Ok(reference) if name != "debian" => format!(
            "{KNOWN}. What is of Docker Hub is written with its host, so that what is misspelt is asked of nobody: \
             `mother run {reference}`, or `mother images pull {word}` once"
        ),
        _ => KNOWN.to_owned(),
    }
}

/// Endings of files that are run: a path that leads nowhere is asked of nobody else.
const ENDINGS: [&str; 7] = ["raw", "qcow2", "img", "iso", "tar", "gz", "zst"];

/// The image in a registry that a word with a slash in it names: `docker.io/library/alpine`, `owner/image`. What begins with
/// a folder that is there is a path, and so is what ends as files of images do.
pub fn in_registry(word: &str) -> Option<Reference> {
    let reference = Reference::parse(word).ok()?;
    let first = word.split('/').next().unwrap_or_default();
    let ending = Path::new(word).extension().and_then(|it| it.to_str());
    let is_file = Path::new(first).exists() || ending.is_some_and(|it| ENDINGS.contains(&it));
    (word.contains('/') && !is_file).then_some(reference)
}

/// Why a word that begins with a host is no name of an image there.
pub fn about_path(path: &Path) -> Option<String> {
    let word = path.to_str()?;
    let (first, _) = word.split_once('/')?;
    let is_host = first.trim_matches('.').contains(['.', ':']) && !Path::new(first).exists();
    let wrong = Reference::parse(word).err().filter(|_| is_host)?;
    Some(format!(
        "as a file it is not there, and as an image of a registry it is written wrongly: {}",
        wrong.what
    ))
}

/// What to do about a disk that says nowhere how it is started.
pub fn about_boot(error: &BootError) -> Option<String> {
    let bring = "say what to start: `--kernel FILE --initrd FILE --cmdline \"root=/dev/vda1 ro console=ttyS0\"`";
    Some(match error {
        BootError::UefiOnly(_) => {
            format!("Mother has no UEFI firmware; if there is a Linux on it, {bring}")
        }
        BootError::Unread(_) => format!(
            "boot entries are read from ext2 to ext4 and vfat; copy kernel and initrd out of it and {bring}"
        ),
        BootError::Nothing(_) => format!("name a disk with a Linux on it, or {bring}"),
        BootError::BadEntry { .. } => format!("put it right in the disk's own menu, or {bring}"),
        BootError::Spool(_) => {
            "kernel and initrd are copied to the cache's folder: make room there".to_owned()
        }
        BootError::Disk(_) | BootError::Reader(_) => return None,
    })
}

/// What to do about a container image that cannot be used.
pub fn about_container(path: &Path, error: &ContainerError) -> Option<String> {
    let path = path.display();
    Some(match error {
        ContainerError::Several(names) => {
            let name = names.last().map_or("NAME", String::as_str);
            format!("name one of them: `mother run {path}:{name}`")
        }
        ContainerError::NotAmong { .. } => "name one that it has, or its tag".to_owned(),
        ContainerError::OldManifest => {
            format!("have skopeo write it anew: `skopeo copy --format oci dir:{path} oci:NEW`")
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::arguments::Arguments;

    /// What a person reads behind the first `tip:` after these words.
    fn tip(words: &[&str]) -> String {
        let words = std::iter::once("mother").chain(words.iter().copied());
        let error = Arguments::command()
            .try_get_matches_from(words)
            .unwrap_err();
        let text = with_hint(error).render().to_string();
        let tips = text.split("tip: ").skip(1);
        let mut first_lines = tips.map(|tip| tip.split("\n\n").next().unwrap_or_default());
        let first = first_lines.next().unwrap_or_default();
        first.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn words_of_others_are_known_by_their_meaning() {
        let check = |words: &[&str], expected: &str| {
            let tip = tip(words);
            assert!(tip.contains(expected), "{words:?}: {tip}");
        };
        check(&["ls"], "`mother ps` lists VMs");
        check(&["ssh", "web", "ls"], "`mother exec NAME`");
        check(&["scp", "a", "web:/b"], "`mother cp FILES NAME:/FOLDER`");
        check(&["destroy", "web"], "`mother kill NAME`");
        check(&["shutdown", "web"], "`mother stop NAME`");
        check(&["pull", "nginx"], "`mother images pull NAME`");
        check(&["login", "reg.example"], "docker save");
        check(&["run", "-it", "debian"], "leave it out");
        check(&["run", "--rm", "debian"], "`--keep NAME`");
        check(
            &["run", "--mount", "type=bind", "debian"],
            "`-v HOST:GUEST`",
        );
        check(&["run", "-m", "2G"], "`--memory SIZE`");
        // What is near by its letters stays with them.
        check(&["stpo", "web"], "'stop'");
        check(&["run", "--memroy", "2G"], "'--memory'");
    }

    #[test]
    fn no_hint_hides_a_word_that_there_is() {
        let command = Arguments::command();
        let names: Vec<&str> = command
            .get_subcommands()
            .flat_map(|command| command.get_all_aliases().chain([command.get_name()]))
            .collect();
        let hinted = COMMANDS.iter().flat_map(|(words, _)| words.iter());
        let there: Vec<_> = hinted.filter(|word| names.contains(word)).collect();
        assert!(there.is_empty(), "{there:?}");
    }

    #[test]
    fn a_name_of_a_registry_is_told_from_a_path() {
        let check = |text: &str, expected: Option<&str>| {
            let read = in_registry(text).map(|it| it.to_string());
            assert_eq!(read.as_deref(), expected, "{text}");
        };
        check(
            "docker.io/library/alpine",
            Some("docker.io/library/alpine:latest"),
        );
        check("ghcr.io/owner/image:1.2", Some("ghcr.io/owner/image:1.2"));
        check("127.0.0.1:5000/box", Some("127.0.0.1:5000/box:latest"));
        check("owner/image", Some("docker.io/owner/image:latest"));
        check("library/nginx@sha256", None);
        check("./image.tar", None);
        check("../image.tar", None);
        check("/images/disk.raw", None);
        check("src/disk", None);
        check("disks/disk.qcow2", None);
        check("Images/Disk", None);
        check("nginx", None);
    }

    #[test]
    fn a_host_with_a_wrong_name_behind_it_is_told_so() {
        let check = |path: &str, expected: Option<&str>| {
            let told = about_path(Path::new(path));
            let is_right = match expected {
                Some(words) => told.as_ref().is_some_and(|it| it.contains(words)),
                None => told.is_none(),
            };
            assert!(is_right, "{path}: {told:?}");
        };
        check("ghcr.io/UPPER/x", Some("lower-case"));
        check("127.0.0.1:5000/box:", Some("a tag has"));
        check("./absent.raw", None);
        check("../absent.raw", None);
        check("/absent/disk.raw", None);
        check("disks/absent.raw", None);
    }

    #[test]
    fn an_unknown_image_is_near_to_one_or_elsewhere() {
        assert!(about_image("debain").starts_with("did you mean `debian`?"));
        let ubuntu = about_image("ubuntu:24.04");
        assert!(
            ubuntu.contains("`mother run docker.io/library/ubuntu:24.04`"),
            "{ubuntu}"
        );
        assert!(!about_image("debian:99").contains("docker.io"));
        assert!(!about_image("What Is This").contains("docker.io"));
    }
}
