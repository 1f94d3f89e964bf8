//! What is described by keys is an object: serde takes a list for it as well, whose items are the fields in the order in which they
//! are declared. An empty list would be a VM of defaults.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// Something that is read from an object alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<T>, D::Error> {
        one(deserializer).map(Object)
    }
}

/// Reads one, for `#[serde(deserialize_with)]`.
///
/// # Errors
/// As the deserializer's, and for what is not an object.
pub fn one<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Keys<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Keys<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }
    }

    deserializer.deserialize_map(Keys(PhantomData))
}

/// Reads a list of them, for `#[serde(deserialize_with)]`.
///
/// # Errors
/// As the deserializer's, and for an item that is not an object.
pub fn several<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let all = Vec::<Object<T>>::deserialize(deserializer)?;
    Ok(all.into_iter().map(|Object(one)| one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VmSpec;

    #[test]
    fn a_list_is_no_object() {
        let check = |text: &str, expected: Result<usize, &str>| {
            let read = serde_json::from_str::<Object<VmSpec>>(text);
            let read = read.map(|Object(spec)| spec.disks.len());
            let read = read.map_err(|error| error.to_string());
            let start = read.as_ref().map_err(|error| {
                let end = error.find(" at line").unwrap_or(error.len());
                &error[..end]
            });
            assert_eq!(start, expected.as_ref().map_err(|error| *error), "{text}");
        };
        check("{}", Ok(0));
        check(r#"{"disk":["a.raw"]}"#, Ok(1));
        check("[]", Err("invalid type: sequence, expected an object"));
        check("7", Err("invalid type: integer `7`, expected an object"));
        check(
            r#"[["a.raw"]]"#,
            Err("invalid type: sequence, expected an object"),
        );
    }
}
