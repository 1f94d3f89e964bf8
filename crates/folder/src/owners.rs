//! Whose files these are, in the guest.

use rustix::fs::{FileType, Mode, Stat};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

/// `nobody` and `nogroup`.
const NOBODY: u32 = 65534;

/// Set-user-ID and set-group-ID.
const SET_ID: u32 = 0o6000;

/// Which user of the host is which one of the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owners {
    /// Each number is itself: for root of the host, who can give files to anybody.
    Numbers,
    /// This user and group of the host are root and its group in the guest, and everybody else is nobody. What the guest makes is
    /// theirs.
    One {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
    },
}

impl Owners {
    /// What this process can keep up.
    pub fn of_process() -> Owners {
        match geteuid() {
            root if root.is_root() => Owners::Numbers,
            user => Owners::One {
                uid: user.as_raw(),
                gid: getegid().as_raw(),
            },
        }
    }

    /// Owner and group of a file, as the guest sees them.
    pub(crate) fn seen(self, stat: &Stat) -> (u32, u32) {
        let shown = |theirs, ours| if theirs == ours { 0 } else { NOBODY };
        match self {
            Owners::Numbers => (stat.st_uid, stat.st_gid),
            Owners::One { uid, gid } => (shown(stat.st_uid, uid), shown(stat.st_gid, gid)),
        }
    }

    /// The mode of a file, as the guest sees it: where owners are others than on the host, a program that runs as its owner there
    /// does not run as root here.
    pub(crate) fn seen_mode(self, stat: &Stat) -> u32 {
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        match self {
            Owners::One { .. } if !is_folder => stat.st_mode & !SET_ID,
            _ => stat.st_mode,
        }
    }

    /// To whom a file is to be given, if to anybody: `None` of a number that stays.
    ///
    /// # Errors
    /// If it cannot be theirs.
    pub(crate) fn given(
        self,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Result<(Option<u32>, Option<u32>), Errno> {
        // The kernel takes this for "as it is".
        if uid == Some(u32::MAX) || gid == Some(u32::MAX) {
            return Err(Errno::INVAL);
        }
        match self {
            Owners::Numbers => Ok((uid, gid)),
            Owners::One { .. } if uid.unwrap_or(0) == 0 && gid.unwrap_or(0) == 0 => {
                Ok((None, None))
            }
            Owners::One { .. } => Err(Errno::PERM),
        }
    }
}

/// What a guest may give to a file of the host: no file of the host runs as somebody because a guest says so. On a folder the
/// group's bit has files in it belong to that group.
pub(crate) fn given_mode(mode: u32, is_folder: bool) -> Mode {
    Mode::from_raw_mode(mode & if is_folder { 0o3777 } else { 0o1777 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_given_where_that_can_be() {
        const ONE: Owners = Owners::One {
            uid: 1000,
            gid: 1000,
        };
        let check = |owners: Owners, uid, gid, expected| {
            assert_eq!(
                owners.given(uid, gid),
                expected,
                "{owners:?} {uid:?} {gid:?}"
            );
        };
        check(Owners::Numbers, Some(7), None, Ok((Some(7), None)));
        check(Owners::Numbers, Some(u32::MAX), None, Err(Errno::INVAL));
        check(ONE, Some(0), Some(0), Ok((None, None)));
        check(ONE, None, None, Ok((None, None)));
        check(ONE, Some(1000), None, Err(Errno::PERM));
        check(ONE, None, Some(5), Err(Errno::PERM));
    }

    #[test]
    fn no_file_runs_as_somebody_because_a_guest_says_so() {
        assert_eq!(given_mode(0o106_755, false).as_raw_mode(), 0o755);
        assert_eq!(given_mode(0o47_777, true).as_raw_mode(), 0o3777);
    }
}
