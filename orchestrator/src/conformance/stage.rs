//! The stage of a play: sagas made up for it, commands sent for them, answers awaited and told apart.
//!
//! Everything sent and heard in one check is its scene; a new check clears it. An answer belongs to the command whose idempotency
//! key it echoes. One that echoes less is still found where it can be, by saga or business key, so that the check that is about
//! echoes names what is missing and the others name what they are about.

use super::{
    Conformance, ConformanceError, Effects,
    case::{Kind, Played, Sample},
};
use crate::envelope::{
    self, SAGA_ATTEMPT, SAGA_ID, SAGA_LEG, SAGA_RUN, SAGA_STEP, message_id, span_of, traceparent,
};
use dirigent_connectors::{
    Attributes, ChannelKind, ChannelSpec, Connector, ConnectorError, Message, Sent, Settle,
    Settler, Sink, Source, SourceSpec, names, retry::Delays,
};
use dirigent_model::{
    instance::Leg,
    message::{
        Body, Channel, CodecError, Failure, Format, Key, Message as _, StatusNotDone, StatusQuery,
        StatusUnknown,
    },
};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

/// How long the broker may take to confirm what is sent. Longer than any connector decides.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(60);

/// Lines of what was sent, and of what came, that a failed check shows. The first ones tell the story.
const LINES_MAX: usize = 12;

/// Characters of a body in such a line.
const BODY_CHARS_MAX: usize = 160;

/// Answers taken from the broker at once: what one check can ask for at the most.
const UNSETTLED_MAX: usize = 512;

/// Sends, listens, and remembers one scene.
pub(super) struct Stage<'a> {
    kit: &'a Conformance,
    sink: Box<dyn Sink>,
    source: Box<dyn Source>,
    settler: Arc<dyn Settler>,
    replies: [String; 2],
    space: Uuid,
    next_number: i64,
    asked: Vec<Message>,
    heard: Vec<Heard>,
}

/// An answer, and which of the commands asked in this scene it is for.
struct Heard {
    message: Message,
    is_for: Option<String>,
}

/// A saga that only this check knows.
#[derive(Clone)]
pub(super) struct Saga {
    /// What its samples are made of.
    pub number: i64,
    id: Uuid,
    pub run: u64,
    pub step: String,
}

/// What an answer says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Said {
    Success(Body),
    Rejected(Body),
    Failed(Failure),
    /// To a question: it was not done and never will be.
    NotDone,
    /// To a question: nobody knows.
    Unknown,
    /// It can't be read as any of these.
    Strange(String),
}

impl Saga {
    pub(super) fn at_step(&self, step: &str) -> Self {
        Self { step: step.to_owned(), ..self.clone() }
    }

    fn idempotency_key(&self, leg: Leg) -> Uuid {
        Uuid::new_v5(&self.id, format!("{}/{}/{leg}", self.run, self.step).as_bytes())
    }

    pub(super) fn in_run(&self, run: u64) -> Self {
        Self { run, ..self.clone() }
    }
}

impl Said {
    /// The same answer. What is JSON may be written in another order.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Success(one), Self::Success(other))
            | (Self::Rejected(one), Self::Rejected(other)) => {
                one == other || (json(one).is_some() && json(one) == json(other))
            }
            (Self::Failed(_), Self::Failed(_))
            | (Self::NotDone, Self::NotDone)
            | (Self::Unknown, Self::Unknown) => true,
            _ => false,
        }
    }

    pub(super) fn is_success(&self) -> bool {
        matches!(self, Self::Success(_))
    }
}

fn json(body: &Body) -> Option<serde_json::Value> {
    (body.format == Format::Json).then(|| serde_json::from_slice(&body.bytes).ok()).flatten()
}

