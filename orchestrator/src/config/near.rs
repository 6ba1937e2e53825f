//! The nearest known word to one that is not known, for "did you mean".

/// The word that was most likely meant, if any is near enough to be worth a question.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let near_enough = (word.chars().count() / 3).max(1);
    let distances = known.into_iter().map(|known| {
        let last = known.rsplit('.').next().unwrap_or(known);
        // A key written outside its table is near, too.
        let distance =
            if last == word { 1 } else { strsim::osa_distance(&word, &known.to_lowercase()) };
        (distance, known)
    });
    distances
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= near_enough)
        .map(|(_, known)| known)
}

/// `; did you mean ...?`, or nothing.
pub(crate) fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, known).map_or_else(String::new, |near| format!("; did you mean `{near}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_finds_its_word_and_another_word_finds_none() {
        let known = ["broker", "data", "kafka.address"];
        assert_eq!(nearest("borker", known), Some("broker"));
        assert_eq!(nearest("dat", known), Some("data"));
        assert_eq!(nearest("address", known), Some("kafka.address"));
        assert_eq!(nearest("colour", known), None);
    }
}
