//! A source of a simulated broker, as its process sees it.

use super::{
    Life,
    broker::{Broker, Look, Opening},
    house::{ConnId, NAME},
};
use crate::{ConnectorError, Delivery, Health, Receipt, Settle, Settler, Source, SourceSpec};
use async_trait::async_trait;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

/// How often a reader that waits for another one's group or queues looks whether that one stands still.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) struct SimSource {
    end: Arc<End>,
    health: Health,
    wake: Arc<Notify>,
}

/// The end of the connection at the process: what the source and its settlers share.
struct End {
    broker: Arc<Broker>,
    life: Arc<Life>,
    conn: ConnId,
}

impl SimSource {
    /// Waits for a former reader that may be gone, as long as the broker would keep it.
    pub(super) async fn open(
        broker: Arc<Broker>,
        life: Arc<Life>,
        spec: SourceSpec,
    ) -> Result<Self, ConnectorError> {
        let mut waiting_since = None;
        loop {
            life.runs().await;
            let turnover = broker.turnover.notified();
            tokio::pin!(turnover);
            turnover.as_mut().enable();
            let (opening, now, wait_max) = {
                let mut turn = broker.turn();
                let now = turn.now;
                let settings = &turn.house.settings;
                let wait_max = settings.session_timeout + settings.takeover_margin;
                (turn.open(&life, &spec, now)?, now, wait_max)
            };
            match opening {
                Opening::Opened(conn) => {
                    let found = {
                        let turn = broker.turn();
                        let conn = turn.house.conns.get(&conn);
                        conn.map(|conn| (conn.health.clone(), Arc::clone(&conn.wake)))
                    };
                    // Whoever died of being told that it owns the group is gone already.
                    let Some((health, wake)) = found else { continue };
                    let end = End { broker: Arc::clone(&broker), life, conn };
                    return Ok(Self { end: Arc::new(end), health, wake });
                }
                Opening::Taken { owner, gone_at } => {
                    let since = *waiting_since.get_or_insert(now);
                    if gone_at.is_none() && now - since > wait_max {
                        return Err(ConnectorError::Owned {
                            connector: NAME,
                            group: spec.group,
                            owner,
                        });
                    }
                    let look_at = now + LOOK_EVERY;
                    let look_at = gone_at.map_or(look_at, |gone_at| look_at.min(gone_at));
                    // Either way it is asked again.
                    let _ = timeout_at(look_at, turnover).await;
                }
            }
        }
    }
}

#[async_trait]
impl Source for SimSource {
    async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>, ConnectorError> {
        let End { broker, life, conn } = &*self.end;
        loop {
            life.runs().await;
            let look = {
                let mut turn = broker.turn();
                let now = turn.now;
                turn.look(*conn, now)?
            };
            match look {
                Look::There => {
                    life.cross("receive").await;
                    let mut turn = broker.turn();
                    let now = turn.now;
                    let taken = turn.take(*conn, max.max(1), now);
                    drop(turn);
                    if !taken.is_empty() && life.is_alive() {
                        return Ok(taken);
                    }
                }
                Look::Wait(None) => self.wake.notified().await,
                Look::Wait(Some(at)) => {
                    // Either way it looks again.
                    let _ = timeout_at(at, self.wake.notified()).await;
                }
            }
        }
    }

    fn settler(&self) -> Arc<dyn Settler> {
        self.end.clone()
    }

    fn health(&self) -> Health {
        self.health.clone()
    }
}

impl Settler for End {
    fn settle(&self, settlements: &[(Receipt, Settle)]) {
        if self.life.crosses("settle") {
            let mut turn = self.broker.turn();
            let now = turn.now;
            turn.settle(self.conn, settlements, now);
        }
    }
}

impl Drop for SimSource {
    fn drop(&mut self) {
        let End { broker, life, conn } = &*self.end;
        // One that died has left nothing to be closed.
        if life.is_alive() {
            let mut turn = broker.turn();
            let now = turn.now;
            turn.close(*conn, now);
            drop(turn);
            broker.turnover.notify_waiters();
        }
    }
}

/// Waits until the broker can be reached; an error where that takes too long.
pub(super) async fn reached(
    broker: &Broker,
    life: &Life,
    doing: &str,
) -> Result<(), ConnectorError> {
    let (takes, waited, name, begun) = {
        let mut turn = broker.turn();
        let now = turn.now;
        let takes = turn.house.takes(now, life.number());
        let settings = &turn.house.settings;
        (takes, settings.open_wait_max, settings.name.clone(), now)
    };
    super::pause(takes).await;
    loop {
        life.runs().await;
        let away = broker.turn().house.away_until();
        let Some(until) = away else { return Ok(()) };
        tokio::time::sleep_until(until.min(begun + waited)).await;
        if Instant::now() >= begun + waited {
            life.runs().await;
            return Err(ConnectorError::Unreachable {
                connector: NAME,
                address: name,
                doing: doing.to_owned(),
                waited,
                source: None,
            });
        }
    }
}
