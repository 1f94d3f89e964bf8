//! From paths to nodes, through symbolic links, never out of the tree.

use std::collections::{BTreeMap, VecDeque};

use crate::tree::{
    Attributes, DEPTH_MAX, Kind, LINK_BYTES_MAX, NAME_BYTES_MAX, Node, NodeId, ROOT, Tree,
    TreeError, text,
};

/// Symbolic links on one path, as Linux allows (`MAXSYMLINKS`).
const LINKS_MAX: u32 = 40;

impl Tree {
    /// The node at a path; `follow` says whether a symbolic link at its end is followed.
    pub(crate) fn find(&self, path: &[u8], follow: bool) -> Option<NodeId> {
        let mut parts: VecDeque<Vec<u8>> = split(path);
        let mut walked = vec![ROOT];
        let mut links = 0;
        while let Some(part) = parts.pop_front() {
            if part == b".." {
                // The root's parent is the root.
                walked.truncate(walked.len().saturating_sub(1).max(1));
                continue;
            }
            let here = *walked.last().expect("the root stays");
            if !self.is_folder(here) {
                return None;
            }
            let node = self.entry(here, &part)?.node;
            match &self.node(node).kind {
                Kind::Symlink(target) if follow || !parts.is_empty() => {
                    links += 1;
                    if links > LINKS_MAX {
                        return None;
                    }
                    prepend(&mut parts, &mut walked, target);
                }
                _ => walked.push(node),
            }
        }
        walked.last().copied()
    }

    /// The folder that a path's last name belongs into, with that name; missing folders are made. `None` is the root.
    ///
    /// # Errors
    /// If the path cannot be one, or leads through a file or in circles.
    pub(crate) fn parent_of(
        &mut self,
        path: &[u8],
    ) -> Result<Option<(NodeId, Vec<u8>)>, TreeError> {
        let mut parts = split(path);
        let is_bad =
            |part: &Vec<u8>| part == b".." || part.len() > NAME_BYTES_MAX || part.contains(&0);
        if parts.iter().any(is_bad) || parts.len() > DEPTH_MAX {
            return Err(TreeError::BadPath(text(path)));
        }
        let Some(name) = parts.pop_back() else {
            return Ok(None);
        };
        let mut walked = vec![ROOT];
        let mut links = 0;
        while let Some(part) = parts.pop_front() {
            if part == b".." {
                walked.truncate(walked.len().saturating_sub(1).max(1));
                continue;
            }
            let here = *walked.last().expect("the root stays");
            let node = match self.entry(here, &part) {
                Some(entry) => entry.node,
                None => self.add_folder(here, part, path)?,
            };
            match &self.node(node).kind {
                Kind::Folder(_) => walked.push(node),
                Kind::Symlink(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(TreeError::LinkLoop(text(path)));
                    }
                    prepend(&mut parts, &mut walked, &target.clone());
                }
                _ => return Err(TreeError::NotAFolder(text(path))),
            }
            if walked.len() > DEPTH_MAX {
                return Err(TreeError::BadPath(text(path)));
            }
        }
        Ok(walked.last().map(|&folder| (folder, name)))
    }

    fn add_folder(
        &mut self,
        parent: NodeId,
        name: Vec<u8>,
        path: &[u8],
    ) -> Result<NodeId, TreeError> {
        if name.len() > NAME_BYTES_MAX {
            return Err(TreeError::BadPath(text(path)));
        }
        let folder = Node {
            attributes: Attributes::of_root(0o755),
            kind: Kind::Folder(BTreeMap::new()),
        };
        self.add(parent, name, folder)
    }
}

/// Goes on with where a link leads.
fn prepend(parts: &mut VecDeque<Vec<u8>>, walked: &mut Vec<NodeId>, target: &[u8]) {
    if target.starts_with(b"/") {
        walked.truncate(1);
    }
    let target = &target[..target.len().min(LINK_BYTES_MAX)];
    for part in split(target).into_iter().rev() {
        parts.push_front(part);
    }
}

/// The names of a path; empty ones and `.` mean nothing.
fn split(path: &[u8]) -> VecDeque<Vec<u8>> {
    let parts = path.split(|&byte| byte == b'/');
    parts
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::new();
        tree.put_symlink("lib", "usr/lib").unwrap();
        tree.put_symlink("up", "../../../usr").unwrap();
        tree.put_symlink("loop", "loop").unwrap();
        tree.put_bytes("usr/file", 0o644, *b"x").unwrap();
        tree
    }

    #[test]
    fn names_lead_through_links_and_never_out() {
        let mut tree = tree();
        tree.put_bytes("lib/a/b", 0o644, *b"1").unwrap();
        tree.put_bytes("up/c", 0o644, *b"2").unwrap();
        for path in [
            "usr/lib/a/b",
            "lib/a/b",
            "/usr/./lib//a/b",
            "usr/c",
            "lib/../c",
            "../../usr/c",
        ] {
            let node = tree.find(path.as_bytes(), true);
            assert!(node.is_some_and(|node| !tree.is_folder(node)), "{path}");
        }
        assert!(tree.find(b"loop", true).is_none());
        assert!(tree.find(b"loop", false).is_some());
    }

    #[test]
    fn paths_that_no_file_can_have_are_refused() {
        let check = |path: &str, expected: fn(String) -> TreeError| {
            let error = tree().put_bytes(path, 0o644, *b"x").unwrap_err();
            assert_eq!(error, expected(path.to_owned()));
        };
        check("../x", TreeError::BadPath);
        check("usr/../../x", TreeError::BadPath);
        check(&"d/".repeat(300), TreeError::BadPath);
        check(&"n".repeat(256), TreeError::BadPath);
        check("", TreeError::BadPath);
        check("usr/file/x", TreeError::NotAFolder);
        check("loop/x", TreeError::LinkLoop);
    }
}
