//! What is really on the disk: the one part of this module that looks at anything.

use std::{fs, io, path::Path};

use super::place::{Found, Places};

#[derive(Clone, Copy, Debug)]
pub struct RealPlaces;

impl Places for RealPlaces {
    fn look(&self, path: &Path) -> Found {
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_symlink() => {
                fs::read_link(path).map_or(Found::Unknown, Found::Link)
            }
            Ok(_) => Found::Plain,
            // Below a file there is nothing, either.
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Found::Plain,
                _ => Found::Unknown,
            },
        }
    }
}
