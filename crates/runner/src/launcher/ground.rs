//! What a VM stands on, kept for another process to run it: the descriptors that were opened for it, so that none has to be believed
//! that comes from a process which runs a guest.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Instant;

use machine::{HANDED_FORMAT, KvmNode, Label, VmPlan};

use crate::wire::{Channel, DESCRIPTORS_MAX, Guest, ToVm};

/// See the module.
pub(super) struct Ground {
    plan: VmPlan,
    guest: Guest,
    since: Instant,
    /// Nothing of it is connected to who started it.
    is_alone: bool,
    labelled: Vec<(Label, OwnedFd)>,
    node: KvmNode,
    /// Where the log goes on; none if the host gave no second handle to it.
    log: Option<File>,
    listener: Option<UnixListener>,
    /// In which format the process that runs it says what it is.
    format: u32,
    /// How many processes were started to run it after the first.
    others: u64,
}

impl Ground {
    /// Of a VM that is started now.
    pub(super) fn new(plan: &VmPlan, guest: &Guest, is_alone: bool, log: &File) -> Ground {
        Ground {
            plan: plan.clone(),
            guest: guest.clone(),
            since: Instant::now(),
            is_alone,
            labelled: Vec::new(),
            node: KvmNode::Unused,
            log: log.try_clone().ok(),
            listener: None,
            format: HANDED_FORMAT,
            others: 0,
        }
    }

    /// What was given to the process that runs it. What belongs to a start is not kept.
    pub(super) fn hold(&mut self, labelled: Vec<(Label, OwnedFd)>, node: KvmNode) {
        let is_for_start = |label| matches!(label, Label::SavedState | Label::SavedMemory);
        let kept = labelled.into_iter();
        self.labelled = kept.filter(|(label, _)| !is_for_start(*label)).collect();
        self.node = node;
    }

    /// The VM has ended: nothing of it is kept open.
    pub(super) fn let_go(&mut self) {
        self.labelled.clear();
        self.listener = None;
        self.log = None;
    }

    /// Another network is in the place of the one before.
    pub(super) fn plug_in(&mut self, socket: UnixStream) {
        let place = self
            .labelled
            .iter_mut()
            .find(|(label, _)| *label == Label::Stream);
        if let Some((_, kept)) = place {
            *kept = socket.into();
        }
    }

    /// The log goes on here.
    pub(super) fn log_goes_on(&mut self, log: &File) {
        self.log = log.try_clone().ok();
    }

    /// Its control socket listens here.
    pub(super) fn listens(&mut self, listener: UnixListener) {
        self.listener = Some(listener);
    }

    /// The process that runs it from now on says what it is in this format.
    pub(super) fn set_format(&mut self, format: u32) {
        self.format = format;
    }

    /// In which format the process that runs it says what it is.
    pub(super) fn format(&self) -> u32 {
        self.format
    }

    /// The number of one more process that is to run it.
    pub(super) fn next_number(&mut self) -> u64 {
        self.others += 1;
        self.others
    }

    /// The control socket's listener.
    pub(super) fn listener(&self) -> Option<&UnixListener> {
        self.listener.as_ref()
    }

    /// Where the log goes on.
    pub(super) fn log(&self) -> Option<&File> {
        self.log.as_ref()
    }

    /// How its guest speaks.
    pub(super) fn guest(&self) -> &Guest {
        &self.guest
    }

    /// Gives another process what it is to stand on.
    pub(super) fn give_to(&self, vm: &Channel) {
        give(vm, &self.labelled, self.node);
    }

    /// What another process will build: the same, but for what is over.
    pub(super) fn plan(&self) -> VmPlan {
        let mut plan = self.plan.clone();
        plan.restore = None;
        plan.timeout = plan
            .timeout
            .map(|it| it.saturating_sub(self.since.elapsed()));
        plan
    }

    /// Why no other process can run it, and what to do.
    pub(super) fn keeps_it(&self) -> Option<(&'static str, &'static str)> {
        let plan = &self.plan;
        if matches!(self.guest, Guest::Program(_)) {
            let why =
                "its guest is one program, whose input and output belong to whoever started it";
            Some((why, "let it end, and start it with the new version"))
        } else if !self.is_alone {
            let why = "its console is connected to the command that started it";
            Some((
                why,
                "a VM that is started with `-d` can be upgraded; `mother console` attaches to it",
            ))
        } else if !plan.folders.is_empty() {
            let why = "it shares folders of this host, and what its guest has open there cannot be handed over";
            Some((why, "start it anew with `mother restart NAME`"))
        } else if plan.profile.is_some() {
            let why = "it is profiled, and what was counted so far cannot be handed over";
            Some((why, "let it end: its profile is complete then"))
        } else if self.log.is_none() || self.labelled.is_empty() {
            let why =
                "its launcher has not what it stands on: the host gave no second handle to it";
            Some((
                why,
                "allow more open files with `ulimit -n 1024`, and start it anew",
            ))
        } else {
            None
        }
    }
}

/// Gives a process what its guest stands on.
pub(super) fn give(vm: &Channel, labelled: &[(Label, OwnedFd)], node: KvmNode) {
    let mut parts = labelled.chunks(DESCRIPTORS_MAX).peekable();
    while let Some(part) = parts.next() {
        let given = ToVm::Given {
            labels: part.iter().map(|(label, _)| *label).collect(),
            node: parts.peek().is_none().then_some(node),
        };
        let descriptors: Vec<_> = part.iter().map(|(_, it)| it.as_fd()).collect();
        // A process that is gone is heard of by the thread that waits for it.
        if let Err(error) = vm.send(&given, &descriptors) {
            tracing::debug!(%error, "the VM's process was not given its descriptors");
        }
    }
}
