//! The parameters of a query request (`Filter.1.Value.2=x`) as a tree, and serde over it.
//!
//! Request types are structs with `#[serde(rename_all = "PascalCase")]`: a list is read from numbered children in the order
//! of their numbers, a struct from named ones. A parameter that a struct does not have is an error, as on AWS.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;

use compact_str::CompactString;
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor};

use crate::error::Ec2Error;

/// Most parameters of one request.
const MAX_PARAMETERS: usize = 20_000;
/// Deepest nesting of names: `TagSpecification.1.Tag.1.Key` is 5.
const MAX_DEPTH: usize = 12;
/// Parameters of the protocol and of signatures in the query string; no action sees them.
const OF_THE_PROTOCOL: [&str; 12] = [
    "Action",
    "Version",
    "AWSAccessKeyId",
    "Signature",
    "SignatureMethod",
    "SignatureVersion",
    "Timestamp",
    "Expires",
    "SecurityToken",
    "Subscribe",
    "DryRun",
    "Encoding",
];

/// The parameters of one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Params {
    root: Node,
    dry_run: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Node {
    value: Option<CompactString>,
    children: BTreeMap<Key, Node>,
}

/// Numbers come before names, and in their order. Names and ids are short enough to need no allocation of their own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Index(u32),
    Name(CompactString),
}

impl Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Key::Index(index) => write!(f, "{index}"),
            Key::Name(name) => f.write_str(name),
        }
    }
}

impl Params {
    /// Reads `a=b&c=d`; returns the `Action` beside the parameters.
    pub fn parse(text: &str) -> Result<(Option<String>, Self), Ec2Error> {
        let mut action = None;
        let mut params = Self::default();
        for (count, (name, value)) in pairs(text).enumerate() {
            if count >= MAX_PARAMETERS {
                return Err(Ec2Error::new("MalformedQueryString", format!("The request has more than {MAX_PARAMETERS} parameters.")));
            }
            match name.as_ref() {
                "Action" => action = Some(value.into_owned()),
                "DryRun" => params.dry_run = Some(value.into_owned()),
                "" => {}
                name if OF_THE_PROTOCOL.contains(&name) || name.starts_with("X-Amz-") => {}
                name => params.insert(name, value.into())?,
            }
        }
        Ok((action, params))
    }

    fn insert(&mut self, name: &str, value: CompactString) -> Result<(), Ec2Error> {
        let mut node = &mut self.root;
        for (depth, segment) in name.split('.').enumerate() {
            if depth >= MAX_DEPTH {
                return Err(Ec2Error::new("UnknownParameter", format!("The parameter {name} is not recognized")));
            }
            let key = match segment.parse() {
                Ok(index) => Key::Index(index),
                Err(_) => Key::Name(segment.into()),
            };
            node = node.children.entry(key).or_default();
        }
        if node.value.replace(value).is_some() {
            return Err(Ec2Error::new("InvalidQueryParameter", format!("The parameter {name} is given more than once.")));
        }
        Ok(())
    }

    /// Takes out parameters (with all below them) that an action knows but that change nothing.
    pub fn forget(&mut self, names: &[&str]) {
        self.root.children.retain(|key, _| !matches!(key, Key::Name(name) if names.contains(&name.as_str())));
    }

    /// The parameters as a request type. A malformed `DryRun` is an error here too.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Ec2Error> {
        let request = T::deserialize(Reader { node: &self.root })?;
        self.dry_run()?;
        Ok(request)
    }

    /// Whether only the request is to be checked (`DryRun=true`).
    pub fn dry_run(&self) -> Result<bool, Ec2Error> {
        match &self.dry_run {
            None => Ok(false),
            Some(text) => boolean(text).ok_or_else(|| Error::invalid(text, "Expected a boolean.").within("DryRun").into()),
        }
    }
}

/// Names and values. Most have nothing to decode and are borrowed.
fn pairs(text: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    text.split('&').filter_map(|pair| match pair.split_once('=') {
        Some((name, value)) if !pair.bytes().any(|byte| matches!(byte, b'%' | b'+')) => Some((name.into(), value.into())),
        Some(_) | None => form_urlencoded::parse(pair.as_bytes()).next(),
    })
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// Why parameters do not fit a request type. `path` is the parameter's full name, built on the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind:?} at {path}")]
struct Error {
    path: String,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Missing,
    Unknown,
    Invalid { value: String, expected: String },
    Other(String),
}

impl Error {
    fn new(kind: Kind) -> Self {
        Self { path: String::new(), kind }
    }

    fn invalid(value: &str, expected: &str) -> Self {
        Self::new(Kind::Invalid { value: value.to_owned(), expected: expected.to_owned() })
    }

    fn within(mut self, name: impl Display) -> Self {
        self.path = if self.path.is_empty() { name.to_string() } else { format!("{name}.{}", self.path) };
        self
    }
}

impl de::Error for Error {
    fn custom<T: Display>(text: T) -> Self {
        Self::new(Kind::Other(text.to_string()))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(Kind::Missing).within(field)
    }

    fn unknown_field(field: &str, _: &'static [&'static str]) -> Self {
        Self::new(Kind::Unknown).within(field)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::invalid(variant, &format!("Valid values are: {}.", expected.join(", ")))
    }

    fn invalid_value(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        match unexpected {
            de::Unexpected::Str(text) => Self::invalid(text, &format!("Expected {expected}.")),
            other => Self::custom(format!("{other} is invalid. Expected {expected}.")),
        }
    }
}

impl From<Error> for Ec2Error {
    fn from(Error { path, kind }: Error) -> Self {
        match kind {
            Kind::Missing => Ec2Error::new("MissingParameter", format!("The request must contain the parameter {path}")),
            Kind::Unknown => Ec2Error::new("UnknownParameter", format!("The parameter {path} is not recognized")),
            Kind::Invalid { value, expected } => {
                Ec2Error::new("InvalidParameterValue", format!("Value ({value}) for parameter {path} is invalid. {expected}"))
            }
            Kind::Other(text) if path.is_empty() => Ec2Error::new("InvalidParameterValue", text),
            Kind::Other(text) => Ec2Error::new("InvalidParameterValue", format!("Invalid value for parameter {path}: {text}")),
        }
    }
}

#[derive(Clone, Copy)]
struct Reader<'a> {
    node: &'a Node,
}

impl<'a> Reader<'a> {
    fn text(self) -> Result<&'a str, Error> {
        match (&self.node.value, self.node.children.first_key_value()) {
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
        match self.node.children.first_key_value() {
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
    match node.children.first_key_value() {
        Some((key, child)) if node.value.is_none() => deepest(child).within(key),
        _ => Error::new(Kind::Unknown),
    }
}

struct Items<'a>(std::collections::btree_map::Iter<'a, Key, Node>);

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
    rest: std::collections::btree_map::Iter<'a, Key, Node>,
    value: Option<(&'a Key, &'a Node)>,
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

#[cfg(test)]
mod tests;
