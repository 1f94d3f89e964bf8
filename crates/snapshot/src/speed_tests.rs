//! How long it takes: printed with `cargo test --release -p snapshot speed -- --nocapture`, and held against bounds that
//! only a mistake of another order breaks, since tests run beside others.

use std::time::{Duration, Instant};

use crate::{CHUNK_BYTES, MemoryReader, MemoryWriter, PackedChunk};

/// A guest of 1 GiB.
const PAGES: u64 = 262_144;

/// How much longer than promised it may take here.
const PATIENCE: u32 = 25;

/// The middle of so many measurements.
fn median(times: u32, mut act: impl FnMut(u32)) -> Duration {
    let mut all: Vec<Duration> = (0..times)
        .map(|time| {
            let began = Instant::now();
            act(time);
            began.elapsed()
        })
        .collect();
    all.sort_unstable();
    all[all.len() / 2]
}

fn check(what: &str, took: Duration, promised: Duration) {
    eprintln!("{what}: {took:.1?}, promised are {promised:.0?}");
    assert!(took < promised * PATIENCE, "{what}: {took:?}");
}

/// Chunks like a guest's: a program's own bytes.
fn chunks() -> Vec<Vec<u8>> {
    let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let whole = program.as_chunks::<CHUNK_BYTES>().0;
    whole.iter().take(64).map(|it| it.to_vec()).collect()
}

#[test]
fn opening_and_reading_take_no_time_that_somebody_would_notice() {
    let chunks = chunks();
    let packed: Vec<PackedChunk> = chunks.iter().map(|it| PackedChunk::of(it)).collect();
    let file = tempfile::tempfile().unwrap();
    let mut writer = MemoryWriter::new(file.try_clone().unwrap(), PAGES).unwrap();
    let small = PackedChunk::of(&vec![7; CHUNK_BYTES]);
    for chunk in 0..PAGES / 16 {
        let packed = packed.get(chunk as usize).unwrap_or(&small);
        writer.put_packed(chunk, packed).unwrap();
    }
    writer.finish().unwrap();
    let opened = median(21, |_| {
        MemoryReader::open(file.try_clone().unwrap(), PAGES).unwrap();
    });
    check("the index of 1 GiB", opened, Duration::from_millis(2));
    let reader = MemoryReader::open(file, PAGES).unwrap();
    let mut bytes = vec![0; CHUNK_BYTES];
    let read = median(640, |time| {
        let chunk = u64::from(time) % chunks.len() as u64;
        reader.read(chunk, &mut bytes).unwrap();
        assert!(bytes[..64] == chunks[chunk as usize][..64]);
    });
    check("a chunk of a program", read, Duration::from_micros(60));
    let pack = median(128, |time| {
        PackedChunk::of(&chunks[time as usize % chunks.len()]);
    });
    // What a snapshot of 1 GiB without zeros would take one thread: 16,384 of them.
    check("packing one", pack, Duration::from_micros(300));
    let kept: usize = packed.iter().map(PackedChunk::len_bytes).sum();
    eprintln!("of {} KiB left: {} KiB", chunks.len() * 64, kept / 1024);
}
