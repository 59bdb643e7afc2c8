//! The scenarios that come with ebbtide.

use std::path::Path;

use crate::language::{LoadError, Scenario, parse};

/// Name and text, in the order of the workshop.
const LIBRARY: [(&str, &str); 4] = [
    ("e01-ebs-static", include_str!("../library/e01-ebs-static.yaml")),
    ("e03-ebs-dynamic", include_str!("../library/e03-ebs-dynamic.yaml")),
    ("f01-efs-static", include_str!("../library/f01-efs-static.yaml")),
    ("f02-efs-dynamic", include_str!("../library/f02-efs-dynamic.yaml")),
];

/// The library: name and text of each file.
pub fn library() -> &'static [(&'static str, &'static str)] {
    &LIBRARY
}

/// Reads a scenario: a file, or the name of one of the library (`e01-ebs-static`, or `e01`).
pub fn load(path_or_name: &str) -> Result<Scenario, LoadError> {
    let path = Path::new(path_or_name);
    if path.is_file() {
        let text = std::fs::read_to_string(path).map_err(|source| LoadError::Read { path: path_or_name.into(), source })?;
        return parse(path_or_name, &text);
    }
    let short = |name: &str| name.split('-').next() == Some(path_or_name);
    match LIBRARY.iter().find(|(name, _)| *name == path_or_name || short(name)) {
        Some((name, text)) => parse(name, text),
        None => {
            let library = LIBRARY.map(|(name, _)| name).join(", ");
            Err(LoadError::Unknown { name: path_or_name.into(), library })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_loads_under_its_names() {
        for (name, _) in library() {
            let scenario = load(name).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(scenario.metadata.name, *name);
        }
        assert_eq!(load("f02").unwrap().metadata.name, "f02-efs-dynamic");
    }

    #[test]
    fn an_unknown_name_says_what_there_is() {
        let error = load("e99").unwrap_err().to_string();
        assert!(error.contains("`e99`") && error.contains("e01-ebs-static"), "{error}");
    }

    #[test]
    fn a_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.yaml");
        std::fs::write(&path, LIBRARY[0].1).unwrap();
        assert_eq!(load(path.to_str().unwrap()).unwrap(), load("e01").unwrap());
    }
}
