#!/bin/sh
# redb 4.6.0 promises that a database survives the loss of power at any moment. The making of one does not: cut after its
# first writes, it leaves a file that no later `create` (nor `open`) accepts. `Database::create` makes a new database of
# a file that is empty, so a good engineer expects it to begin again; it says "Not a redb database: magic number
# mismatch" instead, because the file has its length already and its magic number is written last. Once the first
# commit is on the disk, every later cut is survived.
#
# Who keeps state with it makes the database under another name, commits once, and renames.
#
# Versions: redb 4.6.0, rustc 1.88 or newer. Source: the crate's own documentation ("crash-safe"), and its page on design
# (the header's magic number is the last that a new file gets).
# Seen:
#   cut after N writes of the making: cannot be opened again: 3 of 6
#   cut after N writes of a later commit: cannot be opened again: 0 of 5
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat > Cargo.toml <<'TOML'
[package]
name = "cut"
version = "0.0.0"
edition = "2021"
[dependencies]
redb = "=4.6.0"
TOML
cat > src/main.rs <<'RUST'
use redb::backends::InMemoryBackend;
use redb::{Database, StorageBackend, TableDefinition};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;

const TABLE: TableDefinition<u64, u64> = TableDefinition::new("t");

/// A disk in memory whose power goes after so many writes.
#[derive(Debug, Clone)]
struct Disk(Arc<InMemoryBackend>, Arc<AtomicUsize>);

impl Disk {
    fn spend(&self) -> io::Result<()> {
        let spent = self.1.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
        spent.map(drop).map_err(|_| io::Error::other("no power"))
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> { self.0.len() }
    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()> { self.0.read(at, out) }
    fn set_len(&self, len: u64) -> io::Result<()> { self.spend()?; self.0.set_len(len) }
    fn sync_data(&self) -> io::Result<()> { self.spend() }
    fn write(&self, at: u64, data: &[u8]) -> io::Result<()> { self.spend()?; self.0.write(at, data) }
}

fn open(disk: Disk) -> Result<Database, redb::DatabaseError> {
    Database::builder().create_with_backend(disk)
}

fn commit(database: &Database, value: u64) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(TABLE)?.insert(1, value)?;
    transaction.commit()?;
    Ok(())
}

fn main() {
    let (mut making, mut making_lost) = (0, 0);
    for power in 1.. {
        let (memory, left) = (Arc::new(InMemoryBackend::new()), Arc::new(AtomicUsize::new(power)));
        let made = open(Disk(memory.clone(), left)).is_ok();
        if made { break }
        making += 1;
        let again = open(Disk(memory, Arc::new(AtomicUsize::new(usize::MAX))));
        if let Err(error) = again { making_lost += 1; println!("  after {power}: {error}"); }
    }
    println!("cut after N writes of the making: cannot be opened again: {making_lost} of {making}");
    let (mut later, mut later_lost) = (0, 0);
    for power in 1.. {
        let (memory, left) = (Arc::new(InMemoryBackend::new()), Arc::new(AtomicUsize::new(usize::MAX)));
        let database = open(Disk(memory.clone(), left.clone())).unwrap();
        commit(&database, 1).unwrap();
        left.store(power, Relaxed);
        let done = commit(&database, 2).is_ok();
        left.store(0, Relaxed);
        drop(database);
        if done { break }
        later += 1;
        later_lost += open(Disk(memory, Arc::new(AtomicUsize::new(usize::MAX)))).is_err() as usize;
    }
    println!("cut after N writes of a later commit: cannot be opened again: {later_lost} of {later}");
    std::process::exit(if making_lost > 0 && later_lost == 0 { 0 } else { 1 });
}
RUST
cargo run --quiet
