//! What a fuzzer asks of files of graphs.

use super::graph_file;
use dirigent_model::definition::Graph;

/// The graph that a file holds. What is none is told with its places.
pub(crate) fn graph(text: &str) -> Option<Graph> {
    match graph_file::parse(text) {
        Ok(graph) => Some(graph),
        Err(mistakes) => {
            assert!(!mistakes.is_empty(), "whatever is wrong has words");
            assert!(mistakes.iter().all(|mistake| !mistake.is_empty()));
            None
        }
    }
}
