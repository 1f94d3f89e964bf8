//! The process between a guest's card and its network: frames in, frames out, what is not on the list comes to nothing.
//!
//! Each way has what was read and what is to be written. A way whose other side takes nothing is not read from, so that a
//! queue stands where it stood without this process: in the guest's ring, or in passt's socket.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use host::jail::{self, Kind};
use machine::EgressPlan;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::stdio::dup2_stderr;

use super::judge::{Judge, Verdict};
use crate::own_log;
use crate::spawn;
use crate::trouble::OUR_FAULT;
use crate::vm::lock;
use crate::wire::{Channel, FromEgress};

/// Bytes of one read, several of the largest frames.
const READ_BYTES: usize = 256 << 10;

/// What waits to be written before a way is read from again; answers to the guest wait for nobody beyond it.
const WAITING_BYTES: usize = 256 << 10;

/// The length before a frame: 32 bits in network byte order.
const PREFIX_BYTES: usize = 4;

/// Shortest and longest frame: an Ethernet header; 65,535 bytes of IP, that header and a VLAN tag.
const FRAME_BYTES_MIN: usize = 14;
const FRAME_BYTES_MAX: usize = 65_535 + 18;

/// Destinations that are told by name; all are counted.
const TOLD_MAX: usize = 64;

/// How often the count is told: sooner than a guest can end after its last packet, whose refusal is to be in the report.
const TELL_EVERY: Duration = Duration::from_millis(20);

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
    let jailed = lock(is_apart, false);
    jail::enter(Kind::Wire);
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
    read: Vec<u8>,
    waiting: Vec<u8>,
    /// How much of that is written.
    written: usize,
}

impl Way {
    fn is_full(&self) -> bool {
        self.waiting.len() - self.written >= WAITING_BYTES
    }

    fn is_empty(&self) -> bool {
        self.waiting.len() == self.written
    }

