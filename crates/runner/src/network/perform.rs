//! The process that carries a network: takes VMs in, passes their frames on as the [`Switch`] says, ends with the last of them.
//!
//! One thread goes round: each turn reads at most so much of every guest that has sent something, so none keeps others waiting,
//! and frames for a guest that does not read are lost when what waits for it is enough.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use host::jail::{self, Kind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use rustix::process::setsid;
use rustix::stdio::dup2_stderr;

use super::switch::{NoRoom, PortId, Switch, Verdict};
use crate::frames::refusals::Refusals;
use crate::frames::stream::{Incoming, Outgoing};
use crate::spawn;
use crate::trouble::OUR_FAULT;
use crate::vm::lock;
use crate::wire::{Channel, FromNetwork, Join, NetworkPlan};

/// Launchers that have come and not said yet what for.
const NEWCOMERS_MAX: usize = 64;

/// Carries the network until nobody is on it.
pub(crate) fn perform(
    channel: Channel,
    is_apart: bool,
    plan: &NetworkPlan,
    descriptors: Vec<OwnedFd>,
) -> u8 {
    // It outlives who started it: no terminal's signals, none of its streams, and no weight but its own.
    let _ = setsid();
    let nowhere = host::inherit::nothing();
    if nowhere
        .and_then(|nowhere| Ok(dup2_stderr(&nowhere)?))
        .is_err()
    {
        return OUR_FAULT;
    }
    spawn::name_process("mother: network");
    jail::settle_libc();
    let jailed = lock(Kind::Switch, is_apart);
    let Ok([listener]) = <[OwnedFd; 1]>::try_from(descriptors) else {
        return OUR_FAULT;
    };
    let mut switch = Switch::new(plan.name.as_str());
    for (vm, address) in &plan.reserved {
        switch.reserve(vm.as_str(), *address);
    }
    let mut hall = Hall {
        switch,
        members: BTreeMap::new(),
        newcomers: Vec::new(),
        listener,
    };
    let carried = channel
        .send(&FromNetwork::Ready(jailed), &[])
        .and_then(|()| hall.carry(channel));
    carried.map_or(OUR_FAULT, |()| 0)
}

/// A VM on the network.
struct Member {
    /// Its launcher. The VM is on the network as long as this lasts.
    channel: Channel,
    /// Its guest's card.
    card: OwnedFd,
    incoming: Incoming,
    outgoing: Outgoing,
    refusals: Refusals,
    /// It goes when this turn is over.
    is_gone: bool,
}

struct Hall {
    switch: Switch,
    members: BTreeMap<PortId, Member>,
    newcomers: Vec<Channel>,
    listener: OwnedFd,
}

/// What there is of each that was looked at, in its order.
struct Came {
    starter: PollFlags,
    listener: PollFlags,
    newcomers: Vec<PollFlags>,
    /// Launcher and card.
    members: Vec<(PortId, PollFlags, PollFlags)>,
}

