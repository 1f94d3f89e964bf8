//! The streams of a program in a guest are pipes: whole however slow the other end is, and ended when it is gone.
//!
//! As in `guest.rs`, each test says that it was skipped where the default guest cannot be had.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use crate::common::with_guest;

/// A line for bash, in which `$MOTHER` is the command, prints this and says nothing on standard error.
fn check(what: &str, line: &str, expected: &str) {
    let Some(mother) = with_guest() else { return };
    let folder = tempfile::tempdir().unwrap();
    let ran = mother.in_folder(folder.path()).shell(line);
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr.as_str()),
        (expected, ""),
        "{what}"
    );
}

#[test]
fn output_is_whole_however_slow_its_reader_is() {
    // More than all queues on the way hold, so that the program itself waits.
    check(
        "standard output",
        "$MOTHER run --app /usr/bin/head -- -c 16000000 /dev/zero </dev/null | (sleep 7; wc -c); echo ${PIPESTATUS[0]}",
        "16000000\n0\n",
    );
    check(
        "standard error, and standard output beside it does not wait for it",
        "mkfifo errors; (sleep 9; wc -c) <errors >count & \
         $MOTHER run -- sh -c 'head -c 9000000 /dev/zero >&2 & echo out; wait' </dev/null 2>errors | \
             (read word; [ -e count ] && [ -s count ] && echo late; echo $word; cat); \
         echo ${PIPESTATUS[0]}; wait; cat count",
        "out\n0\n9000000\n",
    );
    check(
        "the last byte comes before the exit status",
        "$MOTHER run -- sh -c 'head -c 3000000 /dev/zero; printf end; exit 5' </dev/null | (sleep 5; tail -c 3); \
         echo ${PIPESTATUS[0]}",
        "end5\n",
    );
}

#[test]
fn a_console_is_whole_however_slow_its_reader_is_and_the_guest_goes_on() {
    // 2 MB are more than may wait before programs do; meanwhile a program that writes nothing is not held up.
    let script = "(sleep 1; while [ -e /tmp/writing ]; do n=$((n + 1)); sleep 0.1; done; echo n $n) &\n\
        >/tmp/writing; head -c 2000000 /dev/zero | tr '\\0' '~'; echo; rm /tmp/writing; wait";
    let line = format!(
        "$MOTHER run --console serial --timeout 100s 2>/dev/null <<'END' | (sleep 12; cat) >all\n{script}\nEND\n\
         echo ${{PIPESTATUS[0]}}; tr -cd '~' <all | wc -c; grep -q '^n [1-9][0-9]' all && echo went on",
    );
    check("serial", &line, "0\n2000000\nwent on\n");
}

#[test]
fn a_slow_reader_holds_up_no_end_that_was_asked_for() {
    check(
        "the time is up",
        "($MOTHER run --timeout 6s -- yes </dev/null 2>/dev/null; echo $? >status) | sleep 30 >/dev/null 2>&1 & \
         for n in $(seq 150); do [ -s status ] && break; sleep 0.1; done; cat status",
        "124\n",
    );
    check(
        "killed",
        "($MOTHER run --name web -- yes </dev/null 2>/dev/null; echo $? >status) | sleep 30 >/dev/null 2>&1 & \
         until $MOTHER logs web 2>/dev/null | tail -c 100 | grep -q y; do sleep 0.2; done; sleep 1; $MOTHER kill web; \
         for n in $(seq 50); do [ -s status ] && break; sleep 0.1; done; cat status",
        "web\n137\n",
    );
}

#[test]
fn a_reader_that_goes_away_is_a_closed_pipe_to_the_program() {
    check(
        "while it writes",
        "$MOTHER run -- yes </dev/null | head -n 1; echo ${PIPESTATUS[0]}",
        "y\n141\n",
    );
    check(
        "while it writes nothing",
        "$MOTHER run -- sh -c 'echo a; sleep 2; echo b; sleep 1; echo c' </dev/null | head -n 1; echo ${PIPESTATUS[0]}",
        "a\n141\n",
    );
    check(
        "a program that does not mind goes on",
        "$MOTHER run -- sh -c 'trap \"\" PIPE; echo a; sleep 2; echo b 2>/dev/null; exit 9' </dev/null | head -n 1; \
         echo ${PIPESTATUS[0]}",
        "a\n9\n",
    );
}

#[test]
fn input_arrives_to_its_last_byte_and_ends() {
    check("none", "$MOTHER run -- wc -c </dev/null", "0\n");
    check("a byte", "printf x | $MOTHER run -- wc -c", "1\n");
    check(
        "much, of all bytes, there and back",
        "head -c 30000000 /dev/urandom >all; $MOTHER run -- cat <all | cmp - all && echo same",
        "same\n",
    );
    check(
        "the program reads none of it",
        "yes | $MOTHER run -- true; echo ${PIPESTATUS[@]}",
        "141 0\n",
    );
    check(
        "the program reads no more of it, and goes on",
        "(yes; echo $? >producer) | $MOTHER run -- sh -c 'exec <&-; sleep 4; echo done'; cat producer",
        "done\n141\n",
    );
}
