//! `mother run IMAGE` and `mother images`, as a user sees them.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::common::host::Host;
use crate::common::{Mother, Ran, Terminal, add, with_debian, with_guest};

/// What `docker save` would write of an image with busybox in it, that runs this command.
fn saved(folder: &Path, entrypoint: &[&str], command: &[&str], user: &str) -> PathBuf {
    let config = serde_json::json!({ "Entrypoint": entrypoint, "Cmd": command, "Env": ["GREETING=hello"],
        "WorkingDir": "/srv", "User": user });
    saved_with(folder, &config)
}

/// The same with this configuration.
fn saved_with(folder: &Path, config: &serde_json::Value) -> PathBuf {
    let cache = images::Cache::of_user().unwrap();
    let busybox = fs::read(cache.folder().join("busybox")).unwrap();
    let mut lower = tar::Builder::new(Vec::new());
    add(&mut lower, "bin/busybox", &busybox);
    add(&mut lower, "gone", b"1");
    add(&mut lower, "etc/passwd", b"app:x:1000:100::/srv:/bin/sh\n");
    add(&mut lower, "etc/group", b"audio:x:29:app\n");
    // What a build step made for the program.
    add(&mut lower, "run/app/made", b"then\n");
    let mut upper = tar::Builder::new(Vec::new());
    add(&mut upper, ".wh.gone", b"");
    add(&mut upper, "srv/data", b"data\n");
    let config = serde_json::json!({ "os": "linux", "architecture": "amd64", "config": config });
    let manifest =
        serde_json::json!([{ "Config": "config.json", "Layers": ["lower.tar", "upper.tar"] }]);
    let mut archive = tar::Builder::new(Vec::new());
    add(&mut archive, "lower.tar", &lower.into_inner().unwrap());
    add(&mut archive, "upper.tar", &upper.into_inner().unwrap());
    add(&mut archive, "config.json", config.to_string().as_bytes());
    add(
        &mut archive,
        "manifest.json",
        manifest.to_string().as_bytes(),
    );
    let path = folder.join("box.tar");
    fs::write(&path, archive.into_inner().unwrap()).unwrap();
    path
}

/// Removes what a test has put into the user's cache.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let name = self.0.file_stem().unwrap().to_str().unwrap().to_owned();
        Mother::with_guest().call(&["images", "rm", &name]);
    }
}

#[test]
fn a_container_image_runs_its_command_and_returns_its_status() {
    let Some(mother) = with_guest() else { return };
    let folder = tempfile::tempdir().unwrap();
    let line = "id -u; id -g; pwd; cat data; echo $GREETING; ls /gone; exit 9";
    let path = saved(folder.path(), &["/bin/busybox", "sh", "-c"], &[line], "app");
    let _removed = Removed(path.clone());
    let image = path.to_str().unwrap();
    let check = |ran: &Ran, stdout: &str, status: i32| {
        assert_eq!(
            (ran.stdout.as_str(), ran.status),
            (stdout, Some(status)),
            "{}",
            ran.stderr
        );
    };
    let ran = mother.run(&[image, "--net", "none"]);
    check(&ran, "1000\n100\n/srv\ndata\nhello\n", 9);
    assert!(ran.stderr.contains("/gone: No such file"), "{}", ran.stderr);
    // Words replace the command, not the entrypoint; what is written is gone with the run.
    let again = [
        "--net",
        "none",
        "--env",
        "GREETING=bye",
        "--workdir",
        "/",
        "--",
        "echo $GREETING; pwd",
    ];
    check(&mother.run(&[&[image][..], &again].concat()), "bye\n/\n", 0);
}

