//! How much of a guest's memory the host may hold, and where the rest goes.

use std::path::PathBuf;

use api::VmSpec;
use serde::{Deserialize, Serialize};
use x86::PAGE_SIZE;

use super::amounts::{shown, size};
use super::{Complaints, Trouble, trouble};

/// Least memory that a guest can run in, however little it knows of it.
const LIMIT_MIN_BYTES: u64 = 4 << 20;
/// Least room for pages that are away.
const ROOM_MIN_BYTES: u64 = 1 << 20;

/// How a VM's memory is paged.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PagingPlan {
    /// How much of it the host may hold; `None`: all.
    pub limit_bytes: Option<u64>,
    /// Whether it comes in huge pages; without a limit only.
    pub huge_pages: bool,
    /// Memory that compressed pages may take.
    pub store_memory_bytes: u64,
    /// Folder of the page file, and how much may lie in it.
    #[serde(with = "api::host_path")]
    pub file: Option<(PathBuf, u64)>,
}

pub(super) fn paging(
    spec: &VmSpec,
    memory_bytes: u64,
    complaints: &mut Complaints,
) -> Option<PagingPlan> {
    let limit = resident_limit(
        spec.resident_limit.as_deref().unwrap_or("none"),
        memory_bytes,
    );
    let limit_bytes = complaints.take(
        "resident-limit",
        limit.and_then(|limit| without_huge_pages(spec, limit)),
    );
    let store = spec.page_memory.as_deref().map_or(Ok(memory_bytes), room);
    let store_memory_bytes = complaints.take("page-memory", store);
    let file_bytes = spec
        .page_file_size
        .as_deref()
        .map_or(Ok(memory_bytes), room);
    let file_bytes = complaints.take("page-file-size", file_bytes);
    let folder = complaints.take("page-file", folder(spec));
    let file = folder?.zip(file_bytes);
    Some(PagingPlan {
        limit_bytes: limit_bytes?,
        huge_pages: spec.huge_pages,
        store_memory_bytes: store_memory_bytes?,
        file,
    })
}

/// A page that leaves must leave a hole, and the host may keep a huge page with zeros in the place of one.
fn without_huge_pages(spec: &VmSpec, limit: Option<u64>) -> Result<Option<u64>, Trouble> {
    match limit {
        Some(_) if spec.huge_pages => trouble(
            "memory in huge pages has no limit",
            "leave out `--huge-pages`, or the limit",
        ),
        limit => Ok(limit),
    }
}

fn folder(spec: &VmSpec) -> Result<Option<PathBuf>, Trouble> {
    match &spec.page_file {
        None if spec.page_file_size.is_some() => trouble(
            "a size is given, but no place for it",
            "name a folder with `--page-file FOLDER`",
        ),
        Some(folder) if !folder.is_dir() => trouble(
            format!("{} is not a folder", folder.display()),
            "name a folder; the page file itself has no name, so that nothing is left of it",
        ),
        folder => Ok(folder.clone()),
    }
}

/// A limit as people write it: `100M`, `10%` of the guest's memory, or `none`.
pub(crate) fn resident_limit(text: &str, memory_bytes: u64) -> Result<Option<u64>, Trouble> {
    let help = format!(
        "write a size such as 100M, a share of the guest's memory such as 10%, or none; at least {}",
        shown(LIMIT_MIN_BYTES)
    );
    if text == "none" {
        return Ok(None);
    }
    let bytes = match text.strip_suffix('%') {
        Some(share) => share
            .parse::<u64>()
            .ok()
            .filter(|share| (1..=100).contains(share))
            .map(|share| memory_bytes / 100 * share / PAGE_SIZE * PAGE_SIZE),
        None => size(text),
    };
    match bytes {
        None => trouble(format!("\"{}\" is no limit", text.escape_debug()), help),
        Some(bytes) if bytes < LIMIT_MIN_BYTES => trouble(
            format!("{} is too little for a guest to get on", shown(bytes)),
            help,
        ),
        // All of it is as good as no limit, but it may be meant to be lowered.
        Some(bytes) => Ok(Some((bytes / PAGE_SIZE * PAGE_SIZE).min(memory_bytes))),
    }
}

/// Room for pages that are away.
pub(crate) fn room(text: &str) -> Result<u64, Trouble> {
    let help = format!(
        "write a number with K, M, G or T behind it, such as 512M; at least {}",
        shown(ROOM_MIN_BYTES)
    );
    match size(text) {
        None => trouble(format!("\"{}\" is not a size", text.escape_debug()), help),
        Some(bytes) if bytes < ROOM_MIN_BYTES => trouble(
            format!("{} is too little to keep pages in", shown(bytes)),
            help,
        ),
        Some(bytes) => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_understood_or_explained() {
        let check = |text, expected: Result<Option<u64>, &str>| {
            let got = resident_limit(text, 1 << 30).map_err(|trouble| trouble.what);
            assert_eq!(got, expected.map_err(str::to_owned), "{text}");
        };
        check("none", Ok(None));
        check("100M", Ok(Some(100 << 20)));
        check("10%", Ok(Some(107_372_544)));
        check("100%", Ok(Some(1_073_741_824 / 100 * 100 / 4096 * 4096)));
        check("2G", Ok(Some(1 << 30)));
        check("5000001", Ok(Some(5_000_001 / 4096 * 4096)));
        check("3M", Err("3M is too little for a guest to get on"));
        check("0", Err("0 bytes is too little for a guest to get on"));
        check("0%", Err("\"0%\" is no limit"));
        check("101%", Err("\"101%\" is no limit"));
        check("ten", Err("\"ten\" is no limit"));
        check("", Err("\"\" is no limit"));
        check(
            "99999999999999999999",
            Err("\"99999999999999999999\" is no limit"),
        );
    }
}
