//! A schema registry: ids for what is written, schemas for what is read, and nobody in the middle of his work waits for either.
//!
//! ```text
//! at the start   contracts ─► agree ─► ids of all that is sent, compatible with what is there ─┐
//! while reading  a body with an unknown id ─► wait_for, before it is handed on ───────────────┼─► ids ─► codec
//! after a restart the folder of what was met ─────────────────────────────────────────────────┘
//! ```
//!
//! [`SchemaRegistry::codec`] only looks into the ids. So no commit and no relay waits for a registry, and a body that was stored
//! is read again without one. While the registry is away, messages with unknown ids wait at the door; only what it says that it
//! does not have is a message's fault.

mod client;
mod kept;
mod settings;

pub use client::ANSWER_BYTES_MAX;
pub use settings::{
    ANSWER_WAIT_MAX, Compatibility, Credentials, RegistrySettings, START_WAIT_MAX, Subjects,
};

use crate::{
    Bodies, Incompatible, SchemaError,
    bodies::{WrittenBy, split},
    compatibility::fits,
    ids::{Entry, IDS_MAX, Ids},
    known::{Known, known, known_stranger, known_writer},
};
use client::Client;
use dirigent_model::message::{Contract, Format};
use kept::Kept;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, Instant},
};

/// The first pause before a registry that is away is asked again.
const PAUSE_FIRST: Duration = Duration::from_millis(200);

/// The longest one. A registry that comes back is found again within it.
pub const PAUSE_MAX: Duration = Duration::from_secs(10);

/// How often whoever waits looks whether he is to stop.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Answers of *no such schema* before an id is believed to be missing: a registry may be behind its leader for a moment.
pub const MISSING_ANSWERS: u32 = 3;

