//! A producer that speaks Kafka's protocol by itself, to send what librdkafka would never write: header names that are no text,
//! batches that can't be unpacked, headers without number.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

/// A record: its headers, as names and values.
pub(crate) struct Record<'a> {
    pub(crate) headers: &'a [(&'a [u8], &'a [u8])],
    pub(crate) body: &'a [u8],
}

/// A batch of this one record, as brokers keep it. `codec` is what it claims to be packed with; `packed` stands in for the record.
pub(crate) fn batch(record: &Record<'_>, codec: i16, packed: Option<&[u8]>) -> Vec<u8> {
    // Attributes, time and offset beside those of the batch, no key.
    let mut inner = vec![0, 0, 0];
    varint(&mut inner, -1);
    text(&mut inner, record.body);
    varint(&mut inner, record.headers.len() as i64);
    for (name, value) in record.headers {
        text(&mut inner, name);
        text(&mut inner, value);
    }
    let mut records = Vec::new();
    text(&mut records, &inner);
    let records = packed.unwrap_or(&records);

    let mut checked = Vec::new();
    checked.extend(codec.to_be_bytes());
    checked.extend(0_i32.to_be_bytes()); // last offset
    checked.extend(0_i64.to_be_bytes()); // first time
    checked.extend(0_i64.to_be_bytes()); // last time
    checked.extend((-1_i64).to_be_bytes()); // no producer
    checked.extend((-1_i16).to_be_bytes());
    checked.extend((-1_i32).to_be_bytes());
    checked.extend(1_i32.to_be_bytes()); // one record
    checked.extend(records);

    let mut batch = Vec::new();
    batch.extend(0_i64.to_be_bytes()); // the broker says which offset
    batch.extend((checked.len() as i32 + 9).to_be_bytes());
    batch.extend(0_i32.to_be_bytes());
    batch.push(2);
    batch.extend(crc32c::crc32c(&checked).to_be_bytes());
    batch.extend(checked);
    batch
}

/// Hands the batch to the first partition of a topic (`Produce`, version 3).
///
/// # Panics
/// When the broker refuses it.
pub(crate) fn produce(bootstrap: &str, topic: &str, batch: &[u8]) {
    let mut request = Vec::new();
    request.extend(0_i16.to_be_bytes()); // Produce
    request.extend(3_i16.to_be_bytes());
    request.extend(7_i32.to_be_bytes()); // correlation
    short(&mut request, b"raw");
    request.extend((-1_i16).to_be_bytes()); // no transaction
    request.extend((-1_i16).to_be_bytes()); // acks: all
    request.extend(10_000_i32.to_be_bytes());
    request.extend(1_i32.to_be_bytes());
    short(&mut request, topic.as_bytes());
    request.extend(1_i32.to_be_bytes());
    request.extend(0_i32.to_be_bytes()); // the partition
    request.extend((batch.len() as i32).to_be_bytes());
    request.extend(batch);

    let mut broker = TcpStream::connect(bootstrap).expect("a broker");
    broker.write_all(&(request.len() as i32).to_be_bytes()).expect("written");
    broker.write_all(&request).expect("written");
    let mut size = [0; 4];
    broker.read_exact(&mut size).expect("an answer");
    let mut answer = vec![0; i32::from_be_bytes(size) as usize];
    broker.read_exact(&mut answer).expect("an answer");
    // Correlation, one topic with its name, one partition with its number; then the error.
    let at = 4 + 4 + 2 + topic.len() + 4 + 4;
    assert_eq!(answer[at..at + 2], [0, 0], "the broker refuses the batch: {answer:?}");
}

fn short(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as i16).to_be_bytes());
    out.extend(bytes);
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    varint(out, bytes.len() as i64);
    out.extend(bytes);
}

/// Zigzag, seven bits a byte.
fn varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest > 0x7F {
        out.push((rest & 0x7F) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
