//! Each test that a document names exists, and names the mistake that it guards against where those
//! have numbers. Needs no endpoint.

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

/// A row of a table in a document: its first cell, and the tests in its last.
#[derive(Debug)]
struct Row<'a> {
    first: &'a str,
    tests: Vec<&'a str>,
}

/// The rows of tables of which the last column is called "test": tests are what stands in backticks
/// there.
fn rows_of(text: &str) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    let mut is_of_tests = false;
    for line in text.lines().map(|line| line.trim_start_matches("//! ")) {
        let cells = line.strip_prefix('|').map(|row| row.trim_end_matches('|'));
        let ends = cells.and_then(|row| Some((row.split('|').next()?, row.rsplit('|').next()?)));
        is_of_tests = ends.is_some_and(|(_, last)| is_of_tests || last.trim() == "test");
        if let Some((first, last)) = ends.filter(|_| is_of_tests) {
            let (first, tests) = (first.trim(), last.split('`').skip(1).step_by(2).collect());
            rows.push(Row { first, tests });
        }
    }
    rows
}

/// What stands right above a test, called `file::test` or `folder::test`; none if there is none.
fn above<'a>(name: &str, sources: &'a [(PathBuf, String)]) -> Option<&'a str> {
    let (module, test) = name.split_once("::")?;
    let test = format!("fn {test}(");
    sources.iter().find_map(|(path, text)| {
        let before = text.split_once(&test).map(|(before, _)| before)?;
        let is_there = path.iter().any(|part| part == module);
        is_there.then(|| before.rsplit("\n\n").next().unwrap_or(before))
    })
}

fn read(document: &str) -> String {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(package.join(document)).expect(document)
}

fn all_sources() -> Vec<(PathBuf, String)> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for directory in ["tests", "../sync/src", "../core/src", "../infra"] {
        sources(&package.join(directory), &mut found);
    }
    found
}

#[test]
fn each_test_that_a_document_names_exists() {
    let sources = all_sources();
    for (document, least) in [
        ("../sync/SEMANTICS.md", 15),
        ("../sync/MIGRATING.md", 50),
        ("tests/traps/main.rs", 60),
    ] {
        let text = read(document);
        let named: Vec<_> = rows_of(&text)
            .into_iter()
            .flat_map(|row| row.tests)
            .collect();
        assert!(named.len() >= least, "{document}: {named:?}");
        for name in named {
            assert!(
                above(name, &sources).is_some(),
                "{document}: there is no {name}"
            );
        }
    }
}

#[test]
fn each_test_that_guards_against_a_mistake_with_a_number_names_it() {
    let (sources, text) = (all_sources(), read("../sync/MIGRATING.md"));
    let is_number = |cell: &str| {
        cell.strip_prefix('B')
            .is_some_and(|n| n.parse::<u32>().is_ok())
    };
    let mut rows = rows_of(&text);
    rows.retain(|row| is_number(row.first));
    assert!(rows.len() >= 20, "{rows:?}");
    for Row { first, tests } in rows {
        assert!(!tests.is_empty(), "{first} has no test");
        for test in tests {
            let above = above(test, &sources).unwrap_or_default();
            let mut words = above.split(|letter: char| !letter.is_alphanumeric());
            assert!(
                words.any(|word| word == first),
                "{test} does not name {first}"
            );
        }
    }
}
