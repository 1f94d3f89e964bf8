//! The file system of a guest that is one program: the program's files, and under `/.mother` our own.

use crate::app::{self, AppError, AppRequest, ReadElf};
use crate::toolbox::toolbox;
use crate::tree::{Attributes, Kind, Tree, TreeError};

/// Our scripts.
const SCRIPTS: [(&str, &str); 6] = [
    ("/init", include_str!("../guest/app.sh")),
    ("/.mother/called", include_str!("../guest/called.sh")),
    ("/.mother/drivers", include_str!("../guest/drivers.sh")),
    ("/.mother/folders", include_str!("../guest/folders.sh")),
    ("/.mother/network", include_str!("../guest/network.sh")),
    (
        "/.mother/acpi/PWRF/00000080",
        include_str!("../guest/end_program.sh"),
    ),
];

/// Texts that programs look for, where the host's own were not asked for.
const TEXTS: [(&str, &str); 2] = [
    ("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
    ("/etc/group", "root:x:0:\n"),
];

/// Everything that the guest's first root file system has; `drivers` are files of modules for the kernel.
///
/// # Errors
/// If the program or what it needs cannot be had.
pub(crate) fn tree(
    request: &AppRequest,
    reader: &dyn ReadElf,
    busybox: Vec<u8>,
    drivers: Vec<(String, Vec<u8>)>,
) -> Result<Tree, AppError> {
    let app = app::gather(request, reader)?;
    let mut tree = app.tree;
    let put = |tree: &mut Tree| -> Result<(), TreeError> {
        tree.put_bytes("/.mother/busybox", 0o755, busybox)?;
        tree.put_bytes("/.mother/warden", 0o755, toolbox())?;
        tree.put_bytes("/.mother/command", 0o644, app.command.to_bytes())?;
        for (path, text) in SCRIPTS {
            tree.put_bytes(path, 0o755, text.as_bytes())?;
        }
        for (name, bytes) in drivers {
            tree.put_bytes(&format!("/.mother/modules/{name}"), 0o644, bytes)?;
        }
        let console = Kind::Device {
            is_block: false,
            major: 5,
            minor: 1,
        };
        tree.put(b"/dev/console", Attributes::of_root(0o600), console)?;
        for (path, mode) in [("/tmp", 0o1777), ("/root", 0o700)] {
            if tree.find(path.as_bytes(), true).is_none() {
                tree.put_folder(path.as_bytes(), Attributes::of_root(mode))?;
            }
        }
        for (path, text) in TEXTS {
            if tree.find(path.as_bytes(), true).is_none() {
                tree.put_bytes(path, 0o644, text.as_bytes())?;
            }
        }
        // Programs start others through `/bin/sh`; busybox is one if it is called so.
        if tree.find(b"/bin/sh", true).is_none() {
            tree.put_symlink("/bin/sh", "/.mother/busybox")?;
        }
        Ok(())
    };
    put(&mut tree).map_err(|error| AppError::Place {
        path: "/.mother".into(),
        reason: error.to_string(),
    })?;
    Ok(tree)
}
