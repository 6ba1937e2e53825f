//! Traces as a collector gets them: OTLP received for real, and the tree of one compensated order looked at span by span.
//!
//! The collector is a thread of this test that speaks as much HTTP as an exporter needs, or takes connections and stays silent.

#![allow(clippy::unwrap_used, reason = "tests")]

use dirigent::{
    Orchestrator,
    engine::Engine,
    participant::Running,
    store::MemoryStore,
    telemetry::{SpanFact, SpanKind, Traces, TracesSettings},
};
use dirigent_connectors::{
    Attributes, ChannelKind, ChannelSpec, Connector, Message, Sent, Settle, Sink, Source,
    SourceSpec, memory::MemoryBroker, names,
};
use dirigent_model::{message::Message as _, time::Timestamp};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, status::StatusCode},
};
use order::order::{
    Rates,
    messages::{ORDER_EVENTS, ORDERS, OrderCompleted, OrderFailed, OrderPlaced},
    order_saga, placed,
    rates::Refusal,
    saga::APPROVAL_FROM_CENTS,
    services::services,
};
use prost::Message as _;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

/// Nothing here takes longer, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Stands in the bodies of messages, and must stand nowhere else.
const CANARY: &str = "canary-4711";

/// Spans that may wait, and some more.
const MORE_THAN_WAIT: usize = dirigent::telemetry::spans::SPANS_WAITING_MAX + 2_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_compensated_order_is_one_tree_across_all_services() {
    let collector = Collector::start();
    let traces = traces_to(collector.address, Duration::from_secs(10));
    let rates = Rates { seed: 7, reject: 1.0, silent: 0.0 };
    let number = (1..)
        .find(|order| {
            rates.refusal(*order) == Some(Refusal::CaptureDeclined)
                && placed(rates.seed, *order).amount_cents < APPROVAL_FROM_CENTS
        })
        .unwrap();
    let order = OrderPlaced { customer: CANARY.into(), ..placed(rates.seed, number) };
    let mut shop = Shop::open(rates, &traces).await;

    let (trace, click) = ([0xAB; 16], [0xCD; 8]);
    let spans = traces.spans();
    spans.record(SpanFact::new(
        (trace, click),
        SpanKind::Producer,
        "place order",
        Timestamp(1),
        Timestamp(2),
    ));
    let parent = format!("00-{}-{}-01", "ab".repeat(16), "cd".repeat(8));
    shop.place(&order, Some(&parent)).await;
    assert_eq!(shop.ends(1).await, BTreeMap::from([(OrderFailed::NAME.to_owned(), 1)]));
    shop.close().await;
    assert!(traces.shutdown(PATIENCE));

    let counts = traces.counts();
    let tree = Tree::of(&collector);
    assert_eq!((counts.dropped, counts.turns_dropped), (0, 0));
    assert_eq!(usize::try_from(counts.exported).unwrap(), tree.spans.len());
    assert_eq!(collector.services(), BTreeSet::from(["order-shop".to_owned()]));

    // One trace, and no span hangs in the air.
    assert!(tree.spans.iter().all(|span| span.trace_id == trace), "{tree}");
    let ids: BTreeSet<&[u8]> = tree.spans.iter().map(|span| &*span.span_id).collect();
    assert_eq!(ids.len(), tree.spans.len(), "each span is there once\n{tree}");
    for span in &tree.spans {
        let is_outermost = span.span_id == click;
        assert_eq!(span.parent_span_id.is_empty(), is_outermost, "{}\n{tree}", span.name);
        assert!(is_outermost || ids.contains(&*span.parent_span_id), "{}\n{tree}", span.name);
    }

    // The saga below what placed the order; turning back is no error.
    let root = tree.only("saga order");
    assert_eq!(root.parent_span_id, click);
    assert_eq!(text(root, "saga.outcome").as_deref(), Some("compensated"));
    assert_eq!(text(root, "saga.key"), Some(number.to_string()));
    assert!(root.status.as_ref().is_none_or(|status| status.code() != StatusCode::Error));

    // Each command below the saga, what its participant did below the command, what came of it below that.
    for (name, command, reply) in [
        ("reserve-stock", "ReserveStock", "StockReserved"),
        ("authorise-payment", "AuthorisePayment", "PaymentAuthorised"),
        ("capture-payment", "CapturePayment", "CaptureDeclined"),
        ("compensate reserve-stock", "ReleaseStock", "StockReleased"),
        ("compensate authorise-payment", "VoidPayment", "PaymentVoided"),
    ] {
        let asked = tree.only(name);
        assert_eq!(asked.parent_span_id, root.span_id, "{name}\n{tree}");
        assert_eq!(text(asked, "saga.attempt").as_deref(), Some("1"), "{name}");
        assert_eq!(text(asked, "saga.id"), text(root, "saga.id"), "{name}");
        assert_eq!(text(asked, "saga.step").as_deref(), name.split(' ').next_back(), "{name}");
        let is_back = name.starts_with("compensate ");
        let back = text(asked, "saga.compensation");
        assert_eq!(back.as_deref(), is_back.then_some("true"), "{name}");
        let handled = tree.child(asked, &format!("handle {command}"));
        assert_eq!(text(handled, "saga.compensation").is_some(), is_back, "{name}");
        let intake = tree.child(handled, &format!("intake {reply}"));
        tree.child(intake, "transition applied");
    }
    let begun = tree.only("intake OrderPlaced");
    assert_eq!(begun.parent_span_id, click);
    let transition = tree.child(begun, "transition applied");
    assert_eq!(text(transition, "saga.commands_sent").as_deref(), Some("2"));

    // What the saga told the world, and who heard it.
    let told = tree.only("publish OrderFailed");
    tree.child(told, "handle OrderFailed");

    assert!(!collector.has_heard(CANARY), "a body is in a span\n{tree}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_never_answers_costs_spans_and_nothing_else() {
    const ORDERS_PLACED: i64 = 200;
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    // Takes connections and keeps them, without a word. Ends with the process.
    std::thread::spawn(move || silent.incoming().collect::<Vec<_>>());
    // No request is given up while this test runs: the exporter hangs in its first one.
    let traces = traces_to(address, Duration::from_secs(600));
    let spans = traces.spans();
    for _ in 0..MORE_THAN_WAIT {
        let at = ([1; 16], [2; 8]);
        spans.record(SpanFact::new(at, SpanKind::Internal, "full", Timestamp(1), Timestamp(2)));
    }
    let before = traces.counts();
    assert!(before.dropped > 0, "{before:?}");

    let mut shop = Shop::open(Rates { seed: 7, reject: 0.3, silent: 0.0 }, &traces).await;
    for number in 1..=ORDERS_PLACED {
        shop.place(&placed(7, number), None).await;
    }
    let ends = shop.ends(usize::try_from(ORDERS_PLACED).unwrap()).await;
    assert!(ends.len() == 2 && ends.values().sum::<i64>() == ORDERS_PLACED, "{ends:?}");
    shop.close().await;

    assert!(!traces.shutdown(Duration::from_millis(100)), "a request hangs; nobody waits for it");
    let counts = traces.counts();
    // The least a saga has: itself, its start, three commands with intake and transition each.
    let of_sagas = counts.dropped - before.dropped;
    assert!(of_sagas >= 12 * ORDERS_PLACED.unsigned_abs(), "{counts:?}");
    assert_eq!((counts.exported, counts.turns_dropped), (0, 0));
}

fn traces_to(collector: SocketAddr, timeout: Duration) -> Arc<Traces> {
    let settings = TracesSettings {
        endpoint: Some(format!("http://{collector}/v1/traces")),
        timeout: Some(timeout),
        system: Some("memory".into()),
        ..TracesSettings::new("order-shop")
    };
    Arc::new(Traces::start(settings).unwrap())
}

/// The order saga with its services on the memory broker, all in this process.
struct Shop {
    engine: Engine,
    services: Vec<Running>,
    sink: Box<dyn Sink>,
    ends: Box<dyn Source>,
}

impl Shop {
    async fn open(rates: Rates, traces: &Arc<Traces>) -> Self {
        let broker = Arc::new(MemoryBroker::new());
        let mut running = Vec::new();
        for (_, service) in services(rates) {
            let store = Arc::new(MemoryStore::new());
            let service = service.spans(traces.spans()).start(broker.clone(), store);
            running.push(service.await.unwrap());
        }
        let engine = Orchestrator::builder("order")
            .saga(order_saga())
            .connector(broker.clone())
            .observer(traces.clone())
            .start()
            .await
            .unwrap();
        let spec = SourceSpec {
            channels: vec![ChannelSpec::events(ORDER_EVENTS.name)],
            group: "test".into(),
            positions: Vec::new(),
            unsettled_max: 1_000,
        };
        let ends = broker.source(spec).await.unwrap();
        Self { engine, services: running, sink: broker.sink().await.unwrap(), ends }
    }

    async fn place(&mut self, order: &OrderPlaced, traceparent: Option<&str>) {
        let number = order.order.to_string();
        let mut attributes = Attributes::new()
            .with(names::SPEC_VERSION, "1.0")
            .with(names::ID, format!("order-{number}"))
            .with(names::SOURCE, "/test")
            .with(names::TYPE, OrderPlaced::NAME)
            .with(names::SUBJECT, number.as_str())
            .with(names::CONTENT_TYPE, "application/json");
        if let Some(parent) = traceparent {
            attributes.set(names::TRACEPARENT, parent);
        }
        let message = Message {
            channel: ORDERS.name.into(),
            kind: ChannelKind::Events,
            key: number,
            attributes,
            others: Vec::new(),
            body: serde_json::to_vec(order).unwrap().into(),
        };
        assert_eq!(self.sink.send(&[message]).await, [Sent::Confirmed]);
    }

    /// How the next sagas ended, by the name of the event that tells of it.
    async fn ends(&mut self, count: usize) -> BTreeMap<String, i64> {
        let mut ends: BTreeMap<String, i64> = BTreeMap::new();
        let mut seen = 0;
        let wait = async {
            while seen < count {
                let deliveries = self.ends.receive(256).await.unwrap();
                let settled: Vec<_> =
                    deliveries.iter().map(|d| (d.receipt, Settle::Done)).collect();
                for delivery in deliveries {
                    let name = delivery.message.attributes.get(names::TYPE).unwrap_or_default();
                    if [OrderCompleted::NAME, OrderFailed::NAME].contains(&name) {
                        *ends.entry(name.to_owned()).or_default() += 1;
                        seen += 1;
                    }
                }
                self.ends.settler().settle(&settled);
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("every order comes to its end in time");
        ends
    }

    async fn close(self) {
        self.engine.stop().await.unwrap();
        for service in self.services {
            service.stop().await.unwrap();
        }
    }
}

/// Takes spans in, as a collector does.
struct Collector {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&requests);
        // Ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let heard = Arc::clone(&heard);
                std::thread::spawn(move || serve(&stream.unwrap(), &heard));
            }
        });
        Self { address, requests }
    }

    fn requests(&self) -> Vec<ExportTraceServiceRequest> {
        let requests = self.requests.lock().unwrap();
        requests.iter().map(|body| ExportTraceServiceRequest::decode(&**body).unwrap()).collect()
    }

    fn services(&self) -> BTreeSet<String> {
        let resources = self.requests().into_iter().flat_map(|request| request.resource_spans);
        let attributes = resources.flat_map(|spans| spans.resource.unwrap().attributes);
        attributes
            .filter(|pair| pair.key == "service.name")
            .filter_map(|pair| said(&pair))
            .collect()
    }

    fn has_heard(&self, text: &str) -> bool {
        let requests = self.requests.lock().unwrap();
        requests.iter().any(|body| body.windows(text.len()).any(|part| part == text.as_bytes()))
    }
}

