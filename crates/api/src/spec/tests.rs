//! Tests of whole specs: whatever can be said comes back from TOML and from JSON.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use clap::{FromArgMatches, Parser};
use proptest::prelude::*;

use super::*;

/// Words of a kind that every field of text takes.
fn word() -> impl Strategy<Value = String> {
    "\\PC{1,12}"
}

fn path() -> impl Strategy<Value = PathBuf> {
    prop_oneof![
        word().prop_map(PathBuf::from),
        any::<Vec<u8>>().prop_map(|bytes| PathBuf::from(OsString::from_vec(bytes))),
    ]
}

/// A value of a type that reads itself, from one of these texts.
fn one_of<T: Text + Clone + std::fmt::Debug>(
    texts: &'static [&'static str],
) -> impl Strategy<Value = T> {
    proptest::sample::select(texts).prop_map(|text| {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    })
}

fn disk() -> impl Strategy<Value = DiskSpec> {
    (path(), proptest::option::of(path()), any::<bool>()).prop_map(|(path, base, read_only)| {
        DiskSpec {
            path,
            base_format: base.is_some().then_some(DiskFormat::Raw),
            base,
            read_only,
            ..DiskSpec::default()
        }
    })
}

prop_compose! {
    /// What stands in a kernel's place and beside it.
    fn images()(
        image in proptest::option::of(word()),
        paths in proptest::collection::vec(path(), 0..4),
        words in proptest::collection::vec(word(), 0..3),
        modules in proptest::collection::vec(one_of::<ModuleSpec>(ModuleSpec::EXAMPLES), 0..3),
    ) -> VmSpec {
        VmSpec {
            image,
            keep: words.first().cloned(),
            app: paths.first().cloned(),
            kernel: paths.get(1).cloned(),
            vsock: paths.get(2).cloned(),
            user_data: paths.get(3).cloned(),
            ssh_keys: paths.clone(),
            include: paths,
            environment: words.clone(),
            words,
            modules,
            ..VmSpec::default()
        }
    }
}

prop_compose! {
    fn specs()(
        images in images(),
        disks in proptest::collection::vec(disk(), 0..3),
        memory in proptest::option::of(one_of::<MemorySize>(&["512M", "33M", "16G"])),
        limit in proptest::option::of(one_of::<ResidentLimit>(ResidentLimit::EXAMPLES)),
        engine_memory in proptest::option::of(one_of::<MemoryLimit>(MemoryLimit::EXAMPLES)),
        host_limit in proptest::option::of(one_of::<MemoryLimit>(MemoryLimit::EXAMPLES)),
        cpus in proptest::option::of(1..9_u32),
        engine in proptest::option::of(one_of::<EngineWish>(EngineWish::EXAMPLES)),
        net in proptest::option::of(one_of::<NetSpec>(NetSpec::EXAMPLES)),
        forwards in proptest::collection::vec(one_of::<Forward>(Forward::EXAMPLES), 0..3),
        folders in proptest::collection::vec(one_of::<FolderSpec>(FolderSpec::EXAMPLES), 0..3),
        timeout in proptest::option::of(one_of::<Timeout>(Timeout::EXAMPLES)),
        hostname in proptest::option::of(one_of::<HostName>(HostName::EXAMPLES)),
        cmdline in proptest::option::of("\\PC*"),
        flags in any::<[bool; 4]>(),
    ) -> VmSpec {
        VmSpec {
            disks,
            memory,
            resident_limit: limit,
            engine_memory,
            host_limit,
            cpus: cpus.map(VcpuCount::of),
            engine,
            net,
            forwards,
            folders,
            timeout,
            hostname,
            cmdline,
            debug_exit: flags[0],
            no_reboot: flags[1],
            huge_pages: flags[2],
            profile: flags[3],
            ..images
        }
    }
}

proptest! {
    #[test]
    fn a_spec_comes_back_from_toml_and_from_json(spec in specs()) {
        let toml = spec.to_toml();
        let read = PartialSpec::from_file(&toml, "f");
        prop_assert_eq!(&read.complaints, &vec![], "{}", toml);
        prop_assert_eq!(&read.spec, &spec, "{}", toml);
        let json = serde_json::to_string(&spec).unwrap();
        prop_assert_eq!(&serde_json::from_str::<VmSpec>(&json).unwrap(), &spec);
        let said = Value::Object(spec.said()).to_string();
        prop_assert_eq!(&PartialSpec::from_file(&said, "f").spec, &spec);
        prop_assert_eq!(&spec.over(&VmSpec::default()), &spec);
        prop_assert_eq!(&VmSpec::default().over(&spec), &spec);
    }
}

/// The options alone, as the command line has them.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    spec: VmSpec,
}

#[test]
fn options_and_keys_have_the_same_names() {
    use clap::CommandFactory;

    let command = Options::command();
    let options: Vec<&str> = command
        .get_arguments()
        .filter_map(|argument| argument.get_long())
        .filter(|name| !["help", "version"].contains(name))
        .collect();
    let only_in_files = ["image", "arguments", "passt", "marker"];
    let keys = VmSpec::keys().iter().copied();
    let keys: Vec<&str> = keys.filter(|key| !only_in_files.contains(key)).collect();
    assert_eq!(options, keys);
}

#[test]
fn a_command_line_and_a_file_mean_the_same() {
    let check = |words: &str, expected: &str| {
        let words = std::iter::once("mother").chain(words.split_whitespace());
        let spec = Options::try_parse_from(words).unwrap().spec;
        assert_eq!(spec.to_toml(), expected);
        assert_eq!(PartialSpec::from_file(expected, "f").spec, spec);
    };
    check("", "");
    check(
        "debian:13 --memory 2048M --cpus 2 -p 127.0.0.1:8080:80 -p 53:53/udp --net user,host --timeout 120",
        "image = \"debian:13\"\nmemory = \"2G\"\ncpus = 2\ntimeout = \"2m\"\nnet = \"user,host\"\npublish = \
         [\"8080:80\", \"53:53/udp\"]\n",
    );
    check(
        "--disk a,readonly --disk b,,c,base=d --no-reboot --name web -- ls -l",
        "arguments = [\"ls\", \"-l\"]\nname = \"web\"\nno-reboot = true\n\n[[disk]]\npath = \"a\"\nreadonly = \
         true\n\n[[disk]]\npath = \"b,c\"\nbase = \"d\"\n",
    );
}

#[test]
fn a_bad_option_is_told_with_its_reason() {
    let command = VmSpec::augment_args(clap::Command::new("mother"));
    let error = command
        .try_get_matches_from(["mother", "--memory", "abc"])
        .unwrap_err();
    let reason = std::error::Error::source(&error).and_then(|it| it.downcast_ref::<BadText>());
    assert_eq!(reason.unwrap().what, "\"abc\" is not a memory size");
    let command = VmSpec::augment_args(clap::Command::new("mother"));
    let matches = command
        .try_get_matches_from(["mother", "--cpus", "3"])
        .unwrap();
    let spec = VmSpec::from_arg_matches(&matches).unwrap();
    assert_eq!(spec.cpus, Some(VcpuCount::of(3)));
    assert_eq!(spec.shown_name(), "guest");
}
