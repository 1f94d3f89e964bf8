//! What observers are told, as it is written, as older programs write it, and number by number.

use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::*;

/// `value` is written as `text`, and read from it.
fn check<T>(value: &T, text: &str)
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    assert_eq!(serde_json::to_string(value).unwrap(), text);
    assert_eq!(serde_json::from_str::<T>(text).unwrap(), *value);
}

/// Of an older program, which does not know of `keys`: `value` comes back with their defaults.
fn check_older<T>(value: &T, keys: &[&str], expected: &T)
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let mut written = serde_json::to_value(value).unwrap();
    let fields = written.as_object_mut().unwrap();
    for key in keys {
        assert!(fields.remove(*key).is_some(), "{key} is a field");
    }
    assert_eq!(serde_json::from_value::<T>(written).unwrap(), *expected);
}

fn counter(name: &str, value: u64) -> Counter {
    Counter {
        name: name.to_owned(),
        value,
    }
}

fn view() -> MemoryView {
    let slot = |gpa, len_bytes, file_offset| SlotView {
        gpa,
        len_bytes,
        file_offset,
    };
    MemoryView {
        life: 2,
        slots: vec![slot(0, 0xc000_0000, 0), slot(1 << 32, 4096, 0xc000_0000)],
        has_residency: true,
        kernel_sha256: Some("ab".repeat(32)),
    }
}

#[test]
fn where_memory_lies_keeps_its_words() {
    let text = format!(
        "{{\"life\":2,\"slots\":[{{\"gpa\":0,\"len_bytes\":3221225472,\"file_offset\":0}},\
         {{\"gpa\":4294967296,\"len_bytes\":4096,\"file_offset\":3221225472}}],\
         \"has_residency\":true,\"kernel_sha256\":\"{}\"}}",
        "ab".repeat(32)
    );
    check(&view(), &text);
    let unnamed = MemoryView {
        kernel_sha256: None,
        ..view()
    };
    check_older(&view(), &["kernel_sha256"], &unnamed);
}

#[test]
fn registers_are_whole_numbers_of_64_bits_both_ways() {
    // As other languages' readers have it, 2^53 is the last whole number of a double: ours must not be.
    let table = |base| TableView { base, limit: 0xfff };
    let vcpu = VcpuView {
        vcpu_id: 7,
        cr3: u64::MAX,
        idtr: table(0xffff_fe00_0000_0000),
        gdtr: table(0xffff_fe00_0000_1000),
        lstar: 0xffff_ffff_8100_0001,
        rip: (1 << 53) + 1,
        cpl: 3,
        halted: true,
        age_ms: 12,
        ..VcpuView::default()
    };
    let text = serde_json::to_string(&vcpu).unwrap();
    for number in [
        "18446744073709551615",
        "9007199254740993",
        "18446744071578845185",
    ] {
        assert!(text.contains(number), "{number} in {text}");
    }
    assert_eq!(serde_json::from_str::<VcpuView>(&text).unwrap(), vcpu);
    // A register is never left out: a reader would take it for zero.
    let whole = serde_json::to_value(vcpu).unwrap();
    for name in whole.as_object().unwrap().keys() {
        let mut without = whole.clone();
        without.as_object_mut().unwrap().remove(name);
        let read = serde_json::from_value::<VcpuView>(without);
        assert!(read.is_err(), "without {name} it is no vCPU");
    }
}

#[test]
fn claims_and_the_balloon_keep_their_words() {
    let claim = GuestClaim {
        key: "memory_used_percent".to_owned(),
        value: "95 \"or\" so".to_owned(),
        way: "port".to_owned(),
        age_ms: 3,
        times: 9,
    };
    let book = ClaimBook {
        claims: vec![claim],
        refused_lines: 1,
    };
    check(
        &book,
        r#"{"claims":[{"key":"memory_used_percent","value":"95 \"or\" so","way":"port","age_ms":3,"times":9}],"refused_lines":1}"#,
    );
    let balloon = BalloonBook {
        target_bytes: 4096,
        claims: vec![counter("free_memory", 5)],
        claims_age_ms: Some(70),
        ..BalloonBook::default()
    };
    check(
        &balloon,
        r#"{"target_bytes":4096,"claimed_bytes":0,"inflated_bytes":0,"reported_bytes":0,"claims":[{"name":"free_memory","value":5}],"claims_age_ms":70}"#,
    );
    let never_said = BalloonBook {
        claims_age_ms: None,
        ..balloon.clone()
    };
    check_older(&balloon, &["claims_age_ms"], &never_said);
}

