//! Puts the files of `library/` into the binary, under their names.

use std::io::Write as _;
use std::path::{Path, PathBuf};

fn main() -> std::io::Result<()> {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("library");
    println!("cargo::rerun-if-changed={}", root.display());
    let mut files = Vec::new();
    collect(&root, &mut files)?;
    files.sort();
    let mut out = std::fs::File::create(PathBuf::from(variable("OUT_DIR")?).join("library.rs"))?;
    writeln!(out, "&[")?;
    for file in &files {
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        writeln!(out, "    ({name:?}, include_str!({:?})),", file.display().to_string())?;
    }
    writeln!(out, "]")
}

fn variable(name: &str) -> std::io::Result<String> {
    std::env::var(name).map_err(|error| std::io::Error::other(format!("{name}: {error}")))
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            files.push(path);
        }
    }
    Ok(())
}
