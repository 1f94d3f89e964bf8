//! `mother run IMAGE`: what the word means, and the machine that runs it.
//!
//! An image is never written: every run has an overlay of its own, which goes with the run or is kept under a name.

use std::fs::File;
use std::path::{Path, PathBuf};

use api::{
    BootChoice, DiskFormat, DiskSerial, DiskSpec, MemorySize, PartialSpec, SpecErrors, VmName,
    VmSpec,
};
use devices::virtio::blk::{ImageFormat, create_overlay};
use images::{
    BootEntry, Bootable, Cache, DebianRelease, GuestCommand, Image, ImageKind, Kept, RunFolder,
    Store,
};
use machine::{HostFindings, VmPlan, plan};
use registry::{Reference, Shelf};
use runner::Held;

use crate::build_image;
use crate::failure::{Failure, ImageFailure};
use crate::guest::{
    Asked, CONSOLE, NO_CLOUD_INIT_HELP, User, agent_word, complaint, folder_words, terminal_words,
};
use crate::hints;
use crate::progress;
use crate::standing::{bring_passt, held};

/// Memory of a system for which nothing was said; what it does not touch costs nothing.
const SYSTEM_MEMORY: MemorySize = MemorySize::of_mib(1024);

/// What a guest without a name is called in itself.
const DEFAULT_NAME: &str = "guest";

/// What starts a program in a system of ours (`crates/images/guest/console.sh`), and where that looks for others.
const SYSTEM_START: &str = "/run/mother/start";
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Kernel options of every guest that our initrd starts: few words on the console, and an end instead of a hang.
const QUIET: &str = "quiet panic=-1";
const LOUD: &str = "panic=-1";

/// How the guest and this process speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// A console; `true` if the guest says when it reads.
    Console(bool),
    /// Frames: it is one program.
    Frames,
}

fn quiet(is_kernel_loud: bool) -> &'static str {
    if is_kernel_loud { LOUD } else { QUIET }
}

/// A checked plan of an image, and what must stay as long as it runs.
#[derive(Debug)]
pub struct PlannedImage {
    /// What will be built.
    pub plan: VmPlan,
    /// What the plan is of.
    pub given: VmSpec,
    /// How to speak with it.
    pub speaks: Speaks,
    /// Whether what it writes outlives the run.
    pub is_kept: bool,
    /// What it stands on.
    pub held: Held,
    /// The disk's own boot entry, if it is started by one.
    pub boot: Option<BootChoice>,
}

/// What an overlay lies over, held so that nobody removes it.
#[derive(Debug)]
enum Base {
    Image(Image),
    Kept(Kept),
}

impl Base {
    fn image(&self) -> &Image {
        match self {
            Base::Image(image) => image,
            Base::Kept(kept) => &kept.image,
        }
    }
}

/// What a word can mean.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Meaning {
    Release(DebianRelease),
    Kept,
    /// An image that was made before.
    Made,
    File(PathBuf),
    /// One of the images in a file or folder.
    OneOf(PathBuf, String),
    /// An image of a registry.
    Registry(Reference),
    Unknown,
}

/// What is here is meant before what is elsewhere, and a word without a slash is never asked of a registry: it may be a
/// misspelt name of something that is here.
fn meaning(word: &str, store: &Store, shelf: &Shelf) -> Meaning {
    let is_path = word.contains('/') || Path::new(word).is_absolute();
    if is_path {
        if Path::new(word).exists() {
            return Meaning::File(word.into());
        }
        let elsewhere = || hints::in_registry(word).map(Meaning::Registry);
        return one_of(word)
            .or_else(elsewhere)
            .unwrap_or_else(|| Meaning::File(word.into()));
    }
    if let Some(release) = release(word) {
        return Meaning::Release(release);
    }
    if store.is_kept(word) {
        return Meaning::Kept;
    }
    if store.find(word).is_ok_and(|image| image.is_some()) {
        return Meaning::Made;
    }
    if Path::new(word).exists() {
        Meaning::File(word.into())
    } else {
        let pulled = || {
            let reference = Reference::parse(word).ok()?;
            shelf
                .find(&reference)
                .is_some()
                .then_some(Meaning::Registry(reference))
        };
        one_of(word).or_else(pulled).unwrap_or(Meaning::Unknown)
    }
}

