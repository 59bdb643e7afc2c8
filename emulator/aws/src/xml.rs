//! XML as EC2 writes it, from serde's data model.
//!
//! A struct is its fields as elements in order; a list is `<item>` elements inside the field's element; `None` is absent;
//! the rest is text. So `volume_set: Vec<Volume>` with `rename_all = "camelCase"` gives `<volumeSet><item>…`.

use std::borrow::Cow;
use std::fmt::{Display, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use axum::response::Response;
use http::{StatusCode, header};
use serde::ser::{self, Impossible, Serialize};

use crate::error::Ec2Error;

mod element;

pub(crate) use element::{Content, element};
pub use element::{Fields, Plain};

const EC2: &str = "http://ec2.amazonaws.com/doc/2016-11-15/";
const HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";

/// Bytes that most resources take in an answer.
pub const USUAL_SIZE: usize = 1024;

/// A finished answer of the EC2 protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XmlBody {
    pub request_id: String,
    pub xml: String,
}

impl XmlBody {
    /// `<{action}Response>` with a request id and the fields of `response`, which must be a struct (or `()` for none).
    pub fn new(action: &str, response: &impl Serialize) -> Result<Self, Ec2Error> {
        let mut written = Ok(());
        let body = Self::written(action, USUAL_SIZE, |xml| written = write_fields(xml, response, "item"));
        written.map(|()| body).map_err(|error| Ec2Error::new("InternalError", error.to_string()))
    }

    /// The same, with fields that `fields` writes (see [`element`]), in about `size` bytes.
    pub fn written(action: &str, size: usize, fields: impl FnOnce(&mut String)) -> Self {
        let request_id = request_id();
        let mut xml = String::with_capacity(512 + size);
        // Writing to a String cannot fail.
        let _ = write!(xml, "{HEAD}<{action}Response xmlns=\"{EC2}\"><requestId>{request_id}</requestId>");
        fields(&mut xml);
        let _ = write!(xml, "</{action}Response>");
        Self { request_id, xml }
    }

    /// The answer of actions that return only success.
    pub fn ok(action: &str) -> Result<Self, Ec2Error> {
        #[derive(serde::Serialize)]
        struct Return {
            #[serde(rename = "return")]
            done: bool,
        }
        Self::new(action, &Return { done: true })
    }

    pub fn into_response(self) -> Response {
        respond(200, &self.request_id, |_| self.xml)
    }
}

/// An XML response; `text` is given the request id.
pub fn respond(status: u16, request_id: &str, text: impl FnOnce(&str) -> String) -> Response {
    let mut response = Response::new(Body::from(text(request_id)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/xml;charset=UTF-8"));
    if let Ok(value) = header::HeaderValue::from_str(request_id) {
        headers.insert("x-amzn-requestid", value);
    }
    response
}

/// EC2's error document.
pub fn ec2_error(error: &Ec2Error, request_id: &str) -> String {
    format!(
        "{HEAD}<Response><Errors><Error><Code>{}</Code><Message>{}</Message></Error></Errors><RequestID>{request_id}</RequestID></Response>",
        escape(&error.code),
        escape(&error.message)
    )
}

/// The error document of the plain query protocol, which STS uses.
pub fn query_error(namespace: &str, error: &Ec2Error, request_id: &str) -> String {
    let fault = if error.status >= 500 { "Receiver" } else { "Sender" };
    format!(
        "{HEAD}<ErrorResponse xmlns=\"{namespace}\"><Error><Type>{fault}</Type><Code>{}</Code><Message>{}</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>",
        escape(&error.code),
        escape(&error.message)
    )
}

/// The answer document of the plain query protocol: `<{action}Response><{action}Result>…`, lists as `<member>`.
pub fn query_response(namespace: &str, action: &str, response: &impl Serialize, request_id: &str) -> Result<String, Ec2Error> {
    let mut xml = format!("{HEAD}<{action}Response xmlns=\"{namespace}\"><{action}Result>");
    write_fields(&mut xml, response, "member").map_err(|error| Ec2Error::new("InternalError", error.to_string()))?;
    let _ = write!(xml, "</{action}Result><ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{action}Response>");
    Ok(xml)
}

/// A new request id, in the form of a UUID. It is for logs, not a secret: a counter, scrambled with the time of start.
pub fn request_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    static SEED: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    let seed = *SEED.get_or_init(|| uuid::Uuid::new_v4().as_u64_pair().0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let high = model_common::pick::mix(seed ^ model_common::pick::mix(number));
    uuid::Builder::from_u128((u128::from(high) << 64) | u128::from(model_common::pick::mix(high ^ seed)))
        .with_version(uuid::Version::Random)
        .with_variant(uuid::Variant::RFC4122)
        .into_uuid()
        .to_string()
}

/// Bytes that may have to be escaped: 0xef may begin U+FFFE or U+FFFF.
static SUSPECT: [bool; 256] = {
    let mut suspect = [false; 256];
    let mut byte = 0;
    while byte < suspect.len() {
        suspect[byte] = byte < b' ' as usize || matches!(byte as u8, b'<' | b'>' | b'&' | b'"' | 0xef);
        byte += 1;
    }
    suspect
};

/// Escapes text for element content; characters that XML 1.0 cannot hold become U+FFFD.
pub fn escape(text: &str) -> Cow<'_, str> {
    // Nearly no text has any. Most are short: a table is faster than comparisons.
    if !text.bytes().any(|byte| SUSPECT[usize::from(byte)]) {
        return Cow::Borrowed(text);
    }
    let invalid = |c: char| (c < ' ' && !matches!(c, '\t' | '\n')) || matches!(c, '\u{fffe}' | '\u{ffff}');
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\r' => out.push_str("&#xD;"),
            c if invalid(c) => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Appends what is displayed, in place: ids and times are written millions of times.
fn push_display(out: &mut String, value: &(impl Display + ?Sized)) {
    let start = out.len();
    // Writing to a String cannot fail.
    let _ = write!(out, "{value}");
    if let Cow::Owned(escaped) = escape(&out[start..]) {
        out.truncate(start);
        out.push_str(&escaped);
    }
}

/// Appends the fields of a struct as elements.
pub fn write_fields(out: &mut String, value: &impl Serialize, item: &'static str) -> Result<(), Error> {
    value.serialize(Writer { out, item }).map(drop)
}

/// A value that has no form in this XML: a programming error of a response type.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the response as XML: {0}")]
pub struct Error(String);

impl ser::Error for Error {
    fn custom<T: Display>(text: T) -> Self {
        Self(text.to_string())
    }
}

/// Its `Ok` says whether there was a value: an absent one leaves no element.
struct Writer<'a> {
    out: &'a mut String,
    item: &'static str,
}

impl Writer<'_> {
    fn element<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), Error> {
        let start = self.out.len();
        self.out.reserve(2 * name.len() + 64);
        self.out.push('<');
        self.out.push_str(name);
        self.out.push('>');
        let inside = self.out.len();
        let present = value.serialize(Writer { out: self.out, item: self.item })?;
        if !present {
            self.out.truncate(start);
        } else if self.out.len() == inside {
            self.out.truncate(inside - 1);
            self.out.push_str("/>");
        } else {
            self.out.push_str("</");
            self.out.push_str(name);
            self.out.push('>');
        }
        Ok(())
    }
}

