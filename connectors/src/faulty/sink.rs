//! Sends windows with faults. What is sent late is confirmed at once, which only messages get for which somebody asks again.

use super::{Chance, HELD_MAX, Shared, count, somebody_asks_again};
use crate::{Health, Message, Sent, Sink};
use async_trait::async_trait;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

pub(super) struct FaultySink {
    inner: Box<dyn Sink>,
    late: mpsc::Sender<(Instant, Message)>,
    late_task: JoinHandle<()>,
    shared: Arc<Shared>,
    chance: Chance,
}

impl FaultySink {
    /// `late` sends what is held back, beside the windows.
    pub(super) fn new(
        inner: Box<dyn Sink>,
        late: Box<dyn Sink>,
        shared: Arc<Shared>,
        chance: Chance,
    ) -> Self {
        let (sender, held) = mpsc::channel(HELD_MAX);
        let late_task = tokio::spawn(send_late(late, held));
        Self { inner, late: sender, late_task, shared, chance }
    }

    /// Decides what happens to one message. Returns how often it is sent now, or its outcome when it is not.
    fn decide(&mut self, message: &Message) -> Result<usize, Sent> {
        let (faults, done) = (&self.shared.faults, &self.shared.done);
        let lose = self.shared.happens(&mut self.chance, faults.lose);
        let double = self.shared.happens(&mut self.chance, faults.double);
        let delay = self.shared.happens(&mut self.chance, faults.delay);
        let held = self.chance.up_to(faults.delay_max);
        if lose && somebody_asks_again(message) {
            count(&done.sends_lost);
            return Err(Sent::Confirmed);
        }
        if lose {
            count(&done.sends_unknown);
            return Err(Sent::Unknown {
                text: "made unknown, and not sent, by the faulty connector".into(),
            });
        }
        if delay
            && somebody_asks_again(message)
            && self.late.try_send((Instant::now() + held, message.clone())).is_ok()
        {
            count(&done.sends_delayed);
            if !double {
                return Err(Sent::Confirmed);
            }
            count(&done.sends_doubled);
            return Ok(1);
        }
        if double {
            count(&done.sends_doubled);
            return Ok(2);
        }
        Ok(1)
    }
}

#[async_trait]
impl Sink for FaultySink {
    async fn send(&mut self, window: &[Message]) -> Vec<Sent> {
        let mut outcomes: Vec<Option<Sent>> = vec![None; window.len()];
        let mut now: Vec<(usize, Message)> = Vec::with_capacity(window.len());
        for (index, message) in window.iter().enumerate() {
            match self.decide(message) {
                Ok(times) => now.extend(std::iter::repeat_n((index, message.clone()), times)),
                Err(outcome) => outcomes[index] = Some(outcome),
            }
        }
        for index in 1..now.len() {
            if self.shared.happens(&mut self.chance, self.shared.faults.reorder) {
                count(&self.shared.done.sends_reordered);
                now.swap(index - 1, index);
            }
        }
        let (indices, messages): (Vec<usize>, Vec<Message>) = now.into_iter().unzip();
        let sent = if messages.is_empty() { Vec::new() } else { self.inner.send(&messages).await };
        for (index, outcome) in indices.into_iter().zip(sent) {
            let known = &mut outcomes[index];
            // Of a message sent twice one confirmation is enough.
            if known.as_ref() != Some(&Sent::Confirmed) {
                *known = Some(outcome);
            }
        }
        let missing = || Sent::Unknown { text: "the inner connector gave no outcome".into() };
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(missing)).collect()
    }

    fn health(&self) -> Health {
        self.inner.health()
    }
}

impl Drop for FaultySink {
    fn drop(&mut self) {
        // What is held back is lost with the sender, as it would be with its machine.
        self.late_task.abort();
    }
}

/// Sends each message when its time has come. Later ones overtake earlier ones.
async fn send_late(mut sink: Box<dyn Sink>, mut arrivals: mpsc::Receiver<(Instant, Message)>) {
    let mut held: Vec<(Instant, Message)> = Vec::new();
    let far = Duration::from_secs(3_600);
    loop {
        let due = held.iter().map(|(due, _)| *due).min().unwrap_or_else(|| Instant::now() + far);
        tokio::select! {
            biased;
            arrived = arrivals.recv(), if held.len() < HELD_MAX => match arrived {
                Some(late) => held.push(late),
                None => break,
            },
            () = sleep_until(due) => {
                let now = Instant::now();
                let ready: Vec<Message> = held.extract_if(.., |(due, _)| *due <= now).map(|(_, message)| message).collect();
                if !ready.is_empty() {
                    // Confirmed long ago: whoever misses it asks again.
                    let _ = sink.send(&ready).await;
                }
            }
        }
    }
}
