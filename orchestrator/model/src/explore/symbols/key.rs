//! A state as a few bytes, so that millions fit, and back.

use super::{LATER, NOW, Situation, Symbols, empty};
use crate::explore::reference::Fate;
use crate::{
    definition::NodeId,
    instance::{
        Ask, Cause, CauseKind, Core, Early, Incident, Leg, Next, NoEffect, NodeState, Question,
        Status,
    },
    message::Format,
};

/// Stands for an attempt that is held, in place of its number, which follows: attempts that are told apart are fewer.
const HELD: u8 = 15;

impl Symbols {
    /// The saga's status, and whether its deadline is ahead.
    pub(in crate::explore) fn head(&self, core: &Core) -> u8 {
        let status = match core.status {
            Status::Running => 0,
            Status::TurningBack => 1,
            Status::Completed => 2,
            Status::Compensated => 3,
            Status::Killed => 4,
        };
        status | u8::from(core.deadline.is_some()) << 3
    }

    /// What is known of a node, as bytes.
    pub(in crate::explore) fn name_node(&self, state: &NodeState, fate: Fate, key: &mut Vec<u8>) {
        let told = |ask: &Ask| ask.counted().clamp(1, self.attempts_max) as u8 - 1;
        let ask = |ask: &Ask| match ask.next {
            Next::Held(_) => HELD << 2,
            next => told(ask) << 2 | u8::from(matches!(next, Next::AskAgain(_))) << 1,
        };
        let held = |ask: &Ask| matches!(ask.next, Next::Held(_)).then(|| told(ask));
        key.push(match state {
            NodeState::Idle => 0,
            NodeState::Entered => 1,
            NodeState::Waiting { .. } => 2,
            NodeState::Done(None) => 3,
            NodeState::Done(Some(_)) => 4,
            NodeState::InDoubt => 5,
            NodeState::NoEffect(_) => 6,
            NodeState::Ended => 7,
            NodeState::Undone | NodeState::Resolved => 8,
            NodeState::Stuck(..) => 9,
            NodeState::Chosen(None) => 10,
            NodeState::Chosen(Some(place)) => {
                key.push(11);
                key.extend_from_slice(&place.to_le_bytes());
                return;
            }
            NodeState::Open(open) => {
                key.push(0x40 | ask(open) | u8::from(open.doubt));
                key.extend(held(open));
                key.push(fate.to_byte());
                return;
            }
            NodeState::Undoing(_, open) => {
                key.push(0x80 | ask(open));
                key.extend(held(open));
                key.push(fate.to_byte());
                return;
            }
            NodeState::InQuestion(question) => {
                // In question is what is in doubt; its last attempt counts for a pivot, which is asked again.
                key.push(0xC0 | ask(&question.ask));
                key.extend(held(&question.ask));
                // What the command it is about was doing matters to nobody any more.
                key.extend_from_slice(&[told(&question.about) << 2, fate.to_byte()]);
                return;
            }
        });
        // Only steps have a fate, and one that was never asked has none.
        if !matches!(state, NodeState::Idle | NodeState::Entered | NodeState::Waiting { .. }) {
            key.push(fate.to_byte());
        }
    }

    /// A state as bytes.
    pub(in crate::explore) fn encode(&self, core: &Core, fates: &[Fate]) -> Vec<u8> {
        let mut key = Vec::with_capacity(core.nodes.len() * 2 + 8);
        key.push(self.head(core));
        for (state, fate) in core.nodes.iter().zip(fates) {
            self.name_node(state, *fate, &mut key);
        }
        let mut incidents: Vec<u16> = core
            .incidents
            .iter()
            .map(|incident| incident.node.0 << 1 | u16::from(incident.leg == Leg::Compensate))
            .collect();
        incidents.sort_unstable();
        key.push(u8::try_from(core.early.len()).expect("EARLY_EVENTS_MAX fits"));
        for early in &core.early {
            let place = self.place_of(&early.event).expect("only awaited events are kept");
            key.extend_from_slice(&place.to_le_bytes());
        }
        incidents.iter().for_each(|incident| key.extend_from_slice(&incident.to_le_bytes()));
        key
    }

    /// A state from its bytes.
    pub(in crate::explore) fn decode(&self, key: &[u8]) -> Situation {
        let mut bytes = key.iter().copied();
        let mut next = || bytes.next().unwrap_or_default();
        let mut core = self.blank.clone();
        let head = next();
        core.status = match head & 7 {
            0 => Status::Running,
            1 => Status::TurningBack,
            2 => Status::Completed,
            3 => Status::Compensated,
            _ => Status::Killed,
        };
        core.deadline = (head & 8 != 0).then_some(LATER);
        core.ended_at = core.status.is_end().then_some(NOW);
        let back = matches!(core.status, Status::TurningBack | Status::Compensated);
        core.cause =
            back.then(|| Cause { node: None, what: CauseKind::Cancelled, text: "explored".into() });
        let mut fates = vec![Fate::default(); core.nodes.len()];
        for (state, fate) in core.nodes.iter_mut().zip(&mut fates) {
            let code = next();
            let ask_of = |code: u8, held: Option<u8>| Ask {
                attempt: u32::from(held.unwrap_or(code >> 2 & 15)) + 1,
                excused: 0,
                first_at: NOW,
                asked_at: NOW,
                next: match (held, code & 2) {
                    (Some(_), _) => Next::Held(LATER),
                    (None, 0) => Next::GiveUp(LATER),
                    (None, _) => Next::AskAgain(LATER),
                },
                doubt: code & 1 == 1,
                questions: 0,
            };
            let is_held = code & 0xC0 != 0 && code >> 2 & 15 == HELD;
            let held = is_held.then(&mut next);
            let ask = || ask_of(code, held);
            *state = match code {
                0 => NodeState::Idle,
                1 => NodeState::Entered,
                2 => NodeState::Waiting { until: LATER, since: NOW },
                3 => NodeState::Done(None),
                4 => NodeState::Done(Some(empty(Format::Json))),
                5 => NodeState::InDoubt,
                6 => NodeState::NoEffect(NoEffect::Failed),
                7 => NodeState::Ended,
                8 => NodeState::Undone,
                9 => {
                    let attempt = self.attempts_max;
                    NodeState::Stuck(None, Ask { attempt, next: Next::GiveUp(LATER), ..ask() })
                }
                10 => NodeState::Chosen(None),
                11 => NodeState::Chosen(Some(u16::from_le_bytes([next(), next()]))),
                open if open & 0xC0 == 0x40 => NodeState::Open(ask()),
                asked if asked & 0xC0 == 0xC0 => NodeState::InQuestion(Box::new(Question {
                    ask: ask(),
                    about: Ask { doubt: true, ..ask_of(next(), None) },
                    cause: CauseKind::TimedOut,
                    text: String::new(),
                })),
                _ => NodeState::Undoing(None, ask()),
            };
            if code > 2 && code != 11 {
                *fate = Fate::from_byte(next());
            }
        }
        for _ in 0..next() {
            let event = self.event(u16::from_le_bytes([next(), next()])).to_owned();
            let cause = Some(event.clone());
            core.early.push(Early { event, body: empty(Format::Json), since: NOW, cause });
        }
        let rest: Vec<u8> = bytes.collect();
        core.incidents = rest
            .chunks_exact(2)
            .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
            .map(|incident| Incident {
                node: NodeId(incident >> 1),
                leg: if incident & 1 == 0 { Leg::Do } else { Leg::Compensate },
                since: NOW,
                text: String::new(),
            })
            .collect();
        Situation { core, fates }
    }
}