/// `FOLDER:NAME` and `ARCHIVE:NAME`, where there is nothing of the whole name. The name may have a colon itself.
fn one_of(word: &str) -> Option<Meaning> {
    let splits = word.match_indices(':');
    let splits = splits.map(|(at, _)| (&word[..at], &word[at + 1..]));
    let is_there = |(path, name): &(&str, &str)| !name.is_empty() && Path::new(path).exists();
    splits
        .filter(|_| !Path::new(word).exists())
        .find(is_there)
        .map(|(path, name)| Meaning::OneOf(path.into(), name.to_owned()))
}

fn release(word: &str) -> Option<DebianRelease> {
    match word.split_once(':') {
        None if word == "debian" => Some(DebianRelease::of_host()),
        Some(("debian", release)) => DebianRelease::parse(release),
        _ => None,
    }
}

/// Finds or makes the image, gives it an overlay, and plans its machine.
pub fn plan_image(mut asked: Asked, word: &str, user: &User) -> Result<PlannedImage, Failure> {
    let cache = Cache::of_user()?;
    let store = cache.store();
    let meant = meaning(word, &store, &Shelf::of(&cache));
    check_meant(&meant, &asked.spec, word)?;
    if !matches!(&meant, Meaning::File(path) if is_disk(path)?) {
        check_no_cloud_init(&asked.spec, word)?;
    }
    bring_network(&mut asked)?;
    let is_kernel_loud = asked.is_kernel_loud;
    let Asked {
        spec, host, pull, ..
    } = asked;
    let jail = spec.jail.unwrap_or_default();
    let image = match meant {
        Meaning::Unknown => return Err(ImageFailure::Unknown(word.to_owned()).into()),
        Meaning::File(path) if is_disk(&path)? => {
            return plan_disk((spec, &host), Some(path), user);
        }
        _ if spec.disks.iter().any(|disk| disk.boot) => {
            return Err(ImageFailure::OwnKernel(word.to_owned()).into());
        }
        Meaning::File(path) => Some(progress::container(&cache, &path, None, jail)?),
        Meaning::OneOf(path, name) => Some(progress::container(&cache, &path, Some(&name), jail)?),
        Meaning::Registry(reference) => Some(progress::pulled(&cache, &reference, pull, jail)?),
        Meaning::Kept => None,
        Meaning::Made => store.find(word).map_err(ImageFailure::Store)?,
        Meaning::Release(release) => Some(debian(&cache, release)?),
    };
    let keep = spec.keep.as_deref().or(image.is_none().then_some(word));
    let run = cache.run_folder()?;
    let (base, overlay) = match (keep, image) {
        (Some(name), image) => {
            if let Some(image) = image.as_ref().filter(|_| store.is_kept(name)) {
                check_same_base(&store, name, &image.name)?;
            }
            let kept = store.keep(name, image).map_err(ImageFailure::Store)?;
            let overlay = kept.overlay.clone();
            (Base::Kept(kept), overlay)
        }
        (None, Some(image)) => (Base::Image(image), run.path().join("overlay.qcow2")),
        (None, None) => unreachable!("what is no image is kept"),
    };
    lay_over(&base.image().disk(), &overlay)?;
    plan_base(
        (spec, &host, is_kernel_loud),
        (base, overlay, run),
        user,
        &cache,
    )
}