impl Hall {
    /// Goes round until who started it and all members are gone.
    fn carry(&mut self, starter: Channel) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&self.listener, true)?;
        let mut starter = Some(starter);
        while starter.is_some() || !self.members.is_empty() {
            let came = self.wait(starter.as_ref())?;
            let now = Instant::now();
            if !came.starter.is_empty() {
                starter = None;
            }
            for (id, launcher, card) in came.members {
                self.hear(id, launcher, card);
            }
            // Who comes again finds the place that was left.
            self.let_go();
            self.admit(&came.newcomers);
            if came.listener.contains(PollFlags::IN) {
                self.open();
            }
            self.send(now);
            self.let_go();
        }
        Ok(())
    }

    fn wait(&self, starter: Option<&Channel>) -> io::Result<Came> {
        let for_reading = PollFlags::IN;
        let listens = if self.newcomers.len() < NEWCOMERS_MAX {
            for_reading
        } else {
            PollFlags::empty()
        };
        let mut ends = vec![PollFd::new(&self.listener, listens)];
        ends.extend(self.newcomers.iter().map(|it| PollFd::new(it, for_reading)));
        for member in self.members.values() {
            // A launcher says nothing more: that it is gone is heard.
            ends.push(PollFd::new(&member.channel, PollFlags::empty()));
            let mut wants = for_reading;
            wants.set(PollFlags::OUT, !member.outgoing.is_empty());
            ends.push(PollFd::from_borrowed_fd(member.card.as_fd(), wants));
        }
        ends.extend(starter.map(|it| PollFd::new(it, PollFlags::empty())));
        let due = self.members.values().filter_map(|it| it.refusals.due());
        let left = due
            .min()
            .map(|due| due.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut ends, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut seen = ends.iter().map(PollFd::revents);
        let mut next = || seen.next().unwrap_or(PollFlags::empty());
        Ok(Came {
            listener: next(),
            newcomers: self.newcomers.iter().map(|_| next()).collect(),
            members: self
                .members
                .keys()
                .map(|id| (*id, next(), next()))
                .collect(),
            starter: next(),
        })
    }

    /// Takes the connections that there are, as many as may wait.
    fn open(&mut self) {
        while self.newcomers.len() < NEWCOMERS_MAX
            && let Ok(socket) = accept_with(&self.listener, SocketFlags::CLOEXEC)
        {
            self.newcomers.push(Channel::accepted(socket));
        }
    }

    /// Takes in those who have said what for they came.
    fn admit(&mut self, came: &[PollFlags]) {
        let newcomers = std::mem::take(&mut self.newcomers);
        for (channel, came) in newcomers.into_iter().zip(came) {
            if came.is_empty() {
                self.newcomers.push(channel);
                continue;
            }
            // Who says something else than what is said here is let go.
            if let Ok(Some((join, card))) = channel.receive::<Join>()
                && let Ok([card]) = <[OwnedFd; 1]>::try_from(card)
            {
                self.join(channel, &join, card);
            }
        }
    }

    fn join(&mut self, channel: Channel, join: &Join, card: OwnedFd) {
        if let Some(had) = join.had {
            self.switch.reserve(join.vm.as_str(), had);
        }
        let joined = self.switch.join(join.vm.as_str(), join.card.0);
        let says = match &joined {
            Ok((_, address)) => FromNetwork::Joined(*address),
            Err(NoRoom(why)) => FromNetwork::NoRoom(why.clone()),
        };
        let is_heard = channel.send_now(&says, &[]).is_ok();
        let is_ready = rustix::io::ioctl_fionbio(&card, true).is_ok();
        let Ok((id, _)) = joined else { return };
        if !is_heard || !is_ready {
            self.switch.leave(id);
            return;
        }
        let member = Member {
            channel,
            card,
            incoming: Incoming::default(),
            outgoing: Outgoing::default(),
            refusals: Refusals::default(),
            is_gone: false,
        };
        self.members.insert(id, member);
    }

    /// Reads what a guest has sent, and passes it on.
    fn hear(&mut self, id: PortId, launcher: PollFlags, card: PollFlags) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        if !launcher.is_empty() {
            member.is_gone = true;
            return;
        }
        if !card.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return;
        }
        let goes_on = member.incoming.fill(&member.card).unwrap_or(false);
        // What came before the end is still the guest's.
        let mut incoming = std::mem::take(&mut member.incoming);
        let is_sense = self.pass(id, &mut incoming).is_ok();
        if let Some(member) = self.members.get_mut(&id) {
            member.incoming = incoming;
            member.is_gone = !goes_on || !is_sense;
        }
    }

    fn pass(&mut self, from: PortId, incoming: &mut Incoming) -> io::Result<()> {
        while let Some(whole) = incoming.next_frame()? {
            let frame = incoming.frame(&whole);
            match self.switch.frame(from, frame) {
                Verdict::To(to) => self.give(to, frame),
                Verdict::ToOthers => {
                    for (to, member) in &mut self.members {
                        if *to != from {
                            member.outgoing.push(frame);
                        }
                    }
                }
                Verdict::Answered(reply) => self.give(from, &reply),
                Verdict::Ignored => {}
                Verdict::Refused(refusal) => {
                    if let Some(reply) = refusal.reply {
                        self.give(from, &reply);
                    }
                    if let Some(member) = self.members.get_mut(&from) {
                        member.refusals.add(refusal.why.to_owned());
                    }
                }
            }
        }
        incoming.forget();
        Ok(())
    }

    /// A frame for one guest, lost if too much waits for it.
    fn give(&mut self, to: PortId, frame: &[u8]) {
        if let Some(member) = self.members.get_mut(&to) {
            member.outgoing.push(frame);
        }
    }

    /// Writes what waits, and tells what was refused.
    fn send(&mut self, now: Instant) {
        for member in self.members.values_mut() {
            let is_there = member.outgoing.flush(&member.card).unwrap_or(false);
            member.is_gone |= !is_there;
            let Member {
                refusals, channel, ..
            } = member;
            refusals.tell(now, |count, why| {
                let why = why.to_vec();
                channel
                    .send_now(&FromNetwork::Refused { count, why }, &[])
                    .is_ok()
            });
        }
    }

    /// Lets go of who is gone.
    fn let_go(&mut self) {
        let gone = self.members.iter().filter(|(_, member)| member.is_gone);
        let gone: Vec<PortId> = gone.map(|(id, _)| *id).collect();
        for id in gone {
            self.members.remove(&id);
            self.switch.leave(id);
        }
    }
}

#[cfg(test)]
#[path = "perform_tests.rs"]
mod tests;
