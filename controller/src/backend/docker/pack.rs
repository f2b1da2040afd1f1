//! The running program as the file system of an image: the program, and what it is linked to.
//!
//! ```text
//!   /bulkhead                                the program
//!   /lib64/ld-linux-x86-64.so.2              its loader, at the very path that the program names (static ones
//!                                            have none)
//!   /usr/lib/x86_64-linux-gnu/libc.so.6 …    the shared objects that the kernel shows it to have loaded, by their
//!                                            sonames, each in the directory that it has here
//!   /run/bulkhead/link/                      where the door's socket will be mounted
//! ```
//! Their own directories, because a loader looks there without being told: a container's program may start others
//! with an environment of its own making. Those that a loader here is told of by its configuration, which is not
//! packed, are named in the image's `LD_LIBRARY_PATH`.
//!
//! What is packed is what runs: the program is read through `/proc/self/exe`, which is right even when the file has
//! been replaced since, and the objects are those of `/proc/self/maps`, so no search path has to be guessed. What a
//! program would load only later (`dlopen`) is not there; a worker does none of that.
//!
//! The archive is the same, byte for byte, for the same program, and so is its [`Pack::hash`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use object::Endianness;
use object::elf::{DT_SONAME, FileHeader64};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// The program's path in the image.
pub(super) const PROGRAM: &str = "/bulkhead";

const PROGRAM_HERE: &str = "/proc/self/exe";
const MAPS_HERE: &str = "/proc/self/maps";

/// A program and all it needs, as a tar archive.
pub(super) struct Pack {
    /// The archive.
    pub(super) tar: Vec<u8>,
    /// SHA-256 over it, in hexadecimal.
    pub(super) hash: String,
    /// Where its shared objects are in the image.
    pub(super) libraries: BTreeSet<PathBuf>,
}

/// Why the program could not be packed.
#[derive(Debug, Error)]
pub enum PackError {
    /// A file could not be read.
    #[error("cannot read {path} to pack it into an image")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not a program or a shared object that a container could run.
    #[error("cannot pack {path} into an image: it is not a 64-bit ELF file")]
    Format {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: object::Error,
    },
    /// The archive could not be written; it is in memory.
    #[error("cannot write the archive of an image")]
    Archive(#[source] io::Error),
}

impl Pack {
    /// Packs the program that is running. Reads tens of megabytes: not for an event loop's thread.
    pub(super) fn this_program() -> Result<Self, PackError> {
        let program = read(Path::new(PROGRAM_HERE))?;
        let mut files = BTreeMap::new();
        let mut libraries = BTreeSet::new();
        if let Some(loader) = interpreter(Path::new(PROGRAM_HERE), &program)? {
            let maps = read(Path::new(MAPS_HERE))?;
            let loader_here = fs::canonicalize(&loader).unwrap_or_else(|_| loader.clone());
            for object in mapped_files(&String::from_utf8_lossy(&maps)) {
                if object == loader_here {
                    continue;
                }
                let bytes = read(&object)?;
                if let (Some(soname), Some(directory)) = (soname(&object, &bytes)?, object.parent()) {
                    libraries.insert(directory.to_owned());
                    files.insert(directory.join(soname), bytes);
                }
            }
            let bytes = read(&loader)?;
            files.insert(loader, bytes);
        }
        files.insert(PROGRAM.into(), program);
        let tar = archive(&files).map_err(PackError::Archive)?;
        let hash = Sha256::digest(&tar).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { tar, hash, libraries })
    }
}

/// The loader that a program names; `None` when it is static.
fn interpreter(path: &Path, program: &[u8]) -> Result<Option<PathBuf>, PackError> {
    let format = |source| PackError::Format { path: path.to_owned(), source };
    let header = FileHeader64::<Endianness>::parse(program).map_err(format)?;
    let endian = header.endian().map_err(format)?;
    for segment in header.program_headers(endian, program).map_err(format)? {
        if let Some(name) = segment.interpreter(endian, program).map_err(format)? {
            return Ok(Some(PathBuf::from(String::from_utf8_lossy(name).into_owned())));
        }
    }
    Ok(None)
}

