//! The types a setting can have: how each is read from a given value, and how it is described.

use super::value::Value;
use crate::choice::{Choice, Word};

/// Which numbers a setting takes. Never NaN or infinity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    low: f64,
    high: f64,
    /// `low` itself is left out.
    above: bool,
    /// What the entries of a pair are called.
    parts: [&'static str; 2],
}

/// Any finite number.
pub const ANY: Range = Range { low: f64::NEG_INFINITY, high: f64::INFINITY, above: false, parts: ["first", "second"] };
/// Shares and probabilities: 0 to 1.
pub const SHARE: Range = Range { low: 0.0, high: 1.0, ..ANY };
/// Factors of a term: 0 switches it off.
pub const FACTOR: Range = Range { low: 0.0, ..ANY };
/// Numbers above 0.
pub const POSITIVE: Range = Range { low: 0.0, above: true, ..ANY };

/// Numbers from `low` on.
pub const fn at_least(low: i64) -> Range {
    Range { low: low as f64, ..ANY }
}

impl Range {
    /// The same range for the entries of a pair with these names.
    pub const fn of(self, parts: [&'static str; 2]) -> Range {
        Range { parts, ..self }
    }

    fn holds(&self, x: f64) -> bool {
        x.is_finite() && (self.low..=self.high).contains(&x) && !(self.above && x == self.low)
    }

    /// Such as " of at least 2"; empty for any number.
    fn suffix(&self) -> String {
        match (self.low.is_finite(), self.high.is_finite(), self.above) {
            (true, true, _) => format!(" in [{}, {}]", self.low, self.high),
            (true, false, true) => format!(" above {}", self.low),
            (true, false, false) => format!(" of at least {}", self.low),
            _ => String::new(),
        }
    }

    /// For the schema, such as ">= 2".
    pub fn text(&self) -> Option<String> {
        match (self.low.is_finite(), self.high.is_finite(), self.above) {
            (true, true, _) => Some(format!("[{}, {}]", self.low, self.high)),
            (true, false, true) => Some(format!("> {}", self.low)),
            (true, false, false) => Some(format!(">= {}", self.low)),
            _ => None,
        }
    }
}

/// A type that a setting can have.
pub trait Kind: Sized {
    /// Its name in the schema.
    const NAME: &'static str;

    /// The value, if it is of this type and in the range.
    fn read(value: &Value, range: &Range) -> Option<Self>;

    /// What is expected, to end the sentence "NAME: expected ...".
    fn expected(range: &Range) -> String;

    /// The words of a choice and what they stand for.
    fn choices() -> Vec<Word> {
        Vec::new()
    }
}

impl Kind for bool {
    const NAME: &'static str = "bool";

    fn read(value: &Value, _: &Range) -> Option<Self> {
        match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        }
    }

    fn expected(_: &Range) -> String {
        "True or False".into()
    }
}

impl Kind for i64 {
    const NAME: &'static str = "int";

    fn read(value: &Value, range: &Range) -> Option<Self> {
        match value {
            Value::Int(number) => range.holds(*number as f64).then_some(*number),
            _ => None,
        }
    }

    fn expected(range: &Range) -> String {
        format!("a whole number{}", range.suffix())
    }
}

impl Kind for f64 {
    const NAME: &'static str = "float";

    fn read(value: &Value, range: &Range) -> Option<Self> {
        let number = match value {
            Value::Int(number) => *number as f64,
            Value::Float(number) => *number,
            _ => return None,
        };
        range.holds(number).then_some(number)
    }

    fn expected(range: &Range) -> String {
        format!("a{} number{}", if range.suffix().is_empty() { " finite" } else { "" }, range.suffix())
    }
}

impl<T: Kind + Number> Kind for (T, T) {
    const NAME: &'static str = T::PAIR;

    fn read(value: &Value, range: &Range) -> Option<Self> {
        match value {
            Value::List(values) => match &values[..] {
                [first, second] => Some((T::read(first, range)?, T::read(second, range)?)),
                _ => None,
            },
            _ => None,
        }
    }

    fn expected(range: &Range) -> String {
        format!("[{}, {}], two {}s{}", range.parts[0], range.parts[1], T::NOUN, range.suffix())
    }
}

impl Kind for Vec<f64> {
    const NAME: &'static str = "list of float";

    fn read(value: &Value, range: &Range) -> Option<Self> {
        match value {
            Value::List(values) if !values.is_empty() => values.iter().map(|value| f64::read(value, range)).collect(),
            _ => None,
        }
    }

    fn expected(range: &Range) -> String {
        format!("a list of numbers{}, one per channel", range.suffix())
    }
}

impl Kind for Option<Vec<i64>> {
    const NAME: &'static str = "list of int or null";

    fn read(value: &Value, range: &Range) -> Option<Self> {
        match value {
            Value::None => Some(None),
            Value::List(values) => {
                values.iter().map(|value| i64::read(value, range)).collect::<Option<Vec<i64>>>().map(Some)
            }
            _ => None,
        }
    }

    fn expected(_: &Range) -> String {
        "a list of class ids or None".into()
    }
}

impl<T: Choice> Kind for T {
    const NAME: &'static str = <T as Choice>::NAME;

    fn read(value: &Value, _: &Range) -> Option<Self> {
        match value {
            Value::Text(word) => T::find(word),
            _ => None,
        }
    }

    fn expected(_: &Range) -> String {
        T::words()
    }

    fn choices() -> Vec<Word> {
        T::ALL.iter().map(|(_, (name, doc))| (*name, doc.trim())).collect()
    }
}

/// Numbers that come in pairs.
pub trait Number {
    const PAIR: &'static str;
    const NOUN: &'static str;
}

impl Number for i64 {
    const PAIR: &'static str = "pair of int";
    const NOUN: &'static str = "whole number";
}

impl Number for f64 {
    const PAIR: &'static str = "pair of float";
    const NOUN: &'static str = "number";
}
