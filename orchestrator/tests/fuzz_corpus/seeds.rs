//! Where fuzzing begins: real bytes of each kind that a target reads, put together as it takes them apart.
//!
//! Most are taken; those whose names begin with `refused` are there since what refuses them is worth a fuzzer's time.

use dirigent::fuzzing::material;
use std::collections::BTreeMap;

type Seeds = Vec<(&'static str, Vec<u8>)>;

/// The seeds of each target.
pub(super) fn all() -> Vec<(&'static str, Seeds)> {
    let of = material();
    vec![
        ("avro", avro(&of)),
        ("config", config()),
        ("control", control()),
        ("envelope", envelope(&of)),
        ("graph", graph(&of)),
        ("journal", journal(&of)),
        ("json_body", json_body(&of)),
        ("schema", schema(&of)),
        ("store", store(&of)),
    ]
}

type Material = BTreeMap<&'static str, Vec<u8>>;

macro_rules! kept {
    ($name:literal) => {
        include_bytes!(concat!("../kept_forms/v1/", $name))
    };
}

/// What targets take apart.
#[derive(Default)]
struct Written(Vec<u8>);

impl Written {
    fn byte(mut self, byte: u8) -> Self {
        self.0.push(byte);
        self
    }

    /// With a byte before it that says how long it is.
    fn little(self, bytes: &[u8]) -> Self {
        self.byte(u8::try_from(bytes.len()).unwrap()).rest(bytes)
    }

    /// With two bytes before it.
    fn sized(mut self, bytes: &[u8]) -> Self {
        self.0.extend(u16::try_from(bytes.len()).unwrap().to_le_bytes());
        self.rest(bytes)
    }

    fn rest(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

fn by(kind: u8) -> Written {
    Written::default().byte(kind)
}

const ORDERED: &[u8] = br#"{"order":7,"weight":2.5,"note":"fragile","rest":{"a":[1,null]}}"#;
const SAGA: &str = "00000000-0000-5000-8000-000000000007";

fn avro(of: &Material) -> Seeds {
    // Its writer's schema is the one before: nothing gone, key, long, double, colour, list.
    let before = [0, 2, b'k', 10, 6, 2, 4, 2, 4, 0];
    let by_id = |id: u32, datum: &[u8]| by(0).rest(&id.to_be_bytes()).rest(datum).0;
    vec![
        ("everything", of["everything"].clone()),
        ("everything-registered", of["everything-registered"].clone()),
        ("failure", of["failure"].clone()),
        ("before", by_id(8, &before)),
        ("refused-else", by_id(256, &[2, 2, 1, 2, b'u'])),
        ("refused-unknown-id", by_id(9, &before)),
        ("refused-json", b"{\"key\":\"7\"}".to_vec()),
    ]
}

fn schema(of: &Material) -> Seeds {
    let text = |name: &str, datum: &[u8]| [&of[name][..], &[0], datum].concat();
    let literal = |text: &str, datum: &[u8]| [text.as_bytes(), &[0], datum].concat();
    let everything = &of["everything-registered"][5..];
    vec![
        ("everything", text("everything-schema", everything)),
        ("before", text("everything-before-schema", &[0, 2, b'k', 10, 6, 2, 4, 2, 4, 0])),
        ("else", text("something-else-schema", &[2, 2, 1, 2, b'u'])),
        (
            "within-itself",
            literal(
                r#"{"type":"record","name":"Everything","namespace":"fuzzed","fields":[{"name":"key","type":"string"},{"name":"next","type":["null",{"type":"record","name":"Next","fields":[{"name":"name","type":"string"},{"name":"next","type":["null","Next"]}]}]}]}"#,
                &[2, b'k', 2, 2, b'a', 2, 2, b'b', 0],
            ),
        ),
        (
            "logical",
            literal(
                r#"["null",{"type":"fixed","name":"D","size":12,"logicalType":"duration"},{"type":"fixed","name":"M","size":4,"logicalType":"decimal","precision":5,"scale":1},{"type":"int","logicalType":"date"},{"type":"long","logicalType":"local-timestamp-micros"},{"type":"map","values":{"type":"array","items":"bytes"}}]"#,
                &[10, 2, 2, b'k', 2, 2, 9, 0, 0],
            ),
        ),
        (
            "alias",
            literal(
                r#"{"type":"record","name":"Renamed","aliases":["fuzzed.Everything"],"fields":[{"name":"k","type":"string","aliases":["key"]}]}"#,
                &[2, b'k'],
            ),
        ),
        (
            "refused-that-once-panicked-by-its-size",
            literal(r#"{"type":"fixed","name":"Large","size":9223372036854775808}"#, b""),
        ),
        (
            "that-once-panicked-by-a-property",
            literal(
                r#"{"type":"record","name":"Odd","fields":[{"name":"n","type":"long","scale":2.5}]}"#,
                &[2],
            ),
        ),
        ("refused-unknown-type", literal(r#"{"type":"array","items":"Nobody"}"#, &[0])),
    ]
}

fn json_body(of: &Material) -> Seeds {
    let text = |kind: u8, text: &str| by(kind).rest(text.as_bytes()).0;
    vec![
        ("failure", by(0).rest(&of["failure-json"]).0),
        ("status-query", text(1, r#"{"idempotencykey":"k","command":"Pack"}"#)),
        ("status-unknown", text(2, "{}")),
        ("status-not-done", text(3, "{}")),
        ("packed", text(4, r#"{"boxes":[1,4294967295],"by":{"ann":-9223372036854775808,"":0}}"#)),
        ("too-heavy", text(5, r#"{"most":1.1754944e-38}"#)),
        ("unpacked", text(6, r#"{"more":[[[]]]}"#)),
        ("cancelled", text(7, r#"{"order":18446744073709551615}"#)),
        ("everything", by(8).rest(&of["everything-json"]).0),
        ("ordered", by(9).rest(ORDERED).0),
        ("ordered-without-a-note", text(9, r#"{"order":1,"weight":-0.0,"rest":"\ud83d\ude00"}"#)),
        (
            "a-number-that-once-drifted",
            text(9, r#"{"order":1,"weight":449.49106478873813,"rest":0}"#),
        ),
        ("refused-cut-short", text(9, r#"{"order":7,"#)),
        ("refused-twice", text(7, r#"{"order":7,"order":8}"#)),
    ]
}

fn envelope(of: &Material) -> Seeds {
    let kafka = |body: &[u8], headers: &[(&str, Option<&str>)]| {
        let written = by(0).little(b"7").sized(body);
        let all = headers.iter().fold(written, |written, (name, value)| {
            let written = written.little(name.as_bytes());
            match value {
                Some(value) => written.byte(1).sized(value.as_bytes()),
                None => written.byte(0),
            }
        });
        all.0
    };
    let trace = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    let amqp =
        |body: &[u8], frames: &[Vec<u8>]| by(1).byte(13).sized(body).rest(&frames.concat()).0;
    vec![
        (
            "kafka-start",
            kafka(
                ORDERED,
                &[
                    ("ce_id", Some("m1")),
                    ("ce_type", Some("Ordered")),
                    ("ce_subject", Some("7")),
                    ("content-type", Some("application/json; charset=utf-8")),
                    ("traceparent", trace),
                    ("x-tenant", Some("blue")),
                    ("x-nothing", None),
                ],
            ),
        ),
        (
            "kafka-event",
            kafka(
                &of["everything"],
                &[("ce_type", Some("Everything")), ("content-type", Some("application/avro"))],
            ),
        ),
        (
            "kafka-command",
            kafka(
                b"{}",
                &[
                    ("ce_type", Some("Pack")),
                    ("ce_sagaid", Some(SAGA)),
                    ("ce_sagastep", Some("pack")),
                    ("ce_sagarun", Some("3")),
                    ("ce_sagaleg", Some("status")),
                    ("ce_sagaattempt", Some("2")),
                    ("ce_idempotencykey", Some(SAGA)),
                    ("ce_replyto", Some("replies")),
                ],
            ),
        ),
        ("refused-kafka", kafka(b"?", &[("ce_type", Some("Nobody"))])),
        (
            "amqp-start",
            amqp(
                ORDERED,
                &[
                    deliver(b"orders"),
                    head(
                        0xA480,
                        &[short(b"application/json"), sized(&attributes("Ordered"))].concat(),
                        &[short(b"7"), short(b"m1")].concat(),
                    ),
                ],
            ),
        ),
        ("amqp-stranger", amqp(ORDERED, &[stranger()])),
        (
            "amqp-every-kind",
            amqp(
                ORDERED,
                &[head(0x2000, &sized(&[attributes("Ordered"), every_kind()].concat()), b"")],
            ),
        ),
        (
            "amqp-no-text",
            amqp(
                ORDERED,
                &[
                    deliver(b"k\xff"),
                    head(
                        0x2000,
                        &sized(&[attributes("Ordered"), field(b"\xc3(", b'S', &sized(b"\xff"))].concat()),
                        b"",
                    ),
                ],
            ),
        ),
        (
            "owner",
            by(2).rest(br#"{"owner":"process 42 on shop-1","client":"dirigent-owner-shop-1-42-3","epoch":7}"#).0,
        ),
    ]
}

fn attributes(kind: &str) -> Vec<u8> {
    let text = |name: &[u8], value: &[u8]| field(name, b'S', &sized(value));
    [
        text(b"cloudEvents_id", b"m1"),
        text(b"cloudEvents:type", kind.as_bytes()),
        text(b"cloudEvents_partitionkey", b"7"),
        text(b"CC", b"elsewhere"),
        text(b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ]
    .concat()
}

fn every_kind() -> Vec<u8> {
    [
        field(b"V", b'V', b""),
        field(b"t", b't', &[1]),
        field(b"b", b'b', &[0xff]),
        field(b"s", b's', &[0x80; 2]),
        field(b"I", b'I', &[0xff; 4]),
        field(b"l", b'l', &[0x80; 8]),
        field(b"f", b'f', &[0x7f, 0x80, 0, 0]),
        field(b"d", b'd', &[0xff; 8]),
        field(b"D", b'D', &[3, 0, 0, 1, 0]),
        field(b"T", b'T', &[0xff; 8]),
        field(b"x", b'x', &sized(b"\xff")),
        field("ü".as_bytes(), b'A', &sized(&[b'V', b'I', 0, 0, 0, 1])),
        field(b"F", b'F', &sized(&field(b"within", b'F', &sized(&field(b"V", b'V', b""))))),
    ]
    .concat()
}

/// Content type, correlation id, reply to, message id, timestamp and type, and no headers.
fn stranger() -> Vec<u8> {
    let before = short(b"application/json");
    let time = 1_795_289_474_u64.to_be_bytes();
    let behind = [short(b"7"), short(b"there"), short(b"s1"), time.to_vec(), short(b"Ordered")];
    head(0x86E0, &before, &behind.concat())
}

fn short(text: &[u8]) -> Vec<u8> {
    Written::default().little(text).0
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

fn field(name: &[u8], kind: u8, value: &[u8]) -> Vec<u8> {
    [&short(name)[..], &[kind], value].concat()
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, 0, 1][..], &sized(payload), &[0xCE]].concat()
}

fn deliver(routing_key: &[u8]) -> Vec<u8> {
    let arguments =
        [&[0, 60, 0, 60][..], &short(b"tag"), &[0; 9], &short(b"events"), &short(routing_key)];
    frame(1, &arguments.concat())
}

/// The head of a message with the properties that the flags name: those up to the headers, and those behind.
fn head(flags: u16, before: &[u8], behind: &[u8]) -> Vec<u8> {
    let begin = [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5][..], &flags.to_be_bytes()].concat();
    frame(2, &[&begin[..], before, behind].concat())
}

fn config() -> Seeds {
    let both = |file: &str, environment: &str| [file, "\0", environment].concat().into_bytes();
    vec![
        (
            "kafka",
            both(
                r#"app = "shop"
broker = "kafka"
data = "data"
shards = 4
[kafka]
address = "broker-1:9092,[::1]:9093"
partitions = 12
properties = { "linger.ms" = 5, 'socket.keepalive.enable' = true }
[kafka.tls]
ca = "ca.pem"
key_password = "S3CRET-key"
[kafka.sasl]
mechanism = "SCRAM-SHA-256"
username = "ann"
password = "S3CRET-sasl"
"#,
                "",
            ),
        ),
        (
            "rabbitmq",
            both(
                r#"broker = "rabbitmq"
durability = "process-crash"
[rabbitmq]
uri = "amqps://ann:S3CRET-amqp@broker:5671/%2f?heartbeat=10"
tls.ca = 'ca.pem'
[http]
listen = "127.0.0.1:9464"
[log]
filter = "info,dirigent=debug"
format = "json"
"#,
                "DIRIGENT_PARKED_SECONDS=30\nDIRIGENT_HEADROOM_BYTES=1048576\n",
            ),
        ),
        (
            "registry",
            both(
                r#"[registry]
url = "https://registry:8081/avro"
register = true
subjects = "topic-record-name"
username = "ann"
[schemas]
released = "schemas"
compatibility = "backward"
"#,
                "DIRIGENT_REGISTRY_PASSWORD=S3CRET-registry\nOTEL_EXPORTER_OTLP_ENDPOINT=http://ann:S3CRET-otlp@collector\n",
            ),
        ),
        (
            "destinations",
            both(
                "[destinations]\nrate = 100\ncircuit.outcomes = 20\n[destination.inventory]\nrate = 5\nburst = 9\nin_flight_max = 3\n[destination.payments.circuit]\nenabled = false\n",
                "",
            ),
        ),
        (
            "refused-everything",
            both(
                r#"app = "Shop!"
broker = "kafak"
shards = 0
[kafka]
address = "ann:S3CRET-kafka@broker"
properties = { acks = 1, "lingre.ms" = 5 }
[rabbitmq]
uri = "S3CRET-uri"
[destination.x]
burst = 3
"#,
                "DIRIGENT_SHRADS=4\nDIRIGENT_HTTP=here\n",
            ),
        ),
        ("refused-key", both("[rabbitmq]\npasswort = \"S3CRET-typed\"\n", "")),
        ("refused-syntax", both("[registry]\ntoken = S3CRET-bare\n", "")),
    ]
}

fn control() -> Seeds {
    let question = |text: &str| by(0).rest(text.as_bytes()).0;
    vec![
        ("list", question(r#"{"ask":"list","saga":"parcel","status":"running","limit":10}"#)),
        ("show", question(r#"{"ask":"show","instance":{"key":"7","saga":null}}"#)),
        ("status", question(r#"{"ask":"status"}"#)),
        (
            "kept",
            question(
                r#"{"ask":"kept","filter":{"quarantined":true,"saga":null,"key":"7","reason":null,"limit":0}}"#,
            ),
        ),
        ("kept-message", question(r#"{"ask":"kept_message","number":1}"#)),
        (
            "decide",
            question(
                r#"{"ask":"decide","number":1,"decision":"replay","by":"ann","why":"mended"}"#,
            ),
        ),
        (
            "operate",
            question(
                r#"{"ask":"operate","instance":{"key":"7","saga":"parcel"},"action":{"retry":{"step":"pack"}},"by":"ann","why":"again"}"#,
            ),
        ),
        ("pause", question(r#"{"ask":"pause","channel":"store","by":"ann","why":"they move"}"#)),
        ("destinations", question(r#"{"ask":"destinations"}"#)),
        ("refused-more", question(r#"{"ask":"show","instance":{"key":"7","saga":null},"more":1}"#)),
        ("plan", by(1).rest(kept!("plan.json")).0),
    ]
}

fn graph(of: &Material) -> Seeds {
    let order = include_bytes!("../../model/tests/draw_kept/order.json").to_vec();
    let text = String::from_utf8(of["graph"].clone()).unwrap();
    vec![
        ("parcel", of["graph"].clone()),
        ("order", order),
        ("refused-node", text.replacen("\"step\"", "\"stop\"", 1).into_bytes()),
        ("refused-no-time", text.replacen("3600", "0", 1).into_bytes()),
    ]
}

fn journal(of: &Material) -> Seeds {
    let segment = &of["segment"];
    let mut torn = segment.clone();
    let last = torn.iter().rposition(|byte| *byte != 0).unwrap();
    // Within the last record.
    torn[last] ^= 1;
    let damaged = |damages: &[[u8; 6]], records: &[&[u8]]| {
        let count = u8::try_from(damages.len()).unwrap();
        let written = damages.iter().fold(by(1).byte(count), |written, it| written.rest(it));
        records.iter().fold(written, |written, record| written.sized(record)).0
    };
    let long = [7; 3_000];
    vec![
        ("segment", by(0).rest(segment).0),
        ("segment-torn", by(0).rest(&torn).0),
        ("refused-segment-cut", by(0).rest(&segment[..5_000]).0),
        ("written", damaged(&[], &[b"one", b"", &long, &long, b"five"])),
        ("zeros", damaged(&[[1, 0, 0x30, 0x10, 8, 0]], &[b"one", b"two"])),
        ("refused-bit", damaged(&[[0, 0, 0x30, 0x10, 3, 0]], &[b"one", &long, &long, b"four"])),
        ("group", by(2).sized(kept!("group")).0),
    ]
}

/// Where records lie, by the byte before them.
mod place {
    pub(super) const MARK: u8 = 0;
    pub(super) const BEGUN: u8 = 1;
    pub(super) const HEARD: u8 = 2;
    pub(super) const CONNECTORS: u8 = 3;
    pub(super) const APPLICATION: u8 = 4;
    pub(super) const PAUSED: u8 = 5;
    pub(super) const INSTANCE: u8 = 6;
    pub(super) const TIME: u8 = 7;
    pub(super) const TIMES: u8 = 8;
    pub(super) const KEPT: u8 = 9;
    pub(super) const LEDGER: u8 = 10;
    pub(super) const GROUP: u8 = 11;
    pub(super) const ANY: u8 = 12;
}

fn store(of: &Material) -> Seeds {
    // The first of five changes, which lie behind their number.
    let kept = &kept!("kept-messages")[1..0x5c];
    let due = kept!("due-times");
    let ledger = |key: &[u8], value: &[u8]| by(place::LEDGER).little(key).sized(value);
    let expiry = [b"x/".as_slice(), &1_767_225_600_000_u64.to_be_bytes(), b"k/key"].concat();
    vec![
        (
            "instance",
            by(place::INSTANCE)
                .sized(&of["instance"])
                .byte(place::TIME)
                .rest(&of["instance-time"])
                .byte(place::APPLICATION)
                .sized(kept!("application"))
                .byte(place::PAUSED)
                .little(b"store")
                .sized(kept!("pause"))
                .0,
        ),
        (
            "singles",
            by(place::HEARD)
                .sized(kept!("heard"))
                .byte(place::APPLICATION)
                .sized(kept!("application"))
                .byte(place::CONNECTORS)
                .sized(&[1, 1, 5, b'k', b'a', b'f', b'k', b'a'])
                .byte(place::ANY)
                .byte(2)
                .little(b"odd")
                .sized(b"")
                .0,
        ),
        ("refused-mark", by(place::MARK).sized(kept!("mark")).0),
        (
            "mark-of-the-beginning",
            // No group yet: sequence, the first group to be kept, nothing confirmed above, empty accounts.
            by(place::MARK).sized(&[1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).0,
        ),
        (
            "everything-an-instance-can-have",
            by(place::INSTANCE)
                .sized(kept!("instance"))
                .byte(place::TIME)
                .rest(&due[..24])
                .byte(place::TIMES)
                .rest(&due[24..])
                .sized(&due[8..24])
                .byte(place::HEARD)
                .sized(kept!("heard"))
                .0,
        ),
        ("kept", by(place::KEPT).rest(&300_u64.to_be_bytes()).sized(kept).0),
        (
            "group",
            by(place::GROUP)
                .sized(kept!("group"))
                .byte(place::BEGUN)
                .sized(&[1])
                .byte(place::PAUSED)
                .little(b"store")
                .sized(kept!("pause"))
                .0,
        ),
        (
            "participant",
            ledger(b"k/key", kept!("participant-answer-0"))
                .rest(&ledger(b"e/saga/1/step", kept!("participant-mark-0")).0)
                .rest(&ledger(b"o/\0\0\0\0\0\0\x01\x2c", kept!("participant-message")).0)
                .rest(&ledger(b"p/c\0\0\0\0\x04", kept!("participant-position")).0)
                .rest(&ledger(&expiry, b"").0)
                .rest(&ledger(b"r/stock", b"80").0)
                .0,
        ),
        (
            "participant-answers",
            ledger(b"k/1", kept!("participant-answer-1"))
                .rest(&ledger(b"k/2", kept!("participant-answer-2")).0)
                .rest(&ledger(b"k/3", kept!("participant-answer-3")).0)
                .rest(&ledger(b"k/4", kept!("participant-answer-4")).0)
                .rest(&ledger(b"e/1", kept!("participant-mark-1")).0)
                .rest(&ledger(b"e/2", kept!("participant-mark-2")).0)
                .0,
        ),
    ]
}