/// The name that others link a shared object by; `None` for a file that is none.
fn soname(path: &Path, bytes: &[u8]) -> Result<Option<String>, PackError> {
    if !bytes.starts_with(b"\x7fELF") {
        return Ok(None);
    }
    let format = |source| PackError::Format { path: path.to_owned(), source };
    let header = FileHeader64::<Endianness>::parse(bytes).map_err(format)?;
    let endian = header.endian().map_err(format)?;
    let sections = header.sections(endian, bytes).map_err(format)?;
    let Some((entries, strings)) = sections.dynamic(endian, bytes).map_err(format)? else { return Ok(None) };
    let strings = sections.strings(endian, bytes, strings).map_err(format)?;
    for entry in entries {
        if entry.tag(endian) == DT_SONAME {
            let name = entry.string(endian, strings).map_err(format)?;
            return Ok(Some(String::from_utf8_lossy(name).into_owned()));
        }
    }
    Ok(None)
}

/// The files that are mapped to be executed. The program itself is among them; it has no soname.
fn mapped_files(maps: &str) -> BTreeSet<PathBuf> {
    maps.lines()
        .filter_map(|line| {
            // start-end perms offset device inode path
            let mut columns = line.split_ascii_whitespace();
            let executable = columns.nth(1)?.contains('x');
            let path = line.get(line.find('/')?..)?;
            (executable && !path.ends_with(" (deleted)")).then(|| path.into())
        })
        .collect()
}

/// A tar archive without dates or owners, so that it depends on nothing but the files.
fn archive(files: &BTreeMap<PathBuf, Vec<u8>>) -> io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let directory = |tar: &mut tar::Builder<Vec<u8>>, path: &Path| {
        tar.append_data(&mut header(tar::EntryType::Directory, 0), relative(path), io::empty())
    };
    let mut directories: BTreeSet<&Path> = files.keys().filter_map(|path| path.parent()).collect();
    directories.insert(Path::new("/run/bulkhead/link"));
    let with_parents: BTreeSet<&Path> =
        directories.iter().flat_map(|path| path.ancestors()).filter(|path| path.parent().is_some()).collect();
    for path in with_parents {
        directory(&mut tar, path)?;
    }
    for (path, bytes) in files {
        let size = bytes.len() as u64;
        tar.append_data(&mut header(tar::EntryType::Regular, size), relative(path), bytes.as_slice())?;
    }
    tar.into_inner()
}

fn header(kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_size(size);
    header
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

fn read(path: &Path) -> Result<Vec<u8>, PackError> {
    fs::read(path).map_err(|source| PackError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what is wrong by failing")]
mod tests {
    use super::*;

    #[test]
    fn this_very_test_is_packed_with_its_libraries() -> Result<(), Box<dyn std::error::Error>> {
        let pack = Pack::this_program()?;
        let mut paths = Vec::new();
        for entry in tar::Archive::new(pack.tar.as_slice()).entries()? {
            paths.push(entry?.path()?.display().to_string());
        }
        assert!(paths.contains(&"bulkhead".to_owned()), "{paths:?}");
        assert!(paths.contains(&"run/bulkhead/link".to_owned()), "{paths:?}");
        if interpreter(Path::new(PROGRAM_HERE), &read(Path::new(PROGRAM_HERE))?)?.is_some() {
            assert!(!pack.libraries.is_empty());
            let libc = pack.libraries.iter().map(|it| relative(&it.join("libc.so.6")).display().to_string());
            assert!(libc.into_iter().any(|libc| paths.contains(&libc)), "{paths:?}");
            assert!(paths.iter().any(|path| path.contains("ld-")), "{paths:?}");
        }
        assert_eq!(Pack::this_program()?.hash, pack.hash, "the same program is the same image");
        Ok(())
    }

    #[test]
    fn only_what_is_executed_is_a_library() {
        let maps = "\
7f00-7f01 r--p 00000000 fe:00 12  /usr/lib/locale/C.utf8/LC_CTYPE
7f01-7f02 r-xp 00000000 fe:00 13  /usr/lib/x86_64-linux-gnu/libc.so.6
7f02-7f03 rw-p 00000000 00:00 0
7f03-7f04 r-xp 00000000 fe:00 14  /opt/my libs/libodd.so.1
7ffc-7ffd r-xp 00000000 00:00 0  [vdso]";
        assert_eq!(
            mapped_files(maps).into_iter().collect::<Vec<_>>(),
            [Path::new("/opt/my libs/libodd.so.1"), Path::new("/usr/lib/x86_64-linux-gnu/libc.so.6")]
        );
    }

    #[test]
    fn what_is_no_program_is_refused_by_name() {
        let error = interpreter(Path::new("/bin/script"), b"#!/bin/sh\n").unwrap_err();
        insta::assert_snapshot!(error, @"cannot pack /bin/script into an image: it is not a 64-bit ELF file");
    }
}
