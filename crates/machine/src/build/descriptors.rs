//! What a VM stands on on its host, as descriptors: opened by a process that knows paths, used by one that knows none.
//!
//! ```text
//! who knows paths                              who runs the guest
//! VmPlan ── collect ──> Descriptors ── labelled, over a socket ──> Descriptors ── open ──> Opened
//!                └────> Kept: passt, paths of sockets; stays, and is dropped when the VM has ended
//! ```
//!
//! [`collect`] opens, locks, binds and starts everything that needs a path or a name of the host. Locks of disks belong to
//! the opened file, so they go where the descriptor goes. What is labelled keeps its order: disks and modules are told
//! apart by it, and so are shared folders; a base follows its disk.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;

use host::tap::Tap;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::attach::AttachError;
use crate::attach::block::DiskFiles;
use crate::attach::folder::Shared;
use crate::attach::network::{NetworkStarter, RunningNetwork, Wire};
use crate::attach::vsock::{Listeners, SocketPaths};
use crate::boot;
use crate::engine::{KvmDevice, open_kvm};
use crate::life::held::{BuildError, image_error};
use crate::life::restored::SavedFiles;
use crate::life::saved::SavedError;
use crate::paging;
use crate::plan::{FolderPlan, ImagePlan, RestorePlan, VmPlan};

/// What a descriptor is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Label {
    /// The kernel's file.
    Kernel,
    /// An initrd or module.
    Module,
    /// A disk.
    Disk,
    /// What the disk before it lies over.
    Base,
    /// A socket to who serves a shared folder.
    Folder,
    /// A socket to a user-mode network.
    Stream,
    /// A tap.
    Tap,
    /// The listener of the socket device.
    Vsock,
    /// The listener for claims.
    Claims,
    /// Where pages go.
    PageFile,
    /// `/dev/kvm`.
    Kvm,
    /// `/dev/userfaultfd`.
    Faults,
    /// What vCPUs and board were, of a VM that goes on from a snapshot.
    SavedState,
    /// And its memory.
    SavedMemory,
}

/// What is known of `/dev/kvm` beside its descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum KvmNode {
    /// It was found not to work, and is not there.
    Unused,
    /// It does not open, and this is the host's number for why.
    Refused(i32),
    /// Its descriptor is there.
    Opened,
}

/// Everything of the host that a VM stands on.
#[derive(Debug)]
pub struct Descriptors {
    pub(crate) kernel: File,
    pub(crate) modules: Vec<File>,
    pub(crate) disks: Vec<DiskFiles>,
    pub(crate) folders: Vec<Shared>,
    pub(crate) wire: Option<Wire>,
    pub(crate) listeners: Option<Listeners>,
    pub(crate) page_file: Option<File>,
    pub(crate) kvm: KvmDevice,
    /// Who may open it handles faults of the kernel's own accesses without being privileged.
    pub(crate) faults: Option<File>,
    /// What the first life goes on from.
    pub(crate) saved: Option<SavedFiles>,
}

/// What a VM needs beside its own process, until it has ended: then it is dropped, and nothing is left of it.
#[derive(Debug, Default)]
pub struct Kept {
    network: Option<(NetworkStarter, RunningNetwork)>,
    sockets: Option<SocketPaths>,
}