impl<'a> Stage<'a> {
    pub(super) async fn open(
        kit: &'a Conformance,
        connector: &dyn Connector,
        run: &str,
    ) -> Result<Self, ConformanceError> {
        let failed = |doing| {
            move |source: ConnectorError| ConformanceError::Connector {
                participant: kit.participant.clone(),
                doing,
                source: Box::new(source),
            }
        };
        let replies = [format!("{run}.replies"), format!("{run}.other-replies")];
        let listening: Vec<_> = replies.iter().map(ChannelSpec::work).collect();
        let mut channels = listening.clone();
        for sample in kit.cases.iter().flat_map(Played::samples) {
            channels.push(ChannelSpec::work(sample.channel.name));
        }
        channels.sort_unstable();
        channels.dedup();
        connector.prepare(&channels).await.map_err(failed("preparing the channels"))?;
        let spec = SourceSpec {
            channels: listening,
            group: run.to_owned(),
            positions: vec![],
            unsettled_max: UNSETTLED_MAX,
        };
        let source = connector.source(spec).await.map_err(failed("listening for answers"))?;
        let sink = connector.sink().await.map_err(failed("opening a sink"))?;
        Ok(Self {
            kit,
            sink,
            settler: source.settler(),
            source,
            replies,
            space: Uuid::new_v5(&Uuid::NAMESPACE_OID, run.as_bytes()),
            next_number: kit.first_number,
            asked: Vec::new(),
            heard: Vec::new(),
        })
    }

    pub(super) fn clear(&mut self) {
        self.asked.clear();
        self.heard.clear();
    }

    /// A saga that nobody has met.
    pub(super) fn saga(&mut self) -> Saga {
        let number = self.next_number;
        self.next_number += 1;
        let id = Uuid::new_v5(&self.space, number.to_string().as_bytes());
        Saga { number, id, run: 0, step: "conformance".into() }
    }

    /// A command for a saga, as an orchestrator sends it.
    pub(super) fn message(
        &self,
        sample: &Sample,
        saga: &Saga,
        leg: Leg,
        attempt: u32,
    ) -> Result<Message, ConformanceError> {
        let (key, body) =
            sample.make(saga.number, &*self.kit.codec).map_err(|source| self.no_sample(source))?;
        Ok(self.written((sample.name, sample.channel, key, body), saga, leg, attempt))
    }

    /// The question what became of a command of a saga.
    pub(super) fn question(
        &self,
        sample: &Sample,
        saga: &Saga,
        attempt: u32,
    ) -> Result<Message, ConformanceError> {
        let query = StatusQuery {
            idempotencykey: saga.idempotency_key(Leg::Do).to_string(),
            command: sample.name.to_owned(),
        };
        let body = Body::write(&query, sample.format(), &*self.kit.codec);
        let body = body.map_err(|source| self.no_sample(source))?;
        let written = (StatusQuery::NAME, sample.channel, self.key(sample, saga)?, body);
        Ok(self.written(written, saga, Leg::Status, attempt))
    }

    fn written(
        &self,
        (name, channel, key, body): (&str, Channel, Key, Body),
        saga: &Saga,
        leg: Leg,
        attempt: u32,
    ) -> Message {
        let run = saga.run;
        let idempotency_key = saga.idempotency_key(leg);
        let id = message_id(&idempotency_key, attempt);
        let mut attributes = Attributes::new()
            .with(names::SPEC_VERSION, "1.0")
            .with(names::ID, id.to_string())
            .with(names::SOURCE, "/dirigent/conformance")
            .with(names::TYPE, name)
            .with(names::SUBJECT, key.as_str())
            .with(names::TIME, self.kit.clock.now().to_string())
            .with(names::CONTENT_TYPE, body.format.content_type())
            .with(names::TRACEPARENT, traceparent(saga.id.as_bytes(), &span_of(&id)))
            .with(SAGA_ID, saga.id.to_string())
            .with(SAGA_STEP, saga.step.as_str())
            .with(SAGA_LEG, leg.as_str())
            .with(SAGA_ATTEMPT, attempt.to_string())
            .with(names::IDEMPOTENCY_KEY, idempotency_key.to_string())
            .with(names::REPLY_TO, self.replies[0].as_str());
        if run > 0 {
            attributes.set(SAGA_RUN, run.to_string());
        }
        Message {
            channel: channel.name.to_owned(),
            kind: ChannelKind::Work,
            key: key.as_str().to_owned(),
            attributes,
            others: vec![],
            body: body.bytes.into(),
        }
    }

    /// Where the message is to be answered instead.
    pub(super) fn reply_elsewhere(&self, message: &mut Message) -> String {
        message.attributes.set(names::REPLY_TO, self.replies[1].as_str());
        self.replies[1].clone()
    }

    /// The business key of a saga.
    pub(super) fn key(&self, sample: &Sample, saga: &Saga) -> Result<Key, ConformanceError> {
        let made = sample.make(saga.number, &*self.kit.codec);
        Ok(made.map_err(|source| self.no_sample(source))?.0)
    }

