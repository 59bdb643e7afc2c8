//! A serializer that writes nothing: what it is told goes into a hash.

use std::fmt;
use std::hash::Hasher;

use serde::ser::{
    Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple, SerializeTupleStruct,
    SerializeTupleVariant, Serializer,
};

use super::Trail;

/// Adds a value. One that says of itself that it cannot be serialized counts as having ended there.
pub(super) fn feed(trail: &mut Trail, value: &(impl Serialize + ?Sized)) {
    if value.serialize(Feed(trail)).is_err() {
        tag(trail, Tag::Failed);
    }
}

struct Feed<'a>(&'a mut Trail);

/// Before each value stands what it is, so that one shape cannot pass for another.
#[derive(Clone, Copy)]
enum Tag {
    Nothing,
    Some,
    Bool,
    Number,
    Float,
    Text,
    Bytes,
    List,
    Map,
    Variant,
    End,
    Failed,
}

fn tag(trail: &mut Trail, tag: Tag) {
    trail.write_u8(tag as u8);
}

fn text(trail: &mut Trail, text: &str) {
    // The length, so that two texts do not run into each other.
    trail.write_u64((Tag::Text as u64) << 56 | text.len() as u64);
    trail.write(text.as_bytes());
}

/// Why a value cannot be serialized: nobody reads it.
#[derive(Debug)]
struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the value cannot be serialized")
    }
}

impl std::error::Error for Refused {}

impl serde::ser::Error for Refused {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

type Done = Result<(), Refused>;

/// Integers of every width: the same number gives the same hash.
macro_rules! numbers {
    ($($name:ident: $type:ty),*) => {
        $(fn $name(self, number: $type) -> Done {
            tag(self.0, Tag::Number);
            self.0.write_u64(number as u64);
            Ok(())
        })*
    };
}

impl<'a> Serializer for Feed<'a> {
    type Ok = ();
    type Error = Refused;
    type SerializeSeq = Feed<'a>;
    type SerializeTuple = Feed<'a>;
    type SerializeTupleStruct = Feed<'a>;
    type SerializeTupleVariant = Feed<'a>;
    type SerializeMap = Feed<'a>;
    type SerializeStruct = Feed<'a>;
    type SerializeStructVariant = Feed<'a>;

    numbers! {
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_char: char
    }

    fn serialize_bool(self, is: bool) -> Done {
        tag(self.0, Tag::Bool);
        self.0.write_u8(is.into());
        Ok(())
    }

    fn serialize_f32(self, number: f32) -> Done {
        self.serialize_f64(number.into())
    }

    fn serialize_f64(self, number: f64) -> Done {
        tag(self.0, Tag::Float);
        self.0.write_u64(number.to_bits());
        Ok(())
    }

    fn serialize_str(self, given: &str) -> Done {
        text(self.0, given);
        Ok(())
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Done {
        tag(self.0, Tag::Bytes);
        self.0.write_usize(bytes.len());
        self.0.write(bytes);
        Ok(())
    }

    fn serialize_none(self) -> Done {
        tag(self.0, Tag::Nothing);
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Done {
        tag(self.0, Tag::Some);
        value.serialize(self)
    }

    fn serialize_unit(self) -> Done {
        self.serialize_none()
    }

    fn serialize_unit_struct(self, _: &'static str) -> Done {
        self.serialize_none()
    }

    fn serialize_unit_variant(self, _: &'static str, index: u32, _: &'static str) -> Done {
        tag(self.0, Tag::Variant);
        self.0.write_u32(index);
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Done {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(self, name: &'static str, index: u32, variant: &'static str, value: &T) -> Done {
        Feed(&mut *self.0).serialize_unit_variant(name, index, variant)?;
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self, Refused> {
        tag(self.0, Tag::List);
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, Refused> {
        self.serialize_seq(None)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Refused> {
        self.serialize_seq(None)
    }

    fn serialize_tuple_variant(self, name: &'static str, index: u32, variant: &'static str, _: usize) -> Result<Self, Refused> {
        Feed(&mut *self.0).serialize_unit_variant(name, index, variant)?;
        self.serialize_seq(None)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self, Refused> {
        tag(self.0, Tag::Map);
        Ok(self)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Refused> {
        self.serialize_map(None)
    }

    fn serialize_struct_variant(self, name: &'static str, index: u32, variant: &'static str, _: usize) -> Result<Self, Refused> {
        Feed(&mut *self.0).serialize_unit_variant(name, index, variant)?;
        self.serialize_map(None)
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Done {
        // Times, mostly: their text goes into the hash as it is written.
        tag(self.0, Tag::Bytes);
        let written = fmt::Write::write_fmt(&mut Written(self.0), format_args!("{value}"));
        tag(self.0, Tag::End);
        written.map_err(|_| Refused)
    }

    fn is_human_readable(&self) -> bool {
        true
    }
}

struct Written<'a>(&'a mut Trail);

impl fmt::Write for Written<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

/// Lists: element by element, then the end.
macro_rules! lists {
    ($($of:ident: $element:ident),*) => {
        $(impl $of for Feed<'_> {
            type Ok = ();
            type Error = Refused;

            fn $element<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
                value.serialize(Feed(&mut *self.0))
            }

            fn end(self) -> Done {
                tag(self.0, Tag::End);
                Ok(())
            }
        })*
    };
}

lists! {
    SerializeSeq: serialize_element, SerializeTuple: serialize_element,
    SerializeTupleStruct: serialize_field, SerializeTupleVariant: serialize_field
}

/// Structs: field by field with its name, since one without a value may be left out.
macro_rules! structs {
    ($($of:ident),*) => {
        $(impl $of for Feed<'_> {
            type Ok = ();
            type Error = Refused;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Done {
                text(self.0, name);
                value.serialize(Feed(&mut *self.0))
            }

            fn end(self) -> Done {
                tag(self.0, Tag::End);
                Ok(())
            }
        })*
    };
}

structs! { SerializeStruct, SerializeStructVariant }

impl SerializeMap for Feed<'_> {
    type Ok = ();
    type Error = Refused;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Done {
        key.serialize(Feed(&mut *self.0))
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
        value.serialize(Feed(&mut *self.0))
    }

    fn end(self) -> Done {
        tag(self.0, Tag::End);
        Ok(())
    }
}
