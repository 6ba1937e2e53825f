//! What the journal asks of a disk, and the real one.
//!
//! One folder of files, named without a path. [`SimDisk`](super::SimDisk) promises the same and loses
//! whatever was not synced; [`conformance`] runs against both.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use fs4::fs_std::FileExt as _;
use rustix::fs::{Advice, fadvise};

/// A folder of files, with an explicit moment for everything that has to survive a power cut.
///
/// Called by the committer's thread and by the one that prepares segments.
pub trait Disk: Debug + Send + Sync {
    /// Every file: its name and its length in bytes.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;

    /// Makes a new file of `bytes` zeros. Content and length are durable when it returns; the name is
    /// after the next [`sync_dir`](Disk::sync_dir). An existing file is an error. On an error nothing is left behind.
    fn create_preallocated(&self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>>;

    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Renames a file; open handles stay with it. Durable after [`sync_dir`](Disk::sync_dir).
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Deletes a file. Durable after [`sync_dir`](Disk::sync_dir).
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes every creation, renaming and deletion so far durable.
    fn sync_dir(&self) -> io::Result<()>;

    /// How much room there is, if this disk can fill up.
    fn room(&self) -> io::Result<Option<Room>>;

    /// Makes a new file that takes up `bytes` of room and holds nothing: to be given up when room is needed. An existing
    /// file is an error. On an error nothing is left behind.
    fn reserve(&self, name: &str, bytes: u64) -> io::Result<()>;
}

/// The room on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes that can still be written.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
}

/// An open file.
pub trait DiskFile: Debug + Send {
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// The whole content.
    fn read(&self) -> io::Result<Vec<u8>>;

    /// Makes every write so far durable, and forgets what the disk never had: from now on [`read`](DiskFile::read) gives what the disk
    /// has. After a failed sync the system takes for written what it has in memory only, and the next sync succeeds.
    fn let_go(&self) -> io::Result<()>;

    /// Makes every write so far durable. After an error what was written is lost or not, and nobody can tell: never go on.
    fn sync_data(&self) -> io::Result<()>;
}

/// Zeros are written in pieces of this size: large enough for few system calls, small enough to live in the binary.
const ZEROS_BYTES: usize = 256 * 1024;
static ZEROS: [u8; ZEROS_BYTES] = [0; ZEROS_BYTES];

/// A folder of the machine's file system.
#[derive(Debug)]
pub struct FileDisk {
    folder: PathBuf,
    /// Held open to sync the names.
    handle: File,
}

impl FileDisk {
    /// Uses an existing folder.
    pub fn open(folder: &Path) -> io::Result<Self> {
        Ok(Self { folder: folder.to_owned(), handle: File::open(folder)? })
    }
}

impl Disk for FileDisk {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                files.push((name, metadata.len()));
            }
        }
        Ok(files)
    }

    fn create_preallocated(&self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let path = self.folder.join(name);
        let mut options = OpenOptions::new();
        // What instances carry is nobody else's business on this machine.
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        match write_zeros(&file, bytes) {
            Ok(()) => Ok(Box::new(OpenFile(file))),
            Err(error) => {
                // A half-made file would only hold the space that is already missing.
                let _ = fs::remove_file(&path);
                Err(error)
            }
        }
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.folder.join(name))?;
        Ok(Box::new(OpenFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.folder.join(from), self.folder.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.folder.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    fn room(&self) -> io::Result<Option<Room>> {
        let volume = fs4::statvfs(&self.folder)?;
        Ok(Some(Room { free: volume.available_space(), total: volume.total_space() }))
    }

    fn reserve(&self, name: &str, bytes: u64) -> io::Result<()> {
        let path = self.folder.join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        // Blocks without content: at once, where a file of zeros would take its time.
        file.allocate(bytes).inspect_err(|_| {
            let _ = fs::remove_file(&path);
        })
    }
}

fn write_zeros(file: &File, bytes: u64) -> io::Result<()> {
    let mut offset = 0;
    while offset < bytes {
        let piece = (bytes - offset).min(ZEROS_BYTES as u64);
        let length = usize::try_from(piece).expect("a piece is at most ZEROS_BYTES");
        file.write_all_at(&ZEROS[..length], offset)?;
        offset += piece;
    }
    file.sync_all()
}

#[derive(Debug)]
struct OpenFile(File);

impl DiskFile for OpenFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        let bytes = usize::try_from(self.0.metadata()?.len())
            .map_err(|_| io::Error::other("the file is larger than the memory"))?;
        let mut content = vec![0; bytes];
        self.0.read_exact_at(&mut content, 0)?;
        Ok(content)
    }

    fn let_go(&self) -> io::Result<()> {
        self.0.sync_data()?;
        Ok(fadvise(&self.0, 0, None, Advice::DontNeed)?)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// What every disk owes the journal.
#[cfg(test)]
pub(super) mod conformance {
    use super::Disk;

    pub(in crate::journal) fn a_disk_keeps_its_promises(disk: &dyn Disk) {
        assert_eq!(disk.list().expect("list"), vec![]);
        let file = disk.create_preallocated("a", 1024).expect("create");
        assert_eq!(file.read().expect("read"), vec![0; 1024]);
        file.write_at(500, b"across a sector border").expect("write");
        file.sync_data().expect("sync");
        disk.create_preallocated("a", 8).expect_err("a name is taken once");
        disk.create_preallocated("b", 600_001).expect("create");

        disk.rename("a", "c").expect("rename");
        file.write_at(0, b"through the old handle").expect("write");
        disk.sync_dir().expect("sync names");
        let again = disk.open("c").expect("open");
        let content = again.read().expect("read");
        assert_eq!(&content[500..522], b"across a sector border");
        assert_eq!(&content[..22], b"through the old handle");
        again.let_go().expect("let go");
        assert_eq!(again.read().expect("read"), content, "nothing is lost by it");

        let mut names = disk.list().expect("list");
        names.sort();
        assert_eq!(names, vec![("b".to_owned(), 600_001), ("c".to_owned(), 1024)]);
        disk.remove("b").expect("remove");
        disk.open("b").expect_err("it was removed");
        disk.remove("b").expect_err("it was removed");
        disk.rename("b", "d").expect_err("it was removed");
        assert_eq!(disk.list().expect("list"), vec![("c".to_owned(), 1024)]);

        disk.reserve("r", 300_000).expect("reserve");
        disk.reserve("r", 8).expect_err("a name is taken once");
        disk.remove("r").expect("remove");
        let room = disk.room().expect("room");
        assert!(room.is_none_or(|room| room.free <= room.total));
    }

    #[test]
    fn the_file_system_does() {
        let folder = tempfile::tempdir().expect("a folder");
        a_disk_keeps_its_promises(&super::FileDisk::open(folder.path()).expect("it exists"));
    }

    #[test]
    fn the_simulated_one_does() {
        a_disk_keeps_its_promises(&super::super::SimDisk::new());
    }
}
