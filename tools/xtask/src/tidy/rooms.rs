//! Unsafe code lives in few rooms, and every crate without such a room forbids it.

use crate::source::Source;
use crate::tidy::allowances::Allowances;
use crate::workspace::{Member, Workspace};

/// Unsafe outside the rooms, crates that do not forbid it, rooms that nobody needs.
pub fn complaints(workspace: &Workspace, allowances: &Allowances) -> Vec<String> {
    let rooms = &allowances.unsafe_rooms;
    let mut complaints = Vec::new();
    for source in workspace
        .sources
        .iter()
        .filter(|source| !rooms.iter().any(|room| is_in(&source.path, room)))
    {
        let lines = source.unsafe_lines();
        complaints.extend(
            lines
                .iter()
                .map(|line| format!("{}:{line}: unsafe outside its rooms", source.path)),
        );
    }
    for member in &workspace.members {
        let has_room = rooms.iter().any(|room| member.owns(room));
        if !has_room {
            complaints.extend(
                roots(workspace, member)
                    .filter(|root| !forbids_unsafe(root))
                    .map(unforbidden),
            );
        }
    }
    for room in rooms {
        let mut inside = workspace
            .sources
            .iter()
            .filter(|source| is_in(&source.path, room));
        if !inside.any(|source| !source.unsafe_lines().is_empty()) {
            complaints.push(format!("tidy.toml: unsafe_room {room} has no unsafe code"));
        }
    }
    complaints
}

/// Whether `path` is the room, or lies in it if the room is a folder.
fn is_in(path: &str, room: &str) -> bool {
    path == room || room.ends_with('/') && path.starts_with(room)
}

/// The files that start a library or a program of `member`.
fn roots<'w>(workspace: &'w Workspace, member: &'w Member) -> impl Iterator<Item = &'w Source> {
    workspace.sources.iter().filter(|source| {
        let inside = source
            .path
            .strip_prefix(&member.folder)
            .and_then(|rest| rest.strip_prefix("/src/"));
        inside.is_some_and(|inside| {
            inside == "lib.rs"
                || inside == "main.rs"
                || inside.starts_with("bin/") && inside.matches('/').count() == 1
        })
    })
}

fn forbids_unsafe(root: &Source) -> bool {
    root.syntax.attrs.iter().any(|attribute| {
        attribute.path().is_ident("forbid")
            && attribute
                .parse_args::<syn::Path>()
                .is_ok_and(|lint| lint.is_ident("unsafe_code"))
    })
}

fn unforbidden(root: &Source) -> String {
    format!("{} does not say #![forbid(unsafe_code)]", root.path)
}
