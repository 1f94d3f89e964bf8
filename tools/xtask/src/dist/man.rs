//! Manual pages, made of what the program says with `--help`: one place where options are explained.

use anyhow::Result;

/// What a program prints when it is called with these words.
type Ask<'a> = dyn Fn(&[&str]) -> Result<String> + 'a;

/// Files and texts: the program's page, and one for each command.
pub fn pages(ask: &Ask<'_>, version: &str) -> Result<Vec<(String, String)>> {
    let help = ask(&["--help"])?;
    let names = commands(&help);
    let also: Vec<String> = names.iter().map(|name| format!("mother-{name}")).collect();
    let mut pages = vec![("mother.1".to_owned(), page("mother", &help, &also, version))];
    for name in &names {
        let title = format!("mother-{name}");
        let help = ask(&[name, "--help"])?;
        let also = ["mother".to_owned()];
        pages.push((format!("{title}.1"), page(&title, &help, &also, version)));
    }
    Ok(pages)
}

/// The commands that a help text lists.
fn commands(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| line.starts_with("  "));
    // Lines that go on are further in.
    let names = lines.filter(|line| !line.starts_with("   "));
    names
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// One page: what it is, then the help as it is printed, then the others.
fn page(title: &str, help: &str, also: &[String], version: &str) -> String {
    let (what, rest) = help.split_once('\n').unwrap_or((help, ""));
    let mut text = format!(
        ".TH {} 1 \"\" \"{version}\" \"Mother\"\n.SH NAME\n{title} \\- {}\n",
        title.to_uppercase(),
        escaped(what.trim().trim_end_matches('.'))
    );
    text.push_str(".SH HELP\n.nf\n");
    for line in rest.trim_matches('\n').lines() {
        text.push_str(&escaped(line));
        text.push('\n');
    }
    text.push_str(".fi\n.SH SEE ALSO\n");
    let also: Vec<String> = also.iter().map(|name| format!(".BR {name} (1)")).collect();
    text.push_str(&also.join("\n"));
    text.push('\n');
    text
}

/// A line that troff prints as it is.
fn escaped(line: &str) -> String {
    let line = line.replace('\\', "\\e").replace('-', "\\-");
    if line.starts_with(['.', '\'']) {
        format!("\\&{line}")
    } else {
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_all_of_its_help() {
        let ask = |words: &[&str]| {
            Ok(match words {
                ["--help"] => {
                    "Runs guests.\n\nCommands:\n  run   Start one\n        and more\n  rm    Remove one\n  help  Help\n\nOptions:\n"
                }
                ["run", "--help"] => "Start one\n\n.hidden \\ line\n      --net NET  'a'\n",
                _ => "Remove one\n",
            }
            .to_owned())
        };
        let pages = pages(&ask, "mother 1 (abc)").unwrap();
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["mother.1", "mother-run.1", "mother-rm.1"]);
        let run = &pages[1].1;
        assert!(run.contains("\nmother-run \\- Start one\n"), "{run}");
        assert!(run.contains("\n\\&.hidden \\e line\n"), "{run}");
        assert!(run.contains("\n      \\-\\-net NET  'a'\n"), "{run}");
        assert!(
            pages[0]
                .1
                .ends_with(".BR mother-run (1)\n.BR mother-rm (1)\n")
        );
    }
}
