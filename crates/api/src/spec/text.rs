//! Values that people write as one word, and what is said about a word that is none of them.
//!
//! Each type is read by [`FromStr`] and printed by [`Display`]: on the command line, in a file, in JSON and in
//! messages alike, and what is printed is read as the same value again. [`written_as_text!`] makes serde and the
//! schema follow from the two.

use std::ffi::OsStr;
use std::fmt::{self, Display};
use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::str::FromStr;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use schemars::{Schema, json_schema};
use serde::de::{self, Deserializer, Visitor};
use thiserror::Error;

/// What is wrong with a value as it was written, and what to do.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{what}")]
pub struct BadText {
    /// What is wrong, with the value and the reason.
    pub what: String,
    /// What to write instead.
    pub help: String,
}

/// What stands between the two in the one text that a deserializer's error has.
const HELP: &str = " (help: ";

impl BadText {
    /// Both in one text, for errors that are only a text.
    pub(super) fn in_one(&self) -> String {
        format!("{}{HELP}{})", self.what, self.help)
    }

    /// The reverse of [`BadText::in_one`]; `None` for a text that is something else.
    pub(super) fn apart(text: &str) -> Option<BadText> {
        let (what, help) = text.strip_suffix(')')?.split_once(HELP)?;
        Some(BadText {
            what: what.to_owned(),
            help: help.to_owned(),
        })
    }
}

/// An error, in short.
pub(super) fn bad<T>(what: impl Into<String>, help: impl Into<String>) -> Result<T, BadText> {
    Err(BadText {
        what: what.into(),
        help: help.into(),
    })
}

/// What a value that is one word is to somebody who writes a file.
pub trait Text: FromStr<Err = BadText> + Display {
    /// What it is called in the schema.
    const NAME: &'static str;
    /// Words that are values of it; all there are if [`Text::IS_CLOSED`].
    const EXAMPLES: &'static [&'static str];
    /// Whether there are no others.
    const IS_CLOSED: bool = false;
    /// Which numbers without a unit may stand without quotes.
    const NUMBERS: Option<RangeInclusive<u64>> = None;
    /// Of those, only multiples of this.
    const NUMBER_STEP: u64 = 1;
}

/// Reads an option of such a type that has no other values, and tells shells which there are.
pub(super) fn closed<T: Text + Clone + Send + Sync + 'static>() -> impl TypedValueParser<Value = T>
{
    #[derive(Clone)]
    struct Closed<T>(PhantomData<T>);

    impl<T: Text + Clone + Send + Sync + 'static> TypedValueParser for Closed<T> {
        type Value = T;

        fn parse_ref(
            &self,
            command: &clap::Command,
            argument: Option<&clap::Arg>,
            value: &OsStr,
        ) -> Result<T, clap::Error> {
            let read = StringValueParser::new().try_map(|text| text.parse::<T>());
            read.parse_ref(command, argument, value)
        }

        fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
            Some(Box::new(T::EXAMPLES.iter().map(PossibleValue::new)))
        }
    }

    Closed(PhantomData)
}

/// The schema of such a value.
pub(super) fn schema_of<T: Text>() -> Schema {
    let mut schema = match (T::IS_CLOSED, T::NUMBERS) {
        (true, _) => json_schema!({ "type": "string", "enum": T::EXAMPLES }),
        (false, Some(numbers)) => {
            let mut schema = json_schema!({
                "type": ["string", "integer"],
                "minimum": numbers.start(),
                "maximum": numbers.end(),
                "examples": T::EXAMPLES,
            });
            if T::NUMBER_STEP > 1 {
                schema.insert("multipleOf".to_owned(), T::NUMBER_STEP.into());
            }
            schema
        }
        (false, None) => json_schema!({ "type": "string", "examples": T::EXAMPLES }),
    };
    if !T::IS_CLOSED && "".parse::<T>().is_err() {
        schema.insert("minLength".to_owned(), 1.into());
    }
    schema
}