/// Complains about a word that cannot be run, before anything is fetched for it.
fn check_meant(meant: &Meaning, spec: &VmSpec, word: &str) -> Result<(), ImageFailure> {
    match meant {
        Meaning::Unknown => Err(ImageFailure::Unknown(word.to_owned())),
        Meaning::Kept if spec.keep.is_some() => Err(ImageFailure::AlreadyKept(word.to_owned())),
        Meaning::File(path) if is_disk(path)? && spec.keep.is_some() => Err(ImageFailure::KeepDisk),
        Meaning::File(path) if is_disk(path)? && !spec.words.is_empty() => {
            Err(ImageFailure::NoCommand(path.display().to_string()))
        }
        _ => Ok(()),
    }
}

/// Refuses words for cloud-init with an image that has none.
fn check_no_cloud_init(spec: &VmSpec, word: &str) -> Result<(), SpecErrors> {
    let Some(option) = spec.for_cloud_init() else {
        return Ok(());
    };
    let what = format!("{word} has no cloud-init that would read it");
    Err(SpecErrors {
        name: spec.shown_name().to_owned(),
        complaints: vec![complaint(option, &what, NO_CLOUD_INIT_HELP)],
    })
}

/// A name that is kept already goes on with what it lies over, and that must be what was asked for.
fn check_same_base(store: &Store, name: &str, asked: &str) -> Result<(), Failure> {
    let over = store.over(name).map_err(ImageFailure::Store)?;
    if over == asked {
        return Ok(());
    }
    Err(ImageFailure::OtherBase {
        name: name.to_owned(),
        over,
        asked: asked.to_owned(),
    }
    .into())
}

/// The machine of disks alone, one of which says that it is started.
pub fn plan_boot_disk(mut asked: Asked, user: &User) -> Result<PlannedImage, Failure> {
    bring_network(&mut asked)?;
    plan_disk((asked.spec, &asked.host), None, user)
}

fn plan_base(
    (mut spec, host, is_kernel_loud): (VmSpec, &HostFindings, bool),
    (base, overlay, run): (Base, PathBuf, RunFolder),
    user: &User,
    cache: &Cache,
) -> Result<PlannedImage, Failure> {
    let image = base.image();
    let keeps = matches!(base, Base::Kept(_)) || !spec.disks.is_empty();
    let disk = DiskSpec {
        path: overlay,
        format: Some(DiskFormat::Qcow2),
        base: Some(image.disk()),
        base_format: Some(DiskFormat::Raw),
        serial: Some(DiskSerial::root()),
        ..DiskSpec::default()
    };
    spec.disks.insert(0, disk);
    spec.memory.get_or_insert(SYSTEM_MEMORY);
    let mut words = vec![CONSOLE.to_owned(), quiet(is_kernel_loud).to_owned()];
    let (kernel, initrd, speaks) = match image.kind {
        ImageKind::System => {
            let command = system_command(&spec, user);
            let typist = if command.is_some() { &User::Pipe } else { user };
            words.extend(system_words(typist, spec.name.as_ref()));
            let initrd = cache.system_initrd(image, command.as_ref(), &run)?;
            // A guest that starts again has lost the program that it was.
            spec.no_reboot |= command.is_some();
            let speaks = match command {
                Some(_) => Speaks::Frames,
                None => Speaks::Console(*user == User::Pipe),
            };
            (image.kernel(), initrd, speaks)
        }
        ImageKind::Container => {
            let guest = progress::default_guest()?;
            let command = command(&spec, image)?.at_terminal(user.terminal_of_program());
            let initrd = cache.disk_initrd(Some(&command), &run)?;
            words.push("mother.mode=command".to_owned());
            words.extend(spec.name.iter().map(|name| format!("mother.name={name}")));
            spec.no_reboot = true;
            (Some(guest.kernel), initrd, Speaks::Frames)
        }
    };
    if spec.initrd.is_none() {
        words.extend(folder_words(&spec));
        words.extend(agent_word(&mut spec));
    }
    spec.kernel = spec.kernel.or(kernel);
    spec.initrd = spec.initrd.or(Some(initrd));
    words.extend(spec.cmdline.take());
    spec.cmdline = Some(words.join(" "));
    Ok(PlannedImage {
        plan: plan(&spec, host)?,
        given: spec,
        speaks,
        is_kept: keeps,
        held: held_with(run, base),
        boot: None,
    })
}

