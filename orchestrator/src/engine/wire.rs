//! Bytes of commit groups: numbers as LEB128, texts and bytes with their length before them.

use bytes::Bytes;
use dirigent_connectors::{Attributes, ChannelKind, Message};

/// Appends to a buffer.
pub(crate) trait Put {
    fn number(&mut self, value: u64);
    fn bytes(&mut self, value: &[u8]);
    fn text(&mut self, value: &str) {
        self.bytes(value.as_bytes());
    }
    fn message(&mut self, message: &Message);
}

impl Put for Vec<u8> {
    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    fn bytes(&mut self, value: &[u8]) {
        self.number(value.len() as u64);
        self.extend_from_slice(value);
    }

    fn message(&mut self, message: &Message) {
        self.text(&message.channel);
        self.push(match message.kind {
            ChannelKind::Work => 0,
            ChannelKind::Events => 1,
        });
        self.text(&message.key);
        self.number(message.attributes.len() as u64);
        for (name, value) in message.attributes.iter() {
            self.text(name);
            self.text(value);
        }
        self.number(message.others.len() as u64);
        for (name, value) in &message.others {
            self.text(name);
            self.bytes(value);
        }
        self.bytes(&message.body);
    }
}

/// Bytes that are no group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is missing or cut short")]
pub(crate) struct Malformed(pub &'static str);

/// Reads from the front of a slice.
pub(crate) struct Take<'a>(pub &'a [u8]);

impl<'a> Take<'a> {
    pub(crate) fn byte(&mut self, what: &'static str) -> Result<u8, Malformed> {
        let (&first, rest) = self.0.split_first().ok_or(Malformed(what))?;
        self.0 = rest;
        Ok(first)
    }

    pub(crate) fn number(&mut self, what: &'static str) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(what)?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed(what))
    }

    pub(crate) fn small<T: TryFrom<u64>>(&mut self, what: &'static str) -> Result<T, Malformed> {
        T::try_from(self.number(what)?).map_err(|_| Malformed(what))
    }

    pub(crate) fn bytes(&mut self, what: &'static str) -> Result<&'a [u8], Malformed> {
        let length: usize = self.small(what)?;
        let (head, rest) = self.0.split_at_checked(length).ok_or(Malformed(what))?;
        self.0 = rest;
        Ok(head)
    }

    pub(crate) fn text(&mut self, what: &'static str) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes(what)?).map_err(|_| Malformed(what))
    }

    pub(crate) fn array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Malformed(what))?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn message(&mut self) -> Result<Message, Malformed> {
        let channel = self.text("a message's channel")?.to_owned();
        let kind = match self.byte("a message's kind")? {
            0 => ChannelKind::Work,
            1 => ChannelKind::Events,
            _ => return Err(Malformed("a message's kind")),
        };
        let key = self.text("a message's key")?.to_owned();
        let mut attributes = Attributes::new();
        for _ in 0..self.number("a message's attributes")? {
            let name = self.text("an attribute's name")?.to_owned();
            attributes.set(name, self.text("an attribute's value")?);
        }
        let mut others = Vec::new();
        for _ in 0..self.number("a message's headers")? {
            let name = self.text("a header's name")?.to_owned();
            others.push((name, Bytes::copy_from_slice(self.bytes("a header's value")?)));
        }
        let body = Bytes::copy_from_slice(self.bytes("a message's body")?);
        Ok(Message { channel, kind, key, attributes, others, body })
    }
}
