//! The store through its own file and through a disk that fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use redb::StorageBackend;
use redb::backends::InMemoryBackend;

use super::*;
use crate::words::{Declaration, Severity};

fn declared(name: &str, version: u64) -> Declared {
    let what: Declaration =
        serde_json::from_value(serde_json::json!({ "name": name, "spec": { "memory": "64M" } }))
            .unwrap();
    Declared {
        what,
        version,
        wanted: 1,
        served: 0,
        medium: None,
        boot: crate::words::BootOverride::default(),
    }
}

fn names(store: &Store) -> Vec<String> {
    let all = store.declared().unwrap();
    all.iter().map(|one| one.what.name.to_string()).collect()
}

#[test]
fn what_is_declared_is_there_after_a_new_start() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let change = |name: &str| (name.to_owned(), Some(declared(name, 1)));
    store.declare(&[change("web"), change("db")]).unwrap();
    store.declare(&[("db".to_owned(), None)]).unwrap();
    assert!(matches!(
        Store::open(folder.path()),
        Err(StoreError::Taken(_))
    ));
    drop(store);
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(names(&store), ["web"]);
    assert!(store.is_new_boot("one").unwrap());
    assert!(!store.is_new_boot("one").unwrap());
    assert!(store.is_new_boot("two").unwrap());
}

#[test]
fn the_event_log_keeps_its_newest_and_its_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let event = |number: u64| Event {
        id: 0,
        at: number as f64,
        vm: None,
        kind: "started".to_owned(),
        severity: Severity::Info,
        text: number.to_string(),
    };
    let mut many: Vec<Event> = (1..=EVENTS_KEPT).map(event).collect();
    store.add_events(&mut many).unwrap();
    store
        .add_events(&mut [event(1), event(2), event(3)])
        .unwrap();
    assert_eq!(
        store.span_of_events().unwrap(),
        Some((4, EVENTS_KEPT + 3)),
        "the newest stay"
    );
    let ids = |events: Vec<Event>| events.iter().map(|event| event.id).collect::<Vec<_>>();
    assert_eq!(ids(store.events(Some(5), 2).unwrap()), [6, 7]);
    let last = EVENTS_KEPT + 3;
    assert_eq!(ids(store.events(None, 2).unwrap()), [last - 1, last]);
    assert!(store.events(Some(last), 9).unwrap().is_empty());
}

#[test]
fn what_the_first_version_wrote_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let database = Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut meta = transaction.open_table(META).unwrap();
        meta.insert("schema", "1").unwrap();
        let mut table = transaction.open_table(DECLARED).unwrap();
        let old = br#"{"name":"web","spec":{"memory":"64M"},"desired":"stopped"}"#;
        table.insert("web", old.as_slice()).unwrap();
    }
    transaction.commit().unwrap();
    drop(database);
    let store = Store::open(folder.path()).unwrap();
    let [web] = &store.declared().unwrap()[..] else {
        panic!("one was declared");
    };
    assert_eq!((web.version, web.wanted), (1, 0));
    assert_eq!(web.what.spec.said()["memory"], "64M");
    drop(store);

    let database = Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    let mut meta = transaction.open_table(META).unwrap();
    meta.insert("schema", "99").unwrap();
    drop(meta);
    transaction.commit().unwrap();
    drop(database);
    assert!(matches!(
        Store::open(folder.path()),
        Err(StoreError::Newer(99))
    ));
}

/// A disk whose power fails: after so many writes nothing arrives any more, and what was not synced is lost or not.
#[derive(Debug)]
struct Failing {
    disk: Arc<InMemoryBackend>,
    left: Arc<AtomicUsize>,
}

impl Failing {
    fn has_power(&self) -> io::Result<()> {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return Err(io::Error::other("the power is gone"));
        }
        self.left.store(left - 1, Ordering::Relaxed);
        Ok(())
    }
}

impl StorageBackend for Failing {
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.has_power()?;
        self.disk.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.has_power()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.has_power()?;
        self.disk.write(offset, data)
    }
}

/// The disk that `left` writes reach, each time that it is opened.
fn failing(
    disk: &Arc<InMemoryBackend>,
    left: &Arc<AtomicUsize>,
) -> impl Fn() -> Failing + Send + Sync + 'static {
    let disk = Arc::clone(disk);
    let left = Arc::clone(left);
    move || Failing {
        disk: Arc::clone(&disk),
        left: Arc::clone(&left),
    }
}

/// Another holder of the same disk.
#[derive(Debug)]
struct Same(Arc<InMemoryBackend>);

impl StorageBackend for Same {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

fn opened<B: StorageBackend>(
    backend: impl Fn() -> B + Send + Sync + 'static,
) -> Result<Store, StoreError> {
    Store::of(move || {
        let database = Database::builder().create_with_backend(backend());
        database.map_err(|source| StoreError::Open {
            path: PathBuf::new(),
            source: Box::new(source),
        })
    })
}

/// Every write that a disk can refuse because it is full: what was said to be kept is there, what was refused is not, and
/// when there is room again the store goes on without being opened by anybody.
#[test]
fn a_disk_that_was_full_for_a_while_is_written_again() {
    let mut refusals = 0;
    for room in 0..60 {
        let disk = Arc::new(InMemoryBackend::new());
        let left = Arc::new(AtomicUsize::new(usize::MAX));
        let failing = failing(&disk, &left);
        let store = opened(failing).unwrap();
        let declare = |name: &str| store.declare(&[(name.to_owned(), Some(declared(name, 1)))]);
        declare("a").unwrap();
        left.store(room, Ordering::Relaxed);
        let is_kept = declare("b").is_ok();
        refusals += usize::from(!is_kept);
        // Nothing is to be had of it now, or what it had.
        let _ = (declare("c"), store.declared());
        left.store(usize::MAX, Ordering::Relaxed);
        declare("d").unwrap();
        let found = names(&store);
        assert!(found.contains(&"a".to_owned()) && found.contains(&"d".to_owned()));
        if is_kept {
            assert!(found.contains(&"b".to_owned()), "{room} writes: {found:?}");
        }
    }
    assert!(refusals > 3, "{refusals} refusals");
}

#[test]
fn a_loss_of_power_at_any_write_loses_nothing_that_was_said_to_be_kept() {
    let mut cuts = 0;
    for power in 0.. {
        let disk = Arc::new(InMemoryBackend::new());
        let left = Arc::new(AtomicUsize::new(power));
        let failing = failing(&disk, &left);
        let mut said = Vec::new();
        // What is cut off while it is made has not got its name yet, and is made again.
        let Ok(store) = opened(failing) else {
            continue;
        };
        for name in ["a", "b", "c", "d"] {
            let change = (name.to_owned(), Some(declared(name, 1)));
            match store.declare(&[change]) {
                Ok(()) => said.push(name.to_owned()),
                Err(_) => break,
            }
        }
        drop(store);
        let is_whole = left.load(Ordering::Relaxed) > 0;
        // After the loss, another process: everything that was said to be kept is there, and at most the one more
        // whose word did not come.
        let store = opened(move || Same(Arc::clone(&disk))).unwrap();
        let found = names(&store);
        assert!(
            found.starts_with(&said) && found.len() <= said.len() + 1,
            "power for {power} writes: {found:?} of {said:?}"
        );
        cuts += 1;
        if is_whole {
            break;
        }
    }
    assert!(cuts > 20, "{cuts} cuts");
}
