//! The listening side: one task accepts, one per connection answers until it is done, or has taken long enough.

use super::{Stage, reads::Reads};
use crate::engine::{Handle, Readiness, WantsPerson};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::{JoinHandle, JoinSet},
    time::timeout,
};

/// Connections at once: probes and scrapers. Further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 32;

/// How long a request may take to be said.
const HEAD_WAIT_MAX: Duration = Duration::from_secs(5);

/// The longest head of a request (bytes). Those of probes have some hundred.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// How long a connection may be kept, so that one that is forgotten, or reads its answer drop by drop, frees its place.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(60);

/// How long to wait before accepting again after the system refused, for instance for want of file handles.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The address could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error(
    "listening for HTTP on {address}; is it free, and one of this machine? `http.listen` and --http say where"
)]
pub(crate) struct HttpError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// Answers until it is dropped or stopped.
pub(crate) struct HttpServer {
    address: SocketAddr,
    stage: watch::Sender<Stage>,
    accepting: JoinHandle<()>,
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl HttpServer {
    /// Listens, and says that the process is starting.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, HttpError> {
        let failed = |source| HttpError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        // The system chooses where port 0 was asked for.
        let address = listener.local_addr().map_err(failed)?;
        let (stage, watched) = watch::channel(Stage::starting());
        let accepting = tokio::spawn(accept(listener, watched));
        Ok(Self { address, stage, accepting })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The engine runs.
    pub(crate) fn running(&self, handle: Handle) {
        self.stage.send_replace(Stage::running(handle));
    }

    /// The engine is being stopped. Answers go on until this is dropped.
    pub(crate) fn stopping(&self) {
        self.stage.send_modify(|stage| *stage = Stage::Stopping(Arc::clone(stage.exposition())));
    }
}

async fn accept(listener: TcpListener, stage: watch::Receiver<Stage>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let reads = Reads::new();
    // Ends its tasks with this one.
    let mut connections = JoinSet::new();
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let (stage, reads) = (stage.clone(), reads.clone());
                connections.spawn(async move {
                    if timeout(CONNECTION_TIME_MAX, serve(stream, stage, reads)).await.is_err() {
                        tracing::debug!("A connection by HTTP was kept for too long.");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "A connection by HTTP could not be accepted.");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, stage: watch::Receiver<Stage>, reads: Reads) {
    let answering = service_fn(move |request: Request<Incoming>| {
        let (stage, reads) = (stage.borrow().clone(), reads.clone());
        async move {
            let (method, path) = (request.method(), request.uri().path());
            Ok::<_, Infallible>(answer(stage, &reads, method, path).await)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WAIT_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), answering)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "A connection by HTTP ended.");
    }
}

/// The answer to `/ready`: what wants a person does not make a process unready, and is told beside it.
#[derive(serde::Serialize)]
struct Ready {
    #[serde(flatten)]
    readiness: Readiness,
    /// Where an engine runs, and its store answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    person: Option<WantsPerson>,
}

/// What is answered. No body of a request is ever read.
async fn answer(stage: Stage, reads: &Reads, method: &Method, path: &str) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        refused.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match path {
        "/live" => text(StatusCode::OK, "live\n"),
        "/ready" => {
            let readiness = stage.readiness();
            let status =
                if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            let person = reads.read(move || stage.wants_person()).await.flatten();
            match serde_json::to_vec(&Ready { readiness, person }) {
                Ok(json) => response(status, "application/json", json.into()),
                Err(error) => failed(&error),
            }
        }
        "/metrics" => match reads.read(move || stage.exposition().text()).await {
            Some(Ok(text)) => response(StatusCode::OK, OPEN_METRICS, text.into()),
            Some(Err(error)) => failed(&error),
            None => text(
                StatusCode::SERVICE_UNAVAILABLE,
                "the store does not answer in time; see /ready and the log, and look at the disk\n",
            ),
        },
        _ => text(StatusCode::NOT_FOUND, "there is /live, /ready and /metrics\n"),
    }
}

fn failed(error: &dyn std::error::Error) -> Response<Full<Bytes>> {
    tracing::error!(%error, "An answer by HTTP could not be written.");
    text(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be written; see the log\n")
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", Bytes::from_static(text.as_bytes()))
}

fn response(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let value = hyper::header::HeaderValue::from_static;
    response.headers_mut().insert(CONTENT_TYPE, value(content_type));
    response.headers_mut().insert(CACHE_CONTROL, value("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn asked(server: &HttpServer, request: &str) -> String {
        let mut stream = TcpStream::connect(server.address()).await.expect("a connection");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer
    }

    fn get(path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n")
    }

    async fn server() -> HttpServer {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        HttpServer::open(address).await.expect("a free port")
    }

    #[tokio::test]
    async fn a_process_that_starts_lives_and_is_not_ready() {
        let server = server().await;
        assert!(asked(&server, &get("/live")).await.starts_with("HTTP/1.1 200"));
        let ready = asked(&server, &get("/ready")).await;
        assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("\"starting\""), "{ready}");
        let metrics = asked(&server, &get("/metrics")).await;
        assert!(metrics.contains("dirigent_ready 0") && metrics.ends_with("# EOF\n"), "{metrics}");
        server.stopping();
        assert!(asked(&server, &get("/ready")).await.contains("\"stopping\""));
    }

    #[tokio::test]
    async fn what_is_not_a_question_is_refused_and_the_next_one_answered() {
        let server = server().await;
        let post = "POST /ready HTTP/1.1\r\nhost: here\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
        assert!(asked(&server, post).await.starts_with("HTTP/1.1 405"));
        assert!(asked(&server, &get("/secrets")).await.starts_with("HTTP/1.1 404"));
        assert!(asked(&server, "\u{1}nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400"));
        let long = "x".repeat(2 * HEAD_BYTES_MAX);
        let mut stream = TcpStream::connect(server.address()).await.expect("a connection");
        let head = format!("GET /live HTTP/1.1\r\nhost: here\r\nlong: {long}\r\n\r\n");
        // It may be refused, and the connection closed, before all of it is said.
        let _ = stream.write_all(head.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!String::from_utf8_lossy(&answer).contains("200 OK"));
        assert!(asked(&server, &get("/live")).await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn a_taken_address_is_named() {
        let server = server().await;
        let error = HttpServer::open(server.address()).await.err().expect("taken");
        assert!(error.to_string().contains(&server.address().to_string()), "{error}");
    }
}
