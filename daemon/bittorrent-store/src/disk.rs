//! How bytes reach the disk: the [`io::Io`] trait, the names of files, whole small files, and the open content files.

pub(crate) mod files;
pub(crate) mod io;
pub(crate) mod pages;
pub(crate) mod paths;
pub(crate) mod whole_file;
