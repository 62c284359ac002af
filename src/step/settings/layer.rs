//! The map that prototypes live on: one of the encoder's, by its place, or the one that the main head classifies.

use super::kinds::{Kind, Range};
use super::value::Value;
use serde::{Serialize, Serializer};

const HEAD: &str = "head";

/// Where prototypes live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrototypeLayer {
    /// A map of the encoder, from shallow to deep; negative: from the deepest on.
    Encoder(i64),
    /// The input of the main head's classifier.
    Head,
}

impl Serialize for PrototypeLayer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Encoder(place) => serializer.serialize_i64(*place),
            Self::Head => serializer.serialize_str(HEAD),
        }
    }
}

impl Kind for PrototypeLayer {
    const NAME: &'static str = "int or \"head\"";

    fn read(value: &Value, range: &Range) -> Option<Self> {
        match value {
            Value::Text(word) => (word == HEAD).then_some(Self::Head),
            place => i64::read(place, range).map(Self::Encoder),
        }
    }

    fn expected(range: &Range) -> String {
        format!("{} or {HEAD:?}", i64::expected(range))
    }
}