#[test]
fn a_container_images_program_has_folders_of_the_host() {
    let Some(mother) = with_guest() else { return };
    let folder = tempfile::tempdir().unwrap();
    let line = "cat /srv/in/text; echo back > /new/place/answer; echo no > /srv/in/text; ls /srv";
    let path = saved(folder.path(), &["/bin/busybox", "sh", "-c"], &[line], "");
    let _removed = Removed(path.clone());
    fs::create_dir(folder.path().join("in")).unwrap();
    fs::create_dir(folder.path().join("out")).unwrap();
    fs::write(folder.path().join("in/text"), "text\n").unwrap();
    let mother = mother.in_folder(folder.path());
    let image = path.to_str().unwrap();
    let folders = [
        "-v",
        "in:/srv/in:ro",
        "-v",
        "out:/new/place",
        "--net",
        "none",
    ];
    for _ in 0..2 {
        let ran = mother.run(&[&[image][..], &folders].concat());
        let expected = ("text\ndata\nin\n", Some(0));
        assert_eq!(
            (ran.stdout.as_str(), ran.status),
            expected,
            "{}",
            ran.stderr
        );
        assert!(
            ran.stderr.contains("Read-only file system"),
            "{}",
            ran.stderr
        );
        let answer = folder.path().join("out/answer");
        assert_eq!(fs::read_to_string(&answer).unwrap(), "back\n");
        fs::remove_file(answer).unwrap();
    }
    // A place that a file of the image has.
    let ran = mother.run(&[image, "-v", "in:/srv/data", "--net", "none"]);
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    let why = "did not start: it cannot have the folder at /srv/data: ";
    assert!(ran.stderr.contains(why), "{}", ran.stderr);
}

#[test]
fn the_shell_of_a_container_image_has_a_terminal_where_there_is_one() {
    let Some(mother) = with_guest() else { return };
    let folder = tempfile::tempdir().unwrap();
    let shell = ["/bin/busybox", "sh"];
    let path = saved(folder.path(), &shell, &["-i"], "app");
    let _removed = Removed(path.clone());
    let line = format!("$MOTHER run {} --net none; echo status $?", path.display());
    let mut terminal = Terminal::new(&mother, &line);
    let busybox = "/bin/busybox";
    terminal.expect("~ $ ");
    terminal.send(&format!(
        "{busybox} tty; {busybox} stat -c 'owned by %u' $({busybox} tty)\r"
    ));
    terminal.expect("/dev/pts/");
    terminal.expect("owned by 1000");
    terminal.send("exit 5\r");
    terminal.expect("status 5");
    terminal.finish();
}

