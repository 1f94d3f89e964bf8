//! Descriptors that come with a message, by what they are for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

/// What a descriptor is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Given {
    /// What is typed into the guest, or its program's standard input.
    Input,
    /// Where the console or the program's standard output goes.
    Output,
    /// Where the program's standard error goes.
    Errors,
    /// A lock on something that the guest stands on: to be held.
    Hold,
    /// The lock of the VM's name: to be held.
    Alive,
    /// The log's first file.
    Log,
    /// Where a detached VM's processes say what they have to say.
    Messages,
}

impl Given {
    /// Whether it connects a guest to who started it.
    fn is_stream(self) -> bool {
        matches!(self, Given::Input | Given::Output | Given::Errors)
    }
}

/// Descriptors with what each is for, to be sent.
#[derive(Debug, Default)]
pub(crate) struct Labelled<'a> {
    /// In the order of the descriptors.
    pub(crate) given: Vec<Given>,
    /// In the order of what they are for.
    pub(crate) descriptors: Vec<BorrowedFd<'a>>,
}

impl<'a> Labelled<'a> {
    /// Adds `descriptor`, if there is one.
    pub(crate) fn add(&mut self, what: Given, descriptor: Option<&'a impl AsFd>) {
        self.given.extend(descriptor.map(|_| what));
        self.descriptors.extend(descriptor.map(AsFd::as_fd));
    }

    /// Whether one of them connects a guest to who started it.
    pub(crate) fn has_streams(&self) -> bool {
        self.given.iter().any(|it| it.is_stream())
    }

    /// Adds those there are of the three standard streams.
    pub(crate) fn add_streams(&mut self, [input, output, errors]: [&'a Option<OwnedFd>; 3]) {
        self.add(Given::Input, input.as_ref());
        self.add(Given::Output, output.as_ref());
        self.add(Given::Errors, errors.as_ref());
    }
}

/// Descriptors that were received, each where it belongs.
#[derive(Debug, Default)]
pub(crate) struct Sorted {
    /// [`Given::Input`].
    pub(crate) input: Option<OwnedFd>,
    /// [`Given::Output`].
    pub(crate) output: Option<OwnedFd>,
    /// [`Given::Errors`].
    pub(crate) errors: Option<OwnedFd>,
    /// [`Given::Hold`] and [`Given::Alive`].
    pub(crate) held: Vec<OwnedFd>,
    /// [`Given::Log`].
    pub(crate) log: Option<OwnedFd>,
    /// [`Given::Messages`].
    pub(crate) messages: Option<OwnedFd>,
}

impl Sorted {
    /// Puts `descriptors` where `given` says.
    ///
    /// # Errors
    /// If there are not as many of the one as of the other.
    pub(crate) fn new(given: &[Given], descriptors: Vec<OwnedFd>) -> io::Result<Sorted> {
        if given.len() != descriptors.len() {
            let said = given.len();
            let came = descriptors.len();
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{said} descriptors were to come, and {came} came"),
            ));
        }
        let mut sorted = Sorted::default();
        for (what, descriptor) in given.iter().zip(descriptors) {
            match what {
                Given::Input => sorted.input = Some(descriptor),
                Given::Output => sorted.output = Some(descriptor),
                Given::Errors => sorted.errors = Some(descriptor),
                Given::Hold | Given::Alive => sorted.held.push(descriptor),
                Given::Log => sorted.log = Some(descriptor),
                Given::Messages => sorted.messages = Some(descriptor),
            }
        }
        Ok(sorted)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn files(count: usize) -> Vec<OwnedFd> {
        let file = || File::open("/dev/null").unwrap().into();
        (0..count).map(|_| file()).collect()
    }

    #[test]
    fn descriptors_come_with_their_labels_or_not_at_all() {
        let check = |given: &[Given], count, expected: Option<[bool; 5]>| {
            let found = Sorted::new(given, files(count)).ok().map(|sorted| {
                [
                    sorted.input.is_some(),
                    sorted.output.is_some(),
                    sorted.errors.is_some(),
                    sorted.log.is_some(),
                    sorted.messages.is_some(),
                ]
            });
            assert_eq!(found, expected, "{given:?} {count}");
        };
        check(&[], 0, Some([false; 5]));
        check(
            &[Given::Output, Given::Input],
            2,
            Some([true, true, false, false, false]),
        );
        check(
            &[Given::Alive, Given::Log, Given::Messages, Given::Errors],
            4,
            Some([false, false, true, true, true]),
        );
        check(&[Given::Input], 0, None);
        check(&[Given::Input], 2, None);
    }

    #[test]
    fn what_is_not_there_is_not_labelled() {
        let file = File::open("/dev/null").unwrap();
        let mut labelled = Labelled::default();
        labelled.add(Given::Input, None::<&File>);
        labelled.add(Given::Output, Some(&file));
        assert_eq!(
            (labelled.given, labelled.descriptors.len()),
            (vec![Given::Output], 1)
        );
    }
}
