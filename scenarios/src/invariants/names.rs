//! Names as small numbers, so that what a watch keeps is cheap to compare and to copy.

use std::collections::HashMap;
use std::sync::Arc;

/// A name that was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Sym(u32);

impl Sym {
    pub(super) const MIN: Self = Self(0);
    pub(super) const MAX: Self = Self(u32::MAX);
}

/// Namespace and name of an object.
pub(super) type Id = (Sym, Sym);

/// All names that were met. The map is only looked into, never walked, so its order cannot show.
#[derive(Debug, Default)]
pub(super) struct Names {
    numbers: HashMap<Arc<str>, u32>,
    texts: Vec<Arc<str>>,
}

impl Names {
    /// The number of a name; met for the first time, it gets the next one.
    pub(super) fn sym(&mut self, text: &str) -> Sym {
        if let Some(number) = self.numbers.get(text) {
            return Sym(*number);
        }
        // Four thousand million names would fill the memory of any machine first.
        let number = self.texts.len() as u32;
        let text: Arc<str> = text.into();
        self.texts.push(text.clone());
        self.numbers.insert(text, number);
        Sym(number)
    }

    /// The number of a name that was met.
    pub(super) fn find(&self, text: &str) -> Option<Sym> {
        self.numbers.get(text).map(|number| Sym(*number))
    }

    pub(super) fn text(&self, sym: Sym) -> &str {
        self.texts.get(sym.0 as usize).map_or("", |text| text)
    }

    pub(super) fn id(&mut self, namespace: Option<&str>, name: Option<&str>) -> Id {
        (self.sym(namespace.unwrap_or("")), self.sym(name.unwrap_or("")))
    }

    /// `namespace/name`.
    pub(super) fn path(&self, id: Id) -> String {
        format!("{}/{}", self.text(id.0), self.text(id.1))
    }
}
