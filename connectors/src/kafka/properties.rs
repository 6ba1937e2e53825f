//! Properties of librdkafka that a person has said: tried at librdkafka itself, without making a client.

use super::{KafkaSettings, NAME, topics::told};
use crate::ConnectorError;
use rdkafka::{
    ClientConfig,
    config::NativeClientConfig,
    error::KafkaError,
    types::RDKafkaConfRes::{RD_KAFKA_CONF_OK, RD_KAFKA_CONF_UNKNOWN},
};

/// Why librdkafka does not take a property, or nothing if it does. Never repeats the value, which may be a secret. Connects to nothing.
pub fn property_refused(name: &str, value: &str) -> Option<String> {
    let mut config = ClientConfig::new();
    config.set(name, value);
    match config.create_native_config() {
        Ok(_) => None,
        Err(KafkaError::ClientConfig(RD_KAFKA_CONF_UNKNOWN, ..)) => {
            let hint =
                nearest(name).map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            Some(format!("is no property that librdkafka knows{hint}"))
        }
        Err(error) => Some(format!("is refused by librdkafka: {}", told(&error))),
    }
}

impl KafkaSettings {
    /// Refuses what every client would be refused for.
    pub(super) fn check_properties(&self) -> Result<(), ConnectorError> {
        let refused = |(name, value): (&String, &String)| {
            let text = property_refused(name, value)?;
            Some(ConnectorError::Setting { connector: NAME, setting: name.clone(), text })
        };
        self.properties.iter().find_map(refused).map_or(Ok(()), Err)
    }
}

/// The name that was meant, where two letters next to each other have changed places, or one is too many.
fn nearest(name: &str) -> Option<String> {
    // Nobody writes a name that long, and librdkafka is asked for each.
    let letters: Vec<char> = name.chars().take(NAME_CHARS_MAX).collect();
    let native = ClientConfig::new().create_native_config().ok()?;
    let swapped = (1..letters.len()).map(|at| {
        let mut letters = letters.clone();
        letters.swap(at - 1, at);
        letters
    });
    let dropped = (0..letters.len()).map(|at| {
        let mut letters = letters.clone();
        letters.remove(at);
        letters
    });
    swapped.chain(dropped).map(String::from_iter).find(|name| is_known(&native, name))
}

/// Characters of an unknown name that are looked at for the one that was meant. The longest of librdkafka's has about forty.
const NAME_CHARS_MAX: usize = 64;

/// Whether librdkafka has a property of this name, whatever its value.
fn is_known(native: &NativeClientConfig, name: &str) -> bool {
    match native.get(name) {
        Ok(_) => true,
        Err(KafkaError::ClientConfig(code, ..)) => {
            !matches!(code, RD_KAFKA_CONF_UNKNOWN | RD_KAFKA_CONF_OK)
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::KafkaConnector;

    #[test]
    fn what_librdkafka_takes_is_taken_under_each_of_its_names() {
        for (name, value) in [
            ("linger.ms", "5"),
            ("queue.buffering.max.ms", "5"),
            ("socket.keepalive.enable", "true"),
        ] {
            assert_eq!(property_refused(name, value), None, "{name}");
        }
    }

    #[test]
    fn a_name_that_librdkafka_does_not_know_is_refused_with_the_one_that_was_meant() {
        for (name, meant) in [("lingre.ms", "linger.ms"), ("fetch.min.bytess", "fetch.min.bytes")] {
            let told = property_refused(name, "5").expect("nobody knows it");
            assert!(told.contains("no property that librdkafka knows"), "{told}");
            assert!(told.ends_with(&format!("did you mean `{meant}`?")), "{told}");
        }
        let told = property_refused("colour", "red").expect("nobody knows it");
        assert!(told.ends_with("librdkafka knows"), "{told}");
    }

    #[test]
    fn a_value_that_librdkafka_does_not_take_is_refused_without_repeating_it() {
        for (name, value) in
            [("linger.ms", "s3cret"), ("security.protocol", "s3cret"), ("linger.ms", "9999999999")]
        {
            let told = property_refused(name, value).expect("it is refused");
            assert!(told.contains("refused by librdkafka") && !told.contains(value), "{told}");
        }
        let mut settings = KafkaSettings::new("localhost:9092");
        settings.properties.insert("linger.ms".into(), "abc".into());
        let error = KafkaConnector::new(settings).expect_err("it is refused").to_string();
        assert!(error.contains("linger.ms") && error.contains("refused by librdkafka"), "{error}");
    }
}
