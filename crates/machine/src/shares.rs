//! Who gets how much of what a VM may cost its host in all: from what each part takes now, to what each may take.
//!
//! Three parts can yield, and do so in this order. Translations are made anew, which costs time once: the engine gives up all but a third of what it and the guest
//! share, and of that what is more than [`ENGINE_EASY_BYTES`], with which it works nearly as fast as with more. Then the store: where there is a page file, it keeps
//! [`STORE_BYTES`] and what the guest may not use, and the rest goes to the file. Then guest memory: what the host holds of it shrinks to [`GUEST_LEAST_BYTES`].
//! A part whose user asked for less than its share has less, and the others have the rest.
//!
//! This is a value without clocks and threads; who looks and obeys is `threads::host_limit`.

/// Least of its memory that a guest gets on with, if it has so much.
const GUEST_LEAST_BYTES: u64 = 12 << 20;
/// What a store with a page file keeps in memory.
const STORE_BYTES: u64 = 4 << 20;
/// What a store without one may grow by until it is looked at again.
const STORE_STEP_BYTES: u64 = 4 << 20;
/// What is kept free for what has no share.
const FREE_BYTES: u64 = 3 << 20;
/// What the engine works with nearly as fast as with more: `docs/limits.md` has the measurement.
const ENGINE_EASY_BYTES: u64 = 24 << 20;
/// The engine has one part of so many of what it and the guest share, when both want more.
const ENGINE_SHARE: u64 = 3;
/// What the engine takes at a time, and leaves for guest memory to grow.
const ENGINE_STEP_BYTES: u64 = 8 << 20;
/// With less than this free the guest is taken to want more than it has: its pager keeps as much free itself.
const PRESSED_BYTES: u64 = 4 << 20;
/// A smaller change of the engine's share is not worth calling vCPUs out of the guest.
const ENGINE_CHANGE_BYTES: u64 = 2 << 20;
/// Guest memory's share is a multiple of this, so that it stays the same while little changes.
const GUEST_STEP_BYTES: u64 = 256 << 10;
/// The process's own, its program with it, of the smallest VM; and one byte for so many of guest memory, for tables of its pages.
const OWN_BYTES: u64 = 20 << 20;
const TABLES_SHARE: u64 = 64;

/// The least that a VM costs its host, in bytes: with a page file, whatever its guest does; without, while nothing of it is in the store.
pub(crate) fn least_cost_bytes(memory_bytes: u64, vcpu_count: u32) -> u64 {
    let parts = own_bytes(memory_bytes)
        + FREE_BYTES
        + soft::least_bytes(vcpu_count)
        + STORE_BYTES
        + GUEST_LEAST_BYTES.min(memory_bytes);
    parts.next_multiple_of(1 << 20)
}

/// What is more than [`least_cost_bytes`] where the store holds so much and has no file to go to.
pub(crate) fn stored_more_bytes(store_bytes: u64) -> u64 {
    let more = store_bytes.saturating_sub(STORE_BYTES);
    more.next_multiple_of(1 << 20)
}

/// What the process of a VM that has not begun is taken to need of its own.
pub(crate) fn own_bytes(memory_bytes: u64) -> u64 {
    OWN_BYTES + memory_bytes / TABLES_SHARE
}

/// What the parts take, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Taken {
    /// Guest memory that the host holds.
    pub(crate) guest: u64,
    /// Pages of the guest in the store's memory.
    pub(crate) store: u64,
    /// The engine; none where what it holds is not ours.
    pub(crate) engine: Option<u64>,
    /// The process's own beside those, and its program.
    pub(crate) rest: u64,
}

/// What was asked for the parts, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// Most that guest memory may be.
    pub(crate) guest_most: u64,
    /// Least that the engine works in.
    pub(crate) engine_least: u64,
    /// Most that it may hold.
    pub(crate) engine_most: u64,
    /// Whether the store has a page file.
    pub(crate) has_file: bool,
}

/// What the parts may take, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shares {
    pub(crate) guest: u64,
    pub(crate) store: u64,
    pub(crate) engine: u64,
    /// The least that all of it costs as things are: what is there and cannot yield, and the least of each part that can. A limit that is less is not kept.
    pub(crate) least: u64,
}

/// Shares `limit` out; `engine_share` is what the engine had of it until now.
pub(crate) fn shares(
    limit: u64,
    taken: &Taken,
    asked: &Asked,
    engine_share: Option<u64>,
) -> Shares {
    let fixed = taken.rest + FREE_BYTES;
    let all = limit.saturating_sub(fixed);
    // A store that is being written to its file takes what it takes until it is.
    let stored = taken.store.max(STORE_BYTES);
    let guest_least = GUEST_LEAST_BYTES.min(asked.guest_most);
    // A guest on KVM may come to the software CPU, and begins there with the least.
    let engine = match taken.engine {
        Some(_) => engine(all.saturating_sub(stored), taken, asked, engine_share),
        None => asked.engine_least,
    };
    let left = all.saturating_sub(taken.engine.map_or(0, |now| now.max(engine)));
    let store = match asked.has_file {
        true => left.saturating_sub(asked.guest_most).max(STORE_BYTES),
        false => taken.store + STORE_STEP_BYTES,
    };
    let guest = left.saturating_sub(store.max(taken.store));
    let guest = guest / GUEST_STEP_BYTES * GUEST_STEP_BYTES;
    let engine_least = taken.engine.map_or(0, |_| asked.engine_least);
    Shares {
        guest: guest.max(guest_least).min(asked.guest_most),
        store,
        engine,
        least: fixed + stored + engine_least + guest_least,
    }
}

