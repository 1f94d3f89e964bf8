//! Files into the guest and out of it.
//!
//! What goes over the connection is one message for each file, folder and link ([`entry`]), then messages with the bytes of
//! a file: where they are, and they. So holes cost nothing, no archive has to be understood on either side, and nothing of the guest's own
//! (`tar`, a shell) is needed. Devices, sockets and pipes with a name are left out and told.
//!
//! The same rules for where things go are on the other side, `crates/cli/src/vm/copy/`.

mod entry;
mod give;
mod holes;
mod take;

pub(super) use give::give;
pub(super) use take::take;

use super::{LEFT_OUT, Sink, send};

/// Bytes of a file that go into one message.
const PIECE_BYTES: usize = 60 << 10;

/// How much that was left out is told by name. What is not heard must not fill the connection.
const TOLD_MAX: u64 = 64;

/// What was left out.
#[derive(Default)]
struct LeftOut(u64);

impl LeftOut {
    fn tell(&mut self, sink: &Sink, path: &[u8], why: &str) {
        self.0 += 1;
        if self.0 <= TOLD_MAX {
            let path = &path[..path.len().min(4096)];
            let message = [path, b"\0", why.as_bytes()].concat();
            // A host that has gone asks for no more.
            let _ = send(sink, LEFT_OUT, &message);
        }
    }
}

/// Zero-ended words `key=value`, as bytes: paths need not be text.
fn words(request: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    request.split(|&byte| byte == 0).filter_map(|word| {
        let at = word.iter().position(|&byte| byte == b'=')?;
        Some((&word[..at], &word[at + 1..]))
    })
}
