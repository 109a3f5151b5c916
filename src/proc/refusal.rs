//! Why the system does not run a program that is there. Its own words mislead: a missing interpreter
//! is "No such file or directory", and half a download has an "Exec format error".

use std::{
    fs::File,
    io::{self, ErrorKind, Read as _},
    path::Path,
    process::Command,
};

use rustix::io::Errno;

/// The kernel reads no more of a script's first line.
const FIRST_LINE: u64 = 256;

/// The error of starting `command`, in words for people if it is about the program itself.
pub(super) fn explain(command: &Command, error: io::Error) -> io::Error {
    let program = Path::new(command.get_program());
    let why = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT) => lacks(program),
        Some(Errno::NOEXEC) => format(program),
        _ => return error,
    };
    io::Error::new(ErrorKind::InvalidData, format!("{} can't be run: {why}", program.display()))
}

fn start_of(program: &Path) -> Vec<u8> {
    let mut start = Vec::new();
    // What can't be read is told as what is empty: it is an executable all the same.
    File::open(program).and_then(|file| file.take(FIRST_LINE).read_to_end(&mut start)).ok();
    start
}

/// The program is there, so the system misses what it is run by.
fn lacks(program: &Path) -> String {
    let start = start_of(program);
    let Some(line) = start.strip_prefix(b"#!") else {
        return "the loader that it names does not exist; it is made for another system".to_owned();
    };
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii_start();
    let name = line.split(|byte| matches!(byte, b' ' | b'\t')).next().unwrap_or_default();
    let interpreter = String::from_utf8_lossy(name.trim_ascii_end()).into_owned();
    if name.ends_with(b"\r") {
        return format!(
            "its first line names the interpreter {interpreter} and ends like a line of Windows, so \
             that the system looks for another name"
        );
    }
    format!("its interpreter {interpreter} does not exist")
}

fn format(program: &Path) -> String {
    let start = start_of(program);
    let what = match &start[..] {
        [] => "it is empty",
        [0x7f, b'E', b'L', b'F', ..] => "it is incomplete, or made for another kind of machine",
        [0xcf | 0xce, 0xfa, 0xed, 0xfe, ..] | [0xca, 0xfe, 0xba, 0xbe, ..] => {
            "it is made for macOS"
        }
        [b'M', b'Z', ..] => "it is made for Windows",
        _ if str::from_utf8(&start).is_ok_and(|text| !text.contains('\0')) => {
            "it is a text whose first line names no interpreter (`#!…`)"
        }
        _ => "it is no program, or an incomplete one",
    };
    format!("{what} (this machine is {})", std::env::consts::ARCH)
}