/// Opens everything that `plan` names. `network_gone` is called whenever the process behind a user-mode network has ended,
/// by itself or not.
///
/// # Errors
/// [`BuildError`] when the host refuses something or a file changed since it was planned.
pub fn collect(
    plan: &VmPlan,
    network_gone: &Arc<dyn Fn() + Send + Sync>,
) -> Result<(Descriptors, Kept), BuildError> {
    let image =
        |plan: &ImagePlan| boot::open_file(&plan.path).map_err(|source| image_error(plan, source));
    let kernel = image(&plan.kernel)?;
    let modules = plan.modules.iter().map(image).collect::<Result<_, _>>()?;
    let disks = plan.disks.iter().map(DiskFiles::open);
    let disks = disks
        .collect::<Result<_, _>>()
        .map_err(BuildError::Attach)?;
    let folders = plan.folders.iter().map(open_folder);
    let folders = folders.collect::<Result<_, _>>()?;
    let open_wire = |plan| Wire::open(plan, network_gone);
    let network = plan.network.as_ref().map(open_wire).transpose();
    let (wire, network) = network.map_err(BuildError::Attach)?.flatten().unzip();
    let vsock = plan.vsock.as_deref().map(SocketPaths::listen).transpose();
    let (listeners, sockets) = vsock.map_err(BuildError::Attach)?.unzip();
    let descriptors = Descriptors {
        kernel,
        modules,
        disks,
        folders,
        wire,
        listeners,
        page_file: paging::open_file(&plan.paging).map_err(BuildError::Paging)?,
        kvm: open_kvm(&plan.engines),
        faults: host::userfault::open_device().ok(),
        saved: plan.restore.as_ref().map(open_saved).transpose()?,
    };
    let kept = Kept {
        network: network.flatten(),
        sockets,
    };
    Ok((descriptors, kept))
}

/// Opens a folder as a place: not even its names are read by this process.
fn open_folder(plan: &FolderPlan) -> Result<Shared, BuildError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(&plan.path, flags, Mode::empty()).map_err(io::Error::from);
    let opened = opened.map_err(|source| AttachError::of_folder(&plan.name, source));
    opened.map(Shared::Folder).map_err(BuildError::Attach)
}

/// Opens the files of a snapshot.
fn open_saved(plan: &RestorePlan) -> Result<SavedFiles, BuildError> {
    let open = |path: &Path| {
        File::open(path).map_err(|error| {
            BuildError::Saved(SavedError::Read(format!("{}: {error}", path.display())))
        })
    };
    Ok(SavedFiles {
        state: open(&plan.state)?,
        memory: open(&plan.memory)?,
    })
}

impl Kept {
    /// A stream, which does not block, to what listens for the guest at this port of the host.
    ///
    /// # Errors
    /// What the host says; `NotFound` for a VM without a socket device.
    pub fn connect_vsock(&self, port: u32) -> io::Result<UnixStream> {
        let sockets = self.sockets.as_ref().ok_or(io::ErrorKind::NotFound)?;
        sockets.dial(port)
    }

    /// How its user-mode network is started again, if it has one.
    pub fn network_starter(&self) -> Option<NetworkStarter> {
        self.network.as_ref().map(|(starter, _)| starter.clone())
    }

    /// Keeps this network from now on, in place of the one before.
    pub fn keep_network(&mut self, running: RunningNetwork) {
        if let Some((_, kept)) = &mut self.network {
            *kept = running;
        }
    }
}

impl Descriptors {
    /// Whether the VM may run on KVM, now or later.
    pub fn has_kvm(&self) -> bool {
        matches!(self.kvm, Some(Ok(_)))
    }

    /// Puts another socket in the place of that to a user-mode network, if there is one: what `exchange` makes of it.
    ///
    /// # Errors
    /// What `exchange` says.
    pub fn exchange_stream<T>(
        &mut self,
        exchange: impl FnOnce(UnixStream) -> io::Result<(UnixStream, T)>,
    ) -> Result<Option<T>, BuildError> {
        match self.wire.take() {
            Some(Wire::Stream(socket)) => {
                let exchanged = exchange(socket).map_err(AttachError::of_network);
                let (socket, made) = exchanged.map_err(BuildError::Attach)?;
                self.wire = Some(Wire::Stream(socket));
                Ok(Some(made))
            }
            other => {
                self.wire = other;
                Ok(None)
            }
        }
    }

    /// Has the VM's card be plugged into a network that whoever starts the VM has brought.
    pub fn plug_in(&mut self, socket: UnixStream) {
        self.wire = Some(Wire::Stream(socket));
    }