    /// Sends the window in its order and waits until each of its messages was answered. `false` where time was up before.
    pub(super) async fn ask(&mut self, window: &[Message]) -> Result<bool, ConformanceError> {
        self.tell(window).await?;
        let keys: Vec<_> = window.iter().filter_map(key_of).collect();
        self.hear(&keys).await
    }

    /// Sends messages that need not be answered.
    pub(super) async fn tell(&mut self, window: &[Message]) -> Result<(), ConformanceError> {
        let given_up = Instant::now() + CONFIRMED_WITHIN;
        let mut left = window.to_vec();
        let mut delays = Delays::new();
        self.asked.extend_from_slice(window);
        loop {
            let outcomes = self.sink.send(&left).await;
            let mut again = Vec::new();
            for (message, sent) in left.into_iter().zip(outcomes) {
                match sent {
                    Sent::Confirmed => {}
                    Sent::Unknown { .. } if Instant::now() < given_up => again.push(message),
                    Sent::Unknown { text } | Sent::Fenced { text } => {
                        let (participant, channel) = (self.participant(), message.channel);
                        return Err(ConformanceError::Unconfirmed { participant, channel, text });
                    }
                    Sent::Unsent { reason, text } => {
                        let (participant, channel) = (self.participant(), message.channel);
                        return Err(ConformanceError::Unsent {
                            participant,
                            channel,
                            reason,
                            text,
                        });
                    }
                }
            }
            left = again;
            if left.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(delays.after_failure()).await;
        }
    }

    /// Waits until each of these keys was answered as often as it was asked in this scene.
    async fn hear(&mut self, keys: &[String]) -> Result<bool, ConformanceError> {
        let until = Instant::now() + self.kit.within;
        loop {
            let waits = keys.iter().any(|key| self.heard_for(key) < self.asked_for(key));
            if !waits {
                return Ok(true);
            }
            let Ok(received) = timeout_at(until, self.source.receive(UNSETTLED_MAX)).await else {
                return Ok(false);
            };
            let deliveries = received.map_err(|source| ConformanceError::Connector {
                participant: self.participant(),
                doing: "reading answers",
                source: Box::new(source),
            })?;
            for delivery in deliveries {
                self.settler.settle(&[(delivery.receipt, Settle::Done)]);
                let message = delivery.message;
                let is_for = self.is_for(&message);
                // What answers an earlier scene once more is none of this one's.
                if is_for.is_some() || key_of(&message).is_none() {
                    self.heard.push(Heard { message, is_for });
                }
            }
        }
    }

    fn asked_for(&self, key: &str) -> usize {
        self.asked.iter().filter(|message| key_of(message).as_deref() == Some(key)).count()
    }

    fn heard_for(&self, key: &str) -> usize {
        self.heard.iter().filter(|heard| heard.is_for.as_deref() == Some(key)).count()
    }

    /// The key of the command that an answer is for, by all that it echoes.
    fn is_for(&self, answer: &Message) -> Option<String> {
        let agrees = |asked: &Message, name: &str| {
            let (sent, echoed) = (asked.attributes.get(name), answer.attributes.get(name));
            echoed.is_none() || sent == echoed || (sent.is_none() && name == SAGA_RUN)
        };
        let names = [SAGA_ID, SAGA_RUN, SAGA_STEP, SAGA_LEG, names::SUBJECT];
        let tells =
            [SAGA_ID, names::SUBJECT].iter().any(|name| answer.attributes.get(name).is_some());
        let found = match key_of(answer) {
            Some(key) => self.asked.iter().find(|asked| key_of(asked).as_ref() == Some(&key)),
            None if tells => {
                self.asked.iter().find(|asked| names.iter().all(|name| agrees(asked, name)))
            }
            None => None,
        };
        found.and_then(key_of)
    }

    /// The answers to a command of this scene, in the order they came.
    pub(super) fn answers(&self, asked: &Message) -> Vec<&Message> {
        let key = key_of(asked);
        let mine = self.heard.iter().filter(|heard| heard.is_for == key);
        mine.map(|heard| &heard.message).collect()
    }