/// Reads such a value from a file or a message.
pub(super) fn read<'de, T: Text, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Word<T>(PhantomData<T>);

    impl<T: Text> Visitor<'_> for Word<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let examples = T::EXAMPLES.iter().map(|word| format!("\"{word}\""));
            let examples = examples.collect::<Vec<_>>();
            let number = if T::NUMBERS.is_some() {
                " or a number"
            } else {
                ""
            };
            write!(f, "a text such as {}{number}", examples.join(" or "))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            text.parse()
                .map_err(|error: BadText| E::custom(error.in_one()))
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
            if T::NUMBERS.is_none() {
                return Err(E::invalid_type(de::Unexpected::Signed(number), &self));
            }
            self.visit_str(&number.to_string())
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
            if T::NUMBERS.is_none() {
                return Err(E::invalid_type(de::Unexpected::Unsigned(number), &self));
            }
            self.visit_str(&number.to_string())
        }
    }

    deserializer.deserialize_any(Word(PhantomData))
}

/// serde and the schema of a type that is [`Text`].
macro_rules! written_as_text {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::spec::text::read(deserializer)
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                <$type as $crate::spec::text::Text>::NAME.into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                $crate::spec::text::schema_of::<$type>()
            }
        }
    };
}

pub(super) use written_as_text;

/// What every type's table is checked with: each text is read as the value that prints as the second text, or refused
/// with these words; and what is printed is read as the same value, from JSON too.
#[cfg(test)]
pub(super) fn check<T>(table: &[(&str, Result<&str, &str>)])
where
    T: Text + PartialEq + fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    for (text, expected) in table {
        let read = text.parse::<T>();
        let shown = read
            .as_ref()
            .map(ToString::to_string)
            .map_err(|error| error.what.as_str());
        assert_eq!(
            shown.as_deref().map_err(|what| *what),
            *expected,
            "{} from {text:?}",
            T::NAME
        );
        match read {
            Ok(value) => come_back(&value),
            Err(error) => {
                assert!(!error.help.is_empty(), "{text:?} has no way on");
                let json = serde_json::to_string(text).unwrap();
                let refused = serde_json::from_str::<T>(&json).unwrap_err().to_string();
                assert!(refused.starts_with(&error.in_one()), "{refused}");
            }
        }
    }
    for example in T::EXAMPLES {
        assert!(example.parse::<T>().is_ok(), "{} {example}", T::NAME);
    }
    // What the schema says of numbers is what is read of them.
    let Some(numbers) = T::NUMBERS else { return };
    let (least, most) = numbers.into_inner();
    let check = |number: Option<u64>, expected: bool| {
        let read = number.map(|number| serde_json::from_str::<T>(&number.to_string()).is_ok());
        assert!(
            read.is_none_or(|is_read| is_read == expected),
            "{} {number:?}",
            T::NAME
        );
    };
    check(Some(least), true);
    check(Some(most), true);
    check(least.checked_sub(T::NUMBER_STEP), false);
    check(most.checked_add(T::NUMBER_STEP), false);
    if T::NUMBER_STEP > 1 {
        check(Some(least + 1), false);
    }
}

/// Whether a value is read as itself from what it prints, and from its JSON.
#[cfg(test)]
pub(super) fn come_back<T>(value: &T)
where
    T: Text + PartialEq + fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    let shown = value.to_string();
    assert_eq!(shown.parse::<T>().as_ref(), Ok(value), "{shown:?}");
    let json = serde_json::to_string(value).unwrap();
    assert_eq!(&serde_json::from_str::<T>(&json).unwrap(), value, "{json}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_and_help_come_apart_again() {
        let check = |text: &str, expected: Option<(&str, &str)>| {
            let apart = BadText::apart(text);
            let got = apart
                .as_ref()
                .map(|bad| (bad.what.as_str(), bad.help.as_str()));
            assert_eq!(got, expected, "{text}");
            if let Some(bad) = &apart {
                assert_eq!(bad.in_one(), text);
            }
        };
        check(
            "\"x\" is bad (help: write y (or z))",
            Some(("\"x\" is bad", "write y (or z)")),
        );
        check("invalid type: map, expected a text", None);
        check("", None);
    }
}