/// A trouble with a schema registry. Holds no secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// Its settings can't be used.
    #[error("the schema registry: {text}")]
    Setting {
        /// What is wrong, and what would be right.
        text: String,
    },
    /// It is away, or in trouble. Asking again may help.
    #[error("asking the schema registry at {registry} {doing}: {text}")]
    Unreachable {
        /// Where.
        registry: String,
        /// What it was asked.
        doing: String,
        /// What came back.
        text: String,
    },
    /// It refuses us. A person has to mend that.
    #[error("the schema registry at {registry}, asked {doing}, refused: {text}")]
    Refused {
        /// Where.
        registry: String,
        /// What it was asked.
        doing: String,
        /// What it said, and what to check.
        text: String,
    },
    /// A schema is not there, and must not be registered from here.
    #[error(
        "the schema of message `{message}` is not registered under subject `{subject}` at {registry}; register it, or \
         let this process do it by `registry.register = true`"
    )]
    NotRegistered {
        /// Whose.
        message: String,
        /// Under which name.
        subject: String,
        /// Where.
        registry: String,
    },
    /// One of two versions can't read what the other writes.
    #[error(
        "message `{message}` changed in a way that can't be used: {direction} ({which}); change the schema, or \
         say by `schemas.compatibility` what must read what"
    )]
    Incompatible {
        /// Whose.
        message: String,
        /// Who can't read what.
        direction: &'static str,
        /// Which version it was compared with.
        which: String,
        /// Which field, and why.
        #[source]
        source: Box<Incompatible>,
    },
    /// The registry's own rule for a subject refuses a schema.
    #[error(
        "the schema registry at {registry} would not take the schema of message `{message}` as the next version of \
         subject `{subject}`, whose level is {level}: {text}"
    )]
    IncompatibleThere {
        /// Whose.
        message: String,
        /// Under which name.
        subject: String,
        /// What it asks for.
        level: String,
        /// Where.
        registry: String,
        /// What it says, and what is found here.
        text: String,
    },
    /// An id stands for another schema than before.
    #[error(
        "schema {id} of the registry at {registry} is another one than this data folder knows by that number: the registry was \
         replaced, or the address is that of another one; say the right one, or restore it"
    )]
    Changed {
        /// Which id.
        id: u32,
        /// Where.
        registry: String,
    },
    /// More ids than a process keeps.
    #[error(
        "keeping schema {id}: the process already keeps {IDS_MAX} ids; is a sender registering schemas as it goes?"
    )]
    TooMany {
        /// The one too many.
        id: u32,
    },
    /// A message that travels in Avro has no schema, or one that can't be used.
    #[error(
        "message `{message}` travels in Avro on channel `{channel}` and has no usable schema; set Message::SCHEMA"
    )]
    Schema {
        /// Which.
        message: &'static str,
        /// Where.
        channel: &'static str,
        /// What is wrong with it.
        #[source]
        source: Option<SchemaError>,
    },
    /// The folder of the schemas that were met.
    #[error("{doing} {}; check the permissions and the disk", .path.display())]
    Folder {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl RegistryError {
    /// Whether asking again may help without anybody's help.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// A schema registry, as one process uses it. Calls that ask it block: make them where that is allowed.
pub struct SchemaRegistry {
    settings: RegistrySettings,
    client: Client,
    ids: Arc<Ids>,
    codec: Arc<Bodies>,
    kept: OnceLock<Kept>,
}

impl SchemaRegistry {
    /// Nothing is asked yet.
    ///
    /// # Errors
    /// Settings that can't be used.
    pub fn new(settings: RegistrySettings) -> Result<Self, RegistryError> {
        let client = Client::new(&settings)?;
        let ids = Arc::new(Ids::default());
        let codec = Arc::new(Bodies::with_ids(Arc::clone(&ids)));
        Ok(Self { settings, client, ids, codec, kept: OnceLock::new() })
    }

    /// Reads and writes bodies with the ids that are known.
    pub fn codec(&self) -> Arc<Bodies> {
        Arc::clone(&self.codec)
    }

    /// Where it is, for people.
    pub fn shown(&self) -> &str {
        self.client.shown()
    }

    /// Keeps the schemas that are met in this folder, and knows those that were. The first folder named is the one.
    ///
    /// # Errors
    /// The folder can't be used.
    pub fn keep_in(&self, folder: &Path) -> Result<(), RegistryError> {
        if self.kept.get().is_some() {
            return Ok(());
        }
        let (kept, found) = Kept::open(folder)?;
        for (id, text) in &found.schemas {
            self.take(*id, text)?;
        }
        // What others of this process have met before is needed after a restart as well.
        for (id, known) in self.ids.known() {
            kept.write(id, known.text)?;
        }
        // Whoever comes second finds the same schemas known.
        let _ = self.kept.set(kept);
        for id in found.damaged {
            self.until(Instant::now() + self.settings.start_wait_max, || self.look_up(id))?;
        }
        Ok(())
    }

    /// Gets the ids of all that is sent, and makes sure that what changed can be read. Waits for a registry that is away, but not
    /// for ever. Messages that do not travel in Avro are passed over.
    ///
    /// # Errors
    /// All that keeps this process from talking to the others; the first one found.
    pub fn agree(&self, contracts: &[Contract]) -> Result<(), RegistryError> {
        let deadline = Instant::now() + self.settings.start_wait_max;
        let (mut sent, mut read) = (BTreeMap::new(), BTreeMap::new());
        for contract in contracts.iter().filter(|contract| contract.format == Format::Avro) {
            let unusable = |source| RegistryError::Schema {
                message: contract.name,
                channel: contract.channel,
                source,
            };
            let text = contract.schema.ok_or_else(|| unusable(None))?;
            let own = known(text).map_err(|error| unusable(Some(error)))?;
            let subject = self.settings.subjects.of(contract.channel, &own.name);
            let all = if contract.sent { &mut sent } else { &mut read };
            all.entry((subject, own.text)).or_insert((own, contract.name));
        }
        for ((subject, _), (own, message)) in &sent {
            let id = self.until(deadline, || self.id_of(subject, own, message))?;
            self.keep(id, own.text)?;
            self.ids.put_own(id, own).map_err(|_| self.changed(id))?;
        }
        for ((subject, text), (own, message)) in &read {
            if !sent.contains_key(&(subject.clone(), text)) {
                self.until(deadline, || self.readable(subject, own, message))?;
            }
        }
        Ok(())
    }

    /// The id of the schema of a body that has to be looked up before the body is read.
    pub fn wants(&self, format: Format, body: &[u8]) -> Option<u32> {
        match (format, split(body)) {
            (Format::Avro, Ok((WrittenBy::Id(id), _))) => {
                self.ids.wants(id, Instant::now()).then_some(id)
            }
            _ => None,
        }
    }

    /// Waits until an id is known, or known to be missing. Asks as long as it takes, with growing pauses; `goes_on` is asked
    /// meanwhile whether to. Tells whether the id is settled.
    ///
    /// # Errors
    /// Only what no waiting can mend here: the disk, or more ids than are kept.
    pub fn wait_for(&self, id: u32, goes_on: impl Fn() -> bool) -> Result<bool, RegistryError> {
        let (mut pause, mut missing) = (PAUSE_FIRST, 0);
        while goes_on() {
            match self.look_up(id) {
                Ok(true) => return Ok(true),
                Ok(false) => {
                    missing += 1;
                    if missing >= MISSING_ANSWERS {
                        tracing::warn!(
                            id,
                            registry = self.shown(),
                            "The schema registry has no such schema."
                        );
                        self.ids.put_missing(id, Instant::now());
                        return Ok(true);
                    }
                }
                Err(
                    error @ (RegistryError::Unreachable { .. } | RegistryError::Refused { .. }),
                ) => {
                    missing = 0;
                    tracing::warn!(id, %error, ?pause, "A message waits for its schema, asking again.");
                }
                Err(error) => return Err(error),
            }
            let until = Instant::now() + pause;
            while goes_on() && Instant::now() < until {
                thread::sleep(LOOK_EVERY.min(until.saturating_duration_since(Instant::now())));
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
        Ok(false)
    }

    /// Asks once for the schema of an id. Whether the registry has it.
    fn look_up(&self, id: u32) -> Result<bool, RegistryError> {
        if matches!(self.ids.get(id), Some(Entry::Known(_) | Entry::Unusable(_))) {
            return Ok(true);
        }
        let Some(written) = self.client.schema(id)? else { return Ok(false) };
        match written.why_unusable() {
            Some(why) => self.ids.put_unusable(id, &why),
            None => {
                // Durable before a body that needs it can be.
                self.keep(id, &written.schema)?;
                self.take(id, &written.schema)?;
            }
        }
        Ok(true)
    }

    fn keep(&self, id: u32, text: &str) -> Result<(), RegistryError> {
        self.kept.get().map_or(Ok(()), |kept| kept.write(id, text))
    }

    /// Reads bodies with this id from now on.
    fn take(&self, id: u32, text: &str) -> Result<(), RegistryError> {
        if self.ids.is_full() {
            return Err(RegistryError::TooMany { id });
        }
        match known_stranger(text) {
            Ok(known) => self.ids.put(id, known).map_err(|_| self.changed(id)),
            Err(error) => {
                self.ids.put_unusable(id, &describe(&error));
                Ok(())
            }
        }
    }

    /// The id of a schema that is sent: as it is there, or registered now.
    fn id_of(
        &self,
        subject: &str,
        own: &'static Known,
        message: &str,
    ) -> Result<u32, RegistryError> {
        if let Some(id) = self.client.id_of(subject, own.text)? {
            return Ok(id);
        }
        if let Some(latest) = self.client.latest(subject)? {
            let rule = self.settings.compatibility;
            let compared = if latest.written.why_unusable().is_none() {
                fits(&latest.written.schema, own.text, rule)
            } else {
                Ok(())
            };
            let which =
                || format!("version {} of subject `{subject}` at {}", latest.version, self.shown());
            if let Err((direction, source)) = compared {
                let message = message.to_owned();
                return Err(RegistryError::Incompatible {
                    message,
                    direction,
                    which: which(),
                    source: Box::new(source),
                });
            }
            if let Some(text) = self.client.why_incompatible(subject, own.text)? {
                let here = fits(&latest.written.schema, own.text, Compatibility::Full).err();
                let here = here.map(|(_, found)| format!("; {found}")).unwrap_or_default();
                return Err(RegistryError::IncompatibleThere {
                    message: message.to_owned(),
                    subject: subject.to_owned(),
                    level: self.client.level(subject)?.unwrap_or_else(|| "not told".into()),
                    registry: self.shown().to_owned(),
                    text: format!("{text}{here}"),
                });
            }
        }
        if !self.settings.register {
            return Err(RegistryError::NotRegistered {
                message: message.to_owned(),
                subject: subject.to_owned(),
                registry: self.shown().to_owned(),
            });
        }
        let id = self.client.register(subject, own.text)?;
        tracing::info!(subject, id, "A schema is registered.");
        Ok(id)
    }

    /// Makes sure that what is sent to us now can be read. Nobody may have sent any yet.
    fn readable(
        &self,
        subject: &str,
        own: &'static Known,
        message: &str,
    ) -> Result<(), RegistryError> {
        let Some(latest) = self.client.latest(subject)? else { return Ok(()) };
        if latest.written.why_unusable().is_none() {
            let rule = match self.settings.compatibility {
                Compatibility::None => Compatibility::None,
                _ => Compatibility::Backward,
            };
            fits(&latest.written.schema, own.text, rule).map_err(|(direction, source)| {
                RegistryError::Incompatible {
                    message: message.to_owned(),
                    direction,
                    which: format!(
                        "version {} of subject `{subject}` at {}",
                        latest.version,
                        self.shown()
                    ),
                    source: Box::new(source),
                }
            })?;
            self.keep(latest.id, &latest.written.schema)?;
            self.take(latest.id, &latest.written.schema)?;
        }
        Ok(())
    }

    /// Asks again as long as that may help and there is time.
    fn until<T>(
        &self,
        deadline: Instant,
        ask: impl Fn() -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let mut pause = PAUSE_FIRST;
        loop {
            match ask() {
                Err(error) if error.is_passing() && Instant::now() + pause < deadline => {
                    tracing::warn!(%error, ?pause, "The schema registry is away, asking again.");
                    thread::sleep(pause);
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                asked => return asked,
            }
        }
    }

    fn changed(&self, id: u32) -> RegistryError {
        RegistryError::Changed { id, registry: self.shown().to_owned() }
    }
}

/// Makes sure that schemas keep to the versions of them that were released, and lets the codec read what those wrote.
///
/// `released` are the texts of old `.avsc` files, in any order; those of other records are only learned.
///
/// # Errors
/// A version that can't be used, or an incompatible change, with its field.
pub fn keep_to_released(
    codec: &Bodies,
    contracts: &[Contract],
    released: &[(String, String)],
    rule: Compatibility,
) -> Result<(), RegistryError> {
    let mut own = BTreeSet::new();
    for contract in contracts.iter().filter(|contract| contract.format == Format::Avro) {
        let unusable = |source| RegistryError::Schema {
            message: contract.name,
            channel: contract.channel,
            source,
        };
        let text = contract.schema.ok_or_else(|| unusable(None))?;
        let known = known(text).map_err(|error| unusable(Some(error)))?;
        own.insert((known.name.as_str(), contract.name, text));
    }
    for (file, text) in released {
        let unusable = |error: SchemaError| RegistryError::Setting {
            text: format!("reading the released schema {file}: {}", describe(&error)),
        };
        let old = known_writer(text).map_err(unusable)?;
        codec.learn(text).map_err(unusable)?;
        for (_, message, new) in own.iter().filter(|(name, ..)| *name == old.name) {
            fits(text, new, rule).map_err(|(direction, source)| RegistryError::Incompatible {
                message: (*message).to_owned(),
                direction,
                which: file.clone(),
                source: Box::new(source),
            })?;
        }
    }
    Ok(())
}

fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
