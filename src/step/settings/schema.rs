//! The table of settings as data, and the macro that makes struct, defaults, reader and table from one list.

use super::kinds::{Kind, Range};
use super::value::Value;
use crate::choice::Word;
use crate::error::{Error, Result};
use serde::Serialize;

/// What there is to know of one setting.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    pub name: &'static str,
    pub section: &'static str,
    /// "int", "float", "bool", "pair of int", "pair of float", "list of float", "list of int or null", or the name of a
    /// choice.
    pub r#type: &'static str,
    /// Words of a choice and what they stand for.
    pub choices: Vec<Word>,
    pub default: serde_json::Value,
    /// Numbers allowed, such as ">= 2"; of each entry where there are several.
    pub range: Option<String>,
    pub unit: Option<&'static str>,
    pub doc: String,
}

/// Reads one value; the error names the setting, what is expected and what came.
pub(super) fn read<T: Kind>(name: &str, value: &Value, range: &Range) -> Result<T> {
    T::read(value, range).ok_or_else(|| refusal(name, &T::expected(range), value))
}

/// "NAME: expected ..., got ...".
pub(super) fn refusal(name: &str, expected: &str, value: impl std::fmt::Display) -> Error {
    Error::value(format!("{name}: expected {expected}, got {value}"))
}

/// Joins the lines of a doc comment.
pub(super) fn sentence(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

/// Defines the settings: `/// doc`, `name: type = default, range[, unit];` in named sections.
macro_rules! settings {
    ($(#[$about:meta])* pub struct $Settings:ident {
        $($section:literal {
            $($(#[doc = $doc:literal])+ $name:ident: $kind:ty = $default:expr, $range:expr $(, $unit:literal)?;)+
        })+
    }) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, ::serde::Serialize)]
        pub struct $Settings {
            $($($(#[doc = $doc])+ pub $name: $kind,)+)+
        }

        impl Default for $Settings {
            fn default() -> Self {
                Self { $($($name: $default,)+)+ }
            }
        }

        impl $Settings {
            fn set(&mut self, name: &str, value: &$crate::step::Value) -> $crate::error::Result<()> {
                match name {
                    $($(stringify!($name) => self.$name = $crate::step::settings::schema::read(name, value, &$range)?,)+)+
                    _ => return Err($crate::error::Error::value(format!(
                        "{name}: no such setting (there are {})",
                        [$($(stringify!($name)),+),+].join(", ")
                    ))),
                }
                Ok(())
            }

            /// Every setting with type, default, range, unit and documentation, in sections.
            pub fn schema() -> $crate::error::Result<Vec<$crate::step::settings::schema::Entry>> {
                use $crate::step::settings::{kinds::Kind, schema::{sentence, to_json, Entry}};
                let default = Self::default();
                Ok(vec![$($(Entry {
                    name: stringify!($name),
                    section: $section,
                    r#type: <$kind as Kind>::NAME,
                    choices: <$kind as Kind>::choices(),
                    default: to_json(&default.$name)?,
                    range: $range.text(),
                    unit: [$($unit)?].first().copied(),
                    doc: sentence(&[$($doc),+]),
                },)+)+])
            }
        }
    };
}

pub(super) use settings;

/// Any value as JSON.
pub(super) fn to_json(value: &impl Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(value).map_err(|e| Error::value(format!("settings as JSON: {e}")))
}
