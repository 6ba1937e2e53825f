//! The envelopes of both brokers, up to what the intake and a participant make of a message.

use super::{bodies::CODEC, pieces::Pieces, samples::REGISTRY};
use crate::{envelope, intake, participant};
use dirigent_connectors::{Message, fuzzing, names};
use dirigent_model::time::Timestamp;

/// Headers that one input may have: what comes behind them adds nothing new.
const HEADERS_MAX: usize = 300;

/// Attributes and headers as they lie at a broker. The first byte says which: a record of Kafka, frames of AMQP, or a record in Kafka's
/// topic of owners.
pub fn envelope(bytes: &[u8]) -> bool {
    let mut pieces = Pieces(bytes);
    match pieces.byte() % 3 {
        0 => is_heard(&of_kafka(&mut pieces)),
        1 => {
            let piece_bytes = usize::from(pieces.byte());
            let body = pieces.sized();
            let messages = fuzzing::amqp_messages(pieces.rest(), piece_bytes, body);
            messages.iter().filter(|message| is_heard(message)).count() > 0
        }
        _ => fuzzing::kafka_owner(pieces.rest()),
    }
}

/// Key and body, then headers: each a name, whether it has a value, and the value.
fn of_kafka(pieces: &mut Pieces<'_>) -> Message {
    let (key, body) = (pieces.little(), pieces.sized());
    let mut headers = Vec::new();
    while !pieces.is_empty() && headers.len() < HEADERS_MAX {
        // rdkafka writes no name that is no text.
        let name = String::from_utf8_lossy(pieces.little()).into_owned();
        let value = (pieces.byte() != 0).then(|| pieces.sized());
        headers.push((name, value));
    }
    let headers: Vec<(&str, Option<&[u8]>)> =
        headers.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    fuzzing::kafka_message(&headers, key, body)
}

/// Whether somebody can do something with a message; what nobody can is set aside.
fn is_heard(message: &Message) -> bool {
    if let Some((trace, span)) =
        message.attributes.get(names::TRACEPARENT).and_then(envelope::parse_traceparent)
    {
        let again = envelope::parse_traceparent(&envelope::traceparent(&trace, &span));
        assert_eq!(again, Some((trace, span)), "a trace goes on as it came");
    }
    let by_a_participant = participant::fuzzed::is_heard(message);
    match intake::concerned(&REGISTRY, &*CODEC, message) {
        Ok(concerned) => {
            assert!(concerned > 0, "whatever is not set aside concerns somebody");
            true
        }
        Err(dead) => {
            assert!(!dead.text.is_empty(), "whatever is set aside has its reason");
            let now = Timestamp(1);
            let mut letter = envelope::dead_letter("dead", message.clone(), &dead, 3, 7, now);
            assert_eq!(letter.attributes.get(envelope::DEAD_REASON), Some(dead.reason));
            let mut shortened = 0;
            while envelope::shorten_letter(&mut letter, &dead.text) {
                shortened += 1;
                assert!(shortened <= 2, "a letter has a head and a body to be shortened");
            }
            envelope::strip_letter(&mut letter, &dead.text);
            assert!(letter.body.is_empty() && letter.others.is_empty());
            assert_eq!(letter.attributes.get(envelope::DEAD_REASON), Some(dead.reason));
            by_a_participant
        }
    }
}
