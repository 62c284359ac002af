//! Enums whose variants users name by a word: one list of the words for settings, arguments, messages and the schema.

use crate::error::{Error, Result};

/// A word and what it stands for.
pub type Word = (&'static str, &'static str);

/// An enum made by [`choices!`](crate::choices).
pub trait Choice: Copy + Sized + 'static {
    /// Name of the enum, for the schema and Python's type of it.
    const NAME: &'static str;
    /// Every variant with its word and documentation.
    const ALL: &'static [(Self, Word)];

    /// The variant of a word.
    fn find(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, (name, _))| *name == word).map(|(variant, _)| *variant)
    }

    /// The variant of a word; the error names the argument and the words there are.
    fn parse(word: &str, argument: &str) -> Result<Self> {
        Self::find(word).ok_or_else(|| Error::value(format!("{argument}: expected {}, got {word:?}", Self::words())))
    }

    /// `"a", "b" or "c"`.
    fn words() -> String {
        let quoted: Vec<String> = Self::ALL.iter().map(|(_, (name, _))| format!("{name:?}")).collect();
        match quoted.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
            _ => quoted.concat(),
        }
    }
}

/// Defines an enum with a word for each variant.
#[macro_export]
macro_rules! choices {
    ($(#[$about:meta])* pub enum $name:ident {
        $($(#[doc = $doc:literal])+ $variant:ident = $word:literal,)+
    }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, ::serde::Serialize)]
        pub enum $name {
            $($(#[doc = $doc])+ #[serde(rename = $word)] $variant,)+
        }

        impl $crate::choice::Choice for $name {
            const NAME: &'static str = stringify!($name);
            const ALL: &'static [(Self, $crate::choice::Word)] = &[$((Self::$variant, ($word, concat!($($doc),+))),)+];
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mix::ClassScope;

    #[test]
    fn words_are_found_and_named() {
        assert_eq!(ClassScope::find("batch"), Some(ClassScope::Batch));
        let error = ClassScope::parse("bach", "scope").unwrap_err().to_string();
        assert_eq!(error, r#"scope: expected "per_image" or "batch", got "bach""#);
    }
}
