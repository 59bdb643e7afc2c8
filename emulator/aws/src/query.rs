//! The parameters of a query request (`Filter.1.Value.2=x`) as a tree, and serde over it.
//!
//! Request types are structs with `#[serde(rename_all = "PascalCase")]`: a list is read from numbered children in the order
//! of their numbers, a struct from named ones. A parameter that a struct does not have is an error, as on AWS.

use std::borrow::Cow;
use std::fmt::Display;

use compact_str::CompactString;
use serde::de::{self, DeserializeOwned};

use crate::error::Ec2Error;

mod reader;

use reader::Reader;

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
    /// By key, each once, when all parameters are read; before that as they came, where most follow one of their siblings.
    children: Vec<(Key, Node)>,
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
        params.root.settle()?;
        Ok((action, params))
    }

    fn insert(&mut self, name: &str, value: CompactString) -> Result<(), Ec2Error> {
        let mut node = &mut self.root;
        let (mut rest, mut depth) = (Some(name), 0);
        while let Some(text) = rest {
            if depth == MAX_DEPTH {
                return Err(Ec2Error::new("UnknownParameter", format!("The parameter {name} is not recognized")));
            }
            let (segment, after) = cut(text, b'.').map_or((text, None), |(segment, after)| (segment, Some(after)));
            node = node.child(match segment.parse() {
                Ok(index) => Key::Index(index),
                Err(_) => Key::Name(segment.into()),
            });
            (rest, depth) = (after, depth + 1);
        }
        if node.value.replace(value).is_some() { Err(Error::new(Kind::Repeated).within(name).into()) } else { Ok(()) }
    }

    /// Takes out parameters (with all below them) that an action knows but that change nothing.
    pub fn forget(&mut self, names: &[&str]) {
        self.root.children.retain(|(key, _)| !matches!(key, Key::Name(name) if names.contains(&name.as_str())));
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

impl Node {
    /// The last child, if it has this key, or a new one.
    fn child(&mut self, key: Key) -> &mut Node {
        if self.children.last().is_none_or(|(last, _)| *last != key) {
            self.children.push((key, Node::default()));
        }
        // By its index: a borrow that is handed out cannot be asked for its key first.
        let last = self.children.len() - 1;
        &mut self.children[last].1
    }

    /// Orders the children, and makes one of those that have the same key.
    fn settle(&mut self) -> Result<(), Error> {
        self.children.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut repeated = None;
        self.children.dedup_by(|(key, later), (same, node)| {
            let merge = key == same;
            if merge {
                node.children.append(&mut later.children);
                if let Some(value) = later.value.take()
                    && node.value.replace(value).is_some()
                {
                    repeated = Some(Error::new(Kind::Repeated).within(key));
                }
            }
            merge
        });
        if let Some(repeated) = repeated {
            return Err(repeated);
        }
        self.children.iter_mut().try_for_each(|(key, node)| node.settle().map_err(|error| error.within(key)))
    }
}

/// What is before and after the first `at`. The texts are short: to look at each byte is faster than `split_once`.
fn cut(text: &str, at: u8) -> Option<(&str, &str)> {
    let position = text.bytes().position(|byte| byte == at)?;
    Some((&text[..position], &text[position + 1..]))
}

/// Names and values. Most have nothing to decode and are borrowed.
fn pairs(text: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    // All bytes are looked at, so that the compiler takes many at once.
    let is_coded = |text: &str| text.bytes().fold(false, |any, byte| any | matches!(byte, b'%' | b'+'));
    let any_coded = is_coded(text);
    let coded = move |pair: &str| any_coded && is_coded(pair);
    text.split('&').filter_map(move |pair| match cut(pair, b'=') {
        Some((name, value)) if !coded(pair) => Some((name.into(), value.into())),
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
    Repeated,
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
            Kind::Repeated => Ec2Error::new("InvalidQueryParameter", format!("The parameter {path} is given more than once.")),
            Kind::Invalid { value, expected } => {
                Ec2Error::new("InvalidParameterValue", format!("Value ({value}) for parameter {path} is invalid. {expected}"))
            }
            Kind::Other(text) if path.is_empty() => Ec2Error::new("InvalidParameterValue", text),
            Kind::Other(text) => Ec2Error::new("InvalidParameterValue", format!("Invalid value for parameter {path}: {text}")),
        }
    }
}

#[cfg(test)]
mod tests;
