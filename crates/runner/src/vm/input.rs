//! From a descriptor to the guest's console.

use std::fs::File;
use std::io::{self, Read};
use std::sync::mpsc::Receiver;
use std::thread;

use machine::ConsoleInput;

/// Ctrl-D at the start of a line is the end of input to a terminal's reader.
const END_OF_INPUT: u8 = 0x04;

/// Types what comes, as it comes.
pub(super) fn type_all(from: File, input: ConsoleInput) -> io::Result<()> {
    on_a_thread(move || each_chunk(from, |bytes| input.send(bytes).is_ok()))
}

/// Types commands, once `ready` says so or its sender is gone, and then the end of input.
pub(super) fn type_commands(
    from: File,
    input: ConsoleInput,
    ready: Option<Receiver<()>>,
) -> io::Result<()> {
    on_a_thread(move || {
        if let Some(ready) = ready {
            // An error means that nobody will ever say so, and then waiting is no use.
            let _ = ready.recv();
        }
        let mut last = b'\n';
        each_chunk(from, |bytes| {
            last = bytes.last().copied().unwrap_or(last);
            input.send(bytes).is_ok()
        });
        let _ = input.send(end_after(last));
    })
}

/// In the middle of a line the first Ctrl-D only ends the line.
fn end_after(last: u8) -> &'static [u8] {
    if last == b'\n' {
        &[END_OF_INPUT]
    } else {
        &[END_OF_INPUT, END_OF_INPUT]
    }
}

fn on_a_thread(act: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = thread::Builder::new().name("console-input".to_owned());
    thread.spawn(act).map(drop)
}

/// Gives all of `from` to `take` as it comes, until its end or until `take` wants no more.
pub fn each_chunk(mut from: impl Read, mut take: impl FnMut(&[u8]) -> bool) {
    let mut buffer = [0; 4096];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) if take(&buffer[..count]) => {}
            Ok(_) => return,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_that_ends_inside_a_line_ends_twice() {
        assert_eq!(end_after(b'\n'), b"\x04");
        assert_eq!(end_after(b'a'), b"\x04\x04");
    }
}
