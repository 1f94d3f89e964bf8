//! How much of a guest's memory the host may hold, and where the rest goes.

use std::path::PathBuf;

use api::{ResidentLimit, StoreSize, VmSpec};
use serde::{Deserialize, Serialize};

use super::{Complaints, Trouble, trouble};
use crate::engine::EngineKind;
use crate::plan::host_findings::{HostFindings, KERNEL_FAULTS_HELP};

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
    host: &HostFindings,
    engine: Option<EngineKind>,
    memory_bytes: u64,
    complaints: &mut Complaints,
) -> Option<PagingPlan> {
    let limit = spec.resident_limit.unwrap_or(ResidentLimit::None);
    let limit = limit.of(memory_bytes);
    let limit = limit.and_then(|limit| without_huge_pages(spec, limit));
    let limit = limit.and_then(|limit| can_be_kept(host, engine, limit));
    let limit_bytes = complaints.take("resident-limit", limit);
    let room = |asked: Option<StoreSize>| asked.map_or(memory_bytes, StoreSize::bytes);
    let folder = complaints.take("page-file", folder(spec));
    let file = folder?.map(|folder| (folder, room(spec.page_file_size)));
    Some(PagingPlan {
        limit_bytes: limit_bytes?,
        huge_pages: spec.huge_pages,
        store_memory_bytes: room(spec.page_memory),
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

/// A limit of the whole VM is kept by taking pages away too.
pub(super) fn can_be_limited(
    spec: &VmSpec,
    host: &HostFindings,
    engine: Option<EngineKind>,
    limit: Option<u64>,
) -> Result<Option<u64>, Trouble> {
    can_be_kept(host, engine, without_huge_pages(spec, limit)?)
}

/// A limit is kept by taking pages away, which not every user may do on every host and engine.
fn can_be_kept(
    host: &HostFindings,
    engine: Option<EngineKind>,
    limit: Option<u64>,
) -> Result<Option<u64>, Trouble> {
    match &host.paging {
        Some(paging)
            if limit.is_some()
                && paging.usable
                && !paging.usable_on_kvm
                && engine == Some(EngineKind::Kvm) =>
        {
            trouble(
                "guest memory cannot be paged for a guest on KVM here: KVM reaches it from inside the kernel, whose page \
                 faults this user is not given",
                format!("use `--engine soft`; or {KERNEL_FAULTS_HELP}"),
            )
        }
        Some(paging) if limit.is_some() && !paging.usable => {
            let help = paging.help.clone();
            trouble(
                format!("guest memory cannot be paged here: {}", paging.why),
                help.unwrap_or_else(|| "leave the limit out; `mother doctor` says more".to_owned()),
            )
        }
        _ => Ok(limit),
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

/// A limit as people write it, `100M`, `10%` or `none`, of a guest with so much memory.
pub(crate) fn resident_limit(text: &str, memory_bytes: u64) -> Result<Option<u64>, Trouble> {
    text.parse::<ResidentLimit>()?.of(memory_bytes)
}

/// Room for pages that are away, as people write it.
pub(crate) fn room(text: &str) -> Result<u64, Trouble> {
    text.parse::<StoreSize>().map(StoreSize::bytes)
}
