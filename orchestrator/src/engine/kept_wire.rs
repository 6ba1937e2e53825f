//! Bytes of what is kept, in commit groups and in the store.

use super::{
    accounts::Count,
    kept::{Kept, KeptChange, Kind, Moved, Standing},
    wire::{Malformed, Put, Take},
};
use dirigent_model::{instance::InstanceId, time::Timestamp};
use std::sync::Arc;
use uuid::Uuid;

const PUT: u8 = 0;
const STANDS: u8 = 1;
const GONE: u8 = 2;

/// Writes changes with their number before them.
pub(super) fn put_kept(into: &mut Vec<u8>, changes: &[KeptChange]) {
    into.number(changes.len() as u64);
    changes.iter().for_each(|change| put_change(into, change));
}

pub(super) fn take_kept(from: &mut Take<'_>) -> Result<Vec<KeptChange>, Malformed> {
    let mut changes = Vec::new();
    for _ in 0..from.number("the kept messages")? {
        changes.push(take_change(from)?);
    }
    Ok(changes)
}

pub(super) fn put_change(into: &mut Vec<u8>, change: &KeptChange) {
    match change {
        KeptChange::Put(kept) => {
            into.push(PUT);
            put_record(into, kept);
        }
        KeptChange::Stands { number, standing, moved } => {
            into.push(STANDS);
            into.number(*number);
            put_standing(into, standing);
            put_moved(into, moved.as_ref());
        }
        KeptChange::Gone { number, became, moved } => {
            into.push(GONE);
            into.number(*number);
            into.push(became.place());
            put_moved(into, moved.as_ref());
        }
    }
}

pub(super) fn take_change(from: &mut Take<'_>) -> Result<KeptChange, Malformed> {
    Ok(match from.byte("a kept message")? {
        PUT => KeptChange::Put(Arc::new(take_record(from)?)),
        STANDS => KeptChange::Stands {
            number: from.number("a kept message's number")?,
            standing: take_standing(from)?,
            moved: take_moved(from)?,
        },
        GONE => KeptChange::Gone {
            number: from.number("a kept message's number")?,
            became: take_count(from)?,
            moved: take_moved(from)?,
        },
        _ => return Err(Malformed("a kept message")),
    })
}

fn put_record(into: &mut Vec<u8>, kept: &Kept) {
    into.number(kept.number);
    into.extend_from_slice(kept.instance.0.as_bytes());
    into.push(match kept.kind {
        Kind::Start => 0,
        Kind::Event => 1,
        Kind::Reply => 2,
    });
    into.text(&kept.saga);
    into.text(&kept.key);
    put_standing(into, &kept.standing);
    into.number(kept.since.0);
    into.number(u64::from(kept.partition));
    into.number(kept.offset);
    into.push(u8::from(kept.counted));
    into.number(kept.others.len() as u64);
    kept.others.iter().for_each(|other| into.extend_from_slice(other.0.as_bytes()));
    into.message(&kept.message);
}

fn take_record(from: &mut Take<'_>) -> Result<Kept, Malformed> {
    let number = from.number("a kept message's number")?;
    let instance = take_id(from)?;
    let kind = match from.byte("a kept message's kind")? {
        0 => Kind::Start,
        1 => Kind::Event,
        2 => Kind::Reply,
        _ => return Err(Malformed("a kept message's kind")),
    };
    let saga = from.text("a kept message's saga")?.to_owned();
    let key = from.text("a kept message's business key")?.to_owned();
    let standing = take_standing(from)?;
    let since = Timestamp(from.number("a kept message's time")?);
    let partition = from.small("a kept message's partition")?;
    let offset = from.number("a kept message's offset")?;
    let counted = from.byte("a kept message's account")? == 1;
    let mut others = Vec::new();
    for _ in 0..from.number("a kept message's other instances")? {
        others.push(take_id(from)?);
    }
    let message = Arc::new(from.message()?);
    Ok(Kept {
        number,
        instance,
        kind,
        saga,
        key,
        standing,
        since,
        partition,
        offset,
        counted,
        others,
        message,
    })
}

fn take_id(from: &mut Take<'_>) -> Result<InstanceId, Malformed> {
    Ok(InstanceId(Uuid::from_bytes(from.array("a kept message's instance")?)))
}

