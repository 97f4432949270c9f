//! The safety kernel stays what it is: small, made of integers, and ignorant of everything that only
//! proposes. Its sources are read, not its behaviour.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

/// What the kernel must not compute with, and which modules it must not know.
const FORBIDDEN: [&str; 11] = [
    "f32",
    "f64",
    "allow(clippy::float_arithmetic)",
    "crate::policy",
    "crate::bucket",
    "crate::cache",
    "crate::renewal",
    "crate::line",
    "crate::pending_usage",
    "crate::local",
    "crate::estimate",
];
/// The longest function.
const FUNCTION_LINES_MAX: usize = 60;
/// All of it, without tests, comments and blank lines.
const CODE_LINES_MAX: usize = 1_800;

/// The sources without their tests, by file.
fn sources() -> Vec<(String, Vec<String>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/kernel");
    let mut sources = Vec::new();
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("\n#[cfg(test)]").next().unwrap();
        let lines = code.lines().map(str::to_owned).collect();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        sources.push((name, lines));
    }
    assert!(sources.len() >= 5, "the kernel has moved");
    sources
}

fn is_code(line: &str) -> bool {
    let line = line.trim_start();
    !line.is_empty() && !line.starts_with("//")
}

#[test]
fn kernel_knows_neither_floats_nor_modules_that_propose() {
    for (file, lines) in sources() {
        for (number, line) in lines.iter().enumerate().filter(|(_, line)| is_code(line)) {
            let found = FORBIDDEN.iter().find(|what| line.contains(**what));
            assert_eq!(found, None, "{file}:{}: {line}", number + 1);
        }
    }
}

#[test]
fn kernel_is_small_and_its_functions_are_short() {
    let sources = sources();
    let lines = sources.iter().flat_map(|(_, lines)| lines);
    let code = lines.filter(|line| is_code(line)).count();
    assert!(code <= CODE_LINES_MAX, "{code} lines of code");
    let mut functions = 0;
    for (file, lines) in &sources {
        for (at, line) in lines.iter().enumerate() {
            if !line.contains("fn ") || !line.ends_with(['{', '(']) {
                continue;
            }
            functions += 1;
            let indent = line.len() - line.trim_start().len();
            let end = format!("{}}}", " ".repeat(indent));
            let length = lines[at..].iter().position(|line| *line == end).unwrap() + 1;
            assert!(
                length <= FUNCTION_LINES_MAX,
                "{file}:{}: {length} lines",
                at + 1
            );
        }
    }
    assert!(functions > 50, "{functions} functions were found");
}
