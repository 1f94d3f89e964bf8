//! Who an image's program is, looked up in the image's own files.

use crate::container::ContainerError;
use crate::tree::{Kind, Tree};

/// Longest `/etc/passwd` or `/etc/group` that is read.
const USERS_BYTES_MAX: u64 = 1 << 20;

/// Groups beside a user's own, as many as the kernel takes of one process in any case that is real.
const GROUPS_MAX: usize = 1024;

/// A user with its groups.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Further groups.
    pub(super) groups: Vec<u32>,
    pub(super) home: String,
}

/// `user`, `uid`, `user:group` and so on. Who names no group gets those of `/etc/group` too, as with container engines.
pub(super) fn find(tree: &Tree, text: &str) -> Result<User, ContainerError> {
    let (user, group) = text
        .split_once(':')
        .map_or((text, None), |(user, group)| (user, Some(group)));
    let user = if user.is_empty() { "0" } else { user };
    let no_user = || ContainerError::NoUser(text.to_owned());
    let users = lines(tree, "etc/passwd");
    let line = line_of(&users, user);
    let field = |at: usize| line.and_then(|fields| fields.get(at)).cloned();
    let uid = match user.parse() {
        Ok(uid) => uid,
        Err(_) => field(2)
            .and_then(|uid| uid.parse().ok())
            .ok_or_else(no_user)?,
    };
    let all = lines(tree, "etc/group");
    let mut groups = Vec::new();
    let gid = match group.filter(|group| !group.is_empty()) {
        None => {
            groups = groups_with(&all, &field(0).unwrap_or_default());
            field(3).and_then(|gid| gid.parse().ok()).unwrap_or(0)
        }
        Some(group) => match group.parse() {
            Ok(gid) => gid,
            Err(_) => {
                let line = line_of(&all, group).ok_or_else(no_user)?;
                line.get(2)
                    .and_then(|gid| gid.parse().ok())
                    .ok_or_else(no_user)?
            }
        },
    };
    let home = field(5).filter(|home| !home.is_empty());
    let home = home.unwrap_or_else(|| if uid == 0 { "/root" } else { "/" }.to_owned());
    Ok(User {
        uid,
        gid,
        groups,
        home,
    })
}

/// The numbers of groups that have this member.
fn groups_with(groups: &[Vec<String>], user: &str) -> Vec<u32> {
    let has_it = |fields: &&Vec<String>| {
        !user.is_empty()
            && fields
                .get(3)
                .is_some_and(|members| members.split(',').any(|member| member.trim() == user))
    };
    let found = groups.iter().filter(has_it);
    found
        .filter_map(|fields| fields.get(2)?.parse().ok())
        .take(GROUPS_MAX)
        .collect()
}

/// The line whose first field is this name, or whose third is this number.
fn line_of<'a>(lines: &'a [Vec<String>], key: &str) -> Option<&'a Vec<String>> {
    let by_name = lines
        .iter()
        .find(|fields| fields.first().is_some_and(|name| name == key));
    by_name.or_else(|| {
        lines
            .iter()
            .find(|fields| fields.get(2).is_some_and(|id| id == key))
    })
}

/// The fields of a colon-separated file.
fn lines(tree: &Tree, path: &str) -> Vec<Vec<String>> {
    let Some(Kind::File(content)) = tree
        .find(path.as_bytes(), true)
        .map(|node| &tree.node(node).kind)
    else {
        return Vec::new();
    };
    let mut bytes = Vec::new();
    if content.len() <= USERS_BYTES_MAX {
        // What cannot be read has no user.
        let _ = content.read(|part| {
            bytes.extend_from_slice(part);
            Ok(())
        });
    }
    let text = String::from_utf8_lossy(&bytes);
    let fields = |line: &str| line.split(':').map(str::to_owned).collect();
    text.lines().map(fields).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_the_groups_that_an_engine_would_give() {
        let mut tree = Tree::new();
        let passwd = "root:x:0:0::/root:/bin/sh\napp:x:1000:100::/srv:/bin/sh\n7:x:70:70::/seven:\nbare:x:5:5\n";
        let group = "root:x:0:\naudio:x:29:app, other\nwheel:x:10:other,app\napps:x:100:\n";
        tree.put_bytes("etc/passwd", 0o644, passwd.as_bytes())
            .unwrap();
        tree.put_bytes("etc/group", 0o644, group.as_bytes())
            .unwrap();
        let check = |text: &str, uid, gid, groups: &[u32], home: &str| {
            let expected = User {
                uid,
                gid,
                groups: groups.to_vec(),
                home: home.to_owned(),
            };
            assert_eq!(find(&tree, text).unwrap(), expected, "{text:?}");
        };
        check("", 0, 0, &[], "/root");
        check("app", 1000, 100, &[29, 10], "/srv");
        check("1000", 1000, 100, &[29, 10], "/srv");
        check("app:audio", 1000, 29, &[], "/srv");
        check("app:5000", 1000, 5000, &[], "/srv");
        check("app:", 1000, 100, &[29, 10], "/srv");
        check(":audio", 0, 29, &[], "/root");
        check("4711:4712", 4711, 4712, &[], "/");
        check("bare", 5, 5, &[], "/");
        for text in ["nobody-here", "app:no-group"] {
            assert!(matches!(find(&tree, text), Err(ContainerError::NoUser(_))));
        }
    }
}
