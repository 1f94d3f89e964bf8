//! Where a vCPU's thread is, as the thread itself says it: for a profile.
//!
//! A thread writes to its [`Spot`] whenever it begins something else; somebody else reads it now and then, and charges the CPU time
//! that the thread has used meanwhile to what is written there. Three plain stores; and where nobody reads, a look at whether there
//! is a spot ([`Marker`]): an exit from translated code is too short for more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a vCPU's thread is at. The order is the one in which they are shown.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum What {
    /// Nothing that an engine or a vCPU's thread tells of.
    Elsewhere = 0,
    /// It executes the guest by an engine that tells no more.
    Engine,
    /// It executes translated code.
    Translated,
    /// The way into translated code and out of it, and from one reason for that to the next.
    InAndOut,
    /// It looks for the translation at an address that was not in the jump cache.
    LookUp,
    /// It translates, or moves a translation.
    Translator,
    /// A load found no entry in the software TLB.
    MissRead,
    /// A store found none.
    MissWrite,
    /// The page tables are walked for code that is looked up.
    MissFetch,
    /// A memory operand that translated code cannot reach is brought to it.
    Beside,
    /// An instruction is executed by hand; the detail is its mnemonic's number.
    Interpreter,
    /// The guest's FP state is asked for.
    FpState,
    /// An exception or interrupt is delivered.
    Event,
    /// The guest waits in a loop with PAUSE, and the core was given to others.
    Pause,
    /// The machine answers an exit; the detail is its kind.
    Exit,
    /// The vCPU sleeps: after HLT, or before it is started.
    Rest,
}

impl What {
    /// All of them.
    pub const ALL: [What; 16] = [
        What::Elsewhere,
        What::Engine,
        What::Translated,
        What::InAndOut,
        What::LookUp,
        What::Translator,
        What::MissRead,
        What::MissWrite,
        What::MissFetch,
        What::Beside,
        What::Interpreter,
        What::FpState,
        What::Event,
        What::Pause,
        What::Exit,
        What::Rest,
    ];

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            What::Elsewhere => "elsewhere",
            What::Engine => "another engine",
            What::Translated => "translated code",
            What::InAndOut => "in and out of it",
            What::LookUp => "block look-ups",
            What::Translator => "translator",
            What::MissRead => "TLB misses of loads",
            What::MissWrite => "TLB misses of stores",
            What::MissFetch => "page walks for code",
            What::Beside => "operands beside",
            What::Interpreter => "interpreted",
            What::FpState => "FP state loads",
            What::Event => "exceptions, interrupts",
            What::Pause => "loops with PAUSE",
            What::Exit => "exits",
            What::Rest => "HLT",
        }
    }
}

/// Details that are told apart.
const DETAILS: usize = 2048;

/// What, and which of that.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct At {
    /// What.
    pub what: What,
    /// Which of that, for whoever gave the number; 0 where nothing is told apart.
    pub detail: u16,
}

impl At {
    /// One that nothing is told apart of.
    pub fn plain(what: What) -> At {
        At { what, detail: 0 }
    }

    fn word(self) -> u64 {
        self.what as u64 | u64::from(self.detail) << 8
    }

    fn of_word(word: u64) -> At {
        let what = What::ALL.get((word & 0xff) as usize);
        At {
            what: *what.unwrap_or(&What::Elsewhere),
            detail: (word >> 8) as u16,
        }
    }
}

/// What a spot says at a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// What the thread is at.
    pub at: At,
    /// The guest's RIP, as far as it was exact last.
    pub rip: u64,
    /// The guest's address space: CR3 without its low 12 bits, and bit 0 for user code.
    pub space: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Spot {
    at: AtomicU64,
    rip: AtomicU64,
    /// The address space that `rip` is of.
    space: AtomicU64,
    /// The one that the vCPU is in by now: an instruction may lead from one to another.
    current: AtomicU64,
    /// How often each thing began, if that is counted.
    counts: Option<Box<[AtomicU64]>>,
}

/// Counters: one for each [`What`], then the details of [`What::Interpreter`] and of [`What::Exit`].
const INTERPRETED: usize = What::ALL.len();
const EXITS: usize = INTERPRETED + DETAILS;
const EXIT_KINDS: usize = 64;

/// Where something is counted.
#[inline]
fn place(at: At) -> usize {
    match (at.what, usize::from(at.detail)) {
        (What::Interpreter, detail) if detail < DETAILS => INTERPRETED + detail,
        (What::Exit, detail) if detail < EXIT_KINDS => EXITS + detail,
        (what, _) => what as usize,
    }
}

impl Spot {
    /// One that also counts.
    pub fn counting() -> Spot {
        let counts = (0..EXITS + EXIT_KINDS).map(|_| AtomicU64::new(0));
        Spot {
            counts: Some(counts.collect()),
            ..Spot::default()
        }
    }

    /// The thread begins to answer an exit of this kind, where the guest was last.
    #[inline]
    pub fn answer(&self, kind: u16) {
        let at = At {
            what: What::Exit,
            detail: kind,
        };
        self.at.store(at.word(), Ordering::Relaxed);
        self.count_one(at);
    }

    /// The thread begins this, at the guest's `rip`. To be called by the thread alone, as all that changes a spot.
    #[inline]
    pub fn begin(&self, at: At, rip: u64) {
        self.move_to(rip);
        self.at.store(at.word(), Ordering::Relaxed);
        self.count_one(at);
    }

