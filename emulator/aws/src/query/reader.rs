//! Serde over the tree of parameters.

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, IntoDeserializer, Visitor};

use super::{Error, Key, Kind, Node, boolean};

/// A node and all below it.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    pub(super) node: &'a Node,
}

impl<'a> Reader<'a> {
    fn text(self) -> Result<&'a str, Error> {
        match (&self.node.value, self.node.children.first()) {
            (Some(value), None) => Ok(value),
            (_, Some((key, _))) => Err(Error::new(Kind::Unknown).within(key)),
            (None, None) => Err(Error::new(Kind::Missing)),
        }
    }

    fn no_text(self) -> Result<(), Error> {
        match &self.node.value {
            // `Filter=` is how some clients write an empty list.
            Some(text) if !text.is_empty() => Err(Error::invalid(text, "Expected a structure.")),
            _ => Ok(()),
        }
    }

    fn integer<T: std::str::FromStr>(self) -> Result<T, Error> {
        let text = self.text()?;
        text.parse().map_err(|_| match text.parse::<i128>() {
            Ok(_) => Error::invalid(text, "The number is out of range."),
            Err(_) => Error::invalid(text, "Expected an integer."),
        })
    }
}

macro_rules! integers {
    ($($method:ident => $visit:ident),*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> { visitor.$visit(self.integer()?) })*
    };
}

impl<'de> de::Deserializer<'de> for Reader<'_> {
    type Error = Error;

    integers! {
        deserialize_i8 => visit_i8, deserialize_i16 => visit_i16, deserialize_i32 => visit_i32, deserialize_i64 => visit_i64,
        deserialize_u8 => visit_u8, deserialize_u16 => visit_u16, deserialize_u32 => visit_u32, deserialize_u64 => visit_u64
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.node.children.first() {
            None => self.deserialize_str(visitor),
            Some((Key::Index(_), _)) => self.deserialize_seq(visitor),
            Some((Key::Name(_), _)) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let text = self.text()?;
        visitor.visit_bool(boolean(text).ok_or_else(|| Error::invalid(text, "Expected a boolean."))?)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let text = self.text()?;
        visitor.visit_f64(text.parse().map_err(|_| Error::invalid(text, "Expected a number."))?)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str(self.text()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str(self.text()?)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_bytes(self.text()?.as_bytes())
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.no_text()?;
        visitor.visit_seq(Items(self.node.children.iter()))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(self, _: &'static str, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.no_text()?;
        visitor.visit_map(Fields { rest: self.node.children.iter(), value: None })
    }

    fn deserialize_struct<V: Visitor<'de>>(self, _: &'static str, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        let known = |key: &Key| matches!(key, Key::Name(name) if fields.contains(&name.as_str()));
        if let Some((key, node)) = self.node.children.iter().find(|(key, _)| !known(key)) {
            return Err(deepest(node).within(key));
        }
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let text: StrDeserializer<'_, Error> = self.text()?.into_deserializer();
        text.deserialize_enum(name, variants, visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }
}

/// An unknown parameter is named as it was sent, to its first leaf.
fn deepest(node: &Node) -> Error {
    match node.children.first() {
        Some((key, child)) if node.value.is_none() => deepest(child).within(key),
        _ => Error::new(Kind::Unknown),
    }
}

struct Items<'a>(std::slice::Iter<'a, (Key, Node)>);

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        match self.0.next() {
            None => Ok(None),
            Some((key @ Key::Index(_), node)) => seed.deserialize(Reader { node }).map(Some).map_err(|error| error.within(key)),
            Some((key @ Key::Name(_), node)) => Err(deepest(node).within(key)),
        }
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }
}

struct Fields<'a> {
    rest: std::slice::Iter<'a, (Key, Node)>,
    value: Option<&'a (Key, Node)>,
}

impl<'de> de::MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.value = self.rest.next();
        match self.value {
            None => Ok(None),
            Some((Key::Name(name), _)) => seed.deserialize(name.as_str().into_deserializer()).map(Some),
            Some((Key::Index(index), _)) => seed.deserialize(index.to_string().into_deserializer()).map(Some),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        match self.value.take() {
            Some((key, node)) => seed.deserialize(Reader { node }).map_err(|error| error.within(key)),
            // serde asks for a value only after a key.
            None => Err(de::Error::custom("a value without a key")),
        }
    }
}
