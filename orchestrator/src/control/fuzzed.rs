//! What a fuzzer asks of the control socket: a line goes in, and the line of an answer comes out.
//!
//! What must be true: a question is asked again as it was understood, and every answer can be read by who asked, within its bound.

use super::{
    answer::at_rest,
    protocol::{ANSWER_BYTES_MAX, Answer, Question},
    server::encode,
};
use crate::engine::Reader;

/// Answers a line where nobody runs. Whether it was a question.
pub(crate) fn question(line: &[u8], reader: &Reader) -> bool {
    let Ok(question) = serde_json::from_slice::<Question>(line) else { return false };
    let asked = serde_json::to_vec(&question).expect("texts and numbers are JSON");
    assert_eq!(serde_json::from_slice::<Question>(&asked).ok().as_ref(), Some(&question));
    let answer = at_rest(reader, question).unwrap_or_else(Answer::Refused);
    let line = encode(&answer).expect("what was read can be told");
    assert!(line.len() <= ANSWER_BYTES_MAX && line.ends_with(b"\n"));
    assert!(!line[..line.len() - 1].contains(&b'\n'), "an answer is one line");
    serde_json::from_slice::<Answer>(&line).expect("an answer can be read");
    true
}