fn put_standing(into: &mut Vec<u8>, standing: &Standing) {
    match standing {
        Standing::Orphan { until } => {
            into.push(0);
            into.number(until.0);
        }
        Standing::Behind => into.push(1),
        Standing::Quarantined { reason, text, blocks } => {
            into.push(if *blocks { 3 } else { 2 });
            into.text(reason);
            into.text(text);
        }
    }
}

fn take_standing(from: &mut Take<'_>) -> Result<Standing, Malformed> {
    Ok(match from.byte("a kept message's standing")? {
        0 => Standing::Orphan { until: Timestamp(from.number("a parked message's time")?) },
        1 => Standing::Behind,
        kind @ (2 | 3) => Standing::Quarantined {
            reason: from.text("a quarantined message's reason")?.to_owned(),
            text: from.text("a quarantined message's text")?.to_owned(),
            blocks: kind == 3,
        },
        _ => return Err(Malformed("a kept message's standing")),
    })
}

fn put_moved(into: &mut Vec<u8>, moved: Option<&Moved>) {
    let Some(Moved { channel, partition, from, to }) = moved else {
        into.push(0);
        return;
    };
    into.push(1);
    into.text(channel);
    into.number(u64::from(*partition));
    into.push(from.place());
    into.push(to.place());
}

fn take_moved(from: &mut Take<'_>) -> Result<Option<Moved>, Malformed> {
    if from.byte("a movement")? == 0 {
        return Ok(None);
    }
    let channel = from.text("a movement's channel")?.into();
    let partition = from.small("a movement's partition")?;
    Ok(Some(Moved { channel, partition, from: take_count(from)?, to: take_count(from)? }))
}

fn take_count(from: &mut Take<'_>) -> Result<Count, Malformed> {
    let place = usize::from(from.byte("an account")?);
    Count::ALL.get(place).copied().ok_or(Malformed("an account"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use dirigent_connectors::{Attributes, ChannelKind, Message};

    pub(in crate::engine) fn samples() -> Vec<KeptChange> {
        let message = Message {
            channel: "starts".into(),
            kind: ChannelKind::Events,
            key: "80".into(),
            attributes: Attributes::new().with("id", "a").with("type", "Begun"),
            others: vec![("x".into(), vec![0, 255].into())],
            body: vec![1, 2, 3].into(),
        };
        let kept = |kind, standing| Kept {
            number: 300,
            instance: InstanceId(Uuid::from_u128(7)),
            kind,
            saga: "order".into(),
            key: "80".into(),
            standing,
            since: Timestamp(12),
            partition: 4,
            offset: 99,
            counted: true,
            others: vec![InstanceId(Uuid::from_u128(8))],
            message: Arc::new(message.clone()),
        };
        let quarantined = |blocks| Standing::Quarantined {
            reason: "handler-panicked".into(),
            text: "unlucky".into(),
            blocks,
        };
        let orphan = kept(Kind::Event, Standing::Orphan { until: Timestamp(700) });
        let moved = orphan.moved(Count::Applied);
        vec![
            KeptChange::Put(Arc::new(orphan)),
            KeptChange::Put(Arc::new(kept(Kind::Start, quarantined(true)))),
            KeptChange::Put(Arc::new(kept(Kind::Reply, Standing::Behind))),
            KeptChange::Stands { number: 5, standing: quarantined(false), moved: None },
            KeptChange::Gone { number: 6, became: Count::Applied, moved },
        ]
    }

    #[test]
    fn what_is_kept_is_read_as_it_was_written() {
        let mut bytes = Vec::new();
        put_kept(&mut bytes, &samples());
        let mut from = Take(&bytes);
        assert_eq!(take_kept(&mut from).unwrap(), samples());
        assert!(from.0.is_empty());
        for length in 0..bytes.len() {
            assert!(take_kept(&mut Take(&bytes[..length])).is_err(), "{length}");
        }
    }

    #[test]
    fn the_form_of_what_is_kept_is_the_kept_one() {
        let mut bytes = Vec::new();
        put_kept(&mut bytes, &samples());
        let kept = crate::kept_forms::kept("kept-messages", &bytes);
        assert_eq!(take_kept(&mut Take(&kept)).unwrap(), samples());
    }
}
