//! Which codec: pages of programs and of text, packed and unpacked by each.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::runs::median;

const PAGE_BYTES: usize = 4096;

/// Pages such as guests have: this program's code and data, and the text of its sources.
pub(super) fn sample() -> Result<Vec<[u8; PAGE_BYTES]>> {
    let mut bytes = std::fs::read(std::env::current_exe()?)?;
    bytes.truncate(32 << 20);
    bytes.extend(std::fs::read("Cargo.lock")?);
    for entry in std::fs::read_dir("crates/devices/src")?.flatten() {
        if entry.path().is_file() {
            bytes.extend(std::fs::read(entry.path())?);
        }
    }
    let (pages, _) = bytes.as_chunks::<PAGE_BYTES>();
    Ok(pages
        .iter()
        .filter(|page| page.iter().any(|byte| *byte != 0))
        .copied()
        .collect())
}

struct Codec {
    name: &'static str,
    pack: fn(&[u8], &mut Vec<u8>) -> Result<()>,
    unpack: fn(&[u8], &mut [u8]) -> Result<()>,
}

const CODECS: [Codec; 3] = [
    Codec {
        name: "lz4 (lz4_flex, safe Rust)",
        pack: |page, packed| {
            packed.resize(lz4_flex::block::get_maximum_output_size(page.len()), 0);
            let len = lz4_flex::block::compress_into(page, packed)?;
            packed.truncate(len);
            Ok(())
        },
        unpack: |packed, page| {
            lz4_flex::block::decompress_into(packed, page)?;
            Ok(())
        },
    },
    Codec {
        name: "zstd -1 (libzstd, C)",
        pack: |page, packed| zstd(page, packed, -1),
        unpack: unzstd,
    },
    Codec {
        name: "zstd 1 (libzstd, C)",
        pack: |page, packed| zstd(page, packed, 1),
        unpack: unzstd,
    },
];

fn zstd(page: &[u8], packed: &mut Vec<u8>, level: i32) -> Result<()> {
    packed.resize(zstd::zstd_safe::compress_bound(page.len()), 0);
    let len = zstd::bulk::compress_to_buffer(page, packed, level)?;
    packed.truncate(len);
    Ok(())
}

fn unzstd(packed: &[u8], page: &mut [u8]) -> Result<()> {
    zstd::bulk::decompress_to_buffer(packed, page)?;
    Ok(())
}

/// Prints a line for each codec.
pub fn compare() -> Result<bool> {
    let pages = sample()?;
    println!(
        "codec: {} pages of programs and text, median time for a page",
        pages.len()
    );
    println!(
        "  {:<28}{:>12}{:>12}{:>14}",
        "", "pack", "unpack", "of 4096 left"
    );
    for codec in CODECS {
        let mut pack = Vec::new();
        let mut unpack = Vec::new();
        let mut left = 0;
        for page in &pages {
            let mut packed = Vec::new();
            let start = Instant::now();
            (codec.pack)(page, &mut packed)?;
            pack.push(start.elapsed());
            let mut back = [0; PAGE_BYTES];
            let start = Instant::now();
            (codec.unpack)(&packed, &mut back)?;
            unpack.push(start.elapsed());
            ensure!(back == *page, "{} does not give a page back", codec.name);
            left += packed.len().min(PAGE_BYTES);
        }
        println!(
            "  {:<28}{:>9.2} us{:>9.2} us{:>12.1} %",
            codec.name,
            micros(pack),
            micros(unpack),
            100.0 * left as f64 / (pages.len() * PAGE_BYTES) as f64
        );
    }
    Ok(true)
}

fn micros(times: Vec<Duration>) -> f64 {
    median(
        times
            .into_iter()
            .map(|time| time.as_secs_f64() * 1e6)
            .collect(),
    )
}
