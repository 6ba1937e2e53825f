//! Bytes of brokers, as a fuzzer thinks of them: each function reads some as its connector does and asserts what must be true of it.

use crate::{Message, kafka, rabbitmq};

/// The message that a record of Kafka with these headers stands for.
pub fn kafka_message(headers: &[(&str, Option<&[u8]>)], key: &[u8], body: &[u8]) -> Message {
    kafka::fuzzed::message(headers, key, body)
}

/// Whether a value of Kafka's topic of owners is a record of one.
pub fn kafka_owner(value: &[u8]) -> bool {
    kafka::fuzzed::owner(value)
}

/// The messages whose heads are in a stream of AMQP frames that is read by pieces of so many bytes.
pub fn amqp_messages(stream: &[u8], piece_bytes: usize, body: &[u8]) -> Vec<Message> {
    rabbitmq::fuzzed::messages(stream, piece_bytes, body)
}
