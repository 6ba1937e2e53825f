//! Where the control socket lies, however long the path of the data folder is.
//!
//! The address of a Unix socket holds about a hundred bytes. A longer path is taken by way of the open folder,
//! which the system shows under a short name; so there is one place to look, and nothing to keep in step.

use std::{
    fs::File,
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

/// The socket's name in the data folder.
pub(super) const NAME: &str = "control.sock";

/// Bytes of a path that every system takes as the address of a Unix socket, with room for a name that is not final yet.
const PATH_BYTES_MAX: usize = 90;

/// A data folder as the addresses of sockets in it name it.
pub(super) struct Place {
    short: PathBuf,
    /// Open as long as the short name is used.
    _folder: Option<File>,
}

impl Place {
    pub(super) fn of(folder: &Path) -> io::Result<Self> {
        if folder.as_os_str().len() + NAME.len() < PATH_BYTES_MAX {
            return Ok(Self { short: folder.to_owned(), _folder: None });
        }
        let opened = File::open(folder)?;
        let short = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
        if !short.exists() {
            let text = format!(
                "the path of {NAME} is too long for a socket here; use a data folder with a path below {} bytes",
                PATH_BYTES_MAX - NAME.len()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(Self { short, _folder: Some(opened) })
    }

    pub(super) fn socket(&self, name: &str) -> PathBuf {
        self.short.join(name)
    }
}
