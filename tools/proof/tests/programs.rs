//! The program suite natively and in a Debian guest on the software CPU: every line equal.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use machine::{Console, Ending};
use proof::programs;

/// What the guest wrote, kept.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn run_in_guest(guest: &images::DefaultGuest, program: &Path, folder: &Path) -> String {
    let initrd = folder.join("initrd");
    let bytes = programs::add_to(std::fs::read(&guest.initrd).unwrap(), program).unwrap();
    std::fs::write(&initrd, bytes).unwrap();
    let spec = api::VmSpec {
        kernel: Some(guest.kernel.clone()),
        initrd: Some(initrd),
        cmdline: Some(format!("console=ttyS0 quiet rdinit={}", programs::INIT)),
        engine: Some(api::EngineWish::Soft),
        timeout: Some(api::Timeout::of_seconds(120)),
        ..api::VmSpec::default()
    };
    let kept = Kept::default();
    let plan = machine::plan(&spec, &machine::HostFindings::for_spec(&spec)).unwrap();
    let machine = machine::build(plan, Console::new(Box::new(kept.clone()))).unwrap();
    let report = machine.run().unwrap();
    let console = String::from_utf8_lossy(&kept.0.lock().unwrap()).replace('\r', "");
    assert_eq!(report.ending, Ending::PoweredOff, "{console}");
    programs::lines_of(&console)
}

#[test]
fn programs_print_the_same_in_a_guest() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("programs");
    std::fs::create_dir_all(&folder).unwrap();
    let program = programs::build(&folder).unwrap();
    let native = programs::run_natively(&program).unwrap();
    assert_eq!(
        native,
        programs::run_natively(&program).unwrap(),
        "the suite itself must be deterministic"
    );
    let cache = images::Cache::of_user()
        .ok()
        .filter(|cache| cache.kernel_package().is_some());
    let Some(guest) = cache.and_then(|cache| cache.default_guest(&mut |_| {}).ok()) else {
        let mut stderr = io::stderr();
        writeln!(
            stderr,
            "skipped: the default guest is not in the cache; `cargo xtask guest`"
        )
        .unwrap();
        return;
    };
    let inside = run_in_guest(&guest, &program, &folder);
    for (line, right) in inside.lines().zip(native.lines()) {
        assert_eq!(line, right);
    }
    assert_eq!(
        inside.lines().count(),
        native.lines().count(),
        "the suite breaks off:\n{inside}"
    );
}
