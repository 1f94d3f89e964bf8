//! The store against a naive one, with a file that fails on purpose.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::*;

/// A file in memory whose host can be told to refuse.
#[derive(Default)]
pub(super) struct Disk {
    bytes: Mutex<Vec<u8>>,
    refuses: AtomicBool,
}

impl Medium for Disk {
    fn read(&self, bytes: &mut [u8], position: u64) -> io::Result<()> {
        if self.refuses.load(Ordering::Relaxed) {
            return Err(io::Error::other("injected"));
        }
        let kept = self.bytes.lock().unwrap();
        bytes.copy_from_slice(&kept[position as usize..position as usize + bytes.len()]);
        Ok(())
    }

    fn write(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        let mut kept = self.bytes.lock().unwrap();
        let end = position as usize + bytes.len();
        let len = kept.len().max(end);
        kept.resize(len, 0);
        // A write that fails may have done anything to where it was going.
        if self.refuses.load(Ordering::Relaxed) {
            kept[position as usize..end].fill(0xee);
            return Err(io::Error::other("injected"));
        }
        kept[position as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn punch(&self, position: u64, len_bytes: u64) -> io::Result<()> {
        let mut kept = self.bytes.lock().unwrap();
        let end = kept.len().min((position + len_bytes) as usize);
        kept[position as usize..end].fill(0xdd);
        Ok(())
    }
}

/// A page that packs to about `len` bytes; pages of the same kind are the same.
pub(super) fn page(kind: u16) -> PageBytes {
    let noise = usize::from(kind) * 37 % 4000;
    let mut state = u64::from(kind) | 1;
    std::array::from_fn(|at| {
        if at > noise {
            return kind as u8;
        }
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
}

fn keep(store: &mut Store, page: &PageBytes) -> Result<EntryId, Full> {
    store.keep(page, checksum(page), &pack(page))
}

fn read(store: &Store, id: EntryId) -> Result<PageBytes, ReadError> {
    match store.get(id) {
        Kept::Here(Some(page)) => Ok(*page),
        Kept::Here(None) => Err(ReadError::Checksum),
        Kept::InFile(in_file) => in_file.read(),
    }
}

#[test]
fn identical_pages_and_pages_of_one_word_cost_nothing() {
    let mut store = Store::new(1 << 20, None);
    let ids: Vec<_> = (0..50)
        .map(|_| keep(&mut store, &page(77)).unwrap())
        .collect();
    let word = keep(&mut store, &repeat(0x0101_0202)).unwrap();
    let totals = store.totals();
    assert_eq!(
        (
            totals.memory_pages,
            totals.shared_pages,
            totals.repeating_pages
        ),
        (1, 49, 1)
    );
    assert!(totals.memory_bytes <= 64 * 1024);
    for id in ids {
        assert_eq!(read(&store, id).unwrap(), page(77));
        store.release(id);
    }
    store.release(word);
    assert_eq!(store.totals(), StoreTotals::default());
}

#[test]
fn a_page_that_changed_in_the_file_is_never_given_out() {
    let disk = Arc::new(Disk::default());
    let mut store = Store::new(64 * 1024, Some((Arc::<Disk>::clone(&disk), 1 << 20)));
    let id = keep(&mut store, &page(90)).unwrap();
    store.set_memory_budget(0);
    let mut batch = store.begin_spill().unwrap();
    batch.write().unwrap();
    store.end_spill(batch, true);
    assert_eq!(read(&store, id).unwrap(), page(90));
    disk.bytes.lock().unwrap()[100] ^= 1;
    assert!(matches!(read(&store, id), Err(ReadError::Checksum)));
    disk.refuses.store(true, Ordering::Relaxed);
    assert!(matches!(read(&store, id), Err(ReadError::Read(_))));
}

#[derive(Clone, Debug)]
enum Step {
    Keep(u16),
    Release(usize),
    Read(usize),
    Spill,
    Tidy,
    DropBetween(usize),
    Refuse(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0_u16..200).prop_map(Step::Keep),
        4 => any::<usize>().prop_map(Step::Release),
        3 => any::<usize>().prop_map(Step::Read),
        2 => Just(Step::Spill),
        1 => Just(Step::Tidy),
        1 => any::<usize>().prop_map(Step::DropBetween),
        1 => any::<bool>().prop_map(Step::Refuse),
    ];
    prop::collection::vec(step, 1..600)
}

/// Writes a batch, if there is one; the entry at `dropped` is released while it is on its way.
fn write(
    store: &mut Store,
    model: &mut Vec<(EntryId, u16)>,
    batch: Option<Batch>,
    dropped: Option<usize>,
) {
    let Some(mut batch) = batch else { return };
    if let Some(which) = dropped.filter(|_| !model.is_empty()) {
        let (id, _) = model.swap_remove(which % model.len());
        store.release(id);
        // Somebody else may get its id.
        if let Ok(id) = keep(store, &page(199)) {
            model.push((id, 199));
        }
    }
    let written = batch.write().is_ok();
    store.end_spill(batch, written);
}

/// A file that is mostly gaps is made small again, and what is in it stays.
#[test]
fn a_file_full_of_gaps_is_tidied_up() {
    let disk = Arc::new(Disk::default());
    let mut store = Store::new(
        1 << 20,
        Some((Arc::<Disk>::clone(&disk), 64 * SEGMENT_BYTES)),
    );
    let mut kept = Vec::new();
    for number in 0..2400_u64 {
        let mut page = page(108);
        page[..8].copy_from_slice(&number.to_le_bytes());
        kept.push((keep(&mut store, &page).unwrap(), page));
        while store.wants_to_spill() {
            let batch = store.begin_spill();
            write(&mut store, &mut Vec::new(), batch, None);
        }
    }
    let all = store.totals().file_held_bytes;
    assert!(
        !store.wants_to_tidy() && all > 24 * SEGMENT_BYTES,
        "{:?}",
        store.totals()
    );
    // Every segment loses most of what it had.
    let (rest, gone): (Vec<_>, Vec<_>) = kept.into_iter().zip(0..).partition(|(_, at)| at % 5 == 0);
    gone.into_iter().for_each(|((id, _), _)| store.release(id));
    assert!(store.wants_to_tidy() && store.totals().file_held_bytes == all);
    while store.wants_to_tidy() {
        let batch = store.begin_tidying();
        assert!(batch.is_some(), "{:?}", store.totals());
        write(&mut store, &mut Vec::new(), batch, None);
    }
    let totals = store.totals();
    assert!(
        totals.file_held_bytes <= totals.file_bytes * 5 / 4 + 16 * SEGMENT_BYTES,
        "{totals:?}"
    );
    for ((id, page), _) in rest {
        assert_eq!(read(&store, id).unwrap(), page);
    }
}

proptest! {
    #[test]
    fn what_is_kept_comes_back(steps in steps()) {
        let disk = Arc::new(Disk::default());
        // Room for few, so that everything happens: 4 segments, one of them to tidy up.
        let mut store = Store::new(192 * 1024, Some((Arc::<Disk>::clone(&disk), 4 * SEGMENT_BYTES)));
        let mut model: Vec<(EntryId, u16)> = Vec::new();
        for step in steps {
            match step {
                Step::Keep(kind) => match keep(&mut store, &page(kind)) {
                    Ok(id) => model.push((id, kind)),
                    Err(Full) => prop_assert!(store.totals().memory_bytes > 64 * 1024),
                },
                Step::Release(which) if !model.is_empty() => {
                    store.release(model.swap_remove(which % model.len()).0);
                }
                Step::Read(which) if !model.is_empty() => {
                    let (id, kind) = model[which % model.len()];
                    match read(&store, id) {
                        Ok(got) => prop_assert_eq!(got, page(kind)),
                        Err(error) => prop_assert!(matches!(error, ReadError::Read(_))),
                    }
                }
                Step::Spill => {
                    let batch = store.begin_spill();
                    write(&mut store, &mut model, batch, None);
                }
                Step::Tidy => {
                    let batch = store.begin_tidying();
                    write(&mut store, &mut model, batch, None);
                }
                Step::DropBetween(which) => {
                    let batch = store.begin_spill();
                    write(&mut store, &mut model, batch, Some(which));
                }
                Step::Refuse(refuses) => disk.refuses.store(refuses, Ordering::Relaxed),
                Step::Release(_) | Step::Read(_) => {}
            }
            let totals = store.totals();
            let pages = totals.memory_pages + totals.file_pages + totals.repeating_pages + totals.shared_pages;
            prop_assert_eq!(pages, model.len() as u64);
        }
        disk.refuses.store(false, Ordering::Relaxed);
        for (id, kind) in model {
            prop_assert_eq!(read(&store, id).unwrap(), page(kind));
            store.release(id);
        }
        prop_assert_eq!(store.totals(), StoreTotals::default());
    }
}
