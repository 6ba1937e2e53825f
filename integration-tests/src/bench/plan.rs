//! What `bench all` measures: each section of the page with its arguments, and the figures that are to be reached.

use clap::ValueEnum;

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Size {
    /// So little that it says nothing: whether everything still works.
    Tiny,
    /// Up to a million instances, few rounds, a short soak.
    Short,
    /// All of it: up to five million instances, many rounds, half an hour of soak. Takes hours.
    Full,
}

/// A section of the page: one run of one benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Section {
    /// See `bench engine`.
    Engine,
    /// See `bench kafka`.
    Kafka,
    /// See `bench rabbitmq`.
    Rabbitmq,
    /// See `bench latency`, in memory.
    LatencyMemory,
    /// See `bench latency`, through Kafka.
    LatencyKafka,
    /// See `bench latency`, through RabbitMQ.
    LatencyRabbitmq,
    /// See `bench scale`.
    Scale,
    /// See `bench open`.
    Open,
    /// See `bench soak`.
    Soak,
    /// See `bench check`.
    Check,
    /// See `bench model`.
    Model,
}

impl Section {
    /// All, in the order of the page.
    pub(super) const ALL: [Self; 11] = [
        Self::Engine,
        Self::Kafka,
        Self::Rabbitmq,
        Self::LatencyMemory,
        Self::LatencyKafka,
        Self::LatencyRabbitmq,
        Self::Scale,
        Self::Open,
        Self::Soak,
        Self::Check,
        Self::Model,
    ];

