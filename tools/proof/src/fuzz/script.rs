//! What somebody does to a device, as bytes that can be changed at random: steps of one size, so that a piece which is cut or
//! doubled is whole steps.

use super::Target;

/// Bytes of a step.
pub(super) const STEP_BYTES: usize = 16;

/// One step. What its numbers mean is its kind's affair.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Step {
    /// What is done.
    pub(super) kind: u8,
    /// How wide an access is, or another small number.
    pub(super) size: u8,
    /// A place or a number.
    pub(super) small: u16,
    /// A place.
    pub(super) place: u32,
    /// What is written.
    pub(super) value: u64,
}

impl Step {
    fn to_bytes(self) -> [u8; STEP_BYTES] {
        let mut bytes = [0; STEP_BYTES];
        bytes[0] = self.kind;
        bytes[1] = self.size;
        bytes[2..4].copy_from_slice(&self.small.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.place.to_le_bytes());
        bytes[8..].copy_from_slice(&self.value.to_le_bytes());
        bytes
    }

    fn of_bytes(bytes: &[u8; STEP_BYTES]) -> Step {
        let value = |at: usize, len: usize| {
            let low = bytes[at..at + len].iter().rev();
            low.fold(0_u64, |value, byte| value << 8 | u64::from(*byte))
        };
        Step {
            kind: bytes[0],
            size: bytes[1],
            small: value(2, 2) as u16,
            place: value(4, 4) as u32,
            value: value(8, 8),
        }
    }

    /// One of the widths that a processor has.
    pub(super) fn width(self) -> u8 {
        [1, 2, 4, 8][usize::from(self.size) % 4]
    }
}

/// The steps of an input; what is left at its end is none.
pub(super) fn steps(input: &[u8]) -> impl Iterator<Item = Step> {
    input.as_chunks().0.iter().map(Step::of_bytes)
}

/// The same the other way.
pub(super) fn written(steps: &[Step]) -> Vec<u8> {
    steps.iter().flat_map(|step| step.to_bytes()).collect()
}

/// A target whose inputs are steps.
pub(super) fn target(name: &'static str, seeds: Vec<Vec<Step>>, read: fn(&[u8]) -> bool) -> Target {
    let seeds = seeds.iter().map(|steps| written(steps)).collect();
    Target {
        grain: STEP_BYTES,
        ..Target::plain(name, seeds, read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_as_they_are_written() {
        let one = Step {
            kind: 1,
            size: 2,
            small: 0x403,
            place: 0x0807_0605,
            value: 0x100f_0e0d_0c0b_0a09,
        };
        let mut bytes = written(&[one, Step::default()]);
        bytes.push(7);
        let read: Vec<Step> = steps(&bytes).collect();
        assert_eq!(read.len(), 2);
        assert_eq!(written(&read), bytes[..2 * STEP_BYTES]);
        assert_eq!((read[0].place, read[0].width()), (one.place, 4));
    }
}
