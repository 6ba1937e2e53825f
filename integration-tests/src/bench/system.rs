//! What the system says of this process and its machine: the only place that reads `/proc` and `/sys`.
//!
//! Linux only. What can't be read is not known, and a benchmark goes on without it.

use serde::{Deserialize, Serialize};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Memory of this process that is not swapped out (bytes).
pub(super) fn resident_bytes() -> Option<u64> {
    field_kib(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// Bytes that this process has made the disk write, ever, or will have once they are written.
pub(super) fn written_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/io").ok()?;
    text.lines().find_map(|line| line.strip_prefix("write_bytes:"))?.trim().parse().ok()
}

/// How many processes wanted to run in the last minute.
pub(super) fn load_average() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// What a file or folder takes of the disk (bytes). Files that go away meanwhile take nothing.
pub(super) fn disk_bytes(path: &Path) -> u64 {
    let Ok(about) = fs::symlink_metadata(path) else { return 0 };
    let own = about.blocks() * 512;
    let below = fs::read_dir(path).into_iter().flatten().flatten();
    own + match about.is_dir() {
        true => below.map(|entry| disk_bytes(&entry.path())).sum(),
        false => 0,
    }
}

fn field_kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// The machine that was measured. Neither its name nor its address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Machine {
    /// The processor, as it names itself.
    pub processor: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Memory (GiB).
    pub memory_gib: u64,
    /// The kernel's release.
    pub kernel: String,
    /// What the measured folder lies on: its file system and its disk.
    pub disk: String,
}

impl Machine {
    /// This one, with the disk that this folder lies on.
    pub(super) fn here(folder: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let processor = read("/proc/cpuinfo");
        let processor = processor.lines().find_map(|line| line.strip_prefix("model name"));
        let processor =
            processor.and_then(|rest| rest.split_once(':')).map(|(_, name)| name.trim());
        let gib = 1_u64 << 30;
        let memory = field_kib(&read("/proc/meminfo"), "MemTotal:").unwrap_or_default();
        Self {
            processor: processor.unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: (memory + gib / 2) / gib,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            disk: disk_of(folder).unwrap_or_else(|| "unknown".into()),
        }
    }
}

/// The file system of a folder, and the kind of its disk.
fn disk_of(folder: &Path) -> Option<String> {
    let folder = fs::canonicalize(folder).ok()?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let within = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (device, place, kind) = (words.next()?, words.next()?, words.next()?);
        folder.starts_with(place).then_some((place.len(), device, kind))
    });
    // The last of those that are mounted at one place is the one that is seen.
    let (_, device, kind) = within.max_by_key(|(length, ..)| *length)?;
    let name = device.rsplit('/').next().unwrap_or(device);
    let rotates = block_device(name)
        .and_then(|block| fs::read_to_string(block.join("queue/rotational")).ok())
        .map_or("", |text| {
            if text.trim() == "1" { ", says it rotates" } else { ", says it does not rotate" }
        });
    let bus = match name {
        name if name.starts_with("nvme") => "NVMe",
        name if name.starts_with("vd") => "a virtual disk (virtio)",
        name if name.starts_with("sd") => "SCSI or SATA",
        _ => "a device of another kind",
    };
    Some(format!("{kind} on {bus}{rotates}"))
}

/// Where the system tells of the disk that a partition lies on.
fn block_device(name: &str) -> Option<PathBuf> {
    let blocks = Path::new("/sys/class/block");
    let own = blocks.join(name);
    if own.join("queue").is_dir() {
        return Some(own);
    }
    let disk = fs::canonicalize(own).ok()?;
    disk.parent().filter(|disk| disk.join("queue").is_dir()).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_and_its_machine_are_known() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
        assert!(load_average().is_some());
        let machine = Machine::here(Path::new("."));
        assert!(machine.cores >= 1 && !machine.kernel.is_empty(), "{machine:?}");
    }

    #[test]
    fn a_folder_takes_what_its_files_take() {
        let folder = tempfile::tempdir().unwrap();
        let empty = disk_bytes(folder.path());
        std::fs::create_dir(folder.path().join("below")).unwrap();
        std::fs::write(folder.path().join("below/file"), vec![1; 100_000]).unwrap();
        assert!(disk_bytes(folder.path()) >= empty + 100_000);
        assert_eq!(disk_bytes(&folder.path().join("none")), 0);
    }

    #[test]
    fn a_field_is_read_by_its_name() {
        assert_eq!(field_kib("VmPeak:\t 10 kB\nVmRSS:\t    4 kB\n", "VmRSS:"), Some(4_096));
        assert_eq!(field_kib("VmPeak:\t 10 kB\n", "VmRSS:"), None);
    }
}
