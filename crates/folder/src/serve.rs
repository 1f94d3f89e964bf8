//! Messages over a socket, one after the other.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use crate::message::{HEADER_BYTES, REQUEST_BYTES_MAX};
use crate::server::Server;

/// Answers what comes over this socket, in its order, until the other side hangs up. Each message begins with its length, as FUSE
/// has it, and so does each answer.
///
/// # Errors
/// If the socket fails, or what comes is not of a length that a message may have.
pub fn serve(server: &mut Server, mut socket: &UnixStream) -> io::Result<()> {
    let mut message = Vec::new();
    loop {
        let mut len_bytes = [0; 4];
        match socket.read(&mut len_bytes[..1]) {
            Ok(0) => return Ok(()),
            Ok(_) => socket.read_exact(&mut len_bytes[1..])?,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        let whole = u32::from_le_bytes(len_bytes) as usize;
        if !(HEADER_BYTES..=REQUEST_BYTES_MAX).contains(&whole) {
            return Err(ErrorKind::InvalidData.into());
        }
        message.clear();
        message.extend(len_bytes);
        message.resize(whole, 0);
        socket.read_exact(&mut message[len_bytes.len()..])?;
        if let Some(answer) = server.answer(&message) {
            socket.write_all(&answer)?;
        }
    }
}
