//! What a guest with a limit was given, in a few lines: for `mother truth` and `mother top`.

use api::{Counter, Estimate, HostCostBook, MemoryBook};
use insight::amounts::size;

use super::words::printable;

/// The lines; none for a guest that has all its memory.
pub(super) fn lines(memory: &MemoryBook, working_set: Option<Estimate>) -> Option<String> {
    let paging = memory.paging.as_ref()?;
    let limit = paging.limit_bytes?;
    let mut text = format!(
        "given    {} at a time of the {} that it believes to have; {} resident\n",
        size(limit),
        size(memory.configured_bytes),
        size(memory.resident_bytes)
    );
    let places: Vec<String> = memory.paged_out.iter().map(place).collect();
    if !places.is_empty() {
        text.push_str(&format!(
            "away     {}: {}\n",
            size(memory.paged_out_bytes()),
            places.join(", ")
        ));
        let file = match paging.store_file_bytes {
            0 => String::new(),
            bytes => format!(", {} of file", size(bytes)),
        };
        text.push_str(&format!(
            "         for {} of memory{file}\n",
            size(paging.store_memory_bytes)
        ));
    }
    if let Some(set) = working_set {
        let bytes = |value: f64| size(value.max(0.0) as u64);
        text.push_str(&format!(
            "uses     {} +- {} in {:.0} s\n",
            bytes(set.value),
            bytes(set.error),
            set.period_seconds
        ));
    }
    if let Some(why) = &paging.waits {
        text.push_str(&format!(
            "waits    there is no room for its pages: {}\n",
            printable(why)
        ));
    }
    Some(text)
}

/// What a VM costs its host against its limit, for one that has such a limit.
pub(super) fn cost_lines(cost: Option<&HostCostBook>) -> String {
    let Some(cost) = cost else {
        return String::new();
    };
    let mut text = format!(
        "costs    {} of the host, of the {} that it may ({} at least): {} guest, {} compressed pages, {} engine, {} own, {} program\n",
        size(cost.total_bytes),
        size(cost.limit_bytes),
        size(cost.least_bytes),
        size(cost.guest_bytes),
        size(cost.store_bytes),
        size(cost.engine_bytes),
        size(cost.own_bytes),
        size(cost.program_bytes)
    );
    if cost.total_bytes > cost.limit_bytes {
        text.push_str("         the limit is not kept\n");
    }
    text
}

fn place(place: &Counter) -> String {
    let words = match place.name.as_str() {
        "zeros" => "zeros",
        "repeating" => "one word repeated",
        "same_as_another" => "the same as others",
        "compressed_in_memory" => "compressed",
        "in_file" => "in the page file",
        other => other,
    };
    format!("{} {}", size(place.value), printable(words))
}

#[cfg(test)]
mod tests {
    use api::PagingBook;

    use super::*;

    #[test]
    fn a_limited_guest_is_told_in_lines_and_another_in_none() {
        let check = |limit_bytes, waits: Option<&str>, expected: Option<&str>| {
            let place = |name: &str, value: u64| Counter {
                name: name.to_owned(),
                value: value << 20,
            };
            let memory = MemoryBook {
                configured_bytes: 1 << 30,
                resident_bytes: 99 << 20,
                paged_out: vec![
                    place("zeros", 10),
                    place("compressed_in_memory", 500),
                    place("in_file", 90),
                ],
                paging: Some(PagingBook {
                    limit_bytes,
                    store_memory_bytes: 200 << 20,
                    store_file_bytes: 60 << 20,
                    waits: waits.map(str::to_owned),
                    ..PagingBook::default()
                }),
                ..MemoryBook::default()
            };
            let estimate = Estimate {
                value: 52_428_800.0,
                error: 2_097_152.0,
                period_seconds: 4.0,
                age_ms: 0,
            };
            assert_eq!(lines(&memory, Some(estimate)).as_deref(), expected);
        };
        check(None, None, None);
        let text = "given    100M at a time of the 1G that it believes to have; 99M resident\n\
                    away     600M: 10M zeros, 500M compressed, 90M in the page file\n         \
                    for 200M of memory, 60M of file\n\
                    uses     50M +- 2M in 4 s\n";
        check(Some(100 << 20), None, Some(text));
        let waits = format!("{text}waits    there is no room for its pages: full\n");
        check(Some(100 << 20), Some("full"), Some(&waits));
    }
}
