//! `mother completions`: scripts for shells, made of the same definitions as the command line.
//!
//! The generator knows options and commands, not VMs. So names are asked of `mother ps` by a few lines of shell that
//! stand behind what was generated.

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use crate::arguments::{Arguments, CompletionsArguments};
use crate::failure::Failure;
use crate::output::say;

/// Commands that take names of VMs that run, and those that take any.
const OF_RUNNING: [&str; 18] = [
    "stop", "kill", "pause", "resume", "nmi", "switch", "balloon", "limit", "console", "attach",
    "exec", "ps", "truth", "dmesg", "hooks", "trace", "link", "watch",
];
/// What `mother run` makes itself, beside what `mother images -q` lists.
const RELEASES: &str = "debian debian:12 debian:13";
const OF_ALL: [&str; 9] = [
    "logs", "wait", "rm", "remove", "inspect", "start", "restart", "rename", "update",
];

/// Prints a script; the exit status.
pub fn run(arguments: &CompletionsArguments) -> Result<u8, Failure> {
    say(&script(&arguments.shell))?;
    Ok(0)
}

fn script(shell: &str) -> String {
    let running = OF_RUNNING.join("|");
    let all = OF_ALL.join("|");
    match shell {
        "bash" => {
            let names = include_str!("shell/names.bash")
                .replace("OF_RUNNING", &running)
                .replace("OF_ALL", &all)
                .replace("RELEASES", RELEASES);
            generated(Shell::Bash) + &names
        }
        "zsh" => {
            let names = include_str!("shell/names.zsh")
                .replace("OF_RUNNING", &running)
                .replace("OF_ALL", &all)
                .replace("RELEASES", RELEASES);
            // The generator completes files for what is a name; ours is called instead.
            let script = generated(Shell::Zsh);
            let lines = script.lines().map(|line| {
                let is_name = line.contains("::name ")
                    || line.contains("::names ")
                    || line.contains(":name ");
                if is_name {
                    line.replace(":_default'", ":_mother_vms'")
                } else if line.contains("::image ") {
                    line.replace(":_default'", ":_mother_images'")
                } else {
                    line.to_owned()
                }
            });
            let script = lines.collect::<Vec<_>>().join("\n");
            let head = "#compdef mother\n";
            format!(
                "{head}\n{names}\n{}\n",
                script.strip_prefix(head).unwrap_or(&script)
            )
        }
        _ => {
            let line = |commands: &[&str], list: &str| {
                let commands = commands.join(" ");
                format!(
                    "complete -c mother -f -n '__fish_seen_subcommand_from {commands}' -a '({list} 2>/dev/null)'\n"
                )
            };
            generated(Shell::Fish)
                + &line(&OF_RUNNING, "mother ps -q")
                + &line(&OF_ALL, "mother ps -aq")
                + &format!(
                    "complete -c mother -n '__fish_seen_subcommand_from run' -a '{RELEASES} (mother images -q \
                     2>/dev/null)'\n"
                )
                + "complete -c mother -n '__fish_seen_subcommand_from snapshots; and __fish_seen_subcommand_from inspect \
                   verify rm' -a '(mother snapshots -q 2>/dev/null)'\n"
                + "complete -c mother -f -n '__fish_seen_subcommand_from images; and __fish_seen_subcommand_from rm' \
                   -a '(mother images -q 2>/dev/null)'\n"
        }
    }
}

fn generated(shell: Shell) -> String {
    let mut script = Vec::new();
    generate(shell, &mut Arguments::command(), "mother", &mut script);
    String::from_utf8(script).expect("our help is text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_asks_for_names() {
        for (shell, asks) in [
            ("bash", "mother ps -aq"),
            ("zsh", ":_mother_vms'"),
            ("fish", "(mother ps -aq"),
        ] {
            let script = script(shell);
            assert!(script.contains(asks), "{shell}");
            assert!(script.contains("debian:13"), "{shell}: images are there");
            assert!(script.contains("mother images -q"), "{shell}: all of them");
            assert!(script.contains("mother snapshots -q"), "{shell}: snapshots");
            assert!(script.contains("soft"), "{shell}: engines are there");
            assert!(script.contains("limit"), "{shell}: commands are there");
            assert!(script.contains("detach"), "{shell}: options are there");
        }
    }
}
