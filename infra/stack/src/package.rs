//! The aggregator's package: its program, checked for Lambda's runtime, in a zip file.

use std::fmt;
use std::io::{self, Cursor, Write};
use std::path::{Path, PathBuf};

use object::elf::{DT_NEEDED, EM_AARCH64, EM_X86_64, FileHeader64};
use object::read::elf::{Dyn, FileHeader};
use object::{Endianness, FileKind};
use serde::Serialize;
use sha2::{Digest, Sha256};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use crate::AGGREGATOR_PROGRAM;

/// The C library of the runtime `provided.al2023`: a program that needs a later one does not start.
pub const GLIBC_MAX: (u32, u32) = (2, 34);
/// What the runtime has beside the parts of the C library.
const LIBRARIES: [&str; 9] = [
    "libc.so.6",
    "libm.so.6",
    "libgcc_s.so.1",
    "libpthread.so.0",
    "libdl.so.2",
    "librt.so.1",
    "libresolv.so.2",
    "ld-linux-x86-64.so.2",
    "ld-linux-aarch64.so.1",
];
/// How large Lambda lets a package be when it is unpacked.
const SIZE_MAX: usize = 250 << 20;

/// A processor that a function can run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// 64-bit Intel and AMD.
    #[serde(rename = "x86_64")]
    X86_64,
    /// 64-bit ARM.
    Arm64,
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X86_64 => "x86_64",
            Self::Arm64 => "arm64",
        })
    }
}

/// Why a program cannot be the aggregator's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackageError {
    /// It cannot be read.
    #[error("could not read the aggregator's program {path}: {source}")]
    Unreadable {
        /// The program.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is no program for Lambda.
    #[error("{path} is no program for Lambda's runtime: {reason}")]
    Unfit {
        /// The program.
        path: PathBuf,
        /// What is wrong, and what to do about it.
        reason: String,
    },
    /// The zip file cannot be made.
    #[error("could not make the zip file of {path}: {reason}")]
    Zip {
        /// The program.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// The aggregator's package, as Lambda takes it.
///
/// The same program makes the same bytes, so that a package is known by its digest.
///
/// ```no_run
/// use zae_limiter_infra::Package;
///
/// # fn package() -> Result<(), zae_limiter_infra::PackageError> {
/// if let Some(program) = Package::find_program() {
///     let package = Package::from_program(&program)?;
///     println!("{} for {}", package.sha256, package.architecture);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Serialize)]
#[non_exhaustive]
pub struct Package {
    /// The program that it is made of.
    pub program: PathBuf,
    /// The program's size, in bytes.
    pub program_bytes: usize,
    /// The processor that it runs on.
    pub architecture: Architecture,
    /// The C library that the program needs at least, if it needs one: major and minor version.
    pub glibc: Option<(u32, u32)>,
    /// The SHA-256 of the zip file, in hexadecimal.
    pub sha256: String,
    /// The zip file.
    #[serde(skip)]
    pub zip: Vec<u8>,
}

impl fmt::Debug for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Package")
            .field("program", &self.program)
            .field("architecture", &self.architecture)
            .field("glibc", &self.glibc)
            .field("sha256", &self.sha256)
            .finish_non_exhaustive()
    }
}

impl Package {
    /// The program to make the package of, if it is installed: the [`AGGREGATOR_PROGRAM`] beside
    /// the running program, else the one in `PATH`.
    ///
    /// See the example of [`Package`].
    #[must_use]
    pub fn find_program() -> Option<PathBuf> {
        let own = std::env::current_exe().ok();
        let beside = own.as_deref().and_then(Path::parent).map(Into::into);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = beside.into_iter().chain(std::env::split_paths(&path));
        let mut programs = folders.map(|folder: PathBuf| folder.join(AGGREGATOR_PROGRAM));
        programs.find(|program| program.is_file())
    }

    /// Makes the package of this program, or else of the one that is installed, if it is.
    pub(crate) fn of(program: Option<&Path>) -> Result<Option<Self>, PackageError> {
        let program = program.map(Into::into).or_else(Self::find_program);
        program
            .map(|program| Self::from_program(&program))
            .transpose()
    }

    /// Makes the package of a program.
    ///
    /// See the example of [`Package`].
    ///
    /// # Errors
    /// [`PackageError`] if it cannot be read, or would not run in Lambda: it must be a 64-bit Linux
    /// program of at most 250 MB for x86_64 or arm64, and need no C library later than
    /// [`GLIBC_MAX`] and no other libraries.
    pub fn from_program(path: &Path) -> Result<Self, PackageError> {
        let program = std::fs::read(path).map_err(|source| PackageError::Unreadable {
            path: path.into(),
            source,
        })?;
        let unfit = |reason| PackageError::Unfit {
            path: path.into(),
            reason,
        };
        let (architecture, glibc) = inspect(&program, GLIBC_MAX).map_err(unfit)?;
        if program.len() > SIZE_MAX {
            let size = program.len() >> 20;
            return Err(unfit(format!(
                "it has {size} MB, {} are allowed; strip it, or build it for release",
                SIZE_MAX >> 20
            )));
        }
        let zip = zip(&program).map_err(|error| PackageError::Zip {
            path: path.into(),
            reason: error.to_string(),
        })?;
        let digest = Sha256::digest(&zip);
        Ok(Self {
            program: path.into(),
            program_bytes: program.len(),
            architecture,
            glibc,
            sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
            zip,
        })
    }
}