#[test]
fn what_is_paged_out_is_the_sum_of_its_places() {
    let check = |places: &[(&str, u64)], expected| {
        let places = places.iter().map(|(name, value)| counter(name, *value));
        let book = MemoryBook {
            paged_out: places.collect(),
            ..MemoryBook::default()
        };
        assert_eq!(book.paged_out_bytes(), expected);
    };
    check(&[], 0);
    check(&[("memory", 4096)], 4096);
    check(&[("memory", 4096), ("file", 8192), ("zeros", 0)], 12288);
}

/// Books with these amounts of time in them.
fn books(time: f64, more: f64, numbers: (u64, u64)) -> HostBooks {
    let estimate = Estimate {
        value: time,
        error: more,
        period_seconds: 30.0,
        age_ms: numbers.0,
    };
    HostBooks {
        life: numbers.0,
        reboots: 1,
        engine: "soft".to_owned(),
        paused: false,
        uptime_seconds: time,
        cpu_seconds: more,
        clock: ClockBook {
            wall_at_start: more,
            guest_seconds: time,
            paused_seconds: 0.0,
            tsc_khz: numbers.1,
        },
        memory: MemoryBook {
            configured_bytes: numbers.1,
            paged_out: vec![counter("file", numbers.0)],
            paging: Some(PagingBook {
                limit_bytes: Some(numbers.1),
                cpu_seconds: time,
                fault_in_p99_us: Some(numbers.0),
                waits: Some("there is no room".to_owned()),
                ..PagingBook::default()
            }),
            ..MemoryBook::default()
        },
        host_cost: Some(crate::HostCostBook {
            limit_bytes: numbers.0,
            ..crate::HostCostBook::default()
        }),
        engine_memory: Some(crate::EngineMemoryBook {
            held_bytes: numbers.0,
            limit_bytes: Some(numbers.1),
        }),
        vcpus: vec![VcpuBook {
            vcpu_id: 0,
            run_seconds: Some(time),
            wait_seconds: None,
            halted_seconds: more,
            waiting_for_startup_seconds: 0.0,
            exits: vec![counter("halt", numbers.1)],
        }],
        devices: Vec::new(),
        balloon: BalloonBook::default(),
        claims: ClaimBook {
            refused_lines: numbers.0,
            ..ClaimBook::default()
        },
        working_set: Some(estimate),
        dirty_rate: None,
    }
}

#[test]
fn books_of_a_program_that_did_not_sample_or_page_are_read() {
    let new = books(1.5, 2.5, (3, 4));
    let old = HostBooks {
        claims: ClaimBook::default(),
        working_set: None,
        engine_memory: None,
        host_cost: None,
        ..new.clone()
    };
    check_older(
        &new,
        &[
            "claims",
            "working_set",
            "dirty_rate",
            "engine_memory",
            "host_cost",
        ],
        &old,
    );
    let memory = MemoryBook {
        paged_out: Vec::new(),
        paging: None,
        ..new.memory.clone()
    };
    check_older(&new.memory, &["paged_out", "paging"], &memory);
}

proptest! {
    #[test]
    fn every_number_of_the_books_comes_back_as_it_was(
        time in any::<f64>().prop_filter("JSON has no other", |time| time.is_finite()),
        more in 0.0..1e12_f64,
        numbers in any::<(u64, u64)>(),
    ) {
        let sent = books(time, more, numbers);
        let text = serde_json::to_string(&sent).unwrap();
        let came: HostBooks = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(came.uptime_seconds.to_bits(), time.to_bits());
        prop_assert_eq!(came, sent);
    }
}
