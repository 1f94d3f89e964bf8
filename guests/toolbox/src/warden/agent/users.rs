//! Users and groups by name, as the guest's own files have them (passwd(5), group(5)).

use std::{fs, io};

use crate::warden::identity::Identity;

/// Who a program is to be, and where that user's folder is.
pub(super) struct User {
    pub(super) identity: Identity,
    pub(super) home: Option<String>,
}

impl User {
    /// `USER` or `USER:GROUP`, each a name or a number.
    pub(super) fn find(text: &str) -> io::Result<User> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let groups = fs::read_to_string("/etc/group").unwrap_or_default();
        let mut identity = Identity::default();
        let mut home = None;
        let mut name = None;
        match users.lines().find_map(|line| entry(line, user)) {
            Some(fields) => {
                let number = |n: usize| fields.get(n).and_then(|field| field.parse().ok());
                identity.uid = number(2).ok_or_else(|| unknown("user", user))?;
                identity.gid = number(3).unwrap_or(identity.uid);
                home = fields.get(5).map(|&home| home.to_owned());
                name = fields.first().copied();
            }
            None => identity.uid = user.parse().map_err(|_| unknown("user", user))?,
        }
        if let Some(group) = group {
            let found = groups.lines().find_map(|line| entry(line, group));
            let number = found.and_then(|fields| fields.get(2)?.parse().ok());
            let number = number.or_else(|| group.parse().ok());
            identity.gid = number.ok_or_else(|| unknown("group", group))?;
        } else if let Some(name) = name {
            identity.groups = groups.lines().filter_map(|line| of(line, name)).collect();
        }
        Ok(User { identity, home })
    }
}

/// The fields of a line, if it is of this name or number.
fn entry<'a>(line: &'a str, wanted: &str) -> Option<Vec<&'a str>> {
    let fields: Vec<&str> = line.split(':').collect();
    let is_it = fields.first() == Some(&wanted) || fields.get(2) == Some(&wanted);
    is_it.then_some(fields)
}

/// The number of a group's line, if the user is a member.
fn of(line: &str, user: &str) -> Option<u32> {
    let mut fields = line.split(':');
    let number = fields.nth(2)?.parse().ok()?;
    fields
        .next()?
        .split(',')
        .any(|it| it == user)
        .then_some(number)
}

fn unknown(kind: &str, name: &str) -> io::Error {
    io::Error::other(format!("the guest has no {kind} \"{name}\""))
}