/// Finds out what a program sees of the world that container engines promise. Each line is a promise kept.
const LOOKER: &str = "PATH=/bin; busybox --install -s /bin
    grep -q localhost /etc/hosts && grep -q box7 /etc/hosts && echo hosts
    [ $(hostname) = box7 ] && [ $(cat /etc/hostname) = box7 ] && [ $HOSTNAME = box7 ] && echo hostname
    [ -f /etc/resolv.conf ] && echo resolvers
    cat /run/app/made
    [ -d /data ] && echo volume
    [ \"$(id -G)\" = '100 29' ] && echo groups
    echo out >/dev/stdout && cat /dev/stdin && echo err >/dev/stderr
    grep -q memory /sys/fs/cgroup/cgroup.controllers && cat /sys/fs/cgroup/memory.max
    [ -w /dev/mqueue ] && echo queues
    echo up; trap 'echo asked; exit 5' QUIT; while :; do sleep 1; done";

#[test]
fn a_container_images_program_finds_what_engines_give() {
    let Some(mother) = with_guest() else { return };
    let folder = tempfile::tempdir().unwrap();
    let config = serde_json::json!({ "Cmd": ["/bin/busybox", "sh", "-c", LOOKER], "User": "app",
        "Volumes": { "/data": {} }, "StopSignal": "SIGQUIT" });
    let path = saved_with(folder.path(), &config);
    let _removed = Removed(path.clone());
    let mut command = mother.command(env!("CARGO_BIN_EXE_mother"));
    command
        .args([
            "run",
            path.to_str().unwrap(),
            "--net",
            "none",
            "--name",
            "box7",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut run = command.spawn().unwrap();
    run.stdin.take().unwrap().write_all(b"in\n").unwrap();
    let mut seen = Vec::new();
    for line in BufReader::new(run.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if line == "up" {
            let stop = mother.call(&["stop", "box7"]);
            assert_eq!(stop.status, Some(0), "{}", stop.stderr);
        }
        seen.push(line);
    }
    let ended = run.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    let expected = [
        "hosts",
        "hostname",
        "resolvers",
        "then",
        "volume",
        "groups",
        "out",
        "in",
        "max",
        "queues",
        "up",
        "asked",
    ];
    assert_eq!(seen, expected, "{said}");
    assert_eq!(ended.status.code(), Some(5), "{said}");
    assert!(said.contains("err\n"), "{said}");
}

#[test]
fn what_is_no_image_is_bad_input() {
    let folder = tempfile::tempdir().unwrap();
    let mother = Mother::new(folder.path());
    let check = |words: &[&str], expected: &str| {
        let ran = mother.run(words);
        assert_eq!(ran.status, Some(2), "{}", ran.stderr);
        assert!(
            ran.stderr.contains(expected),
            "{expected:?} in {}",
            ran.stderr
        );
    };
    check(
        &["no-such-image", "--net", "none"],
        "there is no image \"no-such-image\"",
    );
    check(
        &["debian:99", "--net", "none"],
        "there are debian, debian:12 and debian:13",
    );
    check(
        &["./absent.raw", "--net", "none"],
        "cannot open ./absent.raw",
    );
    fs::create_dir(folder.path().join("empty")).unwrap();
    check(
        &["./empty", "--net", "none"],
        "neither an OCI image layout nor",
    );
    // Behind `--` alone stands a command for the default guest; a kernel of one's own has nothing that it could be for.
    check(
        &["--kernel", "nowhere", "--", "words"],
        "there is no program that it could be for",
    );
}

#[test]
fn an_empty_list_says_how_to_begin_and_unknown_names_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mother = Mother::new(folder.path());
    assert_eq!(
        mother.call(&["images", "--json", "rm", "nothing"]).status,
        Some(2)
    );
    assert!(
        mother
            .call(&["images", "prune"])
            .stdout
            .contains("removed no image")
    );
}

/// What the guest is asked: every answer stands behind a line with its question.
const QUESTIONS: [(&str, &str); 12] = [
    ("state", "systemctl is-system-running --wait"),
    ("failed units", "systemctl --failed --no-legend --plain"),
    (
        "warnings",
        "dmesg --level=emerg,alert,crit,err,warn --notime",
    ),
    ("name", "hostname"),
    ("root", "findmnt -no FSTYPE,SOURCE /; touch /forgotten"),
    (
        "modules",
        "ls /lib/modules/$(uname -r)/modules.dep >/dev/null && echo there",
    ),
    ("route", "ip -4 route show default"),
    ("address", "ip -4 -brief address show scope global up"),
    (
        "disks",
        "lsblk --noheadings --output NAME,TYPE,SIZE,MOUNTPOINTS",
    ),
    ("functions", "lspci -n"),
    ("cpus", "lscpu"),
    ("memory", "free --mebi"),
];

/// What Debian's kernel says of its own configuration wherever device-mapper is built in.
const KNOWN_WARNING: &str = "CONFIG_IMA_DISABLE_HTABLE is disabled";

/// The lines behind one question.
fn answer<'a>(output: &'a str, question: &str) -> Vec<&'a str> {
    let lines = output
        .lines()
        .skip_while(|line| *line != format!("== {question}"))
        .skip(1);
    lines.take_while(|line| !line.starts_with("== ")).collect()
}

#[test]
fn debian_boots_with_systemd_and_forgets_what_is_not_kept() {
    let Some(mother) = with_debian() else { return };
    let mut script: String = QUESTIONS
        .map(|(name, line)| format!("echo '== {name}'; {line}\n"))
        .concat();
    script.push_str("echo '== end'\n");
    let ran = mother.type_into(
        &[
            "debian:12",
            "--net",
            "user",
            "--name",
            "web9",
            "--cpus",
            "2",
        ],
        &script,
    );
    assert_eq!(ran.status, Some(0), "{}\n{}", ran.stdout, ran.stderr);
    let of = |question: &str| answer(&ran.stdout, question);
    let check =
        |question: &str, expected: &[&str]| assert_eq!(of(question), expected, "{}", ran.stdout);
    check("state", &["running"]);
    check("failed units", &[]);
    check("name", &["web9"]);
    check("root", &["ext4   /dev/vda"]);
    check("modules", &["there"]);
    let warnings = of("warnings");
    assert!(
        warnings.iter().all(|line| line.contains(KNOWN_WARNING)),
        "{warnings:#?}"
    );
    check_network(&of("route"), &of("address"));
    check_hardware(&of);
    let ran = mother.type_into(
        &["debian:12", "--net", "none"],
        "ls /forgotten || echo forgotten\n",
    );
    assert_eq!(ran.stdout, "forgotten\n", "{}", ran.stderr);
}

