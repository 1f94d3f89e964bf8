//! The options that describe a VM, read so that everything that is wrong with them is told at once.
//!
//! clap stops at the first value that it cannot read. So it gets the options of [`VmSpec`] with values of any text, and
//! each of them is then read on its own, as clap would have; complaints are gathered, and what is right is a spec.

use std::error::Error;
use std::ffi::{OsStr, OsString};

use api::{BadText, Complaint, PartialSpec, VmSpec};
use clap::builder::{PossibleValue, TypedValueParser};
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

/// What was typed about a VM.
#[derive(Clone, Debug, Default)]
pub struct SpecArguments(pub PartialSpec);

/// The options as `VmSpec` has them.
fn options() -> Command {
    VmSpec::augment_args(Command::new("mother").no_binary_name(true))
}

/// Takes any text, and tells shells what the option's own reader takes.
#[derive(Clone)]
struct AnyText(Vec<PossibleValue>);

impl TypedValueParser for AnyText {
    type Value = OsString;

    fn parse_ref(
        &self,
        _command: &Command,
        _argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<OsString, clap::Error> {
        Ok(value.to_owned())
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let values = (!self.0.is_empty()).then(|| self.0.iter().cloned());
        values.map(|values| Box::new(values) as Box<dyn Iterator<Item = PossibleValue>>)
    }
}

fn takes_any_text(option: &Arg) -> Arg {
    if option.is_positional() || !option.get_action().takes_values() {
        return option.clone();
    }
    let hint = option.get_value_hint();
    let possible = option.get_possible_values();
    option
        .clone()
        .value_hint(hint)
        .value_parser(AnyText(possible))
}

impl Args for SpecArguments {
    fn augment_args(command: Command) -> Command {
        let options = options();
        command.args(options.get_arguments().map(takes_any_text))
    }

    fn augment_args_for_update(command: Command) -> Command {
        SpecArguments::augment_args(command)
    }
}

impl FromArgMatches for SpecArguments {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut read = PartialSpec::default();
        let mut good = Vec::new();
        let mut last = Vec::new();
        for option in options().get_arguments() {
            let id = option.get_id().as_str();
            let values = || matches.get_raw(id).into_iter().flatten();
            match option.get_long() {
                None if option.is_last_set() => last.extend(values().map(OsStr::to_owned)),
                None => good.extend(values().map(OsStr::to_owned)),
                Some(name) if option.get_action().takes_values() => {
                    for value in values() {
                        let mut word = OsString::from(format!("--{name}="));
                        word.push(value);
                        match options().try_get_matches_from([&word]) {
                            Ok(_) => good.push(word),
                            Err(error) => complain(&mut read, name, value, &error),
                        }
                    }
                }
                Some(name) if matches.get_flag(id) => good.push(format!("--{name}").into()),
                Some(_) => {}
            }
        }
        let words = good.into_iter().chain(["--".into()]).chain(last);
        let matches = options().try_get_matches_from(words)?;
        read.spec = VmSpec::from_arg_matches(&matches)?;
        Ok(SpecArguments(read))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = SpecArguments::from_arg_matches(matches)?;
        Ok(())
    }
}

fn complain(read: &mut PartialSpec, name: &str, value: &OsStr, error: &clap::Error) {
    let shown = value.to_string_lossy();
    let reason = error
        .source()
        .and_then(|reason| reason.downcast_ref::<BadText>());
    let bad = reason.cloned().unwrap_or_else(|| BadText {
        what: format!("\"{}\" is no value of it", shown.escape_debug()),
        help: "`mother run --help` says what it takes".to_owned(),
    });
    if name == "name" {
        read.bad_name = Some(shown.into_owned());
    }
    read.complaints.push(Complaint::of(name, bad));
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Options {
        #[command(flatten)]
        written: SpecArguments,
    }

    fn read(words: &[&str]) -> PartialSpec {
        let words = std::iter::once("mother").chain(words.iter().copied());
        Options::try_parse_from(words).unwrap().written.0
    }

    fn check(words: &[&str], toml: &str, complaints: &[&str]) {
        let read = read(words);
        assert_eq!(read.spec.to_toml(), toml, "{words:?}");
        let told = read.complaints.iter();
        let told: Vec<String> = told
            .map(|it| format!("{}: {}", it.field, it.what))
            .collect();
        assert_eq!(told, complaints, "{words:?}");
    }

    #[test]
    fn words_and_options_are_a_spec() {
        check(&[], "", &[]);
        check(
            &[
                "./a.tar",
                "--memory",
                "2G",
                "-p",
                "1:2",
                "--no-reboot",
                "--",
                "-x",
                "--memory",
            ],
            "image = \"./a.tar\"\narguments = [\"-x\", \"--memory\"]\nmemory = \"2G\"\npublish = [\"1:2\"]\n\
             no-reboot = true\n",
            &[],
        );
    }

    #[test]
    fn every_bad_option_is_told_and_the_others_are_taken() {
        check(
            &[
                "--memory",
                "abc",
                "--cpus=400",
                "-p",
                "1:2",
                "--publish",
                "x",
                "--timeout",
                "-1",
            ],
            "publish = [\"1:2\"]\n",
            &[
                "memory: \"abc\" is not a memory size",
                "cpus: 400 vCPUs are more than a guest can have",
                "timeout: \"-1\" is not a time",
                "publish: \"x\" is not a forward",
            ],
        );
        check(
            &[
                "--cmdline",
                "--quiet -x",
                "--memory",
                "-5M",
                "--name",
                "a b",
            ],
            "cmdline = \"--quiet -x\"\n",
            &[
                "memory: \"-5M\" is not a memory size",
                "name: \"a b\" has the character ' '",
            ],
        );
        check(
            &["--engine", "xen", "--console", ""],
            "",
            &[
                "engine: there is no engine \"xen\"",
                "console: there is no console \"\"",
            ],
        );
        check(&["--kernel", ""], "", &["kernel: \"\" is no value of it"]);
    }

    #[test]
    fn a_bad_name_is_what_the_vm_is_called_in_its_complaint() {
        assert_eq!(read(&["--name", "a b"]).shown_name(), "a b");
        assert_eq!(read(&["--name", "web"]).shown_name(), "web");
        assert_eq!(read(&[]).shown_name(), "guest");
    }
}
