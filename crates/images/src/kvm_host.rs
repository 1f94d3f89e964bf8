//! What a host needs to be one for guests on KVM: Debian's cloud kernel with the modules of KVM, for tests that bring
//! a host of their own. `dummy` and `tun` give that host and its guests a network.

use std::path::{Path, PathBuf};

use crate::apt::Apt;
use crate::cache::{Cache, CacheError};
use crate::file::{create_folder, stem};
use crate::package::{self, Wanted};
use crate::progress::{OnProgress, Progress};
use crate::work::Work;

/// The link to the folder in use.
const LINK: &str = "kvm-host";
/// In the order in which they are to be loaded.
const MODULES: [&str; 5] = ["irqbypass", "kvm", "kvm-amd", "dummy", "tun"];

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvmHost {
    /// A bzImage.
    pub kernel: PathBuf,
    /// KVM's modules for a processor with SVM and the network's, in the order in which they are to be loaded.
    pub modules: Vec<PathBuf>,
}

impl Cache {
    /// The kernel and KVM's modules; downloaded if they are not here yet.
    ///
    /// # Errors
    /// If the host has no apt, apt finds no mirror, or the cache folder cannot be written.
    pub fn kvm_host(&self, on_progress: OnProgress) -> Result<KvmHost, CacheError> {
        let folder = self.folder().join(LINK);
        let host = KvmHost {
            kernel: folder.join("vmlinuz"),
            modules: MODULES
                .iter()
                .map(|name| folder.join(format!("{name}.ko")))
                .collect(),
        };
        let is_here =
            || host.kernel.is_file() && host.modules.iter().all(|module| module.is_file());
        if is_here() {
            return Ok(host);
        }
        let _lock = self.lock(on_progress)?;
        if !is_here() {
            let work = Work::new(self.folder().join("work"))?;
            let [kernel, _] = Apt::new(work.path())?.download(on_progress)?;
            on_progress(Progress::Unpacking);
            self.keep_kvm_host(&work, &kernel)?;
        }
        Ok(host)
    }

    fn keep_kvm_host(&self, work: &Work, kernel: &Path) -> Result<(), CacheError> {
        let title = format!("{}-{LINK}", stem(kernel));
        let made = work.path().join(&title);
        create_folder(&made)?;
        package::extract(kernel, Wanted::Kernel, &made.join("vmlinuz"))?;
        package::extract_modules(kernel, &MODULES, &made)?;
        self.publish(work, &title, (LINK, Path::new(&title)))?;
        Ok(())
    }
}
