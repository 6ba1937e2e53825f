//! Names of the attributes that spans carry: ours, and those of OpenTelemetry's semantic conventions for messaging.
//!
//! In one place, because dashboards and searches are written against them. Bodies of messages never become attributes.

/// The instance's id.
pub const SAGA_ID: &str = "saga.id";
/// The definition's name.
pub const SAGA_NAME: &str = "saga.name";
/// The definition's version.
pub const SAGA_VERSION: &str = "saga.version";
/// The business key.
pub const SAGA_KEY: &str = "saga.key";
/// Which run for its business key, from 0.
pub const SAGA_RUN: &str = "saga.run";
/// The step.
pub const SAGA_STEP: &str = "saga.step";
/// `do` or `compensate`.
pub const SAGA_LEG: &str = "saga.leg";
/// Which attempt, from 1.
pub const SAGA_ATTEMPT: &str = "saga.attempt";
/// `true` for commands of the way back; absent otherwise.
pub const SAGA_COMPENSATION: &str = "saga.compensation";
/// How an instance ended, or what became of a command: `succeeded`, `rejected`, `failed`, `timed-out`, `unsent`, `superseded`, `abandoned`.
pub const SAGA_OUTCOME: &str = "saga.outcome";
/// Where the instance stands behind a transition.
pub const SAGA_STATUS: &str = "saga.status";
/// What a transition was about: `started`, `succeeded`, `timed-out`, ...
pub const SAGA_INPUT: &str = "saga.input";
/// What was decided: `applied`, `deferred`, `duplicate`, `ignored`.
pub const SAGA_VERDICT: &str = "saga.verdict";
/// Why an input did not matter.
pub const SAGA_WHY: &str = "saga.why";
/// How many commands a transition sent.
pub const SAGA_COMMANDS_SENT: &str = "saga.commands_sent";
/// `true` where the command was sent before this process began, so that its span has no length.
pub const SAGA_START_UNKNOWN: &str = "saga.start_unknown";

/// The broker: `kafka`, `rabbitmq`.
pub const MESSAGING_SYSTEM: &str = "messaging.system";
/// The topic, queue or exchange.
pub const MESSAGING_DESTINATION: &str = "messaging.destination.name";
/// `send`, `receive` or `process`.
pub const MESSAGING_OPERATION: &str = "messaging.operation.type";
/// The message's id.
pub const MESSAGING_MESSAGE_ID: &str = "messaging.message.id";
/// The message's type.
pub const MESSAGING_MESSAGE_TYPE: &str = "messaging.message.type";
/// Who takes the messages.
pub const MESSAGING_GROUP: &str = "messaging.consumer.group.name";
