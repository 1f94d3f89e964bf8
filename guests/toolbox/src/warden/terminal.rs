//! A pseudo-terminal for the program, as large as the host's window.
#![allow(
    unsafe_code,
    reason = "what is particular to terminals is asked by ioctl(2), which takes pointers"
)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::thread;
use std::time::Duration;

/// `O_NOCTTY`: opening a terminal does not make it ours.
const NOT_OURS: i32 = 0o400;

/// Requests (asm-generic/ioctls.h): lock a slave, its number, the size of the window.
const LOCK_SLAVE: u64 = 0x4004_5431;
const SLAVE_NUMBER: u64 = 0x8004_5430;
const GET_SIZE: u64 = 0x5413;
const SET_SIZE: u64 = 0x5414;

/// How often the host's window is looked at.
const LOOK: Duration = Duration::from_millis(200);

unsafe extern "C" {
    fn ioctl(fd: i32, request: u64, ...) -> i32;
}

/// `struct winsize`.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Size {
    rows: u16,
    columns: u16,
    pixels: [u16; 2],
}

/// Both ends.
pub(crate) struct Terminal {
    pub(crate) master: File,
    pub(crate) slave: File,
}

/// Rows and columns, as `24x80`.
pub(crate) fn size(text: &str) -> io::Result<(u16, u16)> {
    let strange = || io::Error::other(format!("strange size of a terminal {text:?}"));
    let (rows, columns) = text.split_once('x').ok_or_else(strange)?;
    let number = |text: &str| text.parse().map_err(|_| strange());
    Ok((number(rows)?, number(columns)?))
}

fn open(path: &str) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).custom_flags(NOT_OURS);
    options.open(path)
}

impl Terminal {
    /// A new one.
    pub(crate) fn open((rows, columns): (u16, u16)) -> io::Result<Terminal> {
        let master = open("/dev/ptmx")?;
        let unlocked = 0_i32;
        // SAFETY: the request reads one number, which lives across the call.
        check(unsafe { ioctl(master.as_raw_fd(), LOCK_SLAVE, &raw const unlocked) })?;
        let mut number = 0_u32;
        // SAFETY: the request writes one number, which lives across the call.
        check(unsafe { ioctl(master.as_raw_fd(), SLAVE_NUMBER, &raw mut number) })?;
        let slave = open(&format!("/dev/pts/{number}"))?;
        let size = Size {
            rows,
            columns,
            ..Size::default()
        };
        set_size(&master, size)?;
        Ok(Terminal { master, slave })
    }
}

/// Tells a terminal that it has so many rows and columns now.
pub(crate) fn resize(terminal: &File, (rows, columns): (u16, u16)) -> io::Result<()> {
    let size = Size {
        rows,
        columns,
        ..Size::default()
    };
    set_size(terminal, size)
}

/// Tells a terminal its size; the kernel tells the program.
fn set_size(terminal: &File, size: Size) -> io::Result<()> {
    // SAFETY: the request reads one `struct winsize`, which lives across the call.
    check(unsafe { ioctl(terminal.as_raw_fd(), SET_SIZE, &raw const size) })
}

/// The guest's console, which has the size of the host's window.
pub(crate) struct Window(File);

impl Window {
    /// It, if the kernel shows it.
    pub(crate) fn open() -> Option<Window> {
        open("/dev/hvc0").ok().map(Window)
    }

    fn size(&self) -> io::Result<Size> {
        let mut size = Size::default();
        // SAFETY: the request writes one `struct winsize`, which lives across the call.
        check(unsafe { ioctl(self.0.as_raw_fd(), GET_SIZE, &raw mut size) })?;
        Ok(size)
    }

    /// Hands its size on to the program's terminal, as long as there is one.
    pub(crate) fn hand_on(&self, master: &File) {
        let mut last = Size::default();
        loop {
            let now = self.size().unwrap_or_default();
            if now != Size::default() && now != last {
                if set_size(master, now).is_err() {
                    return;
                }
                last = now;
            }
            thread::sleep(LOOK);
        }
    }
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
