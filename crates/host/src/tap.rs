//! Taps: network interfaces of the host whose other end is a file.
//!
//! The interface must be there: who has made it (`ip tuntap add`) has also decided who may use it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Longest name of an interface, with the zero behind it (`linux/if.h`).
const IFNAMSIZ: usize = libc::IFNAMSIZ;

/// The header before each packet: `struct virtio_net_hdr_v1`.
const HEADER_BYTES: libc::c_int = 12;

/// What may be left to whoever reads a tap (`TUN_F_*` of `linux/if_tun.h`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offloads {
    /// Checksums are left to the other side.
    pub checksum: bool,
    /// TCP segments over IPv4 larger than the interface's MTU; needs `checksum`.
    pub tso4: bool,
    /// The same over IPv6.
    pub tso6: bool,
    /// Segments that carry ECN.
    pub ecn: bool,
}

/// A tap that this process is attached to. Does not block.
#[derive(Debug)]
pub struct Tap(File);

impl Tap {
    /// Attaches to the interface `name`, which must be there: the kernel would make one for who may.
    ///
    /// # Errors
    /// `NotFound` without such an interface, `InvalidInput` for what cannot be a name, or what the kernel says.
    pub fn open(name: &str) -> io::Result<Tap> {
        if !is_name(name) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        if !exists(name) {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")?;
        // SAFETY: `ifreq` is plain data for which zeros are a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags =
            (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
        // SAFETY: the descriptor is open, and TUNSETIFF reads and writes one `ifreq`, which lives through the call.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
        let header_bytes = HEADER_BYTES;
        // SAFETY: the descriptor is open, and TUNSETVNETHDRSZ reads one int, which lives through the call.
        check(unsafe {
            libc::ioctl(
                file.as_raw_fd(),
                libc::TUNSETVNETHDRSZ,
                &raw const header_bytes,
            )
        })?;
        Ok(Tap(file))
    }

    /// The tap behind a file that another process has attached to it.
    pub fn of_file(file: File) -> Tap {
        Tap(file)
    }

    /// The file, for another process.
    pub fn into_file(self) -> File {
        self.0
    }

    /// Says what the reader of the tap takes.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        let bit = |on: bool, bit: libc::c_uint| if on { bit } else { 0 };
        let bits = bit(offloads.checksum, libc::TUN_F_CSUM)
            | bit(offloads.checksum && offloads.tso4, libc::TUN_F_TSO4)
            | bit(offloads.checksum && offloads.tso6, libc::TUN_F_TSO6)
            | bit(offloads.checksum && offloads.ecn, libc::TUN_F_TSO_ECN);
        // SAFETY: the descriptor is open, and TUNSETOFFLOAD takes its argument by value.
        check(unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::TUNSETOFFLOAD,
                libc::c_ulong::from(bits),
            )
        })
    }

    /// The file: each read and write is a packet with its header.
    pub fn file(&self) -> &File {
        &self.0
    }
}

/// Whether this can be the name of an interface (`dev_valid_name` of Linux).
pub fn is_name(name: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_graphic() && b != b'/' && b != b':' && b != b'%';
    !name.is_empty()
        && name.len() < IFNAMSIZ
        && name != "."
        && name != ".."
        && name.bytes().all(is_plain)
}

/// Whether there is such an interface.
pub fn exists(name: &str) -> bool {
    is_name(name) && Path::new("/sys/class/net").join(name).exists()
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_linux_knows_are_names() {
        let check = |name, ok| assert_eq!(is_name(name), ok, "{name}");
        check("tap0", true);
        check("abcdefghijklmno", true);
        check("abcdefghijklmnop", false);
        check("", false);
        check("..", false);
        check("../x", false);
        check("a b", false);
        check("tap%d", false);
    }

    #[test]
    fn a_tap_that_is_not_there_is_not_made() {
        assert_eq!(
            Tap::open("mothernotap9").unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
