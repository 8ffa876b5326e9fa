//! Tables, lists and enum variants, as serde walks them.

use serde::de::value::StrDeserializer;
use serde::de::{DeserializeSeed, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde::{Deserializer, de::IntoDeserializer};

use super::super::{Key, Span, Table, Value, ValueErrorKind};
use super::{Error, Node};

/// A table's entries.
pub(super) struct Entries<'a> {
    table: &'a Table,
    next: usize,
}

impl<'a> Entries<'a> {
    pub(super) fn new(table: &'a Table) -> Self {
        Self { table, next: 0 }
    }

    /// A visitor that stops early would silently drop what is left.
    pub(super) fn finish(&self) -> Result<(), Error> {
        match self.table.entries.get(self.next) {
            None => Ok(()),
            Some((key, _)) => {
                let kind = ValueErrorKind::UnknownField { field: key.name.clone(), expected: Vec::new() };
                Err(Error::new(kind).at(key.span).in_key(&key.name))
            }
        }
    }
}

impl<'de> MapAccess<'de> for &mut Entries<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((key, _)) = self.table.entries.get(self.next) else { return Ok(None) };
        self.next += 1;
        seed.deserialize(KeyNode(key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let Some((key, value)) = self.next.checked_sub(1).and_then(|last| self.table.entries.get(last)) else {
            return Err(Error::other("a value was asked for before its key"));
        };
        let node = Node::from(value);
        node.blame(seed.deserialize(node)).map_err(|error| error.in_key(&key.name))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.table.entries.len() - self.next)
    }
}

/// A key: text, or a number or flag where a map's key type asks for one.
struct KeyNode<'a>(&'a Key);

macro_rules! parsed_key {
    ($($method:ident $visit:ident $what:literal,)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.0.name.parse() {
                Ok(value) => visitor.$visit(value),
                Err(_) => Err(Error::expected($what, format!("the key `{}`", self.0.name))),
            }
            .map_err(|error| error.at(self.0.span))
        }
    )*};
}

impl<'de> Deserializer<'de> for KeyNode<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str(&self.0.name)
    }

    parsed_key! {
        deserialize_i8 visit_i8 "a whole number from -128 to 127",
        deserialize_i16 visit_i16 "a whole number from -32768 to 32767",
        deserialize_i32 visit_i32 "a whole number from -2147483648 to 2147483647",
        deserialize_i64 visit_i64 "a whole number",
        deserialize_u8 visit_u8 "a whole number from 0 to 255",
        deserialize_u16 visit_u16 "a whole number from 0 to 65535",
        deserialize_u32 visit_u32 "a whole number from 0 to 4294967295",
        deserialize_u64 visit_u64 "a whole number of 0 or more",
        deserialize_bool visit_bool "`true` or `false`",
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_enum(Variant::unit(&self.0.name, self.0.span)).map_err(|error| error.at(self.0.span))
    }

    serde::forward_to_deserialize_any! {
        i128 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq tuple tuple_struct map struct
        identifier ignored_any
    }
}

/// A list's items.
pub(super) struct Items<'a> {
    items: &'a [Value],
    next: usize,
}

impl<'a> Items<'a> {
    pub(super) fn new(items: &'a [Value]) -> Self {
        Self { items, next: 0 }
    }

    /// A tuple reads as many items as it has: more are an error, not ignored.
    pub(super) fn finish(&self) -> Result<(), Error> {
        if self.next == self.items.len() {
            return Ok(());
        }
        Err(Error::expected(format!("a list of {}", self.next), format!("a list of {}", self.items.len())))
    }
}

impl<'de> SeqAccess<'de> for &mut Items<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(value) = self.items.get(self.next) else { return Ok(None) };
        let index = self.next;
        self.next += 1;
        let node = Node::from(value);
        node.blame(seed.deserialize(node)).map(Some).map_err(|error| error.in_index(index))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len() - self.next)
    }
}

/// An externally tagged enum: text for a unit variant, a table with one key for the others.
pub(super) struct Variant<'a> {
    name: &'a str,
    span: Span,
    content: Option<&'a Value>,
}

impl<'a> Variant<'a> {
    pub(super) fn unit(name: &'a str, span: Span) -> Self {
        Self { name, span, content: None }
    }

    pub(super) fn with(key: &'a Key, value: &'a Value) -> Self {
        Self { name: &key.name, span: key.span, content: Some(value) }
    }

    /// What belongs to the variant, read by `read`.
    fn content<T>(self, read: impl FnOnce(Node<'a>) -> Result<T, Error>) -> Result<T, Error> {
        let Some(value) = self.content else {
            let message = format!("`{}` takes values: write {{ {} = ... }}", self.name, self.name);
            return Err(Error::other(message).at(self.span));
        };
        let node = Node::from(value);
        node.blame(read(node)).map_err(|error| error.in_key(self.name))
    }
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        let name: StrDeserializer<'_, Error> = self.name.into_deserializer();
        let variant = seed.deserialize(name).map_err(|error| error.at(self.span))?;
        Ok((variant, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        match self.content {
            None => Ok(()),
            Some(value) if value.as_table().is_some_and(|table| table.entries.is_empty()) => Ok(()),
            Some(value) => {
                let message = format!("`{}` takes no values: write \"{}\"", self.name, self.name);
                Err(Error::other(message).at(value.span).in_key(self.name))
            }
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        self.content(|node| seed.deserialize(node))
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Error> {
        self.content(|node| node.deserialize_tuple(length, visitor))
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        self.content(|node| node.deserialize_struct("", fields, visitor))
    }
}
