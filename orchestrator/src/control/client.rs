//! The asking side: a running process if one listens, the data folder at rest otherwise.

use super::{
    answer::at_rest,
    place::{NAME, Place},
    protocol::{ANSWER_BYTES_MAX, Answer, Question, Refusal},
};
use crate::{
    engine::{AtRestError, open_at_rest},
    registry::Registry,
    store::DataFolder,
};
use std::{io, path::Path, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};

/// How long a process may take to answer: longer than it waits itself for an operator's word to become durable.
const ANSWER_WITHIN: Duration = Duration::from_secs(45);

/// How long a connection may take: it waits only where many ask at once.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Why a question had no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// Whoever was asked refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// An operator's word, or a question about what runs, and nobody there to hear it.
    #[error(
        "no process runs on data folder {folder}; start one with `run --data {folder}`, then say it again"
    )]
    NobodyRuns { folder: String },
    /// The same, and somebody uses the folder who does not listen.
    #[error(
        "data folder {folder} is in use by {user}, which hears no questions and no operators: only a process under `run` does, once it is ready; say it again then, or once that one has ended and `run --data {folder}` is started"
    )]
    Deaf { folder: String, user: String },
    /// The socket.
    #[error(
        "asking the process that runs on data folder {folder}; look whether it still works, and whether you are the user it runs as"
    )]
    Socket {
        folder: String,
        #[source]
        source: io::Error,
    },
    /// It does not answer.
    #[error("the process that runs on data folder {folder} did not answer within {}s; look at its logs", ANSWER_WITHIN.as_secs())]
    NoAnswer { folder: String },
    /// The folder at rest.
    #[error(transparent)]
    AtRest(#[from] AtRestError),
}

/// Asks the process that runs on a data folder, or reads the folder where nobody runs and reading is all that is asked.
pub(crate) async fn ask(
    folder: &Path,
    registry: Arc<Registry>,
    question: Question,
) -> Result<Answer, AskError> {
    let answer = match running(folder, &question).await? {
        Some(answer) => answer,
        None if question.needs_somebody() => {
            let shown = folder.display().to_string();
            return Err(match DataFolder::user_of(folder) {
                Some(user) => AskError::Deaf { folder: shown, user },
                None => AskError::NobodyRuns { folder: shown },
            });
        }
        None => {
            let folder = folder.to_owned();
            let read = move || -> Result<Answer, AskError> {
                let reader = open_at_rest(&folder, registry)?;
                Ok(at_rest(&reader, question)?)
            };
            let read = tokio::task::spawn_blocking(read).await;
            read.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?
        }
    };
    match answer {
        Answer::Refused(refusal) => Err(refusal.into()),
        answer @ (Answer::Listed { .. }
        | Answer::Shown { .. }
        | Answer::Standing { .. }
        | Answer::KeptListed { .. }
        | Answer::KeptShown { .. }
        | Answer::Decided { .. }
        | Answer::Operated { .. }
        | Answer::Destinations { .. }) => Ok(answer),
    }
}

/// The answer of a running process; `None` if nobody listens.
async fn running(folder: &Path, question: &Question) -> Result<Option<Answer>, AskError> {
    let shown = || folder.display().to_string();
    let failed = |source| AskError::Socket { folder: shown(), source };
    let no_answer = |_| AskError::NoAnswer { folder: shown() };
    let place = match Place::of(folder) {
        Ok(place) => place,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let connecting = UnixStream::connect(place.socket(NAME));
    let stream = match timeout(CONNECT_WITHIN, connecting).await.map_err(no_answer)? {
        Ok(stream) => stream,
        // No socket, or one that a process left behind when it was killed.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    let line = timeout(ANSWER_WITHIN, exchange(stream, question)).await.map_err(no_answer)?;
    let answer = line.and_then(|line| serde_json::from_slice(&line).map_err(io::Error::other));
    answer.map(Some).map_err(failed)
}

async fn exchange(stream: UnixStream, question: &Question) -> io::Result<Vec<u8>> {
    let (reading, mut writing) = stream.into_split();
    let mut line = serde_json::to_vec(question)?;
    line.push(b'\n');
    writing.write_all(&line).await?;
    let mut answer = Vec::new();
    let mut reading = BufReader::new(reading.take(ANSWER_BYTES_MAX as u64 + 1));
    reading.read_until(b'\n', &mut answer).await?;
    if answer.last() == Some(&b'\n') {
        return Ok(answer);
    }
    let text = "it ended the connection before its answer was complete; it may be stopping";
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, text))
}