    /// What its figures are kept under.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::Kafka => "kafka",
            Self::Rabbitmq => "rabbitmq",
            Self::LatencyMemory => "latency-memory",
            Self::LatencyKafka => "latency-kafka",
            Self::LatencyRabbitmq => "latency-rabbitmq",
            Self::Scale => "scale",
            Self::Open => "open",
            Self::Soak => "soak",
            Self::Check => "check",
            Self::Model => "model",
        }
    }

    /// Its heading.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Engine => "The engine, on a broker in memory",
            Self::Kafka => "Through Kafka",
            Self::Rabbitmq => "Through RabbitMQ",
            Self::LatencyMemory => "Latency on a broker in memory",
            Self::LatencyKafka => "Latency through Kafka",
            Self::LatencyRabbitmq => "Latency through RabbitMQ",
            Self::Scale => "With many instances at rest",
            Self::Open => "Opening after a kill",
            Self::Soak => "Under load for long",
            Self::Check => "Exploring a saga",
            Self::Model => "A transition",
        }
    }

    /// How it is measured, for readers of the page.
    pub(super) fn method(self) -> &'static str {
        match self {
            Self::Engine => {
                "Orders as fast as they go, no more than so many in flight. An event is an input that was applied: a start or a reply; it counts once its \
                 group is durable. The floor behind each round is what the disk can do: the bytes that the journal took in that round, in as many groups, \
                 appended to a preallocated file and synced one by one (`fdatasync`); for `process-crash` written without a sync. \
                 *journal_bytes_per_message_byte* is what the journal takes for an event, divided by what the event's message takes at the broker. \
                 *disk_bytes_per_event* is all that the process made the disk write, store and files made ahead of time included."
            }
            Self::Kafka | Self::Rabbitmq => {
                "Orders as fast as they go through a broker that is started for the run. The limit is a *bare loop* that consumes what the engine consumes \
                 and produces copies of what the engine produces, by the same client library with the same acks, confirms and bounds on windows, and \
                 remembers nothing. On Kafka the engine sends each window in a transaction, which fences a former owner; so there is a loop that \
                 does so, too. Both use the same services, and take turns on the same broker."
            }
            Self::LatencyMemory | Self::LatencyKafka | Self::LatencyRabbitmq => {
                "Orders are placed by the clock, whatever becomes of them, at parts of what the engine can do; the bare loop has the very same pace. \
                 Latency is taken from when an order *was due* to the arrival of its first command at the service (and of the event of its end, \
                 *to_end*), so whoever had to wait counts, also before being sent. Percentiles are of each round; the table has the middle of them."
            }
            Self::Scale => {
                "Sagas that wait for an event for days, a third each for 1, 10 and 100 days, about as large as an order. Memory is that of a process that \
                 has just opened the folder; broker, services and customers are in it, too, as are its first orders. Bytes of an instance are those of the store's files, \
                 divided. A stall is the longest time between two settlements."
            }
            Self::Open => {
                "A process under load is killed (`kill -9`), and the next one is started on its folder. Measured from its start to having opened the folder and \
                 connected, and to the first input that is settled."
            }
            Self::Soak => {
                "An open load, looked at each second. The first fifth of the time is compared with the last. Sagas that have ended are kept for a minute here, \
                 so that what is kept reaches its size soon."
            }
            Self::Check => {
                "States per second of the explorer behind `check`, on one core: all states, and what is left once what only repeats itself is left out."
            }
            Self::Model => {
                "An order from start to end, its messages written before. Nanoseconds are of this machine; instructions and allocations are counted by \
                 valgrind's callgrind, and are the same anywhere."
            }
        }
    }

    /// What it is run with. The folder of instances at rest is shared by those that need one.
    pub(super) fn arguments(self, size: Size) -> Vec<&'static str> {
        let (tiny, short, full) = match self {
            Self::Engine => (
                "engine --orders 200 --rounds 1 --durability both --shards 2",
                "engine --durability both --shards 1,2,4 --rounds 5",
                "engine --durability both --shards 1,2,4 --rounds 7 --orders 100000 --seconds-max 900",
            ),
            Self::Kafka => {
                ("kafka --orders 200 --rounds 1", "kafka", "kafka --rounds 9 --seconds-max 900")
            }
            Self::Rabbitmq => (
                "rabbitmq --orders 200 --rounds 1",
                "rabbitmq",
                "rabbitmq --rounds 9 --seconds-max 900",
            ),
            Self::LatencyMemory => (
                "latency --broker memory --orders 200 --seconds 0.3 --warm-up 0.1 --rounds 1",
                "latency --broker memory --rounds 3 --seconds 6",
                "latency --broker memory --rounds 5 --seconds 20",
            ),
            Self::LatencyKafka => (
                "latency --broker kafka --orders 200 --seconds 0.5 --warm-up 0.1 --rounds 1",
                "latency --broker kafka --orders 5000 --rounds 3 --seconds 6",
                "latency --broker kafka --rounds 5 --seconds 20",
            ),
            Self::LatencyRabbitmq => (
                "latency --broker rabbitmq --orders 200 --seconds 0.5 --warm-up 0.1 --rounds 1",
                "latency --broker rabbitmq --orders 5000 --rounds 3 --seconds 6",
                "latency --broker rabbitmq --rounds 5 --seconds 20",
            ),
            Self::Scale => (
                "scale --live 200,400 --orders 200 --rest-seconds 0.1 --seconds 0.3 --rounds 1 --keep",
                "scale --live 10000,1000000 --rounds 3 --keep",
                "scale --live 10000,1000000,5000000 --seconds 20 --seconds-max 600 --keep",
            ),
            Self::Open => (
                "open --live 200 --seconds 0.2 --pace 200 --rounds 1 --keep",
                "open --live 10000,1000000 --rounds 3 --keep",
                "open --live 10000,1000000,5000000 --seconds-max 600 --keep",
            ),
            Self::Soak => {
                ("soak --minutes 0.04 --orders 200", "soak --minutes 2", "soak --minutes 30")
            }
            Self::Check => (
                "check --seconds 0.01 --seeds 1 --states-max 300 --rounds 1",
                "check --rounds 3",
                "check --seconds 3",
            ),
            Self::Model => {
                ("model --sagas 20 --rounds 1", "model --callgrind", "model --callgrind")
            }
        };
        let words = match size {
            Size::Tiny => tiny,
            Size::Short => short,
            Size::Full => full,
        };
        words.split(' ').collect()
    }

    /// What is plotted as bars: the figures of each subject below this place.
    pub(super) fn plots(self) -> &'static [(&'static str, &'static [&'static str], &'static str)] {
        match self {
            Self::Engine => &[("engine", &["subjects"], "events_per_second")],
            Self::Kafka => &[("kafka", &["subjects"], "events_per_second")],
            Self::Rabbitmq => &[("rabbitmq", &["subjects"], "events_per_second")],
            Self::LatencyMemory => &[("latency-memory", &["subjects", "at 50 %"], "p99_ms")],
            Self::LatencyKafka => &[("latency-kafka", &["subjects", "at 50 %"], "p99_ms")],
            Self::LatencyRabbitmq => &[("latency-rabbitmq", &["subjects", "at 50 %"], "p99_ms")],
            Self::Scale => &[
                ("scale", &["as fast as it goes"], "events_per_second"),
                ("scale-latency", &["by the clock"], "p99_ms"),
            ],
            Self::Open => &[("open", &["subjects"], "first_settled_ms")],
            Self::Model => &[("model", &["subjects"], "ns_per_transition")],
            Self::Soak | Self::Check => &[],
        }
    }
}

