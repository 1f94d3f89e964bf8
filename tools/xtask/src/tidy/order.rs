//! The order of the workspace's members is the dependency order: a crate uses only crates above it.

use crate::workspace::Workspace;

/// Every dependency that points down the list.
pub fn complaints(workspace: &Workspace) -> Vec<String> {
    let position = |name: &str| {
        workspace
            .members
            .iter()
            .position(|member| member.name == name)
    };
    let mut complaints = Vec::new();
    for (index, member) in workspace.members.iter().enumerate() {
        for dependency in &member.dependencies {
            if position(dependency).is_some_and(|other| other >= index) {
                complaints.push(format!(
                    "`{}` depends on `{dependency}`, which is below it",
                    member.name
                ));
            }
        }
    }
    complaints
}
