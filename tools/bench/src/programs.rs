//! `cargo xtask bench programs PROGRAM`: what the host's own programs cost as guests on the software CPU, by this build of
//! `mother` and by another one, beside what they cost the host.
//!
//! Each program runs natively, then on both builds in turn (`mother run --app`); whatever it prints must be the same
//! everywhere. The time is CPU time of all processes of a run, less that of a guest whose program does nothing: so boot
//! is not in it. A program that the host has not got is left out, and that is said.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{getpid, set_child_subreaper};

use crate::against::{cost, in_turn, version};
use crate::boot::build_mother;
use crate::runs::{geometric_mean, median, runs};

/// Seconds that a run may take.
const LIMIT: &str = "900";
const MEMORY: &str = "1G";
/// A program that does nothing: its guest is what all of them pay for.
const NOTHING: &str = "true";

/// Reads, hashes and sorts, and calls itself.
const PERL: &str = r#"my (%h, $s);
for my $i (1 .. 1200000) { my $k = "k" . ($i % 1000); $h{$k} += $i; $s += length($k) * $i % 7; }
my @a = sort { $h{$a} <=> $h{$b} or $a cmp $b } keys %h;
sub fib { my $n = shift; $n < 2 ? $n : fib($n - 1) + fib($n - 2) }
print "$s $a[0] ", fib(23), "\n";
"#;

const SQL: &str = "create table t(a integer primary key, b text, c int);
with recursive n(i) as (select 1 union all select i+1 from n where i<60000)
insert into t select i, 'row'||(i*7919%60000), i*31%1000 from n;
create index ib on t(b);
select count(*), sum(a) from t where b like 'row1%';
select c, count(*) from t group by c order by 2 desc, 1 limit 3;
select sum(t1.a) from t t1 join t t2 on t1.b='row'||t2.c where t2.a<3000;
";

const SHELL: &str = "i=0; while [ $i -lt 100 ]; do /bin/true; i=$((i+1)); done
j=0; while [ $j -lt 3000 ]; do j=$((j+1)); s=\"$s$j\"; s=${s#??}; done; echo $i $j ${#s}
";

/// A program with its words; FILE among them is the file that it works on, which has this content.
struct Work {
    program: &'static str,
    words: &'static [&'static str],
    content: fn() -> String,
}

const WORKS: &[Work] = &[
    Work {
        program: "perl",
        words: &["FILE"],
        content: || PERL.into(),
    },
    Work {
        program: "sqlite3",
        words: &[":memory:", ".read FILE"],
        content: || SQL.into(),
    },
    Work {
        program: "bash",
        words: &["FILE"],
        content: || SHELL.into(),
    },
    Work {
        program: "xz",
        words: &["-6", "--threads=1", "--stdout", "FILE"],
        content: || text(20_000),
    },
    Work {
        program: "gzip",
        words: &["-9", "--no-name", "--stdout", "FILE"],
        content: || text(60_000),
    },
    Work {
        program: "openssl",
        words: &["dgst", "-sha256", "FILE"],
        content: || text(600_000),
    },
    Work {
        program: "awk",
        words: &[
            "{n[$3]+=$1} END {for (k in n) s+=n[k]%97; print s, NR}",
            "FILE",
        ],
        content: || text(60_000),
    },
];

/// Lines that compress somewhat, the same every time.
fn text(line_count: u64) -> String {
    (0..line_count)
        .map(|n| {
            let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            format!("{n} {:x} word{} line\n", mixed >> 40, mixed >> 58)
        })
        .collect()
}

/// A program that the host has, ready to be run.
struct Prepared {
    name: &'static str,
    program: PathBuf,
    words: Vec<String>,
    file: Option<PathBuf>,
}

impl Prepared {
    fn natively(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.words);
        command
    }

    fn as_guest(&self, mother: &Path) -> Command {
        let mut command = Command::new("timeout");
        command.arg(LIMIT).arg(mother);
        command.args(["run", "--engine", "soft", "--memory", MEMORY]);
        for included in self.file.iter().chain([&PathBuf::from("/bin/true")]) {
            command.arg("--include").arg(included);
        }
        command.arg("--app").arg(&self.program);
        command.arg("--").args(&self.words);
        command
    }
}

