//! `guest NAME [WORDS]`: builds a bare guest, runs it on the software CPU and prints what it says;
//! `guest --build FOLDER`: builds all of them.
#![forbid(unsafe_code)]

use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use proof::bare::{GUESTS, run};
use proof::engine;

const LIMIT: Duration = Duration::from_secs(10);

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["--build", folder] => {
            for guest in GUESTS {
                println!("{}", guest.build(Path::new(folder))?.display());
            }
        }
        [name, words @ ..] => {
            let guest = GUESTS
                .iter()
                .find(|guest| guest.name == *name)
                .context("no such guest")?;
            let image = std::fs::read(guest.build(&std::env::temp_dir())?)?;
            let done = run(&engine::soft(), &image, &words.join(" "), LIMIT)?;
            print!("{}", done.console);
            eprintln!("{:?}", done.ending);
        }
        [] => eprintln!("usage: guest NAME [WORDS] | guest --build FOLDER"),
    }
    Ok(())
}
