//! What a worker writes down, line by line, so that being killed loses nothing of it.
//!
//! A line is a time in nanoseconds since the Unix epoch, what happened, and a number:
//! `1767225600000000000 admitted 1`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use zae_limiter::Clock;

const ADMITTED: &str = "admitted";
const DEGRADED: &str = "degraded";
const REFUSED: &str = "refused";
const UNAVAILABLE: &str = "unavailable";
const UNRETURNED: &str = "unreturned";

/// The journal of a running worker.
#[derive(Debug)]
pub struct Journal {
    file: File,
    clock: Clock,
}

impl Journal {
    /// Appends to the file at `path`; makes it if it is not there.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        let clock = Clock::system();
        Ok(Self { file, clock })
    }

    /// `tokens` have just been admitted; `degraded` if nobody was asked.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn admitted(&mut self, tokens: u64, degraded: bool) -> io::Result<()> {
        self.write(if degraded { DEGRADED } else { ADMITTED }, tokens)
    }

    /// The worker ends in order: how many acquires were refused, how many could not be answered,
    /// and how many tokens were not given back.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn ended(&mut self, refused: u64, unavailable: u64, unreturned: u64) -> io::Result<()> {
        self.write(REFUSED, refused)?;
        self.write(UNAVAILABLE, unavailable)?;
        self.write(UNRETURNED, unreturned)
    }

    /// In one call, and no buffer of our own: what is written outlives the process.
    fn write(&mut self, what: &str, number: u64) -> io::Result<()> {
        let at = self.clock.wall().as_nanos();
        let line = format!("{at} {what} {number}\n");
        self.file.write_all(line.as_bytes())
    }
}

/// An admission: when, in nanoseconds since the Unix epoch, and how many tokens.
pub type Admission = (u64, u64);

/// What a worker has written down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// What was admitted.
    pub admissions: Vec<Admission>,
    /// What was admitted without asking anybody.
    pub degraded: Vec<Admission>,
    /// How it ended; none if it was killed.
    pub ending: Option<Ending>,
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// Acquires that the limit did not allow.
    pub refused: u64,
    /// Acquires that could not be answered.
    pub unavailable: u64,
    /// Tokens that were not given back.
    pub unreturned: u64,
}

impl Record {
    /// Reads the journal at `path`. What is missing of its last line was never written.
    ///
    /// # Errors
    /// If it cannot be read, or was not written by a [`Journal`].
    pub fn read(path: &Path) -> io::Result<Self> {
        let text = std::fs::read_to_string(path)?;
        let mut record = Self::default();
        let lines = text.split_inclusive('\n').filter(|l| l.ends_with('\n'));
        for line in lines {
            let wrong = || {
                let message = format!("{}: not a line of a journal: {line:?}", path.display());
                io::Error::new(io::ErrorKind::InvalidData, message)
            };
            record.add(line).ok_or_else(wrong)?;
        }
        Ok(record)
    }

    fn add(&mut self, line: &str) -> Option<()> {
        let mut words = line.split_whitespace();
        let at = words.next()?.parse().ok()?;
        let what = words.next()?;
        let number = words.next()?.parse().ok()?;
        match what {
            ADMITTED => self.admissions.push((at, number)),
            DEGRADED => self.degraded.push((at, number)),
            REFUSED => self.ending.get_or_insert_default().refused = number,
            UNAVAILABLE => self.ending.get_or_insert_default().unavailable = number,
            UNRETURNED => self.ending.get_or_insert_default().unreturned = number,
            _ => return None,
        }
        words.next().is_none().then_some(())
    }
}

/// How many lines the journal at `path` has: much cheaper than reading what they say.
///
/// # Errors
/// If it cannot be read.
pub fn lines(path: &Path) -> io::Result<u64> {
    let ends = std::fs::read(path)?.into_iter().filter(|&b| b == b'\n');
    Ok(ends.map(|_| 1).sum())
}

/// The admissions of all of them, in the order of their times.
#[must_use]
pub fn merged(records: &[Record]) -> Vec<Admission> {
    let all = records.iter().flat_map(|record| &record.admissions);
    let mut all: Vec<Admission> = all.copied().collect();
    all.sort_unstable();
    all
}

/// The tokens of all `admissions`.
#[must_use]
pub fn tokens(admissions: &[Admission]) -> u64 {
    admissions.iter().map(|&(_, tokens)| tokens).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_half_a_line_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("journal");
        let mut journal = Journal::open(&path).expect("a file");
        journal.admitted(3, false).expect("space");
        journal.admitted(4, true).expect("space");
        let running = Record::read(&path).expect("a journal");
        assert_eq!(tokens(&running.admissions), 3);
        assert_eq!(tokens(&running.degraded), 4);
        assert_eq!(running.ending, None);
        assert_eq!(lines(&path).expect("a journal"), 2);
        journal.ended(5, 6, 7).expect("space");
        journal.file.write_all(b"1767225600 admit").expect("space");
        let ended = Record::read(&path).expect("a journal");
        let ending = Ending {
            refused: 5,
            unavailable: 6,
            unreturned: 7,
        };
        assert_eq!(ended.ending, Some(ending));
        assert_eq!(ended.admissions, running.admissions);
        journal.file.write_all(b"ted x\n").expect("space");
        let error = Record::read(&path).expect_err("no number").to_string();
        assert!(error.contains("\"1767225600 admitted x"), "{error}");
    }
}
