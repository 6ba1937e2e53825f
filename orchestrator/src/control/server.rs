//! The listening side: one task accepts, one per connection answers question after question.

use super::{
    answer::answer,
    place::{NAME, Place},
    protocol::{ANSWER_BYTES_MAX, Answer, QUESTION_BYTES_MAX, Question, Refusal},
};
use crate::engine::Handle;
use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, watch},
    task::{JoinHandle, JoinSet},
    time::timeout,
};

/// Connections at once: people and health checks. Further ones wait to be accepted. Each answer is made on a thread that may block.
const CONNECTIONS_MAX: usize = 8;

/// How long a connection may take to ask, and to take its answer. Who is there does so in milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long answers under way may take once the server is to stop.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// How long to wait before accepting again after the system refused, for instance for want of file handles.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// The socket could not be made.
#[derive(Debug, thiserror::Error)]
#[error(
    "making the control socket {NAME} in data folder {folder}; check its permissions and its file system"
)]
pub(crate) struct ServerError {
    folder: String,
    #[source]
    source: io::Error,
}

/// Answers on the control socket until it is stopped.
pub(crate) struct Server {
    socket: PathBuf,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Listens in a data folder that this process has locked: a socket that lies there is of a process that is gone.
    pub(crate) fn open(folder: &Path, handle: Handle) -> Result<Self, ServerError> {
        let opened = listen(folder).map_err(|source| {
            let folder = folder.display().to_string();
            ServerError { folder, source }
        });
        let listener = opened?;
        let (stop, stopped) = watch::channel(false);
        let accepting = tokio::spawn(accept(listener, handle, stopped));
        Ok(Self { socket: folder.join(NAME), stop, accepting })
    }

    /// Finishes the answers under way and takes the socket away.
    pub(crate) async fn stop(self) {
        // Gone first: who comes now is told that nobody runs, instead of waiting.
        let removed = fs::remove_file(&self.socket);
        if let Err(error) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "The control socket could not be removed.");
        }
        self.stop.send_replace(true);
        if let Err(error) = self.accepting.await {
            tracing::error!(%error, "Answering on the control socket ended with an error.");
        }
    }
}

fn listen(folder: &Path) -> io::Result<UnixListener> {
    let place = Place::of(folder)?;
    // Nobody but its owner may speak to it from the first moment it can be found.
    let fresh = place.socket("control.new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
    fs::rename(&fresh, place.socket(NAME))?;
    Ok(listener)
}

async fn accept(listener: UnixListener, handle: Handle, mut stopped: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let told = stopped.clone();
    loop {
        let place = Arc::clone(&places).acquire_owned();
        let accepted = async {
            let place = place.await;
            (place, listener.accept().await)
        };
        tokio::select! {
            biased;
            () = requested(&mut stopped) => break,
            Some(ended) = connections.join_next() => report(ended),
            (place, accepted) = accepted => match accepted {
                Ok((stream, _)) => {
                    let (handle, stopped) = (handle.clone(), told.clone());
                    connections.spawn(async move {
                        let outcome = converse(stream, handle, stopped).await;
                        drop(place);
                        outcome
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "A connection to the control socket could not be accepted.");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            },
        }
    }
    drop(listener);
    let finish = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    if timeout(STOP_WITHIN, finish).await.is_err() {
        tracing::warn!("Answers on the control socket were cut off by the end of the process.");
    }
}

/// Waits until the server is to stop, or is gone.
async fn requested(stopped: &mut watch::Receiver<bool>) {
    stopped.wait_for(|stopped| *stopped).await.map(drop).unwrap_or_default();
}

fn report(ended: Result<io::Result<()>, tokio::task::JoinError>) {
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "A connection to the control socket ended."),
        Err(error) => tracing::error!(%error, "Answering on the control socket panicked."),
    }
}

/// Answers one question after another until the other side, or this one, ends.
async fn converse(
    stream: UnixStream,
    handle: Handle,
    mut stopped: watch::Receiver<bool>,
) -> io::Result<()> {
    let user = format!("uid {}", stream.peer_cred()?.uid());
    let (reading, mut writing) = stream.into_split();
    let mut reading = BufReader::new(reading);
    loop {
        let question = tokio::select! {
            biased;
            () = requested(&mut stopped) => return Ok(()),
            question = timeout(PATIENCE, question(&mut reading)) => question,
        };
        let Ok(question) = question else { return Ok(()) };
        let (answer, go_on) = match question? {
            Asked::Nothing => return Ok(()),
            Asked::TooMuch => {
                let text = format!("a question has at most {QUESTION_BYTES_MAX} bytes");
                (Answer::Refused(Refusal::new(text)), false)
            }
            Asked::Line(line) => match serde_json::from_slice::<Question>(&line) {
                Ok(question) => {
                    let (handle, user) = (handle.clone(), user.clone());
                    let work = move || answer(&handle, question, &user);
                    (tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?, true)
                }
                Err(error) => {
                    let text = format!(
                        "the running process does not understand the question ({error}); ask with the release that runs"
                    );
                    (Answer::Refused(Refusal::new(text)), true)
                }
            },
        };
        let line = encode(&answer)?;
        timeout(PATIENCE, writing.write_all(&line)).await??;
        if !go_on {
            return Ok(());
        }
    }
}

enum Asked {
    Nothing,
    TooMuch,
    Line(Vec<u8>),
}

async fn question<R: tokio::io::AsyncBufRead + Unpin>(from: &mut R) -> io::Result<Asked> {
    let mut line = Vec::new();
    let mut bounded = from.take(QUESTION_BYTES_MAX as u64 + 1);
    bounded.read_until(b'\n', &mut line).await?;
    Ok(match line.len() {
        0 => Asked::Nothing,
        bytes if bytes > QUESTION_BYTES_MAX => Asked::TooMuch,
        _ => Asked::Line(line),
    })
}

pub(super) fn encode(answer: &Answer) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(answer)?;
    if line.len() >= ANSWER_BYTES_MAX {
        let text = format!(
            "the answer has {} bytes, and at most {ANSWER_BYTES_MAX} are sent; ask for less, for instance with --limit",
            line.len()
        );
        line = serde_json::to_vec(&Answer::Refused(Refusal::new(text)))?;
    }
    line.push(b'\n');
    Ok(line)
}
