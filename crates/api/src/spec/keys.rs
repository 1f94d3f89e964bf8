//! Which keys a type has, asked of serde itself, so that no second list of them can be wrong.

use serde::de::value::Error;
use serde::de::{Deserializer, Error as _, Visitor};
use serde::forward_to_deserialize_any;

/// Notes the keys that a struct asks for, and gives it nothing.
pub(crate) struct Catcher<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Catcher<'_> {
    type Error = Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Error> {
        *self.0 = fields;
        Err(Error::custom("the keys were all that was asked for"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(Error::custom("it is no struct"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// The keys of the struct that `deserialize` deserializes, in the order of its fields.
pub(crate) fn of(
    deserialize: impl FnOnce(Catcher<'_>) -> Result<(), Error>,
) -> &'static [&'static str] {
    let mut keys: &'static [&'static str] = &[];
    // It is always refused: it gets no value.
    let _ = deserialize(Catcher(&mut keys));
    keys
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    #[allow(dead_code, reason = "asked for its keys alone")]
    struct Sample {
        one_word: u8,
        #[serde(rename = "other")]
        two: Option<String>,
    }

    #[test]
    fn keys_are_those_that_a_file_has() {
        assert_eq!(
            of(|catcher| Sample::deserialize(catcher).map(drop)),
            ["one-word", "other"]
        );
        assert!(of(|catcher| u8::deserialize(catcher).map(drop)).is_empty());
    }
}