    /// Has every folder of `plan` be served: what `serve` makes of it, and a socket to that.
    ///
    /// # Errors
    /// What `serve` says.
    pub fn share<T>(
        &mut self,
        plan: &VmPlan,
        serve: impl Fn(&FolderPlan, OwnedFd) -> io::Result<(UnixStream, T)>,
    ) -> Result<Vec<T>, BuildError> {
        let mut served = Vec::new();
        for (plan, shared) in plan.folders.iter().zip(&mut self.folders) {
            let failed = |source| BuildError::Attach(AttachError::of_folder(&plan.name, source));
            if let Shared::Folder(folder) = shared {
                // The folder itself is not kept open here.
                let folder = folder.try_clone().map_err(failed)?;
                let (socket, made) = serve(plan, folder).map_err(failed)?;
                *shared = Shared::Served(socket);
                served.push(made);
            }
        }
        Ok(served)
    }

    /// One by one, each with its label.
    ///
    /// # Errors
    /// If the host gives no second handle to `/dev/kvm`, or nobody serves a folder.
    pub fn into_labelled(self) -> io::Result<(Vec<(Label, OwnedFd)>, KvmNode)> {
        let mut labelled = vec![(Label::Kernel, self.kernel.into())];
        let modules = self
            .modules
            .into_iter()
            .map(|file| (Label::Module, file.into()));
        labelled.extend(modules);
        for disk in self.disks {
            labelled.push((Label::Disk, disk.image.into()));
            labelled.extend(disk.base.map(|base| (Label::Base, base.into())));
        }
        for shared in self.folders {
            match shared {
                Shared::Served(socket) => labelled.push((Label::Folder, socket.into())),
                Shared::Folder(_) => return Err(io::ErrorKind::InvalidInput.into()),
            }
        }
        labelled.extend(self.wire.map(|wire| match wire {
            Wire::Stream(socket) => (Label::Stream, socket.into()),
            Wire::Tap(tap) => (Label::Tap, tap.into_file().into()),
        }));
        if let Some(Listeners { device, claims }) = self.listeners {
            labelled.push((Label::Vsock, device.into()));
            labelled.extend(claims.map(|claims| (Label::Claims, claims.into())));
        }
        labelled.extend(self.page_file.map(|file| (Label::PageFile, file.into())));
        labelled.extend(self.faults.map(|device| (Label::Faults, device.into())));
        if let Some(SavedFiles { state, memory }) = self.saved {
            labelled.push((Label::SavedState, state.into()));
            labelled.push((Label::SavedMemory, memory.into()));
        }
        let node = match self.kvm {
            Some(Ok(device)) => {
                labelled.push((Label::Kvm, device.fd()?));
                KvmNode::Opened
            }
            Some(Err(number)) => KvmNode::Refused(number),
            None => KvmNode::Unused,
        };
        Ok((labelled, node))
    }

    /// Put together again, for `plan`.
    ///
    /// # Errors
    /// If they are not those of such a plan: the other process is not ours, or of another version.
    pub fn of_labelled(
        plan: &VmPlan,
        labelled: Vec<(Label, OwnedFd)>,
        node: KvmNode,
    ) -> io::Result<Descriptors> {
        let mut sorted = Sorted::default();
        for (label, descriptor) in labelled {
            sorted.take(label, descriptor);
        }
        let found = sorted.counts();
        let expected = [
            plan.modules.len(),
            plan.disks.len(),
            plan.disks.iter().filter(|disk| disk.base.is_some()).count(),
            plan.folders.len(),
            usize::from(plan.network.is_some()),
            usize::from(plan.vsock.is_some()),
            usize::from(plan.paging.file.is_some()),
            usize::from(node == KvmNode::Opened),
            usize::from(plan.restore.is_some()),
        ];
        sorted
            .kernel
            .take()
            .filter(|_| found == expected)
            .map(|kernel| sorted.into_descriptors(kernel, node))
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not what the plan names"))
    }
}

/// Descriptors on their way to their places.
#[derive(Default)]
struct Sorted {
    kernel: Option<File>,
    modules: Vec<File>,
    disks: Vec<DiskFiles>,
    folders: Vec<Shared>,
    wire: Option<Wire>,
    vsock: Option<UnixListener>,
    claims: Option<UnixListener>,
    page_file: Option<File>,
    faults: Option<File>,
    kvm: Option<OwnedFd>,
    saved_state: Option<File>,
    saved_memory: Option<File>,
}

