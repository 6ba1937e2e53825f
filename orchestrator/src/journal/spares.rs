//! Files of zeros, made ahead of time, that become the next segments.
//!
//! Overwriting a file that exists makes a sync five to ten times cheaper than growing one, but writing the
//! zeros takes a while: a thread of its own does it, so that the committer never waits for it in passing.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::disk::Disk;
use super::error::{JournalError, doing, is_full};

/// Unused files kept. Two, so that a burst that fills a segment while one is recycled finds the next ready.
const SPARES_MAX: usize = 2;

const SUFFIX: &str = ".spare";

#[derive(Debug)]
pub(super) struct Spares {
    disk: Arc<dyn Disk>,
    bytes: u64,
    ready: Vec<String>,
    next_number: u64,
    maker: Option<Maker>,
    making: bool,
    trouble: Option<io::Error>,
}

impl Spares {
    /// Takes over the spare files that an earlier run left; those of another size are deleted.
    pub(super) fn find(
        disk: &Arc<dyn Disk>,
        files: &[(String, u64)],
        bytes: u64,
        in_background: bool,
    ) -> Result<Self, JournalError> {
        let mut spares = Self {
            disk: Arc::clone(disk),
            bytes,
            ready: Vec::new(),
            next_number: 1,
            maker: None,
            making: false,
            trouble: None,
        };
        for (name, length) in files {
            let Some(number) = name.strip_suffix(SUFFIX).and_then(|stem| stem.parse().ok()) else {
                continue;
            };
            spares.next_number = spares.next_number.max(number).saturating_add(1);
            if *length == bytes && spares.ready.len() < SPARES_MAX {
                spares.ready.push(name.clone());
            } else {
                disk.remove(name).map_err(doing("deleting the spare file", name))?;
            }
        }
        if in_background {
            spares.maker = Some(Maker::start(disk)?);
        }
        Ok(spares)
    }

    /// Has one made in the background, unless one is there or on its way. Returns at once.
    pub(super) fn prepare(&mut self) {
        self.collect();
        if !self.ready.is_empty() || self.making || self.trouble.is_some() {
            return;
        }
        let name = self.next_name();
        if let Some(maker) = &self.maker {
            self.making = maker
                .orders
                .as_ref()
                .is_some_and(|orders| orders.try_send(Order { name, bytes: self.bytes }).is_ok());
        }
    }

    /// A file of zeros, or of what an earlier segment left: the one ready, the one under way, or a new one.
    pub(super) fn take(&mut self) -> Result<String, JournalError> {
        if self.ready.is_empty() && self.making {
            let outcome = self.maker.as_ref().and_then(|maker| maker.made.recv().ok());
            self.making = false;
            self.note(outcome);
        }
        self.collect();
        match self.ready.pop() {
            Some(name) => Ok(name),
            // Asked once more even after trouble in the background: there may be space again.
            None => {
                let name = self.next_name();
                self.make(&name, self.bytes)?;
                self.trouble = None;
                Ok(name)
            }
        }
    }

    /// A file of a size of its own.
    pub(super) fn make_of(&mut self, bytes: u64) -> Result<String, JournalError> {
        let name = self.next_name();
        self.make(&name, bytes)?;
        Ok(name)
    }

    /// The name under which a retired segment of this size is kept, if it is wanted.
    pub(super) fn name_for_retired(&mut self, bytes: u64, already: usize) -> Option<String> {
        (bytes == self.bytes && self.ready.len() + already < SPARES_MAX).then(|| self.next_name())
    }

    /// Takes in retired segments whose new names are durable.
    pub(super) fn keep(&mut self, names: Vec<String>) {
        self.ready.extend(names);
        self.trouble = None;
    }

    /// Why the next segment can't be prepared, if so. A new attempt is made when it is needed.
    pub(super) fn trouble(&self) -> Option<&io::Error> {
        self.trouble.as_ref()
    }

    /// # Errors
    /// [`JournalError::NoRoom`] may be tried again; anything else is final.
    fn make(&self, name: &str, bytes: u64) -> Result<(), JournalError> {
        let made = self.disk.create_preallocated(name, bytes);
        made.map(drop).map_err(|source| match is_full(&source) {
            // A file that could not be made left nothing behind.
            true => JournalError::NoRoom { bytes, source },
            false => doing("preparing the segment", name)(source),
        })
    }

    fn collect(&mut self) {
        if self.making
            && let Some(outcome) = self.maker.as_ref().and_then(|maker| maker.made.try_recv().ok())
        {
            self.making = false;
            self.note(Some(outcome));
        }
    }

    fn note(&mut self, outcome: Option<Made>) {
        match outcome {
            Some(Ok(name)) => self.ready.push(name),
            Some(Err(error)) => self.trouble = Some(error),
            None => self.trouble = Some(io::Error::other("the preparing thread has ended")),
        }
    }

    fn next_name(&mut self) -> String {
        let name = format!("{:020}{SUFFIX}", self.next_number);
        self.next_number += 1;
        name
    }
}

#[derive(Debug)]
struct Order {
    name: String,
    bytes: u64,
}

type Made = io::Result<String>;

/// The thread that writes zeros. One order at a time; it ends when its owner is dropped, which waits for it.
#[derive(Debug)]
struct Maker {
    orders: Option<SyncSender<Order>>,
    made: Receiver<Made>,
    thread: Option<JoinHandle<()>>,
}

impl Maker {
    fn start(disk: &Arc<dyn Disk>) -> Result<Self, JournalError> {
        let disk = Arc::clone(disk);
        let (orders, next_order) = sync_channel::<Order>(1);
        let (report, made) = sync_channel::<Made>(1);
        let work = move || {
            while let Ok(Order { name, bytes }) = next_order.recv() {
                let outcome = disk.create_preallocated(&name, bytes).map(|_| name);
                if report.send(outcome).is_err() {
                    break;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("journal-spares".to_owned())
            .spawn(work)
            .map_err(doing("starting the thread that prepares segments for", "the journal"))?;
        Ok(Self { orders: Some(orders), made, thread: Some(thread) })
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            tracing::error!("The thread that prepares segments has panicked.");
        }
    }
}