/// The engine's share of what it and the guest have together.
fn engine(both: u64, taken: &Taken, asked: &Asked, before: Option<u64>) -> u64 {
    let least = asked.engine_least;
    let easy = ENGINE_EASY_BYTES.max(least);
    let kept = (both / ENGINE_SHARE)
        .clamp(least, easy)
        .min(asked.engine_most);
    let now = taken.engine.unwrap_or(0);
    let before = before.unwrap_or(now);
    let had = before.max(kept).min(asked.engine_most);
    let beside = both.saturating_sub(taken.guest);
    let free = beside.saturating_sub(had);
    let share = if free < PRESSED_BYTES {
        let yielded = beside.saturating_sub(ENGINE_STEP_BYTES).min(had / 2);
        yielded.max(kept)
    } else if free >= 2 * ENGINE_STEP_BYTES && now > had / 2 {
        (had + ENGINE_STEP_BYTES).min(asked.engine_most)
    } else {
        had
    };
    let is_worth_it = share.abs_diff(before) >= ENGINE_CHANGE_BYTES || share == least;
    if is_worth_it || before > asked.engine_most {
        share
    } else {
        before.max(least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const MOST: u64 = u64::MAX / MIB / 2;

    /// In MiB: a limit; guest, store, engine, the rest as they are; the engine's share of late; and what was asked.
    #[derive(Clone, Copy)]
    struct Case {
        limit: u64,
        now: [u64; 4],
        engine_share: u64,
        guest_most: u64,
        engine_most: u64,
        has_file: bool,
    }

    impl Case {
        fn shares(self) -> Shares {
            let [guest, store, engine, rest] = self.now.map(|part| part * MIB);
            let taken = Taken {
                guest,
                store,
                engine: Some(engine),
                rest,
            };
            let asked = Asked {
                guest_most: self.guest_most * MIB,
                engine_least: 9 * MIB,
                engine_most: self.engine_most * MIB,
                has_file: self.has_file,
            };
            shares(
                self.limit * MIB,
                &taken,
                &asked,
                Some(self.engine_share * MIB),
            )
        }
    }

    fn with_file(limit: u64, now: [u64; 4], engine_share: u64) -> Case {
        Case {
            limit,
            now,
            engine_share,
            guest_most: 512,
            engine_most: MOST,
            has_file: true,
        }
    }

    fn without_file(limit: u64, now: [u64; 4], engine_share: u64) -> Case {
        Case {
            has_file: false,
            ..with_file(limit, now, engine_share)
        }
    }

    /// What guest, store and engine may have then, in whole MiB.
    fn check(what: &str, case: Case, expected: [u64; 3]) {
        let got = case.shares();
        let got = [got.guest, got.store, got.engine].map(|part| part / MIB);
        assert_eq!(got, expected, "{what}");
    }

    #[test]
    fn translations_yield_first() {
        let check = |what, now, engine_share, expected| {
            check(what, with_file(300, now, engine_share), expected);
        };
        check("both are small", [100, 0, 9, 20], 24, [249, 4, 24]);
        check("the engine grows", [100, 0, 14, 20], 24, [241, 4, 32]);
        check("and grows on", [100, 0, 70, 20], 80, [185, 4, 88]);
        check(
            "not where the guest is near",
            [170, 0, 80, 20],
            88,
            [185, 4, 88],
        );
        check(
            "the guest comes to its share",
            [183, 0, 80, 20],
            88,
            [193, 4, 44],
        );
        check("the engine has yielded", [190, 0, 20, 20], 44, [229, 4, 44]);
        check("to what it keeps", [228, 0, 40, 20], 44, [233, 4, 24]);
        check("and no further", [249, 0, 24, 20], 24, [249, 4, 24]);
    }

    #[test]
    fn then_the_store_goes_to_its_file_then_the_guest_shrinks() {
        let check = |what, limit, now, engine_share, expected| {
            check(what, with_file(limit, now, engine_share), expected);
        };
        check(
            "the engine keeps a third",
            100,
            [49, 4, 24, 20],
            24,
            [49, 4, 24],
        );
        check("of less", 90, [60, 0, 24, 20], 24, [39, 4, 21]);
        check(
            "the store is being written",
            100,
            [50, 20, 19, 20],
            19,
            [38, 4, 19],
        );
        check(
            "the rest grows, the guest shrinks",
            60,
            [40, 4, 9, 30],
            9,
            [14, 4, 9],
        );
        check("to its least", 60, [40, 4, 9, 40], 9, [12, 4, 9]);
    }

    #[test]
    fn without_a_file_the_guest_shrinks_for_the_store() {
        let check = |what, now, expected| {
            check(what, without_file(100, now, 9), expected);
        };
        check("nothing is away", [20, 0, 9, 20], [49, 4, 24]);
        check("the store grows", [40, 20, 9, 20], [34, 24, 19]);
        check("the guest is at its least", [14, 50, 9, 20], [14, 54, 9]);
        check("and stays there", [12, 60, 9, 20], [12, 64, 9]);
    }

    #[test]
    fn what_was_asked_for_less_is_less_and_the_others_have_the_rest() {
        let case = with_file(200, [30, 10, 10, 20], 24);
        check("nothing was asked", case, [143, 4, 24]);
        let limited = Case {
            guest_most: 30,
            ..case
        };
        check("a resident limit", limited, [30, 123, 24]);
        let limited = Case {
            engine_most: 10,
            ..case
        };
        check("a limit of the engine", limited, [157, 4, 10]);
    }

    #[test]
    fn on_kvm_nothing_is_kept_for_an_engine() {
        let taken = Taken {
            guest: 40 * MIB,
            rest: 20 * MIB,
            ..Taken::default()
        };
        let asked = Asked {
            guest_most: 512 * MIB,
            engine_least: 9 * MIB,
            engine_most: MOST * MIB,
            has_file: true,
        };
        let shares = shares(100 * MIB, &taken, &asked, Some(24 * MIB));
        assert_eq!(shares.guest, 73 * MIB);
        assert_eq!(shares.engine, 9 * MIB);
        assert_eq!(shares.least, (20 + 3 + 4 + 12) * MIB);
    }

    #[test]
    fn the_least_that_all_of_it_costs_is_told() {
        let check = |case: Case, least: u64, is_kept: bool| {
            let got = case.shares();
            assert_eq!(got.least / MIB, least);
            let most = got.guest + got.store.max(case.now[1] * MIB) + got.engine;
            let most = most + case.now[3] * MIB + FREE_BYTES;
            assert_eq!(most <= case.limit * MIB, is_kept, "{most}");
        };
        check(with_file(60, [30, 4, 9, 25], 9), 53, true);
        check(with_file(53, [12, 4, 9, 25], 9), 53, true);
        check(with_file(52, [12, 4, 9, 25], 9), 53, false);
        check(without_file(100, [12, 40, 9, 20], 9), 84, true);
        check(without_file(100, [12, 60, 9, 20], 9), 104, false);
    }

    /// A guest that wants `wanted` MiB by and by, on an engine that fills its share, looked at until nothing changes.
    fn settle(limit: u64, wanted: u64) -> (u64, usize) {
        let mut case = with_file(limit, [0, 0, 0, 25], 24);
        let mut changes = 0;
        let mut quiet = 0;
        while quiet < 20 {
            let got = case.shares();
            let [guest, _, engine, _] = &mut case.now;
            *guest = (*guest + 30).min(wanted).min(got.guest / MIB);
            *engine = (got.engine / MIB).min(200);
            let is_same = case.engine_share == got.engine / MIB;
            case.engine_share = got.engine / MIB;
            changes += usize::from(!is_same);
            quiet = if is_same { quiet + 1 } else { 0 };
            assert!(changes < 60, "the engine's share never settles");
        }
        (case.engine_share, changes)
    }

    #[test]
    fn shares_settle_whatever_the_guest_wants() {
        for limit in [60, 90, 120, 300, 700] {
            for wanted in [10, 40, 60, 100, 200, 512] {
                settle(limit, wanted);
            }
        }
        assert_eq!(settle(120, 512).0, 24);
        assert_eq!(settle(90, 512).0, 19);
        assert_eq!(settle(60, 512).0, 9);
    }

    #[test]
    fn the_least_that_a_vm_costs_is_enough_for_its_least_parts() {
        for (memory, vcpus) in [(8, 1), (32, 1), (512, 1), (4096, 4)] {
            let memory = memory * MIB;
            let limit = least_cost_bytes(memory, vcpus);
            let taken = Taken {
                engine: Some(0),
                rest: own_bytes(memory),
                ..Taken::default()
            };
            let asked = Asked {
                guest_most: memory,
                engine_least: soft::least_bytes(vcpus),
                engine_most: u64::MAX,
                has_file: true,
            };
            let shares = shares(limit, &taken, &asked, None);
            assert!(
                shares.least <= limit,
                "{memory} bytes, {vcpus} vCPUs: {shares:?}"
            );
        }
        assert_eq!(least_cost_bytes(512 * MIB, 1), 56 * MIB);
        assert_eq!(
            [0, 4 * MIB, 4 * MIB + 1].map(stored_more_bytes),
            [0, 0, MIB]
        );
    }
}
