//! What a fuzzer asks of bytes that a broker of AMQP sends: frames are mended, then the heads of messages read as lapin does.
//!
//! What must be true: mending changes no length, only what is no text or too deep, and is the same however the stream is cut; what was
//! mended needs no mending. A message that came is sent on as the same message, or refused because it does not fit.

use super::{
    envelope::{self, ATTRIBUTES_MAX, RECEIVED, ROUTING},
    mended::Frames,
};
use crate::{ChannelSpec, Message};
use bytes::Bytes;
use lapin::protocol::basic;
use std::collections::BTreeMap;

/// A frame's type, channel and size stand before its payload; one byte ends it.
const FRAME_BEGIN_BYTES: usize = 7;
const FRAME_HEADER: u8 = 2;
/// Class, weight and size of the body stand before the properties.
const HEADER_BEGIN_BYTES: usize = 12;

/// The messages whose heads are in a stream of frames that is read by pieces of so many bytes.
pub(crate) fn messages(stream: &[u8], piece_bytes: usize, body: &[u8]) -> Vec<Message> {
    let mended = mend(stream, stream.len());
    assert_eq!(mend(stream, piece_bytes), mended, "it does not matter how a stream is cut");
    assert!(mended.len() <= stream.len(), "nothing is added");
    for (before, after) in stream.iter().zip(&mended) {
        assert!(before == after || matches!(after, b'?' | b'x'), "{before} became {after}");
    }
    assert_eq!(mend(&mended, mended.len()), mended, "what was mended needs no mending");
    heads(&mended).iter().filter_map(|head| message(head, body)).collect()
}

fn mend(stream: &[u8], piece_bytes: usize) -> Vec<u8> {
    let (mut frames, mut mended) = (Frames::default(), Vec::new());
    for piece in stream.chunks(piece_bytes.max(1)) {
        frames.take(piece, &mut mended);
    }
    mended
}

/// The payloads of whole frames that are heads of messages.
fn heads(mut stream: &[u8]) -> Vec<&[u8]> {
    let mut heads = Vec::new();
    while let Some(size) = stream.get(3..FRAME_BEGIN_BYTES) {
        let size = u32::from_be_bytes(size.try_into().expect("four bytes")) as usize;
        let Some(payload) = stream.get(FRAME_BEGIN_BYTES..FRAME_BEGIN_BYTES + size) else { break };
        if stream[0] == FRAME_HEADER {
            heads.push(payload);
        }
        stream = stream.get(FRAME_BEGIN_BYTES + size + 1..).unwrap_or_default();
    }
    heads
}

fn message(head: &[u8], body: &[u8]) -> Option<Message> {
    let (_, properties) = basic::parse_properties(head.get(HEADER_BEGIN_BYTES..)?).ok()?;
    let channel = ChannelSpec::work("fuzzed");
    let message = envelope::message_of(&channel, &properties, body.to_vec());
    let _ = envelope::id_of(&properties);
    // Of more attributes some came as foreign headers, and not those that would be sent as such.
    let is_whole = message.attributes.len() < ATTRIBUTES_MAX;
    if let (Ok(sent), true) = (envelope::properties_of(&message), is_whole) {
        let again = envelope::message_of(&channel, &sent, body.to_vec());
        let attributes = |message: &Message| -> BTreeMap<String, String> {
            message.attributes.iter().map(|(name, value)| (name.into(), value.into())).collect()
        };
        assert_eq!(attributes(&again), attributes(&message), "attributes are sent as they came");
        assert_eq!((&again.key, &again.body), (&message.key, &message.body));
        let others: BTreeMap<&String, &Bytes> =
            again.others.iter().map(|(name, value)| (name, value)).collect();
        assert_eq!(
            others,
            kept(&message).iter().collect(),
            "foreign headers are sent as they came"
        );
    }
    Some(message)
}

/// Foreign headers as they are sent on: those that route have another name.
fn kept(message: &Message) -> BTreeMap<String, Bytes> {
    let renamed = message.others.iter().map(|(name, value)| {
        let name = match ROUTING.contains(&name.as_str()) {
            true => format!("{RECEIVED}{name}"),
            false => name.clone(),
        };
        (name, value.clone())
    });
    renamed.collect()
}
