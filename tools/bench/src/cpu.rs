//! `cargo xtask bench cpu [PROGRAM]`: one static program of ours (`guests/cpu`) on the host, on the software CPU of this
//! build and, if it is named, of another one, and on QEMU's TCG.
//!
//! The program is the guest's first process under the same kernel everywhere. It says for each of its works how long the
//! shortest of three tries took by its own clock, and a value that must be the same everywhere. All that are compared go
//! round in turns, and the order of each round begins with another one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use fixtures::Qemu;
use images::{AppRequest, Cache, DefaultGuest, InThisProcess};

use crate::against::version;
use crate::boot::{build_mother, mother_command};
use crate::qemu::{limited, qemu, qemu_command};
use crate::runs::{geometric_mean, median};
use crate::workspace;

/// Seconds that one round may take on one of them.
const LIMIT: &str = "900";
/// How it begins where a work's line stands.
const LINE: &str = "cpu ";

/// What one of them said of a work.
#[derive(Clone, PartialEq, Debug)]
struct Said {
    class: String,
    name: String,
    /// Nanoseconds, and the value; none where its processor cannot do it.
    done: Option<(f64, String)>,
}

/// What is compared.
struct Side {
    name: &'static str,
    command: Box<dyn Fn() -> Command>,
    /// For each work the times of the rounds, in nanoseconds.
    times: BTreeMap<String, Vec<f64>>,
}

/// What was asked for.
struct Wish<'a> {
    against: Option<&'a str>,
    rounds: usize,
    page: Option<&'a str>,
    works: Vec<&'a str>,
}

