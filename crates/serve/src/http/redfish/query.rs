//! Query options of a read (DSP0266, "Query parameters"): `$select`, `$expand`, `$filter`, `$top`, `$skip` and `only`.
//!
//! What begins with `$` and is not known is refused with 501, and anything else that is not known is passed over, as the
//! specification has it. An answer is made first, as if nothing had been said, and then cut, so that no resource has to
//! know of options.

use std::cell::Cell;

use axum::http::StatusCode;
use serde_json::{Map, Value};

use super::errors::{Wrong, said};
use super::filter::Filter;

/// How deep references can be followed.
pub(super) const LEVELS_MAX: usize = 3;

/// References that are followed for one answer: with many VMs, levels multiply.
const FOLLOWED_MAX: usize = 1000;

/// Which references are followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Follow {
    /// `*`
    All,
    /// `~`: those under `Links`.
    Links,
    /// `.`: all others.
    Own,
}

/// What was said behind `?`.
#[derive(Default, Debug)]
pub(super) struct Options {
    pub(super) select: Option<Vec<String>>,
    pub(super) expand: Option<(Follow, usize)>,
    pub(super) filter: Option<Filter>,
    pub(super) top: Option<usize>,
    pub(super) skip: Option<usize>,
    pub(super) only: bool,
}

impl Options {
    /// What a query says.
    pub(super) fn of(query: &str) -> Result<Options, Wrong> {
        let mut options = Options::default();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let bad = || Wrong::bad("QueryParameterValueFormatError", &["", ""]);
            let name = decoded(name, true).ok_or_else(bad)?;
            let value = decoded(value, true).ok_or_else(bad)?;
            options.take(&name, &value)?;
        }
        Ok(options)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), Wrong> {
        let bad = || Wrong::bad("QueryParameterValueFormatError", &[value, name]);
        match name {
            "$select" => {
                let paths = value.split(',').map(|path| path.trim().to_owned());
                let paths: Vec<String> = paths.filter(|path| !path.is_empty()).collect();
                self.select = Some(paths).filter(|paths| !paths.is_empty());
                self.select.as_ref().ok_or_else(bad).map(drop)
            }
            "$expand" => {
                let (follow, levels) = expansion(value).ok_or_else(bad)?;
                if !(1..=LEVELS_MAX).contains(&levels) {
                    let range = format!("1-{LEVELS_MAX}");
                    let args = [value, name, &range];
                    return Err(Wrong::bad("QueryParameterOutOfRange", &args));
                }
                self.expand = Some((follow, levels));
                Ok(())
            }
            "$filter" => {
                self.filter = Some(Filter::of(value).ok_or_else(bad)?);
                Ok(())
            }
            "$top" | "$skip" => {
                let number: usize = value.trim().parse().map_err(|_| bad())?;
                *(if name == "$top" {
                    &mut self.top
                } else {
                    &mut self.skip
                }) = Some(number);
                Ok(())
            }
            "only" if value.is_empty() => {
                self.only = true;
                Ok(())
            }
            "only" => Err(bad()),
            _ if name.starts_with('$') => Err(Wrong::new(
                StatusCode::NOT_IMPLEMENTED,
                "QueryNotSupported",
                &[],
            )),
            _ => Ok(()),
        }
    }

    /// Whether something was said that only collections understand.
    pub(super) fn is_for_collections(&self) -> bool {
        self.filter.is_some() || self.top.is_some() || self.skip.is_some() || self.only
    }

    /// Cuts an answer as was said; `read` reads what a reference leads to.
    pub(super) fn cut(
        &self,
        mut answer: Value,
        read: &dyn Fn(&str) -> Option<Value>,
    ) -> Result<Value, Wrong> {
        if self.is_for_collections() && !answer["Members"].is_array() {
            return Err(Wrong::bad("QueryNotSupportedOnResource", &[]));
        }
        if let Some(filter) = &self.filter {
            let is_meant = |member: &Value| {
                let place = member["@odata.id"].as_str();
                place
                    .and_then(read)
                    .is_some_and(|member| filter.holds(&member))
            };
            if let Some(members) = members(&mut answer) {
                members.retain(is_meant);
                let count = members.len();
                answer["Members@odata.count"] = count.into();
            }
        }
        if self.only
            && let Some([only]) = answer["Members"].as_array().map(Vec::as_slice)
        {
            let only = only["@odata.id"].as_str().and_then(read);
            answer = only.unwrap_or(answer);
        }
        if let Some(members) = members(&mut answer) {
            members.drain(..self.skip.unwrap_or(0).min(members.len()));
            members.truncate(self.top.unwrap_or(usize::MAX));
        }
        if let Some((follow, levels)) = self.expand {
            let followed = Cell::new(0);
            let counted = |uri: &str| {
                followed.set(followed.get() + 1);
                if followed.get() > FOLLOWED_MAX {
                    return None;
                }
                read(uri)
            };
            expand(&mut answer, (follow, levels), false, &counted);
            if followed.get() > FOLLOWED_MAX {
                return Err(too_much());
            }
        }
        if let Some(paths) = &self.select {
            answer = selected(&answer, paths);
        }
        Ok(answer)
    }
}