macro_rules! integers {
    ($($method:ident: $type:ty),*) => {
        $(fn $method(self, value: $type) -> Result<bool, Error> {
            self.out.push_str(itoa::Buffer::new().format(value));
            Ok(true)
        })*
    };
}

impl<'a> ser::Serializer for Writer<'a> {
    type Ok = bool;
    type Error = Error;
    type SerializeSeq = Self;
    type SerializeTuple = Impossible<bool, Error>;
    type SerializeTupleStruct = Impossible<bool, Error>;
    type SerializeTupleVariant = Impossible<bool, Error>;
    type SerializeMap = Impossible<bool, Error>;
    type SerializeStruct = Self;
    type SerializeStructVariant = Impossible<bool, Error>;

    integers! {
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64
    }

    fn serialize_f32(self, value: f32) -> Result<bool, Error> {
        self.collect_str(&value)
    }

    fn serialize_f64(self, value: f64) -> Result<bool, Error> {
        self.collect_str(&value)
    }

    fn serialize_bool(self, value: bool) -> Result<bool, Error> {
        self.out.push_str(if value { "true" } else { "false" });
        Ok(true)
    }

    fn serialize_char(self, value: char) -> Result<bool, Error> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<bool, Error> {
        self.out.push_str(&escape(value));
        Ok(true)
    }

    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<bool, Error> {
        push_display(self.out, value);
        Ok(true)
    }

    fn serialize_bytes(self, _: &[u8]) -> Result<bool, Error> {
        Err(ser::Error::custom("bytes"))
    }

    fn serialize_none(self) -> Result<bool, Error> {
        Ok(false)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<bool, Error> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<bool, Error> {
        Ok(true)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<bool, Error> {
        Ok(true)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<bool, Error> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<bool, Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(self, _: &'static str, _: u32, name: &'static str, _: &T) -> Result<bool, Error> {
        Err(ser::Error::custom(name))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self, Error> {
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Error> {
        Err(ser::Error::custom("a tuple"))
    }

    fn serialize_tuple_struct(self, name: &'static str, _: usize) -> Result<Self::SerializeTupleStruct, Error> {
        Err(ser::Error::custom(name))
    }

    fn serialize_tuple_variant(self, _: &'static str, _: u32, name: &'static str, _: usize) -> Result<Self::SerializeTupleVariant, Error> {
        Err(ser::Error::custom(name))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Error> {
        Err(ser::Error::custom("a map"))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Error> {
        Ok(self)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Error> {
        Err(ser::Error::custom(name))
    }
}

impl ser::SerializeSeq for Writer<'_> {
    type Ok = bool;
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.element(self.item, value)
    }

    fn end(self) -> Result<bool, Error> {
        Ok(true)
    }
}

impl ser::SerializeStruct for Writer<'_> {
    type Ok = bool;
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Error> {
        self.element(key, value)
    }

    fn end(self) -> Result<bool, Error> {
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
