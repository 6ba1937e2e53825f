//! AMQP 0-9-1 as it went over a socket: from the bytes of both directions to what was published, delivered and settled.
//!
//! In: pieces of bytes in their order, each with a number for its moment. Out: happenings, each at the moment of its first byte. Knows
//! as much of the protocol as that takes: frames, five methods of `basic`, and of a message's properties its id.

use std::collections::BTreeMap;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const END: u8 = 0xce;

/// What a client says first, before any frame.
const GREETING: &[u8] = b"AMQP\0\0\x09\x01";

/// Whether a connection begins like that.
pub fn begins(bytes: &[u8]) -> bool {
    bytes.starts_with(&GREETING[..5])
}

/// Something that concerns a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    Published { id: String },
    Settled { id: String },
}

/// One connection.
#[derive(Default)]
pub struct Connection {
    sent: Stream,
    received: Stream,
    /// Unsettled deliveries by channel and tag.
    delivered: BTreeMap<(u16, u64), String>,
    /// Channels on which a header is to follow: for a publication, or for the delivery of a tag.
    awaited: BTreeMap<(bool, u16), Awaited>,
}

#[derive(Debug, Clone, Copy)]
enum Awaited {
    Publication { at: usize },
    Delivery { tag: u64 },
}

/// Bytes that are no frame yet, in the pieces they came in.
#[derive(Default)]
struct Stream {
    bytes: Vec<u8>,
    /// From which place on bytes came at which moment.
    pieces: Vec<(usize, usize)>,
    read: usize,
}

struct Frame {
    at: usize,
    kind: u8,
    channel: u16,
    payload: Vec<u8>,
}

impl Stream {
    fn take(&mut self, at: usize, bytes: &[u8]) {
        self.pieces.push((self.bytes.len(), at));
        self.bytes.extend_from_slice(bytes);
    }

    fn next(&mut self) -> Option<Frame> {
        if self.read == 0 && self.bytes.starts_with(GREETING) {
            self.read = GREETING.len();
        }
        let rest = &self.bytes[self.read..];
        let (head, rest) = rest.split_first_chunk::<7>()?;
        let channel = u16::from_be_bytes([head[1], head[2]]);
        let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        let payload = rest.get(..length)?.to_vec();
        assert_eq!(*rest.get(length)?, END, "no frame of AMQP, or some of its bytes are missing");
        let piece = self.pieces.partition_point(|(from, _)| *from <= self.read) - 1;
        let frame = Frame { at: self.pieces[piece].1, kind: head[0], channel, payload };
        self.read += 7 + length + 1;
        Some(frame)
    }
}

impl Connection {
    pub fn sends(&mut self, at: usize, bytes: &[u8], mut tell: impl FnMut(usize, Happening)) {
        self.sent.take(at, bytes);
        while let Some(frame) = self.sent.next() {
            self.says(&frame, &mut tell);
        }
    }

    pub fn receives(&mut self, at: usize, bytes: &[u8]) {
        self.received.take(at, bytes);
        while let Some(Frame { kind, channel, payload, .. }) = self.received.next() {
            match (kind, method(&payload)) {
                (METHOD, Some(60)) => {
                    let tag = number(&payload[4 + 1 + usize::from(payload[4])..]);
                    self.awaited.insert((false, channel), Awaited::Delivery { tag });
                }
                (HEADER, _) => {
                    if let Some(Awaited::Delivery { tag }) = self.awaited.remove(&(false, channel))
                    {
                        self.delivered.insert((channel, tag), message_id(&payload));
                    }
                }
                _ => {}
            }
        }
    }

    fn says(&mut self, frame: &Frame, tell: &mut impl FnMut(usize, Happening)) {
        let Frame { at, kind, channel, ref payload } = *frame;
        match (kind, method(payload)) {
            (METHOD, Some(40)) => {
                self.awaited.insert((true, channel), Awaited::Publication { at });
            }
            (METHOD, Some(80)) => {
                self.settled(at, channel, number(&payload[4..]), payload[12] & 1, tell)
            }
            // What goes back to its queue is not settled.
            (METHOD, Some(90)) if payload[12] & 1 == 0 => {
                self.settled(at, channel, number(&payload[4..]), 0, tell);
            }
            (METHOD, Some(120)) if payload[12] & 2 == 0 => {
                self.settled(at, channel, number(&payload[4..]), payload[12] & 1, tell);
            }
            (HEADER, _) => {
                if let Some(Awaited::Publication { at }) = self.awaited.remove(&(true, channel)) {
                    tell(at, Happening::Published { id: message_id(payload) });
                }
            }
            _ => {}
        }
    }

    fn settled(
        &mut self,
        at: usize,
        channel: u16,
        tag: u64,
        multiple: u8,
        tell: &mut impl FnMut(usize, Happening),
    ) {
        let first = if multiple == 1 { 0 } else { tag };
        let last = if multiple == 1 && tag == 0 { u64::MAX } else { tag };
        let tags: Vec<u64> = self
            .delivered
            .range((channel, first)..=(channel, last))
            .map(|(key, _)| key.1)
            .collect();
        assert!(multiple == 1 || !tags.is_empty(), "settled what was never delivered: tag {tag}");
        for tag in tags {
            let id = self.delivered.remove(&(channel, tag)).expect("it was found");
            tell(at, Happening::Settled { id });
        }
    }
}

/// The method of a payload, where its class is `basic`.
fn method(payload: &[u8]) -> Option<u16> {
    match payload {
        [0, 60, high, low, ..] => Some(u16::from_be_bytes([*high, *low])),
        _ => None,
    }
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(*bytes.first_chunk().expect("a number has eight bytes"))
}

/// The property of that name; nothing where a message has none.
fn message_id(header: &[u8]) -> String {
    let flags = u16::from_be_bytes([header[12], header[13]]);
    let mut rest = &header[14..];
    let short = |rest: &mut &[u8]| {
        let length = usize::from(rest[0]);
        let text = String::from_utf8_lossy(&rest[1..=length]).into_owned();
        *rest = &rest[1 + length..];
        text
    };
    for bit in (7..=15).rev() {
        if flags & 1 << bit == 0 {
            continue;
        }
        match bit {
            13 => {
                let length =
                    u32::from_be_bytes(*rest.first_chunk().expect("a table says its length"));
                rest = &rest[4 + length as usize..];
            }
            11 | 12 => rest = &rest[1..],
            7 => return short(&mut rest),
            _ => drop(short(&mut rest)),
        }
    }
    String::new()
}
