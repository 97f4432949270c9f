//! What the documents say of tests is true: each test that they name exists. Needs no endpoint.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The names of all functions and modules, and the stems of all files.
fn names() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut folders: Vec<_> = ["core", "sync", "bench", "infra", "tests"]
        .map(|at| root().join(at))
        .into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                names.extend(
                    path.file_name()
                        .map(|name| name.to_string_lossy().into_owned()),
                );
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                names.extend(
                    path.file_stem()
                        .map(|stem| stem.to_string_lossy().into_owned()),
                );
                let text = fs::read_to_string(&path).expect("a source file");
                let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
                let mut last = "";
                for word in words.filter(|word| !word.is_empty()) {
                    if matches!(last, "fn" | "mod") {
                        names.insert(word.to_owned());
                    }
                    last = word;
                }
            }
        }
    }
    names
}

/// What stands in backticks in the last column of a table whose last heading is "test".
fn tests_named_in(text: &str) -> Vec<String> {
    let mut named = Vec::new();
    let mut in_table = false;
    for line in text
        .lines()
        .map(|line| line.trim_start_matches("//!").trim())
    {
        let last = || {
            line.trim_end_matches('|')
                .rsplit('|')
                .next()
                .unwrap_or_default()
                .trim()
        };
        in_table = line.starts_with('|') && (in_table || last() == "test");
        if in_table {
            named.extend(last().split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    named
}

#[test]
fn each_test_that_a_document_names_exists() {
    let names = names();
    for document in ["sync/SEMANTICS.md", "sync/MIGRATING.md"] {
        let text = fs::read_to_string(root().join(document)).expect(document);
        let named = tests_named_in(&text);
        assert!(named.len() > 10, "{document} names {named:?}");
        for test in named {
            for part in test.split("::") {
                assert!(
                    names.contains(part),
                    "{document}: there is no `{part}` of `{test}`"
                );
            }
        }
    }
}