fn members(of: &mut Value) -> Option<&mut Vec<Value>> {
    of.get_mut("Members")?.as_array_mut()
}

fn too_much() -> Wrong {
    let text = format!("the answer would follow more than {FOLLOWED_MAX} references");
    Wrong {
        status: StatusCode::BAD_REQUEST,
        messages: vec![said(&text, Some("use $top and $skip, or fewer levels"))],
        allow: None,
    }
}

/// What `$expand` says: which references, and how deep.
fn expansion(text: &str) -> Option<(Follow, usize)> {
    let (which, rest) = text.split_at_checked(1)?;
    let follow = match which {
        "*" => Follow::All,
        "~" => Follow::Links,
        "." => Follow::Own,
        _ => return None,
    };
    let levels = match rest {
        "" => 1,
        _ => rest
            .strip_prefix("($levels=")?
            .strip_suffix(')')?
            .parse()
            .ok()?,
    };
    Some((follow, levels))
}

/// Puts what references lead to in their places.
fn expand(
    value: &mut Value,
    (follow, levels): (Follow, usize),
    in_links: bool,
    read: &dyn Fn(&str) -> Option<Value>,
) {
    let Value::Object(all) = value else {
        if let Value::Array(all) = value {
            for one in all {
                follow_one(one, (follow, levels), in_links, read);
            }
        }
        return;
    };
    for (key, one) in all.iter_mut() {
        follow_one(one, (follow, levels), in_links || key == "Links", read);
    }
}

fn follow_one(
    value: &mut Value,
    (follow, levels): (Follow, usize),
    in_links: bool,
    read: &dyn Fn(&str) -> Option<Value>,
) {
    let is_meant = match follow {
        Follow::All => true,
        Follow::Links => in_links,
        Follow::Own => !in_links,
    };
    let Some(place) = reference(value) else {
        return expand(value, (follow, levels), in_links, read);
    };
    // A part of a resource is no resource.
    if !is_meant || place.contains('#') {
        return;
    }
    if let Some(mut found) = read(&place) {
        if levels > 1 {
            expand(&mut found, (follow, levels - 1), false, read);
        }
        *value = found;
    }
}

/// Where a value leads that is a reference and nothing else.
fn reference(value: &Value) -> Option<String> {
    let all = value.as_object().filter(|all| all.len() == 1)?;
    all.get("@odata.id")?.as_str().map(str::to_owned)
}

/// What is at these paths, and what every answer says of itself.
fn selected(value: &Value, paths: &[String]) -> Value {
    let mut kept = Map::new();
    let Value::Object(all) = value else {
        return value.clone();
    };
    for (key, one) in all {
        let below: Vec<String> = paths
            .iter()
            .filter_map(|path| path.strip_prefix(key.as_str())?.strip_prefix('/'))
            .map(str::to_owned)
            .collect();
        let is_meant = key.starts_with("@odata.")
            || paths.iter().any(|path| key == path)
            || key
                .split_once('@')
                .is_some_and(|(of, _)| paths.iter().any(|path| of == path));
        if is_meant {
            kept.insert(key.clone(), one.clone());
        } else if !below.is_empty() && !one.is_null() {
            kept.insert(key.clone(), selected(one, &below));
        }
    }
    Value::Object(kept)
}