impl Sorted {
    fn take(&mut self, label: Label, descriptor: OwnedFd) {
        match label {
            Label::Kernel => self.kernel = Some(descriptor.into()),
            Label::Module => self.modules.push(descriptor.into()),
            Label::Disk => self.disks.push(DiskFiles {
                image: descriptor.into(),
                base: None,
            }),
            Label::Base => {
                if let Some(disk) = self.disks.last_mut() {
                    disk.base = Some(descriptor.into());
                }
            }
            Label::Folder => self.folders.push(Shared::Served(descriptor.into())),
            Label::Stream => self.wire = Some(Wire::Stream(descriptor.into())),
            Label::Tap => self.wire = Some(Wire::Tap(Tap::of_file(descriptor.into()))),
            Label::Vsock => self.vsock = Some(descriptor.into()),
            Label::Claims => self.claims = Some(descriptor.into()),
            Label::PageFile => self.page_file = Some(descriptor.into()),
            Label::Kvm => self.kvm = Some(descriptor),
            Label::Faults => self.faults = Some(descriptor.into()),
            Label::SavedState => self.saved_state = Some(descriptor.into()),
            Label::SavedMemory => self.saved_memory = Some(descriptor.into()),
        }
    }

    /// How many there are of modules, disks, bases, folders, networks, socket devices, page files, KVMs and snapshots.
    fn counts(&self) -> [usize; 9] {
        [
            self.modules.len(),
            self.disks.len(),
            self.disks.iter().filter(|disk| disk.base.is_some()).count(),
            self.folders.len(),
            usize::from(self.wire.is_some()),
            usize::from(self.vsock.is_some()),
            usize::from(self.page_file.is_some()),
            usize::from(self.kvm.is_some()),
            usize::from(self.saved_state.is_some() && self.saved_memory.is_some()),
        ]
    }

    fn into_descriptors(self, kernel: File, node: KvmNode) -> Descriptors {
        let claims = self.claims;
        Descriptors {
            kernel,
            modules: self.modules,
            disks: self.disks,
            folders: self.folders,
            wire: self.wire,
            listeners: self.vsock.map(|device| Listeners { device, claims }),
            page_file: self.page_file,
            faults: self.faults,
            saved: self
                .saved_state
                .zip(self.saved_memory)
                .map(|(state, memory)| SavedFiles { state, memory }),
            kvm: match node {
                KvmNode::Refused(number) => Some(Err(number)),
                KvmNode::Unused | KvmNode::Opened => self.kvm.map(|fd| Ok(kvm::Device::of_fd(fd))),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::scripted;

    fn null() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn descriptors_fit_a_plan_or_are_refused() {
        let kernel = host::MemFd::new(c"kernel", 1 << 20).unwrap();
        let mut plan = scripted::plan(&kernel);
        plan.modules = vec![plan.kernel.clone(), plan.kernel.clone()];
        plan.vsock = Some("socket".into());
        let node = KvmNode::Unused;
        let check = |labels: &[Label], node, expected: bool| {
            let labelled = labels.iter().map(|label| (*label, null())).collect();
            let made = Descriptors::of_labelled(&plan, labelled, node);
            assert_eq!(made.is_ok(), expected, "{labels:?}");
            if let Ok(made) = made {
                let again = made.into_labelled().unwrap();
                let again: Vec<Label> = again.0.iter().map(|(label, _)| *label).collect();
                assert_eq!(again, labels);
            }
        };
        use Label::{Base, Claims, Disk, Kernel, Kvm, Module, Vsock};
        check(&[Kernel, Module, Module, Vsock], node, true);
        check(&[Kernel, Module, Module, Vsock, Claims], node, true);
        check(&[Module, Module, Vsock], node, false);
        check(&[Kernel, Module, Vsock], node, false);
        check(&[Kernel, Module, Module, Disk, Base, Vsock], node, false);
        check(&[Kernel, Module, Module, Vsock, Kvm], node, false);
        let opens = KvmNode::Opened;
        check(&[Kernel, Module, Module, Vsock, Kvm], opens, true);
        check(&[Kernel, Module, Module, Vsock], opens, false);
    }
}
