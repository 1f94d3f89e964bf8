//! A set of interrupt vectors, as IRR, ISR and TMR are.

use serde::{Deserialize, Serialize};
use x86::Vector;

/// 256 bits, one per vector.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct VectorSet([u32; 8]);

impl VectorSet {
    /// The set that eight registers show.
    pub fn of_words(words: [u32; 8]) -> VectorSet {
        VectorSet(words)
    }

    /// Puts a vector in; whether it was not in yet.
    pub fn insert(&mut self, vector: Vector) -> bool {
        let (word, bit) = place(vector);
        let was_in = self.0[word] & bit != 0;
        self.0[word] |= bit;
        !was_in
    }

    /// Takes a vector out.
    pub fn remove(&mut self, vector: Vector) {
        let (word, bit) = place(vector);
        self.0[word] &= !bit;
    }

    /// Puts a vector in or takes it out.
    pub fn set(&mut self, vector: Vector, is_in: bool) {
        if is_in {
            self.insert(vector);
        } else {
            self.remove(vector);
        }
    }

    /// Whether a vector is in.
    pub fn contains(&self, vector: Vector) -> bool {
        let (word, bit) = place(vector);
        self.0[word] & bit != 0
    }

    /// The highest vector, which is the one with the highest priority.
    pub fn highest(&self) -> Option<Vector> {
        let word = self.0.iter().rposition(|word| *word != 0)?;
        Some((word * 32 + self.0[word].ilog2() as usize) as Vector)
    }

    /// One of the eight registers that show the set. Zero for a ninth.
    pub fn word(&self, index: usize) -> u32 {
        self.0.get(index).copied().unwrap_or(0)
    }
}

fn place(vector: Vector) -> (usize, u32) {
    (usize::from(vector) / 32, 1 << (vector % 32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_vector_wins() {
        let check = |vectors: &[Vector], expected| {
            let mut set = VectorSet::default();
            vectors
                .iter()
                .for_each(|&vector| assert!(set.insert(vector)));
            assert_eq!(set.highest(), expected, "{vectors:?}");
        };
        check(&[], None);
        check(&[0], Some(0));
        check(&[31, 32], Some(32));
        check(&[255, 16], Some(255));
        check(&[100, 200, 150], Some(200));
    }

    #[test]
    fn registers_show_32_vectors_each() {
        let mut set = VectorSet::default();
        assert!(set.insert(33));
        assert!(!set.insert(33));
        assert_eq!([set.word(0), set.word(1), set.word(8)], [0, 2, 0]);
        set.set(33, false);
        assert!(!set.contains(33));
    }
}