/// The run's folder, and the locks of what its overlay lies over.
fn held_with(run: RunFolder, base: Base) -> Held {
    let mut held = held(run);
    match base {
        Base::Image(image) => held.locks.push(image.into_lock().into()),
        Base::Kept(kept) => held.locks.extend(kept.into_locks().map(Into::into)),
    }
    held
}

/// What a system runs for who does not log in: the words behind `--`, or a shell for what comes from a pipe. Who asks for a
/// console has all on that.
fn system_command(spec: &VmSpec, user: &User) -> Option<GuestCommand> {
    let is_script = *user == User::Pipe && spec.console.is_none();
    if spec.words.is_empty() && !is_script {
        return None;
    }
    let mut arguments = vec!["/bin/sh".to_owned(), SYSTEM_START.to_owned()];
    if spec.words.is_empty() {
        arguments.push("bash".to_owned());
    }
    arguments.extend(spec.words.iter().cloned());
    let mut environment = vec![format!("PATH={SYSTEM_PATH}"), "HOME=/root".to_owned()];
    environment.extend(spec.environment.iter().cloned());
    let terminal = user.terminal_of_program();
    if terminal.is_none() {
        environment.push("TERM=dumb".to_owned());
    }
    let folder = spec.workdir.as_ref();
    let command = GuestCommand {
        arguments,
        environment,
        folder: folder.map_or_else(
            || "/root".to_owned(),
            |folder| folder.to_string_lossy().into_owned(),
        ),
        ..GuestCommand::default()
    };
    Some(command.at_terminal(terminal))
}

/// What a container image runs: its own command, with the user's words in place of its arguments.
fn command(spec: &VmSpec, image: &Image) -> Result<GuestCommand, Failure> {
    let mut command = image.command.clone().unwrap_or_default();
    if !spec.words.is_empty() {
        command.replace_arguments(&spec.words);
    }
    if command.arguments.is_empty() {
        return Err(ImageFailure::CommandMissing(image.name.clone()).into());
    }
    for variable in &spec.environment {
        let name = variable.split('=').next().unwrap_or_default();
        command
            .environment
            .retain(|known| known.split('=').next() != Some(name));
        command.environment.push(variable.clone());
    }
    if !command
        .environment
        .iter()
        .any(|it| it.starts_with("HOSTNAME="))
    {
        let name = spec.name.as_ref().map_or(DEFAULT_NAME, VmName::as_str);
        command.environment.push(format!("HOSTNAME={name}"));
    }
    if let Some(folder) = &spec.workdir {
        command.folder = folder.to_string_lossy().into_owned();
    }
    Ok(command)
}