#[test]
fn a_script_in_debian_prints_its_answers_and_ends_with_its_status() {
    let Some(mother) = with_debian() else { return };
    let check = |words: &[&str], input: &str, stdout: &str, status: i32| {
        let words = [&["debian:12", "--net", "none"][..], words].concat();
        let ran = mother.type_into(&words, input);
        let seen = (ran.stdout.as_str(), ran.status);
        assert_eq!(seen, (stdout, Some(status)), "{words:?}: {}", ran.stderr);
    };
    check(
        &[],
        "cat /etc/issue | wc -l\nls /no-such\nexit 7\n",
        "2\n",
        7,
    );
    let words = [
        "--",
        "sh",
        "-c",
        "systemctl --version | head -c 7; cat; exit 4",
    ];
    check(&words, "typed", "systemdtyped", 4);
    check(
        &[],
        "echo on the way; poweroff; sleep 99",
        "on the way\n",
        0,
    );
}

fn check_network(route: &[&str], address: &[&str]) {
    let [route] = route else {
        panic!("not one default route: {route:?}")
    };
    assert!(
        route.starts_with("default via ") && route.contains(" proto dhcp "),
        "{route}"
    );
    let [address] = address else {
        panic!("not one address: {address:?}")
    };
    let words: Vec<&str> = address.split_whitespace().collect();
    assert!(words[0].starts_with("en") && words[1] == "UP", "{address}");
    assert!(route.contains(&format!(" dev {} ", words[0])), "{route}");
}

/// The guest's own hardware, and nothing of the host's.
fn check_hardware<'a>(of: &dyn Fn(&str) -> Vec<&'a str>) {
    let words = |line: &'a str| line.split_whitespace().collect::<Vec<_>>();
    let disks: Vec<Vec<&str>> = of("disks").into_iter().map(words).collect();
    assert_eq!(disks, [["vda", "disk", "4G", "/"]]);

    // Host bridge, then virtio 1.0 (4.1.2.1: 0x1040 and the device's number): network and disk among them.
    let functions: Vec<&str> = of("functions")
        .into_iter()
        .filter_map(|line| line.split(' ').nth(2))
        .collect();
    let is_ours = |id: &&str| *id == "4d4f:0001" || id.starts_with("1af4:10");
    assert!(functions.iter().all(is_ours), "{functions:?}");
    assert!(
        functions.contains(&"1af4:1041") && functions.contains(&"1af4:1042"),
        "{functions:?}"
    );

    let cpus = of("cpus");
    let field = |name: &str| {
        let values = cpus
            .iter()
            .filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
        values.map(str::trim).next().unwrap_or_default()
    };
    assert_eq!(
        (field("CPU(s)"), field("On-line CPU(s) list")),
        ("2", "0,1"),
        "{cpus:#?}"
    );
    assert!(
        field("Model name").starts_with("Mother Virtual CPU"),
        "{cpus:#?}"
    );
    let host = fs::read_to_string("/proc/cpuinfo").unwrap();
    let host = host
        .lines()
        .find_map(|line| line.strip_prefix("model name\t: "))
        .unwrap_or("no such word");
    assert!(
        !cpus.iter().any(|line| line.contains(host)),
        "{host} in {cpus:#?}"
    );

    // 1 GiB less what the kernel keeps for itself.
    let memory: Vec<usize> = of("memory")
        .iter()
        .filter_map(|line| words(line).get(1)?.parse().ok())
        .collect();
    assert!(
        (900..1024).contains(&memory[0]) && memory[1] == 0,
        "{memory:?}"
    );
}