/// Prints the comparison. It promises nothing, so it is content with every outcome in which guests say what the host says.
pub fn run(words: &[&str]) -> Result<bool> {
    let [program, options @ ..] = words else {
        bail!("say which program: cargo xtask bench programs PROGRAM [--runs N]");
    };
    let run_count = runs(options)?;
    let theirs = fs::canonicalize(program).with_context(|| format!("there is no {program}"))?;
    let ours = build_mother()?;
    set_child_subreaper(Some(getpid())).context("have what is left behind as children")?;
    println!("this build:  {}", version(&ours)?);
    println!("against:     {}", version(&theirs)?);
    println!("CPU seconds, medians of {run_count} runs in turn; a guest's are without its boot\n");
    println!(
        "{:<10}{:>8}{:>8}{:>8}{:>13}{:>15}",
        "program", "host", "this", "that", "this / that", "this / host"
    );
    let folder = tempfile::tempdir().context("make a folder")?;
    let builds = [&ours, &theirs];
    let nothing = Prepared {
        name: NOTHING,
        program: found(NOTHING).context("the host has no `true`")?,
        words: vec![],
        file: None,
    };
    let boots = costs(&nothing, builds, run_count)?;
    println!(
        "{:<10}{:>8}{:>8.2}{:>8.2}",
        "(boot)", "", boots[0], boots[1]
    );
    let mut ratios = vec![];
    for work in WORKS {
        let Some(prepared) = prepare(work, folder.path())? else {
            println!("{:<10} not on this host", work.program);
            continue;
        };
        let host = native(&prepared, run_count)?;
        let [this, that] = costs(&prepared, builds, run_count)?;
        let [this, that] = [this - boots[0], that - boots[1]];
        ratios.push(this / that);
        println!(
            "{:<10}{host:>8.2}{this:>8.2}{that:>8.2}{:>13.3}{:>15.1}",
            prepared.name,
            this / that,
            this / host
        );
    }
    ensure!(!ratios.is_empty(), "none of the programs is on this host");
    println!(
        "\ngeometric mean of this / that: {:.3}",
        geometric_mean(&ratios)
    );
    Ok(true)
}

/// A program on the host's PATH.
fn found(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .and_then(|candidate| fs::canonicalize(candidate).ok())
}

fn prepare(work: &Work, folder: &Path) -> Result<Option<Prepared>> {
    let Some(program) = found(work.program) else {
        return Ok(None);
    };
    let file = folder.join(work.program);
    fs::write(&file, (work.content)()).context("write what a program works on")?;
    let name = file.display().to_string();
    let words = work.words.iter().map(|word| word.replace("FILE", &name));
    Ok(Some(Prepared {
        name: work.program,
        program,
        words: words.collect(),
        file: Some(file),
    }))
}

fn output(command: &mut Command, who: &str) -> Result<Output> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("start {who}"))?;
    ensure!(
        output.status.success(),
        "{who} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output)
}

/// Median CPU seconds on the host.
fn native(prepared: &Prepared, run_count: usize) -> Result<f64> {
    let act = |_: &Path| {
        let start = Instant::now();
        output(&mut prepared.natively(), prepared.name)?;
        Ok(start.elapsed())
    };
    (0..run_count)
        .map(|_| Ok(cost(&act, &prepared.program)?.cpu_seconds))
        .collect::<Result<Vec<f64>>>()
        .map(median)
}

/// Median CPU seconds as a guest of each build.
fn costs(prepared: &Prepared, builds: [&PathBuf; 2], run_count: usize) -> Result<[f64; 2]> {
    let expected = output(&mut prepared.natively(), prepared.name)?.stdout;
    let act = |mother: &Path| -> Result<Duration> {
        let start = Instant::now();
        let who = format!("{} as a guest of {}", prepared.name, mother.display());
        let said = output(&mut prepared.as_guest(mother), &who)?.stdout;
        ensure!(
            said == expected,
            "{who} says something else than on the host"
        );
        Ok(start.elapsed())
    };
    let mut seconds = [vec![], vec![]];
    for run in 1..=run_count {
        for which in in_turn(run) {
            seconds[which].push(cost(&act, builds[which])?.cpu_seconds);
        }
    }
    Ok(seconds.map(median))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_programs_work_on_is_the_same_every_time_and_names_its_file() {
        let folder = tempfile::tempdir().unwrap();
        for work in WORKS {
            assert_eq!((work.content)(), (work.content)(), "{}", work.program);
            let names_file = work.words.iter().any(|word| word.contains("FILE"));
            assert!(names_file, "{}", work.program);
            if let Some(prepared) = prepare(work, folder.path()).unwrap() {
                let left = prepared.words.iter().any(|word| word.contains("FILE"));
                assert!(!left, "{}", work.program);
            }
        }
    }
}