    /// Reads what there is; false at the end.
    fn fill(&mut self, from: &OwnedFd) -> io::Result<bool> {
        let before = self.read.len();
        self.read.resize(before + READ_BYTES, 0);
        let got = rustix::io::read(from, &mut self.read[before..]);
        self.read.truncate(before + got.unwrap_or(0));
        match got {
            Ok(0) | Err(Errno::CONNRESET) => Ok(false),
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Goes through all whole frames that were read; those that `passes` go on.
    fn sift(&mut self, mut passes: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
        let mut at = 0;
        // Neighbours go on together.
        let mut run = 0..0;
        while let Some(prefix) = self.read[at..].first_chunk::<PREFIX_BYTES>() {
            let len = u32::from_be_bytes(*prefix) as usize;
            if !(FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&len) {
                let what = format!("a frame of {len} bytes");
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            let end = at + PREFIX_BYTES + len;
            let Some(frame) = self.read.get(at + PREFIX_BYTES..end) else {
                break;
            };
            if passes(frame) {
                run.end = end;
            } else {
                self.waiting.extend_from_slice(&self.read[run]);
                run = end..end;
            }
            at = end;
        }
        self.waiting.extend_from_slice(&self.read[run]);
        self.read.drain(..at);
        Ok(())
    }

    /// A frame of our own; lost if too much waits.
    fn push(&mut self, frame: &[u8]) {
        if !self.is_full() {
            let len = u32::try_from(frame.len()).expect("a few hundred bytes");
            self.waiting.extend(len.to_be_bytes());
            self.waiting.extend_from_slice(frame);
        }
    }

    /// Writes what waits; false if nobody is there to take it.
    fn flush(&mut self, to: &OwnedFd) -> io::Result<bool> {
        while !self.is_empty() {
            match rustix::io::write(to, &self.waiting[self.written..]) {
                Ok(count) => self.written += count,
                Err(Errno::AGAIN) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        self.waiting.clear();
        self.written = 0;
        Ok(true)
    }
}

/// What was refused, and what of that is still to be told.
#[derive(Debug, Default)]
struct Refusals {
    count: u64,
    told: HashSet<String>,
    /// Destinations that nobody has heard of yet.
    new: Vec<String>,
    last: Option<Instant>,
}

impl Refusals {
    fn add(&mut self, to: String) {
        self.count += 1;
        if self.told.len() < TOLD_MAX && self.told.insert(to.clone()) {
            self.new.push(to);
        }
    }

    /// When it is to be told, if anything is.
    fn due(&self) -> Option<Instant> {
        let at = self
            .last
            .map_or_else(Instant::now, |last| last + TELL_EVERY);
        (self.count > 0).then_some(at)
    }

    /// Tells it, if it is time; it is kept where nobody reads it now.
    fn tell(&mut self, channel: &Channel, now: Instant) {
        let is_early = self.last.is_some_and(|last| now < last + TELL_EVERY);
        if self.count == 0 || is_early {
            return;
        }
        self.last = Some(now);
        let said = FromEgress::Refused {
            count: self.count,
            to: self.new.clone(),
        };
        if channel.send_now(&said, &[]).is_ok() {
            self.count = 0;
            self.new.clear();
        }
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
                flags.set(PollFlags::IN, !from.is_full());
                flags.set(PollFlags::OUT, !to.is_empty());
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
            if came[0].intersects(is_there) && !self.out.is_full() {
                let goes_on = self.out.fill(guest)?;
                self.sift_out(now)?;
                if !goes_on {
                    return Ok(());
                }
            }
            if came[1].intersects(is_there) && !self.back.is_full() {
                let goes_on = self.back.fill(network)?;
                let judge = &mut self.judge;
                self.back.sift(|frame| {
                    judge.inward(frame, now);
                    true
                })?;
                if !goes_on {
                    // What came last is still the guest's.
                    let _ = self.back.flush(guest);
                    return Ok(());
                }
            }
            if !self.out.flush(network)? || !self.back.flush(guest)? {
                return Ok(());
            }
            self.refusals.tell(channel, now);
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
                back.push(&reply);
                false
            }
            Verdict::Refused(refusal) => {
                if let Some(reply) = refusal.reply {
                    back.push(&reply);
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
                way.read.extend_from_slice(bytes);
                way.sift(|frame| frame[0] == 1 || frame[0] == 4).unwrap();
            }
            assert_eq!((&way.waiting, way.read.len()), (&expected, 0), "{piece}");
        }
    }

    #[test]
    fn an_answer_never_lies_within_a_frame() {
        let mut way = Way::default();
        let whole = framed(&[7; 20]);
        way.read.extend_from_slice(&whole[..10]);
        way.sift(|_| true).unwrap();
        way.push(&[9; 14]);
        way.read.extend_from_slice(&whole[10..]);
        way.sift(|_| true).unwrap();
        assert_eq!(way.waiting, [framed(&[9; 14]), whole].concat());
    }

    #[test]
    fn a_length_that_cannot_be_ends_the_network() {
        for len in [0, 13, FRAME_BYTES_MAX as u32 + 1, u32::MAX] {
            let mut way = Way::default();
            way.read.extend(len.to_be_bytes());
            assert!(way.sift(|_| true).is_err(), "{len}");
        }
    }

    #[test]
    fn a_guest_that_tries_everything_fills_no_memory() {
        let mut refusals = Refusals::default();
        for n in 0..10_000 {
            refusals.add(n.to_string());
        }
        let counts = (refusals.count, refusals.told.len(), refusals.new.len());
        assert_eq!(counts, (10_000, TOLD_MAX, TOLD_MAX));
        let (keeper, launcher) = Channel::pair().unwrap();
        let now = Instant::now();
        refusals.tell(&keeper, now);
        refusals.add("more".to_owned());
        // Not yet, and then once.
        refusals.tell(&keeper, now);
        for _ in 0..2 {
            refusals.tell(&keeper, now + TELL_EVERY);
        }
        drop(keeper);
        let heard = std::iter::from_fn(|| launcher.receive::<FromEgress>().unwrap());
        let heard: Vec<(u64, usize)> = heard
            .map(|(said, _)| match said {
                FromEgress::Refused { count, to } => (count, to.len()),
                FromEgress::Ready(_) => panic!("it began long ago"),
            })
            .collect();
        assert_eq!(heard, [(10_000, TOLD_MAX), (1, 0)]);
        let mut way = Way::default();
        for _ in 0..10_000 {
            way.push(&[0; 100]);
        }
        assert!(way.waiting.len() <= WAITING_BYTES + 104);
    }
}