/// A figure that is to be reached.
pub(super) struct Goal {
    pub what: &'static str,
    pub at_least: f64,
    pub aim: f64,
    /// Whether more is better.
    pub rises: bool,
    pub unit: &'static str,
    pub section: Section,
    /// Where it stands in the section's figures.
    pub place: &'static [&'static str],
}

/// All of them, for a machine with two cores.
pub(super) const GOALS: &[Goal] = &[
    Goal {
        what: "engine, durable events/s",
        at_least: 120_000.0,
        aim: 200_000.0,
        rises: true,
        unit: "",
        section: Section::Engine,
        place: &["subjects", "power-loss, 2 shards", "events_per_second"],
    },
    Goal {
        what: "engine ÷ floor of the disk",
        at_least: 0.5,
        aim: 0.8,
        rises: true,
        unit: "",
        section: Section::Engine,
        place: &["ratios", "power-loss, 2 shards ÷ floor"],
    },
    Goal {
        what: "Kafka ÷ bare loop",
        at_least: 0.7,
        aim: 0.9,
        rises: true,
        unit: "",
        section: Section::Kafka,
        place: &["ratios", "engine ÷ bare loop"],
    },
    Goal {
        what: "RabbitMQ ÷ bare loop",
        at_least: 0.8,
        aim: 0.95,
        rises: true,
        unit: "",
        section: Section::Rabbitmq,
        place: &["ratios", "engine ÷ bare loop"],
    },
    Goal {
        what: "p99 added to the bare loop at 50 % load, Kafka",
        at_least: 5.0,
        aim: 2.0,
        rises: false,
        unit: " ms",
        section: Section::LatencyKafka,
        place: &["ratios", "p99_ms added to the bare loop, at 50 %"],
    },
    Goal {
        what: "p99 added to the bare loop at 50 % load, RabbitMQ",
        at_least: 5.0,
        aim: 2.0,
        rises: false,
        unit: " ms",
        section: Section::LatencyRabbitmq,
        place: &["ratios", "p99_ms added to the bare loop, at 50 %"],
    },
    Goal {
        what: "events/s with 5 million at rest ÷ with 10 thousand",
        at_least: 0.8,
        aim: 0.95,
        rises: true,
        unit: "",
        section: Section::Scale,
        place: &["ratios", "events_per_second, 5000000 at rest ÷ 10000 at rest"],
    },
    Goal {
        what: "memory with 5 million at rest",
        at_least: 1_024.0,
        aim: 300.0,
        rises: false,
        unit: " MiB",
        section: Section::Scale,
        place: &["at rest", "5000000 at rest", "resident_mib"],
    },
    Goal {
        what: "opening after a kill with 1 million at rest",
        at_least: 5_000.0,
        aim: 1_000.0,
        rises: false,
        unit: " ms",
        section: Section::Open,
        place: &["subjects", "1000000 at rest", "first_settled_ms"],
    },
    Goal {
        what: "bytes written for an event ÷ bytes of its message",
        at_least: 3.0,
        aim: 1.5,
        rises: false,
        unit: "",
        section: Section::Engine,
        place: &["subjects", "power-loss, 2 shards", "journal_bytes_per_message_byte"],
    },
];