/// Answers the requests of one connection until it ends.
fn serve(stream: &TcpStream, heard: &Mutex<Vec<Vec<u8>>>) {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut line, mut length) = (String::new(), 0);
        while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
            let (name, value) = line.split_once(':').unwrap_or((&line, ""));
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap();
            }
            line.clear();
        }
        if line != "\r\n" {
            return;
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        heard.lock().unwrap().push(body);
        let answer =
            "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        (&*stream).write_all(answer.as_bytes()).unwrap();
    }
}

/// All spans that were received.
struct Tree {
    spans: Vec<Span>,
}

impl Tree {
    fn of(collector: &Collector) -> Self {
        let requests = collector.requests().into_iter();
        let scopes = requests
            .flat_map(|request| request.resource_spans)
            .flat_map(|resource| resource.scope_spans);
        Self { spans: scopes.flat_map(|scope| scope.spans).collect() }
    }

    fn only(&self, name: &str) -> &Span {
        let found: Vec<_> = self.spans.iter().filter(|span| span.name == name).collect();
        assert_eq!(found.len(), 1, "spans with the name `{name}`\n{self}");
        found[0]
    }

    fn child(&self, of: &Span, name: &str) -> &Span {
        let is_it = |span: &&Span| span.parent_span_id == of.span_id && span.name == name;
        let found = self.spans.iter().find(is_it);
        found.unwrap_or_else(|| panic!("no `{name}` below `{}`\n{self}", of.name))
    }

    fn draw(&self, f: &mut std::fmt::Formatter<'_>, of: &[u8], depth: usize) -> std::fmt::Result {
        for span in self.spans.iter().filter(|span| span.parent_span_id == of) {
            writeln!(f, "{:indent$}{}", "", span.name, indent = depth * 2)?;
            self.draw(f, &span.span_id, depth + 1)?;
        }
        Ok(())
    }
}

impl std::fmt::Display for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} spans:", self.spans.len())?;
        self.draw(f, &[], 0)
    }
}

/// An attribute of a span, as text.
fn text(span: &Span, key: &str) -> Option<String> {
    span.attributes.iter().find(|pair| pair.key == key).and_then(said)
}

fn said(pair: &KeyValue) -> Option<String> {
    match pair.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        Value::BoolValue(flag) => Some(flag.to_string()),
        _ => None,
    }
}
