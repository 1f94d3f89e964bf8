//! Answers about paging: limits, the contents of pages that are away, and what was written.

use std::fmt::Write;
use std::time::{Duration, Instant};

use api::{
    Counter, Estimate, Outcome, PagingBook, RefusalCode, STORED_PAGES_MAX, WRITTEN_PAGES_MAX,
};
use host::rest::rest;
use paging::{Books, PAGE_BYTES};

use crate::plan::{resident_limit, room};
use crate::server::Shared;
use crate::server::lines::refusal;

/// How long pages may take to leave before the client is told that they still do.
pub(super) const LEAVE_TIME: Duration = Duration::from_secs(8);

/// Changes limits.
pub(super) fn limit(
    shared: &Shared,
    resident: Option<String>,
    page_memory: Option<String>,
) -> Outcome {
    let memory_bytes = shared.info.memory_given_bytes;
    let limit = resident
        .map(|text| resident_limit(&text, memory_bytes))
        .transpose();
    let store = page_memory.map(|text| room(&text)).transpose();
    let (limit, store) = match (limit, store) {
        (Ok(limit), Ok(store)) => (limit, store),
        (Err(trouble), _) | (_, Err(trouble)) => {
            return refusal(
                RefusalCode::BadRequest,
                format!("{}; {}", trouble.what, trouble.help),
            );
        }
    };
    let pager = match shared.control.paging().set(limit, store) {
        Ok(pager) => pager,
        Err(why) => {
            return refusal(
                RefusalCode::WrongState,
                format!("guest memory cannot be paged here: {why}"),
            );
        }
    };
    let Some(pager) = pager else {
        return Outcome::Done;
    };
    let deadline = Instant::now() + LEAVE_TIME;
    while !pager.is_within_limit() {
        if Instant::now() >= deadline {
            let why = shared
                .control
                .stalled()
                .unwrap_or_else(|| "pages are still leaving".to_owned());
            let held = pager.books().resident_bytes >> 20;
            return refusal(
                RefusalCode::TimedOut,
                format!("the limit is set, the host still holds {held} MiB: {why}"),
            );
        }
        rest(Duration::from_millis(5));
    }
    Outcome::Done
}

fn no_pager() -> Outcome {
    refusal(
        RefusalCode::WrongState,
        "nothing pages this guest's memory: read the memory file",
    )
}

/// The contents of pages.
pub(super) fn stored_pages(shared: &Shared, life: u64, file_pages: &[u64]) -> Outcome {
    if file_pages.len() > STORED_PAGES_MAX {
        return refusal(
            RefusalCode::BadRequest,
            format!("at most {STORED_PAGES_MAX} pages fit into an answer"),
        );
    }
    let Some(pager) = shared.control.paging().pager() else {
        return no_pager();
    };
    // The pager first: a life is shown only while its own pager is there.
    if shared
        .control
        .observed()
        .is_none_or(|observed| observed.life != life)
    {
        return refusal(RefusalCode::WrongState, "the guest has started again since");
    }
    let hex = |bytes: &paging::PageBytes| {
        let mut text = String::with_capacity(bytes.len() * 2);
        bytes.iter().for_each(|byte| {
            let _ = write!(text, "{byte:02x}");
        });
        text
    };
    match pager.look(file_pages) {
        Ok(pages) => Outcome::StoredPages {
            pages: pages.iter().map(|page| page.as_deref().map(hex)).collect(),
        },
        Err(broken) => refusal(RefusalCode::WrongState, paging::with_causes(&broken)),
    }
}

/// Which pages were written.
pub(super) fn written_pages(shared: &Shared, stretches: &[(u64, u64)]) -> Outcome {
    let count = stretches
        .iter()
        .fold(0_u64, |sum, &(_, count)| sum.saturating_add(count));
    if count > WRITTEN_PAGES_MAX {
        return refusal(
            RefusalCode::BadRequest,
            format!("at most {WRITTEN_PAGES_MAX} pages at a time"),
        );
    }
    let Some(pager) = shared.control.paging().watcher() else {
        return no_pager();
    };
    let pages: Vec<u64> = stretches
        .iter()
        .flat_map(|&(first, count)| first..first.saturating_add(count))
        .collect();
    match pager.written(&pages) {
        Ok(written) => Outcome::WrittenPages {
            stretches: runs(&pages, &written),
        },
        Err(broken) => refusal(RefusalCode::WrongState, paging::with_causes(&broken)),
    }
}

/// The written ones of `pages` as stretches.
fn runs(pages: &[u64], written: &[bool]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (&page, _) in pages.iter().zip(written).filter(|(_, written)| **written) {
        match runs.last_mut() {
            Some((first, count)) if *first + *count == page => *count += 1,
            _ => runs.push((page, 1)),
        }
    }
    runs
}

/// Where pages that are away are, in bytes of the guest; together that is all that is away.
pub(super) fn places(books: &Books) -> Vec<Counter> {
    let store = &books.store;
    let place = |name: &str, pages: u64| Counter {
        name: name.to_owned(),
        value: pages * PAGE_BYTES,
    };
    let places = [
        place("zeros", books.zero_bytes / PAGE_BYTES),
        place("repeating", store.repeating_pages),
        place("same_as_another", store.shared_pages),
        place("compressed_in_memory", store.memory_pages),
        place("in_file", store.file_pages),
        place("in_snapshot", books.base_bytes / PAGE_BYTES),
    ];
    places.into_iter().filter(|place| place.value > 0).collect()
}

/// What paging costs and does.
pub(super) fn paging_book(books: &Books) -> PagingBook {
    let store = &books.store;
    let counts = &books.counts;
    let counter = |name: &str, value| Counter {
        name: name.to_owned(),
        value,
    };
    PagingBook {
        limit_bytes: books.limit_bytes,
        store_memory_bytes: store.memory_bytes,
        store_memory_budget_bytes: books.store_memory_budget,
        store_file_bytes: store.file_held_bytes,
        cpu_seconds: books.cpu.as_secs_f64(),
        fault_in_median_us: books.fault_in_us.map(|(median, _)| median),
        fault_in_p99_us: books.fault_in_us.map(|(_, p99)| p99),
        waits: books.stalled.clone(),
        counters: vec![
            counter("page_ins", counts.page_ins),
            counter("prefetched", counts.prefetched),
            counter("page_outs", counts.page_outs),
            counter("zero_page_outs", counts.zero_page_outs),
            counter("stayed", counts.stayed),
            counter("zero_fills", counts.zero_fills),
            counter("dropped", counts.dropped),
            counter("refused", counts.refused),
        ],
    }
}

/// An estimate in bytes.
pub(super) fn in_bytes(estimate: &paging::Estimate) -> Estimate {
    let bytes = PAGE_BYTES as f64;
    Estimate {
        value: estimate.pages * bytes,
        error: estimate.error_pages * bytes,
        period_seconds: estimate.window.as_secs_f64(),
        age_ms: estimate.ended.elapsed().as_millis() as u64,
    }
}

/// An estimate in bytes a second.
pub(super) fn in_bytes_a_second(estimate: &paging::Estimate) -> Estimate {
    let Estimate {
        value,
        error,
        period_seconds,
        age_ms,
    } = in_bytes(estimate);
    let seconds = period_seconds.max(0.001);
    Estimate {
        value: value / seconds,
        error: error / seconds,
        period_seconds,
        age_ms,
    }
}
