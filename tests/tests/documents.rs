//! Each test that a document names exists. Needs no endpoint.

use std::fs;
use std::path::{Path, PathBuf};

/// The sources in and below a directory, each with its path.
fn sources(directory: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source");
            found.push((path.with_extension(""), text));
        }
    }
}

/// What stands in backticks in the last column of tables in which that is called "test": a test,
/// or a module of tests.
fn named_in(text: &str) -> Vec<&str> {
    let mut named = Vec::new();
    let mut is_of_tests = false;
    for line in text.lines().map(|line| line.trim_start_matches("//! ")) {
        let cells = line.strip_prefix('|').map(|row| row.trim_end_matches('|'));
        let last = cells.and_then(|row| row.rsplit('|').next());
        is_of_tests = last.is_some_and(|cell| is_of_tests || cell.trim() == "test");
        if let Some(cell) = last.filter(|_| is_of_tests) {
            named.extend(cell.split('`').skip(1).step_by(2));
        }
    }
    named
}

fn exists(name: &str, sources: &[(PathBuf, String)]) -> bool {
    let within = |module: &str, path: &Path| path.iter().any(|part| part == module);
    match name.split_once("::") {
        Some((module, test)) => {
            let test = format!("fn {test}(");
            let mut files = sources.iter().filter(|(path, _)| within(module, path));
            files.any(|(_, text)| text.contains(&test))
        }
        None => sources.iter().any(|(path, _)| within(name, path)),
    }
}

#[test]
fn each_test_that_a_document_names_exists() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for directory in ["tests", "../sync/src", "../core/src", "../infra"] {
        sources(&package.join(directory), &mut found);
    }
    for (document, least) in [
        ("../sync/SEMANTICS.md", 15),
        ("../sync/MIGRATING.md", 50),
        ("tests/traps/main.rs", 60),
    ] {
        let text = fs::read_to_string(package.join(document)).expect(document);
        let named = named_in(&text);
        assert!(named.len() >= least, "{document}: {named:?}");
        for name in named {
            assert!(exists(name, &found), "{document}: there is no {name}");
        }
    }
}