    /// What an answer says, read as the command declares it.
    pub(super) fn said(&self, sample: &Sample, answer: &Message) -> Said {
        let name = answer.attributes.get(names::TYPE).unwrap_or_default();
        let body = match envelope::format_of(&answer.attributes) {
            Ok(format) => Body { format, bytes: answer.body.to_vec() },
            Err(text) => return Said::Strange(text),
        };
        let codec = &*self.kit.codec;
        let read = |kind: &Kind| kind.reads(&body, codec);
        if name == Failure::NAME {
            return match body.read::<Failure>(codec) {
                Ok(failure) => Said::Failed(failure),
                Err(error) => Said::Strange(error.to_string()),
            };
        }
        if answer.attributes.get(SAGA_LEG) == Some(Leg::Status.as_str()) {
            let strange = |error: CodecError| Said::Strange(error.to_string());
            if name == StatusNotDone::NAME {
                return body.read::<StatusNotDone>(codec).map_or_else(strange, |_| Said::NotDone);
            }
            if name == StatusUnknown::NAME {
                return body.read::<StatusUnknown>(codec).map_or_else(strange, |_| Said::Unknown);
            }
        }
        let (success, rejection) = (&sample.success, sample.rejection.as_ref());
        let read = if name == success.name {
            read(success).map(|()| Said::Success(body.clone()))
        } else if let Some(rejection) = rejection.filter(|kind| kind.name == name) {
            read(rejection).map(|()| Said::Rejected(body.clone()))
        } else {
            let or = rejection.map_or_else(String::new, |kind| format!(", `{}`", kind.name));
            return Said::Strange(format!(
                "an answer of type `{name}`; `{}` is answered by `{}`{or} or `Failure`",
                sample.name, success.name
            ));
        };
        match read {
            Ok(_) if body.format != sample.format() => Said::Strange(format!(
                "an answer in {}, where {} was asked in {}",
                body.format.content_type(),
                sample.name,
                sample.format().content_type()
            )),
            Ok(said) => said,
            Err(error) => Said::Strange(error.to_string()),
        }
    }

    /// What the participant's books say, where they can be seen.
    pub(super) async fn effects(
        &self,
        sample: &Sample,
        saga: &Saga,
    ) -> Result<Option<Effects>, ConformanceError> {
        let Some(probe) = &self.kit.probe else { return Ok(None) };
        let key = self.key(sample, saga)?;
        let effects = probe.effects(sample.name, key.as_str()).await;
        effects.map(Some).map_err(|source| ConformanceError::Probe {
            participant: self.participant(),
            key: key.as_str().to_owned(),
            source,
        })
    }

    /// What was sent in this scene and what came, for people.
    pub(super) fn scene(&self) -> (Vec<String>, Vec<String>) {
        let sent = lines(self.asked.iter(), "to");
        (sent, lines(self.heard.iter().map(|heard| &heard.message), "at"))
    }

    pub(super) fn within(&self) -> Duration {
        self.kit.within
    }

    fn participant(&self) -> String {
        self.kit.participant.clone()
    }

    fn no_sample(&self, source: CodecError) -> ConformanceError {
        ConformanceError::Sample { participant: self.participant(), source }
    }
}

pub(super) fn key_of(message: &Message) -> Option<String> {
    message.attributes.get(names::IDEMPOTENCY_KEY).map(str::to_owned)
}

fn lines<'m>(messages: impl ExactSizeIterator<Item = &'m Message>, where_: &str) -> Vec<String> {
    let more = messages.len().saturating_sub(LINES_MAX);
    let mut lines: Vec<_> = messages.take(LINES_MAX).map(|message| line(message, where_)).collect();
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines
}

fn line(message: &Message, where_: &str) -> String {
    let mut text = message.attributes.get(names::TYPE).unwrap_or("(no type)").to_owned();
    for name in
        [SAGA_LEG, SAGA_ATTEMPT, SAGA_RUN, SAGA_STEP, names::SUBJECT, names::IDEMPOTENCY_KEY]
    {
        if let Some(value) = message.attributes.get(name) {
            text.push_str(&format!(" {name}={value}"));
        }
    }
    let body = match std::str::from_utf8(&message.body) {
        Ok(body) if !body.contains(char::is_control) => body.chars().take(BODY_CHARS_MAX).collect(),
        Ok(_) | Err(_) => format!("{} bytes", message.body.len()),
    };
    format!("{text} {where_} {}: {body}", message.channel)
}