/// Writes files with their sums, and says of each when it is on the disk.
const WRITER: &str = include_str!("scripts/write_durably.sh");

/// Checks the file system as its own tools do, and every file that is there.
const CHECKER: &str = include_str!("scripts/check_written.sh");

#[test]
fn what_debian_has_flushed_survives_the_death_of_its_vm() {
    let Some(mother) = with_debian() else { return };
    let data = tempfile::tempdir().unwrap();
    let mut command = mother.command(env!("CARGO_BIN_EXE_mother"));
    command.args([
        "run",
        "debian:12",
        "--keep",
        "kept",
        "--net",
        "none",
        "--name",
        "web",
    ]);
    command
        .env("XDG_DATA_HOME", data.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut run = command.spawn().unwrap();
    let mut stdin = run.stdin.take().unwrap();
    stdin.write_all(WRITER.as_bytes()).unwrap();
    let mut durable = 0;
    for line in BufReader::new(run.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        durable = line
            .strip_prefix("durable ")
            .map_or(durable, |n| n.trim().parse().unwrap());
        if durable == 12 {
            let vms: serde_json::Value =
                serde_json::from_str(&mother.call(&["ps", "--json"]).stdout).unwrap();
            let kill = mother.shell(&format!("kill -9 {}", vms[0]["pid"]));
            assert_eq!(kill.status, Some(0), "{}", kill.stderr);
        }
    }
    assert!(durable >= 12, "the guest ended after {durable} files");
    drop(stdin);
    run.wait().unwrap();
    let image = images::Cache::of_user()
        .unwrap()
        .store()
        .find("debian:12")
        .unwrap()
        .unwrap();
    let overlay = data.path().join("mother/kept/kept/overlay.qcow2");
    let disk = format!(
        "{},base={},base-format=raw",
        overlay.display(),
        image.disk().display()
    );
    let ran = mother.type_into(&["debian:12", "--net", "none", "--disk", &disk], CHECKER);
    let number = |word: &str| {
        let mut numbers = ran
            .stdout
            .lines()
            .filter_map(|line| line.strip_prefix(word)?.trim().parse::<u64>().ok());
        numbers
            .next()
            .unwrap_or_else(|| panic!("no {word:?} in {}{}", ran.stdout, ran.stderr))
    };
    assert!(
        number("repaired ") <= 1,
        "more than the journal was to be done: {}",
        ran.stdout
    );
    assert_eq!(
        (number("clean "), number("whole ")),
        (0, 0),
        "{}",
        ran.stdout
    );
    assert!(number("files ") >= durable, "{}", ran.stdout);
}

#[test]
fn another_program_in_a_container_is_where_its_first_one_is() {
    let Some(host) = Host::with_guest() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let waits = "sleep 1000";
    let path = saved(
        folder.path(),
        &["/bin/busybox", "sh", "-c"],
        &[waits],
        "app",
    );
    let _removed = Removed(path.clone());
    let image = path.to_str().unwrap();
    let ran = host
        .mother
        .run(&["-d", "--name", "box", "--net", "none", image]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let check = |more: &[&str], command: &str, expected: &str| {
        let words = [
            &["exec", "-n"],
            more,
            &["box", "busybox", "sh", "-c", command],
        ]
        .concat();
        let ran = host.call(&words);
        assert_eq!(
            (ran.stdout.as_str(), ran.status),
            (expected, Some(0)),
            "{}",
            ran.stderr
        );
    };
    let who = "id -u; id -g; pwd; cat data; echo $GREETING; pidof sleep >/dev/null && echo beside";
    check(&[], who, "1000\n100\n/srv\ndata\nhello\nbeside\n");
    check(
        &["--as", "0", "--workdir", "/", "--env", "GREETING=bye"],
        "id -u; pwd; echo $GREETING",
        "0\n/\nbye\n",
    );
    check(&["--as", "app"], "id -G; echo $HOME", "100 29\n/srv\n");
    let ran = host.call(&["snapshot", "box"]);
    assert_ne!(
        ran.status,
        Some(0),
        "a guest that is one program is not written: {}",
        ran.stdout
    );
}