/// A disk of the user's own, before those that there are: with a kernel of theirs as it stands, else as its own boot entries
/// say, or those of the one that says `boot`, else, if there is a system on it and none of those, with the default kernel and
/// our initrd.
fn plan_disk(
    (mut spec, host): (VmSpec, &HostFindings),
    path: Option<PathBuf>,
    user: &User,
) -> Result<PlannedImage, Failure> {
    if let Some(path) = path {
        spec.disks.insert(0, disk_of(path));
    }
    let at = spec.disks.iter().position(|disk| disk.boot).unwrap_or(0);
    if spec.kernel.is_some() {
        let cmdline = spec.cmdline.take();
        spec.cmdline = Some(cmdline.unwrap_or_else(|| format!("{CONSOLE} root=/dev/vda rw")));
        return Ok(PlannedImage {
            plan: plan(&spec, host)?,
            given: spec,
            speaks: Speaks::Console(false),
            is_kept: true,
            held: Held::default(),
            boot: None,
        });
    }
    let cache = Cache::of_user()?;
    let run = cache.run_folder()?;
    let jail = spec.jail.unwrap_or_default();
    let image = spec.disks[at].path.clone();
    // What is wrong with the image itself is said before its reader stumbles over it.
    let written = PartialSpec {
        spec: spec.clone(),
        ..PartialSpec::default()
    };
    machine::check(&written, host)?;
    match progress::boot_entry(&image, &run, jail)? {
        Ok(Bootable::Entry(entry)) => return plan_entry((spec, host), entry, run),
        Ok(Bootable::System) => {
            let serial = spec.disks[at].serial.get_or_insert_with(DiskSerial::root);
            if *serial != DiskSerial::root() {
                return Err(ImageFailure::Unfound(image).into());
            }
        }
        Err(source) => {
            let path = image;
            return Err(ImageFailure::Boot { path, source }.into());
        }
    }
    let guest = progress::default_guest()?;
    let initrd = cache.disk_initrd(None, &run)?;
    let mut words = vec![CONSOLE.to_owned(), QUIET.to_owned()];
    words.extend(system_words(user, spec.name.as_ref()));
    if spec.initrd.is_none() {
        words.extend(folder_words(&spec));
        words.extend(agent_word(&mut spec));
    }
    words.extend(spec.cmdline.take());
    spec.cmdline = Some(words.join(" "));
    spec.kernel = Some(guest.kernel);
    spec.initrd = spec.initrd.or(Some(initrd));
    let speaks = Speaks::Console(*user == User::Pipe);
    Ok(PlannedImage {
        plan: plan(&spec, host)?,
        given: spec,
        speaks,
        is_kept: true,
        held: held(run),
        boot: None,
    })
}

/// A disk that was named as an image.
fn disk_of(path: PathBuf) -> DiskSpec {
    DiskSpec {
        // Nobody writes to a disc.
        read_only: images::is_disc(&path).unwrap_or(false),
        path,
        serial: Some(DiskSerial::root()),
        ..DiskSpec::default()
    }
}

/// A disk as its own boot entry starts it: kernel and initrd have been copied to the run's folder.
fn plan_entry(
    (mut spec, host): (VmSpec, &HostFindings),
    entry: BootEntry,
    run: RunFolder,
) -> Result<PlannedImage, Failure> {
    let BootEntry {
        title,
        source,
        kernel,
        initrds,
        cmdline,
    } = entry;
    spec.memory.get_or_insert(SYSTEM_MEMORY);
    spec.kernel = Some(run.path().join(progress::BOOT_KERNEL));
    if spec.initrd.is_none() && !initrds.is_empty() {
        spec.initrd = Some(run.path().join(progress::BOOT_INITRD));
    }
    let cmdline = spec.cmdline.take().unwrap_or_else(|| with_console(cmdline));
    spec.cmdline = Some(cmdline.clone());
    let boot = BootChoice {
        title,
        source,
        kernel,
        initrds,
        cmdline,
    };
    Ok(PlannedImage {
        plan: plan(&spec, host)?,
        given: spec,
        speaks: Speaks::Console(false),
        is_kept: true,
        held: held(run),
        boot: Some(boot),
    })
}

/// An entry's command line; one that says nothing of consoles would leave the serial one dark.
fn with_console(cmdline: String) -> String {
    let has_console = cmdline
        .split_whitespace()
        .any(|word| word.starts_with("console="));
    match (has_console, cmdline.is_empty()) {
        (true, _) => cmdline,
        (false, true) => CONSOLE.to_owned(),
        (false, false) => format!("{cmdline} {CONSOLE}"),
    }
}

/// The image of a release, made if it is not there.
pub fn debian(cache: &Cache, release: DebianRelease) -> Result<Image, Failure> {
    let found = cache
        .store()
        .find_system(&release.to_string())
        .map_err(ImageFailure::Store)?;
    match found {
        Some(image) => Ok(image),
        None => build_image::debian(cache, release),
    }
}

/// A machine has a network unless its user says otherwise. Where its program cannot be had, that is said, and only
/// who asked for a network gets none of the guest.
fn bring_network(asked: &mut Asked) -> Result<(), Failure> {
    match bring_passt(&mut asked.spec) {
        Err(failure @ Failure::Passt(_)) if !asked.is_network_asked => {
            eprintln!("mother: the guest has no network: {failure}");
            asked.spec.net = None;
            Ok(())
        }
        other => other,
    }
}

