//! Elements written without serde, for rows that an answer shows by the thousand.

use std::fmt::{Display, Write};

use super::escape;

/// Appends an element: `element!(out, "size", volume.size)`. The name is a literal, so that all around the value is copied as
/// constants.
macro_rules! element {
    ($out:expr, $name:literal, $value:expr) => {
        $crate::xml::Content::element($value, $out, (concat!("<", $name, ">"), concat!("</", $name, ">"), concat!("<", $name, "/>")))
    };
}
pub(crate) use element;

/// What [`element`] writes, in the form that serde's writer gives it.
pub trait Content: Sized {
    fn write(self, out: &mut String);

    /// `tags`: before, after, and in the place of an empty value.
    #[inline(always)]
    fn element(self, out: &mut String, (before, after, empty): (&str, &str, &str)) {
        out.push_str(before);
        let inside = out.len();
        self.write(out);
        if out.len() == inside {
            out.truncate(inside - before.len());
            out.push_str(empty);
        } else {
            out.push_str(after);
        }
    }
}

impl Content for &str {
    fn write(self, out: &mut String) {
        out.push_str(&escape(self));
    }
}

impl Content for u32 {
    fn write(self, out: &mut String) {
        out.push_str(itoa::Buffer::new().format(self));
    }
}

impl Content for bool {
    fn write(self, out: &mut String) {
        out.push_str(if self { "true" } else { "false" });
    }
}

/// A value whose text has nothing to escape: ids, times, names of our own.
pub struct Plain<T>(pub T);

impl<T: Display> Content for Plain<T> {
    fn write(self, out: &mut String) {
        // Writing to a String cannot fail.
        let _ = write!(out, "{}", self.0);
    }
}

/// Elements inside an element: what a closure writes.
pub struct Fields<F>(pub F);

impl<F: FnOnce(&mut String)> Content for Fields<F> {
    #[inline(always)]
    fn write(self, out: &mut String) {
        self.0(out);
    }
}

/// An absent value leaves no element.
impl<T: Content> Content for Option<T> {
    fn write(self, out: &mut String) {
        if let Some(value) = self {
            value.write(out);
        }
    }

    #[inline(always)]
    fn element(self, out: &mut String, tags: (&str, &str, &str)) {
        if let Some(value) = self {
            value.element(out, tags);
        }
    }
}