/// Text without percent-encoding; in a query, a plus is a space. None if it is no text.
pub(super) fn decoded(text: &str, is_query: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let pair = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&pair).ok()?, 16).ok()?
            }
            b'+' if is_query => b' ',
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(place: &str) -> Option<Value> {
        let (name, state) = match place {
            "/a" => ("a", "On"),
            "/b" => ("b", "Off"),
            "/c" => return Some(json!({ "@odata.id": "/c", "Members": [{ "@odata.id": "/a" }] })),
            _ => return None,
        };
        Some(
            json!({ "@odata.id": place, "@odata.type": "#T", "Name": name, "PowerState": state,
            "Status": { "Health": "OK", "State": "Enabled" }, "Up": { "@odata.id": "/c" },
            "Links": { "Other": { "@odata.id": "/b" } } }),
        )
    }

    fn check(query: &str, expected: Result<Value, u16>) {
        let all = json!({ "@odata.id": "/", "Name": "All", "Members@odata.count": 2,
            "Members": [{ "@odata.id": "/a" }, { "@odata.id": "/b" }] });
        let found = Options::of(query).and_then(|options| options.cut(all, &read));
        let found = found.map_err(|wrong| wrong.status.as_u16());
        assert_eq!(found, expected, "{query}");
    }

    #[test]
    fn what_is_not_known_is_refused_or_passed_over() {
        let all = json!({ "@odata.id": "/", "Name": "All", "Members@odata.count": 2,
            "Members": [{ "@odata.id": "/a" }, { "@odata.id": "/b" }] });
        check("", Ok(all.clone()));
        check("rpvunknown", Ok(all.clone()));
        check("only", Ok(all));
        check("$rpvunknown", Err(501));
        check("only=foo", Err(400));
        check("$top=-1", Err(400));
        check("$expand=x", Err(400));
        check("$expand=.($levels=9)", Err(400));
        check("$filter=Name", Err(400));
        check("$select=", Err(400));
        check("$top=%zz", Err(400));
    }

    #[test]
    fn collections_are_filtered_and_cut() {
        let of = |members: Value, count: usize| {
            Ok(
                json!({ "@odata.id": "/", "Name": "All", "Members": members, "Members@odata.count": count }),
            )
        };
        check(
            "$filter=PowerState%20eq%20'Off'",
            of(json!([{ "@odata.id": "/b" }]), 1),
        );
        check("$filter=Name+eq+'x'", of(json!([]), 0));
        check("$top=1", of(json!([{ "@odata.id": "/a" }]), 2));
        check("$skip=1", of(json!([{ "@odata.id": "/b" }]), 2));
        check("$skip=9", of(json!([]), 2));
        check(
            "$select=Name",
            Ok(json!({ "@odata.id": "/", "Name": "All" })),
        );
        check(
            "$filter=Name eq 'a'&$expand=.&$select=Members/Name,Members",
            of(json!([read("/a").unwrap()]), 1).map(|mut value: Value| {
                value.as_object_mut().unwrap().remove("Name");
                value
            }),
        );
    }

    #[test]
    fn references_are_followed_as_far_as_was_said() {
        let cut = |query: &str| {
            Options::of(query)
                .unwrap()
                .cut(read("/a").unwrap(), &read)
                .unwrap()
        };
        assert_eq!(cut("$expand=~")["Links"]["Other"]["Name"], "b");
        assert_eq!(cut("$expand=~")["Up"], json!({ "@odata.id": "/c" }));
        assert_eq!(
            cut("$expand=.")["Links"]["Other"],
            json!({ "@odata.id": "/b" })
        );
        assert_eq!(
            cut("$expand=.")["Up"]["Members"][0],
            json!({ "@odata.id": "/a" })
        );
        assert_eq!(cut("$expand=*($levels=2)")["Up"]["Members"][0]["Name"], "a");
        assert_eq!(
            cut("$select=Status/Health,PowerState"),
            json!({ "@odata.id": "/a", "@odata.type": "#T", "PowerState": "On", "Status": { "Health": "OK" } })
        );
        let many = vec![json!({ "@odata.id": "/a" }); FOLLOWED_MAX / 2 + 1];
        let cut_many = |query: &str| {
            let all = json!({ "@odata.id": "/", "Members": many });
            let found = Options::of(query).unwrap().cut(all, &read);
            found.map_err(|wrong| wrong.status.as_u16()).map(drop)
        };
        assert_eq!(cut_many("$expand=."), Ok(()));
        assert_eq!(cut_many("$expand=.($levels=2)"), Err(400));
        assert_eq!(cut_many("$expand=.($levels=2)&$top=9"), Ok(()));
        let refused = Options::of("$top=1")
            .unwrap()
            .cut(read("/a").unwrap(), &read);
        assert_eq!(refused.unwrap_err().status, StatusCode::BAD_REQUEST);
    }
}