/// Whether a file is a disk and not an archive or a folder of layers.
fn is_disk(path: &Path) -> Result<bool, ImageFailure> {
    let absent = |source| ImageFailure::Open {
        path: path.to_owned(),
        source,
    };
    let metadata = std::fs::metadata(path).map_err(absent)?;
    Ok(metadata.is_file() && !images::is_archive(path).map_err(absent)?)
}

/// An overlay that is not there yet is made.
fn lay_over(base: &Path, overlay: &Path) -> Result<(), Failure> {
    if overlay.exists() {
        return Ok(());
    }
    let open = |path: &Path, source| ImageFailure::Open {
        path: path.to_owned(),
        source,
    };
    let disk = File::open(base).map_err(|source| open(base, source))?;
    // A half overlay never has the name of a whole one.
    let new = overlay.with_extension("new");
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&new);
    let file = file.map_err(|source| open(&new, source))?;
    create_overlay(file, &disk, &base.to_string_lossy(), ImageFormat::Raw, None)
        .map_err(ImageFailure::Overlay)?;
    std::fs::rename(&new, overlay).map_err(|source| open(overlay, source).into())
}

/// What a system in our care is told: who reads its console, and what it is called.
fn system_words(user: &User, name: Option<&VmName>) -> Vec<String> {
    let mut words: Vec<String> = name
        .iter()
        .map(|name| format!("systemd.hostname={name}"))
        .collect();
    match user {
        // A pipe answers no questions about its size and colours, and systemd would wait for answers.
        User::Pipe => words.push("mother.console=pipe systemd.show_status=no TERM=dumb".to_owned()),
        User::Person { term, size, .. } => words.extend(terminal_words(term.as_deref(), *size)),
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disks_command_line_is_its_own_and_has_a_console() {
        let check = |given: &str, expected: &str| {
            assert_eq!(with_console(given.to_owned()), expected);
        };
        check(
            "ro console=tty0 console=ttyS0,115200",
            "ro console=tty0 console=ttyS0,115200",
        );
        check("root=LABEL=root ro", "root=LABEL=root ro console=ttyS0");
        check("", "console=ttyS0");
    }

    #[test]
    fn words_mean_what_a_user_would_think() {
        let Ok(cache) = Cache::of_user() else { return };
        let shelf = Shelf::of(&cache);
        let check = |word: &str, expected: Meaning| {
            assert_eq!(meaning(word, &cache.store(), &shelf), expected, "{word}")
        };
        check(
            "debian:13",
            Meaning::Release(DebianRelease::parse("13").unwrap()),
        );
        check(
            "debian:bookworm",
            Meaning::Release(DebianRelease::parse("12").unwrap()),
        );
        check("debian:99", Meaning::Unknown);
        check("./debian", Meaning::File("./debian".into()));
        check("/disk.raw", Meaning::File("/disk.raw".into()));
        check("Cargo.toml", Meaning::File("Cargo.toml".into()));
        check("no-such-thing", Meaning::Unknown);
        let one_of = |path: &str, name: &str| Meaning::OneOf(path.into(), name.to_owned());
        check("src:web", one_of("src", "web"));
        check("./src:web:2", one_of("./src", "web:2"));
        check(
            "./no-such-folder:web",
            Meaning::File("./no-such-folder:web".into()),
        );
        check("src:", Meaning::Unknown);
        let of_registry = |name: &str| Meaning::Registry(Reference::parse(name).unwrap());
        check(
            "docker.io/library/debian",
            of_registry("docker.io/library/debian:latest"),
        );
        check(
            "reg.example:5000/a/b:1",
            of_registry("reg.example:5000/a/b:1"),
        );
        check("src/absent", Meaning::File("src/absent".into()));
        check(
            "disks/absent.qcow2",
            Meaning::File("disks/absent.qcow2".into()),
        );
    }
}