impl<'a> Wish<'a> {
    fn of(words: &[&'a str]) -> Result<Wish<'a>> {
        let mut wish = Wish {
            against: None,
            rounds: 5,
            page: None,
            works: Vec::new(),
        };
        let mut words = words.iter().copied();
        while let Some(word) = words.next() {
            let mut value = || {
                words
                    .next()
                    .with_context(|| format!("{word} wants a value"))
            };
            match word {
                "--runs" => wish.rounds = value()?.parse::<usize>()?.max(1),
                "--work" => wish.works.push(value()?),
                "--write" => wish.page = Some(value()?),
                _ if word.starts_with('-') => bail!("no such option: {word}"),
                _ if wish.against.is_some() => bail!("one other program, not two: {word}"),
                _ => wish.against = Some(word),
            }
        }
        Ok(wish)
    }
}

/// Prints the table; `true` if no work is slower than on TCG.
pub fn run(words: &[&str]) -> Result<bool> {
    let wish = Wish::of(words)?;
    let cache = Cache::of_user()?;
    let guest = cache.default_guest(&mut |_| {})?;
    let qemu = qemu()?;
    let ours = build_mother()?;
    let theirs = wish.against.map(fs::canonicalize).transpose();
    let theirs = theirs.context("find the other program")?;
    let folder = workspace::root().join("target/xtask/cpu");
    let (program, leaf) = build(&folder)?;
    let run = cache.run_folder()?;
    let request = AppRequest {
        program: leaf.clone(),
        include: vec![program.clone()],
        ..AppRequest::default()
    };
    let (initrd, _) = cache.app_initrd(&request, &InThisProcess, &run)?;
    let guest = DefaultGuest { initrd, ..guest };
    let mut words = vec![leaf.display().to_string()];
    words.extend(wish.works.iter().map(ToString::to_string));
    let mut about = vec![
        processor(),
        guest.kernel_package.clone(),
        version(&ours)?,
        qemu_version(&qemu)?,
    ];
    let mut sides = vec![host(program.clone(), words.clone())];
    sides.push(build_of("this", ours, &guest, &program, &words));
    if let Some(theirs) = theirs {
        about.push(format!("that: {}", version(&theirs)?));
        sides.push(build_of("that", theirs, &guest, &program, &words));
    }
    sides.push(tcg(qemu, &guest, &program, &words));
    let works = in_rounds(&mut sides, wish.rounds)?;
    let table = Table::of(&works, &sides);
    let text = table.text(&about, wish.rounds);
    print!("{text}");
    if let Some(page) = wish.page {
        fs::write(page, page_of(&text)?).with_context(|| format!("write {page}"))?;
    }
    Ok(table.is_nowhere_slower())
}

/// The program, and the one that is linked at its start.
fn build(folder: &Path) -> Result<(PathBuf, PathBuf)> {
    fs::create_dir_all(folder)?;
    let sources = workspace::root().join("guests/cpu");
    let build = |name: &str, files: &[&str], options: &[&str]| -> Result<PathBuf> {
        let built = folder.join(name);
        let mut compiler = Command::new("cc");
        compiler
            .args(["-std=gnu11", "-O2", "-Wall", "-Wextra"])
            .args(options);
        compiler.arg("-o").arg(&built);
        compiler
            .args(files.iter().map(|file| sources.join(file)))
            .arg("-lm");
        let status = compiler.status().context("start the C compiler `cc`")?;
        ensure!(status.success(), "guests/cpu does not build");
        Ok(built)
    };
    let program = build(
        "cpu",
        &["main.c", "user.c", "system.c"],
        &["-static", "-pthread"],
    )?;
    Ok((program, build("leaf", &["leaf.c"], &[])?))
}

fn side(name: &'static str, command: impl Fn() -> Command + 'static) -> Side {
    Side {
        name,
        command: Box::new(command),
        times: BTreeMap::new(),
    }
}

fn host(program: PathBuf, words: Vec<String>) -> Side {
    side("host", move || {
        let mut command = Command::new(&program);
        command.args(&words);
        limited(LIMIT, &command)
    })
}

/// What the kernel is told: the program is the first process, and its words stand behind the dashes.
fn command_line(program: &Path, words: &[String]) -> String {
    let program = program.display();
    let words = words.join(" ");
    format!("console=ttyS0 quiet panic=-1 rdinit={program} -- {words}")
}

fn build_of(
    name: &'static str,
    mother: PathBuf,
    guest: &DefaultGuest,
    program: &Path,
    words: &[String],
) -> Side {
    let guest = guest.clone();
    let line = command_line(program, words);
    side(name, move || {
        limited(LIMIT, &mother_command(&mother, &guest, &line))
    })
}

fn tcg(qemu: Qemu, guest: &DefaultGuest, program: &Path, words: &[String]) -> Side {
    let guest = guest.clone();
    let line = command_line(program, words);
    side("tcg", move || {
        limited(LIMIT, &qemu_command(&qemu, &guest, &line))
    })
}

/// Everybody in turn, `rounds` times; the works in their order.
fn in_rounds(sides: &mut [Side], rounds: usize) -> Result<Vec<Said>> {
    let mut expected: Option<Vec<Said>> = None;
    for round in 0..rounds {
        for turn in 0..sides.len() {
            let which = (round + turn) % sides.len();
            let side = &mut sides[which];
            let said =
                said(&mut (side.command)()).with_context(|| format!("run it: {}", side.name))?;
            let expected = expected.get_or_insert_with(|| said.clone());
            agree(expected, &said).with_context(|| format!("wrong values: {}", side.name))?;
            for said in said {
                if let Some((time, _)) = said.done {
                    side.times.entry(said.name).or_default().push(time);
                }
            }
        }
        eprintln!("round {} of {rounds} is done", round + 1);
    }
    expected.context("there was no round")
}

fn said(command: &mut Command) -> Result<Vec<Said>> {
    let output = command.stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().map(str::trim_end);
    let is_done = lines.clone().any(|line| line == "cpu done");
    ensure!(
        is_done,
        "it did not come to its end ({}); it said: {text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(lines.filter_map(parse).collect())
}

/// `cpu CLASS NAME NANOSECONDS VALUE`, or with dashes for what cannot be done.
fn parse(line: &str) -> Option<Said> {
    let mut words = line.strip_prefix(LINE)?.split(' ');
    let mut word = || words.next();
    let class = word()?;
    let name = word()?;
    let time = word()?;
    let value = word()?;
    Some(Said {
        class: class.to_owned(),
        name: name.to_owned(),
        done: time.parse().ok().map(|time| (time, value.to_owned())),
    })
}

/// Whether two sides computed the same, where both could.
fn agree(expected: &[Said], said: &[Said]) -> Result<()> {
    ensure!(expected.len() == said.len(), "other works");
    for (expected, said) in expected.iter().zip(said) {
        let value = |said: &Said| said.done.as_ref().map(|done| done.1.clone());
        let one = value(expected);
        let other = value(said);
        ensure!(
            expected.name == said.name && (one.is_none() || other.is_none() || one == other),
            "{}: {one:?} on one, {} with {other:?} on another",
            expected.name,
            said.name
        );
    }
    Ok(())
}

/// One work: milliseconds of each side, none where it cannot be done.
struct Row {
    class: String,
    name: String,
    times: Vec<Option<f64>>,
}

struct Table {
    sides: Vec<&'static str>,
    rows: Vec<Row>,
}

impl Table {
    fn of(works: &[Said], sides: &[Side]) -> Table {
        let row = |said: &Said| Row {
            class: said.class.clone(),
            name: said.name.clone(),
            times: sides
                .iter()
                .map(|side| side.times.get(&said.name))
                .map(|times| times.map(|times| median(times.clone()) / 1e6))
                .collect(),
        };
        Table {
            sides: sides.iter().map(|side| side.name).collect(),
            rows: works.iter().map(row).collect(),
        }
    }

    fn time(&self, row: &Row, side: &str) -> Option<f64> {
        let place = self.sides.iter().position(|name| *name == side)?;
        row.times[place]
    }

    /// What is told of times: this build in units of the host's time, and the others' in units of this build's.
    fn ratios(&self, row: &Row) -> Vec<Option<f64>> {
        let over = |a: &str, b: &str| Some(self.time(row, a)? / self.time(row, b)?);
        let mut ratios = vec![over("this", "host"), over("tcg", "this")];
        if self.sides.contains(&"that") {
            ratios.push(over("that", "this"));
        }
        ratios
    }

    fn is_nowhere_slower(&self) -> bool {
        let ratio = |row| self.ratios(row)[1];
        self.rows.iter().filter_map(ratio).all(|ratio| ratio >= 1.0)
    }

    /// A table as the documentation has them.
    fn text(&self, about: &[String], rounds: usize) -> String {
        let mut text = format!(
            "{}. Milliseconds, medians of {rounds} rounds.\n\n",
            about.join("; ")
        );
        let mut heads: Vec<String> = self.sides.iter().map(ToString::to_string).collect();
        heads.extend(["this / host".to_owned(), "tcg / this".to_owned()]);
        if self.sides.contains(&"that") {
            heads.push("that / this".to_owned());
        }
        text += &format!(
            "| work | {} |\n|---{}|\n",
            heads.join(" | "),
            "|---".repeat(heads.len())
        );
        let cell =
            |value: &Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
        for row in &self.rows {
            let ratios = self.ratios(row);
            let cells: Vec<String> = row.times.iter().chain(&ratios).map(cell).collect();
            text += &format!("| {} | {} |\n", row.name, cells.join(" | "));
        }
        for class in ["user", "system"] {
            if let Some(means) = self.means(class) {
                let empty = " |".repeat(self.sides.len());
                let cells: Vec<String> = means.iter().map(cell).collect();
                text += &format!(
                    "| geometric mean, {class} |{empty} {} |\n",
                    cells.join(" | ")
                );
            }
        }
        text
    }

    /// Geometric means of the ratios of a class of works.
    fn means(&self, class: &str) -> Option<Vec<Option<f64>>> {
        let rows = self.rows.iter().filter(|row| row.class == class);
        let ratios: Vec<_> = rows.map(|row| self.ratios(row)).collect();
        let count = ratios.first()?.len();
        let mean = |column: usize| {
            let values: Vec<f64> = ratios.iter().filter_map(|row| row[column]).collect();
            (!values.is_empty()).then(|| geometric_mean(&values))
        };
        Some((0..count).map(mean).collect())
    }
}

fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("a processor without a name", |it| {
        it.trim_start_matches(['\t', ' ', ':'])
    });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{model}, {cores} cores")
}

fn qemu_version(qemu: &Qemu) -> Result<String> {
    let output = qemu
        .command()
        .arg("--version")
        .output()
        .context("start QEMU")?;
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(said.lines().next().unwrap_or("QEMU").to_owned())
}

/// The page that the table is kept on.
fn page_of(table: &str) -> Result<String> {
    let date = Command::new("date").arg("--iso-8601").output();
    let date = date.context("ask for the date")?.stdout;
    let date = String::from_utf8_lossy(&date).trim().to_owned();
    Ok(format!(
        "# The software CPU, work by work\n\nWritten by `cargo xtask bench cpu PROGRAM --write FILE` on {date}. What each work does is told in\n\
         `guests/cpu`; every work gave the same value everywhere. `that` is the build that it stands against.\n\n{table}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_a_work_took() {
        let check = |line: &str, expected: Option<(&str, Option<(f64, &str)>)>| {
            let expected = expected.map(|(name, done)| Said {
                class: "user".to_owned(),
                name: name.to_owned(),
                done: done.map(|(time, value)| (time, value.to_owned())),
            });
            assert_eq!(parse(line), expected, "{line}");
        };
        check(
            "cpu user alu 1500 00ff",
            Some(("alu", Some((1500.0, "00ff")))),
        );
        check("cpu user avx - -", Some(("avx", None)));
        check("cpu done", None);
        check("[    0.1] cpu user alu 1 2", None);
    }

    fn said(value: Option<&str>) -> Vec<Said> {
        vec![Said {
            class: "user".to_owned(),
            name: "alu".to_owned(),
            done: value.map(|value| (1.0, value.to_owned())),
        }]
    }

    #[test]
    fn who_computes_something_else_is_found() {
        agree(&said(Some("1")), &said(Some("1"))).unwrap();
        agree(&said(Some("1")), &said(None)).unwrap();
        agree(&said(Some("1")), &said(Some("2"))).unwrap_err();
        agree(&said(Some("1")), &[]).unwrap_err();
    }

    #[test]
    fn a_table_says_times_ratios_and_their_means() {
        let table = Table {
            sides: vec!["host", "this", "tcg"],
            rows: [("a", [1.0, 2.0, 8.0]), ("b", [1.0, 8.0, 8.0])]
                .map(|(name, times)| Row {
                    class: "user".to_owned(),
                    name: name.to_owned(),
                    times: times.map(Some).to_vec(),
                })
                .into(),
        };
        let text = table.text(&["x".to_owned()], 5);
        assert!(
            text.contains("| a | 1.00 | 2.00 | 8.00 | 2.00 | 4.00 |"),
            "{text}"
        );
        assert!(
            text.contains("| geometric mean, user | | | | 4.00 | 2.00 |"),
            "{text}"
        );
        assert!(table.is_nowhere_slower());
    }
}