    #[inline]
    fn count_one(&self, at: At) {
        if let Some(counts) = &self.counts {
            let count = &counts[place(at)];
            count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }

    /// The thread goes on with this, where the guest was last.
    #[inline]
    pub fn go_on(&self, what: What) {
        self.at.store(At::plain(what).word(), Ordering::Relaxed);
    }

    /// The guest is at `rip`.
    #[inline]
    pub fn move_to(&self, rip: u64) {
        let space = self.current.load(Ordering::Relaxed);
        self.rip.store(rip, Ordering::Relaxed);
        self.space.store(space, Ordering::Relaxed);
    }

    /// The guest's address space is this, for what begins from now on.
    pub fn enter_space(&self, cr3: u64, is_user: bool) {
        let space = cr3 & 0x000f_ffff_ffff_f000 | u64::from(is_user);
        self.current.store(space, Ordering::Relaxed);
    }

    /// What it says now, as three words; a signal's handler may call this.
    pub fn words(&self) -> [u64; 3] {
        [&self.at, &self.rip, &self.space].map(|word| word.load(Ordering::Relaxed))
    }

    /// What such words mean.
    pub fn of_words([at, rip, space]: [u64; 3]) -> Seen {
        let at = At::of_word(at);
        Seen { at, rip, space }
    }

    /// How often this began; `None` if nobody counts.
    pub fn count(&self, at: At) -> Option<u64> {
        let counts = self.counts.as_ref()?;
        Some(counts[place(at)].load(Ordering::Relaxed))
    }

    /// Everything that began at least once, and how often.
    pub fn counted(&self) -> Vec<(At, u64)> {
        let plain = What::ALL.into_iter().map(At::plain);
        let of = |what, count: usize| (0..count as u16).map(move |detail| At { what, detail });
        let all = plain
            .filter(|at| !matches!(at.what, What::Interpreter | What::Exit))
            .chain(of(What::Interpreter, DETAILS))
            .chain(of(What::Exit, EXIT_KINDS));
        let counted = all.filter_map(|at| Some((at, self.count(at)?)));
        counted.filter(|(_, count)| *count > 0).collect()
    }
}

/// A thread's own end of its spot, if its time is profiled.
#[derive(Clone, Debug, Default)]
pub struct Marker(Option<Arc<Spot>>);

impl Marker {
    /// That of a thread whose spot this is.
    pub fn of(spot: &Arc<Spot>) -> Marker {
        Marker(Some(Arc::clone(spot)))
    }

    /// As [`Spot::answer`].
    #[inline]
    pub fn answer(&self, kind: u16) {
        self.tell(|spot| spot.answer(kind));
    }

    /// As [`Spot::begin`].
    #[inline]
    pub fn begin(&self, at: At, rip: u64) {
        self.tell(|spot| spot.begin(at, rip));
    }

    /// As [`Spot::go_on`].
    #[inline]
    pub fn go_on(&self, what: What) {
        self.tell(|spot| spot.go_on(what));
    }

    /// As [`Spot::move_to`].
    #[inline]
    pub fn move_to(&self, rip: u64) {
        self.tell(|spot| spot.move_to(rip));
    }

    /// As [`Spot::enter_space`].
    #[inline]
    pub fn enter_space(&self, cr3: u64, is_user: bool) {
        self.tell(|spot| spot.enter_space(cr3, is_user));
    }

    /// Has the spot told something, out of the way of whoever has none.
    #[inline]
    pub fn tell(&self, what: impl FnOnce(&Spot)) {
        #[cold]
        #[inline(never)]
        fn told(spot: &Spot, what: impl FnOnce(&Spot)) {
            what(spot);
        }
        if let Some(spot) = &self.0 {
            told(spot, what);
        }
    }
}

/// What an engine knows of places in the code that it generates. Any thread may ask.
pub trait Places: Send + Sync {
    /// A number that changes when addresses of generated code get another meaning.
    fn generation(&self) -> u64;

    /// The guest's address that the code at `host` was made of, if it means the same now as it did in `generation`.
    fn guest_of(&self, host: u64, generation: u64) -> Option<u64>;

    /// Says what the detail of [`What::Interpreter`] is called.
    fn names(&self) -> fn(u16) -> String;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spot_says_what_was_begun_last_and_how_often_each_thing_was() {
        for (number, what) in What::ALL.into_iter().enumerate() {
            assert_eq!(what as usize, number);
        }
        let spot = Spot::counting();
        let outb = At {
            what: What::Interpreter,
            detail: 700,
        };
        spot.enter_space(0x8000_0000_0123_4567, true);
        spot.begin(At::plain(What::Translated), 0x40_0000);
        spot.begin(outb, 0x40_0010);
        spot.begin(outb, 0x40_0020);
        let seen = |at, rip| Seen {
            at,
            rip,
            space: 0x123_4001,
        };
        assert_eq!(Spot::of_words(spot.words()), seen(outb, 0x40_0020));
        // A system call: its instruction is the program's until something else begins.
        spot.enter_space(0x123_4567, false);
        assert_eq!(Spot::of_words(spot.words()).space, 0x123_4001);
        spot.go_on(What::InAndOut);
        spot.move_to(7);
        let moved = Spot::of_words(spot.words());
        assert_eq!((moved.at, moved.rip), (At::plain(What::InAndOut), 7));
        assert_eq!(moved.space, 0x123_4000);
        assert_eq!(
            spot.counted(),
            [(At::plain(What::Translated), 1), (outb, 2)]
        );
        // What nobody reads counts nothing.
        let spot = Spot::default();
        spot.begin(outb, 0);
        assert_eq!((spot.count(outb), spot.counted()), (None, vec![]));
        // Words that no thread has written.
        let seen = Spot::of_words([u64::MAX, 0, 0]);
        assert_eq!(seen.at.what, What::Elsewhere);
    }
}
