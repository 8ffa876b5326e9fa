//! From a spanned value to a typed one, through serde.
//!
//! An error carries the innermost place that is wrong and the dotted path to it. Where serde buffers what it reads
//! (internally tagged and untagged enums, flattened structs), places inside the buffer are lost: there the error names
//! the place and path of the value that was buffered.

mod access;
mod error;

use serde::Deserializer;
use serde::de::{DeserializeOwned, Visitor};

use super::{Span, Table, Value, ValueError, ValueKind};
use access::{Entries, Items, Variant};
use error::Error;

pub(super) fn decode<T: DeserializeOwned>(value: &Value) -> Result<T, ValueError> {
    let node = Node::from(value);
    node.blame(T::deserialize(node)).map_err(Error::finish)
}

pub(super) fn decode_table<T: DeserializeOwned>(table: &Table, span: Span) -> Result<T, ValueError> {
    let node = Node { kind: Kind::Table(table), span };
    node.blame(T::deserialize(node)).map_err(Error::finish)
}

/// One value that is being read.
#[derive(Clone, Copy)]
struct Node<'a> {
    kind: Kind<'a>,
    span: Span,
}

/// A value's kind, or a table that has no value around it: the root.
#[derive(Clone, Copy)]
enum Kind<'a> {
    Of(&'a ValueKind),
    Table(&'a Table),
}

impl<'a> From<&'a Value> for Node<'a> {
    fn from(value: &'a Value) -> Self {
        Self { kind: Kind::Of(&value.kind), span: value.span }
    }
}

impl<'a> Node<'a> {
    fn table(self) -> Option<&'a Table> {
        match self.kind {
            Kind::Table(table) | Kind::Of(ValueKind::Table(table)) => Some(table),
            Kind::Of(_) => None,
        }
    }

    /// Gives an error of this value its place, unless it has an inner one already. An unknown field is the key's fault.
    fn blame<T>(self, result: Result<T, Error>) -> Result<T, Error> {
        result.map_err(|error| {
            let key = error.unknown_field().and_then(|field| self.table()?.entry(field)).map(|(key, _)| key);
            match key {
                Some(key) => error.at(key.span).in_key(&key.name),
                None => error.at(self.span),
            }
        })
    }

    fn describe(self) -> String {
        match self.kind {
            Kind::Of(kind) => kind.describe(),
            Kind::Table(_) => "a table".to_owned(),
        }
    }

    fn any<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.kind {
            Kind::Table(table) | Kind::Of(ValueKind::Table(table)) => {
                let mut entries = Entries::new(table);
                let value = visitor.visit_map(&mut entries)?;
                entries.finish()?;
                Ok(value)
            }
            Kind::Of(ValueKind::Array(items)) => {
                let mut items = Items::new(items);
                let value = visitor.visit_seq(&mut items)?;
                items.finish()?;
                Ok(value)
            }
            Kind::Of(ValueKind::String(text) | ValueKind::Datetime(text)) => visitor.visit_str(text),
            Kind::Of(ValueKind::Integer(number)) => visitor.visit_i64(*number),
            Kind::Of(ValueKind::Float(number)) => visitor.visit_f64(*number),
            Kind::Of(ValueKind::Boolean(flag)) => visitor.visit_bool(*flag),
        }
    }

    /// A whole number may stand where a number with a fraction is expected, where it can be written as one exactly.
    fn float<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.kind {
            #[expect(clippy::cast_precision_loss, reason = "refused where it would lose a digit")]
            Kind::Of(ValueKind::Integer(number)) if number.unsigned_abs() <= 1 << f64::MANTISSA_DIGITS => {
                visitor.visit_f64(*number as f64)
            }
            Kind::Of(ValueKind::Integer(_)) => {
                Err(Error::other("this whole number has more digits than a number with a fraction can hold"))
            }
            _ => self.any(visitor),
        }
    }
}

macro_rules! forward {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.blame(self.any(visitor))
        }
    )*};
}

impl<'de> Deserializer<'de> for Node<'_> {
    type Error = Error;

    forward! {
        deserialize_any deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_i128 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf deserialize_unit
        deserialize_seq deserialize_map deserialize_identifier
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.blame(self.float(visitor))
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.blame(self.float(visitor))
    }

    /// TOML has no null: what is there is some value.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        self.blame(self.any(visitor))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.blame(self.any(visitor))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.blame(self.any(visitor))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if self.table().is_none() {
            return self.blame(Err(Error::expected("a table", self.describe())));
        }
        self.blame(self.any(visitor))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let result = match (self.kind, self.table().map(|table| table.entries.as_slice())) {
            (Kind::Of(ValueKind::String(name)), _) => visitor.visit_enum(Variant::unit(name, self.span)),
            (_, Some([(key, value)])) => visitor.visit_enum(Variant::with(key, value)),
            (_, Some(_)) => {
                Err(Error::expected(format!("a table with one key out of {}", error::list(variants)), self.describe()))
            }
            _ => Err(Error::expected(format!("one of {}", error::list(variants)), self.describe())),
        };
        self.blame(result)
    }

    /// Nothing looks at an ignored value, so there is nothing to walk.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }
}

#[cfg(test)]
mod tests;
