//! The process between a guest's card and its network: frames in, frames out, what is not on the list comes to nothing.
//!
//! Each way has what was read and what is to be written. A way whose other side takes nothing is not read from, so that a
//! queue stands where it stood without this process: in the guest's ring, or in passt's socket.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use host::jail::{self, Kind};
use machine::EgressPlan;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::stdio::dup2_stderr;

use super::judge::{Judge, Verdict};
use crate::frames::refusals::Refusals;
use crate::frames::stream::{Incoming, Outgoing};
use crate::own_log;
use crate::spawn;
use crate::trouble::OUR_FAULT;
use crate::vm::lock;
use crate::wire::{Channel, FromEgress};

/// Passes on what may pass until one side is gone.
pub(crate) fn perform(
    channel: &Channel,
    is_apart: bool,
    plan: EgressPlan,
    mut sockets: Vec<OwnedFd>,
) -> u8 {
    if let Some(messages) = sockets.get(2) {
        own_log::limit();
        let _ = dup2_stderr(messages);
        sockets.truncate(2);
    }
    spawn::name_process("mother: egress");
    jail::settle_libc();
    let jailed = lock(Kind::Wire, is_apart);
    let Ok([guest, network]) = <[OwnedFd; 2]>::try_from(sockets) else {
        return OUR_FAULT;
    };
    let mut between = Between {
        judge: Judge::new(plan),
        out: Way::default(),
        back: Way::default(),
        refusals: Refusals::default(),
    };
    let passed = channel
        .send(&FromEgress::Ready(jailed), &[])
        .and_then(|()| between.pass(channel, &guest, &network));
    match passed {
        Ok(()) => 0,
        Err(error) => {
            tracing::warn!("the guest's network ends: {error}");
            OUR_FAULT
        }
    }
}

/// One direction.
#[derive(Debug, Default)]
struct Way {
    incoming: Incoming,
    outgoing: Outgoing,
}

impl Way {
    /// Goes through all whole frames that were read; those that `passes` go on.
    fn sift(&mut self, mut passes: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
        let Way { incoming, outgoing } = self;
        // Neighbours go on together.
        let mut run = 0..0;
        while let Some(whole) = incoming.next_frame()? {
            if passes(incoming.frame(&whole)) {
                run.end = whole.end;
            } else {
                outgoing.push_as_read(incoming.as_read(run));
                run = whole.end..whole.end;
            }
        }
        outgoing.push_as_read(incoming.as_read(run));
        incoming.forget();
        Ok(())
    }
}

struct Between {
    judge: Judge,
    out: Way,
    back: Way,
    refusals: Refusals,
}

impl Between {
    fn pass(&mut self, channel: &Channel, guest: &OwnedFd, network: &OwnedFd) -> io::Result<()> {
        rustix::io::ioctl_fionbio(guest, true)?;
        rustix::io::ioctl_fionbio(network, true)?;
        loop {
            let wants = |from: &Way, to: &Way| {
                let mut flags = PollFlags::empty();
                flags.set(PollFlags::IN, !from.outgoing.is_full());
                flags.set(PollFlags::OUT, !to.outgoing.is_empty());
                flags
            };
            let mut ends = [
                PollFd::from_borrowed_fd(guest.as_fd(), wants(&self.out, &self.back)),
                PollFd::from_borrowed_fd(network.as_fd(), wants(&self.back, &self.out)),
                // The launcher says nothing: that it is gone is heard. (`PR_SET_PDEATHSIG` would tell of its thread.)
                PollFd::new(channel, PollFlags::empty()),
            ];
            let left = self
                .refusals
                .due()
                .map(|due| due.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut ends, left.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let came = ends.each_ref().map(PollFd::revents);
            if !came[2].is_empty() {
                return Ok(());
            }
            let now = Instant::now();
            let is_there = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
            if came[0].intersects(is_there) && !self.out.outgoing.is_full() {
                let goes_on = self.out.incoming.fill(guest)?;
                self.sift_out(now)?;
                if !goes_on {
                    return Ok(());
                }
            }
            if came[1].intersects(is_there) && !self.back.outgoing.is_full() {
                let goes_on = self.back.incoming.fill(network)?;
                let judge = &mut self.judge;
                self.back.sift(|frame| {
                    judge.inward(frame, now);
                    true
                })?;
                if !goes_on {
                    // What came last is still the guest's.
                    let _ = self.back.outgoing.flush(guest);
                    return Ok(());
                }
            }
            if !self.out.outgoing.flush(network)? || !self.back.outgoing.flush(guest)? {
                return Ok(());
            }
            self.refusals.tell(now, |count, to| {
                let to = to.to_vec();
                channel
                    .send_now(&FromEgress::Refused { count, to }, &[])
                    .is_ok()
            });
        }
    }

    fn sift_out(&mut self, now: Instant) -> io::Result<()> {
        let Between {
            judge,
            out,
            back,
            refusals,
        } = self;
        out.sift(|frame| match judge.outward(frame, now) {
            Verdict::Passes => true,
            Verdict::Ignored => false,
            Verdict::Answered(reply) => {
                back.outgoing.push(&reply);
                false
            }
            Verdict::Refused(refusal) => {
                if let Some(reply) = refusal.reply {
                    back.outgoing.push(&reply);
                }
                refusals.add(refusal.to);
                false
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(frame: &[u8]) -> Vec<u8> {
        [&(frame.len() as u32).to_be_bytes()[..], frame].concat()
    }

    #[test]
    fn frames_are_sifted_however_the_stream_is_cut() {
        let frames = [[1; 14], [2; 14], [3; 14], [4; 14]].map(|frame| framed(&frame));
        let all = frames.concat();
        let expected = [&frames[0][..], &frames[3]].concat();
        for piece in 1..all.len() {
            let mut way = Way::default();
            for bytes in all.chunks(piece) {
                way.incoming.take(bytes);
                way.sift(|frame| frame[0] == 1 || frame[0] == 4).unwrap();
            }
            assert_eq!(
                (way.outgoing.waiting(), way.incoming.left()),
                (&expected[..], 0),
                "{piece}"
            );
        }
    }

    #[test]
    fn an_answer_never_lies_within_a_frame() {
        let mut way = Way::default();
        let whole = framed(&[7; 20]);
        way.incoming.take(&whole[..10]);
        way.sift(|_| true).unwrap();
        assert!(way.outgoing.push(&[9; 14]));
        way.incoming.take(&whole[10..]);
        way.sift(|_| true).unwrap();
        assert_eq!(way.outgoing.waiting(), [framed(&[9; 14]), whole].concat());
    }
}