fn zip(program: &[u8]) -> zip::result::ZipResult<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .unix_permissions(0o755)
        .last_modified_time(DateTime::default());
    zip.start_file("bootstrap", options)?;
    zip.write_all(program)?;
    Ok(zip.finish()?.into_inner())
}

/// The processor and the C library of a program; else what is wrong with it.
fn inspect(
    program: &[u8],
    glibc_max: (u32, u32),
) -> Result<(Architecture, Option<(u32, u32)>), String> {
    let broken = |error: object::Error| format!("it cannot be read as a program: {error}");
    if !matches!(FileKind::parse(program), Ok(FileKind::Elf64)) {
        return Err("it is not a 64-bit Linux program; build it on Linux".to_owned());
    }
    let header = FileHeader64::<Endianness>::parse(program).map_err(broken)?;
    let endian = header.endian().map_err(broken)?;
    let architecture = match header.e_machine(endian) {
        EM_X86_64 => Architecture::X86_64,
        EM_AARCH64 => Architecture::Arm64,
        _ => return Err("Lambda runs programs for x86_64 and arm64 only".to_owned()),
    };
    let sections = header.sections(endian, program).map_err(broken)?;
    if let Some((entries, link)) = sections.dynamic(endian, program).map_err(broken)? {
        let strings = sections.strings(endian, program, link).map_err(broken)?;
        for entry in entries.iter().filter(|e| e.tag(endian) == DT_NEEDED) {
            let name = entry.string(endian, strings).map_err(broken)?;
            let name = String::from_utf8_lossy(name);
            if !LIBRARIES.contains(&&*name) {
                return Err(format!("it needs {name}, which the runtime does not have"));
            }
        }
    }
    let mut glibc = None;
    if let Some((mut needs, link)) = sections.gnu_verneed(endian, program).map_err(broken)? {
        let strings = sections.strings(endian, program, link).map_err(broken)?;
        while let Some((_, mut versions)) = needs.next().map_err(broken)? {
            while let Some(version) = versions.next().map_err(broken)? {
                let name = version.name(endian, strings).map_err(broken)?;
                glibc = glibc.max(glibc_version(name));
            }
        }
    }
    match glibc {
        Some(needed) if needed > glibc_max => {
            let ((major, minor), (max_major, max_minor)) = (needed, glibc_max);
            Err(format!(
                "it needs glibc {major}.{minor}, the runtime has {max_major}.{max_minor}; build it \
                 on an older Linux (as in the image amazonlinux:2023), or with cargo-zigbuild"
            ))
        }
        _ => Ok((architecture, glibc)),
    }
}

/// `GLIBC_2.34` as (2, 34); none for the versions of other libraries.
fn glibc_version(name: &[u8]) -> Option<(u32, u32)> {
    let name = std::str::from_utf8(name).ok()?;
    let (major, minor) = name.strip_prefix("GLIBC_")?.split_once('.')?;
    // 2.2.5: the third number never mattered.
    let minor = minor.split('.').next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(glibc_version(b"GLIBC_2.2.5"), Some((2, 2)));
        assert_eq!(glibc_version(b"GLIBC_2.34"), Some((2, 34)));
        assert!(glibc_version(b"GLIBC_2.4") < glibc_version(b"GLIBC_2.34"));
        assert_eq!(glibc_version(b"GCC_3.0"), None);
        assert_eq!(glibc_version(b"GLIBC_PRIVATE"), None);
    }

    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn a_program_that_needs_a_later_library_is_refused() {
        // The test itself: linked against the library of this machine.
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let (_, glibc) = inspect(&program, (9, 9)).unwrap();
        let (major, minor) = glibc.expect("a need");
        assert!(major == 2 && minor >= 17, "{major}.{minor}");
        let reason = inspect(&program, (2, minor - 1)).unwrap_err();
        assert!(
            reason.contains(&format!("it needs glibc 2.{minor}")),
            "{reason}"
        );
    }

    #[test]
    fn what_is_no_program_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        std::fs::write(&path, "#!/bin/sh").unwrap();
        let error = Package::from_program(&path).unwrap_err().to_string();
        assert!(error.contains("not a 64-bit Linux program"), "{error}");
        let missing = Package::from_program(&folder.path().join("none")).unwrap_err();
        assert!(matches!(missing, PackageError::Unreadable { .. }));
    }

    #[test]
    fn the_zip_file_holds_an_executable_and_is_always_the_same() {
        let bytes = zip(b"a program").unwrap();
        assert_eq!(bytes, zip(b"a program").unwrap());
        let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
        let mut file = archive.by_name("bootstrap").unwrap();
        assert_eq!(file.unix_mode().map(|mode| mode & 0o777), Some(0o755));
        let mut content = String::new();
        file.read_to_string(&mut content).unwrap();
        assert_eq!(content, "a program");
    }
}
