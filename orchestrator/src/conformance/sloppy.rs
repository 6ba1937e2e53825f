//! A participant written by hand, without the kit, as somebody in another language would: right by itself, or failing one duty.

use crate::envelope::{SAGA_ATTEMPT, SAGA_ID, SAGA_LEG, SAGA_RUN, SAGA_STEP};
use dirigent_connectors::{
    Attributes, ChannelKind, ChannelSpec, Connector, Message as Sending, Settle, SourceSpec,
    memory::MemoryBroker, names,
};
use dirigent_model::message::{
    Channel, Command, Message, Never, StatusNotDone, StatusQuery, StatusUnknown,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use tokio::task::JoinHandle;

const STOCK: Channel = Channel::json("stock");

macro_rules! message {
    ($name:ident { $($field:ident: $type:ty),* } $(to $reply:ident or $rejection:ident)?) => {
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        pub(super) struct $name { $(pub(super) $field: $type),* }
        impl Message for $name { const NAME: &'static str = stringify!($name); }
        $(impl Command for $name {
            const TO: Channel = STOCK;
            type Success = $reply;
            type Rejection = $rejection;
        })?
    };
}

message!(Reserve { order: i64, pieces: u32 } to Reserved or SoldOut);
message!(Reserved { number: u64 });
message!(SoldOut { order: i64 });
message!(Release { order: i64 } to Released or Never);
message!(Released { had: bool });

/// What it does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Sloppy {
    /// Nothing.
    #[default]
    Not,
    /// Does what it is asked, however often.
    DoesEverything,
    /// Acts once, and answers a repeat by an apology instead of its answer.
    AnswersRepeatsDifferently,
    /// Acts once, and answers a repeat by silence.
    IgnoresRepeats,
    /// Answers a compensation for nothing, and forgets it.
    ForgetsCompensations,
    /// Fails a compensation that has nothing to undo.
    FailsCompensationOfNothing,
    /// Remembers compensations by business key alone.
    MarksByBusinessKey,
    /// Forgets to echo one attribute.
    Forgets(&'static str),
    /// Answers everybody where it was asked first.
    AnswersAtHome,
    /// Ends when it meets a command it does not know.
    EndsOnUnknown,
    /// Ends when it can't read a body.
    EndsOnUndecodable,
    /// Answers every question by `not done`, and carries the command out all the same.
    SealsNothing,
    /// Answers no question.
    KnowsNoStatus,
    /// Answers that nobody knows, which is no promise.
    NeverKnows,
    /// Reads whatever it gets as if it were whole.
    GuessesBodies,
}

/// Starts it at a broker.
pub(super) async fn start(broker: &MemoryBroker, how: Sloppy) -> JoinHandle<()> {
    let channels = vec![ChannelSpec::work(STOCK.name)];
    broker.prepare(&channels).await.unwrap();
    let spec =
        SourceSpec { channels, group: "sloppy".into(), positions: vec![], unsettled_max: 500 };
    let mut source = broker.source(spec).await.unwrap();
    let mut sink = broker.sink().await.unwrap();
    tokio::spawn(async move {
        let mut stock = Stock { how, ..Stock::default() };
        while let Ok(deliveries) = source.receive(100).await {
            for delivery in deliveries {
                match stock.take(&delivery.message) {
                    Took::Answer(answer) => drop(sink.send(&[*answer]).await),
                    Took::Nothing => {}
                    Took::Crash => return,
                }
                source.settler().settle(&[(delivery.receipt, Settle::Done)]);
            }
        }
    })
}

enum Took {
    Answer(Box<Sending>),
    Nothing,
    Crash,
}

type Answer = (&'static str, Value);

#[derive(Default)]
struct Stock {
    how: Sloppy,
    answered: HashMap<String, Answer>,
    undone: HashSet<String>,
    reserved_for: HashSet<String>,
    reserved: u64,
    home: Option<String>,
}

fn failure(code: &str) -> Answer {
    ("Failure", json!({ "code": code, "message": "no", "retriable": false, "effect": "none" }))
}

impl Stock {
    fn take(&mut self, asked: &Sending) -> Took {
        let said = |name: &str| asked.attributes.get(name).unwrap_or_default().to_owned();
        let (key, reply_to) = (said(names::IDEMPOTENCY_KEY), said(names::REPLY_TO));
        if key.is_empty() || reply_to.is_empty() || said(SAGA_ID).is_empty() {
            return Took::Nothing;
        }
        let reply_to = match self.how {
            Sloppy::AnswersAtHome => self.home.get_or_insert(reply_to).clone(),
            _ => reply_to,
        };
        let known = self.answered.get(&key).filter(|_| self.how != Sloppy::DoesEverything);
        let answer = match (known, self.how) {
            (Some(_), Sloppy::IgnoresRepeats) => return Took::Nothing,
            (Some(_), Sloppy::AnswersRepeatsDifferently) => Some(failure("done-already")),
            (Some(answer), _) => Some(answer.clone()),
            (None, _) if said(names::TYPE) == StatusQuery::NAME => self.status(asked),
            (None, _) => self.carry_out(asked, &said(names::TYPE)),
        };
        let Some(answer) = answer else { return Took::Crash };
        if answer.0 != "Failure" && !answer.0.starts_with("dirigent.") {
            self.answered.insert(key, answer.clone());
        }
        Took::Answer(Box::new(self.reply(asked, reply_to, answer)))
    }

    /// What became of a command; what was not done is refused from now on.
    fn status(&mut self, asked: &Sending) -> Option<Answer> {
        let query: StatusQuery = serde_json::from_slice(&asked.body).ok()?;
        let known = self.answered.get(&query.idempotencykey).cloned();
        Some(match (known, self.how) {
            (_, Sloppy::KnowsNoStatus) => failure("unknown-command"),
            (_, Sloppy::NeverKnows) => (StatusUnknown::NAME, json!({})),
            (_, Sloppy::SealsNothing) => (StatusNotDone::NAME, json!({})),
            (Some(("Failure", _)), _) => (StatusNotDone::NAME, json!({})),
            (Some(answer), _) => answer,
            (None, _) => {
                self.answered.insert(query.idempotencykey, failure("sealed"));
                (StatusNotDone::NAME, json!({}))
            }
        })
    }

    fn carry_out(&mut self, asked: &Sending, name: &str) -> Option<Answer> {
        let said = |name: &str| asked.attributes.get(name).unwrap_or_default();
        let mark = match self.how {
            Sloppy::MarksByBusinessKey => said(names::SUBJECT).to_owned(),
            _ => format!("{}/{}/{}", said(SAGA_ID), said(SAGA_RUN), said(SAGA_STEP)),
        };
        let is_json = said(names::CONTENT_TYPE) == "application/json";
        let fields = serde_json::from_slice::<Value>(&asked.body).ok().filter(|_| is_json);
        match name {
            "Reserve" => {
                let read = fields.and_then(|fields| serde_json::from_value::<Reserve>(fields).ok());
                let read = match (read, self.how) {
                    (None, Sloppy::EndsOnUndecodable) => return None,
                    (None, Sloppy::GuessesBodies) => Reserve { order: 0, pieces: 1 },
                    (None, _) => return Some(failure("undecodable")),
                    (Some(read), _) => read,
                };
                if self.undone.contains(&mark) {
                    return Some(failure("compensated"));
                }
                if read.pieces > 100 {
                    return Some(("SoldOut", json!({ "order": read.order })));
                }
                self.reserved += 1;
                self.reserved_for.insert(mark);
                Some(("Reserved", json!({ "number": self.reserved })))
            }
            "Release" => {
                let had = self.reserved_for.remove(&mark);
                if !had && self.how == Sloppy::FailsCompensationOfNothing {
                    return Some(failure("nothing-to-undo"));
                }
                if self.how != Sloppy::ForgetsCompensations {
                    self.undone.insert(mark);
                }
                Some(("Released", json!({ "had": had })))
            }
            _ if self.how == Sloppy::EndsOnUnknown => None,
            _ => Some(failure("unknown-command")),
        }
    }

    fn reply(&self, asked: &Sending, reply_to: String, (name, body): Answer) -> Sending {
        let mut attributes = Attributes::new()
            .with(names::SPEC_VERSION, "1.0")
            .with(names::ID, format!("reply-{}", asked.attributes.get(names::ID).unwrap_or("?")))
            .with(names::SOURCE, "/sloppy")
            .with(names::TYPE, name)
            .with(names::CONTENT_TYPE, "application/json");
        let echoed = [
            names::SUBJECT,
            SAGA_ID,
            SAGA_RUN,
            SAGA_STEP,
            SAGA_LEG,
            SAGA_ATTEMPT,
            names::IDEMPOTENCY_KEY,
        ];
        for name in echoed.into_iter().filter(|name| self.how != Sloppy::Forgets(name)) {
            if let Some(value) = asked.attributes.get(name) {
                attributes.set(name, value);
            }
        }
        Sending {
            channel: reply_to,
            kind: ChannelKind::Work,
            key: asked.key.clone(),
            attributes,
            others: vec![],
            body: body.to_string().into(),
        }
    }
}
