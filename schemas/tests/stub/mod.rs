//! A schema registry within a test: Confluent's API on a loopback port, with the troubles a real one may have.

use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, VecDeque},
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard},
};

/// What happens to a request instead of its answer.
#[derive(Clone, Debug)]
#[allow(dead_code, clippy::unwrap_used)] // Each test uses a part of it.
pub(crate) enum Trouble {
    /// This status and body.
    Says(u16, &'static str),
    /// Nothing, until the stub is gone.
    Silence,
    /// Half of the answer.
    Half,
}

#[derive(Default)]
struct State {
    /// By id - 1.
    schemas: Vec<String>,
    subjects: BTreeMap<String, Vec<u32>>,
    /// Subjects whose next version is refused.
    closed: Vec<String>,
    troubles: VecDeque<Trouble>,
    always: Option<Trouble>,
    requests: Vec<String>,
    authorization: Option<String>,
    gone: bool,
}

/// Runs until dropped.
pub(crate) struct Stub {
    address: String,
    state: Arc<(Mutex<State>, Condvar)>,
}

#[allow(dead_code, clippy::unwrap_used)] // Each test uses a part of it.
impl Stub {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new((Mutex::new(State::default()), Condvar::new()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = Arc::clone(&shared);
                if shared.0.lock().unwrap().gone {
                    return;
                }
                std::thread::spawn(move || {
                    if let Ok(stream) = stream {
                        serve(stream, &shared);
                    }
                });
            }
        });
        Self { address, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Registers a schema, as somebody else.
    pub(crate) fn has(&self, subject: &str, schema: &str) -> u32 {
        register(&mut self.state(), subject, schema)
    }

    /// Refuses the next version of this subject, whatever it is.
    pub(crate) fn closes(&self, subject: &str) {
        self.state().closed.push(subject.into());
    }

    /// The next requests meet these.
    pub(crate) fn meets(&self, troubles: impl IntoIterator<Item = Trouble>) {
        self.state().troubles.extend(troubles);
    }

    /// All requests meet this, or none any more.
    pub(crate) fn always(&self, trouble: Option<Trouble>) {
        self.state().always = trouble;
    }

    /// What was asked so far, as `GET /path`.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    /// The credentials of the last request.
    pub(crate) fn authorization(&self) -> Option<String> {
        self.state().authorization.clone()
    }

    pub(crate) fn subjects(&self) -> Vec<String> {
        self.state().subjects.keys().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().unwrap()
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.state().gone = true;
        self.state.1.notify_all();
        // Wakes the one who listens.
        let _ = TcpStream::connect(&self.address);
    }
}

fn serve(stream: TcpStream, shared: &(Mutex<State>, Condvar)) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    while let Some((line, authorization, body)) = request(&mut reader) {
        let trouble = {
            let mut state = shared.0.lock().unwrap();
            state.requests.push(line.clone());
            state.authorization = authorization;
            state.troubles.pop_front().or_else(|| state.always.clone())
        };
        let (status, said) = match &trouble {
            Some(Trouble::Says(status, said)) => (*status, (*said).to_owned()),
            Some(Trouble::Silence) => {
                let gone = shared.1.wait_while(shared.0.lock().unwrap(), |state| !state.gone);
                drop(gone);
                return;
            }
            Some(Trouble::Half) | None => {
                let (status, said) = answer(&mut shared.0.lock().unwrap(), &line, &body);
                (status, said.to_string())
            }
        };
        let head = format!(
            "HTTP/1.1 {status} X\r\nContent-Type: application/vnd.schemaregistry.v1+json\r\nContent-Length: {}\r\n\r\n",
            said.len()
        );
        let end = if matches!(trouble, Some(Trouble::Half)) { said.len() / 2 } else { said.len() };
        let sent = writer
            .write_all(head.as_bytes())
            .and_then(|()| writer.write_all(&said.as_bytes()[..end]));
        if sent.is_err() || end < said.len() {
            return;
        }
    }
}

/// Method and path, credentials, body.
fn request(reader: &mut impl BufRead) -> Option<(String, Option<String>, String)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let asked = line.rsplit_once(' ')?.0.to_owned();
    let (mut length, mut authorization) = (0, None);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        match name.to_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "authorization" => authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((asked, authorization, String::from_utf8(body).unwrap()))
}

fn register(state: &mut State, subject: &str, schema: &str) -> u32 {
    let at = state.schemas.iter().position(|known| known == schema).unwrap_or_else(|| {
        state.schemas.push(schema.to_owned());
        state.schemas.len() - 1
    });
    let id = u32::try_from(at).unwrap() + 1;
    let versions = state.subjects.entry(subject.to_owned()).or_default();
    if !versions.contains(&id) {
        versions.push(id);
    }
    id
}

fn answer(state: &mut State, line: &str, body: &str) -> (u16, Value) {
    let (method, path) = line.split_once(' ').unwrap();
    let path = path.split('?').next().unwrap();
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let schema = serde_json::from_str::<Value>(body).ok();
    let schema = schema.as_ref().and_then(|value| value["schema"].as_str()).unwrap_or_default();
    let none = |code: u64, text: &str| (404, json!({ "error_code": code, "message": text }));
    match (method, &parts[..]) {
        ("GET", ["schemas", "ids", id]) => {
            match state.schemas.get(id.parse::<usize>().unwrap().wrapping_sub(1)) {
                Some(schema) => (200, json!({ "schema": schema })),
                None => none(40403, "Schema not found"),
            }
        }
        ("POST", ["subjects", subject]) => {
            let Some(versions) = state.subjects.get(*subject) else {
                return none(40401, "Subject not found");
            };
            let is_it = |id: &&u32| state.schemas[**id as usize - 1] == schema;
            match versions.iter().find(is_it) {
                Some(id) => {
                    (200, json!({ "subject": subject, "id": id, "version": 1, "schema": schema }))
                }
                None => none(40403, "Schema not found"),
            }
        }
        ("GET", ["subjects", subject, "versions", "latest"]) => {
            match state.subjects.get(*subject) {
                Some(versions) => {
                    let id = versions[versions.len() - 1];
                    let schema = &state.schemas[id as usize - 1];
                    (
                        200,
                        json!({ "subject": subject, "id": id, "version": versions.len(), "schema": schema }),
                    )
                }
                None => none(40401, "Subject not found"),
            }
        }
        ("POST", ["compatibility", "subjects", subject, "versions", "latest"]) => {
            let closed = state.closed.iter().any(|closed| closed == subject);
            let messages = if closed { vec!["the stub says no"] } else { vec![] };
            (200, json!({ "is_compatible": !closed, "messages": messages }))
        }
        ("POST", ["subjects", subject, "versions"]) => {
            (200, json!({ "id": register(state, subject, schema) }))
        }
        ("GET", ["config"]) => (200, json!({ "compatibilityLevel": "BACKWARD" })),
        ("GET", ["config", _]) => none(40408, "no level of its own"),
        _ => (404, json!({ "error_code": 404, "message": "no such path" })),
    }
}
