//! `mother profile`: what is known of a guest's kernel, in the files that other tools read instead of debug symbols.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use api::VmName;
use clap::Args;
use insight::{Blind, Look};

use super::observe::{blind, look, watch};
use crate::answers::{self, WrittenProfile};
use crate::failure::Failure;
use crate::observed::{Guests, Observation};
use crate::output::{say, standard_output};
use crate::whole_file::{Opened, WholeFile};

/// `mother profile`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
All of it comes from the guest's own memory; nothing is downloaded, and the guest is
neither asked nor paused. Which tool reads what, and how: docs/dump.md.

Examples:
  mother profile web --isf -o symbols/web.json.gz && vol -s symbols -f web.core linux.pslist
  mother profile web --btf -o web.btf && bpftool btf dump file web.btf format c
  mother profile web --kallsyms | grep ' T do_sys_open'")]
pub struct ProfileArguments {
    /// Which VM
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    form: FormArguments,
    /// Where to write it; a name that ends in .gz has it compressed [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace FILE
    #[arg(long, requires = "output")]
    force: bool,
    /// Say what was done as JSON
    #[arg(long, requires = "output")]
    json: bool,
}

impl ProfileArguments {
    /// The guest whose memory this reads, and the file that it writes.
    pub fn looks_into(&self) -> Result<Option<Observation>, Failure> {
        let Some(guests) = Guests::named(&self.name) else {
            return Ok(None);
        };
        let file = self.output.as_deref();
        let file = file.filter(|path| *path != Path::new("-"));
        let file = file.map(|path| Opened::create(path, self.force));
        Ok(Some(Observation {
            output: file.transpose()?,
            ..Observation::to_see(guests)
        }))
    }
}

/// One of them.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
struct FormArguments {
    /// Types, symbols and the banner, for Volatility 3 (its Intermediate Symbol File)
    #[arg(long)]
    isf: bool,
    /// The kernel's type information as it is, for bpftool, pahole and others
    #[arg(long)]
    btf: bool,
    /// Where every symbol is, as /proc/kallsyms says
    #[arg(long)]
    kallsyms: bool,
}

impl FormArguments {
    fn name(&self) -> &'static str {
        match self {
            FormArguments { isf: true, .. } => "isf",
            FormArguments { btf: true, .. } => "btf",
            _ => "kallsyms",
        }
    }
}

/// What was written.
#[derive(Clone, Copy, Default, Debug)]
struct Counts {
    types: Option<usize>,
    symbols: Option<usize>,
    typed_symbols: Option<usize>,
}

/// Writes the profile; the exit status.
pub fn profile(arguments: &ProfileArguments) -> Result<u8, Failure> {
    let (name, mut watcher) = watch(&arguments.name)?;
    let file = arguments
        .output
        .as_deref()
        .filter(|path| *path != Path::new("-"));
    if file.is_none() && arguments.json {
        return Err(Failure::NoPipe(
            "it is to have the profile, and --json an answer there; name a file",
        ));
    }
    look(&name, &mut watcher, |_, look| {
        let Some(path) = file else {
            let stdout = standard_output().map_err(Failure::Output)?;
            write_to(&name, look, &arguments.form, stdout)?.map_err(Failure::Output)?;
            return Ok(0);
        };
        let (whole, file) = WholeFile::create(path, arguments.force)?;
        let failed = |source| Failure::Write {
            path: path.to_owned(),
            source,
        };
        let counts = if path.extension().is_some_and(|end| end == "gz") {
            let packer = flate2::Compression::default();
            let packed = flate2::write::GzEncoder::new(&file, packer);
            write_packed(&name, look, &arguments.form, packed)?
        } else {
            write_to(&name, look, &arguments.form, &file)?
        };
        let counts = counts.map_err(failed)?;
        whole.keep(&file)?;
        tell(arguments, &name, look, path, &file, counts)
    })
}

type Written = Result<io::Result<Counts>, Failure>;

fn write_packed(
    name: &VmName,
    look: &Look<'_>,
    form: &FormArguments,
    mut to: flate2::write::GzEncoder<&File>,
) -> Written {
    let written = write_to(name, look, form, &mut to)?;
    Ok(written.and_then(|counts| to.finish().map(|_| counts)))
}

/// Why nothing can be written is a matter of the guest, and of `to` when it fails.
fn write_to(name: &VmName, look: &Look<'_>, form: &FormArguments, to: impl Write) -> Written {
    let unseen = |why: Blind| blind(name, why.to_string());
    let mut to = BufWriter::new(to);
    let written = match form {
        FormArguments { isf: true, .. } => {
            let isf = look.isf().map_err(unseen)?;
            let (symbols, typed_symbols) = isf.symbol_count();
            isf.write(&mut to).map(|()| Counts {
                types: Some(isf.type_count()),
                symbols: Some(symbols),
                typed_symbols: Some(typed_symbols),
            })
        }
        FormArguments { btf: true, .. } => {
            let bytes = look.type_information().map_err(unseen)?;
            let types = insight::btf::Types::parse(&bytes).map(|types| types.len() - 1);
            to.write_all(&bytes).map(|()| Counts {
                types,
                ..Counts::default()
            })
        }
        _ => look.kallsyms().write(&mut to).map(|written| Counts {
            symbols: Some(written.of_kernel + written.of_modules),
            ..Counts::default()
        }),
    };
    Ok(written.and_then(|counts| to.flush().map(|()| counts)))
}

fn tell(
    arguments: &ProfileArguments,
    name: &VmName,
    look: &Look<'_>,
    path: &Path,
    file: &File,
    counts: Counts,
) -> Result<u8, Failure> {
    let shown = path.display().to_string();
    let kernel = look.kernel();
    if arguments.json {
        let answer = WrittenProfile {
            name,
            file: &shown,
            form: arguments.form.name(),
            file_bytes: file.metadata().ok().map(|it| it.len()),
            release: kernel.release(),
            build_id: kernel.build_id(),
            rung: look.rung(),
            types: counts.types,
            symbols: counts.symbols,
            typed_symbols: counts.typed_symbols,
        };
        say(&answers::text(&answer))?;
        return Ok(0);
    }
    let parts = [
        counts.types.map(|types| format!("{types} types")),
        counts.symbols.map(|symbols| format!("{symbols} symbols")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    let release = super::words::printable(kernel.release());
    say(&format!("{shown}: Linux {release}, {}\n", parts.join(", ")))?;
    Ok(0)
}
