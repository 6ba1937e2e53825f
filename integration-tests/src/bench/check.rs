//! `bench check`: states per second of the explorer that tries every order of inputs of a saga. It works on one core and waits for nothing.

use super::{
    Error,
    alternate::{Subject, Turns, alternate},
    figures::Measured,
};
use async_trait::async_trait;
use dirigent_model::{definition::Plan, explore::Bounds, generated::generated};
use order::{order::order_saga, trip::saga::trip_saga};
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// How it is measured.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// A saga is explored again and again for so many seconds in each round.
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
    /// Seeds of generated sagas that are explored beside those of the example.
    #[arg(long, value_delimiter = ',', default_value = "1,2,3")]
    pub seeds: Vec<u64>,
    /// States of one saga at the most.
    #[arg(long, default_value_t = 50_000)]
    pub states_max: usize,
    /// Rounds, and how long at the most.
    #[command(flatten)]
    pub turns: Turns,
}

/// Measures each saga with all states and with those that are left once what repeats itself is left out.
pub async fn run(settings: &Settings) -> Result<Value, Error> {
    let (order, trip) = (order_saga()?.plan(), trip_saga()?.plan());
    let mut sagas = vec![("order".to_owned(), order), ("trip".to_owned(), trip)];
    let drawn =
        settings.seeds.iter().map(|seed| (format!("generated {seed}"), generated(*seed).plan));
    sagas.extend(drawn);
    let mut subjects: Vec<Box<dyn Subject>> = Vec::new();
    for (name, plan) in &sagas {
        for reduced in [false, true] {
            let how = if reduced { "reduced" } else { "all" };
            subjects.push(Box::new(Exploring {
                name: format!("{name}, {how}"),
                plan: Arc::clone(plan),
                bounds: Bounds { reduced, states_max: settings.states_max, ..Bounds::default() },
                lasts: Duration::from_secs_f64(settings.seconds),
            }));
        }
    }
    let measured = alternate(settings.turns, &mut subjects).await?;
    Ok(json!({ "subjects": measured.json() }))
}

struct Exploring {
    name: String,
    plan: Arc<Plan>,
    bounds: Bounds,
    lasts: Duration,
}

#[async_trait]
impl Subject for Exploring {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn round(&mut self) -> Result<Measured, Error> {
        let (plan, bounds, lasts) = (Arc::clone(&self.plan), self.bounds, self.lasts);
        let exploring = tokio::task::spawn_blocking(move || {
            let (begun, mut states, mut times) = (Instant::now(), 0, 0);
            loop {
                let checked = plan.check_within(bounds);
                states += checked.states;
                times += 1;
                let taken = begun.elapsed();
                if taken >= lasts {
                    return (states as f64 / taken.as_secs_f64(), states / times);
                }
            }
        });
        let (states_per_second, states) = exploring.await?;
        Ok(Measured::from([("states_per_second", states_per_second), ("states", states as f64)]))
    }
}
