//! The small initrd of a guest that has a disk: the modules that find it, and the scripts that go over to it.

use std::fs;
use std::io;
use std::path::Path;

use crate::archive;
use crate::file::{FileError, create_folder, error};
use crate::guest_config::GuestCommand;
use crate::modules::{self, Module};
use crate::toolbox::toolbox;
use crate::tree::{Attributes, Kind, Tree, TreeError};

/// Scripts of the guest. `/init` sources the others.
const SCRIPTS: [(&str, &str); 8] = [
    ("/init", include_str!("../guest/disk.sh")),
    ("/session", include_str!("../guest/console.sh")),
    ("/configure", include_str!("../guest/configure.sh")),
    ("/command", include_str!("../guest/command.sh")),
    ("/called", include_str!("../guest/called.sh")),
    ("/folders", include_str!("../guest/folders.sh")),
    ("/network", include_str!("../guest/network.sh")),
    (
        "/acpi/PWRF/00000080",
        include_str!("../guest/end_program.sh"),
    ),
];

/// Keeps modules in a folder of their own.
pub(crate) fn save_modules(modules: &[Module], folder: &Path) -> Result<(), FileError> {
    create_folder(folder)?;
    for module in modules {
        let path = folder.join(&module.file_name);
        fs::write(&path, &module.bytes).map_err(error("write", &path))?;
    }
    Ok(())
}

fn read_modules(folder: &Path) -> Result<Vec<Module>, FileError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(error("read", folder))? {
        let path = entry.map_err(error("read", folder))?.path();
        let file_name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        found.push(Module {
            bytes: fs::read(&path).map_err(error("read", &path))?,
            file_name,
        });
    }
    found.sort_by(|a, b| a.file_name.cmp(&b.file_name));
    modules::order(found).map_err(error("read", folder))
}

/// Writes the initrd of these modules; `command` is what a guest that is a container image runs.
pub(crate) fn write(
    busybox: &Path,
    modules: &Path,
    command: Option<&GuestCommand>,
    to: &Path,
) -> Result<(), FileError> {
    let bytes = fs::read(busybox).map_err(error("read", busybox))?;
    let modules = read_modules(modules)?;
    let order: String = modules
        .iter()
        .map(|module| format!("{}\n", module.file_name))
        .collect();
    let mut files = vec![
        ("/bin/busybox".to_owned(), bytes),
        ("/modules/order".to_owned(), order.into_bytes()),
    ];
    files.extend(
        modules
            .into_iter()
            .map(|module| (format!("/modules/{}", module.file_name), module.bytes)),
    );
    files.push(("/warden".to_owned(), toolbox().to_vec()));
    files.extend(command.map(|command| ("/words".to_owned(), command.to_bytes())));
    files.extend(command.map(|command| {
        let signal = format!("{}\n", command.stop_signal);
        ("/stop_signal".to_owned(), signal.into_bytes())
    }));
    let tree = tree(files).map_err(|reason| error("put together", to)(io::Error::other(reason)))?;
    let file = fs::File::create(to).map_err(error("create", to))?;
    let mut writer = io::BufWriter::with_capacity(1 << 20, file);
    let written = archive::write(&tree, &mut writer).and_then(|()| io::Write::flush(&mut writer));
    written.map_err(error("write", to))
}

fn tree(files: Vec<(String, Vec<u8>)>) -> Result<Tree, TreeError> {
    let mut tree = Tree::new();
    for (path, text) in SCRIPTS {
        tree.put_bytes(path, 0o755, text.as_bytes())?;
    }
    for (path, bytes) in files {
        tree.put_bytes(&path, 0o755, bytes)?;
    }
    let console = Kind::Device {
        is_block: false,
        major: 5,
        minor: 1,
    };
    tree.put(b"/dev/console", Attributes::of_root(0o600), console)?;
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_scripts_are_ones_that_a_shell_understands() {
        for (name, text) in SCRIPTS {
            let mut sh = Command::new("sh")
                .arg("-n")
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            io::Write::write_all(&mut sh.stdin.take().unwrap(), text.as_bytes()).unwrap();
            assert!(sh.wait().unwrap().success(), "{name}");
        }
    }

    #[test]
    fn the_initrd_has_the_command() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        save_modules(&[], &at("modules")).unwrap();
        fs::write(at("busybox"), "busybox").unwrap();
        let command = GuestCommand {
            arguments: vec!["/prog".into()],
            ..GuestCommand::default()
        };
        write(
            &at("busybox"),
            &at("modules"),
            Some(&command),
            &at("initrd"),
        )
        .unwrap();
        let archive = fs::read(at("initrd")).unwrap();
        let contains = |text: &str| {
            archive
                .windows(text.len())
                .any(|window| window == text.as_bytes())
        };
        assert!(contains("bin/busybox") && contains("arg=/prog\0"));
    }
}
