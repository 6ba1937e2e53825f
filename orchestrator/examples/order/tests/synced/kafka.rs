//! What a client of Kafka sent over a socket: from the bytes of one direction to what it produced and which offsets it committed.
//!
//! In: pieces of bytes in their order, each with a number for its moment. Out: what was said, each at the moment of its request's first
//! byte. Ids are looked for in the headers of records, which are not compressed here.

use std::collections::BTreeMap;

/// The kind of request that holds records.
const PRODUCE: u16 = 0;

/// The kind of request that commits offsets of a group, and the versions of it that are known here.
const COMMIT: u16 = 8;
const COMMIT_VERSIONS: std::ops::RangeInclusive<u64> = 8..=9;

/// The kind of request that a connection begins with: which ones are known.
const VERSIONS: u16 = 18;

/// How the topic is called that says who owns a group. Offsets of it are committed to ask whose the group is, not to settle anything.
const OWNER: &str = ".owner";

/// A topic and one of its partitions.
pub type Place = (String, u32);

/// Ids of messages, by the place they lie at and their offset.
pub type Logs = BTreeMap<Place, BTreeMap<u64, String>>;

/// Whether a connection begins like that.
pub fn begins(bytes: &[u8]) -> bool {
    bytes.get(4..6).is_some_and(|kind| kind == VERSIONS.to_be_bytes())
}

/// Something that concerns messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    Produced {
        id: String,
    },
    /// Everything below `next` is settled.
    Committed {
        place: Place,
        next: u64,
    },
}

/// The header of a record that holds the id of its message, behind its length: others begin with the same letters.
const ID: &[u8] = b"\x0ace_id";

/// One connection, from the client's side.
#[derive(Default)]
pub struct Connection {
    bytes: Vec<u8>,
    /// From which place on bytes were sent at which moment.
    pieces: Vec<(usize, usize)>,
    read: usize,
}

impl Connection {
    pub fn sends(&mut self, at: usize, bytes: &[u8], mut tell: impl FnMut(usize, Said)) {
        self.pieces.push((self.bytes.len(), at));
        self.bytes.extend_from_slice(bytes);
        while let Some((length, rest)) = self.bytes[self.read..].split_first_chunk::<4>()
            && let Some(request) = rest.get(..u32::from_be_bytes(*length) as usize)
        {
            let piece = self.pieces.partition_point(|(from, _)| *from <= self.read) - 1;
            let at = self.pieces[piece].1;
            if request.starts_with(&PRODUCE.to_be_bytes()) {
                ids(request).for_each(|id| tell(at, Said::Produced { id }));
            } else if request.starts_with(&COMMIT.to_be_bytes()) {
                committed(request).into_iter().for_each(|said| tell(at, said));
            }
            self.read += 4 + request.len();
        }
    }
}

/// Values of the headers of that name. Lengths are written as zigzag numbers of seven bits a byte.
fn ids(request: &[u8]) -> impl Iterator<Item = String> {
    let named: Vec<usize> =
        (0..request.len()).filter(|at| request[*at..].starts_with(ID)).collect();
    named.into_iter().filter_map(|at| {
        let mut fields = Fields(&request[at + ID.len()..]);
        let length = fields.varint() >> 1;
        Some(String::from_utf8_lossy(fields.0.get(..length)?).into_owned())
    })
}

/// The offsets in a request that commits some.
fn committed(request: &[u8]) -> Vec<Said> {
    let mut fields = Fields(request);
    let (_kind, version) = (fields.number(2), fields.number(2));
    let is_known = COMMIT_VERSIONS.contains(&version);
    assert!(is_known, "offsets are committed in version {version}, of which nothing is known here");
    // The number of the request, and the name of the client, which may have none.
    fields.take(4);
    let length = fields.number(2);
    fields.take(if length == u64::from(u16::MAX) { 0 } else { length as usize });
    fields.tags();
    // Group, generation, member and its lasting name.
    fields.text();
    fields.take(4);
    fields.text();
    fields.text();
    let mut said = Vec::new();
    for _ in 0..fields.many() {
        let topic = fields.text();
        for _ in 0..fields.many() {
            let (partition, next) = (fields.number(4), fields.number(8));
            // The leader's epoch, and words for people.
            fields.take(4);
            fields.text();
            fields.tags();
            if !topic.ends_with(OWNER) {
                let partition = u32::try_from(partition).expect("it has four bytes");
                said.push(Said::Committed { place: (topic.clone(), partition), next });
            }
        }
        fields.tags();
    }
    said
}

/// What is left of a request, in the forms of its later versions.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at_checked(bytes).expect("a request holds all its fields");
        self.0 = rest;
        taken
    }

    /// Of so many bytes.
    fn number(&mut self, bytes: usize) -> u64 {
        self.take(bytes).iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// Of seven bits a byte, the lowest first.
    fn varint(&mut self) -> usize {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = self.take(1)[0];
            number |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return number;
            }
        }
    }

    /// How many follow: one more is written, since zero means that there is no list.
    fn many(&mut self) -> usize {
        self.varint().saturating_sub(1)
    }

    fn text(&mut self) -> String {
        let length = self.many();
        String::from_utf8_lossy(self.take(length)).into_owned()
    }

    /// Fields that a later version may add.
    fn tags(&mut self) {
        for _ in 0..self.varint() {
            self.varint();
            let length = self.varint();
            self.take(length);
        }
    }
}
